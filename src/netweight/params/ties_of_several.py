"""Ties of several models side by side: the names under which all of them count one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from netweight.errors import printable
from netweight.params.model import Model
from netweight.params.tied import HEAD, head_names

__all__ = ["notes_on_ties", "rooted", "with_heads"]


def with_heads(models: Sequence[Model], *, everywhere: bool) -> list[Model]:
    """The models, each with the head that it ties and does not store, where one of them stores a head; `everywhere`:
    also where none does.
    """
    if everywhere:
        models = [_with_aliases(model, models) for model in models]
    stored = [name for model in models for name in head_names(model.parameters)]
    if not stored and not everywhere:
        return list(models)
    return [model.with_head(stored[0] if stored else HEAD) for model in models]


def _with_aliases(model: Model, models: Sequence[Model]) -> Model:
    """The model under each further name that another one's file has for a tensor of both: PyTorch's files hold all
    names, safetensors files one. Heads are another question.
    """
    tensors = model.tensors
    heads = {name for other in models for name in head_names(other.parameters)}
    shared = {alias: name for other in models for alias, name in other.checkpoint.shared.items()}
    groups: dict[str, list[str]] = {}
    for alias, name in shared.items():
        groups.setdefault(name, [name]).append(alias)
    further: dict[str, str] = {}
    for group in groups.values():
        held = next((name for name in group if name in tensors), None)
        if held is not None:
            further |= {name: held for name in group if name not in tensors and name not in heads}
    if not further:
        return model
    more = {name: replace(tensors[held], name=name) for name, held in further.items()}
    checkpoint = model.checkpoint
    return Model(checkpoint.with_tensors(tensors | more, {**checkpoint.shared, **further}))


def notes_on_ties(sides: Sequence[tuple[Model, str]], *, twice: bool) -> list[str]:
    """What ties mean for the sums."""
    tied: dict[str, list[str]] = {}
    notes = []
    for model, ref in sides:
        ties = model.ties
        alias = next(iter(ties.aliases.items()), None)
        if ties.absent:
            tied.setdefault(f"the head is '{printable(ties.absent)}'", []).append(ref)
        elif alias and not twice:
            tied.setdefault(f"'{printable(alias[0])}' is '{printable(alias[1])}'", []).append(ref)
        notes += [f"{ref}: {note}" for note in ties.notes("both count")]
    return notes + [
        f"{' and '.join(refs)}: {what}, and counts once; tools that load the model count it twice, as"
        " --count-tied-twice does"
        for what, refs in tied.items()
    ]


def rooted(ties: Mapping[str, str], matched: Sequence[Mapping[str, object]]) -> dict[str, str]:
    """`ties` with each parameter kept under the name that most models have, so that all of them meet in one row."""
    members: dict[str, list[str]] = {}
    for alias, name in ties.items():
        members.setdefault(name, [name]).append(alias)
    kept_as: dict[str, str] = {}
    for group in members.values():
        kept = max(group, key=lambda name: sum(name in names for names in matched))
        kept_as |= {name: kept for name in group if name != kept}
    return kept_as
