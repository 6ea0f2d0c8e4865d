"""The pictures of embeddings: for few and many clusters, hostile texts, values that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from netweight.figures.embeddings import Point, anova_curve, cluster_plane


def drawn(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    "curve",
    [
        [(2, 5.0)],
        [(k, 100.0 / k) for k in range(2, 31)],
        [(k, 1e9 / k**3) for k in range(2, 201)],
        [(2, 3.0), (3, math.inf), (4, math.nan)],
        [(2, math.inf)],
        [(2, 0.0), (3, 0.0)],
    ],
)
def test_the_curve(tmp_path, curve) -> None:
    for name in ("a.png", "b.png"):
        anova_curve(tmp_path / name, "model.\x1b[31m$embed$" * 20, curve, curve[0][0], sample=20_000, rows=151_936)
    pixels = drawn(tmp_path / "a.png")
    assert pixels.shape == (552, 960, 3)
    assert ((pixels == (0xD5, 0x5E, 0x00)).all(axis=2)).sum() > 20  # the chosen k
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("clusters", [2, 7, 60])
def test_the_plane(tmp_path, clusters) -> None:
    rng = np.random.default_rng(clusters)
    points = [Point(float(x), float(y), i % clusters) for i, (x, y) in enumerate(rng.standard_normal((500, 2)))]
    texts = [None, "$x^2", "\u97e9\u8bed", "\x1b[31m", "a" * 300, "\u202eabc", "", " the"]
    named = [(100 / clusters, texts[i % len(texts)]) for i in range(clusters)]
    cluster_plane(tmp_path / "a.png", "wte.weight", points, named, (0.25, 0.125))
    pixels = drawn(tmp_path / "a.png")
    assert ((pixels == (0x00, 0x72, 0xB2)).all(axis=2)).sum() > 20
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > clusters


def test_points_that_are_one(tmp_path) -> None:
    cluster_plane(tmp_path / "a.png", "wte", [Point(1.0, 2.0, 0)] * 3, [(100.0, None)], (0.0, 0.0))
    assert drawn(tmp_path / "a.png").shape[1] > 900
