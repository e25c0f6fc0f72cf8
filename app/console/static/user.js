// One user: what they said, how they rank, what to do for them, what to ask them next.
import { call, environmentPath, optional, titles, userPath } from "./api.js";
import { movesChart, nothing, policyChart, rankingChart } from "./charts.js";
import { count, decimal, el, fact, facts, figure, percent, section, signed, table, when } from "./page.js";

const SHOWN = 15;
const MOVES = 8;
const NEWEST = 20;
const NOBODY = "nobody.has.this.id";
const MOST_STEPS = 8;
const MOST_STATES = 12;

export async function showUser({ name, user, page }) {
  const environment = await call(environmentPath(name));
  const [known, said] = await Promise.all([call(userPath(name, user)), call(`${userPath(name, user)}/export?format=json`)]);
  const names = environment.kind === "catalog" ? await titles(name) : steps(environment.definition);
  page.append(
    el("h1", {}, user),
    facts(
      fact("Preferences", count(known.feedback_count), "", known.feedback_count ? `Of this user; the last one ${when(known.last_at)}.` : "Nothing is known of this user, who is served the population's answers."),
      fact("Model", known.model_version ? `version ${known.model_version}` : "none", "", "The published model, with this user's newest answers folded in."),
    ),
  );
  if (known.model_version && environment.kind === "catalog") await catalogue(page, environment, user, names);
  if (known.model_version && environment.kind === "mdp") await robustPolicy(page, name, user);
  if (known.model_version) await questions(page, name, user, names);
  page.append(section("What they said", comparisons(said.preferences, names)));
}

// What a trajectory's numbers stand for, as `state,action`.
function steps({ states, actions }) {
  return new Map(states.flatMap((state, s) => actions.map((action, a) => [`${s},${a}`, `${action} when ${state}`])));
}

export function optionText(option, names) {
  if (option.item !== undefined) return names.get(option.item) ?? option.item;
  if (option.text !== undefined) return option.text;
  if (option.trajectory !== undefined) return option.trajectory.map((step) => names.get(String(step)) ?? `${step[1]} when ${step[0]}`).join(", ");
  return `features ${option.features.map((x) => decimal(x, 2)).join(", ")}`;
}

async function catalogue(page, { name, n_items: items }, user, names) {
  if (!items) {
    page.append(section("Ranking", nothing("This environment has no items of its own; POST .../rewards values what you send.")));
    return;
  }
  const [own, population] = await Promise.all([user, NOBODY].map((one) => call(`${userPath(name, one)}/rank`, { method: "POST", body: {} })));
  const others = new Map(population.options.map((one) => [one.option.item, one.reward]));
  const rows = own.options.map((one) => ({ ...one, name: names.get(one.option.item) ?? one.option.item, population: others.get(one.option.item) }));
  page.append(section("Ranking", figure(
    `The ${Math.min(SHOWN, rows.length)} best of ${count(rows.length)} items. Dots: this user's reward in log-odds, 0 is no better than the mean item, with confidence intervals. Diamonds: the population's.`,
    rankingChart(rows.slice(0, SHOWN)),
    table("Rewards in log-odds", ["#Place", "Item", "#Reward", "#Standard error", "#Lower", "#Upper", "#Population"], rows.slice(0, SHOWN).map((one, i) => ({
      cells: [i + 1, one.name, decimal(one.reward, 2), decimal(one.stderr, 2), decimal(one.lower, 2), decimal(one.upper, 2), decimal(one.population, 2)],
    }))))));
  const moves = rows.map((one) => ({ name: one.name, move: one.reward - one.population })).sort((a, b) => Math.abs(b.move) - Math.abs(a.move)).slice(0, MOVES);
  const blame = await explanation(name, user, rows[0].option, names);
  page.append(section("What changed it", ...(own.feedback_seen
    ? [figure("The items whose reward this user's answers moved furthest from the population's, in log-odds.", movesChart(moves),
      table("Moves in log-odds", ["Item", "#Move"], moves.map((one) => ({ cells: [one.name, signed(one.move)] })))), ...blame]
    : [nothing("Nothing yet: this is the population's ranking.")])));
}

// Which of their own answers moved their favourite most, and where they stand out.
async function explanation(name, user, option, names) {
  const found = await optional(`${userPath(name, user)}/explain?item=${encodeURIComponent(option.item)}`);
  if (!found) return [];
  const list = (options) => options.map((one) => optionText(one, names)).join("; ");
  return [
    table(`Which answers moved their favourite most (${optionText(option, names)})`, ["They preferred", "Over", "#Moved it by, log-odds"],
      found.comparisons.map((one) => ({ cells: [optionText(one.chosen, names), optionText(one.rejected, names), signed(one.moved)] }))),
    table("Where they stand out", ["#Direction", "#Place, standard deviations", "#Further out than", "They like more", "They like less"],
      found.directions.map((one) => ({ cells: [one.direction, signed(one.position), percent(one.beyond), list(one.towards), list(one.away)] }))),
  ];
}

async function robustPolicy(page, name, user) {
  const plan = await call(`${userPath(name, user)}/policy`);
  const steps = plan.policy.slice(0, MOST_STEPS).map((_, step) => step);
  const states = plan.states.slice(0, MOST_STATES).map((_, state) => state);
  const left = plan.policy.length > steps.length || plan.states.length > states.length ? " Only the first steps and states are drawn." : "";
  page.append(section("Robust policy",
    facts(
      fact("Certainly worth", signed(plan.lower, 3), "log-odds", `More than the reference policy over the whole horizon, at ${percent(plan.confidence)} confidence.`),
      fact("At most", signed(plan.upper, 3), "log-odds", `No policy's worst case is better; the gap of ${plan.gap.toExponential(1)} is the certificate.`),
      fact("Expected", signed(plan.nominal, 3), "log-odds", `What it is worth at the estimated rewards; trusting the estimate alone would be worth ${signed(plan.greedy_nominal, 3)}, and ${signed(plan.greedy_lower, 3)} in its worst case.`),
    ),
    figure(`What the policy does in each state at each step: the widths are probabilities.${left}`, policyChart(plan, steps, states),
      table("Likeliest action", ["State", ...steps.map((step) => `Step ${step}`)], states.map((state) => ({
        cells: [plan.states[state], ...steps.map((step) => plan.greedy[step][state] === null ? "it ends" : `${plan.greedy[step][state]} ${percent(Math.max(...plan.policy[step][state]))}`)],
      }))))));
}

async function questions(page, name, user, names) {
  const found = await optional(`${userPath(name, user)}/queries?n=5`);
  if (!found?.queries.length) return;
  page.append(section("What to ask next", table("The pairs whose answers would teach most", ["This", "Or this", "#Chance of the first", "#Information, nats"], found.queries.map((one) => ({
    cells: [optionText(one.first, names), optionText(one.second, names), percent(one.probability), decimal(one.information, 2)],
  })))));
}

function comparisons(preferences, names) {
  if (!preferences.length) return nothing("Nothing.");
  const newest = preferences.slice(-NEWEST).reverse();
  const left = preferences.length > newest.length ? `, the newest ${NEWEST} of ${count(preferences.length)}` : "";
  return table(`Their comparisons, newest first${left}`, ["When", "Chosen", "Rejected", "#Label", "#Weight"], newest.map((one) => ({
    cells: [when(one.occurred_at), optionText(one.chosen, names), optionText(one.rejected, names), decimal(one.label, 2), decimal(one.weight, 2)],
  })));
}
