"""What the method predicts on data set folders, beside one model for everybody and one model a user.

Claim: on held-out comparisons of seen users, and of unseen users after a few answers, the default estimator is at least
as good as its rivals. Data: the folders that are named, in the format that `psharelora evaluate` reads (its help
describes it); `app/cli/data/contracts` ships with the project. Rivals: `global` and `per_user`, tuned on the same rows;
the paper's joint maximum, `mle`; and `population`, `evidence` at rank 0. Prints two Markdown tables; +/- is one
standard error over users, and one standard deviation over seeds.

    python benchmarks/quality.py app/cli/data/contracts [DIR ...]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.evaluation import StudyReport, evaluate_dataset, read_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--rank", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    rank = "auto" if options.rank == "auto" else int(options.rank)
    reports = [
        evaluate_dataset(read_dataset(folder), rank=rank, seed=options.seed, seeds=options.seeds)
        for folder in options.folders
    ]
    print(_seen(reports))
    print()
    print(_few_shot(reports))


def _seen(reports: list[StudyReport]) -> str:
    columns = (
        "data set|method|rank|accuracy|log-loss|over seeds|ECE|users better / worse than by global|than by population"
    )
    lines = [
        "| " + " | ".join(f"{columns}|median gain over it|fit".split("|")) + " |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for report in reports:
        for method in report.methods:
            score, versus, personal = method.score, method.versus_global, method.versus_population
            better = "" if versus is None else f"{versus.users_better} / {versus.users_worse}"
            beyond = "" if personal is None else f"{personal.users_better} / {personal.users_worse}"
            median = "" if personal is None else f"{personal.user_gain['p50']:.4f}"
            loss = method.spread.get("log_loss")
            over = "" if loss is None else f"{loss.mean:.4f} +/- {loss.std:.4f}"
            lines.append(
                f"| {report.dataset} | {method.method} | {method.rank} | {score.accuracy:.3f} | "
                f"{score.log_loss:.4f} +/- {score.log_loss_stderr:.4f} | {over} | {score.ece:.3f} | {better} | "
                f"{beyond} | {median} | {method.fit_seconds:.1f} s |"
            )
    return "\n".join(lines)


def _few_shot(reports: list[StudyReport]) -> str:
    sizes = list(reports[0].methods[0].few_shot)
    lines = [
        "| data set | method | " + " | ".join(f"q = {size}" for size in sizes) + " |",
        "| --- | --- |" + " ---: |" * len(sizes),
    ]
    for report in reports:
        for method in report.methods:
            cells = (f"{method.few_shot[size].log_loss:.3f}" for size in sizes)
            lines.append(f"| {report.dataset} | {method.method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
