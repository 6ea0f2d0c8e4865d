"""Folder names for models: distinct on any file system, short, stable."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netweight.jobs.delta.names import model_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/m/llama"], ["llama"]),
        (["/m/llama.safetensors"], ["llama"]),
        (["/m/a.pt", "/m/b.pth"], ["a", "b"]),
        (["/runA/ck-1", "/runB/ck-1"], ["runA_ck-1", "runB_ck-1"]),
        (["/x/runA/ck-1", "/y/runA/ck-1", "/z/other"], ["x_runA_ck-1", "y_runA_ck-1", "other"]),
        (["/m/same", "/m/same"], ["same", "same-2"]),
        (["/m/Case", "/n/case"], ["m_Case", "n_case"]),
        (["/m/pytorch_model.bin"], ["pytorch_model"]),
        (["/m/v1.5"], ["v1.5"]),
        (["/m/.hidden"], ["hidden"]),
        (["/m/..."], ["model"]),
        (["/"], ["model"]),
        (["/m/con"], ["con_"]),
        (["/m/a:b|c"], ["a_b_c"]),
        (["/m/new\nline\x1b[31m"], ["new_line_[31m"]),
        (["/m/taken"], ["taken-2"]),
        (["/m/Taken"], ["Taken-2"]),
    ],
)
def test_names(paths, names):
    assert model_names(paths, ["taken"]) == names


def test_names_do_not_depend_on_the_order():
    paths = ["/a/x/ck", "/b/x/ck", "/b/y/ck", "/c/z", "/d/Z"]
    expected = dict(zip(paths, model_names(paths), strict=True))
    for order in itertools.permutations(paths):
        assert dict(zip(order, model_names(order), strict=True)) == expected


parts = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=150).filter(
    lambda p: p not in (".", "..")
)


@given(st.lists(st.lists(parts, min_size=1, max_size=4).map(lambda p: "/" + "/".join(p)), min_size=1, max_size=6))
@example(["/a/" + "🙂" * 60, "/b/" + "🙂" * 60])
@example(["/e\u0301", "/\u00e9"])
@example(["/" + "a" * 300, "/" + "b" + "a" * 299])
@example(["/a\u202e", "/a\u2028"])
@example(["/nul.txt", "/NUL"])
def test_any_paths(paths):
    taken = ("pairwise_cosines.csv",)
    names = model_names(paths, taken)
    assert len(names) == len(paths)
    folded = [unicodedata.normalize("NFC", n).casefold() for n in [*names, *taken]]
    assert len(set(folded)) == len(folded)
    for name in names:
        assert 0 < len(name.encode()) <= 255
        assert not set(name) & set('/\\:*?"<>|\0')
        assert not name.startswith((".", " "))
        assert not name.endswith((".", " "))
        assert not [c for c in name if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}]
