"""`psharelora evaluate`: held-out accuracy of the method on anyone's own data, without a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from app.cli.progress import study_progress

if TYPE_CHECKING:
    from app.evaluation import MethodReport, StudyReport


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A data set folder.")],
    *,
    rank: Annotated[str, typer.Option(help="Rank of the shared subspace: a number, or auto.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that draws.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Repeat with so many seeds, and tell the spread.")] = 1,
    methods: Annotated[
        str,
        typer.Option(help="Names with commas between; default, paper (global, local, SI, G, WU, evidence), or all."),
    ] = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure the method on a data set: global, per-user and shared models, seen and unseen users.

    DIR holds items.npz and comparisons.npz (arrays user, chosen, rejected, split; perhaps fold, context with
    contexts.npz, time), or items.json and preferences.ndjson.gz without a split. Then one is derived, always the
    same: a fifth of the users are unseen; a seen user's choice tasks (consecutive comparisons that share the chosen
    item) are split three quarters to learn from and one to test on; of an unseen user's tasks the last quarter is
    tested on, the earlier ones, at most 32 comparisons, are adapted to.
    """
    from app.evaluation import InvalidDatasetError, evaluate_dataset, read_dataset

    chosen_rank, chosen_methods = parse_rank(rank), parse_methods(methods)
    try:
        dataset = read_dataset(folder)
    except InvalidDatasetError as error:
        typer.echo(f"psharelora evaluate: {error}", err=True)
        raise typer.Exit(2) from error
    with study_progress() as progress:
        report = evaluate_dataset(
            dataset, rank=chosen_rank, seed=seed, seeds=seeds, methods=chosen_methods, progress=progress
        )
    if as_json:
        typer.echo(json.dumps(report.as_dict(), allow_nan=False))
    else:
        _print_tables(report)


def parse_rank(value: str) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    if value.isdecimal():
        return int(value)
    raise typer.BadParameter(f"a whole number or auto was expected; found {value!r}", param_hint="--rank")


def parse_methods(value: str) -> tuple[str, ...]:
    from app.evaluation import ALL_METHODS, METHODS, PAPER_METHODS

    named = {"default": METHODS, "paper": PAPER_METHODS, "all": ALL_METHODS}
    if value in named:
        return named[value]
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in names:
        if name not in ALL_METHODS:
            expected = f"default, paper, all, or some of {', '.join(ALL_METHODS)}"
            raise typer.BadParameter(f"{expected} were expected; found {name!r}", param_hint="--methods")
    return names


def _print_tables(report: "StudyReport") -> None:
    console = Console()
    console.print(f"[bold]{report.dataset}[/bold]: " + ", ".join(f"{n:,} {name}" for name, n in report.counts.items()))
    console.print(f"split: {report.split['rule']}", highlight=False)
    console.print(_seen_table(report.methods))
    if any(method.few_shot for method in report.methods):
        console.print(_few_shot_table(report.methods))


def _seen_table(methods: "Sequence[MethodReport]") -> Table:
    table = Table(title="Seen users, held-out comparisons", title_justify="left")
    for name in ("method", "rank", "accuracy", "log-loss", "± users", "ECE", "users better / worse", "fit s"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for method in methods:
        score, versus = method.score, method.versus_global
        against = "" if versus is None else f"{versus.users_better} / {versus.users_worse}"
        measured = [f"{value:.3f}" for value in (score.accuracy, score.log_loss, score.log_loss_stderr, score.ece)]
        if method.spread:
            measured[1] = f"{method.spread['log_loss'].mean:.3f} ± {method.spread['log_loss'].std:.3f}"
        table.add_row(method.method, str(method.rank), *measured, against, f"{method.fit_seconds:.1f}")
    return table


def _few_shot_table(methods: "Sequence[MethodReport]") -> Table:
    table = Table(title="Unseen users, log-loss (accuracy) after q of their comparisons", title_justify="left")
    table.add_column("method")
    for size in methods[0].few_shot:
        table.add_column(f"q = {size}", justify="right")
    for method in methods:
        table.add_row(method.method, *(f"{s.log_loss:.3f} ({s.accuracy:.2f})" for s in method.few_shot.values()))
    return table
