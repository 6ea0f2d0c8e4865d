"""Run the benchmark of quantised formats; figures go to benchmarks/results/<date>-formats.json.

    python benchmarks/formats.py                         # every format, then a whole job: 8 GB of disk
    python benchmarks/formats.py --parts elements        # every format alone: a minute or two
    python benchmarks/formats.py --parts job --layers 2  # the job on a smaller model

Of each format a weight of 4096 x 14336 is read from a file in the page cache, in this process and one thread, as jobs
read it: stretches of a million elements into one buffer. Beside it stands the decoder of the format's own package (PyPI
gguf), or the formula in torch, in one thread too, on bytes that are in memory. The job is `netweight compare` of a
Llama-3-8B-shaped model in bfloat16, of as many layers as --layers says, and its Q4_K GGUF, against dd of both files.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.util
import json
import os
import shutil
import statistics
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import netweight
from measure import CommandFailedError, drop_page_cache, machine, measure
from run import HERE, once, say

ROWS, COLS = 4096, 14336
PIECE = 1 << 20  # elements that are read at a time
FAST, USUAL = 1.0, 0.4  # G elements/s that a format should reach
GGML = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S",
        "IQ2_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4")  # fmt: skip
Parts = dict[str, tuple[str, "np.ndarray[Any, Any]"]]


@dataclass(frozen=True)
class Speed:
    """Elements per second of one format, by the clock and by the processor's time, which other programs take little
    of; `theirs` by the latter of `beside`, which is a word where there is nothing beside it.
    """

    name: str
    clock: float
    ours: float
    target: float | None
    theirs: float | None
    beside: str


@dataclass(frozen=True)
class Format:
    """A way to store one weight: its parts by their names, (type, array of bits), and what config has for it."""

    name: str
    parts: Callable[[np.random.Generator], Parts]
    config: dict[str, Any]
    target: float
    formula: Callable[[dict[str, Any]], Callable[[], object]] | None = None
    package: str = ""


def words(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return rng.integers(0, 1 << 32, shape, dtype=np.uint32)


def halves(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    return (rng.random(shape) * 0.01 + 0.001).astype(np.float16)


def patterns(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """bfloat16 of float32, cut."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def fp8_blocks(rng: np.random.Generator) -> Parts:
    codes = rng.integers(0, 126, (ROWS, COLS), dtype=np.uint8)
    return {
        "x.weight": ("F8_E4M3", codes),
        "x.weight_scale_inv": ("F32", rng.random((ROWS // 128, COLS // 128), np.float32) + np.float32(0.1)),
    }


def fp8_formula(held: dict[str, Any]) -> Callable[[], object]:
    import torch

    codes = torch.from_numpy(held["x.weight"][1]).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(held["x.weight_scale_inv"][1])

    def decode() -> object:
        wide = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
        return (codes.float() * wide).bfloat16()

    return decode


def mxfp4(rng: np.random.Generator) -> Parts:
    return {
        "x_blocks": ("U8", rng.integers(0, 256, (1, ROWS, COLS // 32, 16), dtype=np.uint8)),
        "x_scales": ("U8", rng.integers(100, 130, (1, ROWS, COLS // 32), dtype=np.uint8)),
    }


def mxfp4_formula(held: dict[str, Any]) -> Callable[[], object]:
    import torch

    pairs, scales = (torch.from_numpy(held[name][1]) for name in ("x_blocks", "x_scales"))
    half = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    values = torch.tensor(half + [-x for x in half], dtype=torch.bfloat16)

    def decode() -> object:
        codes = torch.stack([pairs & 15, pairs >> 4], -1).reshape(1, ROWS, -1, 32)
        wide = torch.ldexp(values[codes.int()], (scales.int() - 127)[..., None])
        return wide.reshape(1, ROWS, COLS).transpose(1, 2).contiguous()

    return decode


def compressed(rng: np.random.Generator) -> Parts:
    return {
        "x.weight_packed": ("I32", words(rng, ROWS, COLS // 8)),
        "x.weight_scale": ("BF16", patterns(rng.random((ROWS, COLS // 128)) + 0.1)),
        "x.weight_shape": ("I64", np.array([ROWS, COLS], np.int64)),
    }


def gptq(rng: np.random.Generator) -> Parts:
    return {
        "x.qweight": ("I32", words(rng, COLS // 8, ROWS)),
        "x.qzeros": ("I32", words(rng, COLS // 128, ROWS // 8) & np.uint32(0x77777777)),
        "x.scales": ("F16", halves(rng, COLS // 128, ROWS)),
        "x.g_idx": ("I32", (np.arange(COLS) // 128).astype(np.int32)),
    }


def awq(rng: np.random.Generator) -> Parts:
    return {
        "x.qweight": ("I32", words(rng, COLS, ROWS // 8)),
        "x.qzeros": ("I32", words(rng, COLS // 128, ROWS // 8)),
        "x.scales": ("F16", halves(rng, COLS // 128, ROWS)),
    }


def mlx(rng: np.random.Generator) -> Parts:
    made = {part: ("BF16", patterns(rng.random((ROWS, COLS // 64)) + 0.1)) for part in ("x.scales", "x.biases")}
    return {"x.weight": ("U32", words(rng, ROWS, COLS // 8)), **made}


def nf4(rng: np.random.Generator) -> Parts:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [ROWS, COLS]}
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return {
        "x.weight": ("U8", rng.integers(0, 256, (ROWS * COLS // 2, 1), dtype=np.uint8)),
        "x.weight.absmax": ("F32", rng.random(ROWS * COLS // 64, np.float32)),
        "x.weight.quant_map": ("F32", np.zeros(16, np.float32)),
        "x.weight.quant_state.bitsandbytes__nf4": ("U8", text),
    }


def nvfp4(rng: np.random.Generator) -> Parts:
    return {
        "x.weight_packed": ("U8", rng.integers(0, 256, (ROWS, COLS // 2), dtype=np.uint8)),
        "x.weight_scale": ("F8_E4M3", rng.integers(1, 126, (ROWS, COLS // 16), dtype=np.uint8)),
        "x.weight_global_scale": ("F32", np.array([100.0], np.float32)),
    }


def about(method: str, **more: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **more}}


def of_compressed(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "symmetric": True, **weights}}
    return about("compressed-tensors", format=form, config_groups={"group_0": group})


FORMATS = (
    Format("FP8, blocks of 128 x 128", fp8_blocks, about("fp8", weight_block_size=[128, 128]), FAST, fp8_formula),
    Format("MXFP4 (gpt-oss)", mxfp4, about("mxfp4"), FAST, mxfp4_formula),
    Format("compressed-tensors int4 g128", compressed,
           of_compressed("pack-quantized", type="int", strategy="group", group_size=128), USUAL,
           package="compressed_tensors"),
    Format("compressed-tensors NVFP4", nvfp4,
           of_compressed("nvfp4-pack-quantized", type="float", strategy="tensor_group", group_size=16), USUAL,
           package="compressed_tensors"),
    Format("GPTQ int4 g128", gptq, about("gptq", bits=4, group_size=128, checkpoint_format="gptq"), USUAL,
           package="gptqmodel"),
    Format("AWQ int4 g128", awq, about("awq", bits=4, group_size=128, version="gemm"), USUAL, package="awq"),
    Format("MLX int4 g64", mlx, {"quantization": {"bits": 4, "group_size": 64}}, USUAL, package="mlx"),
    Format("bitsandbytes NF4", nf4, {}, USUAL, package="bitsandbytes"),
)  # fmt: skip


def save(folder: Path, parts: Parts, config: dict[str, Any]) -> None:
    """A folder with safetensors and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    header, at = {}, 0
    for name, (dtype, array) in parts.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, array in parts.values():
            file.write(np.ascontiguousarray(array).data)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))


def median_of(work: Callable[[], object], runs: int) -> tuple[float, float]:
    """Seconds by the clock and of the processor, after a first time that is not counted."""
    work()
    times = []
    for _ in range(runs):
        began, used = time.perf_counter(), time.thread_time()
        work()
        times.append((time.perf_counter() - began, time.thread_time() - used))
    clock, processor = zip(*times, strict=True)
    return statistics.median(clock), statistics.median(processor)


def read_speed(ref: Path, name: str, runs: int) -> tuple[float, float]:
    """Elements per second of reading the whole tensor: by the clock, by the processor's time."""
    with netweight.open(ref) as checkpoint:
        tensor = checkpoint[name]
        item = tensor.dtype.bits // 8
        buffer = memoryview(bytearray(PIECE * item))

        def whole() -> None:
            for start in range(0, tensor.size, PIECE):
                tensor.read_into(start, buffer[: min(PIECE, tensor.size - start) * item])

        clock, processor = median_of(whole, runs)
        return tensor.size / clock, tensor.size / processor


def of_ggml(kind: str, folder: Path, runs: int) -> Speed:
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.quants import dequantize

    number = GGMLQuantizationType[kind]
    numbers, size = GGML_QUANT_SIZES[number]
    raw = np.random.default_rng(0).integers(0, 256, (ROWS, COLS // numbers * size), dtype=np.uint8)
    path = folder / f"{kind}.gguf"
    writer = GGUFWriter(path, "none")
    writer.add_tensor("x", raw, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours = read_speed(path, "x", runs)
    path.unlink()
    some = raw[: ROWS // 16]  # it holds several copies in float32
    with np.errstate(all="ignore"):
        theirs = some.shape[0] * COLS / median_of(lambda: dequantize(some, number), min(runs, 3))[1]
    fast = kind in {"Q8_0", "Q4_0", "MXFP4"}
    target = FAST if fast else USUAL if kind.endswith("_K") else None
    return Speed(f"GGUF {kind}", *ours, target, theirs, "PyPI gguf")


def of_format(form: Format, folder: Path, runs: int) -> Speed:
    import torch

    torch.set_num_threads(1)
    parts = form.parts(np.random.default_rng(0))
    save(folder / "m", parts, form.config)
    with netweight.open(folder / "m") as checkpoint:
        (name,) = checkpoint
        assert checkpoint[name].size == ROWS * COLS
    ours = read_speed(folder / "m", name, runs)
    shutil.rmtree(folder / "m")
    if form.formula is not None:
        theirs = ROWS * COLS / median_of(form.formula(parts), min(runs, 3))[1]
        return Speed(form.name, *ours, form.target, theirs, "the formula in torch")
    there = importlib.util.find_spec(form.package) is not None
    return Speed(form.name, *ours, form.target, None, f"{form.package}: {'not measured' if there else 'not installed'}")


def elements(folder: Path, runs: int) -> list[Speed]:
    found = []
    for work in [
        *(lambda kind=kind: of_ggml(kind, folder, runs) for kind in GGML),
        *(lambda form=form: of_format(form, folder, runs) for form in FORMATS),
    ]:
        found.append(work())
        say(line_of(found[-1]))
    return found


def line_of(speed: Speed) -> str:
    ours = f"{speed.ours / 1e9:.2f}"
    target = f"{speed.target:.1f}" if speed.target else ""
    theirs, ratio = "", ""
    if speed.theirs:
        theirs, ratio = f"{speed.theirs / 1e9:.3f}", f"{speed.ours / speed.theirs:.1f}"
    missed = " (missed)" if speed.target and speed.ours < speed.target * 1e9 else ""
    return (
        f"| {speed.name} | {speed.clock / 1e9:.2f} | {ours}{missed} | {target} | {theirs} | {ratio} | {speed.beside} |"
    )


def job(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """`netweight compare` of a model and its Q4_K, in turn with dd of both files."""
    base, quantised = folder / "base", folder / "model-Q4_K.gguf"
    say(f"making a Llama-3-8B shape of {asked.layers} of its 32 layers, and its Q4_K")
    # in a process of its own: the peak of one that is measured begins with the size of this one
    measure([sys.executable, str(HERE / "q4_k.py"), str(base), str(quantised), str(asked.layers)], folder / "made.log")
    files = [*sorted(base.glob("*.safetensors")), quantised]
    size = sum(file.stat().st_size for file in files)
    log = folder / "last-command.log"
    command = [asked.netweight, "compare", str(base), str(quantised)]
    found: dict[str, Any] = {"layers": asked.layers, "bytes": size, "warm": [], "cold": []}
    once("compare: warm-up", lambda: measure(command, log))
    for kind in ("warm", "cold"):
        for number in range(asked.runs if kind == "warm" else min(3, asked.runs)):
            if kind == "cold":
                found["emptied by"] = drop_page_cache(files, asked.cold_by)
            ours = once(f"{kind}: run {number + 1}", lambda: measure(command, log))
            if kind == "cold":
                drop_page_cache(files, asked.cold_by)
            dd = sum(measure(["dd", f"if={file}", "of=/dev/null", "bs=4M"], log).wall for file in files)
            say(f"  dd {size / dd / 1e9:.2f} GB/s, netweight {size / ours.wall / 1e9:.2f} GB/s")
            each = {"wall": ours.wall, "cpu": ours.cpu, "peak_rss": ours.peak_rss, "disk_read": ours.disk_read}
            found[kind].append({**each, "dd": dd, "load": os.getloadavg()[0]})
    return found


def job_lines(found: dict[str, Any]) -> list[str]:
    lines = [f"`netweight compare` of {found['layers']} layers and their Q4_K, {found['bytes'] / 1e9:.2f} GB:", ""]
    lines += [
        "| page cache | GB/s | dd's GB/s | share | CPU s | peak MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in ("warm", "cold"):
        runs = found[kind]
        wall, dd, cpu, peak = (statistics.median(run[key] for run in runs) for key in ("wall", "dd", "cpu", "peak_rss"))
        ours, theirs = found["bytes"] / wall / 1e9, found["bytes"] / dd / 1e9
        lines.append(f"| {kind} | {ours:.2f} | {theirs:.2f} | {dd / wall:.0%} | {cpu:.1f} | {peak / 1e6:.0f} |")
    return lines


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("elements", "job"), default=["elements", "job"])
    parser.add_argument("--layers", type=int, default=8, help="of the job's model (default 8: 7.2 GB of disk)")
    parser.add_argument("--workdir", type=Path, default=HERE / "data", metavar="DIR", help="where files are made")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="DIR")
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="measured runs after the warm-up (default 5)")
    parser.add_argument(
        "--cold-by", choices=("auto", "drop_caches", "fadvise"), default="auto", help="how the page cache is emptied"
    )
    parser.add_argument("--netweight", default=str(Path(sys.executable).with_name("netweight")), metavar="PROGRAM")
    asked = parser.parse_args(arguments)
    if asked.runs < 1 or asked.layers < 1:
        parser.error("at least one run and one layer are needed")
    return asked


def main(arguments: list[str] | None = None) -> int:
    asked = parsed(arguments)
    folder = asked.workdir.absolute() / "formats"
    folder.mkdir(parents=True, exist_ok=True)
    date = dt.datetime.now(tz=dt.UTC).date().isoformat()
    report: dict[str, Any] = {"date": date, "machine": machine(), "load": os.getloadavg()}
    lines: list[str] = []
    try:
        if "job" in asked.parts:
            report["job"] = job(folder, asked)
            lines += [*job_lines(report["job"]), ""]
        if "elements" in asked.parts:
            speeds = elements(folder, asked.runs)
            report["elements"] = [vars(speed) for speed in speeds]
            lines += ["| format | G elements/s, clock | of CPU time | wanted | beside it | times | what that is |"]
            lines += ["| --- | ---: | ---: | ---: | ---: | ---: | --- |", *map(line_of, speeds)]
    except CommandFailedError as problem:
        say(f"error: {problem}")
        return 1
    finally:
        shutil.rmtree(folder)
    asked.results.mkdir(parents=True, exist_ok=True)
    path = asked.results / f"{date}-formats.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines), flush=True)
    say(f"figures: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
