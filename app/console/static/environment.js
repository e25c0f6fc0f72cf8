// One environment: what its model is like, its refits as they go, its versions, its users.
import { adminPath, call, environmentPath, follow, optional } from "./api.js";
import { activityChart, nothing, spectrumChart, trialsChart, versionsChart } from "./charts.js";
import { confirmed, count, decimal, el, fact, facts, figure, percent, section, table, when } from "./page.js";
import { modelFacts } from "./overview.js";

const RUNNING = new Set(["queued", "running"]);
const NAMES = { new: "P-ShareLoRA", global: "one for everybody", per_user: "one a user", current: "the version before" };

export async function showEnvironment(context) {
  const { name, page } = context;
  const [environment, versions, said, refits] = await Promise.all([
    call(environmentPath(name)),
    optional(`${adminPath(name)}/models`),
    call(`${environmentPath(name)}/activity?span=day`),
    optional(`${adminPath(name)}/refits?limit=5`),
  ]);
  const models = versions?.models ?? [];
  const model = models.find((one) => one.version === environment.model_version);
  const refitted = el("div");
  page.append(
    el("h1", {}, name),
    facts(
      fact("Users", count(environment.n_users), "", "Users with at least one preference."),
      fact("Preferences", count(environment.n_preferences), "", "Pairwise choices stored."),
      environment.kind === "catalog"
        ? fact("Items", count(environment.n_items), "", "Options of the catalogue.")
        : fact("Size", `${environment.definition.states.length} states, ${environment.definition.actions.length} actions`, `${environment.definition.horizon} steps`, "A finite-horizon decision process."),
    ),
    ...(environment.kind === "catalog" && environment.model_version
      ? [el("p", {}, el("a", { class: "button", href: `#/try/${encodeURIComponent(name)}` }, "Try it: answer pairs and watch a ranking form"))] : []),
    section("Refit", refitted),
    section("Model", ...(model ? [modelFacts(model), ...charts(model, models)] : [nothing("No model is published yet, or the key may not see it (scope admin).")])),
    ...(models.length ? [section("Versions", versionTable(context, models))] : []),
    section("Feedback", figure("Preferences recorded in each quarter of an hour of the last day.", activityChart(said))),
    section("Users", await userSearch(context)),
  );
  if (refits) showRefits(context, refitted, refits.refits);
  else refitted.append(nothing("Refits are for keys with the scope admin."));
}

function charts(model, models) {
  const d = model.diagnostics;
  const old = [...models].reverse();
  const series = (field, error) => old.flatMap((one) => Object.entries(NAMES)
    .filter(([key]) => key !== "current" && typeof one.metrics[key]?.[field] === "number")
    .map(([key, label]) => ({ version: one.version, model: label, value: one.metrics[key][field], error: error && one.metrics[key][error] })));
  const drift = old.filter((one) => typeof one.diagnostics.distance_to_previous === "number")
    .map((one) => ({ version: one.version, model: "drift", value: one.diagnostics.distance_to_previous }));
  const numbers = (points, unit) => table(`By version, ${unit}`, ["#Version", "Model", "#Value"], points.map((one) => ({ cells: [one.version, one.model, decimal(one.value)] })));
  const shown = [];
  if (d.singular_values?.length) {
    shown.push(figure(`Spectrum: how strongly users differ along each direction. The model keeps the first ${d.rank}; grey ones are left out.`,
      spectrumChart(d.singular_values, d.rank),
      table("Singular values", ["#Direction", "#Singular value, log-odds"], d.singular_values.map((value, i) => ({ cells: [i + 1, decimal(value)] })))));
  }
  if (new Set((d.trials ?? []).map((one) => one.rank)).size > 1) {
    shown.push(figure(`Choosing the rank: held-out log-loss of each rank that was tried, lower is better. Filled: the one that was chosen, ${d.rank}.`,
      trialsChart(d.trials, d.rank),
      table("Trials", ["#Rank", "#Dependence", "#Log-loss, nats"], d.trials.map((one) => ({ cells: [one.rank, one.dependence, decimal(one.log_loss, 4)] })))));
  }
  for (const [field, error, caption, unit] of [
    ["log_loss", "log_loss_stderr", "Held-out log-loss by version, lower is better; bars are one standard error.", "log-loss, nats"],
    ["accuracy", null, "Held-out accuracy by version.", "accuracy"],
    ["ece", null, "Calibration error by version: how far stated probabilities are from observed shares.", "ECE, probability"],
  ]) {
    const points = series(field, error);
    if (points.length) shown.push(figure(caption, versionsChart(unit, points), numbers(points, unit)));
  }
  shown.push(drift.length
    ? figure("Drift: principal angle distance of each version's subspace from the one before; 0 is the same subspace.", versionsChart("distance", drift, { zero: true }), numbers(drift, "distance"))
    : nothing("Drift is shown from the second version of the same rank on."));
  return [el("div", { class: "charts" }, ...shown)];
}

