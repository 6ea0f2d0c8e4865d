"""The recipes that record.py gives to mergekit: on which family of small models, and as YAML.

`full`: every tensor of the output is recorded, else those of SAMPLE. `moments`: only moments are, of a random method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Parameters = dict[str, Any]

SAMPLE = (
    "embed_tokens",
    "0.self_attn.q_proj",
    "2.self_attn.q_proj",
    "layers.0.mlp.down_proj",
    "layernorm",
    "model.norm",
)
SAMPLE += ("wte", "h.1.attn.c_attn", "ln_f", "mlp.gate.weight", "layers.0.mlp.experts")
FULL = ("linear", "ties", "slerp", "model_stock", "sce", "arcee_fusion", "breadcrumbs", "task_arithmetic")
HALVES = {"a": {"weight": 0.5}, "b": {"weight": 0.3}, "c": {"weight": 0.2}}


@dataclass(frozen=True)
class Case:
    name: str
    family: str
    recipe: dict[str, Any]
    full: bool = False
    moments: bool = False


def llama(name: str, recipe: dict[str, Any], *, full: bool = False) -> Case:
    return Case(name, "llama", recipe, full)


def models(each: dict[str, Parameters]) -> list[dict[str, Any]]:
    return [{"model": name, "parameters": given} if given else {"model": name} for name, given in each.items()]


def recipe(
    method: str,
    each: dict[str, Parameters],
    parameters: Parameters | None = None,
    *,
    base: str | None = "base",
    dtype: str | None = "float32",
    **more: Any,
) -> dict[str, Any]:
    made: dict[str, Any] = {"merge_method": method}
    if base:
        made["base_model"] = base
    if "slices" not in more:
        made["models"] = models(each)
    made |= more
    if parameters:
        made["parameters"] = parameters
    return made | ({"dtype": dtype} if dtype else {})


def same(**given: Any) -> dict[str, Parameters]:
    """The three fine-tunes with the same parameters."""
    return {model: dict(given) for model in "abc"}


def apart(**given: Any) -> dict[str, Parameters]:
    """The three fine-tunes with the weights of HALVES and the same further parameters."""
    return {model: {**weight, **given} for model, weight in HALVES.items()}


def plain(family: str) -> list[Case]:
    """Each method once, as its documentation shows it; methods without randomness."""
    made = [
        llama("linear", recipe("linear", apart(), base=None)),
        llama("task_arithmetic", recipe("task_arithmetic", apart())),
        llama("ties", recipe("ties", apart(density=0.5), {"normalize": True})),
        llama("breadcrumbs", recipe("breadcrumbs", apart(density=0.7, gamma=0.05))),
        llama("breadcrumbs_ties", recipe("breadcrumbs_ties", apart(density=0.7, gamma=0.05))),
        llama("slerp", recipe("slerp", {"base": {}, "a": {}}, {"t": 0.3})),
        llama("nuslerp", recipe("nuslerp", {"a": {"weight": 0.7}, "b": {"weight": 0.3}}, base=None)),
        llama("multislerp", recipe("multislerp", apart(), base=None)),
        llama("karcher", recipe("karcher", same(), base=None)),
        llama("model_stock", recipe("model_stock", same())),
        llama("sce", recipe("sce", same(), {"select_topk": 0.5})),
        llama("nearswap", recipe("nearswap", {"base": {}, "a": {}}, {"t": 0.001})),
        llama("arcee_fusion", recipe("arcee_fusion", {"base": {}, "a": {}})),
        llama("passthrough", recipe("passthrough", {"a": {}}, base=None)),
    ]
    full = FULL if family == "llama" else FULL[:2]
    return [Case(f"{family} {case.name}", family, case.recipe, full=case.name in full) for case in made]


def linear() -> list[Case]:
    weights = {"a": {"weight": 0.5}, "b": {"weight": 0.8}, "c": {"weight": 0.1}}
    gradient = {"a": {"weight": [0.0, 1.0]}, "b": {"weight": [1.0, 0.2, 0.4]}}
    filters = [{"filter": "self_attn", "value": 0.25}, {"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}]
    starred = [{"filter": "layernorm", "value": 1.0}, {"filter": "*", "value": 0.1}]
    rotated = {"a": {"weight": 0.5}, "b": {"weight": -0.3}, "c": {"weight": 0.2}}
    return [
        llama("linear, not normalized", recipe("linear", weights, {"normalize": False}, base=None)),
        llama("linear, normalized", recipe("linear", weights, {"normalize": True}, base=None)),
        llama("linear, a negative weight", recipe("linear", rotated, base=None)),
        llama("linear, gradients", recipe("linear", gradient, base=None), full=True),
        llama("linear, filters", recipe("linear", {"a": {"weight": filters}, "b": {"weight": 0.5}}, base=None)),
        llama("linear, star", recipe("linear", {"a": {"weight": starred}, "b": {"weight": 1.0}}, base=None)),
        llama("linear, weight of the recipe", recipe("linear", same(), {"weight": 2.0}, base=None)),
        llama("linear, base among the models", recipe("linear", {"base": {"weight": 1.0}, "a": {"weight": 3.0}})),
        llama("linear, base not among the models", recipe("linear", apart())),
        llama(
            "linear, weights cancel",
            recipe("linear", {"a": {"weight": 1.0}, "b": {"weight": -1.0}}, base=None),
        ),
        llama("linear, one model", recipe("linear", {"a": {"weight": 2.0}}, base=None)),
    ]


def task_arithmetic() -> list[Case]:
    name = "task_arithmetic"
    with_base = {"base": {}, **apart()}
    return [
        llama(f"{name}, lambda", recipe(name, apart(), {"lambda": 1.7})),
        llama(f"{name}, normalized", recipe(name, same(weight=0.9), {"normalize": True})),
        llama(f"{name}, one model", recipe(name, {"c": {"weight": -0.4}})),
        llama(f"{name}, base listed", recipe(name, with_base, {"normalize": True})),
        llama(f"{name}, gradient of lambda", recipe(name, apart(), {"lambda": [0.5, 1.5]})),
        llama(f"{name}, weight zero", recipe(name, {"a": {"weight": 0.0}, "b": {"weight": 1.0}})),
    ]


def trimming() -> list[Case]:
    made = []
    for density in (1.0, 0.2):
        made += [
            llama(f"ties, density {density}", recipe("ties", apart(density=density))),
            llama(f"breadcrumbs, density {density}", recipe("breadcrumbs", apart(density=density, gamma=0.01))),
        ]
    signs = {"a": {"weight": 1.0}, "b": {"weight": -0.5}, "c": {"weight": 0.7}}
    signs = {model: {**given, "density": 0.6} for model, given in signs.items()}
    mixed = {"a": {"weight": 1.0, "density": 0.9}, "b": {"weight": 0.5, "density": [0.1, 0.8]}, "c": {"weight": 0.3}}
    crumbs = {"base": {}, **apart(density=0.8)}
    return [
        *made,
        llama("ties, not normalized", recipe("ties", apart(density=0.5), {"normalize": False})),
        llama("ties, lambda", recipe("ties", apart(density=0.5), {"lambda": 0.6})),
        llama("ties, a negative weight", recipe("ties", signs)),
        llama("ties, a negative weight, not normalized", recipe("ties", signs, {"normalize": False})),
        llama("ties, densities apart", recipe("ties", mixed)),
        llama("ties, one model", recipe("ties", {"a": {"weight": 0.8, "density": 0.5}})),
        llama("ties, base listed", recipe("ties", {"base": {}, **apart(density=0.5)})),
        llama("ties, density of the recipe", recipe("ties", apart(), {"density": 0.4})),
        llama("ties, int8_mask", recipe("ties", apart(density=0.5), {"int8_mask": True})),
        llama("ties, rescale", recipe("ties", apart(density=0.5), {"rescale": True})),
        llama("ties, weight zero", recipe("ties", {"a": {"weight": 0.0, "density": 0.5}, "b": {"weight": 1.0}})),
        llama("breadcrumbs, gamma 0", recipe("breadcrumbs", apart(density=0.6, gamma=0.0))),
        llama("breadcrumbs, gamma above 1 - density", recipe("breadcrumbs", apart(density=0.9, gamma=0.3))),
        llama("ties, rescale, densities apart", recipe("ties", mixed, {"rescale": True, "normalize": False})),
        llama("breadcrumbs, rescale", recipe("breadcrumbs", apart(density=0.6, gamma=0.1), {"rescale": True})),
        llama("ties, density 0", recipe("ties", apart(density=0.0))),
        llama("breadcrumbs, defaults", recipe("breadcrumbs", crumbs)),
        llama(
            "breadcrumbs, normalized",
            recipe("breadcrumbs", apart(density=0.6, gamma=0.1), {"normalize": True}),
        ),
        llama(
            "breadcrumbs_ties, not normalized",
            recipe("breadcrumbs_ties", apart(density=0.6, gamma=0.1), {"normalize": False}),
        ),
        llama(
            "breadcrumbs_ties, lambda",
            recipe("breadcrumbs_ties", apart(density=0.5, gamma=0.1), {"lambda": 2.0}),
        ),
        # with density 1 nothing is drawn
        llama("dare_linear, density 1", recipe("dare_linear", apart(density=1.0))),
        llama(
            "dare_linear, density 1, normalized",
            recipe("dare_linear", apart(density=1.0), {"normalize": True}),
        ),
        llama("dare_ties, density 1", recipe("dare_ties", apart(density=1.0))),
        llama("dare_ties, density 1, normalized", recipe("dare_ties", apart(density=1.0), {"normalize": True})),
        llama("della, density 1", recipe("della", apart(density=1.0, epsilon=0.0))),
        llama("della_linear, density 1", recipe("della_linear", apart(density=1.0, epsilon=0.0))),
    ]


def spherical() -> list[Case]:
    two = {"a": {"weight": 0.7}, "b": {"weight": 0.3}}
    flat, rows = {"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    by_part = [{"filter": "self_attn", "value": [0.0, 0.5, 1.0]}, {"filter": "mlp", "value": 0.8}, {"value": 0.5}]
    pair = {"base": {}, "a": {}}
    uneven = {"a": {"weight": 2.0}, "b": {"weight": 1.0}, "c": {"weight": 1.0}}
    return [
        llama("slerp, t 0", recipe("slerp", pair, {"t": 0.0})),
        llama("slerp, t 1", recipe("slerp", pair, {"t": 1.0})),
        llama("slerp, filters", recipe("slerp", pair, {"t": by_part}), full=True),
        llama("slerp, base last", recipe("slerp", {"c": {}, "base": {}}, {"t": 0.4})),
        llama("nuslerp, columns", recipe("nuslerp", two, flat, base=None)),
        llama("nuslerp, rows", recipe("nuslerp", two, rows, base=None)),
        llama("nuslerp with base", recipe("nuslerp", two), full=True),
        llama("nuslerp with base, columns", recipe("nuslerp", two, flat), full=True),
        llama("nuslerp with base, rows", recipe("nuslerp", two, rows)),
        llama("multislerp with base", recipe("multislerp", uneven), full=True),
        llama("multislerp, not normalized", recipe("multislerp", uneven, {"normalize_weights": False}, base=None)),
        llama("multislerp, uneven", recipe("multislerp", uneven, base=None)),
        llama("multislerp, two", recipe("multislerp", two, base=None)),
        llama("karcher, two", recipe("karcher", {"a": {}, "c": {}}, base=None)),
        llama("karcher, one iteration", recipe("karcher", same(), {"max_iter": 1, "tol": 1e-9}, base=None)),
        llama("karcher, many iterations", recipe("karcher", same(), {"max_iter": 100, "tol": 1e-9}, base=None)),
        llama("model_stock, by rows", recipe("model_stock", same(), {"filter_wise": True})),
        llama("model_stock, two", recipe("model_stock", {"a": {}, "b": {}})),
        llama("model_stock, base listed", recipe("model_stock", {"base": {}, **same()})),
    ]


def others() -> list[Case]:
    pair = {"base": {}, "c": {}}
    scales = [{"filter": "down_proj", "value": 0.5}, {"value": 1.0}]
    return [
        llama("sce, all", recipe("sce", same(), {"select_topk": 1.0}), full=True),
        llama("sce, a tenth", recipe("sce", same(), {"select_topk": 0.1})),
        llama("sce, default", recipe("sce", same())),
        llama("sce, one model", recipe("sce", {"a": {}}, {"select_topk": 0.5})),
        llama("sce, two models", recipe("sce", {"a": {}, "b": {}}, {"select_topk": 0.3})),
        llama("nearswap, small t", recipe("nearswap", {"base": {}, "a": {}}, {"t": 0.0001})),
        llama("nearswap, gradient", recipe("nearswap", pair, {"t": [0.0, 0.01]})),
        llama("nearswap, t 0", recipe("nearswap", pair, {"t": 0.0})),
        llama("arcee_fusion, half unchanged", recipe("arcee_fusion", pair), full=True),
        llama("passthrough, scale", recipe("passthrough", {"b": {"scale": scales}}, base=None)),
    ]


def source(model: str, begin: int, end: int, **parameters: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"model": model, "layer_range": [begin, end]}
    return made | ({"parameters": parameters} if parameters else {})


def slices() -> list[Case]:
    stack = [{"sources": [source("a", 0, 2)]}, {"sources": [source("c", 1, 3)]}, {"sources": [source("b", 0, 1)]}]
    blend = [
        {"sources": [source("base", 0, 2), source("a", 0, 2)]},
        {"sources": [source("base", 2, 3), source("a", 2, 3)], "parameters": {"t": 0.9}},
    ]
    weighted = [
        {"sources": [source("a", 0, 3, weight=[0.0, 1.0]), source("b", 0, 3, weight=1.0)]},
        {"sources": [source("b", 2, 3, weight=0.25), source("c", 0, 1, weight=0.75)]},
    ]
    inner = [
        {"sources": [source("base", 0, 2), source("a", 0, 2, weight=0.3)], "parameters": {"weight": 9.0}},
        {"sources": [source("base", 2, 3), source("a", 2, 3)], "parameters": {"weight": 0.6}},
    ]
    crossed = [
        {"sources": [source("a", 0, 1, weight=0.5), source("base", 0, 1)]},
        {"sources": [source("a", 2, 3, weight=0.5), source("base", 2, 3)]},
    ]
    no_base = [{"sources": [source("a", 0, 3, weight=0.3)]}]
    return [
        llama("slices, base not among the sources", recipe("task_arithmetic", {}, slices=no_base)),
        llama("slices, stacked", recipe("passthrough", {}, base=None, slices=stack), full=True),
        llama("slices, slerp", recipe("slerp", {}, {"t": [0.0, 1.0]}, slices=blend), full=True),
        llama("slices, linear", recipe("linear", {}, base=None, slices=weighted), full=True),
        llama("slices, levels", recipe("task_arithmetic", {}, {"weight": 0.1}, slices=inner)),
        llama("slices, layers left out", recipe("task_arithmetic", {}, slices=crossed), full=True),
    ]


def types() -> list[Case]:
    base_first = {"base": {}, "a": {}}
    bf16 = "llama-bf16"
    more = "llama-more"
    out = {"out_dtype": "bfloat16"}
    return [
        Case("bfloat16 linear", bf16, recipe("linear", apart(), base=None, dtype=None)),
        Case("bfloat16 task_arithmetic", bf16, recipe("task_arithmetic", apart(), dtype=None)),
        Case("bfloat16 task_arithmetic, dtype", bf16, recipe("task_arithmetic", apart(), dtype="bfloat16")),
        Case("bfloat16 task_arithmetic, float32 in between", bf16, recipe("task_arithmetic", apart(), **out)),
        Case("bfloat16 ties", bf16, recipe("ties", apart(density=0.5), dtype="bfloat16")),
        Case("bfloat16 ties, float32 in between", bf16, recipe("ties", apart(density=0.5), **out)),
        Case(
            "bfloat16 breadcrumbs, float32 in between",
            bf16,
            recipe("breadcrumbs", apart(density=0.6, gamma=0.1), **out),
        ),
        Case("bfloat16 slerp", bf16, recipe("slerp", base_first, {"t": 0.3}, dtype="bfloat16")),
        Case("bfloat16 to float16", bf16, recipe("linear", apart(), base=None, dtype="float16")),
        llama("float32 to bfloat16", recipe("linear", apart(), base=None, dtype="bfloat16")),
        llama("float32 without dtype", recipe("linear", apart(), base=None, dtype=None)),
        Case("an unknown tensor, linear", more, recipe("linear", apart(), base=None), full=True),
        Case("multislerp with base, every tensor changed", more, recipe("multislerp", apart())),
        Case(
            "multislerp with base, uneven", more, recipe("multislerp", same(weight=1.0), {"normalize_weights": False})
        ),
        Case("an unknown tensor, passthrough", more, recipe("passthrough", {"a": {}}, base=None), full=True),
    ]


def small_changes() -> list[Case]:
    """Task vectors of 1e-8 in float64: absolute epsilons show."""
    family = "llama-f64"
    two = {"a": {"weight": 0.7}, "b": {"weight": 0.3}}
    rows = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
    by_rows = {"filter_wise": True}
    tiny = {
        "nuslerp with base": recipe("nuslerp", two),
        "nuslerp with base, rows": recipe("nuslerp", two, rows),
        "multislerp with base": recipe("multislerp", apart()),
        "model_stock, by rows": recipe("model_stock", same(), by_rows),
        "sce, all": recipe("sce", same()),
        "nearswap": recipe("nearswap", {"base": {}, "a": {}}, {"t": 1e-8}),
        "della_linear, density 1": recipe("della_linear", apart(density=1.0, epsilon=0.0)),
        "dare_ties, density 1": recipe("dare_ties", apart(density=1.0)),
    }
    left_out = ("passthrough", "linear", "nearswap")
    whole = {case.name: case.recipe for case in plain(family) if case.recipe["merge_method"] not in left_out}
    cases = {f"{family} {name}": made for name, made in tiny.items()} | whole
    return [Case(name, family, {**made, "dtype": "float64"}) for name, made in cases.items()]


def large_changes() -> list[Case]:
    """float64 and models far apart: whatever method is right is right to many digits here."""
    family = "llama-far"
    more = [
        Case(f"{family} sce, all", family, recipe("sce", same())),
        Case(f"{family} slerp, t 0.9", family, recipe("slerp", {"base": {}, "c": {}}, {"t": 0.9})),
        Case(f"{family} model_stock, by rows", family, recipe("model_stock", same(), {"filter_wise": True})),
        Case(f"{family} nuslerp with base", family, recipe("nuslerp", {"a": {"weight": 0.7}, "b": {"weight": 0.3}})),
        Case(f"{family} multislerp with base", family, recipe("multislerp", apart())),
    ]
    return [Case(case.name, family, {**case.recipe, "dtype": "float64"}) for case in [*plain(family), *more]]


def random_methods() -> list[Case]:
    family = "random"
    one = {"a": {"weight": 1.0, "density": 0.3}}
    two = {"a": {"weight": 1.0, "density": 0.3}, "b": {"weight": 0.5, "density": 0.8}}
    della = {model: {**given, "epsilon": 0.15} for model, given in two.items()}
    made = [
        ("dare_linear", one, {}),
        ("dare_linear", one, {"rescale": False}),
        ("dare_linear", two, {}),
        ("dare_linear", two, {"normalize": True}),
        ("dare_ties", one, {}),
        ("dare_ties", one, {"rescale": False}),
        ("dare_ties", two, {}),
        ("dare_ties", two, {"normalize": True}),
        ("della_linear", {"a": della["a"]}, {}),
        ("della_linear", {"a": della["a"]}, {"rescale": False}),
        ("della_linear", della, {}),
        ("della", {"a": della["a"]}, {}),
        ("della", della, {}),
        ("della", della, {"normalize": False, "lambda": 0.5}),
    ]
    named = []
    for method, each, parameters in made:
        said = ", ".join(f"{key} {value}".lower() for key, value in parameters.items())
        name = f"random {method}, {len(each)} model{'s' * (len(each) > 1)}{', ' * bool(said)}{said}"
        named.append(Case(name, family, recipe(method, each, parameters), moments=True))
    return named


def agents() -> list[Case]:
    """ram and ramplus_tl."""
    some, strong, two = {"epsilon": 0.001}, {"epsilon": 0.001, "r": 0.5, "alpha": 1.5}, {"a": {}, "b": {}}
    made = []
    for name in ("ram", "ramplus_tl"):
        bf16, wide = "llama-bf16", recipe(name, same(), dtype="float64")
        tiny, large = ({**wide, "parameters": {**strong, "epsilon": epsilon}} for epsilon in (1e-8, 0.01))
        made += [Case(f"{family} {name}", family, recipe(name, same())) for family in ("llama", "gpt2", "mixtral")]
        made += [
            Case(f"llama-f64 {name}", "llama-f64", wide),
            Case(f"llama-f64 {name}, epsilon 1e-8", "llama-f64", tiny),
            Case(f"llama-far {name}, epsilon 0.01", "llama-far", large),
            llama(f"{name}, epsilon 0.001", recipe(name, same(), some), full=True),
            llama(f"{name}, two models", recipe(name, two, some)),
            llama(f"{name}, one model", recipe(name, {"a": {}}, some)),
            llama(f"{name}, base listed, weights", recipe(name, {"base": {}, **apart()}, some)),
            llama(f"{name}, gradient of epsilon", recipe(name, same(), {"epsilon": [0.0, 0.004]})),
            Case(f"bfloat16 {name}", bf16, recipe(name, same(), some, dtype="bfloat16")),
            Case(f"bfloat16 {name}, float32 in between", bf16, recipe(name, same(), some, out_dtype="bfloat16")),
        ]
    more = (strong, {**strong, "r": -0.7, "alpha": 9.0}, {**strong, "alpha": 0.0})
    return made + [llama(f"ramplus_tl, r {m['r']}, alpha {m['alpha']}", recipe("ramplus_tl", same(), m)) for m in more]


CASES = [
    *plain("llama"),
    *linear(),
    *task_arithmetic(),
    *trimming(),
    *spherical(),
    *others(),
    *slices(),
    *types(),
    *plain("gpt2"),
    *plain("mixtral"),
    *small_changes(),
    *large_changes(),
    *random_methods(),
    *agents(),
]
