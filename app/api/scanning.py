"""The usual lines of an import, read by compiled code into columns: preferences between items of a catalogue.

`scan` takes a line only if it is sure of it, in a narrower language than JSON: known keys, each once; ids without
escapes; a time in its usual form. Every other line is left to the readers of `app.api.decoding` and pydantic, which
know what it means or what is wrong with it. `tests/api/test_decoding.py` holds them against each other. A row of
`spans` has the places (begin, end) of what a line says, in the order of the constants below; 0, 0 is: nothing.
"""

import numpy as np
from numba import njit

from app.api.schemas.base import LARGEST_WEIGHT, MAX_ID
from app.serving import hash_of_text

UNUSUAL, USUAL, BLANK = 0, 1, 2
USER, CHOSEN, REJECTED, ID, LABEL, WEIGHT, LINE = 0, 2, 4, 6, 8, 10, 12
SPANS = 14

ABSENT = -1
"""The moment of a line without one."""

EXACT_DIGITS = 15
"""Decimal numbers of so many digits are quotients of two exact floats, and so rounded once."""

_QUOTE, _COLON, _COMMA, _OPEN, _CLOSE, _NEWLINE = 34, 58, 44, 123, 125, 10
_ZERO, _MINUS, _PLUS, _DOT = 48, 45, 43, 46

