"""From a reference to an open checkpoint: a folder, an index, or a file of any supported format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from netweight.checkpoint.config import read_config
from netweight.checkpoint.folder import Selection, select, select_index
from netweight.checkpoint.index import join
from netweight.checkpoint.kinds import kind_of
from netweight.checkpoint.part import Part
from netweight.checkpoint.safetensors import read_safetensors
from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.torch_legacy import read_torch_legacy
from netweight.checkpoint.torch_tar import read_torch_tar
from netweight.checkpoint.torch_zip import read_torch_zip
from netweight.errors import FormatError, ModelNotFoundError, did_you_mean, printable
from netweight.source.local import open_local
from netweight.source.protocol import Source

__all__ = ["open_checkpoint"]

_HUB = re.compile(r"(hf://)?[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")
_READERS: dict[str, Callable[[Source], Part]] = {
    "safetensors": read_safetensors,
    "torch zip": read_torch_zip,
    "torch legacy": read_torch_legacy,
    "torch tar": read_torch_tar,
}


def open_checkpoint(ref: str | os.PathLike[str]) -> Checkpoint:
    """Open the checkpoint at `ref`, a folder or a file; headers are read, tensor data is not.

    Raises ModelNotFoundError where `ref` leads to no model, FormatError where a file is not what it should be,
    UnsafeFileError where one asks for code or for files outside its folder, ReadError where bytes cannot be read.
    """
    name = os.fspath(ref)
    if not name:
        raise ModelNotFoundError("the model reference is empty; expected a folder or a file")
    path = Path(name)
    try:
        found = path.stat()
    except (OSError, ValueError) as problem:
        raise _not_found(name, problem) from None
    if path.is_dir():
        return _open_selection(name, path, select(path))
    if name.endswith(".index.json") and found.st_size:
        return _open_selection(name, path.parent, select_index(path))
    return _open_selection(name, path.parent, Selection((path,)))


def _open_selection(ref: str, folder: Path, selection: Selection) -> Checkpoint:
    parts = [_read(path) for path in selection.files]
    notes = list(selection.notes)
    if len(parts) == 1 and selection.index is None:
        tensors = parts[0].tensors
    else:
        tensors, findings = join(parts, selection.index)
        notes += findings
    formats = {part.format for part in parts}
    if not tensors and formats != {"safetensors"}:
        raise FormatError(f"{printable(ref)}: holds no tensors{_instead(parts)}")
    if selection.index and selection.index.total_size is not None:
        total = sum(tensor.nbytes for tensor in tensors.values())
        if total != selection.index.total_size:
            notes.append(
                f"{printable(selection.index.path.name)}: total_size is {selection.index.total_size} bytes, "
                f"the tensors take {total}"
            )
    config, problem = read_config(folder)
    return Checkpoint(
        ref,
        tensors,
        format=" + ".join(sorted(formats)),
        files=tuple(part.file for part in parts),
        config=config,
        config_problem=problem,
        metadata={key: value for part in reversed(parts) for key, value in part.metadata.items()},
        skipped=tuple(skipped for part in parts for skipped in part.skipped),
        notes=(*notes, *(note for part in parts for note in part.notes)),
        shared={alias: name for part in parts for alias, name in part.shared.items()},
        sources=tuple(part.source for part in parts),
    )


def _read(path: Path) -> Part:
    source = open_local(path)
    return _READERS[kind_of(source)](source)


def _instead(parts: list[Part]) -> str:
    skipped = [entry for part in parts for entry in part.skipped][:3]
    return "".join(f"; {printable(entry.name)!r}: {entry.reason}" for entry in skipped)


def _not_found(name: str, problem: OSError | ValueError) -> ModelNotFoundError:
    if isinstance(problem, OSError) and not isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        return ModelNotFoundError(f"{printable(name)}: cannot be opened: {problem.strerror}")
    hub = name.startswith("hf://") or (_HUB.fullmatch(name) and not Path(name).parent.is_dir())
    if hub:
        return ModelNotFoundError(
            f"{printable(name)}: there is no such file or folder, and references to a hub are not supported by this "
            "version; download the model and name its folder"
        )
    try:
        siblings = [path.name for path in Path(name).parent.iterdir()]
    except (OSError, ValueError):
        siblings = []
    return ModelNotFoundError(
        f"{printable(name)}: there is no such file or folder{did_you_mean(Path(name).name, siblings)}"
    )
