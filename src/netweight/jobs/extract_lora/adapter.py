"""From what was found of every tensor to the adapter: modules with factors, modules kept whole, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Tensor, read_elements
from netweight.errors import InputError, printable
from netweight.output.peft_folder import LoraModule, StreamedTensor
from netweight.output.safetensors_file import TensorEntry

if TYPE_CHECKING:
    from netweight.jobs.extract_lora.parts import PartFolder
    from netweight.jobs.extract_lora.plan import Prepared
    from netweight.jobs.extract_lora.targets import Target
    from netweight.passes.task_vectors import Factored

__all__ = ["Adapter", "assemble", "check_changed", "shares_adapter"]

_PIECE = 1 << 20  # elements that are copied at a time


@dataclass
class Adapter:
    """What the adapter holds: `modules` with factors, tensors `saved` of whole modules, `biases` {module: tensor};
    `rows` {parameter: what the record says of it}.
    """

    modules: list[LoraModule] = field(default_factory=list)
    saved: dict[str, StreamedTensor] = field(default_factory=dict)
    biases: dict[str, StreamedTensor] = field(default_factory=dict)
    whole: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    tied: bool = False
    rank: int | None = None


def assemble(prepared: Prepared, found: Mapping[str, Factored], parts: PartFolder) -> Adapter:
    """The adapter of all that changed. Raises InputError where nothing did, or nothing that factors can hold."""
    adapter = Adapter()
    fused = {t.experts for t in prepared.targets.targets if t.experts and found[t.name].squares}
    if fused:  # PEFT fuses experts into one parameter where transformers does, which takes one rank for all of them
        adapter.rank = max(found[t.name].rank for t in prepared.targets.targets if t.experts)
    for number, target in enumerate(prepared.targets.targets):
        result = None if target.resized else found[target.name]
        if result is not None and not result.squares:
            if target.experts in fused:
                adapter.modules.append(_expert(target, number, 0, adapter.rank or 0, prepared, parts))
            continue
        row = _row(target, result)
        adapter.rows[target.name] = row
        if target.layer is not None:
            assert result is not None  # noqa: S101 - only resized ones have none
            module = (
                _expert(target, number, result.rank, adapter.rank or 0, prepared, parts)
                if target.experts
                else _module(target, number, result.rank, prepared, parts)
            )
            adapter.modules.append(module)
            row["bytes"] = module.a.entry.nbytes + module.b.entry.nbytes
            if target.name == prepared.targets.tied:
                adapter.tied = True
                if not shares_adapter(target) and prepared.targets.head:
                    linear = replace(target, layer="linear", module=prepared.targets.head)
                    adapter.modules.append(_module(linear, number, result.rank, prepared, parts))
                    row["bytes"] *= 2
        elif target.bias:
            adapter.biases[target.module] = _copied(target.model)
            row["bytes"] = target.model.nbytes
        elif target.whole:
            if target.module not in adapter.whole:
                adapter.whole.append(target.module)
                adapter.saved |= {n: _copied(t) for n, t in prepared.targets.members[target.module].items()}
                if target.name == prepared.targets.tied and prepared.targets.head:
                    adapter.whole.append(prepared.targets.head)
                    adapter.saved[f"{prepared.targets.head}.weight"] = _copied(target.model)
            row["bytes"] = target.model.nbytes
    check_changed(prepared, list(adapter.rows), len(adapter.modules))
    return adapter


def shares_adapter(target: Target) -> bool:
    """Whether PEFT itself gives the factors of this tied embedding to the head as well, which it does by its name."""
    return target.module.rpartition(".")[2] == "embed_tokens"


def check_changed(prepared: Prepared, changed: Sequence[str], matrices: int) -> None:
    """Raises InputError where no tensor is among the `changed` ones, or none with factors (`matrices` of them)."""
    if matrices:
        return
    who = f"{printable(prepared.model.ref)} and the base {printable(prepared.base.ref)}"
    count = len(prepared.targets.targets)
    if not changed:
        raise InputError(
            f"{who}: all {count} tensors that were compared are equal: there is nothing that an adapter could hold"
        )
    raise InputError(
        f"{who}: no matrix changed, only {len(changed)} other tensors, such as {printable(changed[0])}: PEFT loads no"
        " LoRA without factors; merge the models instead"
    )


def _row(target: Target, result: Factored | None) -> dict[str, Any]:
    kept = "factors" if target.layer else "bias" if target.bias else "module" if target.whole else "left out"
    factors = result is not None and target.layer is not None
    reason = target.reason
    if target.resized:
        reason = f"shape {list(target.model.shape)} in the fine-tune: the base must be resized to it first"
    left: float | None = None
    if result is not None:
        left = result.left if factors else result.squares if kept == "left out" else 0.0
    return {
        "kept": kept,
        "module": target.module,
        "layer": target.layer,
        "shape": list(target.base.shape),
        "rank": result.rank if result is not None and factors else None,
        "squares": None if result is None else result.squares,
        "left": left,
        "unrounded_left": result.unrounded if result is not None and factors else None,
        "singular_values": list(result.values) if result is not None else [],
        "method": result.method if result is not None and factors else "",
        "readings": result.readings if result is not None else 0,
        "digest": result.digest if result is not None else "",
        "bytes": 0,
        "reason": reason,
    }


def _module(target: Target, number: int, rank: int, prepared: Prepared, parts: PartFolder) -> LoraModule:
    """The factors as PEFT has them: those of a weight stored [in, out], and of an embedding, are turned."""
    rows, cols = target.base.shape
    turned = target.layer != "linear"
    dtype = prepared.plan.dtype
    left = parts.left(number, rows, rank, dtype, turned=turned)
    right = parts.right(number, rank, cols, dtype, turned=turned)
    a, b = (left, right) if turned else (right, left)
    return LoraModule(target.module, a, b, rank, target.layer == "embedding")


def _expert(target: Target, number: int, rank: int, wide: int, prepared: Prepared, parts: PartFolder) -> LoraModule:
    """The factors of an expert, or of a router, with zeros up to the rank of all of them."""
    rows, cols = target.base.shape
    left, right = parts.padded(number, (rows, cols), rank, wide, prepared.plan.dtype)
    return LoraModule(target.module, right, left, wide)


def _copied(tensor: Tensor) -> StreamedTensor:
    return StreamedTensor(TensorEntry(tensor.dtype, tensor.shape), lambda: _pieces(tensor))


def _pieces(tensor: Tensor) -> Iterator[memoryview]:
    room = memoryview(bytearray(tensor.dtype.nbytes(min(_PIECE, tensor.size))))
    for start in range(0, tensor.size, _PIECE):
        piece = room[: tensor.dtype.nbytes(min(_PIECE, tensor.size - start))]
        read_elements(tensor, start, piece, resumable=True)
        yield piece
