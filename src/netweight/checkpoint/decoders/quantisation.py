"""What config.json says of quantised weights: which package wrote them, and how.

Tensors speak for themselves; config decides where their shapes and types leave something open. Source of the entries of
compressed-tensors: its `quantization/quant_config.py` and `quant_args.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["Compressed", "Scheme", "compressed_tensors", "declared"]


class Scheme(NamedTuple):
    """How compressed-tensors has quantised some of the weights; `group`: columns that share a scale, `block`: rows and
    columns that do, None where the config says neither.
    """

    bits: int
    integers: bool
    group: int | None
    block: tuple[int, int] | None


class Compressed(NamedTuple):
    """A model of compressed-tensors: the names of its formats, and its schemes. `transformed`: weights are multiplied
    by matrices, such as Hadamard's, which its code takes back.
    """

    formats: frozenset[str]
    schemes: tuple[Scheme, ...]
    transformed: bool


def declared(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The entry on quantisation, at the top or in a part of it such as `text_config`; empty where there is none."""
    parts = [config or {}]
    parts += [part for name, part in parts[0].items() if name.endswith("_config") and isinstance(part, Mapping)]
    for part in parts:
        for name in ("quantization_config", "compression_config"):
            if isinstance(about := part.get(name), Mapping):
                return about
    return {}


def compressed_tensors(config: Mapping[str, Any] | None) -> Compressed | None:
    """What config says of compressed-tensors, None where the model is not its."""
    about = declared(config)
    inner = about.get("quantization_config")  # versions before 0.6 had it within `compression_config`
    levels = [about, *([inner] if isinstance(inner, Mapping) else [])]
    sparse = about.get("sparsity_config")
    known = about.get("quant_method") == "compressed-tensors"
    if not known and not isinstance(inner, Mapping) and not isinstance(sparse, Mapping):
        return None
    groups = [group for level in levels for group in _groups(level)]
    named = [part.get("format") for part in (*levels, *groups, *([sparse] if isinstance(sparse, Mapping) else []))]
    schemes = tuple(scheme for group in groups if (scheme := _scheme(group.get("weights"))))
    formats = frozenset(name for name in named if isinstance(name, str))
    return Compressed(formats, schemes, bool(about.get("transform_config")))


def _groups(about: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    groups = about.get("config_groups")
    if isinstance(groups, Mapping):
        yield from (group for group in groups.values() if isinstance(group, Mapping))


def _scheme(weights: object) -> Scheme | None:
    if not isinstance(weights, Mapping):
        return None
    bits, group, block = weights.get("num_bits", 8), weights.get("group_size"), weights.get("block_structure")
    if isinstance(block, str):  # "128x128", of old versions
        block = [int(side) if side.isdecimal() else 0 for side in block.split("x")]
    sides = block if isinstance(block, list) and len(block) == 2 and all(_positive(n) for n in block) else None
    return Scheme(
        bits if _positive(bits) else 8,
        weights.get("type", "int") == "int",
        group if _positive(group) else None,
        (sides[0], sides[1]) if sides else None,
    )


def _positive(number: object) -> bool:
    return type(number) is int and number > 0
