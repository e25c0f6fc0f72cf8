"""Arrays in files that all processes of a host map, so that they share one copy and start without reading it.

A shelf is a folder that can be deleted at any time: everything in it is a copy of what the database has. A volume is a
folder of `.npy` files, written aside and given its name when it is whole; its name says what it is a copy of, so that a
volume is never changed (but see `Adapters.wipe`).
"""

import asyncio
import fcntl
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.domain import CorruptModelError
from app.learning import Adapter
from app.store import AdapterPage, adapter_of

GONE = -1
"""The feedback count of a row that was wiped."""

LOCK_SECONDS = 0.02
"""Between two looks whether another process has made what this one waits for."""

MAPPED_FILE_BYTES = 1 << 16


class Shelf:
    """Volumes in a folder; their names begin with what they are a version of, and a dot ends that part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        return self._folder / name

    def find(self, name: str) -> Path | None:
        path = self.path(name)
        return path if path.is_dir() else None

    @asynccontextmanager
    async def making(self, name: str) -> AsyncIterator[Path | None]:
        """A folder to write a volume into; None where another process has made it meanwhile.

        One process of a host makes a volume, the others wait for it. Whoever fails leaves nothing behind.
        """
        with self._lock_file(name) as lock:
            # Not a thread that waits in the lock: if the one who waits is cancelled, it would get it for nobody.
            while not _locks(lock):  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(LOCK_SECONDS)
            if self.find(name) is not None:
                yield None
                return
            fresh = Path(tempfile.mkdtemp(prefix="new-", dir=self._folder))
            try:
                yield fresh
                fresh.rename(self._folder / name)  # noqa: ASYNC240 - a rename is not waited for
            finally:
                shutil.rmtree(fresh, ignore_errors=True)

    def _lock_file(self, name: str) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True)
        return (self._folder / f"{name.split('.', maxsplit=1)[0]}.lock").open("ab")

    def discard(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def keep_only(self, name: str) -> None:
        """Remove the other versions of what a volume is; who has them mapped keeps what they have mapped."""
        begin = name.split(".", maxsplit=1)[0] + "."
        for other in self._folder.glob(f"{begin}*"):
            if other.name != name and not other.name.endswith(".lock"):
                shutil.rmtree(other, ignore_errors=True)


def _locks(file: IO[bytes]) -> bool:
    """Whether it is ours now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def mapped(path: Path, mode: Literal["r", "r+"] = "r") -> NDArray[Any]:
    """An array where it lies in its file."""
    array = np.load(path, mmap_mode=mode, allow_pickle=False)
    return np.asarray(array).view(np.ndarray) if mode == "r" else array


def mapped_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a volume that `write_arrays` wrote, by name; small ones are read."""
    return {
        path.stem: mapped(path) if path.stat().st_size > MAPPED_FILE_BYTES else np.load(path, allow_pickle=False)
        for path in folder.glob("*.npy")
    }


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


class Adapters:
    """Every user's adapter in one model version: rows as the store has them, found by the user's key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys, self._counts, self._rows = (mapped(folder / f"{name}.npy") for name in ("keys", "counts", "rows"))

    def __len__(self) -> int:
        """How many are there and were not wiped."""
        return int(np.count_nonzero(self._counts != GONE))

    def find(self, user_key: int, feedback_count: int) -> Adapter | None:
        """The user's adapter, if it rests on as much feedback as that."""
        row = int(np.searchsorted(self._keys, user_key))
        if row == len(self._keys) or self._keys[row] != user_key or self._counts[row] != feedback_count:
            return None
        return Adapter.from_arrays(adapter_of(self._rows[row].tobytes()))

    def wipe(self, user_key: int) -> None:
        """Overwrite an erased user's row, for every process that has it mapped."""
        row = int(np.searchsorted(self._keys, user_key))
        if row < len(self._keys) and self._keys[row] == user_key:
            mapped(self._folder / "counts.npy", "r+")[row] = GONE
            mapped(self._folder / "rows.npy", "r+")[row] = 0


async def write_adapters(folder: Path, n: int, pages: AsyncIterator[AdapterPage]) -> None:
    """Copy a version's n adapters, page by page.

    Raises
    ------
    CorruptModelError
        They are not alike, so that they cannot be rows of one table, or not n: somebody was erased meanwhile.
    """
    keys, counts = (
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.int64, (n,)) for name in ("keys", "counts")
    )
    rows, filled = None, 0
    async for page in pages:
        if rows is None:
            rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.uint8, (n, page.rows.shape[1]))
        place = slice(filled, filled + len(page.keys))
        if page.rows.shape[1] != rows.shape[1] or place.stop > n:
            raise CorruptModelError("Adapters of one version have different sizes, or became more.")
        await asyncio.to_thread(_put, (keys, counts, rows), place, (page.keys, page.counts, page.rows))
        filled = place.stop
    if rows is None or filled != n:
        raise CorruptModelError(f"There are {filled} adapters where {n} were counted.")
    for array in (keys, counts, rows):
        array.flush()


def _put(into: tuple[NDArray[Any], ...], place: slice, values: tuple[NDArray[Any], ...]) -> None:
    for array, some in zip(into, values, strict=True):
        array[place] = some
