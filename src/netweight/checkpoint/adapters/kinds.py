"""What a module's weight and bias become with its adapter, by kind.

Formulas are those of the PEFT library (`get_delta_weight`, `merge`), whose names for parts and settings stand here. A
further kind is a function and a row in _KINDS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

from netweight.checkpoint.adapters.adapter import Module
from netweight.checkpoint.adapters.experts import stacked
from netweight.checkpoint.decoders.found import CONV1D, shown
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.adapted import AdaptedTensor, NormalisedTensor, ReplacedRows
from netweight.checkpoint.tensors.computed import TimesTensor
from netweight.checkpoint.tensors.rearranged import Placed, RearrangedTensor, turned
from netweight.checkpoint.tensors.updates import (
    HadamardTensor,
    KroneckerTensor,
    ProductTensor,
    UpdateTensor,
    WholeUpdate,
)
from netweight.dtypes import DTYPES, Kind

__all__ = ["changed", "is_sum", "update_of"]

F32 = DTYPES["F32"]
_LYCORIS_TUCKER = frozenset({"hada_t1", "hada_t2", "lokr_t2", "lora_mid"})


def update_of(module: Module, shape: tuple[int, ...]) -> UpdateTensor:
    """What is added to the weight of `shape`; that of the factors where it is empty. Raises FormatError where the
    module's parts do not fit it or each other, or the kind adds nothing (IA3 multiplies).
    """
    _check(module)
    make = next((make for sign, make in _UPDATES.items() if sign in module.parts), None)
    if make is None:
        raise module.wrong(f"{_listed(module)}: an adapter that does not add to its weight, or is not known")
    return make(module, shape)


def is_sum(module: Module) -> bool:
    """Whether the weight with the adapter is the weight plus an update, which does not depend on it."""
    return any(sign in module.parts for sign in _UPDATES) and _magnitudes(module) is None


def changed(
    module: Module, weight: Tensor, bias: Tensor | None, *, transposed_experts: bool | None = None
) -> dict[str, Tensor]:
    """{"weight": ..., "bias": ...}: what these tensors become; no bias where it stays. `transposed_experts`: of stacks
    of experts, whether each is [in, out], None where shapes must tell.

    Raises FormatError where the module's parts do not fit.
    """
    _check(module)
    for tensor in (weight, *module.parts.values()):
        if tensor.dtype.kind is not Kind.FLOAT or not 8 <= tensor.dtype.bits <= 32:
            raise module.wrong(f"{tensor.dtype} {tensor.name!r}, expected floats of 8 to 32 bits beside an adapter")
    if "trainable_tokens_delta" in module.parts:
        return {"weight": _tokens(module, weight)}
    if "ia3_l" in module.parts:
        return _ia3(module, weight, bias)
    if len(weight.shape) == 3 and "lora_A" in module.parts and len(module.parts["lora_A"].shape) == 2:
        update: UpdateTensor = stacked(module, weight.shape, transposed=transposed_experts)
        return {"weight": AdaptedTensor(weight.name, weight.shape, F32, weight, update)}
    adapted = AdaptedTensor(weight.name, weight.shape, F32, weight, update_of(module, weight.shape))
    made: dict[str, Tensor] = {"weight": adapted}
    if (magnitudes := _magnitudes(module)) is not None:
        made["weight"] = _normalised(module, adapted, magnitudes)
    if (add := module.parts.get("lora_B.bias")) is not None:
        if bias is None or bias.shape != add.shape:
            raise module.wrong(f"has a bias of its own, {shown(add)}, the base {shown(bias)}: they do not fit")
        scale = module.scale(module.parts["lora_A"].shape[0])
        whole = WholeUpdate(bias.name, bias.shape, F32, scale, "LoRA bias", add)
        made["bias"] = AdaptedTensor(bias.name, bias.shape, F32, bias, whole)
    return made


_BESIDE = {
    "lora": ("lora_A", "lora_B", "lora_E", "lora_embedding_", "lora_magnitude_vector", "dora_scale"),
    "vera": ("vera_lambda_",),
    "hada": ("hada_",),
    "lokr": ("lokr_",),
}
"""How the parts of a kind begin, by the first word of the part that tells it."""
_KINDS = {"lora_E": "AdaLoRA", "lora": "LoRA", "vera": "VeRA", "hada": "LoHa", "lokr": "LoKr", "ia3": "IA3"}
"""The kind by that word."""


def _listed(module: Module) -> str:
    return ", ".join(sorted(module.parts))


def _check(module: Module) -> None:
    sign = next((sign for sign in (*_UPDATES, "ia3_l", "trainable_tokens_delta") if sign in module.parts), "")
    known = _BESIDE.get(sign.partition("_")[0], ())
    if others := sorted(name for name in module.parts if name != sign and not name.startswith(known or ("?",))):
        raise module.wrong(f"{others[0]} is not read{f' beside {sign}' if sign else ''}; merge it in PEFT")
    kind = _KINDS.get("lora_E" if "lora_E" in module.parts else sign.partition("_")[0], module.settings.kind)
    if kind != module.settings.kind:
        raise module.wrong(f"has {sign}, of a {kind}, and its settings are those of a {module.settings.kind}")
    if module.settings.dora and sign.startswith("lora") and _magnitudes(module) is None:
        raise module.wrong("use_dora, and lora_magnitude_vector is not there; the file is not complete")
    if tucker := sorted(_LYCORIS_TUCKER & module.parts.keys()):
        raise module.wrong(f"{tucker[0]}: the Tucker form of convolutions is not read; merge it with what trained it")
    for name, tensor in module.parts.items():
        if not tensor.size:
            rank = "rank 0: " if name.startswith("lora") else ""
            raise module.wrong(f"{rank}{name} is {shown(tensor)}, expected elements; the file is not complete")


def _magnitudes(module: Module) -> Tensor | None:
    return module.parts.get("lora_magnitude_vector") or module.parts.get("dora_scale")


def _lies_flat(module: Module) -> bool:
    """Whether its weight is stored [in, out]: transformers' Conv1D. PEFT takes `fan_in_fan_out` for no other layer."""
    return module.settings.fan_in_fan_out and module.name.rpartition(".")[2] in CONV1D


