"""What a scan prints: right at every width, in pipes and without colours, and no name does harm."""

from __future__ import annotations

import io
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netweight.checkpoint.tensor import Skipped
from netweight.jobs.scan.result import ScanRow, assess_rows
from netweight.params.role import classify_all
from netweight.views.scan import show_health, show_scan
from netweight.views.scan_layers import numbers, small
from netweight.views.short_names import cells

ALL = ("basic_stats", "spectral", "quantization", "sparsity", "tail", "within")
MATRICES = {
    "self_attn.q_proj": (4096, 4096),
    "self_attn.k_proj": (1024, 4096),
    "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096),
    "mlp.down_proj": (4096, 14336),
}


def measures(rng, rows, cols, methods=ALL, **changes):
    r = min(rows, cols)
    ninety = int(r * (0.4 + 0.5 * rng.random()))
    found = {
        "basic_stats": {
            "mean": float(rng.normal()) * 1e-5, "std": 0.02, "sparsity": 0.00123, "zeros_percentage": 0.123,
            "n_nan": 0, "n_inf": 0,
        },
        "spectral": {
            "condition_number": float(10 ** rng.normal(3, 1)), "singular": False, "stable_rank": 0.2 * r,
            "total_rank": r, "design_rank": r, "actual_rank": r, "svd_90_percent_rank": ninety,
            "svd_90_percent_ratio": ninety / r,
        },
        "quantization": {
            "sqnr_db": float(rng.normal(40, 5)), "extreme_outlier_percentage": float(10 ** rng.normal(-1, 1)),
            "recommendation": "int8 per channel",
        },
        "sparsity": {"sparsity": 0.00123, "dead_rows_percentage": 0.0, "dead_columns_percentage": 0.0},
        "tail": {"alpha": float(2 + 4 * rng.random())},
        "within": {"code_group": "", "significant_bits": 8},
    }  # fmt: skip
    for key, value in changes.items():
        measure, field = key.split("__")
        found[measure][field] = value
    return {name: found[name] for name in methods}


def scan_rows(shapes, methods=ALL, fused=(), **changes):
    rng = np.random.default_rng(7)
    parameters = classify_all(shapes)
    found = []
    for name, shape in shapes.items():
        rows, cols = (1, shape[0]) if len(shape) == 1 else (shape[-2], shape[-1])
        one = measures(rng, rows, cols, methods, **changes)
        found.append(ScanRow(name, parameters[name], shape, rows, cols, "BF16", rows * cols, one, fused=name in fused))
    return found


def llama(layers, prefix="model.layers"):
    shapes = {"model.embed_tokens.weight": (32000, 4096)}
    for i in range(layers):
        shapes |= {f"{prefix}.{i}.{name}.weight": shape for name, shape in MATRICES.items()}
        shapes |= {f"{prefix}.{i}.input_layernorm.weight": (4096,)}
        shapes |= {f"{prefix}.{i}.self_attn.q_proj.bias": (4096,)}
    return shapes | {"model.norm.weight": (4096,), "lm_head.weight": (32000, 4096)}


