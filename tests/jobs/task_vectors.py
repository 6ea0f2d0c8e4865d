"""What `delta` must say, worked out by numpy in float64, and checkpoints to say it of. None of netweight's own code."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import prepared_process

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)
FIELDS = [
    "param",
    "shape",
    "l2",
    "l1",
    "maxabs",
    "mean",
    "std",
    "skew",
    "kurtosis_excess",
    "q0",
    "q1",
    "q5",
    "q10",
    "q25",
    "q50",
    "q75",
    "q90",
    "q95",
    "q99",
    "q100",
]
"""The fields that the specification of `delta` names, in its order."""

PROGRAM = (sys.executable, "-W", "error", "-c", "from netweight.cli.main import main; main()")
"""The program as a command line, to which arguments are added."""

_NAMES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}


def save(path, arrays, config=None):
    """A safetensors file, or a folder with model.safetensors and config.json, written by hand."""
    path = Path(path)
    if path.suffix != ".safetensors":
        path.mkdir(parents=True, exist_ok=True)
        if config is not None:
            (path / "config.json").write_text(json.dumps(config))
        save(path / "model.safetensors", arrays)
        return path
    header, end = {}, 0
    for name, array in arrays.items():
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
    return path


def normal(shape, dtype="float32", seed=0, scale=0.02):
    rng = np.random.default_rng(seed)
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    return np.asarray(rng.standard_normal(shape) * scale).astype(kind)


def tuned(arrays, seed, scale=1e-3):
    """The same model after some training: every float tensor moved a little, in its own dtype."""
    rng = np.random.default_rng(seed)
    return {
        name: (a.astype(np.float64) + rng.standard_normal(a.shape) * scale).astype(a.dtype)
        if a.dtype.kind in "fV"
        else a
        for name, a in arrays.items()
    }


def difference(base, model):
    """float64 values of the float32 difference of the upcast values; float64 where either side is float64."""
    wide = np.float64 if np.float64 in (base.dtype, model.dtype) else np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        return (model.astype(wide) - base.astype(wide)).astype(np.float64)


def check_row(row, base, model):
    """One parsed row of per_param_stats.csv against numpy."""
    assert json.loads(row["shape"]) == list(base.shape)
    every = difference(base, model).ravel()
    assert row["n_nan"] == np.isnan(every).sum()
    assert row["n_inf"] == np.isinf(every).sum()
    x = every[np.isfinite(every)]
    if not x.size:
        assert (row["l2"], row["l1"], row["maxabs"]) == (0, 0, 0)
        assert [row[f] for f in FIELDS[5:]] == [None] * 15
        return
    exact = x.astype(np.longdouble if x.size < 1 << 22 else np.float64)  # numpy sums in pairs: good to 1e-15
    l2, l1 = float(np.sqrt((exact**2).sum())), float(np.abs(exact).sum())
    assert row["l2"] == approx(l2, 1e-12)
    assert row["l1"] == approx(l1, 1e-12)
    assert row["maxabs"] == np.abs(x).max()
    mean = exact.mean()
    e = exact - mean
    std = float(np.sqrt((e**2).mean()))
    assert abs(row["mean"] - float(mean)) <= 1e-12 * l1 / x.size
    constant = x.min() == x.max()
    assert row["std"] == (0 if constant else approx(std, 1e-9))
    skew, kurtosis = (0.0, 0.0) if constant else (float((e**3).mean() / std**3), float((e**4).mean() / std**4 - 3))
    assert abs(row["skew"] - skew) <= 1e-9 * max(1, abs(skew))
    assert abs(row["kurtosis_excess"] - kurtosis) <= 1e-9 * max(1, abs(kurtosis))
    expected = np.quantile(x, [q / 100 for q in QUANTILES])
    assert [row[f"q{q}"] for q in QUANTILES] == expected.tolist()
    assert row["unchanged_percentage"] == 100 * int((every == 0).sum()) / every.size
    finite = base.astype(exact.dtype)
    base_l2 = float(np.sqrt((finite[np.isfinite(finite)] ** 2).sum()))
    assert row["base_l2"] == approx(base_l2, 1e-12)
    assert row["relative_l2"] == (approx(l2 / base_l2, 1e-12) if base_l2 else None)


class approx:  # pytest's own has an absolute tolerance and hides NaN behind None
    def __init__(self, value, relative):
        self.value, self.relative = value, relative

    def __eq__(self, other):
        return other is not None and abs(other - self.value) <= self.relative * abs(self.value)

    __hash__ = None

    def __repr__(self):
        return f"{self.value!r} to {self.relative}"


def cosine(base, a, b):
    """Of two task vectors: flattened, concatenated, over the places where both are finite."""
    names = [n for n in base if n in a or n in b]
    dot = square_a = square_b = np.longdouble(0)
    for name in names:
        x = difference(base[name], a[name]).ravel() if name in a else np.zeros(base[name].size)
        y = difference(base[name], b[name]).ravel() if name in b else np.zeros(base[name].size)
        if x.size < 1 << 22:  # beyond, numpy's sums in pairs have to do, and are good to 1e-15
            x, y = x.astype(np.longdouble), y.astype(np.longdouble)
        both = np.isfinite(x) & np.isfinite(y)
        dot += (x[both] * y[both]).sum()
        square_a += (x[np.isfinite(x)] ** 2).sum()
        square_b += (y[np.isfinite(y)] ** 2).sum()
    return float(dot / np.sqrt(square_a) / np.sqrt(square_b)) if square_a and square_b else None


def read_rows(path):
    """{param: {field: value}} of a CSV, numbers as floats, empty cells as None; names and shapes as text."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        found = {}
        for row in csv.DictReader(file):
            text = {"param", "shape", "flag"}
            found[row["param"]] = {k: v if k in text else None if v == "" else float(v) for k, v in row.items()}
    return found


def read_cosines(path):
    """(header, matrix) of pairwise_cosines.csv; empty cells as None."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == header[1:]
    return header[1:], [[None if v == "" else float(v) for v in row[1:]] for row in rows]


def strict_json(text):
    """JSON without the NaN and Infinity that Python's reader lets pass."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def tree(folder):
    """{path: bytes} of every file below, the list of netweight's own files included."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def netweight(*args, cwd=None, env=None, **settings):
    """Run the program; the completed process, its output as text. `env` is what differs from this process's own, None
    what is not there. `settings` are those of a fresh process.
    """
    environment = {**os.environ, "NO_COLOR": "1", **(env or {})}
    environment = {k: v for k, v in environment.items() if v is not None}
    words = list(map(str, args))
    if not settings and prepared_process.can_run(environment):
        return prepared_process.run(PROGRAM[-1], words, environment, cwd)
    return subprocess.run(
        [*PROGRAM, *words],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=cwd,
        **settings,
    )


_OF_SLOW_MACHINES = re.compile(
    r"(?:[\d.]+ \w+ of [\d.]+ \w+, \d+ of \d+ tensors, [\d.]+ \w+/s, [\d:]+ left"
    r"|\d+ of \d+ models, [\d.]+/s, \d+ s left"
    r"|note: compiling the kernels: only at the first run of an installation)\n"
)


def beside_progress(said):
    """What a program wrote to stderr, without the lines that it has for whoever waits: a fast machine writes none."""
    return _OF_SLOW_MACHINES.sub("", said)


def is_close(a, b, tolerance=1e-12):
    """Cosines: numbers of the size of one, or both absent."""
    return (a is None) == (b is None) and (a is None or math.isclose(a, b, rel_tol=0, abs_tol=tolerance))
