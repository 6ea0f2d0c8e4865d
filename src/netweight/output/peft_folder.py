"""An adapter folder as PEFT reads it: adapter_config.json, and the names and shapes in adapter_model.safetensors.

PEFT computes W + (alpha / r) B A with A [r, in] and B [out, r], which `peft.PeftModel.from_pretrained(base, folder)`
looks for under `base_model.model.MODULE.lora_A.weight` and `.lora_B.weight`. Of an embedding [num, dim] it is
W + (alpha / r) (B A)^T with A [r, num] and B [dim, r], under `lora_embedding_A` and `lora_embedding_B`. Modules that
are kept whole ("modules to save") have their tensors under `base_model.model.MODULE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from netweight.errors import printable
from netweight.output.safetensors_file import TensorEntry, entry_of, little_endian, write_safetensors_blocks
from netweight.output.table import write_json

if TYPE_CHECKING:
    from netweight.output.safetensors_file import Array, Block

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "LoraModule",
    "StreamedTensor",
    "adapter_config",
    "adapter_tensors",
    "taken_with",
    "write_adapter",
]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_PREFIX = "base_model.model."
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class StreamedTensor:
    """A tensor to be written: its type and shape, and its little-endian bytes in C order, cut anywhere."""

    entry: TensorEntry
    blocks: Callable[[], Iterable[Block]]

    @classmethod
    def of(cls, array: Array) -> Self:
        """An array that is held in memory; raises ValueError for an element type that safetensors lacks."""
        held = little_endian(array)
        return cls(entry_of("an array", array), lambda: (held,))


@dataclass(frozen=True)
class LoraModule:
    """One module's adapter: `name` as the base calls the module ("model.layers.0.self_attn.q_proj"), `a` [r, in] and
    `b` [out, r] (of an `embedding` [r, num] and [dim, r]), and `alpha`: the product is multiplied by alpha / r.
    """

    name: str
    a: StreamedTensor
    b: StreamedTensor
    alpha: float
    embedding: bool = False

    @property
    def rank(self) -> int:
        """r; raises ValueError where the factors do not fit each other."""
        a, b = self.a.entry.shape, self.b.entry.shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
            raise ValueError(f"{printable(self.name)}: factors {list(a)} and {list(b)}: expected [r, in] and [out, r]")
        return a[0]


def taken_with(name: str, modules: Iterable[str]) -> list[str]:
    """The other ones of `modules` that PEFT keeps whole where it is told to keep `name`: their names end alike."""
    return [other for other in modules if other != name and other.endswith(name)]


def adapter_config(
    modules: Sequence[LoraModule],
    *,
    base: str,
    revision: str | None = None,
    saved: Collection[str] = (),
    fan_in_fan_out: bool = False,
    tied: bool = False,
    biased: bool = False,
    rank: int | None = None,
    others: Iterable[str] = (),
) -> dict[str, Any]:
    """What adapter_config.json holds, for PEFT's LoraConfig.

    `base` is where PEFT finds the base model, and `revision` its commit on a hub; `saved`: modules that are kept whole;
    `fan_in_fan_out`: weights are stored [in, out], as GPT-2's; `tied`: the adapter of the embedding is the head's too;
    `biased`: biases stand in the place of the base's; `rank`: the r that stands for all, where it is not the largest;
    `others`: names of the base's modules, by which a target's name is known not to be the ending of another's.

    Raises ValueError where there is no module at all, or one twice.
    """
    names = [module.name for module in modules]
    if len({*names, *saved}) < len(names) + len(saved) or not (names or saved):
        raise ValueError(
            f"{len(names)} modules with factors and {len(saved)} whole ones: expected one or more, each once"
        )
    ranks = {module.name: module.rank for module in modules}
    rank = max(ranks.values(), default=1) if rank is None else rank
    alphas = {module.name: module.alpha for module in modules}
    alpha = next((alphas[name] for name in names if ranks[name] == rank), 1)
    uniform = {*ranks.values()} <= {rank} and {*alphas.values()} <= {alpha}
    # PEFT takes the first pattern that fits the end of a name: whole names, the longest first, fit their own module.
    longest_first = sorted(names, key=lambda name: -len(name))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _whole(alpha),
        "rank_pattern": {} if uniform else {_pattern(name): ranks[name] for name in longest_first},
        "alpha_pattern": {} if uniform else {_pattern(name): _whole(alphas[name]) for name in longest_first},
        "target_modules": _targets(names, others),
        "modules_to_save": sorted(saved) or None,
        "fan_in_fan_out": fan_in_fan_out,
        "bias": "all" if biased else "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        **({"ensure_weight_tying": True} if tied else {}),
    }


def adapter_tensors(
    modules: Sequence[LoraModule],
    saved: Mapping[str, StreamedTensor] | None = None,
    biases: Mapping[str, StreamedTensor] | None = None,
) -> dict[str, StreamedTensor]:
    """{name in adapter_model.safetensors: tensor}; `saved`: tensors of modules that are kept whole, under the base's
    names; `biases` {module: bias} that stand in the place of the base's. Raises ValueError where factors do not fit
    each other.
    """
    tensors: dict[str, StreamedTensor] = {}
    for module in modules:
        _ = module.rank
        where = f"{_PREFIX}{module.name}."
        a, b = ("lora_embedding_A", "lora_embedding_B") if module.embedding else ("lora_A.weight", "lora_B.weight")
        tensors |= {where + a: module.a, where + b: module.b}
    tensors |= {_PREFIX + name: tensor for name, tensor in (saved or {}).items()}
    wrapped = {module.name for module in modules}  # in PEFT's layers, which hold the base's
    for name, bias in (biases or {}).items():
        tensors[f"{_PREFIX}{name}.base_layer.bias" if name in wrapped else f"{_PREFIX}{name}.bias"] = bias
    return tensors


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, StreamedTensor]) -> None:
    """Write both files into `folder`, the weights block by block. Raises OutputError where the disk refuses, OSError
    for the small file.
    """
    write_safetensors_blocks(
        folder / ADAPTER_WEIGHTS,
        {name: tensor.entry for name, tensor in tensors.items()},
        (block for tensor in tensors.values() for block in tensor.blocks()),
        {"format": "pt"},
    )
    write_json(folder / ADAPTER_CONFIG, dict(config))


def _whole(number: float) -> float:
    """An int where the number is whole, as PEFT writes alphas."""
    return int(number) if float(number).is_integer() else float(number)


def _pattern(name: str) -> str:
    """A key of PEFT's patterns, which are regular expressions."""
    return name if _PLAIN.fullmatch(name) else re.escape(name)


def _targets(names: Sequence[str], others: Iterable[str]) -> list[str] | str:
    """PEFT's target_modules: the whole names, which it also finds at the end of longer ones; where there is such a
    longer one, a regular expression of whole names.
    """
    own = set(names)
    longer = [*names, *others]
    if any(other not in own and _ends(other, own) for other in longer):
        return "|".join(re.escape(name) for name in names)
    return list(names)


def _ends(name: str, targets: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[first:]) in targets for first in range(1, len(parts)))
