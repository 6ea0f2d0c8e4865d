"""The matrices of a tensor: most have one, a stack of experts one each, a fused projection also those it is made of.

How each family lays its fused projections out, from its modelling code in the transformers library: one after another
("rows"), head by head (q, k and v of a head together), or in groups (the queries of a group, its key, its value).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from netweight.checkpoint.matrix import Part, whole
from netweight.params.architecture import config_numbers
from netweight.params.families import MODEL_TYPES, family
from netweight.params.role import Parameter, classify

__all__ = ["Layout", "NamedPart", "Piece", "canonical_parts", "layout_of", "pieces"]


@dataclass(frozen=True)
class Piece:
    """One matrix of a tensor and its role (of params.role.ROLES). `fused`: it repeats what another piece holds."""

    part: Part
    role: str
    fused: bool = False


@dataclass(frozen=True)
class Layout:
    """What a checkpoint's fused tensors are cut by. `conv1d`: 2-D weights of GPT-2 are stored [in, out].

    `grouped`: a Falcon of the new architecture; `single`: one key and value head for all queries. `hidden`: the model's
    width, by which a stack of experts tells how it is turned.
    """

    family: str
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    conv1d: bool = False
    grouped: bool = False
    single: bool = False
    hidden: int | None = None


@dataclass(frozen=True)
class NamedPart:
    """A matrix inside a tensor, under the canonical name of a tensor that holds nothing else."""

    name: str
    part: Part


_CONSECUTIVE = frozenset(
    {"phi", "phi3", "phimoe", "gpt2", "baichuan", "qwen", "mpt", "dbrx", "chatglm", "olmo", "molmo", "vit", "clip"}
)
_BY_HEAD = frozenset({"gpt-neox", "bloom"})
_BY_GROUP = frozenset({"internlm2", "megatron"})
_GATE_FIRST = frozenset({
    "phi3", "glm4", "granite", "granite-moe", "mixtral", "olmoe", "phimoe", "jamba", "qwen2-moe", "qwen3-moe",
    "qwen3-next", "qwen3.5-moe", "deepseek-v2", "deepseek-v3", "deepseek_v32", "afmoe", "cohere2_moe", "dots1",
    "ernie4_5_moe", "exaone_moe", "flex_olmo", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "hunyuan_v1_moe",
    "lfm2_moe", "longcat_flash", "minimax", "minimax_m2", "qwen3_omni_moe", "solar_open",
})  # fmt: skip
"""Families whose fused gate_up holds all gate rows, then all up rows."""
_STORED_IN_OUT = frozenset({"gpt-oss", "llama4"})
"""Families whose fused experts are stored [experts, in, out], unless shapes say otherwise."""
_CONV1D = frozenset({"c_attn", "c_proj", "c_fc"})


def layout_of(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None) -> Layout:
    """How the tensors of a checkpoint are laid out: by its family and config, and for GPT-2 by the shapes."""
    kind = family(shapes, _of_text(config))
    numbers = config_numbers(config)
    heads = numbers.get("heads")
    size = numbers.get("head_size")
    hidden = numbers.get("hidden_size")
    if size is None and heads and hidden and hidden % heads == 0:
        size = hidden // heads
    levels = [c for c in (config, (config or {}).get("text_config")) if isinstance(c, Mapping)]
    conv1d = kind == "gpt2" and any(
        len(shape) == 2 and shape[1] == 3 * shape[0]
        for name, shape in shapes.items()
        if name.endswith("attn.c_attn.weight")
    )
    queried = [level["multi_query"] for level in levels if isinstance(level.get("multi_query"), bool)]
    single = queried[0] if queried else kind in {"falcon", "gpt-bigcode"}  # their default
    grouped = any(level.get("new_decoder_architecture") is True for level in levels)
    return Layout(
        kind,
        heads,
        1 if single and not grouped and kind in {"falcon", "gpt-bigcode"} else numbers.get("kv_heads", heads),
        size,
        conv1d,
        grouped=grouped,
        single=single,
        hidden=hidden,
    )


def _of_text(config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The config of the language model in a model of several, where only that one's type is known."""
    text = (config or {}).get("text_config")
    own, inner = (
        str((level or {}).get("model_type")).lower() for level in (config, text if isinstance(text, Mapping) else None)
    )
    return text if inner in MODEL_TYPES and own not in MODEL_TYPES else config