_IS_ID = np.zeros(256, dtype=np.bool_)
_IS_ID[np.frombuffer(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._~:@-", dtype=np.uint8)] = True
_POWERS = 10.0 ** np.arange(EXACT_DIGITS + 1)


def _word(text):
    return np.frombuffer(text, dtype=np.uint8)


_USER, _CHOSEN, _REJECTED, _ID = _word(b"user"), _word(b"chosen"), _word(b"rejected"), _word(b"id")
_LABEL, _WEIGHT, _MOMENT, _CONTEXT = _word(b"label"), _word(b"weight"), _word(b"occurred_at"), _word(b"context")
_ITEM, _NULL = _word(b"item"), _word(b"null")


@njit(nogil=True, cache=True)
def scan(data, latest, spans, label, weight, moment, kinds):
    """Read lines, each ended by a newline; how many there were.

    A number of more digits than can be exact here is left as not a number, its place in `spans`. `latest` is the last
    moment that is taken; moments are microseconds since 1970.
    """
    row, begin, size = 0, 0, len(data)
    while begin < size:
        end = begin
        while data[end] != _NEWLINE:
            end += 1
        spans[row, :] = 0
        spans[row, LINE], spans[row, LINE + 1] = begin, end
        label[row], weight[row], moment[row] = 1.0, 1.0, ABSENT
        at = _skip(data, begin)
        if at == end:
            kinds[row] = BLANK
        else:
            kinds[row] = USUAL if _line(data, at, end, latest, spans[row], row, label, weight, moment) else UNUSUAL
        row += 1
        begin = end + 1
    return row


@njit(nogil=True, cache=True)
def _line(data, at, end, latest, spans, row, label, weight, moment):
    """One object, as far as it is usual. A newline is in no class of bytes, so nothing reads past the line's end."""
    if data[at] != _OPEN:
        return False
    seen_moment = seen_context = seen_id = False
    while True:
        begin = _skip(data, at + 1)
        stop = _id_end(data, begin)
        if stop < 0:
            return False
        begin += 1
        at = _skip(data, stop + 1)
        if data[at] != _COLON:
            return False
        at = _skip(data, at + 1)
        if _is(data, begin, stop, _USER) and spans[USER] == 0:
            at = _string(data, at, spans, USER)
        elif _is(data, begin, stop, _CHOSEN) and spans[CHOSEN] == 0:
            at = _item(data, at, spans, CHOSEN)
        elif _is(data, begin, stop, _REJECTED) and spans[REJECTED] == 0:
            at = _item(data, at, spans, REJECTED)
        elif _is(data, begin, stop, _ID) and not seen_id:
            seen_id = True
            at = _null(data, at) if data[at] != _QUOTE else _string(data, at, spans, ID)
        elif _is(data, begin, stop, _LABEL) and spans[LABEL] == 0:
            at = _number(data, at, spans, LABEL, row, label)
            if label[row] > 1.0:
                return False
        elif _is(data, begin, stop, _WEIGHT) and spans[WEIGHT] == 0:
            at = _number(data, at, spans, WEIGHT, row, weight)
            if weight[row] <= 0.0 or weight[row] > LARGEST_WEIGHT:
                return False
        elif _is(data, begin, stop, _MOMENT) and not seen_moment:
            seen_moment = True
            at = _null(data, at) if data[at] != _QUOTE else _time(data, at, latest, row, moment)
        elif _is(data, begin, stop, _CONTEXT) and not seen_context:
            seen_context = True
            at = _null(data, at)
        else:
            return False
        if at < 0:
            return False
        at = _skip(data, at)
        if data[at] != _COMMA:
            break
    if data[at] != _CLOSE or _skip(data, at + 1) != end:
        return False
    return spans[USER] and spans[CHOSEN] and spans[REJECTED] and not _same(data, spans, CHOSEN, REJECTED)


@njit(nogil=True, cache=True)
def _skip(data, at):
    while data[at] == 32 or data[at] == 9 or data[at] == 13:
        at += 1
    return at


@njit(nogil=True, cache=True)
def _is(data, begin, stop, word):
    if stop - begin != len(word):
        return False
    for index in range(len(word)):
        if data[begin + index] != word[index]:
            return False
    return True


@njit(nogil=True, cache=True)
def _same(data, spans, one, other):
    begin, stop = spans[one], spans[one + 1]
    return _is(data, spans[other], spans[other + 1], data[begin:stop])


@njit(nogil=True, cache=True)
def _id_end(data, at):
    """Where the id ends that begins with a quote here, or -1: it is none."""
    if data[at] != _QUOTE:
        return -1
    begin = at + 1
    stop = begin
    while _IS_ID[data[stop]]:
        stop += 1
    return stop if data[stop] == _QUOTE and 0 < stop - begin <= MAX_ID else -1


@njit(nogil=True, cache=True)
def _string(data, at, spans, which):
    stop = _id_end(data, at)
    if stop < 0:
        return -1
    spans[which], spans[which + 1] = at + 1, stop
    return stop + 1


@njit(nogil=True, cache=True)
def _item(data, at, spans, which):
    if data[at] != _OPEN:
        return -1
    at = _skip(data, at + 1)
    stop = _id_end(data, at)
    if stop < 0 or not _is(data, at + 1, stop, _ITEM):
        return -1
    at = _skip(data, stop + 1)
    if data[at] != _COLON:
        return -1
    at = _string(data, _skip(data, at + 1), spans, which)
    if at < 0:
        return -1
    at = _skip(data, at)
    return at + 1 if data[at] == _CLOSE else -1


@njit(nogil=True, cache=True)
def _null(data, at):
    for index in range(4):
        if data[at + index] != _NULL[index]:
            return -1
    return at + 4


@njit(nogil=True, cache=True)
def _digit(data, at):
    return 48 <= data[at] <= 57


@njit(nogil=True, cache=True)
def _number(data, at, spans, which, row, values):
    """A number that is not negative."""
    begin, mantissa, digits, decimals = at, np.int64(0), 0, 0
    if not _digit(data, at) or (data[at] == _ZERO and _digit(data, at + 1)):
        return -1
    while _digit(data, at):
        if digits < EXACT_DIGITS:
            mantissa = mantissa * 10 + (np.int64(data[at]) - _ZERO)
        digits += 1
        at += 1
    if data[at] == _DOT:
        at += 1
        first = at
        while _digit(data, at):
            if digits < EXACT_DIGITS:
                mantissa = mantissa * 10 + (np.int64(data[at]) - _ZERO)
            digits += 1
            at += 1
        decimals = at - first
        if decimals == 0:
            return -1
    is_exact = digits <= EXACT_DIGITS
    if data[at] == 69 or data[at] == 101:
        is_exact = False
        at += 1
        if data[at] == _PLUS or data[at] == _MINUS:
            at += 1
        first = at
        while _digit(data, at):
            at += 1
        if at == first:
            return -1
    spans[which], spans[which + 1] = begin, at
    values[row] = mantissa / _POWERS[decimals] if is_exact else np.nan
    return at


@njit(nogil=True, cache=True)
def _two(data, at):
    """A number of two digits, or -1."""
    if not (_digit(data, at) and _digit(data, at + 1)):
        return -1
    return (data[at] - _ZERO) * 10 + (data[at + 1] - _ZERO)


@njit(nogil=True, cache=True)
def _time(data, at, latest, row, moment):
    """A time in quotes, YYYY-MM-DDTHH:MM:SS, perhaps with up to six decimals, and Z or an offset."""
    begin = at + 1
    stop = begin
    while data[stop] != _QUOTE and data[stop] != _NEWLINE:
        stop += 1
    # Nothing below reads further than the end of such a string, and shorter ones are none.
    if data[stop] != _QUOTE or stop - begin < 20 or stop - begin > 32:
        return -1
    century, year, month, day = _two(data, begin), _two(data, begin + 2), _two(data, begin + 5), _two(data, begin + 8)
    hour, minute, second = _two(data, begin + 11), _two(data, begin + 14), _two(data, begin + 17)
    if min(century, year, month, day, hour, minute, second) < 0:
        return -1
    year += century * 100
    if data[begin + 4] != _MINUS or data[begin + 7] != _MINUS or data[begin + 10] != 84:
        return -1
    if data[begin + 13] != _COLON or data[begin + 16] != _COLON:
        return -1
    if year < 1970 or month < 1 or month > 12 or day < 1 or day > _days(year, month):
        return -1
    if hour > 23 or minute > 59 or second > 59:
        return -1
    at = begin + 19
    micros, decimals = 0, 0
    if data[at] == _DOT:
        at += 1
        while _digit(data, at) and decimals < 7:
            micros = micros * 10 + (data[at] - _ZERO)
            decimals += 1
            at += 1
        if decimals < 1 or decimals > 6:
            return -1
        for _ in range(6 - decimals):
            micros *= 10
    offset = 0
    if data[at] == 90:
        at += 1
    elif (data[at] == _PLUS or data[at] == _MINUS) and at + 6 == stop:
        hours, minutes = _two(data, at + 1), _two(data, at + 4)
        if data[at + 3] != _COLON or hours < 0 or hours > 23 or minutes < 0 or minutes > 59:
            return -1
        offset = (hours * 60 + minutes) * (1 if data[at] == _PLUS else -1)
        at += 6
    if at != stop:
        return -1
    seconds = ((_day_number(year, month, day) * 24 + hour) * 60 + minute - offset) * 60 + second
    found = seconds * 1_000_000 + micros
    if found < 0 or found > latest:
        return -1
    moment[row] = found
    return stop + 1


@njit(nogil=True, cache=True)
def _days(year, month):
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


@njit(nogil=True, cache=True)
def _day_number(year, month, day):
    """Days since 1970-01-01, in the Gregorian calendar; years are counted from March."""
    if month <= 2:
        year -= 1
        month += 12
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719_469


@njit(nogil=True, cache=True)
def distinct(data, begins, ends, seed, codes, firsts):
    """Number strings by their first occurrence; how many are different.

    `codes[i]` is string i's number, `firsts[c]` the first string with number c. The seed is random, so that nobody can
    choose strings that fall together.
    """
    slots = 16
    while slots < 2 * len(begins):
        slots *= 2
    table = np.full(slots, -1, dtype=np.int32)
    n = 0
    for index in range(len(begins)):
        begin, stop = begins[index], ends[index]
        slot = np.int64((hash_of_text(data, begin, stop, seed) >> np.uint64(32)) & np.uint64(slots - 1))
        while table[slot] >= 0:
            first = firsts[table[slot]]
            if _is(data, begins[first], ends[first], data[begin:stop]):
                break
            slot = (slot + 1) & (slots - 1)
        if table[slot] < 0:
            table[slot] = n
            firsts[n] = index
            n += 1
        codes[index] = table[slot]
    return n