@pytest.fixture
def printed(monkeypatch):
    """A function that gives what `show` prints at a width, on a terminal or not."""

    def run(show, width=80, *, terminal=False, colour=True):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setenv("COLUMNS", str(width))
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name, raising=False)
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
            monkeypatch.setenv("TERM", "xterm-256color")
        if not colour:
            monkeypatch.setenv("NO_COLOR", "1")
        show()
        return out.getvalue()

    return run


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("layers", [3, 32])
def test_no_line_is_wider_than_the_terminal(printed, layers, width):
    rows = scan_rows(llama(layers))
    text = printed(lambda: show_scan(rows, top_issues=5, health=assess_rows(rows)), width)
    lines = text.splitlines()
    assert max(map(cells, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)
    headings = [line.split("  ")[0] for line in lines if re.match(r"layer \d|outside", line)]
    assert headings == [*(f"layer {i}" for i in range(layers)), "outside"]
    assert sum(bool(re.match(r"[CW ] q_proj ", line)) for line in lines) == layers
    if width >= 80:
        assert sum("rank" in line and "90% rank" in line and "sparsity" in line for line in lines) == layers + 1


def test_a_layer_at_80_and_140_columns(printed):
    changes = {"quantization__sqnr_db": 41.25, "quantization__extreme_outlier_percentage": 0.01, "tail__alpha": 3.0}
    rows = scan_rows(llama(1), spectral__condition_number=1234.5, **changes)
    for row in rows:
        row.measures["spectral"] |= {"svd_90_percent_rank": 700, "svd_90_percent_ratio": 700 / 1024}
        row.measures["basic_stats"]["mean"] = -7.3e-6
    lines = printed(lambda: show_scan(rows, top_issues=0), 80).splitlines()
    assert lines[0] == "layer 0             shape            rank  90% rank  sparsity     mean   std"
    assert lines[2] == "  k_proj        1024x4096  1024/1024 100%   700 68%     0.12%  -7.3e-6  0.02"
    assert [line.split()[0] for line in lines[1:6]] == ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
    assert lines[6] == "  1 norm, 1 bias vectors: mean -7.3e-6, std 0.02"
    assert lines[8].split()[0] == "outside"
    assert [line.split()[0] for line in lines[9:11]] == ["embedding", "output"]
    wide = printed(lambda: show_scan(rows, top_issues=0), 140).splitlines()
    assert wide[0].split() == [
        *("layer", "0", "shape", "rank", "90%", "rank", "sparsity", "mean", "std", "condition", "SQNR", "dB", "alpha")
    ]
    assert "1024/1024 (100.0%)" in wide[2]
    assert "700 (68.4%)" in wide[2]
    assert wide[2].split()[-3:] == ["1.23e3", "41.2", "3.00"]


@pytest.mark.parametrize("methods", [("basic_stats",), ("spectral",), ("quantization",), ("sparsity",), ("tail",), ()])
def test_what_was_not_measured_is_left_out(printed, methods):
    rows = scan_rows(llama(2), methods)
    text = printed(lambda: show_scan(rows, top_issues=3, health=assess_rows(rows)), 140)
    assert "n/a" not in text
    assert ("90% rank" in text) == (methods == ("spectral",))
    assert ("largest condition numbers" in text) == (methods == ("spectral",))
    assert ("SQNR dB" in text) == (methods == ("quantization",))
    assert ("sparsest" in text) == (methods in {("basic_stats",), ("sparsity",)})
    assert (re.search(r"\bstd\b", text) is not None) == (methods == ("basic_stats",))
    assert "4096x4096" in text
    if methods != ("spectral",):
        assert "condition numbers and stable ranks were not measured: add --methods spectral" in text


def test_the_worst_come_first_and_every_level_is_a_word(printed):
    rows = scan_rows(llama(2))
    for place, value in enumerate((10.0, 2e3, 2e4, 2e5)):
        rows[1 + place].measures["spectral"]["condition_number"] = value
        rows[1 + place].measures["quantization"] |= {"sqnr_db": 45.0 - 6 * place, "extreme_outlier_percentage": 0.0}
    for row in (rows[0], *rows[5:]):
        row.measures["spectral"]["condition_number"] = 5.0
        row.measures["quantization"] |= {"sqnr_db": 50.0, "extreme_outlier_percentage": 0.0}
    rows[6].measures["spectral"] |= {"condition_number": math.nan, "singular": True}
    text = printed(lambda: show_scan(rows[:5] + rows[8:10], top_issues=4), 100)
    table = text[text.index("largest condition numbers (4 of 7 matrices)") :].splitlines()[2:6]
    assert [line.split()[:2] for line in table] == [
        ["info", "2.00e5"],
        ["info", "2.00e4"],
        ["info", "2.00e3"],
        ["fine", "10"],
    ]
    assert table[0].endswith("model.layers.0.mlp.gate_proj.weight")
    table = text[text.index("most sensitive to int8") :].splitlines()[2:6]
    assert [line.split()[:2] for line in table] == [
        ["info", "27.0"],
        ["info", "33.0"],
        ["info", "39.0"],
        ["fine", "45.0"],
    ]
    assert "int8 per channel" in table[0]


def test_advice_is_short_in_a_narrow_terminal(printed):
    said = "keep 16 bit, or smooth before quantizing (SmoothQuant, AWQ)"
    rows = scan_rows(llama(1), quantization__recommendation=said)
    narrow = printed(lambda: show_scan(rows, top_issues=2), 80)
    assert "keep 16 bit  " in narrow
    assert "smooth" not in narrow
    assert said in printed(lambda: show_scan(rows, top_issues=2), 140)


def test_a_singular_matrix_is_the_worst(printed):
    rows = scan_rows(llama(1))
    rows[3].measures["spectral"] |= {"condition_number": math.nan, "singular": True}
    text = printed(lambda: show_scan(rows, top_issues=1), 140)
    assert re.search(r"^info +singular +4096/4096 +model.layers.0.self_attn.o_proj.weight$", text, re.MULTILINE)
    assert re.search(r"^  o_proj .* singular ", text, re.MULTILINE)


def test_undefined_and_infinite_numbers(printed):
    bad = {
        "spectral__condition_number": math.nan, "spectral__actual_rank": math.nan,
        "spectral__svd_90_percent_rank": None,
        "basic_stats__mean": math.nan, "basic_stats__std": math.inf, "quantization__sqnr_db": math.inf,
        "quantization__extreme_outlier_percentage": None, "quantization__recommendation": None, "tail__alpha": None,
        "basic_stats__sparsity": math.nan, "sparsity__sparsity": None, "sparsity__dead_rows_percentage": math.nan,
    }  # fmt: skip
    rows = [*scan_rows(llama(1), **bad), *scan_rows({"lm.layers.9.mlp.up_proj.weight": (64, 64)})]
    text = printed(lambda: show_scan(rows, top_issues=9, health=assess_rows(rows)), 140)
    q = next(line for line in text.splitlines() if line.startswith("  q_proj"))
    assert q.split() == ["q_proj", "4096x4096", "-", "-", "-", "-", "inf", "-", "inf", "-"]
    assert "nan" not in text
    assert "None" not in text
    lines = printed(lambda: show_scan(rows[:-1], top_issues=9), 140).splitlines()
    assert lines[0].split() == ["layer", "0", "shape", "std", "SQNR", "dB"]  # columns that nothing is known of


def test_only_leading_singular_values(printed):
    rows = scan_rows(llama(1), spectral__svd_90_percent_rank=math.nan, spectral__condition_number=math.nan)
    for row in rows:
        row.measures["spectral"]["svd_90_percent_rank_at_least"] = 128
    assert ">=128" in printed(lambda: show_scan(rows, top_issues=3), 80)


@pytest.mark.parametrize("fused", [False, True])
def test_experts_are_condensed(printed, fused):
    if fused:
        shapes = {f"model.layers.0.mlp.experts.down_proj[{e}]": (4, 1408, 2048) for e in range(64)}
    else:
        shapes = {f"model.layers.0.mlp.experts.{e}.down_proj.weight": (1408, 2048) for e in range(64)}
    rows = scan_rows(shapes, ("basic_stats",))
    if fused:  # as `scan` makes them: one matrix of a stack each, under the tensor's parameter
        parameter = classify_all({"model.layers.0.mlp.experts.down_proj": (64, 1408, 2048)})
        base = parameter["model.layers.0.mlp.experts.down_proj"]
        assert base.role == "moe_expert"
        rows = [ScanRow(r.name, base, (64, 1408, 2048), 1408, 2048, "BF16", r.elements, r.measures) for r in rows]
    rows[5].measures["basic_stats"]["std"] = 0.9
    rows[6].measures["basic_stats"]["std"] = 0.001
    text = printed(lambda: show_scan(rows, top_issues=0), 100)
    lines = text.splitlines()
    assert lines[1].split()[-3:] == ["down_proj", "x64", "1408x2048"]
    assert [line.split()[0] for line in lines[2:5]] == ["min", "median", "max"]
    assert [line.split()[-1] for line in lines[2:5]] == ["0.001", "0.02", "0.9"]
    assert lines[5] == ""
    full = printed(lambda: show_scan(rows, top_issues=0, verbose=True), 100)
    assert sum("1408x2048" in line for line in full.splitlines()) == 64
    few = printed(lambda: show_scan(rows[:4], top_issues=0), 100)
    assert sum("1408x2048" in line for line in few.splitlines()) == 4
    assert "x64" not in few


def test_labels_of_experts_are_readable(printed):
    """The projection and the number, however long the names are; the layer is in the heading."""
    shapes = {
        "model.layers.3.block_sparse_moe.gate.weight": (2, 64),
        "model.layers.3.block_sparse_moe.experts.0.w2.weight": (64, 128),
        "model.layers.3.block_sparse_moe.experts.1.w2.weight": (64, 128),
    }
    rows = scan_rows(shapes)
    stack = classify_all({"model.layers.3.mlp.experts.gate_up_proj": (2, 64, 128)})
    parameter = stack["model.layers.3.mlp.experts.gate_up_proj"]
    for part in ("0", "0.gate_proj", "0.up_proj", "1", "1.gate_proj", "1.up_proj"):
        name = f"{parameter.name}[{part}]"
        one = replace(parameter, name=name)
        rows.append(ScanRow(name, one, (2, 64, 128), 64, 128, "BF16", 8192, rows[0].measures, fused="." in part))
    lines = printed(lambda: show_scan(rows, top_issues=0), 80).splitlines()
    assert lines[0].startswith("layer 3 ")
    assert [line[2:].split()[0] for line in lines[1:10]] == [
        "moe_gate", "down_proj[0]", "down_proj[1]", "gate_up[0]", "gate_proj[0]", "up_proj[0]", "gate_up[1]",
        "gate_proj[1]", "up_proj[1]",
    ]  # fmt: skip


def test_a_matrix_with_nan_has_no_ranks_and_is_the_worst_to_quantize(printed):
    rows = scan_rows(llama(1))
    rows[1].measures["spectral"] |= dict.fromkeys(("actual_rank", "svd_90_percent_rank", "condition_number"), math.nan)
    rows[1].measures["spectral"] |= {"svd_90_percent_rank_at_least": 0}
    rows[1].measures["quantization"] = {
        "sqnr_db": math.nan, "extreme_outlier_percentage": math.nan, "risk_level": "broken",
        "recommendation": "mend first: NaN or infinite values",
    }  # fmt: skip
    text = printed(lambda: show_scan(rows, top_issues=1), 80)
    line = next(line for line in text.splitlines() if "q_proj" in line)
    assert line.split()[1:4] == ["4096x4096", "-", "-"]
    assert re.search(r"^critical +- +- +mend first +model.layers.0.self_attn.q_proj.weight$", text, re.MULTILINE)


def test_parts_of_a_fused_matrix_follow_it(printed):
    shapes = {"h.0.mlp.c_fc.weight": (768, 3072), "h.0.attn.c_attn.weight": (768, 2304)}
    rows = scan_rows(shapes)
    base = rows[1]
    for role in ("q_proj", "k_proj", "v_proj"):
        name = f"{base.name}[{role}]"
        parameter = replace(base.parameter, name=name, role=role)
        rows.append(ScanRow(name, parameter, base.shape, 768, 768, "F32", 768 * 768, base.measures, fused=True))
    lines = printed(lambda: show_scan(rows, top_issues=0), 80).splitlines()
    assert [line.split()[:2] for line in (s.removeprefix("W").removeprefix("C") for s in lines[1:6])] == [
        ["qkv", "768x2304"],
        ["q_proj", "768x768"],
        ["k_proj", "768x768"],
        ["v_proj", "768x768"],
        ["up_proj", "768x3072"],
    ]
    assert assess_rows(rows).judged == 2


def test_verbose_lists_vectors_and_all_that_was_left_out(printed):
    rows = scan_rows(llama(1))
    skipped = [Skipped(f"a{i}", "not matched by --include", asked=True) for i in range(40)]
    skipped += [Skipped(f"t{i}", "an integer tensor") for i in range(9)]
    short = printed(lambda: show_scan(rows, top_issues=0, skipped=skipped, notes=["tied: a = b"]), 80)
    assert [line for line in short.splitlines() if line.startswith("left out")] == [
        "left out: t0, t1 and 7 more: an integer tensor",
        "left out: 40 tensors: not matched by --include",
    ]
    assert "note: tied: a = b" in short
    unlike = [Skipped(f"t{i}", f"reason {i}") for i in range(9)]
    short = printed(lambda: show_scan(rows, top_issues=0, skipped=unlike + skipped), 80)
    assert short.count("left out: t") == 6
    assert "left out: 52 more (--verbose lists them)" in short
    long = printed(lambda: show_scan(rows, top_issues=0, skipped=skipped, verbose=True), 80)
    assert long.count("left out: t") == 9
    assert long.count("left out: a") == 40
    assert "input_layernorm" in long
    assert "q_proj.bias" in long
    assert "vectors" not in long


def test_stacks_have_their_own_headings(printed):
    shapes = {
        "encoder.block.0.layer.0.SelfAttention.q.weight": (64, 64),
        "decoder.block.0.layer.0.SelfAttention.q.weight": (64, 64),
        "decoder.block.11.layer.0.SelfAttention.q.weight": (64, 64),
    }
    text = printed(lambda: show_scan(scan_rows(shapes), top_issues=0), 80)
    headings = [line for line in text.splitlines() if "layer" in line and "shape" in line]
    assert [" ".join(h.split()[:3]) for h in headings] == ["encoder layer 0", "decoder layer 0", "decoder layer 11"]


HOSTILE = [
    "[red]x[/red]", "\x1b[31mred", "a\nb", "\u202eabc", "x" * 500, "\u97e9" * 60, "", "=1+1",
    "model.layers.0.\x1b]8;;http://x\x07.q_proj.weight", "model.layers.1.[bold].self_attn.k_proj.weight",
]  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize("verbose", [False, True])
def test_hostile_names(printed, width, verbose):
    rows = scan_rows(dict.fromkeys(HOSTILE, (64, 64)), quantization__recommendation="\x1b[31m[red]x")
    skipped = [Skipped("\x1b[2J", "a\nb")]
    notes = ["\x1b[2J[red]"]
    health = assess_rows(rows)
    text = printed(
        lambda: show_scan(rows, top_issues=20, skipped=skipped, notes=notes, health=health, verbose=verbose), width
    )
    assert all(line.isprintable() for line in text.split("\n"))
    assert "[red]x[/red]" in text
    assert "\\x1b[2J" in text


def test_colours_follow_the_level_and_no_color(printed):
    rows = scan_rows(llama(1), sparsity__dead_rows_percentage=50.0)
    health = assess_rows(rows)
    assert "C critical, W warning" in printed(lambda: show_scan(rows, top_issues=2, health=health), 100)
    coloured = printed(lambda: show_scan(rows, top_issues=2, health=health), 100, terminal=True)
    assert "\x1b[1;31mcritical\x1b[0m" in coloured
    plain = printed(lambda: show_scan(rows, top_issues=2, health=health), 100, terminal=True, colour=False)
    assert re.search(r"\x1b\[[0-9;]*3[0-7]", plain) is None
    piped = printed(lambda: show_scan(rows, top_issues=2, health=health), 100)
    assert "\x1b" not in piped
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == re.sub(r"\x1b\[[0-9;]*m", "", plain) == piped
    assert "critical" in piped


PROGRAM = """
import sys
sys.path.insert(0, {here!r})
from test_scan_view import llama, scan_rows
from netweight.jobs.scan.result import assess_rows
from netweight.views.scan import show_scan
rows = scan_rows(llama(2))
show_scan(rows, top_issues=3, health=assess_rows(rows))
"""


@pytest.mark.parametrize("columns", [None, "", "100"])
def test_a_pipe_has_no_width_unless_columns_says_otherwise(columns):
    environment = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR"}}
    environment |= {} if columns is None else {"COLUMNS": columns}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(here=str(Path(__file__).parent))],
        capture_output=True,
        check=True,
        text=True,
        env=environment,
    )
    widest = max(map(len, done.stdout.splitlines()))
    assert widest > 100 if not columns else 80 < widest <= 100
    assert columns or "model.layers.1.self_attn.o_proj.weight" in done.stdout
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_pipe_that_takes_only_ascii():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "60"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(here=str(Path(__file__).parent))],
        capture_output=True,
        check=True,
        env=environment,
    )
    assert b"..0.self_attn" in done.stdout or b"..1.self_attn" in done.stdout


