"""Which files of a folder make up its model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from netweight.checkpoint.asides import instead_of_weights
from netweight.checkpoint.below import models_below, nothing_in, several_below
from netweight.checkpoint.distcp import METADATA
from netweight.checkpoint.file_names import (
    CHUNKS,
    COUNTED,
    NOT_MODELS,
    NUMBERED,
    OTHERS,
    PARALLEL,
    RANKS,
    SIDE_MODELS,
    TORCH,
    ZERO_2,
    is_zero_2,
)
from netweight.checkpoint.index import Index, listed, read_index_of
from netweight.checkpoint.kinds import reader_of
from netweight.checkpoint.place import LocalPlace, Place, check_inside
from netweight.errors import FormatError, InputError, ModelNotFoundError, printable

__all__ = ["Selection", "check_alone", "in_parts", "select", "select_index", "whole_set"]

_LOOKED_INTO = 16  # files, to see which of them is a model


@dataclass(frozen=True)
class Selection:
    """The files to open, sorted: their `names` in `place`; `index` where one names them; `notes` on what was left
    aside. `parallel`: each has a part of every tensor; `ranks`: each is what one rank of a training wrote. Where the
    first is the metadata of torch.distributed.checkpoint, they say what the others hold.
    """

    place: Place
    names: tuple[str, ...]
    index: Index | None = None
    notes: tuple[str, ...] = ()
    parallel: bool = False
    ranks: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Their paths, of a folder on this machine."""
        return tuple(Path(self.place.path(name)) for name in self.names)


def select(folder: Path | Place) -> Selection:
    """The model's files in `folder`, chosen by their names.

    Raises ModelNotFoundError where there are none, FormatError where shards are missing or the choice is not clear,
    UnsafeFileError where names lead out of the folder.
    """
    place = LocalPlace(folder) if isinstance(folder, Path) else folder
    names = place.names()
    safetensors = [name for name in names if name.endswith(".safetensors") and not NOT_MODELS.fullmatch(name)]
    torch = [name for name in names if name.endswith(TORCH) and not NOT_MODELS.fullmatch(name)]
    chosen = (
        _of_ranks(place, safetensors)
        or _choose(place, names, safetensors, ("model",), ".safetensors")
        or _choose(place, names, torch, ("pytorch_model", "pruned_model"), ".bin")
        or _distributed(place, names)
        or _only(place, safetensors)
        or _only(place, torch)
        or _of_deepspeed(place, names)
        or _choose_other(place, [name for name in names if name.endswith(OTHERS) and not NOT_MODELS.fullmatch(name)])
    )
    if chosen is None:
        below = models_below(place, names)
        if len(below) != 1:
            raise several_below(place, below) if below else nothing_in(place, names)
        chosen = select(below[0])
        taken = printable(str(below[0]), 4096)
        note = f"{printable(place.label)}: holds no model itself; taken is the one below it, {taken}"
        return replace(chosen, notes=(note, *chosen.notes))
    if isinstance(place, LocalPlace):
        for path in chosen.files:
            check_inside(place.folder, path)
    return chosen


def check_alone(folder: Path, name: str) -> str:
    """What is to be said of a file that is one of several of a model, named alone; nothing of any other. Raises
    FormatError for one that has a part of every tensor, or that only others make sense of.
    """
    where = printable(str(folder / name))
    if name.endswith(".distcp") and (folder / METADATA).exists():
        raise FormatError(f"{where}: is a part of a torch.distributed checkpoint; name its folder, {_shown(folder)}")
    for pattern in (PARALLEL, RANKS):
        match = pattern.fullmatch(name)
        if not match or (pattern is RANKS and NOT_MODELS.fullmatch(name)):
            continue
        matches = [m for p in folder.iterdir() if (m := pattern.fullmatch(p.name)) and m[1] == match[1]]
        parts = [m[0] for m in matches] if any(int(m[2]) == 0 for m in matches) else []  # else it is a LoRA's rank
        if len(parts) > 1 and match[1] == "consolidated":
            raise FormatError(
                f"{where}: is one of {len(parts)} files with a part of every tensor each; name their folder, which is"
                f" read as one model: {_shown(folder)}"
            )
        if len(parts) > 1 and pattern is RANKS:
            raise FormatError(
                f"{where}: is what one of {len(parts)} ranks of a training wrote; name their folder: {_shown(folder)}"
            )
        if len(parts) > 1:
            raise in_parts(str(folder / name), parts)
    if CHUNKS.fullmatch(name) and sum(bool(CHUNKS.fullmatch(path.name)) for path in folder.iterdir()) > 1:
        raise FormatError(f"{where}: has one rank's chunks of tensors; name the folder of all: {_shown(folder)}")
    if (match := NUMBERED.fullmatch(name)) and int(match[3]) > 1:
        return f"{printable(name)}: is one of {int(match[3])} files of a model: a part of it is read, not the whole"
    return ""


