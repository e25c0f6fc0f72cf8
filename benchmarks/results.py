"""Write docs/results.md: every figure of that page, from data set folders and from simulation.

Each part of the page is the output of one command, which is run here and kept, so that a run that was broken off goes
on where it ended: `psharelora evaluate` on every folder, with the paper's own starts on small ones; `psharelora
simulate`; and the scripts beside this one. Tables and what is said of them come from these outputs alone.

    python benchmarks/results.py DATA --keep WORK [--only PART ...] [--page docs/results.md]

DATA holds one folder a data set, in the format that `psharelora evaluate` reads; sets that are not there are left out,
and so are parts that `--only` does not name and WORK does not hold. `contracts` ships with the project
and is always in.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent
from typing import Any

ROOT = Path(__file__).parents[1]
SETS = ("contracts", "electricity", "train", "jokes", "movies", "statements", "arguments", "assistant")
SMALL = ("contracts", "electricity", "train")
"""Sets on which every method takes seconds: several seeds, and the paper's own axis."""
SEEDS = 3
POLICIES = ("policy", "policy_size", "policy_sets", "states")
QUESTIONS = ("contracts", "electricity", "movies")
CHECKED = (*SETS, "simulated")
SHUFFLES = {
    "contracts": ("--draws", "100", "--choices", "40"),
    "movies": ("--draws", "0"),
    "assistant": ("--draws", "0"),
    "arguments": ("--draws", "0"),
}
"""Draws of users given at random, more or fewer than of other sets; none where a fit takes minutes."""
UNSAFE = 3
"""Exit status of `safety.py` where its claim does not hold: its figures are as good as others."""
SIZES = ("0", "1", "2", "4", "8", "16", "32")
SCRIPTS = {
    "calibration": ("calibration.py", "--draws", "3"),
    "policy": ("policy.py", "--part", "rival", "--markdown"),
    "policy_size": ("policy.py", "--part", "size", "--huge", "--markdown"),
    "policy_sets": ("policy.py", "--part", "sets", "--markdown"),
    "pessimism": ("pessimism.py", "--table"),
    "states": ("states.py", "--users", "100", "--rank", "1"),
    "refit": ("refit.py",),
    "refit_growth": ("refit.py", "--growth"),
    "fold_in": ("fold_in.py",),
    "peers": ("peers.py",),
    "peers_many": ("peers.py", "--users", "50000"),
    "serve": ("serve.py",),
    "ingest": ("ingest.py", "--lines", "5000000"),
}
Report = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, required=True, help="where the parts' outputs are kept")
    parser.add_argument("--only", nargs="*", help="parts to run; none named runs none")
    parser.add_argument("--page", type=Path, help="write the page of all parts that are there")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    commands = parts(options.data)
    for name in commands if options.only is None else options.only:
        run(name, commands[name], options.keep)
    if options.page is not None:
        options.page.write_text(page(Kept(options.keep)), encoding="utf-8")