def _lora(module: Module, shape: tuple[int, ...]) -> ProductTensor:
    down, up = module.part("lora_A", "lora_B"), module.part("lora_B", "lora_A")
    rank = down.shape[0]
    if not down.shape or not up.shape or len(up.shape) < 2 or up.size != up.shape[0] * rank:
        raise module.wrong(f"lora_A {shown(down)} and lora_B {shown(up)} do not fit: expected [r, in] and [out, r]")
    scale = module.scale(rank)
    return _product(module, shape, up, down, rank, scale, f"LoRA r{rank}", turn=_lies_flat(module))


def _embedding(module: Module, shape: tuple[int, ...]) -> ProductTensor:
    down = module.part("lora_embedding_A", "lora_embedding_B")  # [r, rows]
    up = module.part("lora_embedding_B", "lora_embedding_A")  # [cols, r]
    rank = down.shape[0]
    scale = module.scale(rank)
    return _product(module, shape, up, down, rank, scale, f"LoRA r{rank}", turn=True)


def _adalora(module: Module, shape: tuple[int, ...]) -> ProductTensor:
    values = module.parts["lora_E"]
    down, up = module.part("lora_A", "lora_E"), module.part("lora_B", "lora_E")
    rank = down.shape[0]
    if values.size != rank:
        raise module.wrong(f"lora_E {shown(values)} and lora_A {shown(down)} do not fit: expected [r, 1] and [r, in]")
    alpha = module.settings.alpha_of(module.name)
    scale = (alpha if alpha is not None and alpha > 0 else rank) / (rank + 1e-5)
    right = TimesTensor(down.name, down.shape, F32, down, values)
    return _product(module, shape, up, right, rank, scale, f"AdaLoRA r{rank}", turn=_lies_flat(module))


