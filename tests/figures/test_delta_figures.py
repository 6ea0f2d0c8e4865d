"""Pictures: nothing cut, nothing on top of something else, the same for every user, hostile names harmless."""

import logging
import math
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from netweight.figures.canvas import Canvas, drawable, drawing, text_width
from netweight.figures.delta import _ticks, cosine_heatmap, group_l2_bar

NAMES = [f"organisation-{i % 3}/Llama-3.2-3B-Instruct-tuned-on-data-set-number-{i}-for-code-epoch-3" for i in range(60)]


def groups(layers: int) -> dict[str, float]:
    parts = {"embed": 72.2, "lm_head": 72.2, "layer": 151.4, "attn": 88.1, "mlp": 120.4, "norm": 0.031, "other": 0.0}
    return parts | {f"layer_{i}": 20 + 10 * math.sin(i / 4) for i in range(layers)}


def cosines(count: int) -> list[list[float]]:
    vectors = np.random.default_rng(count).standard_normal((count, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors @ vectors.T).tolist()


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture
def texts(monkeypatch):
    """Every line of text that is drawn: (text, centre x, centre y, half length, half height, angle in degrees)."""
    seen = []
    real = Canvas.text

    def spy(self, x, y, text, size, *, align="left", angle=0.0, colour="#000000"):
        half = text_width(text, size) / 2
        shift = {"left": half, "centre": 0.0, "right": -half}[align]
        along = math.radians(angle)
        cx, cy = x + shift * math.cos(along), y + shift * math.sin(along)
        seen.append((text, cx, cy, half, 0.36 * size / 72, angle, self.width, self.height))
        real(self, x, y, text, size, align=align, angle=angle, colour=colour)

    monkeypatch.setattr(Canvas, "text", spy)
    return seen


def assert_legible(texts) -> None:
    """All texts lie in the picture and no two of one angle overlap."""
    for text, cx, cy, half, rise, angle, width, height in texts:
        dx = half * math.cos(math.radians(angle)) + rise * math.sin(math.radians(angle))
        dy = half * math.sin(math.radians(angle)) + rise * math.cos(math.radians(angle))
        assert dx <= cx <= width - dx, text
        assert dy <= cy <= height - dy, text
    for i, (one, x1, y1, half1, rise1, angle1, *_) in enumerate(texts):
        for other, x2, y2, half2, rise2, angle2 in (entry[:6] for entry in texts[:i]):
            if angle1 != angle2:
                continue
            along = math.radians(angle1)
            apart = abs((x2 - x1) * math.cos(along) + (y2 - y1) * math.sin(along))
            above = abs((y2 - y1) * math.cos(along) - (x2 - x1) * math.sin(along))
            assert apart > half1 + half2 or above > rise1 + rise2, (one, other)


def assert_uncut(path) -> None:
    """A white rim all round: whatever is drawn ends inside."""
    image = pixels(path)
    for rim in (image[:8], image[-8:], image[:, :8], image[:, -8:]):
        assert (rim == 255).all()


@pytest.mark.parametrize("layers", [0, 1, 3, 28, 80, 126])
def test_bars_are_legible_at_any_depth(tmp_path, texts, layers):
    values = groups(layers)
    title = "very-long-organisation-name/" + "a-model-with-a-long-name-" * 10 + "final"
    group_l2_bar(tmp_path / "b.png", title, values, {name: value / 1234 for name, value in values.items()})
    assert_uncut(tmp_path / "b.png")
    assert_legible(texts)
    drawn = [text for text, *_ in texts]
    assert drawn[0].startswith("very-long-organisation-name/a-model")
    assert drawn[0].endswith("-final")
    assert "\N{HORIZONTAL ELLIPSIS}" in drawn[0]
    labels = [text for text in drawn if text in values]
    assert labels == ["embed", "lm_head", "attn", "mlp", "norm", "other", *(f"layer_{i}" for i in range(layers))]
    assert "120.4  (9.76% of base)" in drawn
    if layers:
        assert "L2 norm of the task vector by layer (all layers together: 151.4)" in drawn


def test_bars_are_as_long_as_their_values(tmp_path):
    group_l2_bar(tmp_path / "b.png", "m", {"embed": 100.0, "attn": 50.0, "mlp": 25.0, "layer_1": 3.0, "layer_0": 6.0})
    image = pixels(tmp_path / "b.png").astype(int)

    def lengths(colour) -> list[int]:
        rows = (np.abs(image - colour).sum(axis=2) < 12).sum(axis=1)
        starts = np.flatnonzero((rows[1:] > 20) & (rows[:-1] <= 20)) + 1
        return [int(rows[start + 5]) for start in starts]

    components, layers = lengths((0x00, 0x72, 0xB2)), lengths((0xE6, 0x9F, 0x00))
    assert len(components) == 3
    assert components[0] / components[1] == pytest.approx(2, rel=0.01)
    assert components[0] / components[2] == pytest.approx(4, rel=0.02)
    assert len(layers) == 2
    assert layers[0] / layers[1] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"embed": 0.0, "layer_0": 0.0},
        {"embed": math.nan, "attn": math.inf, "layer_0": 1.0},
        {"embed": 5e-324, "mlp": 1e-300},
        {"embed": 1.7e308, "mlp": 1e-9},
        {"layer": 3.0},
        {"experts": 2.0, "embed": 1.0},
    ],
)
def test_bars_of_odd_values(tmp_path, texts, values):
    group_l2_bar(tmp_path / "b.png", "m", values, {"embed": math.nan, "mlp": math.inf})
    assert_uncut(tmp_path / "b.png")
    assert_legible(texts)
    drawn = [text for text, *_ in texts]
    assert ("n/a" in drawn) == any(not math.isfinite(value) for value in values.values())
    assert ("no group was measured" in drawn) == (not set(values) - {"layer"})
    assert set(values) - {"layer"} <= set(drawn)


