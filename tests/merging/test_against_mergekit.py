"""What mergekit 0.1.5 made of small models, and what netweight makes of them: recorded by benchmarks/mergekit.

The courses run on arrays in memory. Where mergekit departs from its documentation or a paper, or does with absolute
epsilons or in bfloat16 what it should not, the case stands in DEPARTURES, and the value is checked against numpy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import right_merges as right
from combined import MERGEKIT
from in_memory import run_in_memory
from safetensors.torch import load_file
from small_models import FAMILIES, MODELS, moments

from netweight.checkpoint.open import open_checkpoint
from netweight.errors import OptionError
from netweight.jobs.merge.targets import PlanOptions, plan_merge
from netweight.merging.recipe.recipe import parse_recipe
from netweight.merging.registry import METHODS

RECORDED = Path(__file__).parent / "recorded"
CASES = {case["name"]: case for case in json.loads((RECORDED / "cases.json").read_text(encoding="utf-8"))["cases"]}
NUMBERS = {name: number for number, name in enumerate(CASES)}
WRITTEN = {"F32": np.float32, "F64": np.float64, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
WORDS = {"F32": "float32", "F64": "float64", "BF16": "bfloat16", "F16": "float16"}
TOLERANCE = 1e-6
EMBEDDING = "model.embed_tokens.weight"


@cache
def recorded_outputs():
    found = {}
    for key, tensor in load_file(RECORDED / "outputs.safetensors").items():
        number, _, name = key.partition("/")
        found.setdefault(int(number), {})[name] = tensor.double().numpy()
    return found


@cache
def weights_of(reference):
    """The arrays of `family/model`."""
    family, _, model = reference.partition("/")
    return FAMILIES[family].models()[model]


@pytest.fixture(scope="session")
def small_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small-models")
    for family in FAMILIES.values():
        family.write(folder / family.name)
    return folder


@dataclass(frozen=True)
class Output:
    """The merged tensors, and `targets` of the plan by name."""

    tensors: dict
    targets: dict


def merged(text, folder, seed=0):
    """The recipe planned on the checkpoints in `folder`, and its courses run on arrays."""
    recipe = parse_recipe(text, "recipe.yml")
    references = recipe.references()
    with ExitStack() as stack:
        opened = [stack.enter_context(open_checkpoint(folder / reference)) for reference in references]
        plan = plan_merge(recipe, opened, PlanOptions(seed=seed))
    tensors = {}
    for target in plan.targets:
        inputs = []
        for given in target.inputs:
            own = weights_of(references[given.model])
            parts = [own[p.tensor.name].ravel()[p.start : p.start + p.count] for p in given.pieces]
            inputs.append(np.concatenate(parts).reshape(target.shape))
        wide = (
            inputs[0] if target.method is None else run_in_memory(METHODS[target.method].course, target.subject, inputs)
        )
        tensors[target.name] = wide.astype(WRITTEN[target.dtype.name])
    return Output(tensors, {target.name: target for target in plan.targets})


@dataclass(frozen=True)
class Departure:
    """Where mergekit differs: `topic` is its row in docs/merging.md, `right` the tensor from base, a, b and c."""

    topic: str
    right: Callable[..., np.ndarray]


H = (0.5, 0.3, 0.2)
HALF_STEP = 2.0**-8 * 1.001  # of bfloat16, relative; the arithmetic before the rounding is float32


def of_task_vectors(merge, base, *xs):
    return base + merge([x - base for x in xs])


def rows(merge):
    return lambda *tensors: right.by_rows(merge, *tensors)


def columns(merge):
    return lambda *tensors: right.by_columns(merge, *tensors)


def nuslerp(base, a, b, c):
    return right.slerp(0.3, a, b)


def nuslerp_with_base(base, a, b, c):
    return base + right.slerp(0.3, a - base, b - base)


def multislerp(*weights, normalize=True, with_base=False):
    def merge(base, *xs):
        xs = xs[: len(weights)]
        if not with_base:
            return right.multislerp(xs, weights, normalize=normalize)
        return base + right.multislerp([x - base for x in xs], weights, normalize=normalize)

    return merge


def each(topic, merge, *names):
    return {name: Departure(topic, merge) for name in names}


def fusion(other):
    return lambda base, *xs: right.arcee_fusion(base, xs["abc".index(other)])


DEPARTURES = {
    **each("nuslerp by rows and columns", columns(nuslerp), "nuslerp, columns"),
    **each("nuslerp by rows and columns", rows(nuslerp), "nuslerp, rows"),
    **each("nuslerp by rows and columns", columns(nuslerp_with_base), "nuslerp with base, columns"),
    **each("nuslerp by rows and columns", rows(nuslerp_with_base), "nuslerp with base, rows"),
    **each("a task vector of zero", nuslerp_with_base, "nuslerp with base"),
    **each("absolute epsilons", nuslerp_with_base, "llama-f64 nuslerp with base"),
    **each("absolute epsilons", rows(nuslerp_with_base), "llama-f64 nuslerp with base, rows"),
    **each("absolute epsilons", lambda base, a, b, c: right.nearswap(base, a, 1e-8), "llama-f64 nearswap"),
    **each("absolute epsilons", right.model_stock, "llama-f64 model_stock"),
    **each("absolute epsilons", rows(right.model_stock), "llama-f64 model_stock, by rows"),
    **each("absolute epsilons", lambda base, *xs: right.sce(base, xs), "llama-f64 sce, all"),
    **each("absolute epsilons", lambda base, *xs: right.sce(base, xs, 0.5), "llama-f64 sce"),
    **each(
        "multislerp", multislerp(*H), *(f"{family} multislerp" for family in ("llama", "gpt2", "mixtral", "llama-far"))
    ),
    **each("multislerp", multislerp(2, 1, 1), "multislerp, uneven"),
    **each("multislerp", multislerp(2, 1, 1, normalize=False), "multislerp, not normalized"),
    **each("multislerp", multislerp(0.7, 0.3), "multislerp, two"),
    **each("multislerp", multislerp(*H, with_base=True), "multislerp with base, every tensor changed"),
    **each(
        "multislerp", multislerp(*H, with_base=True), "llama-far multislerp with base", "llama-f64 multislerp with base"
    ),
    **each("multislerp", multislerp(1, 1, 1, normalize=False, with_base=True), "multislerp with base, uneven"),
    **each("karcher's last step", lambda base, *xs: right.karcher(xs), "llama-far karcher"),
    **each("sce of one model", lambda base, a, b, c: a, "sce, one model"),
    **each(
        "arcee_fusion", fusion("a"), *(f"{family} arcee_fusion" for family in ("llama", "gpt2", "mixtral", "llama-f64"))
    ),
    **each("arcee_fusion", fusion("c"), "arcee_fusion, half unchanged"),
    **each("bfloat16", lambda base, *xs: right.linear(xs, H), "bfloat16 linear", "float32 to bfloat16"),
    **each("bfloat16", lambda base, *xs: right.task_arithmetic(base, xs, H), "bfloat16 task_arithmetic"),
    **each("bfloat16", lambda base, *xs: right.task_arithmetic(base, xs, H), "bfloat16 task_arithmetic, dtype"),
    **each("bfloat16", lambda base, *xs: right.ram(base, xs, 0.001), "bfloat16 ram"),
    **each("bfloat16", lambda base, *xs: right.ram(base, xs, 0.001, 0.1, 0.2), "bfloat16 ramplus_tl"),
    **each("equal magnitudes", lambda base, *xs: right.ties(base, xs, H, 0.5), "bfloat16 ties"),
    **each("equal magnitudes", lambda base, *xs: right.ties(base, xs, H, 0.5), "bfloat16 ties, float32 in between"),
    **each(
        "equal magnitudes",
        lambda base, *xs: right.breadcrumbs(base, xs, H, 0.6, 0.1),
        "bfloat16 breadcrumbs, float32 in between",
    ),
}
REFUSED = {
    **each("a base that is no input", lambda base, *xs: right.linear(xs, H), "linear, base not among the models"),
    **each("a task vector of zero", multislerp(2, 1, 1, with_base=True), "multislerp with base"),
}
"""What mergekit refuses and netweight does."""

BOTH_REFUSE = {
    "slices, base not among the sources": r"^recipe\.yml, line 4, slices\[0\]\.sources: method task_arithmetic needs "
    r"layers of the base model llama/base too, and the slice does not list it: add it with its layer_range$"
}
CANCELLING = "linear, weights cancel"
FUSED = ("linear", "task_arithmetic", "nearswap", "passthrough", "ram")
"""Methods whose result does not depend on which elements are one tensor: mergekit stacks Mixtral's experts."""

