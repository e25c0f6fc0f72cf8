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
    taken = (a if isinstance(a, types.Array) else types.intp for a in arguments)
    return types.void(*taken)


def _add_singles(_typing, y, x, at_x, count):
    """y[i] += x[at_x + i] for i < count, a multiple of LANES: x is flat float32, y flat float64."""

    def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target, source = (context.make_array(signature.args[i])(context, builder, values[i]).data for i in (0, 1))
        vectors = builder.sdiv(values[3], ir.Constant(values[3].type, LANES))
        with cgutils.for_range(builder, vectors) as loop:
            step = builder.mul(loop.index, ir.Constant(values[3].type, LANES))
            place = builder.bitcast(builder.gep(target, [step]), _VECTOR.as_pointer())
            there = builder.gep(source, [builder.add(values[2], step)])
            narrow = builder.load(builder.bitcast(there, _SINGLES.as_pointer()), align=4)
            total = builder.fadd(builder.load(place, align=8), builder.fpext(narrow, _VECTOR))
            builder.store(total, place, align=8)
        return context.get_dummy_value()

    return _signature(y, x, at_x, count), build


add_scaled: Any = intrinsic(_add_scaled)
add_product: Any = intrinsic(_add_product)
add_singles: Any = intrinsic(_add_singles)
