"""What pessimism costs and what it saves: regret of reference, greedy and robust policies against what users have said.

Claims: with 5 comparisons each, the share of users whose robust policy is truly worse than the reference is at most the
asked error level (1 - confidence) for the sets that say so, while the greedy policy's is measurably higher; `claims`
tells of every set and level whether it is kept. And the default level of /policy and /actions costs little mean regret
and trims the worst tenth (`chosen`). Data: drawn decision processes with a known truth, seeded
(app/evaluation/policies.py); the reference is what a house does that knows its users' mean reward, or with `--reference
uniform` any action at random. Rivals: the reference itself, and the greedy policy for the estimated reward (beta = 0).
Prints JSON, with `--table` a table.

    python benchmarks/pessimism.py --worlds 6 --table
"""

import argparse
import json
import platform
import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation import PolicyStudy, study_policies

SCARCE = 5
"""Comparisons a user at which the first claim is made."""


def main() -> None:
    options = _options()
    begun = perf_counter()
    study = study_policies(
        users=options.users,
        judged=options.judged,
        worlds=options.worlds,
        ladder=tuple(options.comparisons),
        reference=options.reference,
        seed=options.seed,
    )
    seconds = perf_counter() - begun
    if options.table:
        _print(study)
        kept = ", ".join(str(claim["level"]) for claim in _claims(study) if claim["held"])
        print(
            f"\nWith {SCARCE} comparisons each, no more users than asked are worse off than by the reference: {kept}."
        )
        print(f"The least regret of the worst tenth, of what is never above the reference's mean: {_chosen(study)}.")
        return
    machine = {"processor": platform.processor() or platform.machine(), "python": platform.python_version()}
    found = {"claims": _claims(study), "chosen": _chosen(study)}
    print(json.dumps({"machine": machine, "seconds": seconds, **found, **study.as_dict()}, indent=2))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=120, help="of every world")
    parser.add_argument("--judged", type=int, default=60, help="users of every world for whom policies are planned")
    parser.add_argument("--worlds", type=int, default=6)
    parser.add_argument("--comparisons", type=int, nargs="+", default=[2, 5, 10, 20], help="of every user")
    parser.add_argument("--reference", choices=["uniform", "house"], default="house")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


def _claims(study: PolicyStudy) -> list[dict[str, object]]:
    """Of every level, at the few comparisons: the share that is worse than the reference, beside what was asked."""
    found = []
    for point in study.points:
        if point.comparisons == SCARCE:
            greedy = point.policies["greedy"].worse_than_reference
            for name, result in point.policies.items():
                if name not in {"reference", "greedy"}:
                    asked = _asked(name)
                    worse = result.worse_than_reference
                    held = worse <= asked
                    found.append(
                        {"level": name, "asked": round(asked, 6), "worse": worse, "greedy": greedy, "held": held}
                    )
    return found


def _chosen(study: PolicyStudy) -> str:
    """The default's rule: of the levels whose mean regret is never above the reference's, the best.

    Best is the least regret of the worst tenth, averaged over the numbers of comparisons.
    """

    def safe(name: str) -> bool:
        return all(p.policies[name].mean_regret <= p.policies["reference"].mean_regret for p in study.points)

    def worst_tenth(name: str) -> float:
        return sum(point.policies[name].worst_tenth_regret for point in study.points) / len(study.points)

    names = [name for name in study.points[0].policies if name != "reference" and safe(name)]
    return min(names, key=worst_tenth, default="reference")


def _asked(name: str) -> float:
    return 1.0 - float(name.split()[1])


def _print(study: PolicyStudy) -> None:
    header = ("policy", "mean", "worst tenth", "worse than reference", "nominal", "lower", "lower held", "beta")
    for point in study.points:
        print(f"\n{point.comparisons} comparisons a user, {point.judged} users judged in {study.worlds} worlds")
        print("| " + " | ".join(header) + " |")
        print("| --- " * len(header) + "|")
        for name, r in point.policies.items():
            worse, held = f"{r.worse_than_reference:.1%}", f"{r.lower_bound_held:.1%}"
            regrets = (f"{r.mean_regret:.3f}", f"{r.worst_tenth_regret:.3f}")
            cells = (*regrets, worse, f"{r.nominal:.2f}", f"{r.lower:.2f}", held, f"{r.beta:.2f}")
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
