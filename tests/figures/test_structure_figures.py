"""The pictures of `structure`: what is drawn, that it is legible, that numbers and colours agree."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from netweight.figures.canvas import Canvas, text_width
from netweight.figures.structure import _count, _ticks, parameters_by_part, reduction_by_layer

PARTS = {"embedding": 525_336_576, "attention": 1_342_177_280, "mlp": 5_637_144_576, "norm": 262_144, "other": 4096}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def texts(monkeypatch):
    """Every line of text that is drawn, with its box in inches: (text, left, right, bottom, top, width, height)."""
    seen = []
    real = Canvas.text

    def spy(self, x, y, text, size, *, align="left", angle=0.0, colour="#000000"):
        width, rise = text_width(text, size), 0.36 * size / 72
        left = x - width * {"left": 0.0, "centre": 0.5, "right": 1.0}[align]
        seen.append((text, left, left + width, y - rise, y + rise, self.width, self.height))
        assert angle == 0
        real(self, x, y, text, size, align=align, angle=angle, colour=colour)

    monkeypatch.setattr(Canvas, "text", spy)
    return seen


def assert_legible(texts) -> None:
    for text, left, right, bottom, top, width, height in texts:
        assert left >= 0, text
        assert right <= width, text
        assert 0 <= bottom < top <= height, text
    for i, one in enumerate(texts):
        for other in texts[:i]:
            apart = one[1] >= other[2] or other[1] >= one[2] or one[3] >= other[4] or other[3] >= one[4]
            assert apart, (one[0], other[0])


@pytest.mark.parametrize("count", [0, 1, 9, 60, 450])
def test_bars(tmp_path: Path, texts, count: int) -> None:
    names = [f"organisation/Some-Model-8B-pruned-by-a-method-with-a-long-name-{i}" for i in range(count)]
    parameters_by_part(tmp_path / "p.png", names, [PARTS] * count)
    assert_legible(texts)
    said = [entry[0] for entry in texts]
    assert (said[0] == "Parameters by part (the first 400 of 450 models)") is (count == 450)
    if count:
        assert {"embedding", "attention", "mlp", "norm", "other"} <= set(said)
        assert "rotation" not in said
        assert said.count("7.5 G") == min(count, 400)


def test_the_lengths_of_the_bars(tmp_path: Path) -> None:
    parameters_by_part(tmp_path / "p.png", ["a", "b"], [{"attention": 300, "mlp": 100}, {"attention": 100, "mlp": 0}])
    image = pixels(tmp_path / "p.png")
    orange = (image == (0xE6, 0x9F, 0x00)).all(axis=2)
    blue = (image == (0x56, 0xB4, 0xE9)).all(axis=2)
    lengths = sorted({int(n) for n in orange[110:].sum(axis=1) if n > 20})
    assert len(lengths) == 2
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.02)
    assert blue[110:].sum(axis=1).max() == pytest.approx(lengths[0], rel=0.02)


@pytest.mark.parametrize("models", [0, 1, 12, 70])
@pytest.mark.parametrize("layers", [1, 32, 126])
def test_heatmap(tmp_path: Path, texts, models: int, layers: int) -> None:
    rows = [[(i + j) % 5 / 4 for j in range(layers)] for i in range(models)]
    if models:
        rows[0][0] = None
        rows[-1][-1] = -0.5
    reduction_by_layer(tmp_path / "r.png", [f"model-{i}" for i in range(models)], [str(j) for j in range(layers)], rows)
    assert_legible(texts)
    said = {entry[0] for entry in texts}
    assert {"0%", "100%", "layer of the base"} <= said
    assert ("not known" in said) is (models > 0 and not (models == 1 and layers == 1))


def test_the_colours_of_the_heatmap(tmp_path: Path) -> None:
    reduction_by_layer(tmp_path / "r.png", ["m"], ["0", "1", "2", "3"], [[0.0, 0.5, 1.0, 1.0]])
    image = pixels(tmp_path / "r.png")
    cell = math.ceil(0.24 * 120)
    strip = image[int(0.7 * 120)]  # the middle of the only row
    dark = (strip == (128, 0, 38)).all(axis=1)
    middle = (strip == (253, 141, 60)).all(axis=1)
    assert abs(int(dark.sum()) - 2 * cell) <= 3 + 17  # the scale's top may have the colour too
    assert abs(int(middle.sum()) - cell) <= 3


def test_names_with_nothing_to_draw(tmp_path: Path, texts) -> None:
    parameters_by_part(tmp_path / "p.png", ["$x_1$\x1b[31m", "模型"], [{"mlp": 0}, {"mlp": 5}])
    assert_legible(texts)
    assert "\x1b" not in "".join(entry[0] for entry in texts)


def test_a_matrix_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"^a heatmap of 1 names and 2 layers needs a matrix of that shape$"):
        reduction_by_layer(Path("never.png"), ["a"], ["0", "1"], [[0.5]])


def test_numbers() -> None:
    assert [_count(n) for n in (0, 999, 1500, 8_030_261_248, 671 * 10**9, 2 * 10**12)] == [
        "0", "999", "1.5 k", "8.03 G", "671 G", "2 T",
    ]  # fmt: skip
    for longest in (1, 2, 7, 10, 99, 8_030_261_248, 10**12):
        ticks = _ticks(longest)
        assert ticks[0] == 0
        assert ticks[-1] <= longest
        assert 2 <= len(ticks) <= 9