WIDER = {"bfloat16 ramplus_tl": ["bfloat16"]}
"""Element types that a recipe asks for, where mergekit writes float32."""

COMPARED = [name for name, case in CASES.items() if not {"error", "moments"} & case.keys() and name != CANCELLING]


def family_of(name):
    return FAMILIES[CASES[name]["family"]]


def under_mergekit_s_names(name, output):
    """The output's tensors under the names that mergekit has for them, experts stacked where that changes nothing."""
    tensors = {key: w.astype(np.float64) for key, w in output.tensors.items()}
    if CASES[name]["family"] != "mixtral":
        return tensors
    for layer in range(2):
        mixture, block = f"model.layers.{layer}.mlp", f"model.layers.{layer}.block_sparse_moe"
        tensors[f"{mixture}.gate.weight"] = tensors[f"{block}.gate.weight"]
        if name.split()[1] in FUSED:
            w1, w2, w3 = (np.stack([tensors[f"{block}.experts.{e}.w{n}.weight"] for e in range(2)]) for n in (1, 2, 3))
            tensors[f"{mixture}.experts.gate_up_proj"] = np.concatenate([w1, w3], axis=1)
            tensors[f"{mixture}.experts.down_proj"] = w2
    return tensors


def apart(found, expected, base, dtype):
    """The largest difference by what the tensor's scale is: its largest element, of float64 its largest change."""
    scale = np.abs(expected).max()
    if dtype == "F64":
        scale = max(np.abs(expected - base).max(), np.abs(found - base).max())
    return np.abs(found - expected).max() / (scale or 1.0)


