"""The pictures of embeddings: for few and many clusters, hostile texts, values that are not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from netweight.figures.canvas import Canvas
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


def test_points_that_are_one(tmp_path, monkeypatch) -> None:
    """They lie in the middle of axes that reach one to each side; nothing else in the plane has their colour."""
    said = []

    def text(self, x, y, words, *more, **settings):
        said.append((round(x, 2), round(y, 2), words))
        draw(self, x, y, words, *more, **settings)

    def rectangle(self, *box):
        squares.append((*(round(number, 4) for number in box[:4]), box[4]))
        fill(self, *box)

    squares, draw, fill = [], Canvas.text, Canvas.rectangle
    monkeypatch.setattr(Canvas, "text", text)
    monkeypatch.setattr(Canvas, "rectangle", rectangle)
    cluster_plane(tmp_path / "a.png", "wte", [Point(1.0, 2.0, 0)] * 3, [(100.0, None)], (0.25, 0.125))
    quarters = ["", ".25", ".5", ".75"]
    left, bottom, side = 0.85, 0.62, 5.6
    assert said == [
        (0.2, 6.87, "Clusters of the token embedding: 3 rows on two principal axes"),
        (0.2, 6.63, "wte"),
        *((left - 0.07, round(bottom + n * side / 8, 2), f"{1 + n // 4}{quarters[n % 4]}") for n in range(9)),
        *((round(left + n * side / 8, 2), bottom - 0.12, f"{n // 4}{quarters[n % 4]}") for n in range(9)),
        (left + side / 2, bottom + side / 2, "0"),  # the cluster's number, on the points
        (left + side / 2, 0.22, "1st principal axis (25% of the variance)"),
        (0.2, bottom + side / 2, "2nd principal axis (12.5% of the variance)"),
        (6.91, 6.17, "cluster"),
        (7.77, 6.17, "rows"),
        (7.87, 6.17, "e.g."),
        (7.17, 5.94, "0"),
        (7.77, 5.94, "100.0%"),
    ]
    dot = 0.055
    point = round(left + (side - dot) / 2, 4), round(bottom + (side - dot) / 2, 4), dot, dot, "#0072B2"
    assert [square for square in squares if square[2:4] == (dot, dot)] == [point] * 3
    pixels = drawn(tmp_path / "a.png")
    assert pixels.shape == (858, 1128, 3)
    rows, columns = ((pixels == (0x00, 0x72, 0xB2)).all(axis=2)).nonzero()
    plane = columns < 120 * (left + side)
    middle = 858 - 120 * (bottom + side / 2), 120 * (left + side / 2)
    for place, expected in zip((rows[plane], columns[plane]), middle, strict=True):
        assert abs((place.min() + place.max()) / 2 - expected) <= 1
        assert 15 <= place.max() - place.min() <= 30
    assert 80 < (~plane).sum() < 160  # the square in the list