def pieces(parameter: Parameter, shape: tuple[int, ...], layout: Layout) -> tuple[Piece, ...]:
    """The matrices of one tensor: itself (or each of its experts), then the parts that config tells apart."""
    if parameter.kind == "weight" and parameter.role == "moe_expert" and parameter.expert is None and len(shape) == 3:
        return _experts(parameter, shape, layout)
    if len(shape) != 2 or parameter.kind != "weight":
        return (Piece(whole(shape), parameter.role),)
    itself = _matrix(parameter, shape, layout)
    matrices = [Piece(itself, parameter.role)]
    outputs = itself.stored_shape[int(itself.transposed)]
    for label, runs in _split(parameter, outputs, layout):
        matrices.append(Piece(_cut(itself, label, runs), label, fused=True))
    return tuple(matrices)


def _matrix(parameter: Parameter, shape: tuple[int, ...], layout: Layout) -> Part:
    """A weight as a matrix [out, in]."""
    itself = whole(shape)
    conv1d = layout.conv1d and parameter.name.split(".")[-2:-1] and parameter.name.split(".")[-2] in _CONV1D
    return replace(itself, transposed=True) if conv1d else itself


def _experts(parameter: Parameter, shape: tuple[int, ...], layout: Layout) -> tuple[Piece, ...]:
    experts, rows, cols = shape
    matrices = []
    transposed = _stored_in_out(parameter.slot, rows, cols, layout)
    halves = _halves(cols if transposed else rows, layout) if parameter.slot == "gate_up" else []
    for e in range(experts):
        one = Part(str(e), e * rows * cols, rows, cols, (range(rows),), (range(cols),), transposed)
        matrices.append(Piece(one, "moe_expert"))
        for role, runs in halves:
            matrices.append(Piece(_cut(one, f"{e}.{role}", runs), "moe_expert", fused=True))
    return tuple(matrices)


def _stored_in_out(slot: str, rows: int, cols: int, layout: Layout) -> bool:
    """Whether a stack of experts holds [in, out] matrices: by the model's width, or by the family where both sides of
    the matrix have that width, or none.
    """
    turned, straight = (cols, rows) if slot == "down_proj" else (rows, cols)  # the side that is the model's width
    if (turned == layout.hidden) != (straight == layout.hidden):
        return turned == layout.hidden
    return layout.family in _STORED_IN_OUT


def _halves(outputs: int, layout: Layout) -> list[tuple[str, tuple[range, ...]]]:
    """(role, the output rows) of gate and up in an expert that holds both; none where it is not known for certain."""
    half = outputs // 2
    if outputs % 2:
        return []
    if layout.family == "gpt-oss":  # gate and up take turns
        return [("gate_proj", (range(0, outputs, 2),)), ("up_proj", (range(1, outputs, 2),))]
    if layout.family in _GATE_FIRST or layout.family == "llama4":
        return [("gate_proj", (range(half),)), ("up_proj", (range(half, outputs),))]
    return []


def canonical_parts(name: str, shape: tuple[int, ...], layout: Layout) -> tuple[NamedPart, ...]:
    """The matrices that a tensor with the canonical `name` holds, under the names of their own that other layouts give
    them: experts of a stack, q, k and v, gate and up, of weights and of biases. Empty where it holds one, or where what
    it holds is not known for certain.
    """
    parameter = classify(name, shape)
    if parameter.kind not in {"weight", "bias"} or not shape or not all(shape):
        return ()
    words = name.split(".")
    leaf = "bias" if parameter.kind == "bias" else "weight"
    if words[-1] == leaf and len(words) > 1:
        words.pop()
    words[-1] = words[-1].removesuffix("_bias")
    head, last = ".".join(words[:-1]), words[-1]
    if parameter.expert is None and head.endswith(".experts") and len(shape) == (2 if leaf == "bias" else 3):
        return _named_experts(head, last, leaf, parameter, shape, layout)
    if parameter.expert is not None and parameter.slot == "gate_up" and len(shape) == (1 if leaf == "bias" else 2):
        itself = whole(shape)
        outputs = shape[0]
        halves = _halves(outputs, layout)
    elif len(shape) == 2 and leaf == "weight":
        itself = _matrix(parameter, shape, layout)
        halves = _split(parameter, itself.stored_shape[int(itself.transposed)], layout)
    elif len(shape) == 1 and leaf == "bias":
        itself = whole(shape)
        halves = _split(replace(parameter, role=parameter.slot), shape[0], layout)
    else:
        return ()
    return tuple(NamedPart(f"{head}.{role}.{leaf}", _cut_side(itself, leaf, runs)) for role, runs in halves)


