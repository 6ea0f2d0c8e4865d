"""Weights of methods that nothing decodes: a note by the method's name, and no measure of their codes."""

from __future__ import annotations

import numpy as np
import pytest
from packed_files import write

import netweight


def integers(dtype, *shape):
    return dtype, np.zeros(shape, {"U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32}[dtype])


HALVES = ("F16", np.ones((4, 8), np.float16))
METHODS = {
    "hqq": {"x.W_q": integers("U8", 4, 8), "x.scale": HALVES, "x.zero": HALVES},
    "aqlm": {"x.codes": integers("I16", 4, 8, 1), "x.codebooks": HALVES, "x.scales": HALVES},
    "vptq": {"x.indices": integers("I32", 1, 4, 8), "x.centroids.weight": HALVES},
    "eetq": {"x.weight": integers("I8", 4, 8), "x.weight_scales": ("F16", np.ones(8, np.float16))},
    "quip": {"x.Qidxs": integers("I16", 4, 8), "x.SU": HALVES, "x.SV": HALVES},
    "spqr": {"x.dense_weights": integers("I32", 16), "x.in_perm": integers("I16", 4)},
    "quanto": {"x.weight._data": integers("I8", 4, 8), "x.weight._scale": HALVES},
    "torchao": {"x._weight_qdata": integers("U8", 4, 8), "x.weight": integers("I8", 4, 8)},
    "bitnet": {"x.weight": integers("U8", 4, 8), "x.scales": HALVES},
    "exl3": {"x.trellis": integers("I16", 4, 8, 2), "x.suh": HALVES},
    "qqq": {"x.B": integers("I32", 4, 8), "x.s_channel": HALVES},
    "made\x1b up": {"x.qweight": integers("I32", 4, 8)},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_note_names_the_method(tmp_path, method):
    tensors = {**METHODS[method], "n.weight": HALVES}
    folder = write(tmp_path / "m", tensors, {"quantization_config": {"quant_method": method}})
    with netweight.open(folder) as checkpoint:
        assert set(checkpoint) == set(tensors)
        shown = method.replace("\x1b", "\\x1b")
        assert any(f"are stored by {shown}, which is not decoded" in note for note in checkpoint.notes)
        assert "\x1b" not in "".join(checkpoint.notes)
    measured = set(netweight.scan(folder))
    codes = {name for name, (dtype, _) in tensors.items() if dtype != "F16"}
    assert "n.weight" in measured
    assert not codes & measured


def test_no_note_where_nothing_is_left(tmp_path):
    """Dense weights with an entry in config, and integers that are no codes, have none."""
    tensors = {"n.weight": HALVES, "n.position_ids": integers("I32", 1, 8), "n.num_batches_tracked": integers("I32")}
    for method in ("hqq", "gptq"):
        folder = write(tmp_path / method, tensors, {"quantization_config": {"quant_method": method}})
        assert netweight.open(folder).notes == ()
    assert netweight.open(write(tmp_path / "plain", {"n.weight": integers("I32", 4, 8)}, {})).notes == ()


def test_codes_of_which_config_says_nothing(tmp_path):
    """As of SqueezeLLM, which has a table beside them."""
    tensors = {"x.qweight": integers("I32", 4, 8), "x.lookup_table": HALVES}
    for name, config in (("none", None), ("unsaid", {})):
        (note,) = netweight.open(write(tmp_path / name, tensors, config)).notes
        assert "1 weights ('x.qweight' ...) are codes that are not decoded, or parts of them are missing" in note


def test_codes_in_the_guise_of_floats_are_left_out(tmp_path):
    """HQQ's `view_as_float`: the bytes of codes under a type of floats, which a scan would take for weights."""
    tensors = {"x.W_q": ("F16", np.full((4, 8), 0x1234, np.uint16)), "x.scale": HALVES, "n.weight": HALVES}
    folder = write(tmp_path / "m", tensors, {"quantization_config": {"quant_method": "hqq"}})
    with netweight.open(folder) as checkpoint:
        assert set(checkpoint) == {"x.scale", "n.weight"}
        assert any("1 weight is codes of HQQ, stored as if they were floats" in note for note in checkpoint.notes)
        assert [entry.name for entry in checkpoint.skipped] == ["x.W_q"]
    assert "x.W_q" not in set(netweight.scan(folder))
    plain = write(tmp_path / "p", tensors, {})
    with netweight.open(plain) as checkpoint:
        assert set(checkpoint) == set(tensors)
