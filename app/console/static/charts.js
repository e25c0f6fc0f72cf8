// Every chart of the console. Plot and d3 are the files beside this one; colours are the page's own.
import { el, decimal, short } from "./page.js";

const WIDEST = 1080;
const NARROWEST = 300;
const LETTER = 6.6;

const ACCENT = "var(--accent)";
const SOFT = "var(--soft)";
const STYLE = { background: "none", color: "inherit", fontSize: "13px", fontFamily: "inherit" };
const COLOURS = ["var(--c1)", "var(--c2)", "var(--c3)", "var(--c4)", "var(--c5)", "var(--c6)", "var(--c7)", "var(--c8)"];

// As wide as the page lets it be; charts that stand side by side are half of that.
const room = () => Math.max(NARROWEST, Math.min(WIDEST, document.getElementById("view").clientWidth - 40));
const half = () => Math.max(NARROWEST, Math.min(520, room()));

function draw(label, options) {
  const chart = globalThis.Plot.plot({ width: half(), marginBottom: 42, style: STYLE, className: "chart", ...options });
  // The page's policy refuses inline styles; console.css has what these say.
  for (const style of chart.querySelectorAll("style")) style.remove();
  // The chart as a whole is named below; names of groups inside an image are not for assistive technology.
  for (const group of chart.querySelectorAll("g[aria-label]")) group.removeAttribute("aria-label");
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", label);
  return chart;
}

export const nothing = (text) => el("p", { class: "soft" }, text);

export function sparkline(buckets) {
  const { Plot } = globalThis;
  const total = buckets.reduce((sum, one) => sum + one.n_preferences, 0);
  return draw(`${total} preferences`, {
    width: 160, height: 32, margin: 2, axis: null,
    marks: [
      Plot.areaY(buckets, { x: (one) => new Date(one.start), y: "n_preferences", fill: ACCENT, fillOpacity: 0.25 }),
      Plot.lineY(buckets, { x: (one) => new Date(one.start), y: "n_preferences", stroke: ACCENT }),
    ],
  });
}

export function activityChart({ buckets, bucket_seconds: width }) {
  const { Plot } = globalThis;
  const end = (one) => new Date(new Date(one.start).getTime() + 1000 * width);
  return draw("Preferences recorded over time", {
    width: room(), height: 180, marginLeft: 55, x: { type: "time", label: null }, y: { label: "preferences", grid: true },
    marks: [
      Plot.rectY(buckets, { x1: (one) => new Date(one.start), x2: end, y: "n_preferences", fill: ACCENT }),
      Plot.ruleY([0], { stroke: SOFT }),
    ],
  });
}

export function spectrumChart(values, rank) {
  const { Plot } = globalThis;
  const bars = values.map((value, index) => ({ direction: index + 1, value, kept: index < rank }));
  return draw(`Singular values of the ${values.length} directions`, {
    height: 220, marginLeft: 50, x: { label: "direction" }, y: { label: "singular value, log-odds", grid: true },
    marks: [
      Plot.barY(bars, { x: "direction", y: "value", fill: (one) => (one.kept ? ACCENT : SOFT) }),
      Plot.ruleY([0], { stroke: SOFT }),
    ],
  });
}

export function trialsChart(trials, rank) {
  const { Plot } = globalThis;
  const best = [...globalThis.d3.rollup(trials, (all) => Math.min(...all.map((one) => one.log_loss)), (one) => one.rank)]
    .map(([tried, log_loss]) => ({ tried, log_loss })).sort((a, b) => a.tried - b.tried);
  return draw("Held-out log-loss by rank", {
    height: 220, marginLeft: 55, x: { type: "point", label: "rank" }, y: { label: "held-out log-loss, nats", grid: true, zero: false },
    marks: [
      Plot.lineY(best, { x: "tried", y: "log_loss", stroke: ACCENT }),
      Plot.dot(best, { x: "tried", y: "log_loss", r: 5, fill: (one) => (one.tried === rank ? ACCENT : "var(--paper)"), stroke: ACCENT }),
    ],
  });
}