def parts(data: Path) -> dict[str, list[str]]:
    """What to run for each part, in the order of the page."""
    folders = {name: data / name for name in SETS if (data / name).is_dir()}
    folders["contracts"] = ROOT / "app" / "cli" / "data" / "contracts"
    evaluate = {
        f"evaluate-{name}": [
            *command("evaluate"), str(folders[name]), "--json",
            *(["--methods", "all", "--seeds", str(SEEDS)] if name in SMALL else []),
        ]
        for name in SETS if name in folders
    }  # fmt: skip
    questions = {
        f"questions-{name}": [sys.executable, str(ROOT / "benchmarks" / "questions.py"), str(folders[name])]
        for name in QUESTIONS
        if name in folders
    }
    check = [sys.executable, str(ROOT / "benchmarks" / "safety.py")]
    shuffles = ("--draws", "40", "--choices", "20")
    safety = {
        f"safety-{name}": [*check, str(folders[name]), "--no-simulated", *SHUFFLES.get(name, shuffles)]
        for name in SETS if name in folders
    }  # fmt: skip
    safety["safety-simulated"] = [*check, *shuffles]
    scripts = {
        name: [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
        for name, (script, *arguments) in SCRIPTS.items()
    }
    return {**evaluate, "simulate": [*command("simulate"), "--draws", "2", "--json"], **safety, **questions, **scripts}


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", name]


def run(name: str, arguments: Sequence[str], keep: Path) -> None:
    target = keep / f"{name}.out"
    if target.exists():
        return
    print(f"{name} ...", file=sys.stderr, flush=True)
    so_far = target.with_suffix(".part")
    with so_far.open("w", encoding="utf-8") as lines:
        ended = subprocess.run(arguments, cwd=ROOT, stdout=lines, check=False)
    if ended.returncode != UNSAFE:
        ended.check_returncode()
    so_far.rename(target)


class Kept:
    """The parts' outputs that are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def text(self, name: str) -> str | None:
        path = self.folder / f"{name}.out"
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    def report(self, name: str) -> Report | None:
        text = self.text(name)
        return None if text is None else json.loads(text)


def page(kept: Kept) -> str:
    reports = {name: report for name in SETS if (report := kept.report(f"evaluate-{name}")) is not None}
    simulation = kept.report("simulate")
    sections = [HEAD]
    if reports:
        sections += [PREDICTION, seen(reports), FEW_SHOT, few_shot(reports), verdict(reports)]
        sections += [PAPER, paper_axis(reports)]
    if simulation is not None:
        sections += [SIMULATION, simulated(simulation)]
    checked = {name: text for name in CHECKED if (text := kept.text(f"safety-{name}")) is not None}
    sections += section(SAFETY, *safety(checked))
    sections += section(CALIBRATION, kept.text("calibration"))
    sections += section(QUESTION, *(kept.text(f"questions-{name}") for name in QUESTIONS))
    sections += section(POLICY, *(titled(name, kept.text(name)) for name in POLICIES))
    sections += section(PESSIMISM, titled("pessimism", kept.text("pessimism")))
    costs = [titled(name, kept.text(name)) for name in ("refit", "refit_growth", "fold_in", "peers", "peers_many")]
    sections += section(COSTS, *costs)
    served, stored = kept.report("serve"), kept.report("ingest")
    if served is not None and stored is not None:
        sections += [SERVICE, service(served, stored)]
    return "\n\n".join(sections) + "\n"


def section(prose: str, *texts: str | None) -> list[str]:
    there = [text for text in texts if text]
    return [prose, *there] if there else []


def safety(checked: dict[str, str]) -> list[str]:
    """The sets' tables as one, and their verdicts; then the same of users who do not differ."""
    found = {name: text.split("\n\n") for name, text in checked.items()}
    out = []
    for part in (0, 3):
        there = {name: blocks[part : part + 3] for name, blocks in found.items() if len(blocks) > part}
        if there:
            (intro, first, _), *others = there.values()
            rows = [first, *("\n".join(rows.splitlines()[2:]) for _, rows, _ in others)]
            out += [intro, "\n".join(rows), "\n".join(f"- {name}: {words}" for name, (_, _, words) in there.items())]
    left_out = [name for name in CHECKED if name not in checked]
    return [*out, f"Not measured for this page: {', '.join(left_out)}."] if checked and left_out else out


def as_it_is(text: str | None) -> str | None:
    return text if text is None or "| ---" in text else indent(text, "    ")


def titled(name: str, text: str | None) -> str | None:
    return None if text is None else f"`benchmarks/{' '.join(SCRIPTS[name])}`:\n\n{as_it_is(text)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first `words` columns are left-aligned."""
    rule = ["---" if place < words else "---:" for place in range(len(columns))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))


def seen(reports: dict[str, Report]) -> str:
    columns = (
        "data set", "method", "rank", "accuracy", "log-loss", "over seeds", "ECE",
        "users better / worse than by global", "than by population", "median gain over it", "fit",
    )  # fmt: skip
    rows = [
        [name, method, *measured(found)]
        for name, report in reports.items()
        for method, found in report["methods"].items()
        if method not in {"SI", "G", "WU"}
    ]
    return table(columns, rows, words=2)


