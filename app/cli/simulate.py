"""`psharelora simulate`: the method against a known truth."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from app.cli.progress import study_progress

PLOT_FORMATS = (".png", ".svg", ".pdf")

if TYPE_CHECKING:
    from app.evaluation import Simulation


def simulate(
    *,
    users: Annotated[int, typer.Option(min=16, help="Users at the top of the ladder.")] = 240,
    comparisons: Annotated[int, typer.Option(min=16, help="Comparisons of each user at the top of the ladder.")] = 64,
    dim: Annotated[int, typer.Option(min=2, max=512, help="Features of a catalogue item.")] = 12,
    rank: Annotated[int, typer.Option(min=1, max=9, help="Rank in which the drawn users differ.")] = 2,
    draws: Annotated[int, typer.Option(min=1, max=100, help="Independent truths that figures are means over.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that draws.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: a .png, .svg or .pdf file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Draw users with a known truth, learn them back, and compare with what the theory promises.

    Rewards are learnt back from choices in a catalogue, policies from choices between trajectories of a small decision
    process, at a quarter, a half and all of the users, and of the comparisons.
    """
    from app.evaluation import draw_simulation
    from app.evaluation import simulate as run

    if rank > dim:
        raise typer.BadParameter(f"at most {dim}, the number of features", param_hint="--rank")
    if plot is not None:
        check_plot(plot)
    with study_progress() as progress:
        simulation = run(
            users=users, comparisons=comparisons, dim=dim, rank=rank, draws=draws, seed=seed, progress=progress
        )
    if plot is not None:
        draw_simulation(simulation, plot)
    if as_json:
        typer.echo(json.dumps(simulation.as_dict(), allow_nan=False))
    else:
        _print_tables(simulation)


def check_plot(path: Path) -> None:
    """Before minutes of work: what would keep the picture from being written."""
    if find_spec("matplotlib") is None:
        raise typer.BadParameter("drawing needs matplotlib: pip install matplotlib", param_hint="--plot")
    if path.suffix not in PLOT_FORMATS:
        raise typer.BadParameter(f"a file named {', '.join(PLOT_FORMATS)} was expected; found {path.name!r}",
                                 param_hint="--plot")  # fmt: skip
    if not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent}", param_hint="--plot")


def _print_tables(simulation: "Simulation") -> None:
    console = Console()
    console.print(_catalogue_table(simulation))
    console.print(_mdp_table(simulation))
    console.print(_slopes_table(simulation))
    console.print(_policies_table(simulation))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _catalogue_table(simulation: "Simulation") -> Table:
    columns = ("users", "comparisons", "distance", "local's", "error", "global's", "local's", "full's", "95% covers")
    table = _table("Catalogue: distance of the subspace, error of the rewards (log-odds)", *columns)
    for point in simulation.points:
        methods = ("p_share_lora", "lora_global", "lora_local", "full_parameter")
        ours, everybody, local, full = (point.catalogue[method] for method in methods)
        distances = (ours.principal_angle_distance, local.principal_angle_distance)
        errors = (one.reward_error for one in (ours, everybody, local, full))
        values = (*distances, *errors, ours.coverage)
        table.add_row(str(point.users), str(point.comparisons), *(f"{value:.3f}" for value in values))
    return table


def _mdp_table(simulation: "Simulation") -> Table:
    columns = ("users", "comparisons", "reference", "global", "local", "full", "greedy", "robust", "bound held",
               "95% covers")  # fmt: skip
    table = _table("Decision process: regret against each user's optimal policy (log-odds)", *columns)
    for point in simulation.points:
        mdp = point.mdp
        policies = ("reference", "lora_global", "lora_local", "full_parameter", "greedy", "robust")
        values = (*(mdp.regret[policy] for policy in policies), mdp.lower_bound_held, mdp.coverage)
        table.add_row(str(point.users), str(point.comparisons), *(f"{value:.3f}" for value in values))
    return table


def _slopes_table(simulation: "Simulation") -> Table:
    columns = ("quantity", "with users", "predicted", "with comparisons", "predicted", "with both", "predicted")
    table = _table("Exponents, fitted and as the theory predicts", *columns)
    for quantity, slopes in simulation.slopes.items():
        both = (slopes["users"], slopes["comparisons"], slopes["together"])
        cells = (f"{value:+.2f}" for slope in both for value in (slope.fitted, slope.predicted))
        table.add_row(quantity.replace("_", " "), *cells)
    return table


def _policies_table(simulation: "Simulation") -> Table:
    columns = ("comparisons", "policy", "mean", "worst tenth", "worse than reference", "nominal", "lower")
    table = _table("Policies by how much they doubt: regret, and what they promise over the reference", *columns)
    for point in simulation.policies.points:
        for name, result in point.policies.items():
            values = (result.mean_regret, result.worst_tenth_regret)
            promised = (f"{result.worse_than_reference:.0%}", f"{result.nominal:.3f}", f"{result.lower:.3f}")
            table.add_row(str(point.comparisons), name, *(f"{value:.3f}" for value in values), *promised)
    return table
