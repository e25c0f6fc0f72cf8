"""The instructions of `app/learning/lanes.py` by NumPy, under their names there: what loops do that run uncompiled."""

from typing import Any

import numpy as np


def vectors(array: Any) -> Any:
    return array.reshape(-1, 8)


def add_scaled(y: Any, at_y: int, x: Any, at_x: int, a: Any, at_a: int, count: int) -> None:
    vectors(y)[at_y : at_y + count] += vectors(a)[at_a] * vectors(x)[at_x : at_x + count]


def add_product(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, count: int) -> None:
    vectors(y)[at_y] += (vectors(a)[at_a : at_a + count] * vectors(b)[at_b : at_b + count]).sum(axis=0)


def add_singles(y: Any, at_y: int, x: Any, at_x: int, count: int) -> None:
    add_row(y, at_y, x, at_x, 1.0, count)


def add_row(y: Any, at_y: int, x: Any, at_x: int, factor: float, count: int) -> None:
    y.reshape(-1)[at_y : at_y + count] += factor * x.reshape(-1)[at_x : at_x + count]


def add_rows(y: Any, at_y: int, x: Any, at_x: int, factors: Any, at_factor: int, count: int, wide: int) -> None:
    for a in range(count):
        add_row(y, at_y, x, at_x + a * wide, factors.reshape(-1)[at_factor + a], wide)


def turn(y: Any, at_y: int, x: Any, wide: int) -> None:
    vectors(y)[at_y : at_y + wide] = x.reshape(-1)[: 8 * wide].reshape(8, wide).T


def fetch(_x: Any, _at_x: int) -> None:
    pass


def add_products(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, rows: int, count: int) -> None:
    for r in range(rows):
        add_product(y, at_y + r, a, at_a + r * count, b, at_b, count)


def add_scaled_rows(y: Any, at_y: int, x: Any, at_x: int, a: Any, at_a: int, rows: int, count: int) -> None:
    for r in range(rows):
        add_scaled(y, at_y, x, at_x + r * count, a, at_a + r, count)


def take_triangle(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, rows: int) -> None:
    for r in range(rows):
        begin = at_y + r * (r + 1) // 2
        vectors(y)[begin : begin + r + 1] -= vectors(a)[at_a + r] * vectors(b)[at_b : at_b + r + 1]


def put(y: Any, at_y: int, x: Any, at_x: int, count: int) -> None:
    vectors(y)[at_y : at_y + count] = vectors(x)[at_x : at_x + count]


def put_scaled(y: Any, at_y: int, x: Any, at_x: int, a: Any, at_a: int, count: int) -> None:
    vectors(y)[at_y : at_y + count] = vectors(a)[at_a] * vectors(x)[at_x : at_x + count]


def put_inverse(y: Any, at_y: int, x: Any, at_x: int) -> None:
    vectors(y)[at_y] = 1.0 / vectors(x)[at_x]


def put_sum(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, count: int) -> None:
    vectors(y)[at_y : at_y + count] = vectors(a)[at_a : at_a + count] + vectors(b)[at_b : at_b + count]


def put_difference(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, count: int) -> None:
    vectors(y)[at_y : at_y + count] = vectors(a)[at_a : at_a + count] - vectors(b)[at_b : at_b + count]


def widest(y: Any, at_y: int, a: Any, at_a: int, b: Any, at_b: int, rows: int) -> None:
    gaps = np.abs(vectors(a)[at_a : at_a + rows] - vectors(b)[at_b : at_b + rows])
    vectors(y)[at_y] = np.fmax(vectors(y)[at_y], np.fmax.reduce(gaps, axis=0, initial=0.0))


def bits_of(x: float) -> int:
    return int(np.float64(x).view(np.int64))


def number_of(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))
