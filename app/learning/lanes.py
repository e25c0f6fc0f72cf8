"""Arithmetic on eight users at once: what the loops of `kernels` do to all lanes of a vector together.

Arrays are (..., LANES), contiguous float64; an index counts vectors of LANES numbers. Written as machine vectors,
because the compiler cannot know that two arrays don't overlap, and then takes one number at
a time.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
"""Users that are solved together."""
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_SINGLES = ir.VectorType(ir.FloatType(), LANES)
_FAST = ("contract", "nsz", "reassoc")


def _add_scaled(_typing, y, at_y, x, at_x, a, at_a, count):
    """y[at_y + i] += a[at_a] * x[at_x + i] for i < count."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source, factors = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        factor = _load(builder, factors, values[5])
        with cgutils.for_range(builder, values[6]) as loop:
            place = builder.gep(target, [builder.add(values[1], loop.index)])
            other = _load(builder, source, values[3], loop.index)
            product = builder.fmul(factor, other, flags=_FAST)
            builder.store(builder.fadd(builder.load(place, align=8), product, flags=_FAST), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, a, at_a, count), build


def _add_product(_typing, y, at_y, a, at_a, b, at_b, count):
    """y[at_y] += the sum of a[at_a + i] * b[at_b + i] over i < count."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, left, right = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        place = builder.gep(target, [values[1]])
        total = cgutils.alloca_once_value(builder, builder.load(place, align=8))
        with cgutils.for_range(builder, values[6]) as loop:
            first = _load(builder, left, values[3], loop.index)
            second = _load(builder, right, values[5], loop.index)
            product = builder.fmul(first, second, flags=_FAST)
            builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
        builder.store(builder.load(total), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, a, at_a, b, at_b, count), build


ABREAST = 4
"""Rows that are worked on side by side, so that what they share is loaded once and no sum waits for another."""


def _add_products(_typing, y, at_y, a, at_a, b, at_b, rows, count):
    """y[at_y + r] += the sum of a[at_a + r * count + i] * b[at_b + i] over i < count, for r < rows."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, left, right = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        _, at_y, _, at_a, _, at_b, rows, count = values

        def some(r: Any, abreast: int) -> None:
            places = [builder.gep(target, [_plus(builder, at_y, r, i)]) for i in range(abreast)]
            totals = [cgutils.alloca_once_value(builder, builder.load(place, align=8)) for place in places]
            begins = [builder.add(at_a, builder.mul(_plus(builder, r, r.type(0), i), count)) for i in range(abreast)]
            with cgutils.for_range(builder, count) as loop:
                shared = _load(builder, right, at_b, loop.index)
                for begin, total in zip(begins, totals, strict=True):
                    own = _load(builder, left, begin, loop.index)
                    product = builder.fmul(own, shared, flags=_FAST)
                    builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
            for place, total in zip(places, totals, strict=True):
                builder.store(builder.load(total), place, align=8)

        _abreast(builder, rows, some)
        return context.get_dummy_value()

    return _signature(y, at_y, a, at_a, b, at_b, rows, count), build


