"""The pictures of a scan: legible at 3, 32 and 126 layers, true to their numbers, hostile names harmless."""

import math
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from netweight.figures.canvas import Canvas, drawing, text_width
from netweight.figures.chart import (
    Scale,
    decades,
    fit_all,
    layer_text,
    log_scale,
    power,
    round_ticks,
    scientific,
)
from netweight.figures.health import health_dashboard
from netweight.figures.rank import rank_efficiency
from netweight.figures.scan import condition_bars, quantization_risk
from netweight.figures.tensor import singular_spectrum, weight_distribution

ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LONG = "very-long-organisation-name/" + "a-model-with-a-long-name-" * 10 + "final"
HOSTILE = ["$x^2_{$", "\x1b[31mred\n", "\u97e9\u8bed", "\U0001f600\U0010ffff", "a\u202eb\udc80", "", " ", "=1+1"]


def matrices(layers: int) -> list[tuple[str, str | None, str, float, float, float, float, float]]:
    """(name, layer, role, condition number, extreme outliers in %, SQNR, 90% ratio, stable ratio)."""
    rng = np.random.default_rng(layers)
    found = [("model.embed_tokens.weight", None, "embedding", 30.0, 0.02, 43.0, 0.5, 0.01)]
    for i in range(layers):
        for role in ROLES:
            condition, outliers = 10 ** rng.normal(2.5, 1), 10 ** rng.normal(-1.3, 0.7)
            entry = (float(condition), float(outliers), float(rng.normal(40, 4)), float(rng.random()), 0.2 * i / layers)
            found.append((f"model.layers.{i}.self_attn.{role}.weight", f"layer_{i}", role, *entry))
    return found


def points(layers: int):
    return [
        (layer, {"condition_number": c, "sqnr_db": q, "sparsity": o / 100, "rank_ratio": r})
        for _, layer, _, c, o, q, r, _ in matrices(layers)
    ]


@pytest.fixture
def texts(monkeypatch):
    """Every line of text that is drawn: (text, centre x, centre y, half length, half height, angle, width, height)."""
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


@pytest.fixture
def rectangles(monkeypatch):
    """Every rectangle that is drawn: (left, bottom, width, height, colour)."""
    seen = []
    real = Canvas.rectangle

    def spy(self, *drawn):
        seen.append(drawn[:5])
        real(self, *drawn)

    monkeypatch.setattr(Canvas, "rectangle", spy)
    return seen


def boxes(texts):
    """(text, left, bottom, right, top): all angles here are multiples of 90 degrees."""
    for text, cx, cy, half, rise, angle, width, height in texts:
        assert angle in (0.0, 90.0)
        dx, dy = (half, rise) if angle == 0.0 else (rise, half)
        yield text, cx - dx, cy - dy, cx + dx, cy + dy, width, height


def assert_legible(path, texts) -> None:
    """All texts lie in the picture, no two overlap, and the rim is white; the picture is not empty."""
    found = list(boxes(texts))
    for text, left, bottom, right, top, width, height in found:
        assert left >= 0, text
        assert bottom >= 0, text
        assert right <= width, text
        assert top <= height, text
    for i, (one, left, bottom, right, top, *_) in enumerate(found):
        for other, left2, bottom2, right2, top2 in (entry[:5] for entry in found[:i]):
            apart = left >= right2 or left2 >= right or bottom >= top2 or bottom2 >= top
            assert apart, (one, other)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert 400 <= picture.width <= 2000
        assert 100 <= picture.height <= 2000
        image = np.asarray(picture.convert("RGB"))
    for rim in (image[:8], image[-8:], image[:, :8], image[:, -8:]):
        assert (rim == 255).all()
    assert (image != 255).any()
    assert 1_000 < path.stat().st_size < 1_000_000


def drawn(texts) -> list[str]:
    return [text for text, *_ in texts]


def pixels(path, colour) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - wanted).sum(axis=2) < 6).sum())


