"""Embeddings of a model on a hub: fetched into the cache, or only its embedding read and held in memory."""

from __future__ import annotations

import fsspec
import numpy as np
from embedding_models import NAME, planted, save_model, save_tokenizer

import netweight


def test_from_a_hub(tmp_path, hub) -> None:
    x, _ = planted(300, 64, 3, apart=4)
    other = np.zeros((2000, 64), np.float32)
    model = save_model(tmp_path / "m", {NAME: x, "model.layers.0.mlp.up_proj.weight": other})
    save_tokenizer(model, [f"word{i}" for i in range(300)])
    commit = hub.publish("org/name", model)
    here = netweight.embeddings(model, max_k=5)
    hub.clear()
    far = netweight.embeddings("org/name", tmp_path / "far", max_k=5, remote=True)
    assert far.labels.tolist() == here.labels.tolist()
    assert far.inputs[0]["revision"] == commit
    assert far.texts == here.texts
    assert hub.sent("*.safetensors") < 3 * x.nbytes  # once for the clusters, once for the scan, and headers
    fetched = netweight.embeddings("org/name", tmp_path / "fetched", max_k=5)
    assert fetched.texts == here.texts
    assert fetched.labels.tolist() == here.labels.tolist()
    assert netweight.nearest_tokens("org/name", ["word5"], count=1).rows[0].token_id == 5


def test_from_a_url(tmp_path) -> None:
    x, _ = planted(200, 8, 2, apart=4)
    model = save_model(tmp_path, {NAME: x})
    files = fsspec.filesystem("memory")
    for path in model.iterdir():
        files.pipe(f"/embeddings-far/{path.name}", path.read_bytes())
    far = netweight.embeddings("memory://embeddings-far", max_k=4)
    assert far.optimal_k == 2
    near = netweight.nearest_tokens("memory://embeddings-far", [3], count=2)
    assert [r.cosine for r in near.rows] == [r.cosine for r in netweight.nearest_tokens(model, [3], count=2).rows]