def _add_scaled_rows(_typing, y, at_y, x, at_x, a, at_a, rows, count):
    """y[at_y + i] += the sum of a[at_a + r] * x[at_x + r * count + i] over r < rows, for i < count."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source, factors = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        _, at_y, _, at_x, _, at_a, rows, count = values

        def some(r: Any, abreast: int) -> None:
            own = [_load(builder, factors, _plus(builder, at_a, r, i)) for i in range(abreast)]
            begins = [builder.add(at_x, builder.mul(_plus(builder, r, r.type(0), i), count)) for i in range(abreast)]
            with cgutils.for_range(builder, count) as loop:
                place = builder.gep(target, [builder.add(at_y, loop.index)])
                total = builder.load(place, align=8)
                for factor, begin in zip(own, begins, strict=True):
                    other = _load(builder, source, begin, loop.index)
                    total = builder.fadd(total, builder.fmul(factor, other, flags=_FAST), flags=_FAST)
                builder.store(total, place, align=8)

        _abreast(builder, rows, some)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, a, at_a, rows, count), build


def _abreast(builder: Any, rows: Any, some: Callable[[Any, int], None]) -> None:
    """`some(r, ABREAST)` for groups of rows, and `some(r, 1)` for those left over."""
    several = rows.type(ABREAST)
    groups = builder.sdiv(rows, several)
    with cgutils.for_range(builder, groups) as loop:
        some(builder.mul(loop.index, several), ABREAST)
    with cgutils.for_range(builder, builder.srem(rows, several)) as loop:
        some(builder.add(builder.mul(groups, several), loop.index), 1)


def _plus(builder: Any, first: Any, second: Any, number: int) -> Any:
    return builder.add(builder.add(first, second), first.type(number))


def _take_triangle(_typing, y, at_y, a, at_a, b, at_b, rows):
    """y[at_y + r (r + 1) / 2 + i] -= a[at_a + r] * b[at_b + i] for i <= r < rows."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, left, right = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        _, at_y, _, at_a, _, at_b, rows = values
        one = rows.type(1)
        with cgutils.for_range(builder, rows) as outer:
            r = outer.index
            factor = _load(builder, left, at_a, r)
            begin = builder.add(at_y, builder.sdiv(builder.mul(r, builder.add(r, one)), rows.type(2)))
            with cgutils.for_range(builder, builder.add(r, one)) as loop:
                place = builder.gep(target, [builder.add(begin, loop.index)])
                other = _load(builder, right, at_b, loop.index)
                product = builder.fmul(factor, other, flags=_FAST)
                builder.store(builder.fsub(builder.load(place, align=8), product, flags=_FAST), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, a, at_a, b, at_b, rows), build


def _put(_typing, y, at_y, x, at_x, count):
    """y[at_y + i] = x[at_x + i] for i < count."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source = (_vectors(context, builder, signature, values, i) for i in (0, 2))
        with cgutils.for_range(builder, values[4]) as loop:
            other = _load(builder, source, values[3], loop.index)
            builder.store(other, builder.gep(target, [builder.add(values[1], loop.index)]), align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, count), build


def _put_scaled(_typing, y, at_y, x, at_x, a, at_a, count):
    """y[at_y + i] = a[at_a] * x[at_x + i] for i < count."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source, factors = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        factor = _load(builder, factors, values[5])
        with cgutils.for_range(builder, values[6]) as loop:
            other = _load(builder, source, values[3], loop.index)
            place = builder.gep(target, [builder.add(values[1], loop.index)])
            builder.store(builder.fmul(factor, other, flags=_FAST), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, a, at_a, count), build


def _put_inverse(_typing, y, at_y, x, at_x):
    """y[at_y] = 1 / x[at_x]."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source = (_vectors(context, builder, signature, values, i) for i in (0, 2))
        other = _load(builder, source, values[3])
        one = ir.Constant(_VECTOR, [1.0] * LANES)
        builder.store(builder.fdiv(one, other, flags=_FAST), builder.gep(target, [values[1]]), align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x), build


def _put_sum(_typing, y, at_y, a, at_a, b, at_b, count):
    """y[at_y + i] = a[at_a + i] + b[at_b + i] for i < count."""
    return _signature(y, at_y, a, at_a, b, at_b, count), _put_both("fadd")


def _put_difference(_typing, y, at_y, a, at_a, b, at_b, count):
    """y[at_y + i] = a[at_a + i] - b[at_b + i] for i < count."""
    return _signature(y, at_y, a, at_a, b, at_b, count), _put_both("fsub")


def _put_both(operation: str) -> Any:
    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, left, right = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        with cgutils.for_range(builder, values[6]) as loop:
            first = _load(builder, left, values[3], loop.index)
            second = _load(builder, right, values[5], loop.index)
            place = builder.gep(target, [builder.add(values[1], loop.index)])
            builder.store(getattr(builder, operation)(first, second, flags=_FAST), place, align=8)
        return context.get_dummy_value()

    return build


def _widest(_typing, y, at_y, a, at_a, b, at_b, rows):
    """y[at_y] = the largest of it and of |a[at_a + r] - b[at_b + r]| for r < rows."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, left, right = (_vectors(context, builder, signature, values, i) for i in (0, 2, 4))
        place = builder.gep(target, [values[1]])
        most = cgutils.alloca_once_value(builder, builder.load(place, align=8))
        with cgutils.for_range(builder, values[6]) as loop:
            first = _load(builder, left, values[3], loop.index)
            second = _load(builder, right, values[5], loop.index)
            for one, other in ((first, second), (second, first)):
                gap, known = builder.fsub(one, other, flags=_FAST), builder.load(most)
                builder.store(builder.select(builder.fcmp_ordered(">", gap, known), gap, known), most)
        builder.store(builder.load(most), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, a, at_a, b, at_b, rows), build


