"""The rates of a job on this machine: the job itself is run on made models, and its own files are read in places."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from math import inf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from netweight.checkpoint.tensor import Tensor
from netweight.dtypes import DTYPES, Kind
from netweight.jobs.estimate.plan import Request, Work, plan_work

__all__ = ["measure"]

_TENSORS, _SHAPE = 24, (2048, 1024)  # of all made models together; two a worker at least
_SIDE, _GPU_SIDE, _COLS = 1536, 4096, 256  # of matrices whose spectra are timed, of an embedding: at most
_PIECES, _PIECE, _PATIENCE = 64, 4 << 20, 0.5  # tensors that are read, bytes of each, seconds


def measure(request: Request, work: Work) -> tuple[float, float, float, float, float]:
    """(seconds of the start, bytes a second through the job, bytes a second from its files, FLOPs a second, elements
    encoded a second); infinite where there is no such work. Raises ReadError, and OutputError where the folder for
    temporary files has no room.
    """
    (first, idle), _ = _timed(request, work, (64, 32), 2, 2)
    through = flops = encoding = inf
    if work.read and request.job != "embeddings":  # which computes for so long that bytes do not count
        streamed = replace(request, methods=work.light or ("basic_stats",)) if work.heavy or work.encoded else request
        seconds, made = _timed(streamed, work, _SHAPE, max(_TENSORS // len(work.checkpoints), 2 * work.workers), 3)
        through = (made.read + made.written) / max(median(seconds) - idle, median(seconds) / 4)
    if work.flops:
        side = min(work.side, _COLS if request.job == "embeddings" else _SIDE if work.device == "cpu" else _GPU_SIDE)
        seconds, made = _timed(replace(request, methods=work.heavy), work, (2 * side, side), work.workers, 1)
        flops = made.flops / max(seconds[0] - idle, seconds[0] / 4)
    if work.encoded:
        seconds, made = _timed(replace(request, methods=("formats",)), work, _SHAPE, 2 * work.workers, 1)
        encoding = made.encoded / max(seconds[0] - idle, seconds[0] / 4)
    start = first if first < 8.0 else idle  # 8 s: loops were compiled, which is once
    return start, through, _read_some(work), flops, encoding


def _timed(request: Request, work: Work, shape: tuple[int, int], tensors: int, runs: int) -> tuple[list[float], Work]:
    """(seconds of each run on made models, the plan of such a run)."""
    with TemporaryDirectory(prefix="netweight-") as folder, ExitStack() as stack:
        made = _moved(request, work, _write(Path(folder), work, shape, tensors))
        seconds = []
        for run in range(runs):
            output = f"{folder}/out-{run}" if run == 0 or made.job == "merge" else ""  # a delta's pictures: its start
            planned = plan_work(made, stack, output)
            begun = time.perf_counter()
            planned.run()
            seconds.append(time.perf_counter() - begun)
        return seconds, planned


def _moved(request: Request, work: Work, made: list[Any]) -> Request:
    """The same job for made models, one for each checkpoint; of a recipe with slices or modules, a copy of one."""
    device = {} if request.settings.get("multi_gpu") else {"device": work.device}
    request = replace(request, settings={**request.settings, **device})
    if work.recipe is None:
        base, ref, *models = made if request.base else (None, *made)
        return replace(request, base=base, ref=ref, models=tuple(models))
    if not work.recipe.models:
        return replace(request, ref=made[0], methods=("linear",))
    named = dict(zip(work.recipe.references(), made, strict=True))
    sources = tuple(replace(source, model=named[source.model]) for source in work.recipe.models)
    return replace(request, ref=replace(work.recipe, base=named.get(work.recipe.base), models=sources))


def _write(folder: Path, work: Work, shape: tuple[int, int], tensors: int) -> list[str]:
    """A model for each checkpoint: normal numbers of its element type, changed a little from one to the next."""
    import numpy as np

    from netweight.output.safetensors_file import write_safetensors

    random = np.random.Generator(np.random.SFC64(0))
    values = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
    names = ["model.embed_tokens.weight", *(f"model.layers.{i}.mlp.up_proj.weight" for i in range(tensors - 1))]
    for number, checkpoint in enumerate(work.checkpoints):
        floats = [tensor for tensor in checkpoint.values() if tensor.dtype.kind is Kind.FLOAT]
        dtype = max(floats, key=lambda tensor: tensor.nbytes).dtype if floats else DTYPES["F32"]
        (folder / str(number)).mkdir()
        tensors_of = dict.fromkeys(names, values.astype(dtype.to_numpy()))
        write_safetensors(folder / str(number) / "model.safetensors", tensors_of)
        values += random.standard_normal(shape, dtype=np.float32) * np.float32(3e-4)
    return [str(folder / str(number)) for number in range(len(work.checkpoints))]


def _read_some(work: Work) -> float:
    """Bytes a second from tensors all over the files on this machine, as the system holds them now."""
    tensors = [t for c in work.checkpoints if work.read and c.location is not None for t in c.values()]
    begun = time.perf_counter()

    def read(tensor: Tensor) -> int:
        out = bytearray(min(tensor.nbytes, _PIECE) if time.perf_counter() - begun < _PATIENCE else 0)
        tensor.read_into(0, memoryview(out))
        return len(out)

    with ThreadPoolExecutor(work.workers) as pool:
        done = sum(pool.map(read, tensors[:: len(tensors) // _PIECES + 1]))
    return done / (time.perf_counter() - begun) if done else inf
