"""One process compiles, the others wait for it, and nobody waits for those who only load."""

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.compiling import prepare
from tests.support.faults.installation import wait_until


@contextmanager
def preparing(folder: Path) -> Iterator[threading.Event]:
    """Somebody who prepares; the event says that they are done."""
    done = threading.Event()
    thread = threading.Thread(target=prepare, args=(folder, done.set))
    thread.start()
    yield done
    thread.join()


def test_who_comes_while_another_compiles_waits_for_it(tmp_path: Path) -> None:
    with (tmp_path / "compiling.lock").open("ab") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        with preparing(tmp_path) as first, preparing(tmp_path) as second:
            assert not first.wait(0.5)
            assert not second.is_set()
            fcntl.flock(another, fcntl.LOCK_UN)
            wait_until(lambda: first.is_set() and second.is_set(), seconds=60)


def test_those_who_waited_go_on_side_by_side(tmp_path: Path) -> None:
    with (tmp_path / "compiling.lock").open("ab") as another:
        fcntl.flock(another, fcntl.LOCK_SH)
        with preparing(tmp_path) as done:
            assert done.wait(60)


def test_a_folder_that_cannot_be_made_holds_up_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = threading.Event()
    prepare(tmp_path / "file" / "folder", done.set)
    assert done.is_set()