def _vectors(context: Any, builder: Any, signature: Any, values: Any, argument: int) -> Any:
    """The data of an array argument as a pointer to vectors."""
    array = context.make_array(signature.args[argument])(context, builder, values[argument])
    return builder.bitcast(array.data, _VECTOR.as_pointer())


def _load(builder: Any, vectors: Any, at: Any, further: Any = None) -> Any:
    """vectors[at + further], wherever the array begins."""
    place = at if further is None else builder.add(at, further)
    return builder.load(builder.gep(vectors, [place]), align=8)


def _signature(*arguments: Any) -> Any:
    taken = (a if isinstance(a, types.Array | types.Float) else types.intp for a in arguments)
    return types.void(*taken)


def _add_singles(_typing, y, at_y, x, at_x, count):
    """y[at_y + i] += x[at_x + i] for i < count, a multiple of LANES: x is flat float32, y flat float64."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source = (context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 2))
        vectors = builder.sdiv(values[4], ir.Constant(values[4].type, LANES))
        with cgutils.for_range(builder, vectors) as loop:
            step = builder.mul(loop.index, ir.Constant(values[4].type, LANES))
            place = _vector_at(builder, target, builder.add(values[1], step))
            there = builder.gep(source, [builder.add(values[3], step)])
            narrow = builder.load(builder.bitcast(there, _SINGLES.as_pointer()), align=4)
            total = builder.fadd(builder.load(place, align=8), builder.fpext(narrow, _VECTOR))
            builder.store(total, place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, count), build


def _add_row(_typing, y, at_y, x, at_x, factor, count):
    """y[at_y + i] += factor * x[at_x + i] for i < count, a multiple of LANES: both flat float64, one factor."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source = (context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 2))
        vector = _same(builder, values[4])
        with cgutils.for_range(builder, builder.sdiv(values[5], ir.Constant(values[5].type, LANES))) as loop:
            step = builder.mul(loop.index, ir.Constant(values[5].type, LANES))
            place = _vector_at(builder, target, builder.add(values[1], step))
            other = builder.load(_vector_at(builder, source, builder.add(values[3], step)), align=8)
            product = builder.fmul(vector, other, flags=_FAST)
            builder.store(builder.fadd(builder.load(place, align=8), product, flags=_FAST), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, factor, count), build


