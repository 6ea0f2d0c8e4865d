"""Elements in random order: against WeightWatcher's own values for the same orders, and matrices made for it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from array_matrix import ArrayMatrix
from safetensors.numpy import save_file
from scipy.stats import entropy
from test_tail import spectrum_of
from weightwatcher_matrices import build

import netweight
from netweight.kernels.cpu import CpuKernels
from netweight.measures.randomize import COLUMNS, derive, jensen_shannon
from netweight.passes import permuted
from netweight.passes.matrices import Scratch
from netweight.passes.permuted import permuted_spectra, replicas

RECORDED = json.loads(Path(__file__).with_name("weightwatcher_values.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in RECORDED["cases"]}
NAMES = [column.name for column in COLUMNS if column.name not in ("randomize_reason", "rand_beyond")]
SCRATCH = Scratch(CpuKernels())
NO_LAW = {"heavy 1.5"}  # see test_bulk.py


@pytest.mark.parametrize("name", sorted(set(CASES) - {"zero"}))
def test_columns_are_those_of_weightwatcher_for_the_same_orders(name, request):
    recipe, theirs = CASES[name]["recipe"], CASES[name]["random"]
    folder = request.getfixturevalue("realweights") if recipe["kind"] == "file" else None
    matrix = np.ascontiguousarray(build(recipe, folder).astype(np.float32))
    spectrum = spectrum_of(matrix)
    found = permuted_spectra(ArrayMatrix(matrix, "F32"), SCRATCH, RECORDED["seed"])
    ours = derive(spectrum, found)
    # WeightWatcher draws one more order for the columns that compare the two spectra
    random = np.random.RandomState(RECORDED["seed"])
    for _ in range(replicas(*matrix.shape) + 1):
        last = matrix.flatten()
        random.shuffle(last)
    compared = derive(spectrum, (spectrum_of(last.reshape(matrix.shape)),))
    ours |= {column: compared[column] for column in ("rand_distance", "ww_softrank", "ww_maxdist")}
    unfitted = ours["randomize_reason"] != ""
    for column in NAMES:
        if unfitted and column.startswith("rand_") and column != "rand_distance":
            assert math.isnan(ours[column])
            continue
        least = 1e-6 * theirs["max_rand_eval"] if column == "ww_maxdist" else 0.0
        assert ours[column] == pytest.approx(theirs[column], rel=1e-6, abs=least), column
    assert unfitted == (name in NO_LAW)


def test_the_distance_is_scipys_entropy_against_the_undivided_mean():
    random = np.random.default_rng(1)
    p, q = random.uniform(0, 1, 50), random.uniform(0, 7, 50)
    middle = (p + q) / 2
    assert jensen_shannon(p, q) == pytest.approx(math.sqrt((entropy(p, middle) + entropy(q, middle)) / 2), rel=1e-12)
    assert jensen_shannon(p, 3 * p) == pytest.approx(0, abs=1e-7)
    assert jensen_shannon(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(math.sqrt(math.log(2)))


def test_an_element_far_away_is_a_trap_and_order_is_none():
    random = np.random.default_rng(2)
    noise = 0.02 * random.standard_normal((300, 500))
    trap = noise.copy()
    trap[17, 33] = 3.0
    u, v = random.standard_normal((300, 4)), random.standard_normal((4, 500))
    ordered = noise + 0.02 * u @ v
    rows = {
        name: derive(spectrum_of(matrix), permuted_spectra(ArrayMatrix(matrix, "F64"), SCRATCH, 0))
        for name, matrix in (("noise", noise), ("trap", trap), ("ordered", ordered))
    }
    assert [rows[name]["rand_num_spikes"] for name in rows] == [0, 1, 0]
    assert [rows[name]["rand_beyond"] for name in rows] == [0, 1, 0]
    assert rows["trap"]["max_rand_eval"] == pytest.approx(9.0, rel=0.05)
    assert (
        rows["noise"]["rand_distance"] < 0.01 < 10 * rows["noise"]["rand_distance"] < rows["ordered"]["rand_distance"]
    )


class _Seen:
    """Kernels that keep what they are given."""

    def __init__(self):
        self.blocks = []

    def spectrum(self, *args):
        self.blocks.append([])
        inner, outer = CpuKernels().spectrum(*args), self

        class Kept:
            rows, cols = inner.rows, inner.cols
            look_again, singular_values = inner.look_again, inner.singular_values

            def add(self, block, rows):
                outer.blocks[-1].append(block.copy())
                inner.add(block, rows)

        return Kept()


@pytest.mark.parametrize("held", [1, 1000, 1 << 28])
def test_every_element_is_there_once_however_few_are_held(held, monkeypatch):
    monkeypatch.setattr(permuted, "_HELD", held)
    matrix = np.arange(130 * 120, dtype=np.float32).reshape(130, 120)
    kernels = _Seen()
    found = permuted_spectra(ArrayMatrix(matrix, "F32"), Scratch(kernels, 1 << 16), 5)
    (blocks,) = kernels.blocks
    given = np.concatenate(blocks).view(np.float32)
    assert (np.sort(given) == matrix.reshape(-1)).all()
    assert (given != matrix.reshape(-1)).mean() > 0.9
    assert found[0].values[0] ** 2 < found[0].square_sum == pytest.approx(float((matrix.astype(float) ** 2).sum()))
    again = permuted_spectra(ArrayMatrix(matrix, "F32"), SCRATCH, 5)
    assert (again[0].values == found[0].values).all()


def test_stretches_hold_rows_of_every_kind(monkeypatch):
    """Rows that grow: by stretches of neighbouring rows the last would be a bulk of its own."""
    monkeypatch.setattr(permuted, "_HELD", 1 << 16)
    random = np.random.default_rng(3)
    matrix = (np.linspace(0.1, 3, 800)[:, None] * random.standard_normal((800, 200))).astype(np.float32)
    (found,) = permuted_spectra(ArrayMatrix(matrix, "F32"), SCRATCH, 1)
    monkeypatch.undo()
    (whole,) = permuted_spectra(ArrayMatrix(matrix, "F32"), SCRATCH, 1)
    assert found.values == pytest.approx(whole.values, rel=0.05)
    assert derive(spectrum_of(matrix), (found,))["rand_num_spikes"] == 0


def test_a_scan_gives_the_same_orders_to_any_workers_and_others_to_another_seed(tmp_path):
    random = np.random.default_rng(4)
    save_file(
        {f"m{i}.weight": random.standard_normal((110, 130)).astype(np.float32) for i in range(3)}
        | {"thin.weight": random.standard_normal((40, 90)).astype(np.float32), "v": np.ones(50, np.float32)},
        tmp_path / "model.safetensors",
    )
    rows = [
        netweight.scan(tmp_path, methods=["randomize"], **settings).to_dict()
        for settings in ({"workers": 1}, {"workers": 2}, {"workers": 2, "memory": 1 << 30}, {"seed": 1})
    ]
    assert rows[0] == rows[1] == rows[2]
    changed = [name for name in rows[0] if rows[0][name] != rows[3][name]]
    assert changed == ["m0.weight", "m1.weight", "m2.weight", "thin.weight"]
    assert len({rows[0][f"m{i}.weight"]["randomize"]["max_rand_eval"] for i in range(3)}) == 3
    assert "a vector" in rows[0]["v"]["randomize"]["randomize_reason"]


def test_leading_values_alone_say_that_more_are_needed(tmp_path):
    save_file(
        {"w": np.random.default_rng(5).standard_normal((800, 900)).astype(np.float32)}, tmp_path / "a.safetensors"
    )
    row = netweight.scan(tmp_path / "a.safetensors", methods=["randomize", "bulk"], rank_k=3).to_dict()["w"]
    said = "only the largest 3 of 800 eigenvalues are known"
    assert (row["randomize"]["randomize_reason"], row["bulk"]["bulk_reason"]) == (said, said)


def test_it_is_not_one_of_all(tmp_path):
    save_file({"w": np.ones((9, 9), np.float32)}, tmp_path / "a.safetensors")
    measured = netweight.scan(tmp_path / "a.safetensors", methods="all").to_dict()["w"]
    assert "randomize" not in measured
    assert "bulk" in measured
