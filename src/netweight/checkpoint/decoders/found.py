"""What a decoder finds among the tensors of a model, and what config says of how they are quantised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from netweight.checkpoint.decoders.quantisation import declared
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.errors import FormatError, printable

__all__ = ["CONV1D", "Found", "conv1d", "do_not_fit", "packing", "several", "shown", "stored_twice", "wrong"]

CONV1D = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})
"""The modules of GPT-2 and its kin whose weights lie [in, out]."""
_CONV1D_MODELS = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})


@dataclass(frozen=True)
class Found:
    """`instead`: decoded weights, each by the name of the stored tensor whose place it takes; `parts`: names of the
    stored tensors that belong to them; `skipped`: what is no weight beside them; `note` says what was found.
    """

    instead: dict[str, Tensor] = field(default_factory=dict)
    parts: frozenset[str] = frozenset()
    skipped: tuple[Skipped, ...] = ()
    note: str = ""


def several(count: int, one: str, more: str) -> str:
    """`1 weight is` or `3 weights are`: the count and the words that agree with it."""
    return f"{count} {one if count == 1 else more}"


def shown(tensor: Tensor | None) -> str:
    """Type and shape of a part, for messages."""
    return f"{tensor.dtype} {list(tensor.shape)}" if tensor is not None else "none"


def wrong(where: str, name: str, what: str) -> FormatError:
    """The error for a tensor of the model `where`, whose parts do not fit each other."""
    return FormatError(f"{where}: tensor {printable(name)!r}: {what}")


def conv1d(name: str, config: Mapping[str, Any] | None) -> bool:
    """Whether the weight `name` is one of a Conv1D, [in, out] in the model (transformers' GPT-2 and its kin), which
    quantisers turn to [out, in].
    """
    module = name.split(".")[-2:-1]
    return (config or {}).get("model_type") in _CONV1D_MODELS and bool(module) and module[0] in CONV1D


def packing(config: Mapping[str, Any] | None) -> str:
    """The format that config says weights are packed in: `gptq`, `gptq_v2`, `awq gemm`, `auto_round:...`; another
    method's name; `gptq` where config says none.
    """
    about = declared(config)
    method = str(about.get("quant_method") or ("gptq" if "bits" in about or not about else "")).lower()
    if method in {"gptq", "gptqmodel"}:
        named = about.get("checkpoint_format") or about.get("format") or "gptq"
        marlin = about.get("is_marlin_format") is True
        return "marlin" if marlin else str(named).lower()
    if method == "awq":
        version = str(about.get("version") or about.get("format") or "gemm").lower()
        return f"awq {'llm-awq' if about.get('backend') == 'llm-awq' else version}"
    if method == "auto-round":
        return str(about.get("packing_format") or "auto").lower()
    if method == "intel/auto-round":  # its first releases, which named a kernel
        kernel = str(about.get("backend")).lower()
        return next((f"auto_round:{kind}" for kind in ("gptq", "awq") if kind in kernel), f"{method} {kernel}")
    return method


def stored_twice(weight: str, tensors: Mapping[str, Tensor], where: str, method: str) -> None:
    """Raises FormatError where there is a tensor of the name `weight` beside its codes."""
    if weight in tensors:
        raise FormatError(f"{where}: tensor {printable(weight)!r}: is stored twice, by {method} too")


def do_not_fit(parts: Sequence[Tensor], expected: str, where: str) -> FormatError:
    """The error where the parts of a layer do not fit."""
    held = ", ".join(f"{printable(part.name)!r} {part.dtype} {list(part.shape)}" for part in parts)
    return FormatError(f"{where}: {held}: do not fit; expected {expected}")
