"""Tensors as GPTQ, AWQ, bitsandbytes and MLX store weights, made of random bits: the same for the scripts in
`recorded`, which record what each format's own package makes of them, and for the tests.

A tensor is (type, array), the array of the type's bits where numpy has no such type (BF16 as uint16).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).resolve().parent / "recorded"
BITS = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32}


@dataclass(frozen=True)
class Case:
    """One layer's `tensors`, what config has for it, and what a recorder needs besides."""

    tensors: dict[str, tuple[str, np.ndarray]]
    config: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


def digest(bits: np.ndarray) -> str:
    """Of a weight's bits."""
    return hashlib.sha256(np.ascontiguousarray(bits).tobytes()).hexdigest()[:32]


def one_nan(bits: np.ndarray, dtype: str) -> np.ndarray:
    """The bits with all NaN as one, the same for every package."""
    size, infinite = {"F16": (0x7FFF, 0x7C00), "BF16": (0x7FFF, 0x7F80), "F32": (0x7FFFFFFF, 0x7F800000)}[dtype]
    return np.where((bits & bits.dtype.type(size)) > infinite, bits.dtype.type(size), bits)


def recorded(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / f"{name}.json").read_text())


def record(name: str, made_by: str, digests: dict[str, str]) -> None:
    text = json.dumps({"made by": made_by, "digests": digests}, indent=1)
    (RECORDED / f"{name}.json").write_text(text + "\n")


def words(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 1 << 32, shape, dtype=np.uint64).astype(np.uint32)


def floats(rng: np.random.Generator, dtype: str, *shape: int) -> tuple[str, np.ndarray]:
    """Of all sizes that a type has, but for the largest: small ones are denormal, products of some overflow."""
    if dtype == "F32":
        return dtype, (rng.standard_normal(shape) * 2.0 ** rng.integers(-40, 40, shape)).astype(np.float32)
    if dtype == "F16":
        return dtype, (rng.standard_normal(shape) * 2.0 ** rng.integers(-22, 12, shape)).astype(np.float16)
    wide = (rng.standard_normal(shape) * 2.0 ** rng.integers(-40, 40, shape)).astype(np.float32)
    return dtype, (wide.view(np.uint32) >> 16).astype(np.uint16)


