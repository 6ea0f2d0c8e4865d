"""What becomes of every tensor: factors of its change, a module kept whole, a bias, or left out with a reason.

PEFT wraps modules, not tensors: linear layers (and GPT-2's Conv1D) and embeddings get factors; any other module that
holds no other ones can be kept whole. Names are those of the base's modules as transformers has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.errors import printable
from netweight.output.peft_folder import taken_with
from netweight.params.families import family
from netweight.params.matching import match
from netweight.params.model import Model
from netweight.params.pairing import Alignment

__all__ = ["CONVERTED", "Layer", "Target", "Targets", "find_targets"]

Layer = Literal["linear", "conv1d", "embedding"]

_PREFIXES = {"gpt2": "transformer", "bloom": "transformer"}
"""Families whose files often lack the first part of the names that their modules have in a model with a head."""

_MAMBA = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
_NOT_IN_MAMBA = frozenset({"out_proj", "conv1d"})
"""Model types and modules of them that PEFT refuses to adapt: their kernels read the weights past any wrapper."""

CONVERTED = frozenset({
    "mixtral", "minimax", "minimax_m2", "afmoe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "dots1", "ernie4_5_moe",
    "glm4_moe", "glm4_moe_lite", "glm4v_moe", "glm_moe_dsa", "longcat_flash", "solar_open", "qwen3_moe", "qwen3_next",
    "qwen3_omni_moe", "hunyuan_v1_moe", "flex_olmo", "olmoe", "exaone_moe", "cohere2_moe",
})  # fmt: skip
"""Model types of transformers 5 for which PEFT 0.21 fuses the factors of experts, and takes those of their router."""

_WEIGHT = ".weight"


@dataclass(frozen=True)
class Target:
    """One tensor of the base, and the fine-tune's in its layout (None where it has none that fits).

    `module` is what PEFT calls the module that it lies in. `layer` is set where its change is factorised. Else it is
    compared, and where it changed: `whole` says that its module is kept whole; `bias` that it stands in for the base's;
    `reason` why neither can be. `resized`: of another shape in the fine-tune. `experts`: the list that it is one of or
    routes to, whose members PEFT can fuse where all have factors of one rank.
    """

    name: str
    module: str
    base: Tensor
    model: Tensor
    layer: Layer | None = None
    whole: bool = False
    bias: bool = False
    reason: str = ""
    resized: bool = False
    experts: str = ""


@dataclass(frozen=True)
class Targets:
    """`targets` in the base's order; `left_out` are tensors that no adapter can hold, with the reason; `modules` are
    the names of all modules of the base; `members` {module: tensors of the fine-tune by the base's names} of those that
    may be kept whole. `conv1d`: weights are stored [in, out]. `tied`: the embedding that a head shares, which is not
    stored, and what its module is called: "lm_head", or "" where that is not known.
    """

    targets: tuple[Target, ...]
    left_out: tuple[Skipped, ...]
    modules: tuple[str, ...]
    members: Mapping[str, Mapping[str, Tensor]]
    conv1d: bool
    tied: str
    head: str


def find_targets(base: Checkpoint, model: Checkpoint, alignment: Alignment, *, keep_whole: bool) -> Targets:
    """What becomes of every tensor, from headers alone. `keep_whole` False: no module is kept whole."""
    return _Sorter(base, model, alignment, keep_whole=keep_whole).run()


class _Sorter:
    """Sorts the tensors of one base."""

    def __init__(self, base: Checkpoint, model: Checkpoint, alignment: Alignment, *, keep_whole: bool) -> None:
        self._base = Model(base)
        self._model = Model(model)
        self._alignment = alignment
        self._keep_whole = keep_whole
        self._prefix = _missing_prefix(self._base)
        self._names: dict[str, list[str]] = {}
        for name in self._base.tensors:
            self._names.setdefault(self._module_of(name), []).append(name)
        self._modules = tuple(self._names)
        self._above = {above for module in self._modules for above in _above(module)}
        self._conv1d = self._base.layout.conv1d
        self._type = str((base.config or {}).get("model_type"))
        self._found = match(self._base, self._model).tensors

    def _module_of(self, name: str) -> str:
        return (self._prefix + name).rpartition(".")[0]

    def run(self) -> Targets:
        pairs = {p.name: p for p in self._alignment.parameters}
        skipped = {entry.name: entry for entry in self._alignment.skipped[0]}
        factored = {self._module_of(name) for name in pairs if self._layer_of(name)}
        targets = []
        left_out = [entry for entry in skipped.values() if entry.name not in self._base.tensors]
        for name in self._base.tensors:
            if name in pairs:
                pair = pairs[name]
                assert pair.models[0] is not None  # noqa: S101 - one model, which the pair has
                targets.append(self._target(name, pair.base, pair.models[0], factored))
            elif name in skipped:
                entry = skipped[name]
                resized = self._resized(name, entry, factored)
                if resized is None:
                    left_out.append(entry)
                else:
                    targets.append(resized)
        whole = [target.module for target in targets if target.whole]
        return Targets(
            tuple(targets),
            tuple(left_out),
            self._modules,
            {m: {self._prefix + n: self._found[n] for n in self._names[m]} for m in dict.fromkeys(whole)},
            self._conv1d,
            self._tied(),
            _head(self._base),
        )

    def _layer_of(self, name: str) -> Layer | None:
        """The kind of layer whose weight this is, None where PEFT has no factors for it."""
        tensor, parameter = self._base.tensors[name], self._base.parameters[name]
        module = self._module_of(name)
        if len(tensor.shape) != 2 or not name.endswith(_WEIGHT) or not module or module in self._above:
            return None
        if parameter.kind != "weight" or parameter.role == "norm" or 0 in tensor.shape:
            return None
        if parameter.role == "moe_gate" and not self._experts_of(name):
            return None
        if self._type in _MAMBA and module.rpartition(".")[2] in _NOT_IN_MAMBA:
            return None
        if parameter.role == "embedding":
            return "embedding"
        return "conv1d" if self._conv1d and module.rpartition(".")[2].startswith("c_") else "linear"

    def _target(self, name: str, base: Tensor, model: Tensor, factored: set[str]) -> Target:
        module, layer = self._module_of(name), self._layer_of(name)
        if layer is not None:
            return Target(name, module, base, model, layer, experts=self._experts_of(name))
        if self._is_beside_a_matrix(name) and self._keep_whole:
            return Target(name, module, base, model, bias=True)
        reason = self._why_not_whole(name, factored)
        bias = bool(reason) and name.endswith(".bias") and bool(module) and self._keep_whole
        return Target(name, module, base, model, whole=not reason, bias=bias, reason="" if bias else reason)

    def _tied(self) -> str:
        """The embedding that is also the head."""
        ties = self._base.ties
        heads = [own for alias, own in ties.aliases.items() if self._base.parameters[alias].slot == "lm_head"]
        return ties.absent or next(iter(heads), "")

    def _experts_of(self, name: str) -> str:
        """The list of experts that this matrix is in, or that its router `gate` chooses from; "" as a rule."""
        parameter = self._base.parameters[name]
        above, _, last = self._module_of(name).rpartition(".")
        if parameter.role == "moe_gate":
            experts = f"{above}.experts"
            listed = last == "gate" and f"{experts}.0" in self._above
            return experts if listed and self._type in CONVERTED else ""
        return above.rpartition(".")[0] if parameter.expert is not None else ""

    def _is_beside_a_matrix(self, name: str) -> bool:
        """Whether this bias is of a layer whose weight gets factors, where it changes."""
        weight = f"{name.removesuffix('.bias')}{_WEIGHT}"
        return name.endswith(".bias") and weight in self._base.tensors and self._layer_of(weight) is not None

    def _resized(self, name: str, entry: Skipped, factored: set[str]) -> Target | None:
        """A vocabulary that has grown or shrunk, whose module can be kept whole."""
        if not entry.reason.startswith("shape ") or name not in self._found:
            return None
        base, model, parameter = self._base.tensors[name], self._found[name], self._base.parameters[name]
        vocabulary = parameter.slot in {"token_embedding", "lm_head"} or parameter.group in {"embed", "lm_head"}
        if not vocabulary or base.shape[1:] != model.shape[1:] or self._why_not_whole(name, factored):
            return None
        return Target(name, self._module_of(name), base, model, whole=True, resized=True)

    def _why_not_whole(self, name: str, factored: set[str]) -> str:
        """Why the module of this tensor cannot be kept whole; "" where it can."""
        module = self._module_of(name)
        shape = self._base.tensors[name].shape
        missing = next((other for other in self._names[module] if other not in self._found), None)
        if not self._keep_whole:
            return "no module is kept whole, as asked (--no-modules-to-save)"
        if not module:
            return "lies in no module"
        if module in self._above:
            return f"lies beside other modules in {printable(module)}, which PEFT cannot keep whole"
        if module in factored:
            return f"its module {printable(module)} has factors, and PEFT keeps it whole or adapts it, not both"
        if len(shape) > 2 and self._base.parameters[name].role == "moe_expert":
            return f"a stack of {shape[0]} matrices, which PEFT has no module for; a whole copy is no adapter"
        if missing is not None:
            return f"its module {printable(module)} holds {printable(missing)}, which the fine-tune lacks"
        if others := taken_with(module, self._modules):
            return f"PEFT would keep {printable(others[0])} whole as well, whose name ends alike"
        return ""


def _missing_prefix(base: Model) -> str:
    """What the names in the files lack before those of the modules, with a dot; "" as a rule."""
    config = base.checkpoint.config or {}
    prefix = _PREFIXES.get(family(base.tensors, config))
    if prefix is None or _is_bare(config) or any(name.startswith(f"{prefix}.") for name in base.tensors):
        return ""
    return f"{prefix}."


def _classes(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def _is_bare(config: Mapping[str, Any]) -> bool:
    """Whether the model is one without a head."""
    named = _classes(config)
    return bool(named) and all(name.endswith("Model") and "Head" not in name for name in named)


def _head(base: Model) -> str:
    """What the module of a head is called that yields tokens and is not stored: nearly all causal models agree."""
    named = _classes(base.checkpoint.config or {})
    return "lm_head" if not named or any(n.endswith(("ForCausalLM", "LMHeadModel")) for n in named) else ""


def _above(module: str) -> Iterator[str]:
    """All modules that this one lies in."""
    while (module := module.rpartition(".")[0]) != "":
        yield module
