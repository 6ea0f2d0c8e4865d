"""Finds the models in a folder, names and classifies them by their files' names; opens nothing but JSON beside them,
and headers where it takes these to see which of several files is the model.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from netweight.checkpoint.folder import select
from netweight.errors import FormatError, ModelNotFoundError, NetweightError, OptionError, printable
from netweight.jobs.structure.slices import slice_config

__all__ = ["ANALYSIS", "ModelEntry", "find_models"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz")
_OWN_FILES = ("model.safetensors", "model-0", "pytorch_model.bin", "pytorch_model-0", "pruned_model.bin")
_DEPTH = 3  # folders below an entry that are looked into
ANALYSIS = "analysis"


@dataclass(frozen=True)
class ModelEntry:
    """One entry of the folder: `kind` is "standard", "bin", "slicegpt" or "none"; `analysis` is where its own files go.

    `problem` says why it cannot be opened, or why there is no model; then `kind` is "none". `broken` tells the first
    from the second.
    """

    name: str
    path: Path
    kind: str
    analysis: Path
    problem: str | None = None
    broken: bool = False


def find_models(models_dir: str | os.PathLike[str], leave_out: Path | None = None) -> list[ModelEntry]:
    """Everything in `models_dir`, by name: a folder of weights, one that holds such folders, or a file of weights.

    `leave_out` is a folder of results inside, unless it holds models. Links are followed, each place once. Raises
    OptionError where `models_dir` is no folder or cannot be listed.
    """
    if not os.fspath(models_dir):
        raise OptionError("--models-dir: the name is empty; give the folder of the models")
    folder = Path(models_dir)
    try:
        if not folder.is_dir():
            raise OptionError(f"--models-dir {printable(str(folder))}: is not a folder; give the folder of the models")
        entries = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise OptionError(f"--models-dir {printable(str(folder))}: cannot be listed: {error.strerror}") from None
    name = Path(os.path.abspath(folder)).name or str(folder)  # noqa: PTH100 - `.` and `..` have names, links keep theirs
    seen = {_real(folder): name}
    if leave_out is not None and not _holds_models(leave_out):
        seen[_real(leave_out)] = ""
    models: list[ModelEntry] = []
    whole = _kind_of(folder) if _is_model(entries) else None
    if whole is not None:
        models.append(ModelEntry(name, folder, whole, folder / ANALYSIS))
    for path in entries:
        if path.name.startswith(".") or path.name == ANALYSIS or path.name.endswith(f".{ANALYSIS}"):
            continue
        models += _entry(path, seen, files=whole is None)
    return _distinct(models)


def _distinct(models: list[ModelEntry]) -> list[ModelEntry]:
    """Files that share a name with another entry keep their suffix: `a.bin` beside `a.pt` or the folder `a`."""
    while True:
        counts = Counter(model.name for model in models)
        same = [i for i, model in enumerate(models) if counts[model.name] > 1 and _stem_only(model)]
        if not same:
            return models
        for i in same:
            path = models[i].path
            name = f"{models[i].name}{path.suffix}"
            models[i] = replace(models[i], name=name, analysis=path.with_name(f"{path.name}.{ANALYSIS}"))


def _stem_only(model: ModelEntry) -> bool:
    """Whether a file is called by its name without the suffix."""
    return model.analysis == model.path.with_name(f"{model.path.stem}.{ANALYSIS}")


def _holds_models(folder: Path) -> bool:
    return folder.is_dir() and any(model.kind != "none" for model in _below(folder, folder.name, {}, 0))


def _is_model(entries: list[Path]) -> bool:
    """Whether a folder of `entries` is itself a model, and not a place for single files."""
    return any(path.name == "config.json" or path.name.startswith(_OWN_FILES) for path in entries)


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _entry(path: Path, seen: dict[str, str], *, files: bool) -> Iterator[ModelEntry]:
    try:
        state = path.stat()
    except OSError as error:
        why = "a link that leads to itself" if error.errno == errno.ELOOP else error.strerror
        yield _broken(path.name, path, f"cannot be opened: {why}")
        return
    if not path.is_dir():
        if files and path.name.endswith(_WEIGHTS) and state.st_size:
            yield _file(path, path.stem)
        return
    if seen.get(_real(path)) != "":
        yield from _folder(path, path.name, seen)


def _folder(path: Path, name: str, seen: dict[str, str]) -> Iterator[ModelEntry]:
    """The models of one entry; a single one takes the entry's name and has its analysis there."""
    inside = list(_below(path, name, seen, 0))
    models = [model for model in inside if model.kind != "none"]
    if len(models) == 1:
        only = models[0]
        yield ModelEntry(name, only.path, only.kind, path / ANALYSIS)
        yield from (model for model in inside if model.broken)
    elif models or any(model.broken for model in inside):
        yield from (model for model in inside if model.kind != "none" or model.broken)
    else:
        reason = inside[0].problem if len(inside) == 1 and inside[0].path == path else "no model files"
        yield ModelEntry(name, path, "none", path / ANALYSIS, reason)


def _below(path: Path, name: str, seen: dict[str, str], depth: int) -> Iterator[ModelEntry]:
    real = _real(path)
    if real in seen:
        if seen[real]:
            yield ModelEntry(name, path, "none", path, f"the same folder as {printable(seen[real])}: left out")
        return
    seen[real] = name
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        yield _broken(name, path, f"cannot be listed: {error.strerror}")
        return
    try:
        kind = _kind_of(path)
    except NetweightError as error:
        yield _broken(name, path, str(error))
        return
    if kind is not None:
        yield ModelEntry(name, path, kind, path / ANALYSIS)
        return
    sliced = [
        p for e in entries if (p := Path(e.path)).suffix in _WEIGHTS[1:] and p.is_file() and slice_config([p]).path
    ]
    yield from (_file(file, f"{name}/{file.stem}") for file in sliced)
    if not sliced and any(entry.name.endswith(_WEIGHTS) for entry in entries):
        try:
            select(path)
        except ModelNotFoundError:
            pass  # files of a trainer (optimizer states): the model may be in a folder below
        except NetweightError as error:
            yield _broken(name, path, str(error))
            return
    for entry in entries:
        if depth < _DEPTH and not entry.name.startswith(".") and entry.name != ANALYSIS:
            below = Path(entry.path)
            try:
                is_folder = entry.is_dir()
            except OSError as error:
                yield _broken(f"{name}/{entry.name}", below, f"cannot be opened: {error.strerror}")
                continue
            if is_folder:
                yield from _below(below, f"{name}/{entry.name}", seen, depth + 1)


def _kind_of(folder: Path) -> str | None:
    """The kind of the one model that stands in `folder` itself, None where there is none or the choice is not clear."""
    try:
        files = select(folder).files
    except ModelNotFoundError:
        return None
    except FormatError:
        return None
    return _kind(files)


def _kind(files: tuple[Path, ...]) -> str:
    if files[0].name.endswith(".safetensors"):
        return "standard"
    return "slicegpt" if slice_config(files).path is not None else "bin"


def _file(path: Path, name: str) -> ModelEntry:
    return ModelEntry(name, path, _kind((path,)), path.with_name(f"{path.stem}.{ANALYSIS}"))


def _broken(name: str, path: Path, why: str) -> ModelEntry:
    text = why if why.startswith(printable(str(path))[:20]) else f"{printable(str(path))}: {why}"
    return ModelEntry(name, path, "none", path / ANALYSIS, text, broken=True)
