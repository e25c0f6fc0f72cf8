"""Memory that refits have used, given back to the system.

The C library keeps what was freed for later, in a heap for every few threads, and each heap stays as large as it ever
was while anything at its end is in use. Refits are done in whichever thread is idle, so that every heap of a worker
comes to be as large as the largest refit, piece by piece, for hours: what is in use stays the same meanwhile.
"""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Every whole page that is free, wherever it lies; milliseconds. Nothing where the C library cannot."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """GNU's `malloc_trim`; neither macOS nor musl has it."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
