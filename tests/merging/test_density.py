"""A density that leaves less than one element of a parameter keeps its largest, as numpy has it."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import netweight
from netweight.errors import OptionError
from netweight.jobs.merge.request import Weights
from netweight.merging.recipe.recipe import parse_recipe
from netweight.merging.select import kept_of

BASE = np.zeros(4, np.float32)
TUNED = np.array([0.25, -4.0, 1.0, 0.5], np.float32)


@pytest.mark.parametrize(
    ("density", "size", "kept"),
    [
        (0, 7, 0),
        (0.1, 4, 1),
        (1e-9, 10**6, 1),
        (0.25, 4, 1),
        (0.49, 4, 1),
        (0.5, 4, 2),
        (1, 4, 4),
        (0.5, 0, 0),
        (0.1, 1, 1),
    ],
)
def test_how_many_are_kept(density, size, kept):
    assert kept_of(density, size) == kept


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize(("density", "expected"), [(0.1, [0, -4, 0, 0]), (0.5, [0, -4, 1, 0]), (0, [0, 0, 0, 0])])
def test_the_largest_is_kept(tmp_path, method, density, expected):
    for name, values in (("base", BASE), ("tuned", TUNED)):
        (tmp_path / name).mkdir()
        save_file({"model.norm.weight": values}, tmp_path / name / "model.safetensors")
    recipe = (
        f"merge_method: {method}\nbase_model: {tmp_path / 'base'}\nmodels:\n"
        f"  - {{model: {tmp_path / 'tuned'}, parameters: {{weight: 1, density: {density}}}}}\n"
    )
    netweight.merge(parse_recipe(recipe, "a test"), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"]
    np.testing.assert_array_equal(written, np.float32(expected))


@pytest.mark.parametrize(
    ("mode", "setting"), [("linear", {"alpha": 9}), ("power", {"beta": 2}), ("equal", {"beta": 2})]
)
def test_a_setting_without_effect_is_refused(mode, setting):
    (name,) = setting
    with pytest.raises(OptionError, match=rf"--{name} .*has no effect with --mode {mode}"):
        Weights(mode=mode, **setting)


def test_norms_that_were_given_are_those_that_are_shown(tmp_path):
    from netweight.jobs.merge.weights import weigh

    request = Weights(mode="linear", norms=(1.0, 3.0))
    grams = {"x": np.diag([4.0, 4.0])}  # measured: 2 and 2
    weighting = weigh(request, ["a", "b"], [], grams)
    assert weighting.norms == (1.0, 3.0)
    assert weighting.weights == pytest.approx((0.75, 0.25))
    assert weighting.cosines == ((1.0, 0.0), (0.0, 1.0))