def worst(name, tensors, expected):
    """How far `tensors` and `expected` are apart where they have names in common, at most."""
    base = weights_of(f"{CASES[name]['family']}/base")
    both = tensors.keys() & expected.keys()
    assert both
    return max(apart(tensors[key], expected[key], base.get(key), family_of(name).dtype) for key in both)


def right_tensors(name, merge):
    models = [weights_of(f"{CASES[name]['family']}/{model}") for model in MODELS]
    recorded = recorded_outputs().get(NUMBERS[name], {}).keys() & models[0].keys() or models[0].keys()
    return {key: merge(*(model[key].astype(np.float64) for model in models)) for key in recorded}


def test_the_recording_is_of_this_version_and_these_models():
    versions = json.loads((RECORDED / "cases.json").read_text(encoding="utf-8"))["versions"]
    assert versions["mergekit"] == "0.1.5"
    kept = recorded_outputs()[NUMBERS["llama passthrough"]]
    weights = weights_of("llama/a")
    assert kept
    assert all(np.array_equal(w, weights[key]) for key, w in kept.items())
    methods = {parse_recipe(case["recipe"], "recipe.yml").method for case in CASES.values()}
    assert methods == MERGEKIT


@pytest.mark.parametrize("name", COMPARED)
def test_recipes_give_what_mergekit_gives(name, small_models):
    case = CASES[name]
    output = merged(case["recipe"], small_models)
    dtypes = WIDER.get(name, case["dtypes"])
    assert sorted({WORDS[target.dtype.name] for target in output.targets.values()}) == dtypes
    if case["family"] not in ("mixtral", "llama-more"):
        shapes = family_of(name).shapes.keys()
        assert sorted(shapes - output.tensors.keys()) == case["dropped"]
        assert sorted(output.tensors.keys() - shapes) == case["added"]
    tensors = under_mergekit_s_names(name, output)
    theirs = recorded_outputs()[NUMBERS[name]]
    if name not in DEPARTURES:
        assert worst(name, tensors, theirs) <= TOLERANCE
        return
    expected = right_tensors(name, DEPARTURES[name].right)
    if dtypes == ["bfloat16"]:
        scaled = {key: np.abs(tensors[key] - w) / np.maximum(np.abs(w), 1e-30) for key, w in expected.items()}
        assert max(w.max() for w in scaled.values()) <= HALF_STEP
    else:
        assert worst(name, tensors, expected) <= TOLERANCE
    assert worst(name, theirs, expected) > TOLERANCE, "mergekit is right here: the case needs no entry"


@pytest.mark.parametrize("name", REFUSED)
def test_what_mergekit_refuses(name, small_models):
    assert "Error" in CASES[name]["error"]
    tensors = merged(CASES[name]["recipe"], small_models).tensors
    assert worst(name, tensors, right_tensors(name, REFUSED[name].right)) <= TOLERANCE


@pytest.mark.parametrize("name", BOTH_REFUSE)
def test_what_both_refuse(name, small_models):
    assert "Error" in CASES[name]["error"]
    with pytest.raises(OptionError, match=BOTH_REFUSE[name]):
        merged(CASES[name]["recipe"], small_models)