def _shown(folder: Path) -> str:
    return repr(printable(str(folder), 4096))  # whole, for a reader to copy


def in_parts(where: str, parts: Sequence[str]) -> FormatError:
    """That each of the files `parts` has its part of the tensors, in a way that is not known here."""
    if all(RANKS.fullmatch(name) for name in parts):
        return FormatError(
            f"{printable(where)}: {len(parts)} files that the ranks of a training wrote ({listed(sorted(parts))}), each"
            " with its part of the tensors, are not joined here; convert them to one model first, with the trainer"
            " that wrote them (verl: python -m verl.model_merger merge; accelerate: accelerate merge-weights)"
        )
    return FormatError(
        f"{printable(where)}: {len(parts)} files have each a part of every tensor ({listed(sorted(parts))}), as"
        " tensor-parallel training leaves them, and are not joined here; convert them to one model first, with the"
        " script of the repository that they are from"
    )


def _of_ranks(place: Place, names: list[str]) -> Selection | None:
    """The chunks of all ranks, where a folder holds nothing else; what they make follows from their headers."""
    matches = [match for name in names if (match := CHUNKS.fullmatch(name))]
    if not matches or len(matches) < len(names):
        return None
    ranks = {int(match[1]) for match in matches}
    missing = sorted(set(range(max(ranks))) - ranks)
    if missing:
        raise FormatError(
            f"{printable(place.label)}: holds the chunks of {len(ranks)} ranks, up to {max(ranks)}, and none of rank"
            f" {missing[0]}; bring the files of all ranks into the same folder"
        )
    return Selection(place, tuple(match[0] for match in matches))


def _distributed(place: Place, names: list[str]) -> Selection | None:
    """What torch.distributed.checkpoint writes."""
    parts = [name for name in names if name.endswith(".distcp")]
    if not parts:
        return None
    if METADATA not in names:
        raise FormatError(
            f"{printable(place.label)}: holds {len(parts)} parts of a torch.distributed checkpoint and no {METADATA},"
            " which says what is in them; it is written last, by rank 0: bring it into the same folder"
        )
    return Selection(place, (METADATA, *parts))


def _of_deepspeed(place: Place, names: list[str]) -> Selection | None:
    """The weights that DeepSpeed leaves whole, in a folder of a step (`global_step10`)."""
    if not is_zero_2(names):
        return None
    note = (
        f"{printable(place.label)}: is what DeepSpeed leaves of a training; taken are the weights that it computed with"
        f" ({ZERO_2}), not the float32 ones that its optimizer keeps: zero_to_fp32.py in the folder above it makes a"
        " file of those"
    )
    return Selection(place, (ZERO_2,), notes=(note,))


def select_index(place: Place, name: str) -> Selection:
    """The shards that the index `name` in `place` lists; raises FormatError where some are missing."""
    return _listed_by(place, read_index_of(place, name))


def _listed_by(place: Place, index: Index) -> Selection:
    missing = [shard for shard in index.shards if not place.has(shard)]
    if missing:
        raise FormatError(
            f"{printable(index.path)}: {len(missing)} of its {len(index.shards)} shards are missing: {listed(missing)};"
            " download them into the same folder"
        )
    chosen = Selection(place, tuple(index.shards), index)
    if isinstance(place, LocalPlace):
        for file in chosen.files:
            check_inside(place.folder, file)
    return chosen


