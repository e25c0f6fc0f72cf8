"""Arithmetic on eight users at once: what the loops of `kernels` do to all lanes of a vector together.

Arrays are (..., LANES), contiguous float64; an index counts vectors of LANES numbers. Written as machine vectors,
because the compiler cannot know that two arrays don't overlap, and then takes one number at
a time.
"""

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
        factor = builder.load(builder.gep(factors, [values[5]]), align=8)
        with cgutils.for_range(builder, values[6]) as loop:
            place = builder.gep(target, [builder.add(values[1], loop.index)])
            other = builder.load(builder.gep(source, [builder.add(values[3], loop.index)]), align=8)
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
            first = builder.load(builder.gep(left, [builder.add(values[3], loop.index)]), align=8)
            second = builder.load(builder.gep(right, [builder.add(values[5], loop.index)]), align=8)
            product = builder.fmul(first, second, flags=_FAST)
            builder.store(builder.fadd(builder.load(total), product, flags=_FAST), total)
        builder.store(builder.load(total), place, align=8)
        return context.get_dummy_value()

    return _signature(y, at_y, a, at_a, b, at_b, count), build


def _vectors(context: Any, builder: Any, signature: Any, values: Any, argument: int) -> Any:
    """The data of an array argument as a pointer to vectors."""
    array = context.make_array(signature.args[argument])(context, builder, values[argument])
    return builder.bitcast(array.data, _VECTOR.as_pointer())


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


add_row: Any = intrinsic(_add_row)
add_rows: Any = intrinsic(_add_rows)
turn: Any = intrinsic(_turn)
fetch: Any = intrinsic(_fetch)
add_scaled: Any = intrinsic(_add_scaled)
add_product: Any = intrinsic(_add_product)
add_singles: Any = intrinsic(_add_singles)