def test_every_refusal_is_explained():
    assert {name for name, case in CASES.items() if "error" in case} == REFUSED.keys() | BOTH_REFUSE.keys()
    assert WIDER.keys() <= DEPARTURES.keys() <= set(COMPARED)
    assert all(CASES[name]["dtypes"] == ["float32"] for name in WIDER)


def test_weights_that_cancel_are_refused_where_mergekit_divides_by_zero(small_models):
    theirs = recorded_outputs()[NUMBERS[CANCELLING]]
    assert not any(np.isfinite(w).any() for w in theirs.values())
    with pytest.raises(OptionError, match=r"expected weights whose sum is not 0, got 1, -1: change them"):
        merged(CASES[CANCELLING]["recipe"], small_models)


def test_tensors_that_no_table_lists_stay(small_models):
    name = "an unknown tensor, linear"
    extra, buffer = "model.layers.0.extra.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert CASES[name]["dropped"] == [extra, buffer]
    tensors = merged(CASES[name]["recipe"], small_models).tensors
    base, *xs = (weights_of(f"llama-more/{model}") for model in MODELS)
    np.testing.assert_allclose(tensors[extra], right.linear([x[extra] for x in xs], H), rtol=1e-5)
    assert np.array_equal(tensors[buffer], base[buffer])


def test_experts_keep_the_names_that_their_checkpoint_has(small_models):
    name = "mixtral ties"
    assert "model.layers.0.mlp.experts.gate_up_proj" in CASES[name]["added"]
    assert merged(CASES[name]["recipe"], small_models).tensors.keys() == FAMILIES["mixtral"].shapes.keys()


# Five standard errors of the difference of two samples: 131,072 elements, a tenth of them for low and high.
SAMPLING = {"zeros": 0.01, "low": 0.03, "high": 0.03, "slope_0": 0.04, "slope_1": 0.09, "square": 0.2}
RANDOM = [name for name, case in CASES.items() if "moments" in case]


def simulated_della(weights_and_densities, *, elect=False, normalize=False, scale=1.0):
    """The moments of DELLA as its paper has it (kept elements divided by their own chance), drawn by numpy."""
    random = np.random.default_rng(0)
    weights = [weights_of(f"random/{model}")[EMBEDDING].astype(np.float64) for model in "ab"]
    total, share = np.zeros_like(weights[0]), np.zeros_like(weights[0])
    drawn = []
    for (weight, density), d in zip(weights_and_densities, weights, strict=False):
        ranks = np.argsort(np.argsort(np.abs(d), axis=1), axis=1) / (d.shape[1] - 1)
        chance = density - 0.15 + 0.3 * ranks
        drawn.append((weight, np.where(random.random(d.shape) < chance, d / chance, 0)))
    sign = np.sign(sum(weight * d for weight, d in drawn))
    for weight, d in drawn:
        counts = (np.sign(d) * sign > 0) if elect else np.ones(d.shape, bool)
        total += np.where(counts, weight * d, 0)
        share += np.where(counts, weight, 0)
    if normalize:
        total /= np.where(share == 0, 1, share)
    return moments(scale * total, weights)


ONE, TWO = [(1.0, 0.3)], [(1.0, 0.3), (0.5, 0.8)]
RESCALED = {
    "random della_linear, 1 model": partial(simulated_della, ONE),
    "random della_linear, 2 models": partial(simulated_della, TWO),
    "random della, 1 model": partial(simulated_della, ONE, elect=True, normalize=True),
    "random della, 2 models": partial(simulated_della, TWO, elect=True, normalize=True),
    "random della, 2 models, normalize false, lambda 0.5": partial(simulated_della, TWO, elect=True, scale=0.5),
}
"""mergekit multiplies all kept elements by one number, so that the sum of magnitudes stays; DELLA divides each by its
own chance.
"""


@pytest.mark.parametrize("name", RANDOM)
def test_random_methods_have_the_moments_that_mergekit_s_have(name, small_models):
    output = merged(CASES[name]["recipe"], small_models)
    found = moments(output.tensors[EMBEDDING], [weights_of(f"random/{model}")[EMBEDDING] for model in "ab"])
    expected = RESCALED[name]() if name in RESCALED else CASES[name]["moments"]
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=SAMPLING[key]), key
    if name in RESCALED:
        assert CASES[name]["moments"]["square"] > found["square"] + 0.1


def test_every_departure_is_in_the_documents():
    text = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")
    section = text.partition("## Differences from mergekit")[2]
    topics = {departure.topic for departure in (*DEPARTURES.values(), *REFUSED.values())}
    assert [topic for topic in topics if f"| {topic} |" not in section] == []
    assert f"{len(CASES)} recipes" in section