def gptq() -> dict[str, Case]:
    """[in, out] of in x out, groups; `less one` is the first version."""
    cases = {}
    for bits in (2, 3, 4, 8):
        for version in ("gptq", "gptq_v2"):
            for number, (cols, rows, group, dtype, order) in enumerate([
                (64, 32, 32, "F16", "in order"),
                (96, 64, 32, "F16", "shuffled"),
                (256, 32, -1, "BF16", "none"),
                (96, 32, 64, "F32", "in order"),
                (128, 96, 32, "BF16", "from the end"),
                (100, 36, 32, "F16", "shuffled"),
            ]):  # fmt: skip
                if bits == 3 and cols % 32:
                    continue
                rng = np.random.default_rng([bits, number, version == "gptq"])
                groups = 1 if group == -1 else -(-cols // group)
                index = np.arange(cols, dtype=np.int32) // (cols if group == -1 else group)
                if order == "shuffled":
                    rng.shuffle(index)
                if order == "from the end":
                    index = rng.integers(-groups, groups, cols).astype(np.int32)
                tensors = {
                    "x.qweight": ("I32", words(rng, -(-cols * bits // 32), rows).view(np.int32)),
                    "x.qzeros": ("I32", words(rng, groups, -(-rows * bits // 32)).view(np.int32)),
                    "x.scales": floats(rng, dtype, groups, rows),
                }
                if order != "none":
                    tensors["x.g_idx"] = ("I32", index)
                about = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": version}
                name = f"{bits} bits, {version}, {cols} x {rows}, {dtype}, {order}"
                cases[name] = Case(tensors, {"quantization_config": about}, {"in": cols, "out": rows, "groups": groups})
    return cases


def awq() -> dict[str, Case]:
    """Version gemm: [in, out]."""
    cases = {}
    for number, (cols, rows, group, dtype) in enumerate(
        [(64, 32, 32, "F16"), (128, 16, 128, "F16"), (96, 8, 32, "BF16"), (256, 24, 64, "F16"), (40, 40, 8, "F16")]
    ):
        rng = np.random.default_rng([5, number])
        tensors = {
            "x.qweight": ("I32", words(rng, cols, rows // 8).view(np.int32)),
            "x.qzeros": ("I32", words(rng, cols // group, rows // 8).view(np.int32)),
            "x.scales": floats(rng, dtype, cols // group, rows),
        }
        about = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
        cases[f"{cols} x {rows}, {dtype}, {group}"] = Case(tensors, {"quantization_config": about}, {"group": group})
    return cases


NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}


def bitsandbytes() -> dict[str, Case]:
    """Of 4 bits, with and without nested scales, and of 8."""
    cases = {}
    for kind in ("nf4", "fp4"):
        for number, (shape, block, dtype, nested, storage) in enumerate([
            ((32, 64), 64, "BF16", False, "U8"),
            ((7, 30), 64, "F16", True, "U8"),
            ((96, 64), 32, "F32", True, "BF16"),
            ((3, 40, 64), 128, "BF16", True, "F32"),
            ((130, 300), 64, "F16", True, "F16"),
            ((5, 33), 64, "F32", False, "U8"),
        ]):  # fmt: skip
            if kind == "fp4" and shape[-1] % 2:
                continue  # there its zeros have another sign
            rng = np.random.default_rng([6, number, kind == "nf4"])
            n = int(np.prod(shape))
            blocks = -(-n // block)
            packed = rng.integers(0, 256, -(-n // 2)).astype(np.uint8)
            if storage == "U8":
                codes = ("U8", packed[:, None])
            else:
                codes = (
                    storage,
                    packed.view({"BF16": np.uint16, "F16": np.float16, "F32": np.float32}[storage])[:, None],
                )
            state: dict[str, Any] = {
                "quant_type": kind,
                "blocksize": block,
                "dtype": NAMES[dtype],
                "shape": list(shape),
            }
            tensors = {
                "x.weight": codes,
                "x.weight.quant_map": ("F32", rng.standard_normal(16).astype(np.float32)),  # never looked at
            }
            if nested:
                state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(rng.random())}
                tensors |= {
                    "x.weight.absmax": ("U8", rng.integers(0, 256, blocks).astype(np.uint8)),
                    "x.weight.nested_absmax": ("F32", rng.random(-(-blocks // 256)).astype(np.float32)),
                    "x.weight.nested_quant_map": ("F32", rng.standard_normal(256).astype(np.float32)),
                }
            else:
                tensors["x.weight.absmax"] = ("F32", rng.random(blocks).astype(np.float32))
            text = np.frombuffer(json.dumps(state).encode(), np.uint8)
            tensors[f"x.weight.quant_state.bitsandbytes__{kind}"] = ("U8", text)
            name = f"{kind}, {list(shape)}, {block}, {dtype}{', nested' if nested else ''}, in {storage}"
            cases[name] = Case(tensors, {}, {"shape": list(shape), "dtype": dtype})
    for number, (rows, cols) in enumerate([(1, 7), (33, 256), (64, 300)]):
        rng = np.random.default_rng([7, number])
        tensors = {
            "x.weight": ("I8", rng.integers(-128, 128, (rows, cols)).astype(np.int8)),
            "x.SCB": ("F32", rng.random(rows).astype(np.float32) * 3),
            "x.weight_format": ("U8", np.zeros((), np.uint8)),
        }
        cases[f"int8, {rows} x {cols}"] = Case(tensors, {}, {"shape": [rows, cols], "dtype": "F32"})
    return cases


def mlx() -> dict[str, Case]:
    """All modes, bits and types; three dimensions too."""
    cases = {}
    affine = [(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
    for number, (bits, group) in enumerate(affine):
        dtype = ("F16", "BF16", "F32")[number % 3] if bits in {2, 8} else ("F16", "BF16")[number % 2]
        lead = ((3, 5), (17,), (2, 64))[number % 3]
        cols = group * (1 + number % 4)
        rng = np.random.default_rng([8, number])
        tensors = {
            "x.weight": ("U32", words(rng, *lead, cols * bits // 32)),
            "x.scales": floats(rng, dtype, *lead, cols // group),
            "x.biases": floats(rng, dtype, *lead, cols // group),
        }
        about = {"bits": bits, "group_size": group}
        cases[f"affine, {bits} bits, {group}, {dtype}"] = Case(tensors, {"quantization": about}, {"dtype": dtype})
    for number, (mode, group, bits) in enumerate([("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]):
        for lead, cols in (((256,), 64), ((3, 5), 96), ((1, 1), 32)):
            rng = np.random.default_rng([9, number, cols])
            scales = rng.integers(0, 256, (*lead, cols // group)).astype(np.uint8)
            if lead == (256,):
                scales[:, 0] = np.arange(256)
            tensors = {"x.weight": ("U32", words(rng, *lead, cols * bits // 32)), "x.scales": ("U8", scales)}
            about = {"bits": bits, "group_size": group, "mode": mode}
            name = f"{mode}, {list(lead)} x {cols}"
            cases[name] = Case(tensors, {"quantization": about}, {"dtype": "BF16"})
    return cases
