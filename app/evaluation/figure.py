"""A simulation as a picture: what falls how fast with what is known, beside the rates that the theory predicts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from app.evaluation.simulation import LEVEL, Point, Simulation

METHODS = {
    "p_share_lora": ("P-ShareLoRA", "#0b6e4f"),
    "lora_global": ("LoRA-global", "#8a8a8a"),
    "lora_local": ("LoRA-local", "#c8553d"),
    "full_parameter": ("full-parameter", "#3f6fb5"),
}
Value = Callable[[Point, str], float | None]


def draw_simulation(simulation: Simulation, path: Path) -> None:
    """Write a figure of four panels; the file's suffix names the format.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.
    ValueError
        The suffix is of no format that it writes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 8.0), layout="constrained")
    distance, error, gap, coverage = figure.subplots(2, 2).ravel()
    _panel(distance, simulation, "principal_angle_distance", "distance of the subspace", _distance)
    _panel(error, simulation, "reward_error", "error of the rewards, log-odds", _error)
    _panel(gap, simulation, "value_gap", "value lost by planning, log-odds", _regret)
    _coverage_panel(coverage, simulation.points)
    figure.legend(*error.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(
        f"rank {simulation.rank} in {simulation.dim} dimensions, truths: {simulation.draws}; "
        "filled: along users, hollow: along comparisons"
    )
    figure.savefig(path, dpi=150)


def _distance(point: Point, method: str) -> float | None:
    return point.catalogue[method].principal_angle_distance


def _error(point: Point, method: str) -> float | None:
    return point.catalogue[method].reward_error


def _regret(point: Point, method: str) -> float | None:
    return point.mdp.regret["greedy" if method == "p_share_lora" else method]


def _panel(axes, simulation: Simulation, quantity: str, label: str, value: Value) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - matplotlib is loaded only to draw
    users, comparisons = _ladders(simulation.points)
    for method, (name, colour) in METHODS.items():
        for ladder, fill in ((users, colour), (comparisons, "white")):
            told = [(point.users * point.comparisons, value(point, method)) for point in ladder]
            there = [(x, y) for x, y in told if y is not None]
            if there:
                line, entry = ("-", name) if fill == colour else ("--", "_")
                axes.plot(*np.array(there).T, "o", linestyle=line, color=colour, markerfacecolor=fill, label=entry)
    slope = simulation.slopes[quantity]["together"]
    known = np.sort([float(point.users * point.comparisons) for point in simulation.points])
    ours = [value(point, "p_share_lora") or np.nan for point in simulation.points]
    rate = np.exp(np.mean(np.log(ours))) * (known / np.exp(np.mean(np.log(known)))) ** slope.predicted
    axes.plot(known, rate, ":", color="black", label="predicted rate")
    axes.set(xscale="log", yscale="log", ylabel=label, xlabel="users x comparisons each")
    axes.set_title(f"exponent {slope.fitted:+.2f}, predicted {slope.predicted:+.2f}", fontsize=10)


def _coverage_panel(axes, points: Sequence[Point]) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 - as above
    ordered = sorted(points, key=lambda point: point.users * point.comparisons)
    x = [point.users * point.comparisons for point in ordered]
    rewards = [point.catalogue["p_share_lora"].coverage or 0.0 for point in ordered]
    tables = [point.mdp.coverage for point in ordered]
    axes.plot(x, rewards, "o", color="#0b6e4f", label="catalogue")
    axes.plot(x, tables, "s", color="#b8860b", label="decision process")
    axes.axhline(LEVEL, color="black", linestyle=":")
    axes.set(
        xscale="log",
        ylim=(min(0.8, *rewards, *tables) - 0.02, 1.0),
        ylabel="95% intervals cover",
        xlabel="users x comparisons each",
    )
    axes.legend(frameon=False)


def _ladders(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Along users at the most comparisons, and along comparisons at the most users."""
    most = max(point.comparisons for point in points), max(point.users for point in points)
    return [p for p in points if p.comparisons == most[0]], [p for p in points if p.users == most[1]]