def measured(found: Report) -> list[str]:
    loss, personal = found.get("spread", {}).get("log_loss"), found["versus_population"]
    return [
        str(found["rank"]), f"{found['accuracy']:.3f}", f"{found['log_loss']:.4f} +/- {found['log_loss_stderr']:.4f}",
        over_seeds(loss), f"{found['ece']:.3f}", better(found["versus_global"]), better(personal),
        "" if personal is None else f"{personal['user_gain']['p50']:.4f}", f"{found['fit_seconds']:.1f} s",
    ]  # fmt: skip


def over_seeds(spread: Report | None) -> str:
    return "" if spread is None else f"{spread['mean']:.4f} +/- {spread['std']:.4f}"


def better(versus: Report | None) -> str:
    return "" if versus is None else f"{versus['users_better']} / {versus['users_worse']}"


def few_shot(reports: dict[str, Report]) -> str:
    rows = [
        [name, method, *(f"{found['few_shot'][size]['log_loss']:.3f}" for size in SIZES)]
        for name, report in reports.items()
        for method, found in report["methods"].items()
        if found["few_shot"] and method not in {"SI", "G", "WU"}
    ]
    return table(("data set", "method", *(f"q = {size}" for size in SIZES)), rows, words=2)


def verdict(reports: dict[str, Report]) -> str:
    """What the tables say of the default estimator, counted."""
    losses = {
        name: {method: found["log_loss"] for method, found in report["methods"].items()}
        for name, report in reports.items()
    }
    best = [name for name, found in losses.items() if found["evidence"] <= min(found.values()) + 5e-5]
    above = {name: found["evidence"] - min(found["global"], found["population"]) for name, found in losses.items()}
    worst = max(above, key=lambda name: above[name])
    shots = {
        f"{name} at q = {size}": found["evidence"]["few_shot"][size]["log_loss"]
        - found["population"]["few_shot"][size]["log_loss"]
        for name, report in reports.items()
        for found in (report["methods"],)
        if found["evidence"]["few_shot"]
        for size in SIZES
    }
    worst_shot = max(shots, key=lambda place: shots[place])
    nobody = [name for name, report in reports.items() if report["methods"]["evidence"]["rank"] == 0]
    served = f" It finds nothing personal on {' and '.join(nobody)}, and serves the population." if nobody else ""
    others = [name for name in losses if name not in best]
    behind = f"; not on {', '.join(others)}" if others else ""
    return (
        f"What this says. For seen users no method has a lower log-loss than `evidence` on {len(best)} of "
        f"{len(losses)} sets{behind}. Against the better of the two models that are the same for everybody it is at "
        f"worst {above[worst]:+.4f} nats a comparison ({worst}), and for unseen users, against `population`, at worst "
        f"{shots[worst_shot]:+.4f} ({worst_shot}).{served} Where items recur, a large part of the gain over "
        "`global` is items' own effects, which `population` has too; users' own adapters add the difference. "
        "`assistant` has held-out comparisons of two people only: nothing can be concluded from it."
    )


def paper_axis(reports: dict[str, Report]) -> str:
    names = {
        "global": "LoRA-global",
        "per_user": "LoRA-local",
        "SI": "SI",
        "G": "G",
        "WU": "WU",
        "evidence": "evidence",
    }
    rows = []
    for name in (name for name in SMALL if name in reports):
        for method, label in names.items():
            found = reports[name]["methods"][method]
            spread = found["spread"]
            cells = [over_seeds(spread[quantity]) for quantity in ("accuracy", "log_loss")]
            unseen = over_seeds(spread["few_shot_8_log_loss"]) if found["few_shot"] else ""
            rows.append([name, label, *cells, unseen])
    return table(("data set", "method", "accuracy", "log-loss", "of unseen users after 8 comparisons"), rows, words=2)


def simulated(simulation: Report) -> str:
    return "\n\n".join(part(simulation) for part in (learnt_back, regrets, slopes))


def learnt_back(simulation: Report) -> str:
    columns = ("users", "comparisons each", "subspace distance", "of local fits", "reward error", "LoRA-global",
               "LoRA-local", "full-parameter", "95% intervals cover")  # fmt: skip
    rows = []
    for point in simulation["points"]:
        found = point["catalogue"]
        ours, local = found["p_share_lora"], found["lora_local"]
        errors = (found[name]["reward_error"] for name in ("lora_global", "lora_local", "full_parameter"))
        distances = (ours["principal_angle_distance"], local["principal_angle_distance"])
        values = (*distances, ours["reward_error"], *errors, ours["coverage"])
        rows.append([str(point["users"]), str(point["comparisons"]), *(f"{value:.3f}" for value in values)])
    return table(columns, rows, words=0)


