"""Rectangles without seams, crisp and smooth lines, hatches inside their rectangles, text where it is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageFont

from netweight.figures import typeface
from netweight.figures.canvas import DPI, Canvas, drawing, text_width

BLUE = "#0072B2"


@pytest.fixture
def drawn(tmp_path):
    """What a function draws on a canvas of 2 x 1 inches: rows from the top, red, green and blue."""

    def draw(what, width: float = 2.0, height: float = 1.0) -> np.ndarray:
        with drawing():
            canvas = Canvas(width, height)
            what(canvas)
            canvas.write(tmp_path / "c.png")
        return np.asarray(Image.open(tmp_path / "c.png")).astype(int)

    return draw


def darkness(image: np.ndarray) -> np.ndarray:
    """0 for white, 1 for black."""
    return 1 - image.mean(axis=2) / 255


def test_the_file_is_rgb_and_says_its_resolution(drawn, tmp_path):
    assert drawn(lambda canvas: None, 1.23, 0.456).shape == (55, 148, 3)
    with Image.open(tmp_path / "c.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)


def test_rectangles_touch_without_a_seam(drawn):
    def draw(canvas):
        for i in range(37):
            canvas.rectangle(0.1 + i * 0.0413, 0.2, 0.0413, 0.5, BLUE)

    found = (drawn(draw) == (0x00, 0x72, 0xB2)).all(axis=2)
    rows, columns = found.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (36, 95, 12, 194)
    assert found.sum() == 60 * 183


def test_what_lies_outside_is_left_out(drawn):
    def draw(canvas):
        canvas.rectangle(-1, -1, 1.5, 1.5, BLUE, "////")
        canvas.rectangle(3, 3, 1, 1, BLUE)
        canvas.rectangle(1, 0.5, 0, 0.3, BLUE)
        canvas.line((-1, -0.5), (-0.5, -0.7), BLUE, 3)
        canvas.line((1.9, 0.9), (2.5, 2.5), BLUE, 3)
        canvas.line((1.5, -1), (1.5, 3), BLUE, 0.6)
        canvas.text(1.9, 0.95, "far beyond the edge", 9, angle=30)

    image = drawn(draw)
    assert (image[:60, 120:180] == 255).all()
    assert (image[60:, :60] != 255).any(axis=2).all()
    assert (image[:, 180] == (0x00, 0x72, 0xB2)).all()


def test_a_hatch_stays_inside_and_joins_that_of_its_neighbour(drawn):
    whole = drawn(lambda canvas: canvas.rectangle(0.5, 0.25, 1.0, 0.5, "#d9d9d9", "////"))

    def halves(canvas):
        canvas.rectangle(0.5, 0.25, 0.43, 0.5, "#d9d9d9", "////")
        canvas.rectangle(0.93, 0.25, 0.57, 0.5, "#d9d9d9", "////")

    assert (whole == drawn(halves)).all()
    inside = whole[30:90, 60:180]
    assert (whole == 255).all(axis=2).sum() == 240 * 120 - 60 * 120
    assert (inside == 0x99).any()
    assert (inside == 0xD9).all(axis=2).sum() > 60 * 120 / 2
    assert ((inside >= 0x99) & (inside <= 0xD9)).all()
    assert (inside[:-1, 1:] == inside[1:, :-1]).all()  # slanting upwards from left to right
    assert (inside[:, 10:] == inside[:, :-10]).all()  # ten pixels apart
    assert (inside[0, :10] < 0xB0).all(axis=1).sum() == 1


def test_more_slashes_are_closer(drawn):
    shades = [
        darkness(drawn(lambda canvas, hatch=hatch: canvas.rectangle(0, 0, 2, 1, "#ffffff", hatch))).mean()
        for hatch in ("/", "////", "//////")
    ]
    assert shades[1] == pytest.approx(4 * shades[0], rel=0.1)
    assert shades[2] == pytest.approx(6 * shades[0], rel=0.1)


@pytest.mark.parametrize("hatch", ["", "x", "//|"])
def test_other_hatches_are_refused(drawn, hatch):
    with pytest.raises(ValueError, match=f"^a hatch is of slashes, got '{hatch.replace('|', '.')}'$"):
        drawn(lambda canvas: canvas.rectangle(0, 0, 1, 1, "#ffffff", hatch))


@pytest.mark.parametrize(("points", "pixels"), [(0.1, 1), (0.6, 1), (0.8, 1), (1.0, 2), (1.3, 2), (1.8, 3)])
@pytest.mark.parametrize("upright", [False, True])
def test_level_and_upright_lines_are_whole_pixels(drawn, points, pixels, upright):
    def draw(canvas):
        ends = [(0.2003, 0.5021), (0.8004, 0.5021)]
        canvas.line(*(((y, x) if upright else (x, y)) for x, y in ends), BLUE, points)

    image = drawn(draw)
    found = (image == (0x00, 0x72, 0xB2)).all(axis=2)
    assert found.sum() == pixels * 72
    assert ((image == 255).all(axis=2) | found).all()
    rows, columns = found.nonzero()
    across, along = (columns, 119 - rows) if upright else (119 - rows, columns)
    assert (along.min(), along.max()) == (24, 95)
    assert across.max() - across.min() == pixels - 1
    assert abs((across.max() + across.min() + 1) / 2 - 60.25) <= 1


@pytest.mark.parametrize("points", [0.3, 0.7, 1.4, 3.0])
@pytest.mark.parametrize("end", [(1.8, 0.9), (1.8, 0.41), (0.23, 0.9), (0.3, 0.1)])
def test_slanting_lines_cover_their_length_times_their_width(drawn, points, end):
    shade = darkness(drawn(lambda canvas: canvas.line((0.2, 0.4), end, "#000000", points)))
    length = math.hypot(end[0] - 0.2, end[1] - 0.4) * DPI
    assert shade.sum() == pytest.approx(length * points * DPI / 72, rel=0.03)
    rows, columns = np.indices(shade.shape)
    middle = (shade * (columns + 0.5)).sum() / shade.sum(), (shade * (rows + 0.5)).sum() / shade.sum()
    assert middle == pytest.approx(((0.2 + end[0]) / 2 * DPI, 120 - (0.4 + end[1]) / 2 * DPI), abs=0.1)


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 180, 270])
@pytest.mark.parametrize("align", ["left", "centre", "right"])
def test_text_is_centred_on_its_line_and_aligned_along_it(drawn, angle, align):
    """`H` is as high as a capital: its middle lies on the line through the point at the angle."""
    shade = darkness(drawn(lambda canvas: canvas.text(1, 1, "HHHHHHHH", 12, align=align, angle=angle), 2, 2))
    half = text_width("HHHHHHHH", 12) / 2 * DPI
    rows, columns = np.indices(shade.shape)
    middle = (shade * (columns + 0.5)).sum() / shade.sum(), (shade * (rows + 0.5)).sum() / shade.sum()
    shift = {"left": half, "centre": 0.0, "right": -half}[align]
    along = math.radians(angle)
    expected = 120 + shift * math.cos(along), 120 - shift * math.sin(along)
    assert middle == pytest.approx(expected, abs=0.8)


def test_turned_text_is_the_level_one_turned(drawn):
    text = "layer_12 (0.5%)"
    level = drawn(lambda canvas: canvas.text(1, 1, text, 9), 2, 2)
    upright = drawn(lambda canvas: canvas.text(1, 1, text, 9, angle=90), 2, 2)
    turned = np.rot90(level)
    apart = [
        np.abs(np.roll(turned, (y, x), (0, 1)) - upright).mean() for y in (-1, 0, 1) for x in (-1, 0, 1)
    ]  # each begins on a whole pixel
    assert min(apart) < 0.05
    assert darkness(upright).max() > 0.85  # black, not grey


def test_letters_are_those_that_freetype_draws(drawn):
    """Large, so that fitting to pixels hardly matters, and one letter at a time."""
    font = ImageFont.truetype(typeface.own().path, 60 * DPI / 72)
    for letter in "agQ$\u00c5":
        shade = darkness(drawn(lambda canvas, letter=letter: canvas.text(0.5, 0.5, letter, 60), 2, 1.4))
        rows, columns = (shade > 0.5).nonzero()
        mask = np.array(font.getmask(letter)).reshape(font.getmask(letter).size[::-1])
        assert shade.sum() == pytest.approx(mask.sum() / 255, rel=0.04), letter
        inked = (mask > 127).nonzero()
        assert np.ptp(rows) == pytest.approx(np.ptp(inked[0]), abs=1.5), letter
        assert np.ptp(columns) == pytest.approx(np.ptp(inked[1]), abs=1.5), letter


def test_text_has_its_colour_and_no_ligatures(drawn):
    image = drawn(lambda canvas: canvas.text(0.2, 0.5, "f", 20, colour=BLUE))
    assert (image == (0x00, 0x72, 0xB2)).all(axis=2).any()
    assert (image[..., 0] <= image[..., 2]).all()
    apart = [darkness(drawn(lambda canvas, t=text: canvas.text(0.2, 0.5, t, 20))).sum() for text in ("f", "i", "fi")]
    assert apart[2] == pytest.approx(apart[0] + apart[1], rel=0.02)


def test_a_line_without_letters_draws_nothing(drawn):
    def draw(canvas):
        canvas.text(1, 0.5, "", 9)
        canvas.text(1, 0.5, " \u00a0", 9, align="right", angle=45)

    assert (drawn(draw) == 255).all()