@pytest.mark.parametrize("layers", [0, 3, 32, 126])
def test_condition_bars(tmp_path, texts, layers):
    rows = [(name, c) for name, _, _, c, *_ in matrices(layers)]
    rows += [("singular.one", math.inf), ("unknown.one", None), ("unknown.two", math.nan)]
    condition_bars(tmp_path / "c.png", LONG, rows)
    assert_legible(tmp_path / "c.png", texts)
    shown = drawn(texts)
    known = [c for _, c in rows if c is not None and not math.isnan(c)]
    counts = [sum(c > bound for c in known) for bound in (1e3, 1e4, 1e5)]
    which = f"the 30 largest of {len(known)}" if len(known) > 30 else str(len(known))
    said = "{} above 1000, {} above 1e4, {} above 1e5".format(*counts)
    assert f"{which} condition numbers, largest first: {said}, 1 singular, 2 n/a" in shown
    assert shown.count("singular") == 2  # the key, and the bar
    assert sum(text.startswith(("model.", "singular.", "lm_head")) for text in shown) == min(30, len(known))
    worst = sorted((c for c in known if math.isfinite(c)), reverse=True)[:29]
    assert [scientific(c) for c in worst] == [text for text in shown if text in {scientific(c) for c in worst}]


def test_condition_bars_are_coloured_by_level_and_as_long_as_their_logarithm(tmp_path):
    condition_bars(tmp_path / "c.png", "m", [("a", 1e6), ("b", 1e5), ("c", 1e4), ("d", 1e3)])
    areas = [pixels(tmp_path / "c.png", colour) for colour in ("#D55E00", "#E69F00", "#56B4E9", "#009E73")]
    # a, b, c, d on an axis from 1/2 to 1e6, less lines across
    lengths = [math.log10(c / 0.5) for c in (1e6, 1e5, 1e4, 1e3)]
    assert [area / areas[0] for area in areas] == pytest.approx([x / lengths[0] for x in lengths], abs=0.03)


def test_the_least_condition_number_is_seen(tmp_path, rectangles):
    condition_bars(tmp_path / "c.png", "m", [("orthogonal", 1.0), ("b", 1e6)])
    (orthogonal,) = (width for _, _, width, height, colour in rectangles if colour == "#009E73" and height > 0.12)
    (whole,) = (width for _, _, width, height, colour in rectangles if colour == "#D55E00" and height > 0.12)
    assert orthogonal / whole == pytest.approx(math.log10(2) / math.log10(2e6))


@pytest.mark.parametrize("layers", [0, 3, 32, 126])
def test_quantization_risk(tmp_path, texts, layers):
    rows = [(name, o, q) for name, _, _, _, o, q, *_ in matrices(layers)]
    rows += [("no.outliers", 0.0, 48.0), ("exact", 0.0, math.inf), ("none", None, 40.0), ("nan", 1.0, math.nan)]
    rows += [("all", 100.0, -5.0)]
    quantization_risk(tmp_path / "q.png", LONG, rows)
    assert_legible(tmp_path / "q.png", texts)
    shown = drawn(texts)
    assert f"{len(rows) - 2} matrices; 2 without a value (n/a) left out" in shown
    assert {"int8 per tensor", "per channel", "16 bit or smooth", "critical", "40 dB", "30 dB"} <= set(shown)
    # numbered in the picture, and named under it, the worst first
    assert shown.count("1") == 2
    assert shown[shown.index("furthest from int8 per tensor") + 4] == "all"
    for colour in ("#d5efe5", "#dcecf8", "#fbe3c0", "#f6cdb5"):
        assert pixels(tmp_path / "q.png", colour) > 5_000


def test_a_crowd_of_the_same_points_is_legible(tmp_path, texts):
    quantization_risk(tmp_path / "q.png", "m", [(f"layers.{i}.w", 3.0, 25.0) for i in range(200)])
    assert_legible(tmp_path / "q.png", texts)


@pytest.mark.parametrize("layers", [0, 1, 3, 32, 126])
def test_rank_efficiency(tmp_path, texts, layers):
    rows = [(layer, role, a, b) for _, layer, role, *_, a, b in matrices(layers)]
    if layers:
        rows[1] = (*rows[1][:2], None, math.nan)
    rank_efficiency(tmp_path / "r.png", LONG, rows)
    assert_legible(tmp_path / "r.png", texts)
    shown = drawn(texts)
    assert "outside the layers: embedding: 90% rank 50%, stable rank 1.0%" in shown
    for role in ROLES:
        assert shown.count(role) == (2 if layers else 0)
    assert shown.count("n/a") == (2 if 0 < layers <= 10 else 0)
    if layers:
        assert shown.count("0") == 2
        assert pixels(tmp_path / "r.png", "#d9d9d9") > 20


