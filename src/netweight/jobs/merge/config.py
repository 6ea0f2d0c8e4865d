"""The merged model's config.json: that of one input, with what the merge has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.tensor import Checkpoint
from netweight.dtypes import DType, Kind
from netweight.errors import printable
from netweight.jobs.merge.layering import Layering, edit_layers
from netweight.jobs.merge.output_tokenizer import take_special_tokens
from netweight.jobs.merge.sides import Side, is_head, stack_of, ties_head
from netweight.merging.target import Target
from netweight.params.architecture import config_numbers
from netweight.params.model import Model
from netweight.params.tied import token_embedding

if TYPE_CHECKING:
    from netweight.jobs.merge.numbering import Vocabularies
    from netweight.jobs.merge.slices import Group

__all__ = ["config_dtype", "lacking_note", "main_dtype", "merged_config", "plan_config"]

_QUANTISED = ("quantization_config", "quantization", "compression_config")  # the second is MLX's
_VOCABULARY = ("vocab_size", "padded_vocab_size")


def plan_config(
    checkpoints: Sequence[Checkpoint],
    sides: Mapping[int, Side],
    anchor: Side,
    groups: Sequence[Group],
    targets: Sequence[Target],
    vocabularies: Vocabularies,
    tokenizer: int | None = None,
) -> tuple[dict[str, Any] | None, int, list[str]]:
    """(the output's config, the number of the input whose tokenizer fits, notes).

    Both are of the base, else of the first model: input 0. `groups` are those of slices. The tokenizer is another one
    where the output has more rows of tokens than that (of several, the one with the most tokens), or where it is given,
    with the special tokens of that model's config.
    """
    notes = []
    owner = checkpoints[0]
    parameters = sides[0].parameters if 0 in sides else Model(owner).parameters
    shapes = {t.name: t.shape for t in targets}
    embedding = token_embedding(anchor.checkpoint, anchor.parameters)
    rows = shapes[embedding][0] if embedding in shapes else None
    own = token_embedding(owner, parameters)
    own_rows = owner[own].shape[0] if own is not None else None
    tokenizer_from = 0
    if tokenizer is not None:
        tokenizer_from = tokenizer
    elif rows is not None and own_rows is not None and rows != own_rows:
        fitting = [
            n
            for n, side in sides.items()
            if (e := side.tensors.get(embedding or "")) is not None and e.shape[0] == rows
        ]
        tokenizer_from = max(sorted(fitting), key=lambda n: vocabularies.count(n, rows), default=0)
        if tokenizer_from:
            named = vocabularies.count(tokenizer_from, rows)
            most = f"which has tokens for {named} of the output's {rows} rows, the most" if named else ""
            notes.append(
                f"the tokenizer is that of {printable(checkpoints[tokenizer_from].ref)},"
                f" {most or f'the first with {rows} rows of tokens'}; {printable(owner.ref)} has {own_rows}"
            )
    if owner.config is None:
        why = owner.config_problem or f"{printable(owner.ref)}: has no config.json"
        notes.append(f"{why}; the output gets none, and does not load by itself")
        return None, tokenizer_from, notes
    if owner.config_lacks:
        notes.append(lacking_note(owner))
        return None, tokenizer_from, notes
    layering = None
    if groups:
        from_where = [
            (sides[group.inputs[0]].checkpoint.config, sides[group.inputs[0]].layers, group.starts[0] + step)
            for group in groups
            for step in range(group.layers)
        ]
        behind = [p.layer for p in anchor.parameters.values() if p.layer is not None and not p.stack]
        further = None
        if any(layer >= anchor.layers for layer in behind):
            further = len({t.layer for t in targets if t.layer is not None and t.layer >= len(from_where)})
        layering = Layering(_layers_of(owner, sides), from_where, further, stack_of(anchor.model).head)
    stored = any(is_head(p) and name in shapes for name, p in anchor.parameters.items())
    tie = _tie(declared=ties_head(owner, parameters), stored=stored, sides=sides, anchor=anchor)
    if tie is not None:
        why = "the merged head has values of its own" if stored else f"the head is the embedding, as in {anchor.ref}"
        notes.append(f"config.json of {printable(owner.ref)}: tie_word_embeddings becomes {str(tie).lower()}: {why}")
    config, more = merged_config(
        owner.config,
        dtype=main_dtype(targets),
        rows=rows if rows != own_rows else None,
        tie=tie,
        layering=layering,
        where=printable(owner.ref),
    )
    if tokenizer:
        take_special_tokens(config, checkpoints[tokenizer].config or {})
    return config, tokenizer_from, [*notes, *more]


def lacking_note(owner: Checkpoint) -> str:
    """That the metadata of `owner` are not enough for a config."""
    return f"{printable(owner.ref)}: {owner.config_lacks}; the output gets no config.json, and does not load"


def _tie(*, declared: bool, stored: bool, sides: Mapping[int, Side], anchor: Side) -> bool | None:
    """The value that config needs for the tie of head and embedding, None where its own is right."""
    if declared and stored:
        loose = (s for s in sides.values() if s.checkpoint.config is not None)
        return False if any(not ties_head(s.checkpoint, s.parameters) for s in loose) else None
    return True if not declared and anchor.tied_to is not None else None


def _layers_of(owner: Checkpoint, sides: Mapping[int, Side]) -> int:
    declared = config_numbers(owner.config).get("layers")
    return declared if declared is not None else sides[0].layers if 0 in sides else 0


def main_dtype(targets: Sequence[Target]) -> DType | None:
    """The element type of most of the merged elements."""
    sizes: dict[DType, int] = {}
    for t in targets:
        if t.dtype.kind is Kind.FLOAT:
            sizes[t.dtype] = sizes.get(t.dtype, 0) + t.size
    return max(sizes, key=lambda dtype: sizes[dtype], default=None)


def config_dtype(dtype: DType) -> str:
    """What config.json calls an element type."""
    name = dtype.numpy_name or dtype.name
    plain = {"F16": "float16", "F32": "float32", "F64": "float64"}
    return plain.get(dtype.name, name.removeprefix("ml_dtypes."))


def merged_config(
    config: Mapping[str, Any],
    *,
    dtype: DType | None,
    rows: int | None = None,
    tie: bool | None = None,
    layering: Layering | None = None,
    where: str = "",
) -> tuple[dict[str, Any], list[str]]:
    """A copy of `config` that describes the output, and notes on what must be checked.

    `where` names the model that it is of; `dtype` is that of most weights; `rows` the vocabulary's size, `tie` whether
    head and embedding are tied, both None where they are as `config` has them. Entries in `text_config` are edited like
    those at the top. Raises InputError for an entry on layers that cannot follow them.
    """
    merged = dict(config)
    notes = []
    levels = [merged]
    if isinstance(text := merged.get("text_config"), dict):
        merged["text_config"] = dict(text)
        levels.append(merged["text_config"])
    if dtype is not None:
        _set(levels, ("dtype", "torch_dtype"), config_dtype(dtype), otherwise="torch_dtype")
    if rows is not None:
        _set(levels, _VOCABULARY, rows, otherwise="vocab_size")
    if tie is not None:
        _set(levels, ("tie_word_embeddings",), tie, otherwise="tie_word_embeddings")
    notes += [
        f"config.json has a {key}, and no weight is quantised: the entry is left out"
        for key in _QUANTISED
        if [held for level in levels if (held := level.pop(key, None)) is not None]
    ]
    if layering is not None:
        notes += edit_layers(merged, layering, where)
    return merged, notes


def _set(levels: Sequence[dict[str, Any]], keys: Sequence[str], value: Any, otherwise: str) -> None:
    places = [(level, key) for level in levels for key in keys if key in level]
    for level, key in places or [(levels[0], otherwise)]:
        level[key] = value
