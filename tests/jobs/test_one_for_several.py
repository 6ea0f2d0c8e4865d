"""Where several names or globs may be given, a plain one is one, not its letters; options and settings go together."""

from __future__ import annotations

import numpy as np
import pytest
from embedding_models import planted
from safetensors.numpy import save_file

import netweight
from netweight.errors import OptionError
from netweight.jobs.delta.plan import Options

A, B = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def models(tmp_path):
    random = np.random.default_rng(0)
    for name in ("base", "tuned"):
        (tmp_path / name).mkdir()
        tensors = {n: random.normal(size=(8, 8)).astype("f4") for n in (A, B)}
        tensors["model.embed_tokens.weight"] = planted(60, 8, 2, apart=4)[0].astype("f4")
        save_file(tensors, tmp_path / name / "model.safetensors")
    return tmp_path


def test_a_plain_glob(models) -> None:
    base, tuned = models / "base", models / "tuned"
    assert list(netweight.scan(base, include=A).to_dict()) == [A]
    assert [p.aligned.name for p in netweight.delta(base, [tuned], include=A).parameters] == [A]
    assert list(netweight.compare(base, tuned, include=A, exclude="no.such").to_dict()["layer_comparisons"]) == [A]
    assert netweight.embeddings(base, max_k=3, include="*embed*", exclude=A).rows == 60
    assert netweight.nearest_tokens(base, 5, count=1, include="*embed*").rows[0].token_id == 5


def test_a_plain_model(models) -> None:
    for tuned in (models / "tuned", str(models / "tuned")):
        assert len(netweight.delta(models / "base", tuned).parameters) == 3


def test_settings_beside_options(models) -> None:
    found = netweight.delta(models / "base", models / "tuned", options=Options(workers=1), include=[B])
    assert [p.aligned.name for p in found.parameters] == [B]


def test_less_than_a_mebibyte(models) -> None:
    with pytest.raises(OptionError, match="--memory 1000000 bytes: this job needs"):
        netweight.scan(models / "base", memory=1_000_000)
