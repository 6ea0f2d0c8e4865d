"""Short names keep both ends and stay told apart; alike things stand side by side."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netweight.figures.labels import distinct_short, fit, shorten, visible
from netweight.figures.similarity import similarity_order


def test_shorten_keeps_both_ends():
    assert shorten("very-long-name-ending", 12) == "very-\N{HORIZONTAL ELLIPSIS}ending"
    assert shorten("short", 5) == "short"
    assert len(shorten("x" * 100, 3)) == 3


@given(st.text(max_size=40), st.integers(3, 50))
def test_fit_is_the_longest_that_fits(text, width):
    short = fit(text, width, len)
    assert len(short) == min(len(text), width)


@given(st.lists(st.text(alphabet="ab", max_size=30), max_size=12), st.integers(3, 20))
def test_short_names_differ_where_the_names_do(names, limit):
    short = distinct_short(names, limit)
    for one, s in zip(names, short, strict=True):
        for other, t in zip(names, short, strict=True):
            assert (one == other) == (s == t)
        if len(one) <= limit:
            assert s == one


def test_names_that_differ_in_the_middle_only():
    names = ["organisation/" + "x" * 30 + letter + "y" * 30 for letter in "abc"]
    short = distinct_short(names, 20)
    assert len(set(short)) == 3
    assert distinct_short(["a" * 50, "a" * 50], 10) == ["aaaa\N{HORIZONTAL ELLIPSIS}aaaaa"] * 2


def test_visible():
    assert visible("a\tb\u2028\u202e\u97e9\u00a0d", lambda c: c != "\u97e9") == "a\\tb\\u2028\\u202e\\u97e9\u00a0d"


def test_alike_models_stand_side_by_side():
    rng = np.random.default_rng(7)
    kind = rng.integers(0, 3, 24)
    vectors = np.eye(3)[kind] * 3 + rng.standard_normal((24, 3)) * 0.3
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = similarity_order((vectors @ vectors.T).tolist())
    assert sorted(order) == list(range(24))
    assert int((np.diff(kind[order]) != 0).sum()) == 2


def test_the_order_is_that_of_average_linkage():
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((15, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = np.clip(vectors @ vectors.T, -1, 1)
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 1.0)
    order = similarity_order(matrix.tolist())
    tree = linkage(squareform(1 - matrix, checks=False), "average")
    for clusters in range(2, 15):
        labels = fcluster(tree, clusters, "maxclust")[order]
        assert int((np.diff(labels) != 0).sum()) == len(set(labels)) - 1


def test_undefined_models_come_last_and_ties_keep_their_order():
    nan = math.nan
    matrix = [[None, None, None], [None, 1.0, 0.5], [None, 0.5, 1.0]]
    assert similarity_order(matrix) == [1, 2, 0]
    assert similarity_order([[nan] * 3] * 3) == [0, 1, 2]
    assert similarity_order([[1.0, nan], [nan, 1.0]]) == [0, 1]
    assert similarity_order([[None]]) == [0]
    assert similarity_order([]) == []
    assert similarity_order([[1.0] * 4] * 4) == [0, 1, 2, 3]