def test_rank_efficiency_takes_the_median_of_experts_and_other_stacks(tmp_path, texts):
    rows = [("layer_0", "moe_expert", x, x / 2) for x in (0.2, 0.9, 0.4)]
    rows += [("encoder.layer_0", "moe_expert", 0.33, 0.03)]
    rank_efficiency(tmp_path / "r.png", "m", rows)
    shown = drawn(texts)
    assert {"40%", "20%", "33%", "3.0%", "0", "encoder 0"} <= set(shown)
    assert_legible(tmp_path / "r.png", texts)


@pytest.mark.parametrize("layers", [0, 3, 32, 126])
def test_health_dashboard(tmp_path, texts, layers):
    worst = [("critical", f"condition number above 1e5: 2.00e6 in {LONG}"), *[("info", "x")] * 9]
    found = [*points(layers), ("layer_1", {"condition_number": math.inf, "sqnr_db": math.nan})]
    health_dashboard(tmp_path / "h.png", LONG, {"critical": 2, "warning": 13, "info": 1234}, found, worst)
    assert_legible(tmp_path / "h.png", texts)
    shown = drawn(texts)
    assert {"2 critical", "13 warning", "1234 info", "worst findings"} <= set(shown)
    assert not any("of 100" in text or "score" in text for text in shown)
    assert "condition number (1 singular, at the upper edge)" in shown
    assert "SQNR in int8 per tensor (dB) (1 n/a)" in shown
    assert shown.count("outside") == 4
    assert shown.count("x") == 4  # five findings, the worst one first


def test_what_was_not_measured_is_said(tmp_path, texts):
    health_dashboard(tmp_path / "h.png", "m", {}, [("layer_0", {"sparsity": 0.0})], [])
    condition_bars(tmp_path / "c.png", "m", [("a", None)])
    quantization_risk(tmp_path / "q.png", "m", [])
    rank_efficiency(tmp_path / "r.png", "m", [])
    shown = drawn(texts)
    assert {"0 critical", "no findings"} <= set(shown)
    assert "condition number: not measured (add --methods spectral)" in shown
    assert "SQNR in int8 per tensor (dB): not measured (add --methods quantization)" in shown
    assert "no condition number was measured (add --methods spectral)" in shown
    assert "no quantization error was measured (add --methods quantization)" in shown
    assert "no rank was measured (add --methods spectral)" in shown


def test_weight_distribution(tmp_path, texts):
    w = np.random.default_rng(5).standard_t(4, 200_000) * 0.02
    counts, edges = np.histogram(w, 150)
    weight_distribution(
        tmp_path / "w.png",
        LONG,
        edges.tolist(),
        counts.tolist(),
        mean=float(w.mean()),
        std=float(w.std()),
        fences=[(-0.06, 0.06), (-0.11, 0.11)],
        under="4096 x 4096",
    )
    assert_legible(tmp_path / "w.png", texts)
    shown = drawn(texts)
    assert f"mean {scientific(float(w.mean()))}" in shown
    assert f"mean \N{PLUS-MINUS SIGN} std, std {scientific(float(w.std()))}" in shown
    assert "outliers beyond -0.06 and 0.06" in shown
    assert "extreme outliers beyond -0.11 and 0.11" in shown


def test_bars_are_as_high_as_the_logarithm_of_their_counts_and_single_elements_are_seen(tmp_path, rectangles, texts):
    counts = [1, 0, 2, 10, 500, 1000, 30, 0, 0, 1]
    weight_distribution(tmp_path / "w.png", "m", [i / 10 for i in range(11)], counts)
    bars = [(left, height) for left, _, _, height, colour in rectangles if colour == "#56B4E9"]
    highest = max(height for _, height in bars)
    expected = [math.log10(2 * c) / math.log10(2000) for c in counts if c]
    assert [height / highest for _, height in sorted(bars)] == pytest.approx(expected)
    assert min(height for _, height in bars) > 0.3  # inches
    assert {"1", "10", "100", "1000"} <= set(drawn(texts))


