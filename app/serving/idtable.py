"""Finds many ids at once where they stand in a request's bytes: a hash table in two arrays.

A dictionary needs a string for each id first, and then visits several objects that lie apart. Here a slot has half of
an id's hash beside its row and the place of its text, so that a look-up touches one slot and the id's own bytes. Open
addressing, linear probing, at most half full. Hashes begin at a random seed, so that nobody can choose ids that fall
together.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Int = NDArray[np.int64]

_PRIME = np.uint64(0x100000001B3)
_STIR = np.uint64(0x9E3779B97F4A7C15)
_UPPER = np.uint64(0xFFFFFFFF00000000)
_LOWER = np.uint64(0x00000000FFFFFFFF)
_NOTHING, _ONE, _PART, _HALF = np.uint64(0), np.uint64(1), np.uint64(7), np.uint64(32)


@dataclass(frozen=True, slots=True, eq=False)
class IdsInText:
    """Ids where they stand in somebody's bytes; no id has a zero byte in it."""

    text: Bytes
    spans: Int
    """(n, 2) where each begins and ends."""

    def __len__(self) -> int:
        return len(self.spans)

    @classmethod
    def of(cls, ids: Sequence[str]) -> "IdsInText":
        """A zero byte ends each."""
        encoded = [one.encode() for one in ids]
        lengths = np.fromiter(map(len, encoded), np.int64, count=len(encoded))
        ends = np.cumsum(lengths + 1) - 1
        text = np.frombuffer(b"\0".join([*encoded, b""]), dtype=np.uint8)
        return cls(text, np.stack((ends - lengths, ends), axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class IdTable:
    """The rows of M different ids."""

    text: Bytes
    """All of them, a zero byte behind each."""
    slots: NDArray[np.uint64]
    """(size, 2): half of the hash and 1 + the row, or 0 where the slot is free; where the id begins."""
    seed: np.uint64

    @classmethod
    def of(cls, ids: Sequence[str]) -> "IdTable":
        placed = IdsInText.of(ids)
        slots = np.zeros((1 << max(4, (2 * len(ids)).bit_length()), 2), dtype=np.uint64)
        seed = np.uint64(secrets.randbits(64))
        _fill(placed.text, placed.spans, seed, slots)
        return cls(placed.text, slots, seed)

    def places(self, wanted: IdsInText) -> Int:
        """(n,) where each id stands; -1 for those that are not there."""
        found = np.empty(len(wanted), dtype=np.int64)
        _find(wanted.text, wanted.spans, self.text, self.slots, self.seed, found)
        return found

    def rows(self, wanted: IdsInText) -> Int | None:
        """(n,) where each id stands; None if one of them is not there."""
        found = np.empty(len(wanted), dtype=np.int64)
        missing = _find(wanted.text, wanted.spans, self.text, self.slots, self.seed, found)
        return None if missing else found


@njit(nogil=True, cache=True, inline="always")
def hash_of_text(text, begin, end, seed):
    """FNV-1a, stirred once, because its upper half alone is compared."""
    h = seed
    for place in range(begin, end):
        h = (h ^ np.uint64(text[place])) * _PRIME
    return (h ^ (h >> _HALF)) * _STIR


@njit(nogil=True, cache=True)
def _fill(text, spans, seed, slots):
    mask = np.uint64(len(slots) - 1)
    for row in range(len(spans)):
        h = hash_of_text(text, spans[row, 0], spans[row, 1], seed)
        slot = (h >> _PART) & mask
        while slots[slot, 0] != _NOTHING:
            slot = (slot + _ONE) & mask
        slots[slot, 0] = (h & _UPPER) | np.uint64(row + 1)
        slots[slot, 1] = np.uint64(spans[row, 0])


@njit(nogil=True, cache=True)
def _find(text, spans, own, slots, seed, found):
    """How many are not there.

    Each step is taken for all ids before the next one, so that the memory that they wait for is fetched side by side.
    """
    n, mask, missing = len(spans), np.uint64(len(slots) - 1), 0
    hashes, places = np.empty(n, dtype=np.uint64), np.empty(n, dtype=np.uint64)
    for i in range(n):
        hashes[i] = hash_of_text(text, spans[i, 0], spans[i, 1], seed)
    for i in range(n):
        places[i] = _probe(slots, mask, hashes[i], (hashes[i] >> _PART) & mask)
    for i in range(n):
        slot = places[i]
        while slots[slot, 0] != _NOTHING and not _same(text, spans[i, 0], spans[i, 1], own, np.int64(slots[slot, 1])):
            slot = _probe(slots, mask, hashes[i], (slot + _ONE) & mask)
        found[i] = np.int64(slots[slot, 0] & _LOWER) - 1
        missing += found[i] < 0
    return missing


@njit(nogil=True, cache=True, inline="always")
def _probe(slots, mask, h, slot):
    """The next slot that is free, or whose id has half of this hash."""
    while slots[slot, 0] != _NOTHING and (slots[slot, 0] ^ h) & _UPPER != _NOTHING:
        slot = (slot + _ONE) & mask
    return slot


@njit(nogil=True, cache=True, inline="always")
def _same(text, begin, end, own, place):
    """The id that begins at a place of the table's text, and ends there."""
    if place + end - begin >= len(own):
        return False
    differences = own[place + end - begin]
    for at in range(end - begin):
        differences |= own[place + at] ^ text[begin + at]
    return differences == 0
