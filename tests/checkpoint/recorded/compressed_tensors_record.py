"""Record what compressed-tensors makes of codes, scales and zero points: its `decompress` is the oracle of the tests.

    python3 -m venv V && V/bin/pip install torch compressed-tensors==0.20.1
    V/bin/python tests/checkpoint/recorded/compressed_tensors_record.py
    V/bin/pip install compressed-tensors==0.14.0
    V/bin/python tests/checkpoint/recorded/compressed_tensors_record.py

Version 0.20 writes `compressed_tensors.safetensors`; version 0.14, the last one with sparse formats and with groups of
columns (`weight_g_idx`), `compressed_tensors_old.safetensors`. A case is NUMBER/PART for every tensor of a layer, with
NUMBER/expected; the metadata have the version and, for every case, its name and what a config.json would say.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
VERSION = importlib.metadata.version("compressed-tensors")
BF16, F16, F32, E4M3 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn

Tensors = dict[str, torch.Tensor]
made = torch.Generator().manual_seed(20)


def codes(*shape: int, bits: int) -> torch.Tensor:
    """Every signed number of so many bits, as often as it goes, in any order; int8."""
    size = int(torch.tensor(shape).prod())
    numbers = torch.arange(size) % (1 << bits) - (1 << (bits - 1))
    return numbers[torch.randperm(size, generator=made)].reshape(shape).to(torch.int8)


def bytes_of(*shape: int) -> torch.Tensor:
    size = int(torch.tensor(shape).prod())
    return (torch.arange(size) % 256)[torch.randperm(size, generator=made)].reshape(shape).to(torch.uint8)


def scales(*shape: int, dtype: torch.dtype = BF16) -> torch.Tensor:
    """From numbers that float16 has no normal ones for to large ones; both signs, since nothing forbids them."""
    size = torch.exp2(torch.rand(shape, generator=made) * 30 - 24)
    return (size * torch.where(torch.rand(shape, generator=made) < 0.1, -1, 1)).to(dtype)


def config(form: str, **weights: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "int", "symmetric": True} | weights
    group = {"targets": ["Linear"], "weights": weights, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "version": VERSION,
    }


def scheme(about: dict[str, Any]) -> QuantizationScheme:
    weights = {
        name: value for name, value in about["config_groups"]["group_0"]["weights"].items() if name != "strategy"
    }
    strategy = about["config_groups"]["group_0"]["weights"].get("strategy")
    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(strategy=strategy, **weights))


class Cases:
    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self.about: list[dict[str, Any]] = []

    def add(self, name: str, about: dict[str, Any], parts: Tensors, expected: torch.Tensor) -> None:
        number = len(self.about)
        self.about.append({"name": name, "config": about})
        held = {f"{number}/{part}": tensor.contiguous().clone() for part, tensor in parts.items()}
        self.tensors |= held | {f"{number}/expected": expected.contiguous()}

    def write(self, path: Path) -> None:
        save_file(self.tensors, path, metadata={"version": VERSION, "cases": json.dumps(self.about)})
        print(f"{path}: {len(self.about)} cases, {path.stat().st_size} bytes")


def grid_of(shape: tuple[int, ...], strategy: str, group: int | None) -> tuple[int, ...]:
    if strategy == "tensor":
        return (1,)
    return (*shape[:-1], shape[-1] // group if group else 1)


def packed(cases: Cases) -> None:
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor, pack_to_int32

    layouts = [
        (4, "group", 32, (9, 64), BF16), (4, "group", 16, (13, 32), F16), (4, "group", 16, (11, 32), F32),
        (4, "channel", None, (11, 42), BF16), (4, "tensor", None, (5, 27), F16), (4, "group", 32, (2, 13, 32), BF16),
        (8, "channel", None, (5, 61), BF16), (8, "group", 16, (5, 64), F16), (8, "tensor", None, (9, 29), BF16),
        (2, "group", 16, (19, 16), BF16), (3, "group", 32, (13, 32), BF16), (3, "channel", None, (11, 37), F16),
        (5, "channel", None, (9, 51), F16), (6, "group", 16, (11, 32), BF16), (7, "channel", None, (10, 45), BF16),
        (1, "group", 8, (35, 24), BF16), (6, "tensor", None, (7, 33), F32), (5, "group", 16, (2, 3, 32), BF16),
    ]  # fmt: skip
    for bits, strategy, group, shape, dtype in layouts:
        for symmetric in (True, False):
            about = config(
                "pack-quantized", num_bits=bits, strategy=strategy, group_size=group, symmetric=symmetric
            )  # fmt: skip
            grid = grid_of(shape, strategy, group)
            parts = {
                "weight_packed": pack_to_int32(codes(*shape, bits=bits), bits),
                "weight_scale": scales(*grid, dtype=dtype),
                "weight_shape": torch.tensor(shape),
            }
            if not symmetric:
                zeros = codes(*grid, bits=bits)
                parts["weight_zero_point"] = zeros if strategy == "tensor" else pack_to_int32(zeros, bits, packed_dim=0)
            found = PackedQuantizationCompressor.decompress(parts, scheme(about))["weight"]
            cases.add(f"int{bits} {strategy} {list(shape)} {dtype} {symmetric=}", about, parts, found)


def whole(cases: Cases) -> None:
    from compressed_tensors.compressors.naive_quantized import NaiveQuantizationCompressor

    layouts = [
        ("channel", None, None, (7, 42), BF16), ("tensor", None, None, (9, 33), F16),
        ("group", 32, None, (5, 64), BF16), ("channel", None, None, (40, 3), F32),
    ]  # fmt: skip
    for strategy, group, _, shape, dtype in layouts:
        for symmetric in (True, False):
            about = config(
                "int-quantized", num_bits=8, strategy=strategy, group_size=group, symmetric=symmetric
            )  # fmt: skip
            grid = grid_of(shape, strategy, group)
            parts = {"weight": codes(*shape, bits=8), "weight_scale": scales(*grid, dtype=dtype)}
            if not symmetric:
                parts["weight_zero_point"] = codes(*grid, bits=8)
            found = NaiveQuantizationCompressor.decompress(parts, scheme(about))["weight"]
            cases.add(f"int8 {strategy} {list(shape)} {dtype} {symmetric=}", about, parts, found)
    layouts = [
        ("channel", None, None, (7, 40), BF16), ("tensor", None, None, (9, 29), F16),
        ("tensor", None, None, (3, 50), F32), ("group", 32, None, (5, 64), BF16),
        ("block", None, [8, 16], (21, 29), BF16), ("block", None, [8, 16], (16, 32), F32),
    ]  # fmt: skip
    for strategy, group, block, shape, dtype in layouts:
        about = config(
            "float-quantized", num_bits=8, type="float", strategy=strategy, group_size=group, block_structure=block
        )  # fmt: skip
        sides = block or (1, 1)
        grid = (
            tuple(-(-n // side) for n, side in zip(shape, sides, strict=True))
            if block
            else grid_of(shape, strategy, group)
        )
        parts = {"weight": bytes_of(*shape).view(E4M3), "weight_scale": scales(*grid, dtype=dtype)}
        found = NaiveQuantizationCompressor.decompress(parts, scheme(about))["weight"]
        cases.add(f"float8 {strategy} {list(shape)} {dtype}", about, parts, found)


def small(cases: Cases) -> None:
    from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
    from compressed_tensors.compressors.mxfp6 import MXFP6PackedCompressor
    from compressed_tensors.compressors.mxfp8.base import MXFP8QuantizationCompressor
    from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor

    def exponents(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, generator=made).to(torch.uint8)

    for shape in ((5, 48), (17, 16), (3, 80)):
        about = config("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16)
        overall = torch.rand(1, generator=made) * 3000
        for kind in (overall, overall.reshape(()), None):
            stored = bytes_of(shape[0], shape[1] // 16).view(E4M3)
            parts = {"weight_packed": bytes_of(shape[0], shape[1] // 2), "weight_scale": stored}
            if kind is not None:
                parts["weight_global_scale"] = kind
            found = NVFP4PackedCompressor.decompress(parts, scheme(about))["weight"]
            of_rank = "none" if kind is None else list(kind.shape)
            cases.add(f"nvfp4 {list(shape)} global {of_rank}", about, parts, found)
    for shape in ((5, 64), (7, 32), (2, 96)):
        about = config("mxfp4-pack-quantized", type="float", strategy="group", group_size=32)
        parts = {
            "weight_packed": bytes_of(shape[0], shape[1] // 2),
            "weight_scale": exponents(shape[0], shape[1] // 32),
        }
        found = MXFP4PackedCompressor.decompress(parts, scheme(about))["weight"]
        cases.add(f"mxfp4 {list(shape)}", about, parts, found)
    for shape in ((5, 64), (7, 32), (2, 96)):
        about = config("mxfp6-pack-quantized", num_bits=6, type="float", strategy="group", group_size=32)
        parts = {
            "weight_packed": bytes_of(shape[0], shape[1] * 3 // 4), "weight_scale": exponents(shape[0], shape[1] // 32),
        }  # fmt: skip
        found = MXFP6PackedCompressor.decompress(parts, scheme(about))["weight"]
        cases.add(f"mxfp6 {list(shape)}", about, parts, found)
    for shape in ((5, 64), (7, 32), (2, 96)):
        about = config(
            "mxfp8-quantized", num_bits=8, type="float", strategy="group", group_size=32, scale_dtype="torch.uint8"
        )
        parts = {"weight": bytes_of(*shape).view(E4M3), "weight_scale": exponents(shape[0], shape[1] // 32)}
        found = MXFP8QuantizationCompressor.decompress(parts, scheme(about))["weight"]
        cases.add(f"mxfp8 {list(shape)}", about, parts, found)


def grouped(cases: Cases) -> None:
    """Groups of columns that are no neighbours."""
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import (
        PackedQuantizationCompressor,
        pack_to_int32,
    )
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    layouts = [
        (4, 16, (9, 48), BF16, True), (4, 32, (5, 64), F16, False),
        (8, 8, (11, 24), BF16, False), (4, 16, (9, 48), BF16, None),
    ]  # fmt: skip
    for bits, group, shape, dtype, symmetric in layouts:
        count = shape[1] // group
        about = config(
            "pack-quantized", num_bits=bits, strategy="group", group_size=group, symmetric=symmetric is not False,
            actorder="group",
        )  # fmt: skip
        index = (torch.arange(shape[1]) % count)[torch.randperm(shape[1], generator=made)].to(torch.int32)
        if symmetric is None:
            index[:] = -1
        parts = {
            "weight_packed": pack_to_int32(codes(*shape, bits=bits), bits),
            "weight_scale": scales(shape[0], count, dtype=dtype),
            "weight_shape": torch.tensor(shape),
            "weight_g_idx": index,
        }
        if symmetric is False:
            parts["weight_zero_point"] = pack_to_int32(codes(shape[0], count, bits=bits), bits, packed_dim=0)
        found = PackedQuantizationCompressor().decompress_weight(dict(parts), scheme(about | {}).weights)
        cases.add(f"int{bits} columns {list(shape)} {dtype} {symmetric=}", about, parts, found)
    for shape, group, dtype, shifted in (((7, 48), 16, BF16, False), ((5, 96), 32, F16, True)):
        count = shape[1] // group
        about = config("int-quantized", num_bits=8, strategy="group", group_size=group, symmetric=not shifted)
        index = (torch.arange(shape[1]) % count)[torch.randperm(shape[1], generator=made)].to(torch.int32)
        parts = {
            "weight": codes(*shape, bits=8),
            "weight_scale": scales(shape[0], count, dtype=dtype),
            "weight_g_idx": index,
        }
        if shifted:
            parts["weight_zero_point"] = codes(shape[0], count, bits=8)
        found = dequantize(parts["weight"], parts["weight_scale"], parts.get("weight_zero_point"), g_idx=index)
        cases.add(f"int8 columns {list(shape)} {dtype} {shifted=}", about, parts, found)


def sparse(cases: Cases) -> None:
    from compressed_tensors.compressors.sparse_compressors.sparse_24_bitmask import Sparse24BitMaskTensor
    from compressed_tensors.compressors.sparse_compressors.sparse_bitmask import BitmaskTensor
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    def about(form: str, **weights: Any) -> dict[str, Any]:
        held: dict[str, Any] = {"quant_method": "compressed-tensors", "sparsity_config": {"format": form}}
        return held | (config("float-quantized", **weights) if weights else {})

    def rare(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=made) * (torch.rand(shape, generator=made) < 0.4)

    for shape, dtype in (((7, 20), BF16), ((9, 13), F32), ((5, 64), F16), ((29,), BF16), ((3, 8), BF16)):
        dense = rare(*shape).to(dtype)
        if shape == (3, 8):
            dense[1] = 0
        stored = BitmaskTensor.from_dense(dense)
        parts = {name.removeprefix("x."): tensor for name, tensor in stored.dict("x").items()}
        cases.add(f"sparse {list(shape)} {dtype}", about("sparse-bitmask"), parts, stored.decompress())
    for shape, dtype in (((7, 20), BF16), ((9, 12), F32), ((5, 64), F16)):
        stored = Sparse24BitMaskTensor.from_dense(torch.randn(shape, generator=made).to(dtype))
        parts = {name.removeprefix("x."): tensor for name, tensor in stored.dict("x").items()}
        cases.add(f"2:4 {list(shape)} {dtype}", about("sparse-24-bitmask"), parts, stored.decompress())
    for shape in ((7, 20), (5, 64), (3, 12)):
        stored = Sparse24BitMaskTensor.from_dense((torch.randn(shape, generator=made) * 50).to(E4M3))
        parts = {name.removeprefix("x."): tensor for name, tensor in stored.dict("x").items()}
        parts["weight_scale"] = scales(shape[0], 1)
        found = dequantize(stored.decompress(), parts["weight_scale"])
        form = about("sparse-24-bitmask", num_bits=8, type="float", strategy="channel")
        cases.add(f"2:4 float8 {list(shape)}", form, parts, found)


if __name__ == "__main__":
    cases = Cases()
    if VERSION.startswith("0.14."):
        grouped(cases)
        sparse(cases)
        cases.write(HERE / "compressed_tensors_old.safetensors")
    else:
        packed(cases)
        whole(cases)
        small(cases)
        cases.write(HERE / "compressed_tensors.safetensors")