def _vera(module: Module, shape: tuple[int, ...]) -> ProductTensor:
    rows_by, ranks_by = module.part("vera_lambda_b", "vera_lambda_d"), module.part("vera_lambda_d", "vera_lambda_b")
    down, up = module.shared.get("vera_A"), module.shared.get("vera_B")
    if down is None or up is None:
        raise module.wrong("VeRA without vera_A and vera_B, which follow from a seed: save it with save_projection")
    rows, rank = rows_by.size, ranks_by.size
    flat = _lies_flat(module)
    cols = prod(shape) // rows if shape else down.shape[1]
    if rows > up.shape[0] or cols > down.shape[1] or rank != down.shape[0]:
        raise module.wrong(f"vera_A {shown(down)} and vera_B {shown(up)} are too small for {rows} x {cols}, r{rank}")
    left = TimesTensor(up.name, (rows, rank), F32, _corner(up, rows, rank), rows_by)
    right = TimesTensor(down.name, (rank, cols), F32, _corner(down, rank, cols), ranks_by)
    return _product(module, shape, left, right, rank, 1.0, f"VeRA r{rank}", turn=flat)


def _corner(tensor: Tensor, rows: int, cols: int) -> Tensor:
    """The first rows and columns of a matrix."""
    piece = Placed(range(rows), range(cols), tensor, 0, tensor.shape[1], 1)
    return RearrangedTensor(tensor.name, (rows, cols), tensor.dtype, cols, (piece,), own=True)


def _product(
    module: Module, shape: tuple[int, ...], up: Tensor, down: Tensor, rank: int, scale: float, label: str, *, turn: bool
) -> ProductTensor:
    """scale * up @ down, or its transpose: `up` [out, r], `down` [r, in]."""
    left, right = (turned(down), turned(up)) if turn else (up, down)
    rows, cols = left.size // rank, right.size // rank
    shape = shape or (rows, cols)
    if rows != shape[0] or rows * cols != prod(shape):
        raise module.wrong(
            f"{label} of {shown(up)} and {shown(down)} is {rows} x {cols}, its weight {list(shape)}: it is an adapter"
            " of another base, or of another module"
        )
    return ProductTensor(module.name, shape, F32, scale, label, left, right, rank)


def _loha(module: Module, shape: tuple[int, ...]) -> HadamardTensor:
    first, second = (
        (module.part(f"hada_w{n}_a", "hada_w1_a"), module.part(f"hada_w{n}_b", "hada_w1_a")) for n in (1, 2)
    )
    rank = first[1].shape[0]
    label = f"LoHa r{rank}"
    if any(a.size != a.shape[0] * rank or b.shape[0] != rank for a, b in (first, second)):
        raise module.wrong("hada_w1_a, hada_w1_b, hada_w2_a and hada_w2_b do not fit: expected [out, r] and [r, in]")
    one, two = (_product(module, shape, a, b, rank, 1.0, label, turn=False) for a, b in (first, second))
    return HadamardTensor(module.name, one.shape, F32, module.scale(rank), label, one, two)


