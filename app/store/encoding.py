"""Arrays as bytes and values as JSON, the same on every machine."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain import CorruptModelError

FLOAT32 = np.dtype("<f4")
INT32 = np.dtype("<i4")

DIGEST_BYTES = 16
# 128 bits: enough that two contents of one environment never meet by chance.


def digest(*parts: bytes) -> bytes:
    """A hash in which the borders between the parts count."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def floats_to_bytes(values: NDArray[np.floating]) -> bytes:
    return np.ascontiguousarray(values, dtype=FLOAT32).tobytes()


def bytes_to_floats(data: bytes) -> NDArray[np.float32]:
    """(d,), read-only: the bytes are the array."""
    return np.frombuffer(data, dtype=FLOAT32)


def steps_to_bytes(states: Sequence[int], actions: Sequence[int]) -> bytes:
    return np.array([*states, *actions], dtype=INT32).tobytes()


def bytes_to_steps(data: bytes) -> list[list[int]]:
    """A trajectory as clients write it: [[state, action], ...]."""
    states, actions = np.frombuffer(data, dtype=INT32).reshape(2, -1).tolist()
    return [list(step) for step in zip(states, actions, strict=True)]


def portable(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same values in C order and little-endian."""
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).reshape(array.shape)


def pack_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Arrays by name as one value: a line of JSON that says what follows, then their bytes."""
    flat = {name: portable(np.asarray(array)) for name, array in arrays.items()}
    head = json.dumps([[name, array.dtype.str, list(array.shape)] for name, array in flat.items()])
    return b"".join([head.encode(), b"\n", *(array.tobytes() for array in flat.values())])


def unpack_arrays(data: bytes) -> dict[str, NDArray[np.generic]]:
    """The inverse of `pack_arrays`; the arrays are read-only."""
    try:
        head, body = data.split(b"\n", 1)
        arrays, offset = {}, 0
        for name, dtype, shape in json.loads(head):
            count = math.prod(shape)
            arrays[name] = np.frombuffer(body, np.dtype(dtype), count, offset).reshape(shape)
            offset += arrays[name].nbytes
    except (ValueError, TypeError) as error:
        raise CorruptModelError(f"A stored adapter cannot be read back: {error}.") from error
    return arrays


def to_json(value: Any) -> Any:
    """Plain JSON of numbers, arrays and mappings; what JSON cannot say (infinity, not a number) becomes null."""
    match value:
        case None | bool() | int() | str():
            return value
        case np.generic() | np.ndarray():
            return to_json(value.tolist())
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): to_json(entry) for key, entry in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(entry) for entry in value]
        case _:
            return str(value)
