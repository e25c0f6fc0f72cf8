"""A part of an import as columns, as far as its lines are the usual ones."""

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.api.scanning import (
    CHOSEN,
    ID,
    LABEL,
    LINE,
    REJECTED,
    SPANS,
    UNUSUAL,
    USER,
    USUAL,
    WEIGHT,
    distinct,
    scan,
)
from app.api.schemas.base import LARGEST_WEIGHT
from app.domain import ItemPreferences
from app.store import prepare_import

MAX_LINE_BYTES = 1024 * 1024
"""Twice what two options of 4,096 features and a context take."""


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """What the lines of a part say: the usual ones as columns, the others as they came."""

    n: int
    usual: NDArray[np.int64]
    """(m,), from 0, which line a preference is."""
    preferences: ItemPreferences
    unusual: list[tuple[int, bytes]]
    """By number, from 0; blank lines are in neither."""


def read_lines(part: bytes, *, latest: int) -> Lines:
    """Read a part; runs beside other threads.

    Parameters
    ----------
    latest
        The last moment at which a preference can have occurred, in microseconds since 1970.
    """
    data = np.frombuffer(part if part.endswith(b"\n") else part + b"\n", dtype=np.uint8)
    room = int(np.count_nonzero(data == ord("\n")))
    spans = np.empty((room, SPANS), dtype=np.int32)
    label, weight = np.empty(room), np.empty(room)
    moment, kinds = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.uint8)
    n: int = scan(data, latest, spans, label, weight, moment, kinds)
    kinds[spans[:, LINE + 1] - spans[:, LINE] > MAX_LINE_BYTES] = UNUSUAL
    _read_long_numbers(part, spans[:, LABEL : LABEL + 2], label, kinds, least=0.0, most=1.0)
    _read_long_numbers(part, spans[:, WEIGHT : WEIGHT + 2], weight, kinds, least=5e-324, most=LARGEST_WEIGHT)
    usual = np.flatnonzero(kinds == USUAL)
    spans_usual = spans[usual]
    user, users = _numbered(data, part, spans_usual[:, USER], spans_usual[:, USER + 1])
    item, items = _numbered(
        data,
        part,
        np.concatenate([spans_usual[:, CHOSEN], spans_usual[:, REJECTED]]),
        np.concatenate([spans_usual[:, CHOSEN + 1], spans_usual[:, REJECTED + 1]]),
    )
    preferences = ItemPreferences(
        users=users,
        items=items,
        user=user,
        chosen=item[: len(usual)],
        rejected=item[len(usual) :],
        label=label[usual],
        weight=weight[usual],
        moment=moment[usual],
        text=data,
        id_begin=np.ascontiguousarray(spans_usual[:, ID]),
        id_end=np.ascontiguousarray(spans_usual[:, ID + 1]),
    )
    places = spans[:, LINE : LINE + 2]
    unusual = [(row, part[slice(*places[row].tolist())]) for row in np.flatnonzero(kinds == UNUSUAL).tolist()]
    return Lines(n, usual, preferences, unusual)


def prepare() -> None:
    """Compile what an import needs, or load it compiled."""
    prepare_import()
    read_lines(b'{"user":"u","chosen":{"item":"a"},"rejected":{"item":"b"},"id":"1"}\n', latest=0)


def _read_long_numbers(
    part: bytes,
    places: NDArray[np.int32],
    values: NDArray[np.float64],
    kinds: NDArray[np.uint8],
    *,
    least: float,
    most: float,
) -> None:
    """Those that the scan left because rounding them well takes more than one division."""
    for row in np.flatnonzero(np.isnan(values) & (kinds == USUAL)).tolist():
        value = float(part[slice(*places[row].tolist())])
        values[row] = value
        if not least <= value <= most:
            kinds[row] = UNUSUAL


def _numbered(
    data: NDArray[np.uint8], part: bytes, begins: NDArray[np.int32], ends: NDArray[np.int32]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Strings as numbers, and what each number stands for."""
    begins, ends = np.ascontiguousarray(begins), np.ascontiguousarray(ends)
    codes, firsts = np.empty(len(begins), dtype=np.int32), np.empty(len(begins), dtype=np.int32)
    firsts = firsts[: distinct(data, begins, ends, np.uint64(secrets.randbits(64)), codes, firsts)]
    pairs = zip(begins[firsts].tolist(), ends[firsts].tolist(), strict=True)
    return codes, tuple(part[begin:end].decode() for begin, end in pairs)
