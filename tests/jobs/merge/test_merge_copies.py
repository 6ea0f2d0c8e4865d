"""Parameters that a merge copies as they are: the notes count what is not finite in them too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import netweight

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_what_is_not_finite_in_a_copy_is_counted(tmp_path, dtype) -> None:
    kind = getattr(torch, dtype)
    values = np.random.default_rng(0).normal(size=(700, 2000)).astype(np.float32)
    values[3, 5] = values[500, 1] = np.nan
    values[699, 1999], values[0, 0] = np.inf, -np.inf
    tensor = torch.from_numpy(values).to(kind)
    (tmp_path / "base").mkdir()
    save_file({NAME: tensor}, tmp_path / "base" / "model.safetensors")
    recipe = tmp_path / "r.yml"
    recipe.write_text(f"merge_method: passthrough\nmodels:\n  - model: {tmp_path / 'base'}\n")
    merged = netweight.merge(recipe, tmp_path / "out")
    expected = int((~np.isfinite(tensor.to(torch.float64).numpy())).sum())
    assert expected >= 2
    notes = [note for note in merged.notes if "NaN or infinite" in note]
    assert notes == [f"{expected} elements of 1 parameters are NaN or infinite, first in {NAME}"]
    assert netweight.verify(tmp_path / "out").good
