"""Which files of a folder make up its model."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from netweight.checkpoint.asides import instead_of_weights
from netweight.checkpoint.foreign import named_like
from netweight.checkpoint.index import Index, listed, read_index_of
from netweight.checkpoint.kinds import READERS, reader_of
from netweight.checkpoint.place import LocalPlace, Place, check_inside
from netweight.errors import FormatError, InputError, ModelNotFoundError, printable

__all__ = ["Selection", "part_of", "select", "select_index"]

_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(\.safetensors|\.bin|\.pt|\.pth|\.npz)")
_COUNTED = re.compile(r"(.+)\.(\d{2,5})(\.npz)")  # MLX's: weights.00.npz, weights.01.npz ...
_PARALLEL = re.compile(r"(consolidated|mp_rank)[._](\d{2,4})(?:_model_states)?\.(?:pth|pt)")
_DIGITS = re.compile(r"([0-9]+)")
_MOST_FOLDERS, _DEEPEST = 1000, 4  # looked into below a folder without a model
_TORCH = (".bin", ".pt", ".pth", ".ckpt")
_LOOKED_INTO = 16  # files, to see which of them is a model
_OTHERS = tuple(ending for reader in READERS.values() for ending in reader.endings)
_NOT_MODELS = re.compile(  # what trainers leave beside a model
    r"training_args\.(bin|pt)|(optimizer|scheduler|scaler|random_states|rng_state|trainer_state).*"
    r"|.*_(optim|model)_states\.pt|events\.out.*"
)


@dataclass(frozen=True)
class Selection:
    """The files to open, sorted: their `names` in `place`; `index` where one names them; `notes` on what was left
    aside.
    """

    place: Place
    names: tuple[str, ...]
    index: Index | None = None
    notes: tuple[str, ...] = ()

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
    safetensors = [name for name in names if name.endswith(".safetensors") and not _NOT_MODELS.fullmatch(name)]
    torch = [name for name in names if name.endswith(_TORCH) and not _NOT_MODELS.fullmatch(name)]
    chosen = (
        _choose(place, names, safetensors, ("model",), ".safetensors")
        or _choose(place, names, torch, ("pytorch_model", "pruned_model"), ".bin")
        or _only(place, safetensors)
        or _only(place, torch)
        or _choose_other(place, [name for name in names if name.endswith(_OTHERS) and not _NOT_MODELS.fullmatch(name)])
    )
    if chosen is None:
        below = _below(place) if isinstance(place, LocalPlace) and not _is_told(names) else []
        if len(below) != 1:
            raise _several_below(place, below) if below else _nothing(place, names)
        chosen = select(below[0])
        taken = printable(str(below[0]), 4096)
        note = f"{printable(place.label)}: holds no model itself; taken is the one below it, {taken}"
        return replace(chosen, notes=(note, *chosen.notes))
    if isinstance(place, LocalPlace):
        for path in chosen.files:
            check_inside(place.folder, path)
    return chosen


def _below(place: LocalPlace) -> list[Path]:
    """The folders below it that hold models, as trainers and hubs leave them: `checkpoint-500`, `snapshots/COMMIT`; in
    a folder of a model none is looked for. None where there are too many folders to look into them all.
    """
    found: list[Path] = []
    waiting = [(place.folder / name, 1) for name in place.folders()]
    for at, (folder, depth) in enumerate(waiting):
        if at >= _MOST_FOLDERS:
            return []
        try:
            inside = LocalPlace(folder)
            if any(_may_be_weights(name) for name in inside.names()):
                found.append(folder)
            elif depth < _DEEPEST and not folder.is_symlink():
                waiting += [(folder / name, depth + 1) for name in inside.folders()]
        except (OSError, ModelNotFoundError):
            continue  # a folder that may not be read holds nothing to take
    return sorted(found, key=lambda path: [int(w) if w.isdecimal() else w for w in _DIGITS.split(str(path))])


def _may_be_weights(name: str) -> bool:
    return name.endswith((".safetensors", *_TORCH, *_OTHERS)) and not _NOT_MODELS.fullmatch(name)


def _is_told(names: list[str]) -> bool:
    """Whether the files in a folder say by their names what it is."""
    return any(named_like(name) or name.endswith((".safetensors", *_TORCH)) for name in names)


def _several_below(place: Place, below: list[Path]) -> ModelNotFoundError:
    shown = ", ".join(repr(printable(str(path), 4096)) for path in below[:10])  # whole, for a reader to copy
    more = f" and {len(below) - 10} more" if len(below) > 10 else ""
    return ModelNotFoundError(
        f"{printable(place.label)}: holds no model itself; {len(below)} are below it: {shown}{more}"
    )


def part_of(folder: Path, name: str) -> str:
    """What is to be said of a file that is one of several of a model, named alone; nothing of any other. Raises
    FormatError for one that has a part of every tensor.
    """
    if match := _PARALLEL.fullmatch(name):
        parts = [p.name for p in folder.iterdir() if (m := _PARALLEL.fullmatch(p.name)) and m[1] == match[1]]
        if len(parts) > 1:
            raise _in_parts(str(folder / name), parts)
    if (match := _NUMBERED.fullmatch(name)) and int(match[3]) > 1:
        return f"{printable(name)}: is one of {int(match[3])} files of a model: a part of it is read, not the whole"
    return ""


def _in_parts(where: str, parts: list[str]) -> FormatError:
    return FormatError(
        f"{printable(where)}: {len(parts)} files have each a part of every tensor ({listed(sorted(parts))}), as"
        " tensor-parallel training leaves them, and are not joined here; convert them to one model first, with the"
        " script of the repository that they are from"
    )


def select_index(place: Place, name: str) -> Selection:
    """The shards that the index `name` in `place` lists; raises FormatError where some are missing."""
    index = read_index_of(place, name)
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


def _choose(
    place: Place, names: list[str], candidates: list[str], stems: tuple[str, ...], ending: str
) -> Selection | None:
    """What goes by a standard name, in the order in which the usual loaders look."""
    for stem in stems:
        index = f"{stem}{ending}.index.json"
        if f"{stem}{ending}" in candidates:
            note = (f"{index}: not used, {stem}{ending} is there too",) if index in names else ()
            return Selection(place, (f"{stem}{ending}",), notes=note)
        if index in names:
            return select_index(place, index)
        numbered = _numbered(place, [name for name in candidates if name.startswith(f"{stem}-")])
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
        match = _NUMBERED.fullmatch(name)
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


def _choose_other(place: Place, names: list[str]) -> Selection | None:
    """What other formats have: one file, MLX's `weights.npz`, or a set that is numbered."""
    if "weights.npz" in names:
        return Selection(place, ("weights.npz",))
    matches = [match for name in names if (match := _COUNTED.fullmatch(name))]
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
    return _numbered(place, names) or _only(place, names)


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
    for name in names:
        holds = _instead(place, name) if len(names) <= _LOOKED_INTO else ""
        if holds:
            others[name] = holds
        else:
            models.append(name)
    if len(models) > 1 and len({m[1] if (m := _PARALLEL.fullmatch(name)) else name for name in models}) == 1:
        raise _in_parts(place.label, models)
    if len(models) > 1:
        raise FormatError(f"{printable(place.label)}: holds several models: {listed(models, 10)}; name one of them")
    if not models:
        shown = ", ".join(f"{printable(name)!r} holds {holds}" for name, holds in list(others.items())[:5])
        raise ModelNotFoundError(f"{printable(place.label)}: holds no model: {shown}")
    notes = tuple(f"{printable(name)}: left out: holds {holds}" for name, holds in others.items())
    return Selection(place, tuple(models), notes=notes)


