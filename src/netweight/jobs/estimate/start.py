"""How long a job takes to start: the job itself, run by a fresh interpreter on models of two small tensors."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from netweight.dtypes import DTYPES, DType, Kind
from netweight.errors import JobError, printable
from netweight.jobs.estimate.made import made_family

__all__ = ["measure_start"]

_COMPILING = 5.0  # seconds: longer than any start is, so that loops were compiled, which later starts need not
_PROGRAM = """
import json, sys
import netweight
call = json.loads(sys.argv[1])
getattr(netweight, call["job"])(*call["arguments"], **call["settings"])
"""
_NAMES = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")


def measure_start(job: str, dtype: DType, methods: tuple[str, ...], *, deep: bool) -> float:
    """Seconds; raises JobError where the job cannot be started."""
    for _ in range(2):
        with tempfile.TemporaryDirectory(prefix="netweight-estimate-") as folder:
            arguments, settings = _call(job, Path(folder), dtype, methods, deep=deep)
            seconds = _run(job, json.dumps({"job": job, "arguments": arguments, "settings": settings}))
        if seconds <= _COMPILING:
            break
    return seconds


def _run(job: str, call: str) -> float:
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _PROGRAM, call], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise JobError(f"{job}: could not be started on a small made model: {printable(last, 300)}")
    return time.perf_counter() - begun


def _call(
    job: str, folder: Path, dtype: DType, methods: tuple[str, ...], *, deep: bool
) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of `netweight.JOB`."""
    model, twin, out = (str(folder / name) for name in ("model", "twin", "out"))
    for place in (model, twin):
        _write(Path(place), dtype if dtype.kind is Kind.FLOAT else DTYPES["F32"])
    calls: dict[str, tuple[list[Any], dict[str, Any]]] = {
        "info": ([model], {}),
        "structure": ([model], {"deep": deep, "workers": 1}),
        "scan": ([model], {"methods": list(methods)}),
        "compare": ([model, twin], {"methods": list(methods)}),
        "delta": ([model, [twin], out], {}),
        "merge": ([None, out], {"base": model, "models": [twin], "weights": [1.0]}),
        "embeddings": ([model], {"max_k": 2, "skip_representatives": True, "workers": 1}),
    }
    return calls[job]


def _write(folder: Path, dtype: DType) -> None:
    from netweight.output.safetensors_file import write_safetensors

    folder.mkdir()
    tensor = made_family([dtype], (64, 32))[0].read()
    write_safetensors(folder / "model.safetensors", dict.fromkeys(_NAMES, tensor))
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
