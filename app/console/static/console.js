import { el, svg, table } from "./page.js";

const POLL_MILLISECONDS = 2000;
const $ = (id) => document.getElementById(id);
let current = null;
let timer = null;

async function call(path, { method = "GET", body } = {}) {
  const headers = {};
  const key = sessionStorage.getItem("psharelora-key");
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(answer.detail ?? response.statusText);
  return answer;
}

// Every deed of the page goes through here: a problem is shown, and the next success clears it.
async function attempt(deed) {
  try {
    await deed();
    $("problem").textContent = "";
  } catch (error) {
    $("problem").textContent = error.message;
  }
}

const environmentPath = () => `/v1/environments/${encodeURIComponent(current.name)}`;
const adminPath = () => `/v1/admin/environments/${encodeURIComponent(current.name)}`;
const when = (time) => (time ? new Date(time).toLocaleString() : "");
const decimal = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "");

async function showEnvironments() {
  const { environments } = await call("/v1/environments");
  const rows = environments.map((one) => ({
    attributes: { "aria-current": String(current?.name === one.name) },
    cells: [
      el("button", { type: "button", onclick: () => attempt(() => choose(one)) }, one.name),
      one.kind, one.n_users, one.n_preferences, one.n_items, one.model_version ?? "none",
    ],
  }));
  const heads = ["Environment", "Kind", "#Users", "#Preferences", "#Items", "#Model"];
  const nothing = el("p", { class: "soft" }, "No environments yet: define one by PUT /v1/environments/{name}.");
  $("environments").replaceChildren(rows.length ? table("Environments", heads, rows) : nothing);
}

async function choose(environment) {
  current = environment;
  $("environment").hidden = false;
  $("environment-name").textContent = environment.name;
  $("environment-name").focus();
  $("ranking").replaceChildren();
  $("retrained").textContent = "";
  $("user-form").hidden = environment.kind !== "catalog";
  await showEnvironments();
  await showEnvironment();
}

async function showEnvironment() {
  clearTimeout(timer);
  const shown = current;
  const [{ refits }, { models }] = await Promise.all([call(`${adminPath()}/refits?limit=5`), call(`${adminPath()}/models`)]);
  if (shown !== current) return;
  $("refits").replaceChildren(refitTable(refits));
  $("models").replaceChildren(modelTable(models));
  if (refits.some((refit) => refit.state === "queued" || refit.state === "running")) {
    timer = setTimeout(() => attempt(showEnvironment), POLL_MILLISECONDS);
  } else if (models.length && models[0].version > (current.model_version ?? 0)) {
    current.model_version = models[0].version;
    await showEnvironments();
  }
}

function refitTable(refits) {
  return table("Refits", ["Asked for", "State", "Phase", "Progress", ""], refits.map((refit) => ({
    cells: [
      when(refit.created_at), refit.state, refit.phase,
      el("progress", { max: 1, value: refit.progress, "aria-label": `${Math.round(refit.progress * 100)} percent` }),
      refit.error ?? (refit.model_version ? `version ${refit.model_version}` : ""),
    ],
  })));
}

function modelTable(models) {
  const heads = ["#Version", "Status", "Made", "#Rank", "#Users", "#Preferences", "Held-out accuracy and log-loss", "Why"];
  return table("Model versions", heads, models.map((model) => ({
    cells: [model.version, model.status, when(model.created_at), model.rank, model.n_users, model.n_preferences,
      metricList(model.metrics), model.reason],
  })));
}

function metricList(metrics) {
  const scored = Object.entries(metrics).filter(([, score]) => typeof score?.accuracy === "number");
  return el("div", {}, ...scored.map(([method, score]) =>
    el("div", {}, `${method.replaceAll("_", " ")}: ${decimal(score.accuracy)}, ${decimal(score.log_loss)}`)));
}

async function showRanking(user) {
  const answer = await call(`${environmentPath()}/users/${encodeURIComponent(user)}/rank`, { method: "POST", body: { top_n: 20 } });
  const seen = `Model version ${answer.model_version}; rests on ${answer.feedback_seen} of this user's own preferences. ` +
    "Log-odds against the mean item, with confidence intervals; the dashed line is the reference.";
  $("ranking").replaceChildren(el("p", { class: "soft" }, seen), rankingChart(answer.options));
}

function rankingChart(ranking) {
  const [left, right, step] = [240, 620, 26];
  const low = Math.min(0, ...ranking.map((one) => one.lower));
  const high = Math.max(0, ...ranking.map((one) => one.upper));
  const x = (value) => left + 10 + ((value - low) / (high - low || 1)) * (right - left - 20);
  const described = ranking.map((one) => `${one.option.item}: ${decimal(one.reward, 2)}`).join(", ");
  const chart = svg("svg", { viewBox: `0 0 720 ${ranking.length * step + 10}`, role: "img", "aria-label": `Ranking. ${described}` });
  chart.append(svg("line", { class: "reference", x1: x(0), x2: x(0), y1: 0, y2: ranking.length * step + 10 }));
  ranking.forEach((one, index) => {
    const y = index * step + 18;
    const name = one.option.item;
    chart.append(
      svg("text", { x: 0, y: y + 4 }, `${index + 1}. ${name.length > 32 ? `${name.slice(0, 31)}…` : name}`),
      svg("line", { class: "interval", x1: x(one.lower), x2: x(one.upper), y1: y, y2: y }),
      svg("circle", { class: "mean", cx: x(one.reward), cy: y, r: 4 }),
      svg("text", { x: right + 10, y: y + 4 }, decimal(one.reward, 2)));
  });
  return chart;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("psharelora-key", $("key").value.trim());
  attempt(showEnvironments);
});
$("retrain-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const { joined } = await call(`${adminPath()}/retrain`, { method: "POST" });
    $("retrained").textContent = joined ? "One was waiting already." : "Asked for.";
    await showEnvironment();
  });
});
$("user-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(() => showRanking($("user").value.trim()));
});

$("key").value = sessionStorage.getItem("psharelora-key") ?? "";
attempt(showEnvironments);