def _add_rows(_typing, y, at_y, x, at_x, factors, at_factor, count, wide):
    """y[at_y + i] += the sum of factors[at_factor + a] * x[at_x + a * wide + i] over a < count, for i < wide.

    All flat float64; wide is a multiple of LANES.
    """

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source, factor = (
            context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 2, 4)
        )
        with cgutils.for_range(builder, builder.sdiv(values[7], ir.Constant(values[7].type, LANES))) as block:
            step = builder.mul(block.index, ir.Constant(values[7].type, LANES))
            place = _vector_at(builder, target, builder.add(values[1], step))
            total = cgutils.alloca_once_value(builder, builder.load(place, align=8))
            with cgutils.for_range(builder, values[6]) as loop:
                row = builder.add(builder.add(values[3], step), builder.mul(loop.index, values[7]))
                other = builder.load(_vector_at(builder, source, row), align=8)
                one = builder.load(builder.gep(factor, [builder.add(values[5], loop.index)]))
                product = builder.fmul(_same(builder, one), other, flags=_FAST)
                builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
            builder.store(builder.load(total), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, at_x, factors, at_factor, count, wide), build


def _same(builder: Any, number: Any) -> Any:
    """A vector of one number."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    single = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, nothing, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _turn(_typing, y, at_y, x, wide):
    """y[at_y + i] = (x[0, i], ..., x[LANES - 1, i]) for i < wide: x (LANES, wide) is flat, wide a multiple of LANES."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target = _vectors(context, builder, signature, values, 0)
        source = context.make_array(signature.args[2])(context, builder, values[2]).data
        with cgutils.for_range(builder, builder.sdiv(values[3], ir.Constant(values[3].type, LANES))) as loop:
            step = builder.mul(loop.index, ir.Constant(values[3].type, LANES))
            rows = []
            for lane in range(LANES):
                begin = builder.mul(values[3], ir.Constant(values[3].type, lane))
                rows.append(builder.load(_vector_at(builder, source, builder.add(begin, step)), align=8))
            for i, row in enumerate(_transposed(builder, rows)):
                place = builder.add(builder.add(values[1], step), ir.Constant(values[1].type, i))
                builder.store(row, builder.gep(target, [place]), align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, x, wide), build


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """A square of vectors, by exchanging ever larger blocks off the diagonal."""
    size = 1
    while size < LANES:
        kept = [c if not c & size else LANES + c - size for c in range(LANES)]
        given = [c + size if not c & size else LANES + c for c in range(LANES)]
        first, second = (ir.Constant(ir.VectorType(ir.IntType(32), LANES), mask) for mask in (kept, given))
        for i in (i for i in range(LANES) if not i & size):
            upper, lower = rows[i], rows[i + size]
            rows[i] = builder.shuffle_vector(upper, lower, first)
            rows[i + size] = builder.shuffle_vector(upper, lower, second)
        size *= 2
    return rows


def _fetch(_typing, x, at_x):
    """Have x[at_x] of a flat array at hand soon: its cache line is loaded while other work goes on."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        place = builder.bitcast(builder.gep(data, [values[1]]), pointer)
        builder.call(function, [place, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return _signature(x, at_x), build


def _vector_at(builder: Any, data: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _bits_of(_typing, _x):
    """The bits of a float64, as an integer."""

    def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.IntType(64))

    return types.int64(types.float64), build


def _number_of(_typing, _bits):
    """The float64 that has these bits."""

    def build(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.DoubleType())

    return types.float64(types.int64), build


bits_of: Any = intrinsic(_bits_of)
number_of: Any = intrinsic(_number_of)
add_row: Any = intrinsic(_add_row)
add_rows: Any = intrinsic(_add_rows)
turn: Any = intrinsic(_turn)
fetch: Any = intrinsic(_fetch)
add_scaled: Any = intrinsic(_add_scaled)
add_product: Any = intrinsic(_add_product)
add_singles: Any = intrinsic(_add_singles)
add_products: Any = intrinsic(_add_products)
add_scaled_rows: Any = intrinsic(_add_scaled_rows)
take_triangle: Any = intrinsic(_take_triangle)
put: Any = intrinsic(_put)
put_difference: Any = intrinsic(_put_difference)
put_inverse: Any = intrinsic(_put_inverse)
put_scaled: Any = intrinsic(_put_scaled)
put_sum: Any = intrinsic(_put_sum)
widest: Any = intrinsic(_widest)
