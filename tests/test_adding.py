"""A measure, a merge method and a reader are one file and one row each: here a toy of each is added to a copy of the
source, and nothing else in it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from copied_source import add

UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.layers.0.input_layernorm.weight"

MEASURE = '''"""Toy: the root mean square.

A matrix without elements has none.
"""

from math import nan, sqrt

from netweight.columns import Column
from netweight.measures.measure import Measure
from netweight.statistics.values import MOMENTS


def derive(values):
    m = values.moments
    return {"toy_reason": "" if m.n else "no elements", "rms": sqrt(m.square_sum / m.n) if m.n else nan}


MEASURE = Measure(
    name="toy",
    doc="The size of an element.",
    needs=frozenset({MOMENTS}),
    columns=(Column("toy_reason", "", "why", "text"), Column("rms", "", "sqrt(mean x^2)", "number")),
    derive=derive,
    takes=("values",),
    compared=("rms_ratio",),
)
'''

METHOD = '''"""Toy: a step from the base to the mean of the models."""

from netweight.merging.method import Base, Method, Setting
from netweight.merging.writes import combination


def _course(subject):
    yield from ()
    step = float(subject.settings["step"])
    count = len(subject.model_settings)
    return combination((1 - step, *[step / count] * count), total=1.0, base=True)


METHODS = (
    Method(
        name="toy",
        title="A step towards the mean",
        formula="b + step * mean(d_i)",
        source="a test",
        base=Base.REQUIRED,
        models=(1, None),
        settings=(Setting("step", "How far to go.", default=0.5, low=0, high=1),),
        course=_course,
    ),
)
'''

READER = '''"""Toy: eight bytes of magic, four of a length, JSON {name: shape} of that length, float32 numbers."""

import json
from math import prod

from netweight.checkpoint.byte_stream import digest_of, stream_of
from netweight.checkpoint.part import Part
from netweight.checkpoint.reader import Reader
from netweight.checkpoint.tensor import CheckpointFile
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES


def _matches(start, size):
    return start.startswith(b"TOYMODEL")


def _read(source):
    stream = stream_of(source, 8, source.size)
    at = 12 + int.from_bytes(stream.read(4), "little")
    header = digest_of(source, 0, at)
    tensors = {}
    for name, shape in json.loads(stream.read(at - 12)).items():
        tensors[name] = StoredTensor(name, tuple(shape), DTYPES["F32"], source, at)
        at += 4 * prod(shape)
    return Part("toy", source, CheckpointFile(source.name, source.size, header), tensors)


READER = Reader("toy", _matches, _read, endings=(".toy",))
'''


@pytest.fixture
def weights() -> list[dict[str, np.ndarray]]:
    """Three models of one shape, float32."""
    rng = np.random.default_rng(0)
    return [{UP: rng.normal(size=(6, 4)).astype("f4"), NORM: rng.normal(size=4).astype("f4")} for _ in range(3)]


@pytest.fixture
def models(tmp_path: Path, weights: list[dict[str, np.ndarray]]) -> list[Path]:
    """The same as folders."""
    folders = [tmp_path / name for name in ("base", "one", "two")]
    for folder, tensors in zip(folders, weights, strict=True):
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
    return folders


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def test_a_measure(tmp_path: Path, models: list[Path], weights: list[dict[str, np.ndarray]]) -> None:
    copy = add(tmp_path, "measures/toy.py", MEASURE, "measures/registry.py", "tail")
    table, compared = tmp_path / "scan.parquet", tmp_path / "compare.parquet"
    answer = copy.ask(
        ["scan", models[0], "--methods", "toy"],
        ["scan", models[0], "--methods", "all", "--format", "json"],
        ["scan", models[0], "--methods", "basic_stats", "toy", "--output", table],
        ["compare", *models[:2], "--methods", "toy"],
        ["compare", *models[:2], "--methods", "toy", "--output", compared],
        ["scan", "--help"],
        ["compare", "--help"],
        complete=("scan", "--methods"),
        render=("make_columns.py",),
    )
    shown, everything, _, side_by_side, _, scan_help, compare_help = answer["outputs"]
    heading, line = (next(s for s in shown.splitlines() if word in s).split() for word in ("toy.rms", "up_proj"))
    assert float(line[heading.index("toy.rms") - len(heading)]) == pytest.approx(rms(weights[0][UP]), rel=1e-2)
    measured = json.loads(everything)
    assert [name for name in measured[UP] if name in ("tail", "toy")] == ["tail", "toy"]
    assert measured[UP]["toy"] == {"toy_reason": "", "rms": pytest.approx(rms(weights[0][UP]), rel=1e-12)}
    written = {row["param"]: row for row in pq.read_table(table).to_pylist()}
    assert {name: row["toy.rms"] for name, row in written.items()} == {
        name: pytest.approx(rms(array), rel=1e-12) for name, array in weights[0].items()
    }
    ratio = rms(weights[1][UP]) / rms(weights[0][UP])
    assert f"x{ratio:.4g}" in side_by_side
    rows = {row["param"]: row for row in pq.read_table(compared).to_pylist()}
    assert rows[UP]["rms_ratio"] == pytest.approx(ratio, rel=1e-12)
    assert rows[UP]["toy_diff_reason"] == ""
    assert "toy" in scan_help.split()
    assert "tail, toy, " in " ".join(compare_help.split())
    assert ["toy", "The", "size", "of", "an", "element."] in [s.split() for s in scan_help.splitlines()]
    assert "toy" in answer["completed"]
    (columns,) = answer["rendered"]
    assert "## `scan`: toy\n\nToy: the root mean square.\n\nA matrix without elements has none.\n\n| field" in columns
    assert "| `rms` |  | sqrt(mean x^2) |" in columns
    assert "| `rms_ratio` |  | rms of b / that of a |" in columns


def test_a_merge_method(tmp_path: Path, models: list[Path], weights: list[dict[str, np.ndarray]]) -> None:
    copy = add(tmp_path, "merging/methods/toy.py", METHOD, "merging/registry.py", "arcee_fusion")
    by_options, by_recipe = tmp_path / "by_options", tmp_path / "by_recipe"
    recipe = tmp_path / "toy.yml"
    recipe.write_text(
        f"merge_method: toy\nbase_model: {models[0]}\nmodels: [{{model: {models[1]}}}]\nparameters: {{step: 0.75}}\n",
        encoding="utf-8",
    )
    answer = copy.ask(
        ["merge", "--method", "toy", "--base", models[0], "--models", *models[1:], "--output", by_options],
        ["merge", recipe, "--output", by_recipe],
        ["verify", by_options],
        ["verify", by_recipe],
        complete=("merge", "--method"),
        render=("make_methods.py",),
    )
    base, one, two = weights
    for name in (UP, NORM):
        halfway = base[name] + 0.5 * ((one[name] - base[name]) + (two[name] - base[name])) / 2
        np.testing.assert_allclose(load_file(by_options / "model.safetensors")[name], halfway, rtol=1e-5, atol=1e-6)
        further = base[name] + 0.75 * (one[name] - base[name])
        np.testing.assert_allclose(load_file(by_recipe / "model.safetensors")[name], further, rtol=1e-5, atol=1e-6)
    assert all("bit for bit" in said for said in answer["outputs"][2:])
    assert "toy" in answer["completed"]
    assert "## `toy`\n\nA step towards the mean. Takes a base and 1 or more models." in answer["rendered"][0]
    assert "| `step` | the merge | 0.5 | from 0 to 1 | How far to go. |" in answer["rendered"][0]


def test_a_reader(tmp_path: Path, weights: list[dict[str, np.ndarray]]) -> None:
    copy = add(tmp_path, "checkpoint/toy.py", READER, "checkpoint/kinds.py", "torch_legacy")
    header = json.dumps({name: array.shape for name, array in weights[0].items()}).encode()
    file = tmp_path / "folder" / "weights.toy"
    file.parent.mkdir()
    data = b"".join(array.tobytes() for array in weights[0].values())
    file.write_bytes(b"TOYMODEL" + len(header).to_bytes(4, "little") + header + data)
    answer = copy.ask(
        ["info", file, "--format", "json"],
        ["scan", file, "--format", "json"],
        ["scan", file.parent, "--format", "json"],
    )
    about, *scans = map(json.loads, answer["outputs"])
    assert about["format"] == "toy"
    for scan in scans:
        for name, array in weights[0].items():
            assert scan[name]["basic_stats"]["l2"] == pytest.approx(
                float(np.linalg.norm(array.astype("f8"))), rel=1e-12
            )
            assert scan[name]["basic_stats"]["min"] == float(array.min())