// One line a model, over versions: [{version, model, value, error?}].
export function versionsChart(label, points, { zero = false } = {}) {
  const { Plot } = globalThis;
  const models = [...new Set(points.map((one) => one.model))];
  return draw(label, {
    height: 220, marginLeft: 55, color: { domain: models, range: COLOURS, legend: models.length > 1 },
    x: { type: "point", label: "model version" }, y: { label, grid: true, zero, nice: true },
    marks: [
      Plot.ruleX(points.filter((one) => one.error), { x: "version", y1: (one) => one.value - one.error, y2: (one) => one.value + one.error, stroke: "model" }),
      Plot.lineY(points, { x: "version", y: "value", stroke: "model", z: "model" }),
      Plot.dot(points, { x: "version", y: "value", fill: "model", r: 4 }),
    ],
  });
}

// Rewards with intervals, beside the population's: [{name, reward, lower, upper, population?}].
export function rankingChart(rows) {
  const { Plot } = globalThis;
  const { width, names } = named(rows);
  const others = rows.filter((one) => typeof one.population === "number");
  const y = (one) => names.get(one);
  return draw(`Ranking: ${rows.map((one) => `${one.name} ${decimal(one.reward, 2)}`).join(", ")}`, {
    ...width, height: 60 + 26 * rows.length, x: { label: "reward, log-odds against the reference", grid: true },
    y: { label: null, domain: [...names.values()], tickSize: 0 },
    marks: [
      Plot.ruleX([0], { stroke: SOFT, strokeDasharray: "3 3" }),
      Plot.ruleY(rows, { y, x1: "lower", x2: "upper", stroke: ACCENT, strokeWidth: 2 }),
      Plot.dot(others, { y, x: "population", symbol: "diamond", stroke: SOFT, fill: "var(--paper)", r: 4 }),
      Plot.dot(rows, { y, x: "reward", fill: ACCENT, r: 4, title: (one) => one.name }),
    ],
  });
}

export function movesChart(rows) {
  const { Plot } = globalThis;
  const { width, names } = named(rows);
  return draw("Change of rewards against the population", {
    ...width, height: 60 + 26 * rows.length, x: { label: "reward less the population's, log-odds", grid: true },
    y: { label: null, domain: [...names.values()], tickSize: 0 },
    marks: [
      Plot.barX(rows, { y: (one) => names.get(one), x: "move", fill: (one) => (one.move > 0 ? "var(--c1)" : "var(--c2)"), title: "name" }),
      Plot.ruleX([0], { stroke: SOFT }),
    ],
  });
}

// Room for the rows' names, each made unlike the others by its place.
function named(rows) {
  const width = room();
  const longest = Math.max(...rows.map((one) => one.name.length)) + 5;
  const marginLeft = Math.min(longest * LETTER, 0.5 * width);
  const letters = Math.floor(marginLeft / LETTER) - 4;
  return { width: { width, marginLeft, marginRight: 20 }, names: new Map(rows.map((one, index) => [one, `${index + 1}. ${short(one.name, letters)}`])) };
}

// What a policy does, a bar of probabilities for each state and step.
export function policyChart({ states, actions, policy }, steps, shown) {
  const { Plot } = globalThis;
  const cells = steps.flatMap((step) => shown.flatMap((state) =>
    actions.map((action, index) => ({ step: `step ${step}`, state: states[state], action, probability: policy[step][state][index] }))));
  return draw("Probability of each action, by state and step", {
    width: room(), height: 60 + 44 * shown.length, marginLeft: 110, marginRight: 10,
    color: { domain: actions, range: COLOURS, legend: true },
    fx: { label: null, domain: steps.map((step) => `step ${step}`) }, fy: { label: null, domain: shown.map((state) => states[state]), axis: "left" },
    x: { axis: null, domain: [0, 1] },
    marks: [
      Plot.barX(cells, { fx: "step", fy: "state", x: "probability", fill: "action", insetTop: 4, insetBottom: 4,
        title: (one) => `${one.state}, ${one.step}: ${one.action} ${(100 * one.probability).toFixed(1)}%` }),
    ],
  });
}