@pytest.mark.parametrize("longest", [1e-280, 0.0031, 0.99, 1.0, 1.3, 2.0, 6.99, 7.0, 9.99, 10.0, 120.4, 3e300])
def test_ticks_are_round_and_few(longest):
    ticks = _ticks(longest)
    assert ticks[0] == 0.0
    assert 4 <= len(ticks) <= 9
    assert longest * 0.7 <= ticks[-1] <= longest * (1 + 1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 12, 13, 20, 60])
def test_heatmaps_are_legible_for_any_number_of_models(tmp_path, texts, count):
    matrix = cosines(count)
    if count > 2:
        for i in range(count):
            matrix[i][1] = matrix[1][i] = None
    cosine_heatmap(tmp_path / "h.png", NAMES[:count], matrix)
    assert_uncut(tmp_path / "h.png")
    assert_legible(texts)
    drawn = [text for text, *_ in texts]
    labels = [text for text in drawn if text.startswith("organisation")]
    assert len(labels) == 2 * count
    assert len(set(labels)) == count
    printed = sum(text == "n/a" for text in drawn)
    assert printed == (2 * count - 1 if 2 < count <= 12 else 0)


def test_heatmap_colours_and_texts(tmp_path, texts):
    matrix = [[1.0, -1.0, 0.0], [-1.0, 1.0, math.nan], [0.0, math.nan, 1.0000000001]]
    cosine_heatmap(tmp_path / "h.png", ["a", "b", "c"], matrix)
    image = pixels(tmp_path / "h.png").reshape(-1, 3)
    size = (0.62 * 120) ** 2

    def share(colour) -> float:
        return float((image == colour).all(axis=1).sum()) / size

    assert share((103, 0, 31)) > 2.4  # three cells less their text and lines
    assert share((5, 48, 97)) > 1.6
    assert share((247, 247, 247)) > 1.6
    assert share((217, 217, 217)) > 1.0  # hatched
    drawn = [text for text, *_ in texts]
    assert (drawn.count("1"), drawn.count("-1"), drawn.count("0.000"), drawn.count("n/a")) == (4, 3, 2, 2)