def _named_experts(
    head: str, last: str, leaf: str, parameter: Parameter, shape: tuple[int, ...], layout: Layout
) -> tuple[NamedPart, ...]:
    if leaf == "bias":
        experts, outputs = shape
        rows, cols, transposed = 1, outputs, False
    else:
        experts, rows, cols = shape
        if rows == cols and layout.family not in _GATE_FIRST | _STORED_IN_OUT:
            return ()  # either way round
        transposed = _stored_in_out(parameter.slot, rows, cols, layout)
        outputs = cols if transposed else rows
    halves = _halves(outputs, layout) if parameter.slot == "gate_up" else []
    named = []
    for e in range(experts):
        one = Part("", e * rows * cols, rows, cols, (range(rows),), (range(cols),), transposed)
        for role, runs in halves or [(last, (range(outputs),))]:
            named.append(NamedPart(f"{head}.{e}.{role}.{leaf}", _cut_side(one, leaf, runs)))
    return tuple(named)


def _cut_side(part: Part, leaf: str, outputs: tuple[range, ...]) -> Part:
    """Some outputs of a matrix, or of a bias, which is one row."""
    return replace(part, col_runs=outputs) if leaf == "bias" else _cut(part, "", outputs)


def _split(parameter: Parameter, outputs: int, layout: Layout) -> list[tuple[str, tuple[range, ...]]]:
    """(role, the output rows) of each projection in a fused one; none where it is not known for certain."""
    if parameter.slot == "gate_up" and parameter.role == "gate_up" and outputs % 2 == 0:
        half = outputs // 2
        first, second = range(half), range(half, outputs)
        if layout.family in _GATE_FIRST:
            return [("gate_proj", (first,)), ("up_proj", (second,))]
        if layout.family in {"olmo", "molmo"}:  # the second half is the gate
            return [("up_proj", (first,)), ("gate_proj", (second,))]
        return []
    if parameter.slot != "qkv" or parameter.role != "qkv":
        return []
    heads, kv, size = layout.heads, layout.kv_heads, layout.head_size
    if parameter.stack in {"vision", "audio"} or not heads or not kv or not size:
        # another tower's heads are its own: equal thirds are all that a name tells
        thirds = layout.family in {"gpt2", "baichuan", "qwen", "vit", "clip"} and outputs % 3 == 0
        return _consecutive(outputs // 3, outputs // 3) if thirds else []
    if outputs != (heads + 2 * kv) * size or heads % kv:
        return []
    if layout.family in _CONSECUTIVE:
        return _consecutive(heads * size, kv * size)
    varied = layout.family in {"falcon", "gpt-bigcode"} and not layout.grouped
    if varied and layout.single:
        return _consecutive(heads * size, kv * size)
    if layout.family in _BY_HEAD or varied:
        return _grouped(heads, heads, size)
    if layout.family in _BY_GROUP or layout.family == "falcon":
        return _grouped(heads, kv, size)
    return []


def _consecutive(q: int, kv: int) -> list[tuple[str, tuple[range, ...]]]:
    ends = accumulate((q, kv, kv), initial=0)
    return [(role, (range(a, b),)) for role, (a, b) in zip(("q_proj", "k_proj", "v_proj"), pairwise(ends), strict=True)]


def _grouped(heads: int, groups: int, size: int) -> list[tuple[str, tuple[range, ...]]]:
    """Rows [groups, queries of a group + key + value, size of a head]."""
    queries = heads // groups
    step = (queries + 2) * size
    bounds = {"q_proj": (0, queries * size), "k_proj": (queries * size, (queries + 1) * size)}
    bounds["v_proj"] = ((queries + 1) * size, step)
    return [(role, tuple(range(g * step + a, g * step + b) for g in range(groups))) for role, (a, b) in bounds.items()]


def _cut(part: Part, label: str, outputs: tuple[range, ...]) -> Part:
    """Some output rows of `part`, which are stored columns where it is a transpose."""
    if part.transposed:
        return replace(part, label=label, col_runs=outputs)
    return replace(part, label=label, row_runs=outputs)
