// A person answers pairs, and watches their own ranking form.
import { call, environmentPath, titles, userPath } from "./api.js";
import { nothing, rankingChart } from "./charts.js";
import { confirmed, el, section } from "./page.js";
import { optionText } from "./user.js";

const ENOUGH = 10;
const SHOWN = 10;

export async function showTry({ name, page, attempt, signal }) {
  const [environment, names] = await Promise.all([call(environmentPath(name)), titles(name)]);
  page.append(el("h1", {}, "Try it"));
  if (!environment.n_items || !environment.model_version) {
    page.append(nothing("This needs a catalogue with items and a published model."));
    return;
  }
  const visit = { name, names, user: `visitor-${crypto.randomUUID?.().slice(0, 8) ?? Math.random().toString(36).slice(2, 10)}`, answers: 0, pairs: [] };
  const simulated = name.includes("simulated");
  const place = el("div", { class: "pair", "aria-live": "polite" });
  const ranking = el("div");
  page.append(
    el("p", {}, `Answer up to ${ENOUGH} pairs as yourself. Each one is the pair whose answer would teach most about you, and the ranking below is yours after every answer. `,
      "Keys: ← and → choose, ↓ when you can't say."),
    ...(simulated ? [el("p", { class: "note" }, "The other users here are simulated: their answers were drawn from a model, nobody gave them. Yours are real.")] : []),
    el("p", { class: "soft" }, `You are ${visit.user}. `,
      confirmed("Forget my answers", "Erase everything you answered here?", () => attempt(() => forget(visit, place, ranking)))),
    place, section("Your ranking", ranking));
  addEventListener("keydown", (event) => {
    const side = { ArrowLeft: 1, ArrowRight: 0, ArrowDown: 0.5 }[event.key];
    if (side === undefined || event.target.closest("input, dialog") || place.getAttribute("aria-busy") === "true" || !visit.pair) return;
    event.preventDefault();
    attempt(() => answer(visit, place, ranking, side));
  }, { signal });
  await showRanking(visit, ranking);
  await ask(visit, place, ranking, attempt);
  visit.attempt = attempt;
}

async function ask(visit, place, ranking, attempt) {
  const { queries } = await call(`${userPath(visit.name, visit.user)}/queries?n=1`);
  visit.pair = queries[0];
  if (!visit.pair) {
    place.replaceChildren(el("p", {}, "There is no pair left that you have not answered."));
    return;
  }
  const card = (option, side, key) => el("button", {
    type: "button", class: "card",
    onclick: () => attempt(() => answer(visit, place, ranking, side)),
  }, optionText(option, visit.names), el("span", { class: "soft" }, key));
  place.replaceChildren(
    el("p", { class: "count" }, visit.answers < ENOUGH ? `Question ${visit.answers + 1} of ${ENOUGH}: which would you rather have?` : `${visit.answers} answers. One more?`),
    card(visit.pair.first, 1, "← this"), card(visit.pair.second, 0, "this →"),
    el("button", { type: "button", class: "neither", onclick: () => attempt(() => answer(visit, place, ranking, 0.5)) }, "↓ I can't say"));
  place.setAttribute("aria-busy", "false");
}

async function answer(visit, place, ranking, label) {
  place.setAttribute("aria-busy", "true");
  try {
    const said = { id: `${visit.user}-${visit.answers}`, user: visit.user, label, chosen: visit.pair.first, rejected: visit.pair.second };
    await call(`${environmentPath(visit.name)}/preferences`, { method: "POST", body: said });
    visit.answers += 1;
    await showRanking(visit, ranking);
    await ask(visit, place, ranking, visit.attempt);
  } finally {
    place.setAttribute("aria-busy", "false");
  }
}

async function showRanking({ name, names, user, answers }, place) {
  const found = await call(`${userPath(name, user)}/rank`, { method: "POST", body: { top_n: SHOWN } });
  const rows = found.options.map((one) => ({ ...one, name: names.get(one.option.item) ?? one.option.item }));
  place.replaceChildren(
    el("p", { class: "soft" }, answers
      ? `Rests on ${found.feedback_seen} of your own answers, at model version ${found.model_version}, without any refit. Dots are your rewards in log-odds against the mean item; the bars are how sure the service is.`
      : "Before your first answer: the population's ranking, with wide bars, because nothing is known of you."),
    rankingChart(rows));
}

async function forget(visit, place, ranking) {
  await call(userPath(visit.name, visit.user), { method: "DELETE" });
  visit.answers = 0;
  await showRanking(visit, ranking);
  await ask(visit, place, ranking, visit.attempt);
}