def _instead(place: Place, name: str) -> str:
    """What a file holds that is known to be no model, or nothing."""
    with closing(place.open(name)) as source:
        try:
            return instead_of_weights(reader_of(source).read(source))
        except InputError:
            return ""  # it may be one that is damaged


def _nothing(place: Place, names: list[str]) -> ModelNotFoundError:
    where = printable(place.label)
    itself = named_like(place.label.rstrip("/\\"))
    if itself:
        return ModelNotFoundError(f"{where}: is {itself}")
    for name in names:
        foreign = named_like(name)
        if foreign:
            then = "" if ":" in foreign else "; expected safetensors, torch or npz files"
            return ModelNotFoundError(f"{where}: holds {printable(name)!r}, {foreign}{then}")
    inside = place.folders()
    steps = [name for name in inside if name.startswith("global_step")]
    if steps or any(name.endswith(("_model_states.pt", "_optim_states.pt")) for name in names):
        script = "zero_to_fp32.py in it" if steps else "zero_to_fp32.py in the folder above it"
        return ModelNotFoundError(
            f"{where}: is what DeepSpeed leaves of a training, in parts: make one file of them with {script}"
            " (python zero_to_fp32.py FOLDER OUT)"
        )
    aside = [name for name in names if name.endswith((".safetensors", *_TORCH))]
    if aside:
        return ModelNotFoundError(f"{where}: holds no model, only what a trainer leaves beside one: {listed(aside)}")
    hint = f"; its folders: {listed(inside)}" if inside else ""
    return ModelNotFoundError(f"{where}: holds no model: no .safetensors, .bin, .pt, .pth, .ckpt or .npz file{hint}")