function versionTable(context, models) {
  const heads = ["#Version", "Status", "Made", "#Rank", "#Users", "#Preferences", "#Accuracy", "#Log-loss, nats", "Why", ""];
  return table("Model versions, newest first", heads, models.map((model) => ({
    cells: [model.version, model.status, when(model.created_at), model.rank, count(model.n_users), count(model.n_preferences),
      percent(model.metrics.new?.accuracy, 1), decimal(model.metrics.new?.log_loss), model.reason, promoteButton(context, model, models)],
  })));
}

function promoteButton({ name, attempt }, model, models) {
  if (model.status === "published") return "served now";
  const current = models.find((one) => one.status === "published");
  const verb = current && model.version < current.version ? "Roll back to" : "Promote";
  return confirmed(`${verb} version ${model.version}`, `Serve version ${model.version} of ${name} from now on?`, () => attempt(async () => {
    await call(`${adminPath(name)}/models/${model.version}/promote`, { method: "POST" });
    dispatchEvent(new Event("hashchange"));
  }));
}

function showRefits(context, place, refits) {
  const { name, attempt } = context;
  const running = refits.find((refit) => RUNNING.has(refit.state));
  const live = el("div", { role: "status" });
  const buttons = el("p", {}, el("button", {
    type: "button",
    onclick: () => attempt(async () => {
      const refit = await call(`${adminPath(name)}/retrain`, { method: "POST" });
      await watch(context, live, refit);
    }),
  }, "Retrain now"));
  place.append(buttons, live, table("The last refits", ["Asked for", "By", "State", "Attempt", "Outcome"], refits.map((refit) => ({
    cells: [when(refit.created_at), refit.reason, refit.state, refit.attempt, refit.error ?? (refit.model_version ? `version ${refit.model_version}` : "")],
  }))));
  if (running) attempt(() => watch(context, live, running));
}

// The refit as it goes; when it has ended the page is shown anew.
async function watch({ attempt, signal }, place, refit) {
  const bar = el("progress", { max: 1, value: 0, "aria-label": "Progress of the refit" });
  const text = el("span", { class: "phase" });
  const cancel = el("button", { type: "button", onclick: () => attempt(() => call(`/v1/admin/refits/${refit.id}/cancel`, { method: "POST" })) }, "Cancel the refit");
  place.replaceChildren(bar, " ", text, " ", cancel);
  for await (const now of follow(`/v1/admin/refits/${refit.id}/events`, signal)) {
    bar.value = now.progress;
    text.textContent = `${now.state}: ${now.phase}, ${percent(now.progress)}${now.cancel_requested ? ", cancellation asked for" : ""}`;
    if (!RUNNING.has(now.state)) {
      place.replaceChildren(el("p", {}, `The refit has ended: ${now.error ?? now.state}.`));
      if (now.state === "succeeded") dispatchEvent(new Event("hashchange"));
      return;
    }
  }
}

async function userSearch({ name, attempt }) {
  const found = el("div");
  const show = async (text) => {
    const { users } = await call(`${environmentPath(name)}/users?limit=20&starting_with=${encodeURIComponent(text)}`);
    found.replaceChildren(users.length
      ? table("Users, by id", ["User", "#Preferences", "Last heard of"], users.map((one) => ({
        cells: [el("a", { href: `#/environments/${encodeURIComponent(name)}/users/${encodeURIComponent(one.user)}` }, one.user), count(one.feedback_count), when(one.last_at)],
      })))
      : el("p", {}, "Nobody with preferences has such an id; an unknown user is served the population's answers."));
  };
  const input = el("input", { autocomplete: "off", pattern: "[A-Za-z0-9._~:@\\-]{0,128}", oninput: () => input.checkValidity() && attempt(() => show(input.value)) });
  const form = el("form", {
    onsubmit: (event) => {
      event.preventDefault();
      if (input.value) location.hash = `#/environments/${encodeURIComponent(name)}/users/${encodeURIComponent(input.value)}`;
    },
  }, el("label", {}, "A user's id begins with ", input), el("button", {}, "Open this user"));
  await show("");
  return el("div", {}, form, found);
}