def test_a_heatmap_says_its_order(tmp_path, texts):
    # a and c are alike, b is not: c moves beside a
    matrix = [[1.0, 0.0, 0.9], [0.0, 1.0, 0.1], [0.9, 0.1, 1.0]]
    cosine_heatmap(tmp_path / "h.png", ["a", "b", "c"], matrix)
    shown = [text for text, *_ in texts]
    assert [text for text in shown if text in {"a", "b", "c"}][::2] != ["a", "b", "c"]
    assert "ordered by similarity, not as in the CSV file" in shown
    texts.clear()
    cosine_heatmap(tmp_path / "h.png", ["a", "c", "b"], [[1.0, 0.9, 0.0], [0.9, 1.0, 0.1], [0.0, 0.1, 1.0]])
    shown = [text for text, *_ in texts]
    assert [text for text in shown if text in {"a", "b", "c"}][::2] == ["a", "c", "b"]
    assert "ordered by similarity, here as in the CSV file" in shown


def test_layers_of_stacks_are_in_the_order_given(tmp_path, texts):
    names = [f"{stack}.layer_{i}" for stack in ("encoder", "decoder") for i in range(12)]
    group_l2_bar(tmp_path / "b.png", "m", {"embed": 1.0} | dict.fromkeys(names, 2.0))
    assert [text for text, *_ in texts if "layer_" in text] == names


def test_heatmaps_of_other_shapes_are_refused(tmp_path):
    for names, matrix in (([], []), (["a"], []), (["a", "b"], [[1.0, 0.0], [0.0]])):
        with pytest.raises(ValueError, match=f"a heatmap of {len(names)} names needs a matrix of {len(names)} x"):
            cosine_heatmap(tmp_path / "h.png", names, matrix)


HOSTILE = [
    "$x^2_{$",
    "\u97e9\u8bed-3B",
    "\u97e9\u6587-3B",
    "\x1b[31mred\n",
    "\U0001f600\U0010ffff",
    "a\u202eb\udc80",
    "",
    " ",
]


def test_hostile_names(tmp_path, texts, caplog):
    with caplog.at_level(logging.DEBUG):
        cosine_heatmap(tmp_path / "h.png", HOSTILE, cosines(len(HOSTILE)))
        group_l2_bar(tmp_path / "b.png", "".join(HOSTILE), {"embed": 1.0, "$\\frac{$\n": 2.0})
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    drawn = [text for text, *_ in texts]
    assert "$x^2_{$" in drawn
    assert "\\x1b[31mred\\n" in drawn
    assert "a\\u202eb\\udc80" in drawn
    assert len({text for text in drawn if text.endswith("-3B")}) == 2
    assert_uncut(tmp_path / "h.png")


def test_what_no_font_has_is_escaped():
    with drawing():
        assert drawable("caf\u00e9 \u03b1\u03b2") == "caf\u00e9 \u03b1\u03b2"
        assert drawable("\U000e0001\ue123\u0378") == "\\U000e0001\\ue123\\u0378"


def test_pictures_are_the_same_each_time_and_from_threads(tmp_path):
    def draw(i: int) -> None:
        group_l2_bar(tmp_path / f"b{i}.png", "m", groups(5))
        cosine_heatmap(tmp_path / f"h{i}.png", NAMES[:4], cosines(4))

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for letter in "bh":
        assert len({(tmp_path / f"{letter}{i}.png").read_bytes() for i in range(4)}) == 1


def test_a_user_without_a_home_sees_the_same_and_hears_nothing(tmp_path):
    program = (
        "import sys; from pathlib import Path; from netweight.figures.delta import *\n"
        "group_l2_bar(Path(sys.argv[1]), '$m$ \U0010ffff', {'embed': 1.0, 'layer_0': 2.0})"
    )
    odd = os.environ | {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}
    command = [sys.executable, "-W", "error", "-c", program, "odd.png"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=odd, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    group_l2_bar(tmp_path / "plain.png", "$m$ \U0010ffff", {"embed": 1.0, "layer_0": 2.0})
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "odd.png").read_bytes()


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        group_l2_bar(tmp_path / "no" / "b.png", "m", {"embed": 1.0})
