"""Names that mean the same tensor, as rows: what a file calls it, and its canonical name.

A new habit of naming is a new row in ROWS. Canonical are the names that transformers 5 uses in memory, with experts and
projections one by one. Source: `conversion_mapping.py` of the transformers library, and published checkpoints.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ROWS", "Rename", "canonical_names"]


@dataclass(frozen=True)
class Rename:
    """`stored`: a regular expression, searched in a name whose numbers are written as #; `canonical`: what stands in
    its place, with as many #. `beside`: the row counts only where some name of the model begins with this segment.
    """

    stored: str
    canonical: str
    beside: str | None = None


ROWS = (
    # what wraps a model: compilers, sharding, adapters that are not merged
    Rename(r"^(?:module\.|_orig_mod\.|base_model\.model\.)+", ""),
    Rename(r"\.(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)(?=\.)", ""),
    # norms of BERT's first releases, weight norm before torch 2.1
    Rename(r"LayerNorm\.gamma$", "LayerNorm.weight"),
    Rename(r"LayerNorm\.beta$", "LayerNorm.bias"),
    Rename(r"\.weight_g$", ".parametrizations.weight.original0"),
    Rename(r"\.weight_v$", ".parametrizations.weight.original1"),
    # models with a language model and other towers, before and after transformers 4.52
    Rename(r"^language_model\.lm_head\.", "lm_head."),
    Rename(r"^(?:model\.)?language_model\.(?:model\.)*", "model.language_model."),
    Rename(r"^(vision_tower|vision_model|audio_tower|multi_modal_projector|image_newline|visual)\b", r"model.\1"),
    Rename(r"^model\.vision_tower\.vision_model\.", "model.vision_tower."),
    Rename(r"^model\.(layers|embed_tokens|norm)\.", r"model.language_model.\1.", beside="visual"),
    # mixtures of experts
    Rename(r"\.block_sparse_moe\.input_linear\.weight$", ".mlp.experts.gate_up_proj"),
    Rename(r"\.block_sparse_moe\.output_linear\.weight$", ".mlp.experts.down_proj"),
    Rename(r"\.block_sparse_moe\.router\.layer\.", ".mlp.gate."),
    Rename(r"\.block_sparse_moe\.", ".mlp."),
    Rename(r"\.mlp\.router\.(?:linear\.)?", ".mlp.gate."),
    Rename(r"\.experts\.#\.w1\.", ".experts.#.gate_proj."),
    Rename(r"\.experts\.#\.w3\.", ".experts.#.up_proj."),
    Rename(r"\.experts\.#\.w2\.", ".experts.#.down_proj."),
    Rename(r"\.experts\.(gate_up|down)_projs\.#\.", r".experts.#.\1_proj."),
)
"""Every row is tried on what the rows before it have made."""

_NUMBER = re.compile(r"(?<![^.])[0-9]{1,6}(?![^.])")


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """{name: canonical name} in the order of `names`; what no row knows keeps its name, and so do names that would
    become one.
    """
    held = list(names)
    tops = {name.partition(".")[0] for name in held}
    rows = [(re.compile(row.stored), row.canonical) for row in ROWS if row.beside is None or row.beside in tops]
    known: dict[str, str] = {}
    made: dict[str, str] = {}
    for name in held:
        if "#" in name:  # which stands for numbers here
            made[name] = name
            continue
        template = _NUMBER.sub("#", name)
        if template not in known:
            canonical = template
            for stored, instead in rows:
                canonical = stored.sub(instead, canonical)
            known[template] = canonical
        made[name] = name if known[template] == template else _numbered(known[template], _NUMBER.findall(name))
    taken = Counter(made.values())
    return {name: canonical if taken[canonical] == 1 else name for name, canonical in made.items()}


def _numbered(template: str, numbers: list[str]) -> str:
    left = iter(numbers)
    return ".".join(next(left) if word == "#" else word for word in template.split("."))