def regrets(simulation: Report) -> str:
    policies = ("reference", "lora_global", "lora_local", "full_parameter", "greedy", "robust")
    rows = [
        [str(point["users"]), str(point["comparisons"]),
         *(f"{point['mdp']['regret'][policy]:.3f}" for policy in policies), f"{point['mdp']['lower_bound_held']:.3f}"]
        for point in simulation["points"]
    ]  # fmt: skip
    columns = ("users", "comparisons each", "reference", "LoRA-global", "LoRA-local", "full-parameter", "greedy",
               "robust", "lower bound held")  # fmt: skip
    return "Regret against each user's optimal policy:\n\n" + table(columns, rows, words=0)


def slopes(simulation: Report) -> str:
    ladders = ("users", "comparisons", "together")
    rows = [
        [quantity.replace("_", " "),
         *(f"{along[ladder][which]:+.2f}" for ladder in ladders for which in ("fitted", "predicted"))]
        for quantity, along in simulation["slopes"].items()
    ]  # fmt: skip
    columns = ("exponent of P-ShareLoRA's", "in users", "predicted", "in comparisons", "predicted", "in their product",
               "predicted")  # fmt: skip
    rivals = [
        [method, quantity.replace("_", " "), *(f"{along[ladder]:+.2f}" for ladder in ladders)]
        for method, found in simulation["rival_slopes"].items()
        for quantity, along in found.items()
    ]
    header = ("rival", "exponent of its", "in users", "in comparisons", "in their product")
    return table(columns, rows) + "\n\n" + table(header, rivals, words=2)


def service(served: Report, stored: Report) -> str:
    """What was asked of the service beside what was measured."""
    rewards, rank, told, refit = (served[part] for part in ("rewards", "rank", "feedback", "refit"))
    first, second = served["startup"]["nothing_copied_yet"], served["startup"]["second_process"]
    posts, lines = stored["posts"], stored["import"]
    token = told["with_token"]

    def memory(when: str) -> str:
        return f"{lines[f'server_megabytes_{when}']:.0f}"

    rows = [
        ("rewards of 100 items", "throughput, of a route that returns the same bytes unseen", "at least 0.7",
         f"{rewards['throughput_ratio']:.2f} ({rewards['requests_per_second']['rewards']:,.0f} a second)"),
        ("", "p99 at 70% load, of that route's", "at most 3", f"{rewards['p99_ratio']:.2f}"),
        ("rank, top 10 of 100,000 items", "time over HTTP, of a bare product and partition", "at most 3",
         f"{rank['ratio']:.2f}"),
        ("", "longest wait of `/healthz` beside rankings of all", "",
         f"{rank['healthz_beside_rankings_of_everything']['longest_ms']:.0f} ms"),
        ("post, then ask another process", "answers that rest on the post, with its token", "all",
         f"{token['saw_the_post']:,} of {token['trials']:,}"),
        ("", "from acknowledgement to that answer, p50 / p99", "",
         " / ".join(f"{token['from_acknowledgement_to_seen'][at]:.0f} ms" for at in ("p50_ms", "p99_ms"))),
        ("refit of 100,000 users on the other core", "readers' p99, of that without", "at most 1.5",
         f"{refit['p99_ratio']:.2f}"),
        ("start with a model of 1,000,000 users", "ready after; a second process of the host", "seconds",
         f"{first['seconds_to_ready']:.1f} s; {second['seconds_to_ready']:.1f} s"),
        ("", "memory of the second (proportional set)", "", f"{second['memory']['pss_mb']:,} MB"),
        ("preferences one a request, 64 connections", "throughput, of the route without its write", "at least 0.6",
         f"{posts['ratio_to_route_without_write']:.2f} ({posts['grouped']['requests_per_second']:,.0f} a second)"),
        ("", "of one transaction a request", "at least 3", f"{posts['ratio_to_one_row_a_transaction']:.1f}"),
        (f"import of {lines['lines']:,} lines", "of COPY into a table like the one where they stay", "at least 0.5",
         f"{lines['ratio_to_copy_to_stay']:.2f} ({lines['lines_per_second']:,} a second)"),
        ("", "of COPY into the staging table: no index, not durable", "",
         f"{lines['ratio_to_copy_to_staging']:.2f}"),
        ("", "server's memory before / at most; the client's at most", "constant",
         f"{memory('before')} / {memory('at_most')} MB; {lines['client_megabytes_at_most']:.0f} MB"),
    ]  # fmt: skip
    return table(("what", "measured", "asked", "found"), rows, words=3)


