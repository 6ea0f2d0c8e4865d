"""Which files of a model on the hub are fetched: one set of weights, whole, and what belongs to it."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath

from netweight.checkpoint.hub import MODULE_FILE
from netweight.checkpoint.index import listed, read_index
from netweight.errors import FormatError, ModelNotFoundError, OptionError, UnsafeFileError, printable
from netweight.jobs.download.hub import HubFile, HubModel

__all__ = ["BESIDE", "MAX_INDEX", "Choice", "choose"]

BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken", "README.md", "LICENSE*", "NOTICE*")
"""What is fetched beside the weights, from the repository's top: config, tokenizer, templates, the card. No code."""

MAX_INDEX = 100_000_000  # bytes

_INDEX = ".index.json"
_TORCH = (".bin", ".pt", ".pth", ".ckpt")
_NUMBERED = re.compile(r"(.+)-(\d{5,})-of-(\d{5,})(\.safetensors|\.bin|\.pt|\.pth)")
_NOT_MODELS = re.compile(  # what trainers leave beside a model
    r"training_args\.(bin|pt)|(optimizer|scheduler|scaler|random_states|rng_state|trainer_state).*"
    r"|.*_(optim|model)_states\.pt|events\.out.*"
)
_RESERVED = re.compile(r"\.netweight.*", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """The files to fetch, by name; `weights` are those of them that hold the model, `notes` say what was left aside."""

    files: tuple[HubFile, ...]
    weights: tuple[str, ...]
    notes: tuple[str, ...]


def choose(
    model: HubModel,
    include: Sequence[str],
    exclude: Sequence[str],
    read: Callable[[HubFile], bytes],
) -> Choice:
    """Choose from the model's files. `read` gives an index's bytes; nothing else is read.

    Without `include`: one set of weights at the repository's top, as loaders take it (safetensors before torch files),
    BESIDE, and the modules of sentence-transformers. With it: every file that a glob of `include` matches. `exclude`
    takes away from either. An index that is chosen must name only files that the hub has.

    Raises ModelNotFoundError where no weights are found, FormatError where shards are missing or the choice is not
    clear, OptionError where nothing is left, UnsafeFileError for names that must not be made into files.
    """
    every = {file.name: file for file in model.files}
    notes: list[str] = []
    weights: set[str] = set()
    if include:
        chosen = {name for name in every if _matches(name, include)}
    else:
        top = [name for name in every if "/" not in name and not _NOT_MODELS.fullmatch(name)]
        weights, index = _weights(model, top, every, read)
        chosen = {name for name in top if _matches(name, BESIDE) and not name.endswith(_INDEX)}
        modules = _of_modules(every)
        chosen |= weights | modules | ({index} if index else set())
        aside = {name.split("/")[0] for name in every if "/" in name and name not in weights}
        aside -= {name.split("/")[0] for name in modules}
        if aside:
            notes.append(f"folders left aside: {listed(sorted(aside))}; --include takes files of them")
    chosen = {name for name in chosen if not _matches(name, exclude)}
    if not chosen:
        raise OptionError(
            f"{_shown(model)}: --include and --exclude leave none of its {len(every)} files; among them"
            f" {listed(sorted(every))}"
        )
    for name in sorted(chosen) if include else ():
        if name.endswith(_INDEX):
            _shards(model, name, every, read)
    for group in _sets(name for name in chosen if include):
        _check_numbered(model, group, every)
    check_names(model, chosen)
    files = tuple(every[name] for name in sorted(chosen))
    return Choice(files, tuple(sorted(weights & chosen)), tuple(notes))


def _of_modules(every: Iterable[str]) -> set[str]:
    """The files of sentence-transformers' modules: configs, and of weights those that it loads."""
    names = set(every)
    if "modules.json" not in names:
        return set()
    files = {name for name in names if MODULE_FILE.fullmatch(name)}
    weights = {name for name in files if name.endswith(("/model.safetensors", "/pytorch_model.bin"))}
    older = {name for name in weights if f"{name.rpartition('/')[0]}/model.safetensors" in weights - {name}}
    return {name for name in files if _matches(name, BESIDE) and not name.endswith(_INDEX)} | weights - older


def check_names(model: HubModel, names: Iterable[str]) -> None:
    """Raises UnsafeFileError for a name that leads out of the folder, that not every system can make, or that is
    another's on some (letters' case, forms of Unicode), or another's folder.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in sorted(names):
        parts = name.split("/")
        if (
            "\\" in name
            or not name.isprintable()
            or any(part in {"", ".", ".."} or part.endswith((".", " ")) or ":" in part for part in parts)
            or PureWindowsPath(name).drive
            or _RESERVED.fullmatch(parts[0])
        ):
            raise UnsafeFileError(
                f"{_shown(model)}: names a file {printable(name)!r}, expected a plain path inside the model; nothing"
                " was fetched: --exclude leaves it out"
            )
        key = _folded(name)
        if key in seen:
            raise UnsafeFileError(
                f"{_shown(model)}: holds {printable(seen[key])!r} and {printable(name)!r}, one file on some systems;"
                " nothing was fetched: --exclude leaves one out"
            )
        seen[key] = name
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folders.setdefault(_folded(folder), folder) != folder:
                raise UnsafeFileError(
                    f"{_shown(model)}: holds folders {printable(folder)!r} and"
                    f" {printable(folders[_folded(folder)])!r}, one on some systems; nothing was fetched: --exclude"
                    " leaves one out"
                )
    for key in seen.keys() & folders.keys():
        raise UnsafeFileError(
            f"{_shown(model)}: {printable(seen[key])!r} is a file and a folder; nothing was fetched: --exclude leaves"
            " one out"
        )


def _weights(
    model: HubModel, top: list[str], every: dict[str, HubFile], read: Callable[[HubFile], bytes]
) -> tuple[set[str], str | None]:
    """The files of one set of weights, and its index where there is one."""
    safetensors = [name for name in top if name.endswith(".safetensors")]
    torch = [name for name in top if name.endswith(_TORCH)]
    for ending, candidates, stems in (
        (".safetensors", safetensors, ("model",)),
        (".bin", torch, ("pytorch_model", "pruned_model")),
    ):
        for stem in stems:
            if f"{stem}{ending}" in top:
                return {f"{stem}{ending}"}, None
            if f"{stem}{ending}{_INDEX}" in top:
                return _shards(model, f"{stem}{ending}{_INDEX}", every, read), f"{stem}{ending}{_INDEX}"
            numbered = _only_set(model, [name for name in candidates if name.startswith(f"{stem}-")], every)
            if numbered:
                return numbered, None
        indexes = [name for name in top if name.endswith(f"{ending}{_INDEX}")]
        if len(indexes) > 1:
            raise _ambiguous(model, indexes)
        if indexes:
            return _shards(model, indexes[0], every, read), indexes[0]
        if numbered := _only_set(model, candidates, every):
            return numbered, None
    if safetensors:
        plain = [name for name in safetensors if not name.startswith("adapter_")]
        return set(plain or safetensors), None
    if len(torch) == 1:
        return set(torch), None
    if torch:
        raise _ambiguous(model, torch)
    npz = [name for name in top if name.endswith(".npz")]
    if "weights.npz" in npz or len(npz) == 1:
        return {"weights.npz" if "weights.npz" in npz else npz[0]}, None
    raise ModelNotFoundError(
        f"{_shown(model)}: holds no weights that are read (safetensors, torch, npz) at its top, but"
        f" {listed(sorted(every))}; --include takes any files"
    )


def _only_set(model: HubModel, names: list[str], every: dict[str, HubFile]) -> set[str]:
    """A set `x-00001-of-0000N`, complete."""
    sets = _sets(names)
    if len(sets) > 1:
        raise _ambiguous(model, [group[0] for group in sets])
    for group in sets:
        _check_numbered(model, group, every)
        return set(group)
    return set()


def _sets(names: Iterable[str]) -> list[list[str]]:
    """Names `x-00001-of-0000N`, by x and N."""
    sets: dict[tuple[str, str, str], list[str]] = {}
    for name in sorted(names):
        if match := _NUMBERED.fullmatch(name):
            sets.setdefault((match[1], match[3], match[4]), []).append(name)
    return list(sets.values())


def _check_numbered(model: HubModel, group: list[str], every: dict[str, HubFile]) -> None:
    match = _NUMBERED.fullmatch(group[0])
    assert match is not None  # noqa: S101 - that is how the group came about
    total, width = int(match[3]), len(match[2])
    if total > 100_000:
        raise FormatError(f"{_shown(model)}: {printable(group[0])} names {total} shards, expected at most 100000")
    names = [f"{match[1]}-{number:0{width}}-of-{match[3]}{match[4]}" for number in range(1, total + 1)]
    _check_there(model, printable(group[0]), names, every)


def _shards(model: HubModel, index: str, every: dict[str, HubFile], read: Callable[[HubFile], bytes]) -> set[str]:
    """The files that the index names; they lie beside it, or below."""
    with tempfile.TemporaryDirectory(prefix="netweight-") as folder:
        path = Path(folder, "index.json")
        path.write_bytes(read(every[index]))
        try:
            contents = read_index(path)
        except FormatError as error:
            text = str(error).replace(printable(str(path)), printable(f"{model.id}/{index}"))
            raise type(error)(text) from None
    above, slash, _ = index.rpartition("/")
    shards = [f"{above}{slash}{shard}" for shard in contents.shards]
    _check_there(model, printable(index), shards, every)
    return set(shards)


def _check_there(model: HubModel, by: str, names: Sequence[str], every: dict[str, HubFile]) -> None:
    missing = [name for name in names if name not in every]
    if missing:
        raise FormatError(
            f"{_shown(model)}: {len(missing)} of {len(names)} shards that {by} names are missing on the hub:"
            f" {listed(missing)}; nothing was fetched: choose another revision"
        )


def _ambiguous(model: HubModel, names: list[str]) -> FormatError:
    return FormatError(f"{_shown(model)}: holds several models: {listed(names, 10)}; choose one with --include")


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _shown(model: HubModel) -> str:
    return printable(f"{model.id}@{model.revision}")