@pytest.mark.parametrize(
    ("edges", "counts"),
    [
        ([0.0, 1.0], [1]),
        ([-1e308, 0.0, 1e308], [3, 4]),
        ([-3e38, 3e38], [10**12]),
        ([1.0, 1.0 + 1e-15], [5]),
        ([0.0, 1e-320], [1]),
        ([-1.0, 0.0, 0.0, 1.0], [0, 5, 0]),
        ([0.0, 1.0], [0]),
    ],
)
def test_odd_histograms(tmp_path, texts, edges, counts):
    weight_distribution(tmp_path / "w.png", "m", edges, counts, mean=math.nan, std=math.inf, fences=[(-math.inf, 1.0)])
    assert_legible(tmp_path / "w.png", texts)


@pytest.mark.parametrize(
    ("edges", "counts", "said"),
    [
        ([0.0], [], "got 1 edges for 0 counts"),
        ([0.0, 1.0], [1, 2], "got 2 edges for 2 counts"),
        ([0.0, math.nan], [1], "needs finite edges"),
        ([1.0, 0.0], [1], "needs ascending edges"),
        ([1.0, 1.0], [1], "needs ascending edges"),
    ],
)
def test_histograms_that_cannot_be(tmp_path, edges, counts, said):
    with pytest.raises(ValueError, match=said):
        weight_distribution(tmp_path / "w.png", "m", edges, counts)


