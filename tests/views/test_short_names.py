"""Names in little room: what tells them apart stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netweight.views.short_names import cells, shorten_names

LLAMA = [f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1, 11) for p in "qkvo"]


def test_names_that_fit_stay():
    assert shorten_names(LLAMA, 60) == LLAMA
    assert shorten_names([], 10) == []


@pytest.mark.parametrize("width", [34, 28, 24, 20])
def test_numbers_and_roles_stay(width):
    short = shorten_names(LLAMA, width)
    assert len(set(short)) == len(LLAMA)
    assert all(cells(name) <= width for name in short)
    for name, text in zip(LLAMA, short, strict=True):
        number = name.split(".")[2]
        assert number in text.replace("\N{HORIZONTAL ELLIPSIS}", ".").split(".")


def test_the_number_that_all_share_stays():
    short = shorten_names([f"model.layers.7.self_attn.{p}_proj.weight" for p in "qk"], 30)
    assert short == [f"\N{HORIZONTAL ELLIPSIS}7.self_attn.{p}_proj.weight" for p in "qk"]


def test_names_with_and_without_numbers():
    names = ["lm_head.weight", "model.language_model.layers.12.mlp.down_proj.weight"]
    assert shorten_names(names, 30) == ["lm_head.weight", "\N{HORIZONTAL ELLIPSIS}12.mlp.down_proj.weight"]
    assert shorten_names(names, 30, "..")[1] == "..12.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("width", "least"), [(40, ".gate_up_proj[12.up_proj]"), (34, "j[12.up_proj]"), (24, "[12.up_proj]"), (16, "]")]
)
def test_the_part_of_a_tensor_stays(width, least):
    names = [f"model.layers.3.mlp.experts.gate_up_proj[{part}]" for part in ("12", "12.up_proj", "12.gate_proj")]
    short = shorten_names(names, width, "..")
    assert all(cells(name) <= width for name in short)
    assert len(set(short)) == 3
    assert short[1].endswith(least)


def test_names_that_cannot_be_told_apart_stay_longer():
    names = ["a" * 50 + "x" + "b" * 50, "a" * 50 + "y" + "b" * 50]
    short = shorten_names(names, 20)
    assert len(set(short)) == 2


@given(st.lists(st.text("ab\u97e9.0123", min_size=1, max_size=40), max_size=6), st.integers(4, 40))
def test_names_that_differ_stay_different(names, width):
    short = shorten_names(names, width)
    assert len(short) == len(names)
    assert len(set(zip(names, short, strict=True))) == len(set(names)) == len(set(short))
