"""Coefficients of task vectors: the published example, formulas in exact arithmetic, and the ends of float64."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netweight.errors import OptionError
from netweight.merging.coefficients import MODES, by_granularity, coefficients, cosines, merged_norm, norms_of

# five fine-tunes of Llama-3.2-3B: norms of their task vectors and their coefficients under exp, as published
PUBLISHED = {
    "Llama-3.2-3B_MATH_lisa": (182.63449804, 0.005153),
    "llama-3.2-Korean-Bllossom-3B": (31.87331430, 0.148450),
    "Llama-3.2-3B-Instruct-tuned": (0.00000000, 0.302100),
    "EZO-Llama-3.2-3B-Instruct-dpoE": (0.52867741, 0.298560),
    "Home-Llama-3.2-3B": (9.26351817, 0.245736),
}


def made(mode, norms, **options):
    return coefficients(mode, norms, names=[f"m{n}" for n in range(len(norms))], **options)


def test_the_published_example():
    found = coefficients("exp", [norm for norm, _ in PUBLISHED.values()], names=list(PUBLISHED))
    assert [round(value, 6) for value in found] == [value for _, value in PUBLISHED.values()]


def test_linear_power_and_metagpt_are_their_formulas():
    norms = [1, 2, 4, 10]
    total = sum(Fraction(1, norm) for norm in norms)
    assert made("linear", norms) == pytest.approx([float(Fraction(1, norm) / total) for norm in norms], rel=1e-15)
    cubes = [Fraction(1, norm**3) for norm in norms]
    assert made("power", norms, alpha=3.0) == pytest.approx([float(c / sum(cubes)) for c in cubes], rel=1e-15)
    assert made("power", norms) == pytest.approx(np.power(norms, -1.5) / np.power(norms, -1.5).sum(), rel=1e-14)
    assert made("metagpt", norms) == pytest.approx([1 / 121, 4 / 121, 16 / 121, 100 / 121], rel=1e-15)
    assert made("equal", norms) == (0.25,) * 4


def test_beta_sharpens_exp():
    norms = np.array([1.0, 2.0, 6.0])
    for beta in (0.0, 0.5, 4.0):
        raw = np.exp(-beta * norms / norms.mean())
        assert made("exp", norms, beta=beta) == pytest.approx(raw / raw.sum(), rel=1e-14)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(MODES)),
    st.lists(st.floats(5e-324, 1e300) | st.floats(1e-3, 1e3), min_size=1, max_size=6),
    st.floats(0, 1e6),
    st.floats(0, 1e308),
)
def test_coefficients_are_shares(mode, norms, alpha, beta):
    found = made(mode, norms, alpha=alpha, beta=beta)
    assert math.isclose(math.fsum(found), 1.0, rel_tol=1e-15)
    assert all(0 <= value <= 1 for value in found)
    order = sorted(range(len(norms)), key=lambda n: norms[n])
    rising = [found[n] for n in order]
    assert rising == (sorted(rising) if mode == "metagpt" else sorted(rising, reverse=True))


@pytest.mark.parametrize("mode", sorted(set(MODES) - {"equal"}))
@pytest.mark.parametrize("scale", [1e-300, 1e-100, 1e299])
def test_only_proportions_count(mode, scale):
    norms = [1.0, 3.0, 7.0]
    assert made(mode, [norm * scale for norm in norms]) == pytest.approx(made(mode, norms), rel=1e-12)


@pytest.mark.parametrize("mode", ["exp", "metagpt", "equal"])
def test_models_that_changed_nothing(mode):
    assert made(mode, [0.0, 0.0]) == (0.5, 0.5)
    found = made(mode, [0.0, 1.0])
    assert found == {"exp": pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]), "metagpt": (0.0, 1.0)}.get(
        mode, (0.5, 0.5)
    )


@pytest.mark.parametrize(
    ("mode", "formula"), [("linear", "1 / 0 is no number"), ("power", r"1 / 0\^alpha is no number")]
)
def test_a_zero_norm_has_no_inverse(mode, formula):
    with pytest.raises(OptionError, match=formula) as caught:
        coefficients(mode, [1.0, 0.0], names=["a", "lab/b"])
    assert f"mode {mode}: lab/b does not differ from the base, its task vector has norm 0" in str(caught.value)
    assert "leave the model out, or use --mode exp or equal" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"mode": "exq"}, "mode: expected one of exp, linear, power, metagpt, equal, got 'exq' (did you mean 'exp'?)"),
        ({"norms": [1.0, -1.0]}, "the norm of b: expected a finite number of at least 0, got -1.0"),
        ({"norms": [math.nan, 1.0]}, "the norm of a: expected a finite number of at least 0, got nan"),
        ({"norms": [1.0, math.inf]}, "the norm of b: expected a finite number of at least 0, got inf"),
        ({"norms": [1.0]}, "expected one norm for each of 2 models, got 1"),
        ({"alpha": -1.0}, "alpha: expected a finite number of at least 0, got -1.0"),
        ({"alpha": math.inf}, "alpha: expected a finite number of at least 0, got inf"),
        ({"beta": math.nan}, "beta: expected a finite number of at least 0, got nan"),
    ],
)
def test_what_cannot_be(arguments, expected):
    with pytest.raises(OptionError) as caught:
        coefficients(**({"mode": "exp", "norms": [1.0, 2.0], "names": ["a", "b"]} | arguments))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- Gram matrices


def vectors(seed=0, models=4, size=50):
    return np.random.default_rng(seed).standard_normal((models, size)) * [[10.0**-n] for n in range(models)]


def test_norms_cosines_and_the_merged_norm_are_those_of_the_vectors():
    tau = vectors()
    gram = tau @ tau.T
    norms = np.linalg.norm(tau, axis=1)
    weights = [0.5, -1.0, 2.0, 0.25]
    assert norms_of(gram) == pytest.approx(norms, rel=1e-14)
    np.testing.assert_allclose(cosines(gram), gram / np.outer(norms, norms), atol=1e-15)
    assert np.diag(cosines(gram)).tolist() == [1.0] * 4
    assert merged_norm(gram, weights) == pytest.approx(np.linalg.norm(weights @ tau), rel=1e-13)


def test_rounding_below_zero_is_zero():
    gram = np.array([[1.0, 1.0 + 1e-15], [1.0 + 1e-15, 1.0]])
    assert merged_norm(gram, [1.0, -1.0]) == 0.0
    assert norms_of(np.array([[-1e-30]])) == (0.0,)
    assert cosines(gram).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_a_model_that_changed_nothing_has_no_cosine():
    found = cosines(np.array([[4.0, 0.0], [0.0, 0.0]]))
    assert found[0, 0] == 1.0
    assert np.isnan(found).tolist() == [[False, True], [True, True]]


def test_cosines_at_the_ends_of_float64():
    tau = vectors(models=2)
    tau /= np.linalg.norm(tau, axis=1, keepdims=True)
    wanted = tau[0] @ tau[1]
    for a, b in ((1e150, 1e-150), (1e150, 1e150), (1e-140, 1e-140)):
        scale = np.outer([a, b], [a, b])
        assert cosines(tau @ tau.T * scale)[0, 1] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inner_products_that_are_not_finite(bad):
    gram = np.array([[1.0, 0.0], [0.0, bad]])
    for use in (norms_of, cosines, lambda g: merged_norm(g, [1.0, 1.0])):
        with pytest.raises(OptionError, match="inner products are not finite"):
            use(gram)
    with pytest.raises(OptionError, match="inner products are not finite"):
        cosines(np.array([[1.0, math.nan], [math.nan, 1.0]]))
    with pytest.raises(OptionError, match="inner products are not finite"):
        merged_norm(np.array([[1.0, -math.inf], [math.inf, 1.0]]), [1.0, 1.0])


# ---- granularity

NAMES = ["a", "b"]
LAYERS = {"l0.x": "layer 0", "l0.y": "layer 0", "l1.x": "layer 1"}


def grams(norms):
    return {name: np.diag(np.square(row, dtype=float)) for name, row in norms.items()}


EACH = grams({"l0.x": [3, 1], "l0.y": [4, 1], "l1.x": [1, 2], "head": [5, 5]})


@pytest.mark.parametrize("mode", ["exp", "linear", "metagpt"])
def test_norms_are_taken_over_all_over_the_layer_or_alone(mode):
    def one(*squares):
        return coefficients(mode, [math.sqrt(s) for s in squares], names=NAMES)

    def made_by(granularity):
        return by_granularity(granularity, LAYERS, EACH, mode, names=NAMES)

    assert made_by("global") == dict.fromkeys(EACH, one(9 + 16 + 1 + 25, 1 + 1 + 4 + 25))
    layer = one(25, 2)
    assert made_by("layer") == {"l0.x": layer, "l0.y": layer, "l1.x": one(1, 4), "head": one(25, 25)}
    assert made_by("parameter") == {"l0.x": one(9, 1), "l0.y": one(16, 1), "l1.x": one(1, 4), "head": one(25, 25)}
    assert list(made_by("layer")) == list(EACH)


def test_alpha_and_beta_reach_every_group():
    found = by_granularity("parameter", {}, EACH, "power", alpha=2.0, names=NAMES)
    assert found["l1.x"] == pytest.approx([0.8, 0.2])
    assert by_granularity("global", {}, EACH, "exp", beta=0.0, names=NAMES)["head"] == (0.5, 0.5)


def test_what_no_model_changed_is_merged_equally():
    some = grams({"l0.x": [3, 1], "l1.x": [0, 0]})
    for granularity in ("layer", "parameter"):
        assert by_granularity(granularity, LAYERS, some, "linear", names=NAMES)["l1.x"] == (0.5, 0.5)


@pytest.mark.parametrize(
    ("granularity", "place"), [("layer", " in layer 1"), ("parameter", " in l1.x"), ("global", "")]
)
def test_what_one_model_left_alone_is_an_error_that_names_the_place(granularity, place):
    some = grams({"l0.x": [3, 0 if granularity == "global" else 1], "l1.x": [2, 0]})
    with pytest.raises(OptionError) as caught:
        by_granularity(granularity, LAYERS, some, "linear", names=NAMES)
    assert f"mode linear: b does not differ from the base{place}, its task vector has norm 0" in str(caught.value)


def test_models_that_are_all_the_base_are_an_error():
    with pytest.raises(OptionError, match="mode power: a does not differ from the base, its task vector has norm 0"):
        by_granularity("global", LAYERS, grams({"l0.x": [0, 0]}), "power", names=NAMES)


def test_a_parameter_without_a_layer_belongs_to_those_outside():
    some = grams({"norm": [1, 2], "head": [1, 0], "l0.x": [1, 1]})
    found = by_granularity("layer", LAYERS, some, "linear", names=NAMES)
    assert found["norm"] == found["head"] == coefficients("linear", [math.sqrt(2), 2], names=NAMES)
    del some["norm"]
    with pytest.raises(OptionError, match="b does not differ from the base in the parameters outside of layers"):
        by_granularity("layer", LAYERS, some, "linear", names=NAMES)


def test_an_unknown_granularity():
    with pytest.raises(
        OptionError, match=r"granularity: expected one of global, layer, parameter, got 'layers' \(did you"
    ):
        by_granularity("layers", LAYERS, EACH, "exp", names=NAMES)


def test_inner_products_beyond_float64_in_a_sum():
    with pytest.raises(OptionError, match="inner products are not finite"):
        by_granularity("global", {}, {"x": np.diag([1e308, 1]), "y": np.diag([1e308, 1])}, "exp", names=NAMES)