def _lokr(module: Module, shape: tuple[int, ...]) -> KroneckerTensor:
    def factor(name: str) -> tuple[Tensor, int]:
        if name in module.parts:
            return module.parts[name], 0
        left, right = (module.part(f"{name}_{side}", "lokr") for side in "ab")
        rank = right.shape[0]
        return _product(module, (), left, right, rank, 1.0, f"LoKr r{rank}", turn=False), rank

    (first, _), (second, inner) = factor("lokr_w1"), factor("lokr_w2")
    if not shape:
        shape = (first.shape[0] * second.shape[0], first.shape[1] * second.size // second.shape[0])
    rows = first.shape[0] * second.shape[0]
    if len(first.shape) != 2 or rows != shape[0] or first.size * second.size != prod(shape):
        raise module.wrong(f"the Kronecker product of {shown(first)} and {shown(second)} does not fit {list(shape)}")
    rank = module.settings.rank_of(module.name) or inner or 1
    scale = module.scale(rank)
    return KroneckerTensor(module.name, shape, F32, scale, f"LoKr r{rank}", first, second)


def _normalised(module: Module, adapted: AdaptedTensor, magnitudes: Tensor) -> Tensor:
    """DoRA: norms of the rows of a weight as [out, in]; those of an embedding, and of a weight that lies the other way
    round, are of its columns.
    """
    across = _lies_flat(module) or "lora_embedding_A" in module.parts
    expected = adapted.shape[1] if across else adapted.shape[0]
    if magnitudes.size != expected:
        raise module.wrong(f"{shown(magnitudes)} of magnitudes, expected {expected} for {list(adapted.shape)}")
    if not across:
        return NormalisedTensor(adapted.name, adapted.shape, F32, adapted, magnitudes)
    weight, update = adapted.weight, adapted.update
    if not isinstance(update, ProductTensor):
        raise module.wrong("DoRA of this kind is not read; merge it in PEFT")
    upright, left, right = turned(weight), turned(update.right), turned(update.left)
    flat = replace(update, shape=upright.shape, left=left, right=right)
    inner = AdaptedTensor(adapted.name, upright.shape, F32, upright, flat)
    return turned(NormalisedTensor(adapted.name, upright.shape, F32, inner, magnitudes))


def _ia3(module: Module, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    factors = module.parts["ia3_l"]
    flat = _lies_flat(module)
    outputs = factors.shape[0] != 1 or (len(factors.shape) > 1 and factors.shape[1] == 1)
    if len(factors.shape) > 2:
        raise module.wrong("IA3 of convolutions is not read; merge it in PEFT")
    rows_first = outputs != flat
    expected = weight.shape[0] if rows_first else weight.shape[-1]
    if factors.size != expected or len(weight.shape) != 2:
        raise module.wrong(
            f"ia3_l {shown(factors)} does not fit its weight {list(weight.shape)}: expected {expected} factors; it is"
            " an adapter of another base, or of another module"
        )
    step = 0 if rows_first else 1
    made: dict[str, Tensor] = {"weight": TimesTensor(weight.name, weight.shape, F32, weight, factors, step, "IA3")}
    if outputs and bias is not None:
        made["bias"] = TimesTensor(bias.name, bias.shape, F32, bias, factors, 0, "IA3")
    return made


def _tokens(module: Module, weight: Tensor) -> ReplacedRows:
    """Rows of an embedding that were trained alone."""
    values, held = module.parts["trainable_tokens_delta"], module.settings.tokens
    own = [rows for name, rows in held.items() if module.name.endswith(f".{name}") or module.name == name]
    rows = own[0] if own else held.get("")
    if rows is None:
        raise module.wrong("has trained tokens, and nothing says which rows they are (trainable_token_indices)")
    if values.shape != (len(rows), weight.shape[-1]) or len(weight.shape) != 2 or max(rows) >= weight.shape[0]:
        raise module.wrong(f"{shown(values)} of {len(rows)} trained tokens do not fit {list(weight.shape)}")
    order = sorted(range(len(rows)), key=rows.__getitem__)
    cols = weight.shape[1]
    lines = tuple(Placed(range(to, to + 1), range(cols), values, at * cols, cols, 1) for to, at in enumerate(order))
    sorted_rows = RearrangedTensor(values.name, values.shape, values.dtype, cols, lines, own=True)
    return ReplacedRows(weight.name, weight.shape, F32, weight, tuple(sorted(rows)), sorted_rows)


_UPDATES: Mapping[str, Callable[[Module, tuple[int, ...]], UpdateTensor]] = {
    "lora_E": _adalora,
    "lora_A": _lora,
    "lora_B": _lora,
    "lora_embedding_A": _embedding,
    "lora_embedding_B": _embedding,
    "vera_lambda_b": _vera,
    "vera_lambda_d": _vera,
    "hada_w1_a": _loha,
    "lokr_w1": _lokr,
    "lokr_w1_a": _lokr,
}
"""A part that tells the kind -> what makes the update. The first that is there counts."""
