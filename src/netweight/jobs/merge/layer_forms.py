"""The forms in which configs say something of each layer: what each says, and how it says other things.

A form is a row of FORMS. `read` takes a level of a config and how many layers it counts, and gives a value for each
layer, None where the level has no such entry; `write` makes the level say these values, and is False where the form
cannot. Source: the configuration classes of the transformers library, and those in repositories of models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FORMS", "Form"]

Level = Mapping[str, Any]
Values = list[Any]


@dataclass(frozen=True)
class Form:
    """`keys` are the entries that it is made of. `tensors`: whether it decides
    which tensors a layer has, so that a wrong entry makes a model that loads with tensors missing.
    """

    keys: tuple[str, ...]
    read: Callable[[Level, int], Values | None]
    write: Callable[[dict[str, Any], Values], bool]
    tensors: bool = True


def _count(level: Level, key: str, least: int = 0) -> int | None:
    value = level.get(key)
    return value if type(value) is int and value >= least else None


def _entries(key: str, *, tensors: bool = True) -> Form:
    """A list with an entry for every layer."""

    def read(level: Level, layers: int) -> Values | None:
        held = level.get(key)
        return held if isinstance(held, list) and len(held) == layers else None

    def write(level: dict[str, Any], values: Values) -> bool:
        level[key] = values
        return True

    return Form((key,), read, write, tensors)


def _letters(key: str) -> Form:
    """A string with a letter for every layer (Nemotron-H)."""

    def read(level: Level, layers: int) -> Values | None:
        held = level.get(key)
        return list(held) if isinstance(held, str) and len(held) == layers else None

    def write(level: dict[str, Any], values: Values) -> bool:
        level[key] = "".join(values)
        return True

    return Form((key,), read, write)


def _cycle(key: str) -> Form:
    """A list that is repeated as often as there are layers (RecurrentGemma)."""

    def read(level: Level, layers: int) -> Values | None:
        held = level.get(key)
        return [held[i % len(held)] for i in range(layers)] if isinstance(held, list) and held else None

    def write(level: dict[str, Any], values: Values) -> bool:
        level[key] = values
        return True

    return Form((key,), read, write)


def _by_number(key: str) -> Form:
    """{"number of a layer": its own entries} of some layers (Gemma 4)."""

    def read(level: Level, layers: int) -> Values | None:
        held = level.get(key)
        if not isinstance(held, Mapping) or not held or not all(number.isdecimal() for number in held):
            return None
        return [held.get(str(number)) for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        level[key] = {str(number): value for number, value in enumerate(values) if value is not None}
        return True

    return Form((key,), read, write)


def _runs(key: str) -> Form:
    """[[[kind, ...], times], ...] (GPT-Neo)."""

    def read(level: Level, layers: int) -> Values | None:
        try:
            held = [kind for kinds, times in level.get(key, ()) for kind in list(kinds) * times]
        except (TypeError, ValueError):
            return None
        return held if len(held) == layers else None

    def write(level: dict[str, Any], values: Values) -> bool:
        level[key] = [[values, 1]]
        return True

    return Form((key,), read, write, tensors=False)


def _numbers(key: str, *, inside: str | None = None, first: int = 0) -> Form:
    """The numbers of the layers that are so, counted from `first`: a list, or a string with commas; `inside` another
    entry.
    """

    def listed(level: Level) -> Any:
        within = level if inside is None else level.get(inside)
        return within.get(key) if isinstance(within, Mapping) else None

    def read(level: Level, layers: int) -> Values | None:
        held = listed(level)
        if isinstance(held, str):
            parts = [part.strip() for part in held.split(",") if part.strip()]
            held = [int(part) for part in parts] if all(part.isdecimal() for part in parts) else None
        if not isinstance(held, list) or not all(type(number) is int for number in held):
            return None
        return [number + first in held for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        held: Any = [number + first for number, so in enumerate(values) if so]
        if isinstance(listed(level), str):
            held = ",".join(map(str, held))
        if inside is None:
            level[key] = held
        else:
            level[inside] = {**level[inside], key: held}
        return True

    return Form((inside or key,), read, write)


def _leading(key: str, beside: str = "") -> Form:
    """The first so many layers are dense; of the others, with `beside`, those whose number it divides are sparse
    (DeepSeek). Lists of the kinds of layers stand above it.
    """

    def read(level: Level, layers: int) -> Values | None:
        dense, every = _count(level, key), _count(level, beside, 1) or 1
        if isinstance(level.get("mlp_layer_types"), list) or isinstance(level.get(beside), list):
            return None
        return None if dense is None else [number >= dense and number % every == 0 for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        dense = values.index(True) if True in values else len(values)
        level[key] = dense
        if _count(level, beside) is not None:
            level[beside] = 1
        return all(values[dense:])

    return Form((key, beside) if beside else (key,), read, write)


def _trailing(key: str) -> Form:
    """The last so many layers are so (Gemma 3n, Gemma 4)."""

    def read(level: Level, layers: int) -> Values | None:
        last = _count(level, key)
        return None if last is None else [number >= layers - last for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        level[key] = last = sum(values)
        return all(values[len(values) - last :])

    return Form((key,), read, write)


_SECOND = {
    "gemma2": 2, "vaultgemma": 2, "gpt_oss": 2, "gemma3_text": 6, "cohere2": 4, "olmo3": 4, "llama4_text": 4,
    "smollm3": 4, "qwen3_next": 4, "qwen3_5_text": 4, "qwen3_5_moe_text": 4,
}  # fmt: skip
"""Model types that alternate two kinds of attention with no entry that says so: every so manieth layer."""


def _every(
    key: str,
    name: str,
    kinds: tuple[Any, Any],
    *,
    first: str = "",
    tensors: bool = True,
    default: Collection[str] = (),
) -> Form:
    """Every so manieth layer is of the second kind, the others of the first, unless the list `name` says it; other
    orders are said by that list, which is then there. It is the last of each run, in model types that begin with
    `first` the first. Model types of `default` mean it also where no entry says it.
    """

    def read(level: Level, layers: int) -> Values | None:
        model_type = level.get("model_type")
        model_type = model_type if isinstance(model_type, str) else ""
        every = _count(level, key, 1)
        if every is None and model_type in default:
            every = _SECOND[model_type]
        if every is None or (isinstance(level.get(name), list) and level[name]):
            return None
        phase = 0 if first and model_type.startswith(first) else 1
        return [kinds[(number + phase) % every == 0] for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        level[name] = level.get(name) or values  # another form may have said it
        return True

    return Form((key, name), read, write, tensors)


def _every_numbered(key: str, name: str) -> Form:
    """As `_every`; the list `name` has the numbers of the layers (Llama 4)."""
    every = _every(key, name, (False, True))

    def write(level: dict[str, Any], values: Values) -> bool:
        level[name] = level.get(name) or [number for number, so in enumerate(values) if so]
        return True

    return Form(every.keys, every.read, write)


def _from(key: str, name: str, kinds: tuple[str, str], switch: str) -> Form:
    """Layers from this number on are of the second kind, if `switch` is on and no list `name` says it (Qwen 2)."""

    def read(level: Level, layers: int) -> Values | None:
        first = _count(level, key)
        if first is None or isinstance(level.get(name), list):
            return None
        return [kinds[bool(level.get(switch)) and number >= first] for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        level.setdefault(name, values)  # another form may have said it
        return True

    return Form((key, name), read, write, tensors=False)


def _period(period: str, offset: str) -> Form:
    """Layers whose number leaves the rest `offset` over `period` (Jamba)."""

    def read(level: Level, layers: int) -> Values | None:
        every, at = _count(level, period, 1), _count(level, offset)
        return None if every is None or at is None else [number % every == at for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        layers = len(values)
        for every in range(1, layers + 1):
            for at in range(every):
                if values == [number % every == at for number in range(layers)]:
                    level[period], level[offset] = every, at
                    return True
        if not any(values):
            level[period], level[offset] = layers + 1, layers
        return not any(values)

    return Form((period, offset), read, write)


def _sparse_step() -> Form:
    """Qwen's mixtures: every so manieth layer but those of `mlp_only_layers`."""

    def read(level: Level, layers: int) -> Values | None:
        step, only = _count(level, "decoder_sparse_step", 1), level.get("mlp_only_layers")
        if (step is None and only is None) or not isinstance(only, list | None):
            return None
        step, only = step or 1, only or []
        return [(number + 1) % step == 0 and number not in only for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        level["decoder_sparse_step"] = 1
        level["mlp_only_layers"] = [number for number, sparse in enumerate(values) if not sparse]
        return True

    return Form(("mlp_only_layers", "decoder_sparse_step"), read, write)


def _span() -> Form:
    """ERNIE's mixtures: every so manieth layer from one number to another."""
    first, last, interval = "moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval"

    def read(level: Level, layers: int) -> Values | None:
        start, every, end = _count(level, first), _count(level, interval, 1) or 1, level.get(last, -1)
        if start is None or type(end) is not int:
            return None
        end = layers - 1 if end == -1 else end
        return [start <= number <= end and (number + 1) % every == 0 for number in range(layers)]

    def write(level: dict[str, Any], values: Values) -> bool:
        if True not in values:
            return False
        start, end = values.index(True), len(values) - 1 - values[::-1].index(True)
        level.update({first: start, last: end, interval: 1})
        return all(values[start : end + 1])

    return Form((first, last, interval), read, write)


_SLIDING = ("sliding_attention", "full_attention")
_LINEAR = ("linear_attention", "full_attention")

FORMS: Sequence[Form] = (
    *(
        _entries(key)
        for key in ("layer_types", "layers_block_type", "mlp_layer_types", "attn_type_list", "moe_layer_freq")
    ),
    *(_letters(key) for key in ("hybrid_override_pattern", "hybrid_pattern", "layer_pattern")),
    _cycle("block_types"),
    _by_number("per_layer_config"),
    _runs("attention_types"),
    *(
        _numbers(key)
        for key in (
            "moe_layers", "moe_layers_enum", "attn_layer_indices", "cross_attention_layers", "full_attn_idxs",
            "hybrid_layer_ids", "slstm_at",
        )
    ),
    _numbers("kda_layers", inside="linear_attn_config", first=1),
    _numbers("full_attn_layers", inside="linear_attn_config", first=1),
    _leading("first_k_dense_replace", "moe_layer_freq"),
    _leading("num_dense_layers"),
    _trailing("num_kv_shared_layers"),
    _every(
        "full_attention_interval", "layer_types", _LINEAR, default=("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
    ),
    _every("layer_group_size", "layer_types", _LINEAR),
    _every(
        "sliding_window_pattern", "layer_types", _SLIDING, tensors=False,
        default=("gemma2", "vaultgemma", "gpt_oss", "gemma3_text", "cohere2", "olmo3"),
    ),
    _every("global_attn_every_n_layers", "layer_types", _SLIDING, first="modernbert", tensors=False),
    _every("no_rope_layer_interval", "no_rope_layers", (1, 0), tensors=False, default=("llama4_text", "smollm3")),
    _every_numbered("interleave_moe_layer_step", "moe_layers"),
    _from("max_window_layers", "layer_types", ("full_attention", "sliding_attention"), "use_sliding_window"),
    _period("attn_layer_period", "attn_layer_offset"),
    _period("expert_layer_period", "expert_layer_offset"),
    _sparse_step(),
    _span(),
)  # fmt: skip