HEAD = """# Measurements

Written by `benchmarks/results.py`; nothing here is typed by hand. Seeds are fixed, so whoever has the data gets
the same figures, up to the last digits and the seconds. Machine: two cores of an x86-64 server, shared with other
work, so that seconds are upper bounds."""

PREDICTION = f"""## Prediction on real choices

`psharelora evaluate`. `contracts` ships with the project (`app/cli/data/contracts`); its split is derived, as
`psharelora evaluate --help` says. The other sets are public and come with a reference split, but may not be
passed on: `electricity` (the same households, six attributes; another split), `train` (235 travellers' journeys),
`jokes` and `movies` (ratings), `statements` (votes), `arguments` (which of two arguments is more convincing, in a
context), `assistant` (three people, which of two answers is better, in a context). Log-loss is in nats a
comparison, +/- one standard error over users; ECE is the calibration error of the probabilities; "over seeds" is
the mean +/- one standard deviation over {SEEDS} seeds of what the fit draws, the split being the same. `global`
is one model for everybody, of the features only; `per_user` every user's own ridge-logistic offset around it;
`population` the default estimator at rank 0, that is one model for everybody with items' own effects; `mle` the
paper's joint maximum; `evidence` what the worker runs. Every rank is chosen by the method.

Seen users, held-out comparisons:"""

FEW_SHOT = "Users who were not seen in training, log-loss after their first q comparisons:"

PAPER = f"""## The paper's own axis

One adapter for everybody, one for each user, the joint maximum from the paper's three starts (B = 0 and random
adapters; a long global fit; a short global warm-up), and the default; mean +/- standard deviation over {SEEDS}
seeds."""

SIMULATION = """## Against a known truth

`psharelora simulate`: users who differ in rank 2 of 12 dimensions, and of a small decision process; means over
independent truths. Distance is the principal angle distance to the true subspace; errors and regrets are in
log-odds. Theorem 4.1 says that the distance falls like the product of users and comparisons to the power -1/2."""

SAFETY = """## Every rank beside one model for everybody

`benchmarks/safety.py`: every rank beside the same estimator at rank 0, in nats a comparison; below 0 is better. Of the
small sets every user is once among the unseen, by five fits; the large ones have their own split."""

CALIBRATION = """## Confidence and calibration

`benchmarks/calibration.py`: what nominal 95% sets cover, of users in the fit and of new ones with as many
comparisons. "Error" is the root mean square error of the rewards, "told" what the standard errors say of it; ECE
is of fresh comparisons. Inflation is the calibrated factor on standard errors, hidden spread by how much users
differ more than the fit sees, both from the fit's own bootstrap."""

QUESTION = """## What to ask

`benchmarks/questions.py`: people whom the model has not met, asked what it chooses, or at random, among what they
really answered."""

POLICY = """## Robust policies

The planner beside the whole second-order cone program in Clarabel; with a thousand and with ten thousand states beside
bare backward inductions; with every kind of set, a user's next request begun from their last plan, one or ten of 5,000
items; and ten thousand states from the definition to an action, over HTTP."""

PESSIMISM = """## Caution

Regret where the truth is known, and who is worse off than by the reference: against every set that is offered.
`docs/explanation/policies.md` says what follows."""

COSTS = "## What it costs"

SERVICE = """## The service

`benchmarks/serve.py` and `benchmarks/ingest.py --lines 5000000`: real servers and HTTP, one server process on one
core, each figure beside its own limit measured in the same run. When an import is acknowledged it is durable and its
rows are where they stay, with their indexes: what PostgreSQL does there bounds it, not what it does in a staging
table."""


if __name__ == "__main__":
    main()