def _other_than(place: Place, index: Index, own: list[str]) -> Selection | None:
    """The complete set of shards `own`, where the index beside it is of files that are gone."""
    if own and not any(place.has(shard) for shard in index.shards):
        numbered = _numbered(place, own)
        note = (
            f"{printable(index.name)}: not used: none of its {len(index.shards)} shards is there, and a complete set of"
            " others is"
        )
        return numbered and replace(numbered, notes=(note,))
    return None


def _choose(
    place: Place, names: list[str], candidates: list[str], stems: tuple[str, ...], ending: str
) -> Selection | None:
    """What goes by a standard name, in the order in which the usual loaders look."""
    for stem in stems:
        index = f"{stem}{ending}.index.json"
        if f"{stem}{ending}" in candidates:
            note = (f"{index}: not used, {stem}{ending} is there too",) if index in names else ()
            return Selection(place, (f"{stem}{ending}",), notes=note)
        own = [name for name in candidates if name.startswith(f"{stem}-")]
        if index in names:
            listing = read_index_of(place, index)
            return _other_than(place, listing, own) or _listed_by(place, listing)
        numbered = _numbered(place, own)
        if numbered:
            return numbered
    indexes = [name for name in names if name.endswith(f"{ending}.index.json")]
    if len(indexes) == 1:
        return select_index(place, indexes[0])
    if indexes:
        raise FormatError(f"{printable(place.label)}: holds several models: {listed(indexes, 10)}; name one of them")
    return _numbered(place, candidates)


def _numbered(place: Place, names: list[str]) -> Selection | None:
    """A set `x-00001-of-0000N`, complete."""
    sets: dict[tuple[str, int, str], dict[int, str]] = {}
    for name in names:
        match = NUMBERED.fullmatch(name)
        if match:
            sets.setdefault((match[1], int(match[3]), match[4]), {})[int(match[2])] = name
    if not sets:
        return None
    if len(sets) > 1:
        shown = listed([f"{stem}-*-of-{total:05}{ending}" for stem, total, ending in sets], 10)
        raise FormatError(
            f"{printable(place.label)}: holds several models: {shown}; name one file, or move the others away"
        )
    ((stem, total, ending), shards), *_ = sets.items()
    beyond = sorted(number for number in shards if not 1 <= number <= total)
    if beyond:
        shown = listed([shards[number] for number in beyond])
        raise FormatError(
            f"{printable(place.label)}: expected {total} shards, numbered from 1, and these are beyond: {shown}; they"
            " are of another model or damaged: name the files that belong together by an index, or move the others away"
        )
    if len(shards) != total:
        missing = [number for number in range(1, min(total, 100_000) + 1) if number not in shards]
        shown = listed([f"{stem}-{number:05}-of-{total:05}{ending}" for number in missing])
        raise FormatError(
            f"{printable(place.label)}: {len(missing)} of {total} shards are missing: {shown}; "
            "download them into the same folder"
        )
    return Selection(place, tuple(shards[number] for number in sorted(shards)))


def whole_set(place: Place, name: str) -> Selection:
    """All files of the numbered set that `name` belongs to: one part of GGUF says nothing of the others."""
    match = NUMBERED.fullmatch(name)
    own = [other for other in place.names() if match and other.startswith(f"{match[1]}-")]
    chosen = _numbered(place, own)
    if chosen is None:
        raise ModelNotFoundError(f"{printable(place.path(name))}: there is no such file")
    return chosen


def _choose_other(place: Place, names: list[str]) -> Selection | None:
    """What other formats have: one file, MLX's `weights.npz`, or a set that is numbered."""
    if "weights.npz" in names:
        return Selection(place, ("weights.npz",))
    matches = [match for name in names if (match := COUNTED.fullmatch(name))]
    if matches and len({match[1] for match in matches}) == 1:
        numbers = [int(match[2]) for match in matches]
        missing = sorted(set(range(max(numbers))) - set(numbers))
        if missing:
            width = len(matches[0][2])
            shown = listed([f"{matches[0][1]}.{number:0{width}}{matches[0][3]}" for number in missing])
            raise FormatError(
                f"{printable(place.label)}: {len(missing)} shards are missing: {shown}; download them into the same"
                " folder"
            )
        return Selection(place, tuple(match[0] for match in matches))
    beside = [name for name in names if SIDE_MODELS.fullmatch(name)]
    names = [name for name in names if name not in beside] or names
    chosen = _numbered(place, names) or _only(place, names)
    if chosen is None or not beside or chosen.names[0] in beside:
        return chosen
    notes = tuple(f"{printable(name)}: left out: a part that works beside the model" for name in beside)
    return replace(chosen, notes=(*chosen.notes, *notes))


