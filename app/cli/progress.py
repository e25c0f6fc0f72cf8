"""Progress of a study on stderr, so that stdout stays the answer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


@contextmanager
def study_progress() -> Iterator[Callable[[str, str, float], None]]:
    """A bar a part of the study; called with the part, its phase and how much of that is done, 0..1."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[phase]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(part: str, phase: str, done: float) -> None:
            if part not in tasks:
                for earlier in tasks.values():
                    bars.update(earlier, completed=1.0, phase="done")
                tasks[part] = bars.add_task(part, total=1.0, phase=phase)
            bars.update(tasks[part], completed=done, phase=phase)

        yield report
        for task in tasks.values():
            bars.update(task, completed=1.0, phase="done")
