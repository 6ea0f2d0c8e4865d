"""`lineage`: how models are related, with evidence, from a small part of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netweight.errors import ModelNotFoundError, NetweightError, OptionError, printable
from netweight.jobs.inputs import Reference, path_of, references, stamps
from netweight.jobs.lineage.plan import Failed, Options, models_in, names_of, sketches_of
from netweight.jobs.lineage.tree import Groups
from netweight.run.progress import Progress, Silent, shown

if TYPE_CHECKING:
    from netweight.jobs.lineage.features import Features
    from netweight.jobs.lineage.index import Index
    from netweight.jobs.lineage.relation import Relation
    from netweight.jobs.lineage.result import LineageResult
    from netweight.jobs.lineage.sketch import Sketch

__all__ = ["Base", "find_base", "index_models", "lineage"]

_MOST = 300  # models whose sketches are held at a time
_ALL_PAIRS = 60  # models, above which only pairs that a first look finds are tested
_FEW = 20  # models, of which all pairs are tested, also those of the index
_PAIRS = 3000  # pairs, above which each model is tested against its nearest ones
_BY_TOKENS = 0.97  # likeness of the tokens' geometry beyond which a pair is tested, whatever its rows say
_NEAREST = 12  # models of an index that are tested against one


def lineage(
    models: Reference | Sequence[Reference] = (),
    *,
    index: Reference | None = None,
    base_of: str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> LineageResult:
    """How `models` are related to each other, and to those of the folder `index`; without `models`, those of the index
    to each other.

    A folder that is no model stands for all that it holds. `base_of`: only what one model is to the others. `settings`
    are the fields of Options by name. What is read of each model is a small part, by ranges where it is far away.

    Raises InputError and its kin for models that cannot be opened (where there is one; of several, those are listed in
    the result), ReadError, OptionError for a single model without an index.
    """
    from netweight.jobs.lineage.index import Index
    from netweight.jobs.lineage.merges import merges_among
    from netweight.jobs.lineage.result import LineageResult
    from netweight.jobs.lineage.tree import nearest_first

    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    refs = models_in(references(models))
    if base_of is not None and base_of not in refs:
        refs.insert(0, base_of)
    held = Index.open(Path(index)) if index is not None else None
    if held is not None and not refs:
        from netweight.jobs.lineage.whole_index import of_index

        names = [entry.name for entry in held.entries]
        few = len(names) <= _FEW
        chosen = set(combinations(range(len(names)), 2)) if few else _likely_pairs(held.features())
        return of_index(held, chosen, options.processes)
    if len(refs) < 2 and held is None:
        raise OptionError("lineage: expected two or more models, a folder of models, or one and --index DIR")
    if len(refs) > _MOST:
        raise OptionError(
            f"lineage: {len(refs)} models at once would take too much memory, expected at most {_MOST}; make an index"
            " of them (`netweight lineage index`), then ask with --index alone"
        )
    with shown(progress, len(refs), 0):
        sketches, failed = sketches_of(refs, options, progress)
    named = [sketch.name for sketch in sketches]
    if held is not None:
        sketches += _from_index(held, sketches)
    wanted = None if base_of is None else names_of(refs)[refs.index(base_of)]
    pairs = _pairs(sketches, named, wanted)
    relations = nearest_first(_related(pairs))
    merges = merges_among(sketches, relations)
    return LineageResult(sketches, named, relations, merges, failed, base_of=wanted)


@dataclass(frozen=True)
class Base:
    """The base of a model: its name in the index, where it is, and why it is that one."""

    name: str
    ref: str
    reason: str


def find_base(model: Reference, index: Reference) -> Base:
    """The model of the index that `model` was most likely made from; see `LineageResult.base`.

    Raises ModelNotFoundError where none is one that it could have been made from.
    """
    result = lineage(model, index=index, base_of=os.fspath(model))
    relation = result.base()
    if relation is None:
        raise ModelNotFoundError(
            f"{printable(os.fspath(model))}: no model of the index {printable(os.fspath(index))} is one that it could"
            " have been made from; name its base"
        )
    name = relation.b if relation.a == result.base_of else relation.a
    sketch = next(sketch for sketch in result.sketches if sketch.name == name)
    ref = str(sketch.about.identity["path"])
    came = relation.direction.reason if relation.direction.known else "which came first is open"
    return Base(name, ref, f"{relation.relation}, {relation.sure}; {came}")


def _from_index(held: Index, sketches: Sequence[Sketch]) -> list[Sketch]:
    """Those of the index that may be related to one of these, and that are not among them."""
    from netweight.jobs.lineage.features import LIKELY, feature_of, scores

    queries = np.stack([feature_of(sketch) for sketch in sketches]).astype(np.float32)
    rows, tokens = scores(held.features(), queries)
    own = {sketch.name: str(sketch.about.identity["path"]) for sketch in sketches}
    chosen: dict[str, None] = {}
    for column in range(len(sketches)):
        likely = [int(i) for i in np.argsort(-rows[:, column])[:_NEAREST] if rows[i, column] > LIKELY]
        likely += [int(i) for i in np.argsort(-tokens[:, column])[:3] if tokens[i, column] > _BY_TOKENS]
        chosen |= dict.fromkeys(held.entries[i].name for i in likely)
    chosen |= dict.fromkeys(_claimed(held, sketches))
    return [sketch for name in chosen if (sketch := _apart(held.load(name), own)) is not None]


def _apart(sketch: Sketch, own: Mapping[str, str]) -> Sketch | None:
    """A sketch of the index beside the models that were given, {name: path}: None where it is one of these, and under
    another name where it is another model of that name.
    """
    if sketch.name not in own:
        return sketch
    if own[sketch.name] == sketch.about.identity["path"]:
        return None
    return replace(sketch, about=replace(sketch.about, name=f"{sketch.name} (index)"))


def _claimed(held: Index, sketches: Sequence[Sketch]) -> list[str]:
    """Models of the index that cards name: they are tested whatever a first look says."""
    from netweight.jobs.lineage.checks import named_model

    names = [entry.name for entry in held.entries]
    refs = {entry.name: (entry.ref, entry.path) for entry in held.entries}
    found = [named_model(claim["named"], names, refs) for sketch in sketches for claim in sketch.about.claims]
    return [name for name in found if name is not None]


def _pairs(sketches: Sequence[Sketch], named: Sequence[str], wanted: str | None) -> list[tuple[Sketch, Sketch]]:
    """The pairs to test: all with one of `named`, or with `wanted`; of many models those that may be related."""
    if wanted is not None:
        own = next(sketch for sketch in sketches if sketch.name == wanted)
        return [(own, other) for other in sketches if other is not own]
    few = len(sketches) <= _FEW  # those of the index among each other: which of them is nearest
    every = [(a, b) for a, b in combinations(sketches, 2) if few or a.name in set(named) or b.name in set(named)]
    return every if len(sketches) <= _ALL_PAIRS else _likely(sketches, every)


def _likely(sketches: Sequence[Sketch], every: Sequence[tuple[Sketch, Sketch]]) -> list[tuple[Sketch, Sketch]]:
    """The pairs that may be related, and those whose tokens lie alike."""
    from netweight.jobs.lineage.features import feature_of

    vectors = np.stack([feature_of(sketch) for sketch in sketches])
    at = {sketch.name: i for i, sketch in enumerate(sketches)}
    chosen = _likely_pairs(vectors)
    return [(a, b) for a, b in every if tuple(sorted((at[a.name], at[b.name]))) in chosen]


def _likely_pairs(vectors: Features) -> set[tuple[int, int]]:
    """The pairs of rows that a first look does not tell apart; of more than 3,000 those that join each model to the one
    that is most like it, and families to one tree.
    """
    from netweight.jobs.lineage.features import LIKELY, scores

    rows, tokens = scores(vectors, vectors.astype(np.float32))
    alike = {(int(i), int(j)) for i, j in np.argwhere(np.triu(rows, 1) > LIKELY)}
    if len(alike) > _PAIRS:
        groups = Groups(range(len(vectors)))
        ordered = sorted(alike, key=lambda pair: -rows[pair])
        alike = {pair for pair in ordered if groups.join(*pair)}
    geometry = {(int(i), int(j)) for i, j in np.argwhere((np.triu(tokens, 1) > _BY_TOKENS) & (rows <= LIKELY))}
    if len(geometry) > _PAIRS:  # one text, or one copied embedding: the nearest say enough
        nearest = np.where(np.eye(len(vectors), dtype=bool), -1.0, tokens).argmax(axis=1)
        geometry &= {(min(i, int(j)), max(i, int(j))) for i, j in enumerate(nearest)}
    return alike | geometry


def _related(pairs: Sequence[tuple[Sketch, Sketch]], workers: int = 2) -> list[Relation]:
    from netweight.jobs.lineage.relation import relate
    from netweight.run.blas import blas_threads
    from netweight.run.threads import ThreadExecutor, in_order

    with blas_threads(1):
        return list(in_order(pairs, lambda pair: relate(*pair), ThreadExecutor(workers)))


def index_models(
    models: Reference | Sequence[Reference],
    output: Reference,
    *,
    options: Options | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Index, list[str], list[Failed]]:
    """Add the sketches of `models` to the index in the folder `output`: (the index, the names of those that were read
    now, those that could not be). A model that is there unchanged is not read again.

    Raises OutputError, BusyError, JobError, and what opening the only model raises.
    """
    from netweight.jobs.lineage.index import adding, stamp_text
    from netweight.jobs.lineage.sketching import last_part, name_of, opened, sketch_from

    options = replace(options or Options(), **settings)
    progress = progress or Silent()
    refs = models_in(references(models))
    if not refs:
        raise OptionError("lineage index: expected models, or a folder of models, got none")
    done: list[str] = []
    known = {last_part(name_of(ref)): ref for ref in refs}
    failed: list[Failed] = []
    with adding(Path(output)) as work, shown(progress, len(refs), 0):
        for ref, name in zip(refs, names_of(refs), strict=True):
            try:
                checkpoint, notes = opened(ref, known | {last_part(e.name): e.path for e in work.index.entries})
                with checkpoint:
                    stamp, own = stamp_text(stamps(checkpoint)), work.name_for(name, path_of(checkpoint))
                    if work.is_there(own, stamp):
                        continue
                    sketch = sketch_from(checkpoint, notes, own, options.workers)
            except NetweightError as problem:
                if not options.keep_going or len(refs) == 1:
                    raise
                failed.append(Failed(ref, str(problem)))
                progress.note(f"{printable(ref)} is left out: {problem}")
                continue
            work.add(sketch, stamp)
            done.append(own)
            progress.advance(1, sketch.about.read_bytes)
    return work.index, done, failed