def _only(place: Place, names: list[str]) -> Selection | None:
    """Whatever is there: safetensors files together (their headers tell whether they are one model), one torch file."""
    if len(names) > 1:
        names = [name for name in names if not name.startswith(("adapter_", "adapters."))] or names
    if not names:
        return None
    if len(names) == 1:
        return Selection(place, (names[0],))
    if all(name.endswith(".safetensors") for name in names):
        preferred = [name for name in names if name.startswith("model")] or names
        return Selection(place, tuple(preferred))
    return _only_model(place, names)


def _only_model(place: Place, names: list[str]) -> Selection:
    """The one file that holds a model, where the others are known to hold none."""
    models: list[str] = []
    others: dict[str, str] = {}
    if ranks := _ranks(place, names):
        return ranks
    for name in names:
        holds = _instead(place, name) if len(names) <= _LOOKED_INTO else ""
        if holds:
            others[name] = holds
        else:
            models.append(name)
    matches = [match for name in models if (match := PARALLEL.fullmatch(name))]
    if len(models) > 1 and len(matches) == len(models) and len({match[1] for match in matches}) == 1:
        if matches[0][1] != "consolidated":
            raise in_parts(place.label, models)
        return _parallel(place, {int(match[2]): match[0] for match in matches})
    if len(models) > 1:
        raise FormatError(f"{printable(place.label)}: holds several models: {listed(models, 10)}; name one of them")
    if not models:
        shown = ", ".join(f"{printable(name)!r} holds {holds}" for name, holds in list(others.items())[:5])
        raise ModelNotFoundError(f"{printable(place.label)}: holds no model: {shown}")
    notes = tuple(f"{printable(name)}: left out: holds {holds}" for name, holds in others.items())
    return Selection(place, tuple(models), notes=notes)


def _ranks(place: Place, names: list[str]) -> Selection | None:
    """The files of all ranks of a training, numbered from 0 (a LoRA's rank is not); what they hold says whether they
    make one model.
    """
    matches = [match for name in names if (match := RANKS.fullmatch(name))]
    ranks = {int(match[2]): match[0] for match in matches}
    if 0 not in ranks or len(ranks) < len(matches) or len({match[1] for match in matches}) > 1:
        return None
    world = re.search(r"world_size_(\d{1,5})$", matches[0][1] or "")
    count = int(world[1]) if world else max(ranks) + 1
    missing = sorted(set(range(count)) - set(ranks))
    if missing:
        raise FormatError(
            f"{printable(place.label)}: holds the files of {len(ranks)} of {count} ranks, and none of rank"
            f" {missing[0]}; bring those of all ranks into the same folder"
        )
    if count == 1:
        return None
    others = [name for name in names if name not in ranks.values()]
    notes = (f"{listed(others)}: left out beside the files of {count} ranks",) if others else ()
    return Selection(place, tuple(ranks[number] for number in sorted(ranks)), notes=notes, ranks=True)


def _parallel(place: Place, parts: dict[int, str]) -> Selection:
    """Meta's files by their numbers, complete from 0."""
    missing = [number for number in range(max(parts)) if number not in parts]
    if missing:
        shown = ", ".join(f"{number:02}" for number in missing[:5])
        raise FormatError(
            f"{printable(place.label)}: of {max(parts) + 1} tensor-parallel files number {shown} is missing; download"
            " it into the same folder"
        )
    return Selection(place, tuple(parts[number] for number in sorted(parts)), parallel=True)


def _instead(place: Place, name: str) -> str:
    """What a file holds that is known to be no model, or nothing."""
    with closing(place.open(name)) as source:
        try:
            return instead_of_weights(reader_of(source).read(source))
        except InputError:
            return ""  # it may be one that is damaged
