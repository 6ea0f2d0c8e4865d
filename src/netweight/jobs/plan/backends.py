"""What back ends quantise, in which formats, what takes one format together, and what they call it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from netweight.checkpoint.gguf.naming import gguf_namer
from netweight.errors import OptionError, did_you_mean, printable
from netweight.params.model import Model
from netweight.params.role import Parameter
from netweight.statistics.formats.encoders import TILE
from netweight.statistics.formats.table import FORMATS, MLX, Format

__all__ = ["BACKENDS", "Backend", "backend_of"]

_VLLM = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}


_EXPERT = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Backend:
    """formats: that a tensor may have; kept: bits of an element of a tensor that stays as it is, None where every
    tensor that a format fits must have one; other: bits of an element of what is never quantised, by its dimensions;
    head, embedding: the format that these have at least, "" where they may have any, "kept" where they are left as
    they are; unit: what makes, of a model, the function from a parameter to the name of its unit (None: never
    quantised).
    """

    name: str
    formats: tuple[Format, ...]
    kept: int | None
    other: Callable[[int], int]
    head: str
    embedding: str
    unit: Callable[[Model], Callable[[Parameter], str | None]]

    def format_named(self, name: str, option: str) -> Format:
        """The format of this name, however it is written; raises OptionError."""
        found = {_plain(key): one for one in self.formats for key in (one.key, one.label)}
        if _plain(name) not in found:
            labels = [one.label for one in self.formats]
            hint = did_you_mean(name, labels)
            raise OptionError(f"{option}: no format '{printable(name)}'{hint}; there are {', '.join(labels)} and any")
        return found[_plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()


_NEVER = re.compile(
    r"(^|\.)(position_embd|token_types)\.weight$|_norm\.weight$|ffn_gate_inp|ssm_conv1d|shortconv\.conv"
)


def _gguf(model: Model) -> Callable[[Parameter], str | None]:
    """llama.cpp's names; raises OptionError for a family whose names are not known."""
    name_of = gguf_namer(model.checkpoint.config or {})
    if name_of is None:
        kind = (model.checkpoint.config or {}).get("model_type")
        raise OptionError(
            f"--format gguf: what llama.cpp calls the tensors of {printable(str(kind))!r} is not known; give its GGUF"
        )

    def unit(parameter: Parameter) -> str | None:
        found = name_of(parameter.name)
        return None if found is None or not found.endswith(".weight") or _NEVER.search(found) else found

    return unit


def _modules(model: Model) -> Callable[[Parameter], str | None]:  # noqa: ARG001 - as the others
    """MLX quantises modules one by one; mlx_lm stacks the experts of a layer, whose modules have one name."""

    def unit(parameter: Parameter) -> str | None:
        above, experts, _ = parameter.name.partition(".experts.")
        if not experts:
            return parameter.name.removesuffix(".weight")
        apart = parameter.slot in _EXPERT and "[" not in parameter.name
        return f"{above}.switch_mlp.{parameter.slot}" if apart else None

    return unit


def _vllm(model: Model) -> Callable[[Parameter], str | None]:  # noqa: ARG001 - as the others
    """vLLM fuses q, k, v, and gate and up, and all experts of a layer: each of these has one scheme."""

    def unit(parameter: Parameter) -> str | None:
        above, experts, _ = parameter.name.partition(".experts.")
        if experts:
            return f"{above}.experts" if "[" not in parameter.name else None
        module = parameter.name.removesuffix(".weight")
        head, _, leaf = module.rpartition(".")
        return f"{head}.{_VLLM.get(leaf, leaf)}"

    return unit


BACKENDS = (
    Backend(
        "gguf", tuple(one for one in FORMATS if one.ggml), None, lambda dims: 32 if dims < 2 else 16, "q6_k", "", _gguf
    ),
    Backend(
        "compressed-tensors",
        tuple(replace(one, block=TILE) for one in FORMATS if one.key in {"int4_sym", "fp8_channel"}),
        16,
        lambda _: 16,
        "kept",
        "kept",
        _vllm,
    ),
    Backend("mlx", MLX, 16, lambda _: 16, "mlx_q6", "", _modules),
)


def backend_of(name: str) -> Backend:
    """The back end of this name; raises OptionError."""
    found = {one.name: one for one in BACKENDS}
    if name not in found:
        hint = did_you_mean(name, list(found), {"llama.cpp": "gguf", "vllm": "compressed-tensors"})
        raise OptionError(f"--format: no back end '{printable(name)}'{hint}; there are {', '.join(found)}")
    return found[name]
