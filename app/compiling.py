"""Loops are compiled once an installation, by one of its processes, while the others wait for it."""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.learning import prepare as prepare_learning
from app.policy import prepare as prepare_planner


def prepare(folder: Path, *more: Callable[[], None]) -> None:
    """Have the core's loops compiled, and those that `more` functions need, before anybody waits for them.

    Compiled in several processes at once, the same takes as many cores, or as many times as long.

    Parameters
    ----------
    folder
        The same for all processes of a host.
    """
    with _one_at_first(folder):
        for part in (prepare_learning, prepare_planner, *more):
            part()


@contextmanager
def _one_at_first(folder: Path) -> Iterator[None]:
    """Whoever finds somebody at it waits until they are done, and goes on beside all others who waited."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "compiling.lock").open("ab")
    except OSError:
        # Nothing can be written there: each for itself.
        yield
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield
