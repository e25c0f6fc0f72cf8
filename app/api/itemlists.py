"""A list of items as bytes, as requests have it and as answers have it: read and written by compiled loops.

    {"options":[{"item":"a"},{"item":"b"}]}   ->   where the ids stand
    rewards as numbers                        ->   {"reward":0.5,"stderr":0.25,"lower":0.01,"upper":0.99},...

White space may stand wherever JSON allows it. Whatever else a body has, it is no such list, and somebody else finds out
what it is. Decoding into objects, one for each item, would cost more than everything else that is done for them.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from app.serving import IdsInText, IdTable, with_intervals

Real = NDArray[np.float64]

_LARGEST = 999_999.0
"""Beyond it, doubles have no nine decimals."""

_OPTIONS, _ITEM = (np.frombuffer(word, dtype=np.uint8) for word in (b'"options"', b'"item"'))
_NAMES = (b'{"reward":', b',"stderr":', b',"lower":', b',"upper":')
_REWARD, _STDERR, _LOWER, _UPPER = (np.frombuffer(name, dtype=np.uint8) for name in _NAMES)
_ROW_BYTES = len(b"".join(_NAMES)) + 4 * len(b"-100000.123456789") + len(b"},")
_THOUSANDS = np.frombuffer(b"".join(b"%03d" % number for number in range(1000)), dtype=np.uint8).reshape(1000, 3)
_BILLION, _MILLION, _THOUSAND = np.uint64(1_000_000_000), np.uint32(1_000_000), np.uint32(1_000)

_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST, _COLON, _COMMA, _QUOTE, _BACKSLASH = b'{}[]:,"\\'
_ZERO, _POINT, _MINUS = b"0.-"
_SPACE, _TAB, _LINE, _RETURN = b" \t\n\r"


def read_items(body: bytes, most: int) -> IdsInText | None:
    """The ids in a body that lists at least one item and at most so many, and says nothing else."""
    text = np.frombuffer(body, dtype=np.uint8)
    spans = _read(text, most)
    return IdsInText(text, spans) if len(spans) else None


def write_rewards(numbers: Real) -> bytes | None:
    """Rewards (n, 4) of nine decimals as the inside of a list; None where one is too large for this."""
    out = np.empty(len(numbers) * _ROW_BYTES, dtype=np.uint8)
    length = _write(numbers, out)
    return out[:length].tobytes() if length else None


def prepare() -> None:
    """Compile the loops, or load them compiled, before somebody waits for them."""
    found = read_items(b'{"options":[{"item":"a"}]}', 1)
    assert found is not None
    assert IdTable.of(["a"]).rows(found) is not None
    assert write_rewards(with_intervals(np.zeros(1), np.zeros(1), 1.0)) is not None


@njit(nogil=True, cache=True, error_model="numpy")
def _read(text, most):
    """(n, 2) of the ids, (0, 2) if this is something else."""
    spans, nothing = np.empty((most, 2), dtype=np.int64), np.empty((0, 2), dtype=np.int64)
    at = _sign(text, _sign(text, _word(text, _sign(text, _skip(text, 0), _OPEN), _OPTIONS), _COLON), _OPEN_LIST)
    n = 0
    while at >= 0 and n < most:
        begin = _sign(text, _word(text, _sign(text, at, _OPEN), _ITEM), _COLON)
        if begin < 0 or begin >= len(text) or text[begin] != _QUOTE:
            return nothing
        begin += 1
        end = begin
        while end < len(text) and text[end] != _QUOTE:
            if text[end] < _SPACE or text[end] == _BACKSLASH or text[end] > 126:
                return nothing
            end += 1
        spans[n, 0], spans[n, 1] = begin, end
        n += 1
        at = _sign(text, _skip(text, end + 1), _CLOSE)
        if at < 0 or at >= len(text):
            return nothing
        if text[at] == _CLOSE_LIST:
            return spans[:n] if _sign(text, _sign(text, at, _CLOSE_LIST), _CLOSE) == len(text) else nothing
        at = _sign(text, at, _COMMA)
    return nothing


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _skip(text, at):
    while at < len(text) and (text[at] == _SPACE or text[at] == _LINE or text[at] == _TAB or text[at] == _RETURN):
        at += 1
    return at


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _sign(text, at, sign):
    """Behind a sign and the white space after it; -1 if something else is here, or was before."""
    return _skip(text, at + 1) if 0 <= at < len(text) and text[at] == sign else -1


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _word(text, at, word):
    """The same for a word."""
    if at < 0 or at + len(word) > len(text):
        return -1
    for place in range(len(word)):
        if text[at + place] != word[place]:
            return -1
    return _skip(text, at + len(word))


@njit(nogil=True, cache=True, error_model="numpy")
def _write(numbers, out):
    at = 0
    for row in range(len(numbers)):
        for place in range(4):
            if not abs(numbers[row, place]) <= _LARGEST:
                return 0
        if row:
            out[at] = _COMMA
            at += 1
        at = _number(out, _put(out, at, _REWARD), numbers[row, 0])
        at = _number(out, _put(out, at, _STDERR), numbers[row, 1])
        at = _number(out, _put(out, at, _LOWER), numbers[row, 2])
        at = _number(out, _put(out, at, _UPPER), numbers[row, 3])
        out[at] = _CLOSE
        at += 1
    return at


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _put(out, at, word):
    for place in range(len(word)):
        out[at + place] = word[place]
    return at + len(word)


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _number(out, at, value):
    """As few decimals as it takes, at least one."""
    billionths = np.uint64(np.rint(abs(value) * 1e9))
    if value < 0.0:
        out[at] = _MINUS
        at += 1
    whole, rest = np.uint32(billionths // _BILLION), np.uint32(billionths % _BILLION)
    if whole < _THOUSAND:
        at = _digits(out, at, whole, shortest=True)
    else:
        at = _digits(out, _digits(out, at, whole // _THOUSAND, shortest=True), whole % _THOUSAND, shortest=False)
    out[at] = _POINT
    at = _digits(out, at + 1, rest // _MILLION, shortest=False)
    at = _digits(out, at, rest // _THOUSAND % _THOUSAND, shortest=False)
    at = _digits(out, at, rest % _THOUSAND, shortest=False)
    while out[at - 1] == _ZERO and out[at - 2] != _POINT:
        at -= 1
    return at


@njit(nogil=True, cache=True, error_model="numpy", inline="always")
def _digits(out, at, number, shortest):
    """Three of a number below a thousand; without noughts before it, if it shall be short."""
    first = 0
    if shortest:
        first = 2 if number < 10 else 1 if number < 100 else 0
    for place in range(first, 3):
        out[at] = _THOUSANDS[number, place]
        at += 1
    return at
