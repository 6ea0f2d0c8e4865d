"""bitsandbytes: weights of 4 bits (NF4, FP4) and of 8 (LLM.int8()).

Of 4 bits: `NAME` holds two codes in a byte, the high half first, in any type, [n / 2, 1] in bytes; `NAME.absmax` a
scale for every block, `NAME.quant_map` the numbers of the codes, and `NAME.quant_state.bitsandbytes__nf4` or `__fp4`
JSON in bytes: the weight's shape, its type, a block's size. The weight is number * scale, as float32, rounded once to
that type. Nested: `absmax` holds codes of 8 bits, `nested_quant_map` their numbers, `nested_absmax` a scale for every
block of them; a scale is number * nested scale + `nested_offset`. bitsandbytes itself takes the numbers of 4-bit codes
by the type's name, not from `quant_map`, and so does this. Sources: bitsandbytes' functional.py (QuantState,
dequantize_4bit), backends/cpu/ops.py and backends/default/ops.py.

Of 8 bits: `NAME.weight` int8 [out, in], `NAME.SCB` float32 [out], and `NAME.weight_format`, 0 for rows. The weight is
float32, code * SCB, rounded, * 1 / 127 (int8_vectorwise_dequant of _ops.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from netweight.checkpoint.decoders.found import Found, conv1d, do_not_fit, several
from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.checkpoint.tensors.looked_up import LookedUpTensor
from netweight.checkpoint.tensors.rearranged import turned
from netweight.checkpoint.tensors.unpacked import UnpackedTensor
from netweight.dtypes import DTYPES, DType, Kind
from netweight.errors import FormatError, printable

__all__ = ["find"]

_STATE = ".quant_state.bitsandbytes__"
_TYPES = {"nf4": "NF4", "fp4": "FP4"}
_MOST = 4096  # bytes of a state: it has about a hundred
_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_DIMENSIONS = 8
_BLOCKS = frozenset({32, 64, 128, 256, 512, 1024, 2048, 4096})
_ROWS = 0  # `weight_format` of rows; others are the orders of GPUs
_ONE_127TH = 7.874015718698502e-3  # as bitsandbytes has it


def find(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str) -> Found:
    """Every weight of bitsandbytes as one; raises FormatError where its parts do not fit each other, ReadError where
    a state cannot be read.
    """
    instead: dict[str, Tensor] = {}
    parts: set[str] = set()
    states, rows = [], []
    for name in tensors:
        if _STATE in name:
            states.append(tensors[name])
        elif name.endswith(".SCB"):
            weight = name.removesuffix("SCB") + "weight"
            rows += [weight] if weight in tensors and tensors[weight].dtype.name == "I8" else []
    formats = [tensors[name] for weight in rows if (name := f"{weight}_format") in tensors]
    for tensor in (*states, *formats):
        if tensor.dtype.bits == 8 and tensor.size <= _MOST:
            tensor.prefetch(0, tensor.size)
    for state in states:
        weight, _, kind = state.name.partition(_STATE)
        if weight not in tensors:
            continue
        if weight in instead:
            raise FormatError(f"{where}: tensor {printable(weight)!r}: has two states of bitsandbytes")
        instead[weight] = _of_four(weight, kind, state, tensors, config, where)
        parts |= {state.name, *(part for part in _beside(weight) if part in tensors)}
    for weight in rows:
        scales = tensors[weight.removesuffix("weight") + "SCB"]
        form = tensors.get(f"{weight}_format")
        instead[weight] = _of_eight(tensors[weight], scales, form, config, where)
        parts |= {scales.name} | ({form.name} if form is not None else set())
    if not instead:
        return Found()
    kinds = ", ".join(sorted({tensor.stored for tensor in instead.values()}))
    what = several(len(instead), "weight is", "weights are")
    note = f"{what} stored by bitsandbytes ({kinds}): what is read is number * scale"
    return Found(instead, frozenset(parts), note=note)


def _beside(weight: str) -> Iterable[str]:
    return (f"{weight}.{part}" for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map"))


def _of_four(
    weight: str, kind: str, tensor: Tensor, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, where: str
) -> Tensor:
    state = _read_state(tensor, kind, where)
    absmax, quant_map, nested, nested_map = (tensors.get(part) for part in _beside(weight))
    n, codes = math.prod(state.shape), tensors[weight]
    blocks = -(-n // state.block)
    label, scales = _TYPES[kind], absmax
    fits = codes.nbytes == -(-n // 2) and codes.dtype.bits % 8 == 0 and absmax is not None and absmax.size == blocks
    if nested is not None or nested_map is not None:
        label += " nested"
        if fits and absmax is not None and nested is not None and nested_map is not None:
            scales = _nested(absmax, nested, nested_map, state, where)
        else:
            fits = False
    fits = fits and (quant_map is None or quant_map.size == 16)
    if not fits or scales is None or scales.dtype.kind is not Kind.FLOAT:
        found = [codes, *(part for part in (absmax, quant_map, nested, nested_map) if part is not None)]
        expected = f"codes of {n} elements, {list(state.shape)}, and scales of blocks of {state.block}"
        raise do_not_fit(found, expected, where)
    dense = UnpackedTensor(codes.name, (n,), DTYPES["U8"], codes, 4, high_first=True)
    held = LookedUpTensor(weight, state.shape, state.dtype, label, dense, kind, scales, state.block)
    return turned(held) if len(state.shape) == 2 and conv1d(weight, config) else held


def _nested(codes: Tensor, scales: Tensor, values: Tensor, state: _State, where: str) -> Tensor:
    """The scales of blocks, which are stored in 8 bits themselves."""
    block = state.nested_block
    usual = codes.dtype.name == "U8" and scales.dtype.name == values.dtype.name == "F32"
    if not usual or values.size != 256 or scales.size != -(-codes.size // block):
        expected = f"{codes.size} codes of scales, a scale for every {block} of them, and 256 numbers"
        raise do_not_fit([codes, scales, values], expected, where)
    held = min(block, codes.size)
    floats = DTYPES["F32"]
    return LookedUpTensor(codes.name, (codes.size,), floats, "", codes, values, scales, held, offset=state.offset)


def _of_eight(
    codes: Tensor, scales: Tensor, form: Tensor | None, config: Mapping[str, Any] | None, where: str
) -> Tensor:
    shape = codes.shape
    if len(shape) != 2 or not codes.size or scales.dtype.name != "F32" or scales.size != shape[0]:
        raise do_not_fit([codes, scales], "int8 [out, in] and float32 [out]", where)
    if form is not None:
        if form.size != 1 or form.dtype.bits != 8:
            raise do_not_fit([codes, form], "a byte that says how rows are stored", where)
        byte = bytearray(1)
        read_elements(form, 0, memoryview(byte))
        if byte[0] != _ROWS:
            raise _wrong(form, f"it is {byte[0]}, an order that a GPU had", "0: row by row", where)
    held = LookedUpTensor(
        codes.name, shape, DTYPES["F32"], "int8 rows", codes, "int8", scales, shape[1], factor=_ONE_127TH
    )
    return turned(held) if conv1d(codes.name, config) else held


@dataclass(frozen=True)
class _State:
    """What a quant_state says: of the weight, of a block of its elements, and of its scales where these have some."""

    shape: tuple[int, ...]
    dtype: DType
    block: int
    nested_block: int
    offset: float


def _read_state(state: Tensor, kind: str, where: str) -> _State:
    if state.dtype.name != "U8" or not 0 < state.size <= _MOST:
        raise _wrong(state, f"is {state.dtype} {list(state.shape)}", f"JSON in 1 to {_MOST} bytes", where)
    held = bytearray(state.size)
    read_elements(state, 0, memoryview(held))
    try:
        about = json.loads(held.decode())
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise _wrong(state, f"holds {bytes(held[:40])!r}", "a JSON object", where)
    if kind not in _TYPES or about.get("quant_type") != kind:
        raise _wrong(state, f"its quant_type is {about.get('quant_type')!r}", "nf4 or fp4, as its name says", where)
    dtype = _DTYPES.get(str(about.get("dtype")))
    if dtype is None:
        raise _wrong(state, f"its dtype is {about.get('dtype')!r}", f"one of {', '.join(_DTYPES)}", where)
    shape, block = about.get("shape"), about.get("blocksize", 0)
    if not (isinstance(shape, list) and 0 < len(shape) <= _DIMENSIONS and all(map(_is_size, shape))):
        raise _wrong(state, f"its shape is {shape!r}", "whole numbers above 0", where)
    nested, offset = about.get("nested_blocksize", 1), about.get("nested_offset", 0.0)
    usable = isinstance(block, int) and block in _BLOCKS and _is_size(nested)
    if not (usable and type(offset) is float and math.isfinite(offset)):
        got = f"its blocksize is {block!r}, nested_blocksize {nested!r}, nested_offset {offset!r}"
        raise _wrong(state, got, "a power of two from 32 to 4096, a whole number above 0, and a float", where)
    if about.get("nested_dtype", "float32") != "float32":
        raise _wrong(state, f"its nested_dtype is {about['nested_dtype']!r}", "float32", where)
    return _State(tuple(shape), DTYPES[dtype], block, nested, offset)


def _is_size(n: object) -> bool:
    return type(n) is int and 0 < n < 1 << 48


def _wrong(tensor: Tensor, got: str, expected: str, where: str) -> FormatError:
    return FormatError(f"{where}: tensor {printable(tensor.name)!r}: {printable(got)}; expected {expected}")