@pytest.mark.parametrize("count", [1, 2, 3, 40, 41, 700, 12_000])
def test_singular_spectrum(tmp_path, texts, count):
    sigma = (100 * np.arange(1, count + 1) ** -0.4).tolist()
    marks = {"90% rank": max(1, count // 2), "matrix rank": count, "stable rank": 1, "beyond": count + 1, "none": 0}
    singular_spectrum(tmp_path / "s.png", LONG, sigma, marks, fit=(sigma[count // 2] ** 2, 2.25), under=f"{count}")
    assert_legible(tmp_path / "s.png", texts)
    shown = drawn(texts)
    assert {"sigma_1: 100", f"90% rank: {max(1, count // 2)}", f"matrix rank: {count}", "stable rank: 1"} <= set(shown)
    assert not any(text.startswith(("beyond", "none")) for text in shown)
    assert any(text.endswith("alpha 2.25") for text in shown) == (count > 1)


def test_the_power_law_lies_on_a_spectrum_that_follows_it(tmp_path, monkeypatch):
    """lambda_i = xmin (i / n)^(-1 / (alpha - 1)): sigma_i = i^-0.5 has alpha = 2."""
    lines = []
    real = Canvas.line

    def spy(self, start, end, colour, width):
        lines.append((start, end, colour))
        real(self, start, end, colour, width)

    monkeypatch.setattr(Canvas, "line", spy)
    sigma = [i**-0.5 for i in range(1, 101)]
    singular_spectrum(tmp_path / "s.png", "m", sigma, {}, fit=(sigma[-1] ** 2, 2.0))
    curve = [line for line in lines if line[2] == "#0072B2" and line[0][1] != line[1][1]]
    law = next(line for line in lines if line[2] == "#D55E00" and line[0][1] != line[1][1])
    assert law[0] == pytest.approx(curve[0][0], abs=0.01)
    assert law[1] == pytest.approx(curve[-1][1], abs=0.01)


@pytest.mark.parametrize(
    "sigma", [[], [0.0, 0.0], [math.nan], [5.0], [5.0, 5.0], [3.0, 0.0], [1e300, 1e-300], [1e-310], [math.inf, 1.0]]
)
def test_odd_spectra(tmp_path, texts, sigma):
    singular_spectrum(tmp_path / "s.png", "m", sigma, {"rank": 1}, fit=(math.nan, 1.0))
    assert_legible(tmp_path / "s.png", texts)
    drawable = [s for s in sigma if math.isfinite(s) and s > 0]
    assert ("no singular value to draw" in drawn(texts)) == (not drawable)
    absent = len(sigma) - len(drawable)
    said = f"{absent} of {len(sigma)} values are 0 or undefined: not drawn"
    assert (said in drawn(texts)) == bool(absent)


def test_hostile_names(tmp_path, texts):
    condition_bars(tmp_path / "c.png", "".join(HOSTILE), [(name, 10.0 + i) for i, name in enumerate(HOSTILE)])
    assert_legible(tmp_path / "c.png", [t for t in texts if t[0].strip()])
    shown = drawn(texts)
    assert "\\x1b[31mred\\n" in shown
    assert "a\\u202eb\\udc80" in shown
    assert "$x^2_{$" in shown
    texts.clear()
    quantization_risk(tmp_path / "q.png", HOSTILE[1], [(name, 5.0 + i, 20.0 + i) for i, name in enumerate(HOSTILE)])
    rank_efficiency(tmp_path / "r.png", HOSTILE[1], [(name, name, 0.5, 0.1) for name in HOSTILE])
    health_dashboard(
        tmp_path / "h.png", HOSTILE[1], {}, [(n, {"sparsity": 0.1}) for n in HOSTILE], [("info", HOSTILE[1])]
    )
    singular_spectrum(tmp_path / "s.png", HOSTILE[1], [2.0, 1.0], {HOSTILE[1]: 1})
    assert not any("\x1b" in text or "\n" in text or "\u202e" in text for text in drawn(texts))


def test_names_stay_told_apart_where_they_are_cut():
    with drawing():
        names = [f"model.{'long' * 30}.layers.{i}.self_attn.q_proj.weight" for i in range(40)]
        short = fit_all(names, 2.0, 8)
        assert len(set(short)) == 40
        assert all(text_width(text, 8) <= 2.0 for text in short)


def test_pictures_are_the_same_each_time(tmp_path):
    for i in range(2):
        health_dashboard(tmp_path / f"{i}.png", "m", {"info": 3}, points(5), [])
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError):
        condition_bars(tmp_path / "no" / "c.png", "m", [("a", 3.0)])


def test_scales():
    assert Scale(1.0, 1e4, log=True).position(100.0) == pytest.approx(0.5)
    assert Scale(-2.0, 2.0).position(1.0) == pytest.approx(0.75)
    assert [Scale(0.0, 1.0).position(v) for v in (-1.0, 2.0, math.inf, -math.inf)] == [0.0, 1.0, 1.0, 0.0]
    assert Scale(-1.7e308, 1.7e308).position(0.0) == pytest.approx(0.5)
    found = log_scale([3.0, 700.0, math.inf, 0.0, -5.0])
    assert (found.low, found.high) == (1.0, 1000.0)
    assert decades(found, 10) == [1.0, 10.0, 100.0, 1000.0]
    assert log_scale([]) == Scale(1.0, 10.0, log=True)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.83, 0.71), (1e-9, 3e-9), (-3e38, 3e38), (20.0, 50.0)])
def test_ticks_are_round_inside_and_even(low, high):
    ticks = round_ticks(low, high, 8)
    assert 2 <= len(ticks) <= 9
    assert low - 1e-9 * abs(low) <= ticks[0]
    assert ticks[-1] <= high * (1 + 1e-9)
    steps = [b - a for a, b in pairwise(ticks)]
    assert max(steps) == pytest.approx(min(steps))


def test_texts_of_numbers():
    assert [power(10.0**k) for k in (-6, -3, 0, 3, 4, 12)] == ["1e-6", "0.001", "1", "1000", "1e4", "1e12"]
    assert [scientific(v) for v in (0.0, 7.63, 603.4, 999.6, 27300, -1.2e-5, math.inf)] == [
        "0",
        "7.63",
        "603",
        "1.00e3",
        "2.73e4",
        "-1.20e-5",
        "inf",
    ]
    with drawing():
        assert [layer_text(t) for t in ("layer_12", "encoder.layer_3", "layer_x", "a\nb")] == [
            "12",
            "encoder 3",
            "layer_x",
            "a\\nb",
        ]
