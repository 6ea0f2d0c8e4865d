"""All models of an index against each other: families are shared out to processes, each of which holds few sketches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from netweight.jobs.lineage.index import Index
from netweight.jobs.lineage.merges import Merge, merges_among
from netweight.jobs.lineage.relation import Relation, relate
from netweight.jobs.lineage.result import LineageResult
from netweight.jobs.lineage.sketch import Sketch
from netweight.jobs.lineage.tree import Groups, nearest_first
from netweight.run.blas import blas_threads

__all__ = ["of_index"]

_CHUNK = 48  # pairs of one family that a process does at a time
_FAMILY = 64  # models of a family, above which no merges are looked for
_FEW = 100  # pairs, for which no further process is worth its start

Pair = tuple[str, str]


def of_index(held: Index, pairs: Collection[tuple[int, int]], processes: int) -> LineageResult:
    """The relations of these pairs of an index's entries, and the merges among them; by at most so many processes."""
    names = [entry.name for entry in held.entries]
    tasks = list(_tasks(names, pairs))
    work = partial(_family, held.folder)
    if len(pairs) < _FEW or processes < 2:
        done = [work(task) for task in tasks]
    else:
        with ProcessPoolExecutor(min(processes, len(tasks)), mp_context=multiprocessing.get_context("spawn")) as pool:
            done = list(pool.map(work, tasks))
    lights = {sketch.name: sketch for _, _, sketches in done for sketch in sketches}
    relations = [relation for found, _, _ in done for relation in found]
    merges = [merge for _, found, _ in done for merge in found]
    sketches = [lights[name] if name in lights else held.load(name).light() for name in names]
    return LineageResult(sketches, names, nearest_first(relations), merges)


def _tasks(names: Sequence[str], pairs: Collection[tuple[int, int]]) -> Iterator[list[Pair]]:
    """The pairs of every family; of a large one in pieces."""
    groups = Groups(range(len(names)))
    for pair in pairs:
        groups.join(*pair)
    families: dict[int, list[Pair]] = {}
    for i, j in sorted(pairs):
        families.setdefault(groups.of(i), []).append((names[i], names[j]))
    for family in families.values():
        if len({name for pair in family for name in pair}) <= _FAMILY:
            yield family
        else:
            yield from (family[start : start + _CHUNK] for start in range(0, len(family), _CHUNK))


def _family(folder: Path, pairs: Sequence[Pair]) -> tuple[list[Relation], list[Merge], list[Sketch]]:
    """(relations, merges, sketches) of one task, without the weights."""
    index = Index.open(folder)
    names = sorted({name for pair in pairs for name in pair})
    sketches = {name: index.load(name) for name in names}
    with blas_threads(1):
        relations = [relate(sketches[a], sketches[b]) for a, b in pairs]
        merges = merges_among(list(sketches.values()), relations) if len(names) <= _FAMILY else []
    return [relation.light() for relation in relations], merges, [sketch.light() for sketch in sketches.values()]
