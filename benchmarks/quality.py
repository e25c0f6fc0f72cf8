"""What the method predicts on data set folders, beside one model for everybody and one model a user.

Claim: on held-out comparisons of seen users, and of unseen users after a few answers, the default estimator is at least
as good as its rivals. Data: the folders that are named, in the format that `psharelora evaluate` reads (its help
describes it); `app/cli/data/contracts` ships with the project. Rivals: `global` and `per_user`, tuned on the same rows,
and the paper's joint maximum, `mle`. Prints two Markdown tables; +/- is one standard error over users.

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
    options = parser.parse_args()
    rank = "auto" if options.rank == "auto" else int(options.rank)
    reports = [evaluate_dataset(read_dataset(folder), rank=rank, seed=options.seed) for folder in options.folders]
    print(_seen(reports))
    print()
    print(_few_shot(reports))


def _seen(reports: list[StudyReport]) -> str:
    lines = [
        "| data set | method | rank | accuracy | log-loss | ECE | users better / worse than by global | fit |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for report in reports:
        for method in report.methods:
            score, versus = method.score, method.versus_global
            against = "" if versus is None else f"{versus.users_better} / {versus.users_worse}"
            lines.append(
                f"| {report.dataset} | {method.method} | {method.rank} | {score.accuracy:.3f} | "
                f"{score.log_loss:.4f} +/- {score.log_loss_stderr:.4f} | {score.ece:.3f} | {against} | "
                f"{method.fit_seconds:.1f} s |"
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
