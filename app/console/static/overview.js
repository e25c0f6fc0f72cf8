// All environments at one look.
import { adminPath, call, environmentPath, optional } from "./api.js";
import { nothing, sparkline } from "./charts.js";
import { age, count, decimal, el, fact, facts, percent, signed, table } from "./page.js";

const path = (name) => `#/environments/${encodeURIComponent(name)}`;

async function described(environment) {
  const [said, versions] = await Promise.all([
    call(`${environmentPath(environment.name)}/activity?span=day`),
    optional(`${adminPath(environment.name)}/models`),
  ]);
  const model = versions?.models.find((one) => one.version === environment.model_version);
  return { environment, said, model };
}

// How much better than one model for everybody, on comparisons that were held out.
export function lift(metrics) {
  const { new: own, global: all, new_minus_global: difference } = metrics ?? {};
  if (!own || !all) return null;
  return { accuracy: own.accuracy - all.accuracy, gain: difference ? -difference.log_loss : all.log_loss - own.log_loss, error: difference?.stderr };
}

function liftText(model) {
  const found = model && lift(model.metrics);
  return found ? `${signed(100 * found.accuracy, 1)} points, ${signed(found.gain, 3)} nats` : "not measured";
}

export async function showOverview({ page }) {
  const { environments } = await call("/v1/environments");
  page.append(el("h1", {}, "Overview"));
  if (!environments.length) {
    page.append(nothing("No environments yet. Define one by PUT /v1/environments/{name}, or run psharelora demo."));
    return;
  }
  const all = await Promise.all(environments.map(described));
  const total = (name) => environments.reduce((sum, one) => sum + one[name], 0);
  const lastHour = all.reduce((sum, { said }) => sum + said.buckets.slice(-4).reduce((n, one) => n + one.n_preferences, 0), 0);
  page.append(
    facts(
      fact("Environments", count(environments.length), "", "Decision problems that users are asked about: catalogues and decision processes."),
      fact("Users", count(total("n_users")), "", "Users with at least one preference, summed over the environments."),
      fact("Preferences", count(total("n_preferences")), "", "Pairwise choices stored; a refit learns from all of them."),
      fact("Feedback now", count(lastHour), "in the last hour", "Preferences recorded in the last four quarters of an hour."),
    ),
    table("Environments", ["Environment", "Kind", "#Users", "#Preferences", "Last 24 hours", "Model", "Lift over one model for everybody", ""],
      all.map(({ environment, said, model }) => ({
        cells: [
          el("a", { href: path(environment.name) }, environment.name), environment.kind === "mdp" ? "decision process" : "catalogue",
          count(environment.n_users), count(environment.n_preferences), sparkline(said.buckets),
          environment.model_version ? `version ${environment.model_version}${model ? `, ${age(model.published_at)} old` : ""}` : "none yet",
          liftText(model),
          environment.n_items && environment.model_version ? el("a", { href: `#/try/${encodeURIComponent(environment.name)}` }, "Try it") : "",
        ],
      }))),
    el("p", { class: "soft" }, "Lift: accuracy in percentage points, and log-loss in nats a comparison, that the personal model gains over one model ",
      "for everybody on comparisons that were held out of the fit. Above 0 is better."),
  );
}

export function modelFacts(model) {
  const d = model.diagnostics;
  const own = model.metrics.new;
  const found = lift(model.metrics);
  return facts(
    fact("Model", `version ${model.version}`, `${age(model.published_at ?? model.created_at)} old`, `${model.reason}`),
    fact("Held-out accuracy", percent(own?.accuracy, 1), "", "Share of held-out comparisons of which the model tells the chosen side."),
    fact("Held-out log-loss", decimal(own?.log_loss), "nats", "Mean surprise at a held-out choice; a coin has 0.693, lower is better."),
    fact("Lift", signed(found?.gain, 3), "nats", `Log-loss that one model for everybody has more${found?.error ? `, with a standard error of ${decimal(found.error)}` : ""}.`),
    fact("Calibration error", decimal(own?.ece), "probability", "How far stated probabilities are from observed shares, on average (ECE); 0 is perfect."),
    fact("Rank", count(d.rank ?? model.rank), "directions", `Users differ along so many: ${d.rank_reason || "as was asked for"}.`),
    ...(d.residual ? [fact("Residual", decimal(d.residual), "log-odds", "How far each user differs by themselves along every other direction of the features.")] : []),
    fact("nu", decimal(d.nu, 4), "log-odds squared", "Strength of the weakest direction kept (Def. 4.1): large when users differ along few shared directions."),
    fact("Tail energy", decimal(d.tail_energy, 4), "log-odds squared", "How users differ beyond the rank, in all: what the shared directions leave out."),
    fact("Drift", decimal(d.distance_to_previous), "of at most √rank", "Principal angle distance from the version before: 0 is the same subspace."),
    fact("Coverage", percent(d.coverage, 1), "before calibration", "Share of simulated users' true rewards inside their 95% intervals, before the standard errors were multiplied by the next number."),
    fact("Standard errors times", decimal(d.inflation, 2), "", "What a bootstrap found missing from the standard errors: with it, 95% intervals cover 95% of the simulated rewards."),
  );
}
