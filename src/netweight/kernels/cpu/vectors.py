"""What numba has no words for: the widest vectors of the machine, and extremes of many elements at once."""

from __future__ import annotations

from typing import Any

from netweight.kernels.cpu.sources import deferred

__all__ = ["extremes_of_32", "wide_vectors"]


def _wide(typingctx: Any) -> Any:  # noqa: ARG001 - numba gives it
    """Let the compiler use the widest vectors of the machine: it takes 256 bits where it may have 512, unless told."""
    from numba import types  # noqa: PLC0415 - where it is compiled

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        attributes = builder.function.attributes
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')  # LLVM knows it, llvmlite's list of names does not
        return context.get_dummy_value()

    return types.none(), codegen


wide_vectors: Any = deferred(lambda: _intrinsic(_wide))


def _extremes(typingctx: Any, values: Any, first: Any) -> Any:  # noqa: ARG001
    """(least, largest) of the finite values[first : first + 32], which must lie inside the array."""
    from llvmlite import ir  # noqa: PLC0415 - where it is compiled
    from numba import types  # noqa: PLC0415 - where it is compiled

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, value=arguments[0])
        kind = context.get_value_type(signature.args[0].dtype)
        vector = ir.VectorType(kind, 32)
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        loaded = builder.load(address, align=signature.args[0].dtype.bitwidth // 8)
        name = f"v32f{signature.args[0].dtype.bitwidth}"
        results = []
        for operation in ("fmin", "fmax"):
            reduce = builder.module.declare_intrinsic(
                f"llvm.vector.reduce.{operation}.{name}", fnty=ir.FunctionType(kind, [vector])
            )
            results.append(builder.call(reduce, [loaded], fastmath=("nnan", "nsz")))
        return context.make_tuple(builder, signature.return_type, results)

    pair: Any = types.UniTuple  # numba has no types
    return pair(values.dtype, 2)(values, types.intp), codegen


extremes_of_32: Any = deferred(lambda: _intrinsic(_extremes))


def _intrinsic(function: Any) -> Any:
    from numba.extending import intrinsic  # noqa: PLC0415 - where it is compiled

    return intrinsic(function)