def test_nothing_measured(printed):
    text = printed(lambda: show_scan([], top_issues=5, health=assess_rows([])), 80)
    assert text.splitlines()[0] == "nothing was measured"
    assert "health  nothing was judged" in text.splitlines()


def test_no_zeros_is_said(printed):
    rows = scan_rows(llama(1), basic_stats__sparsity=0.0)
    assert "sparsity: no zeros in 7 matrices" in printed(lambda: show_scan(rows, top_issues=3), 80)


def test_health_groups_layers(printed):
    rows = scan_rows(llama(28), ("spectral",), spectral__condition_number=3e4, spectral__stable_rank=1.0)
    text = printed(lambda: show_health(assess_rows(rows)), 140)
    lines = text.splitlines()
    assert lines[0].startswith("health  0 critical, ")
    assert "of 100" not in text
    assert lines[1].startswith("info  condition number above 1e4: 142 tensors, the worst 3.00e4 in ")
    assert "28 x" not in text
    long = printed(lambda: show_health(assess_rows(rows), verbose=True), 140)
    assert "28 x model.layers.*.self_attn.q_proj.weight, 28 x " in long
    assert "and 58 more" in long
    assert "condition number: above 1e3, 1e4, 1e5: info" in text
    assert "score" not in text
    assert "stable rank / full rank below 0.1" in text
    assert text.count("candidate for low-rank") == 0
    assert printed(lambda: show_health(assess_rows(rows), verbose=True), 140).count("candidate for low-rank") == 1


def test_numbers_of_a_row():
    row = scan_rows({"a": (8, 8)}, basic_stats__mean=math.nan, spectral__singular=True)[0]
    found = numbers(row)
    assert "mean" not in found
    assert found["condition"] == math.inf
    assert found["sparsity"] == 0.00123
    assert "sparsity" not in numbers(scan_rows({"a": (8, 8)}, ("tail",))[0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.02, "0.02"), (1234.5, "1.23e3"), (999.6, "1.00e3"), (-7.3e-6, "-7.30e-6"), (math.inf, "inf")],
)
def test_small(value, text):
    assert small(value) == text
