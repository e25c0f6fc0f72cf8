"""Rows in COPY's binary format, written by compiled code from columns."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

NULL = np.iinfo(np.int64).min
"""A field that is NULL."""

_HEAD = np.frombuffer(b"PGCOPY\n\xff\r\n\x00" + bytes(8), dtype=np.uint8)

_FIELD_BYTES = 12
# A length and eight bytes.


def binary_rows(
    fields: NDArray[np.int64], text: NDArray[np.uint8], begins: NDArray[np.int32], ends: NDArray[np.int32]
) -> memoryview:
    """All rows of a COPY.

    Parameters
    ----------
    fields
        (n, f): bigints and timestamps (microseconds since 2000) as they are, double precision by their bits.
    text, begins, ends
        One more field, the last: text[begins[i]:ends[i]], NULL if empty.
    """
    n, width = fields.shape
    size = len(_HEAD) + 2 + n * (2 + width * _FIELD_BYTES + 4) + int((ends - begins).sum(dtype=np.int64))
    out = np.empty(size, dtype=np.uint8)
    out[: len(_HEAD)] = _HEAD
    end: int = _write(fields, text, begins, ends, out, len(_HEAD))
    # -1 of 16 bits ends them.
    out[end : end + 2] = 255
    return out[: end + 2].data


def prepare() -> None:
    """Compile it, or load it compiled."""
    nothing = np.zeros(0, dtype=np.int32)
    binary_rows(np.zeros((0, 1), dtype=np.int64), np.zeros(0, dtype=np.uint8), nothing, nothing)


@njit(nogil=True, cache=True)
def _write(fields, text, begins, ends, out, at):
    n, width = fields.shape
    for row in range(n):
        out[at] = (width + 1) >> 8
        out[at + 1] = (width + 1) & 255
        at += 2
        for column in range(width):
            value = fields[row, column]
            if value == NULL:
                at = _put_length(out, at, -1)
                continue
            at = _put_length(out, at, 8)
            for byte in range(8):
                out[at + byte] = (value >> (56 - 8 * byte)) & 255
            at += 8
        length = ends[row] - begins[row]
        at = _put_length(out, at, length or -1)
        for index in range(length):
            out[at + index] = text[begins[row] + index]
        at += length
    return at


@njit(nogil=True, cache=True)
def _put_length(out, at, length):
    for byte in range(4):
        out[at + byte] = (length >> (24 - 8 * byte)) & 255
    return at + 4
