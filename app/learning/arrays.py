"""Array types and small conventions shared by the numeric core."""

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

Real = NDArray[np.float64]
Int = NDArray[np.int64]
Sparse = csr_array[Any, Any]
Table = Real | Sparse
Number = TypeVar("Number", bound=np.generic)
LINE = 64
"""Bytes of a cache line."""
AT_HAND = 2**18
"""Bytes of a table that a core's own cache holds, wherever its rows begin."""


def real(values: ArrayLike) -> Real:
    """A read-only float64 view or copy of `values`."""
    array = np.asarray(values, dtype=np.float64).view()
    array.flags.writeable = False
    return array


def table(values: ArrayLike | Sparse) -> Table:
    """A table of features: `real`, unless it is sparse."""
    return csr_array(values).astype(np.float64) if isinstance(values, csr_array) else real(values)


def integers(values: ArrayLike) -> Int:
    """A read-only int64 view or copy of `values`."""
    array = np.asarray(values, dtype=np.int64).view()
    array.flags.writeable = False
    return array


def writable(array: NDArray[Number]) -> NDArray[Number]:
    """The array itself where compiled loops can take it as it is, else a copy: so they are compiled once."""
    return array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")


def occurring(index: Int, size: int) -> Int:
    """The distinct entries of an index into `size` rows, ascending, without sorting a long one."""
    if len(index) < size // 2:
        return np.unique(index)
    occurs = np.zeros(size, dtype=np.bool_)
    occurs[index] = True
    return np.flatnonzero(occurs)


def on_lines(shape: tuple[int, ...], dtype: type[np.floating[Any]] = np.float64) -> NDArray[Any]:
    """Zeros that begin with a cache line, so that short rows lie on as few as they can."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < AT_HAND:
        return np.zeros(shape, dtype)
    room = np.zeros(size + LINE, dtype=np.uint8)
    begin = -room.ctypes.data % LINE
    return room[begin : begin + size].view(dtype).reshape(shape)


def product(left: Any, right: Any) -> Real:
    """`left @ right` as a dense array, whichever of the two is sparse."""
    return np.asarray(left @ right, dtype=np.float64)


def sigmoid(eta: Real) -> Real:
    return np.exp(-np.logaddexp(0.0, -eta))


def curvature(eta: Real) -> Real:
    """sigma'(eta), computed without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -eta) - np.logaddexp(0.0, eta)))


def symmetric(matrix: Real) -> Real:
    return np.asarray(0.5 * (matrix + np.swapaxes(matrix, -1, -2)))


def inverse(matrix: Real) -> Real:
    """The inverse of the last two axes; of an empty matrix, itself."""
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64) if matrix.shape[-1] else matrix
