"""Folders that hold no model themselves: the models below them, and what they are where there is none."""

from __future__ import annotations

import re
from pathlib import Path

from netweight.checkpoint.file_names import NOT_MODELS, TORCH, is_zero_2, may_be_weights
from netweight.checkpoint.foreign import named_like
from netweight.checkpoint.index import listed
from netweight.checkpoint.place import LocalPlace, Place
from netweight.errors import ModelNotFoundError, printable

__all__ = ["models_below", "nothing_in", "several_below"]

_DIGITS = re.compile(r"([0-9]+)")
_MOST_FOLDERS, _DEEPEST = 1000, 4  # looked into


def models_below(place: Place, names: list[str]) -> list[Path]:
    """The folders below one with the files `names` that hold models, as trainers and hubs leave them (`checkpoint-500`,
    `snapshots/COMMIT`), in the order of their numbers; in a folder of a model none is looked for.

    There are none where the files say by their names what the folder is, and where there are too many folders to look
    into them all.
    """
    if not isinstance(place, LocalPlace) or any(map(_is_told, names)):
        return []
    found: list[Path] = []
    waiting = [(place.folder / name, 1) for name in place.folders()]
    for at, (folder, depth) in enumerate(waiting):
        if at >= _MOST_FOLDERS:
            return []
        if NOT_MODELS.fullmatch(folder.name):
            continue
        try:
            inside = LocalPlace(folder)
            held = inside.names()
            if any(map(may_be_weights, held)) or is_zero_2(held):
                found.append(folder)
            elif depth < _DEEPEST and not folder.is_symlink():
                waiting += [(folder / name, depth + 1) for name in inside.folders()]
        except (OSError, ModelNotFoundError):
            continue  # a folder that may not be read holds nothing to take
    return sorted(found, key=lambda path: [int(w) if w.isdecimal() else w for w in _DIGITS.split(str(path))])


def _is_told(name: str) -> bool:
    return bool(named_like(name)) or may_be_weights(name)


def several_below(place: Place, below: list[Path]) -> ModelNotFoundError:
    """That there are several models below a folder, with their whole paths."""
    shown = ", ".join(repr(printable(str(path), 4096)) for path in below[:10])  # whole, for a reader to copy
    more = f" and {len(below) - 10} more" if len(below) > 10 else ""
    return ModelNotFoundError(
        f"{printable(place.label)}: holds no model itself; {len(below)} are below it: {shown}{more}"
    )


def nothing_in(place: Place, names: list[str]) -> ModelNotFoundError:
    """What a folder with the files `names` is, which holds no model."""
    where = printable(place.label)
    itself = named_like(place.label.rstrip("/\\"))
    if itself:
        return ModelNotFoundError(f"{where}: is {itself}")
    for name in names:
        foreign = named_like(name)
        if foreign:
            then = "" if ":" in foreign else "; expected safetensors, torch, GGUF or npz files"
            return ModelNotFoundError(f"{where}: holds {printable(name)!r}, {foreign}{then}")
    inside = place.folders()
    steps = [name for name in inside if name.startswith("global_step")]
    if steps or any(name.endswith(("_model_states.pt", "_optim_states.pt")) for name in names):
        script = "zero_to_fp32.py in it" if steps else "zero_to_fp32.py in the folder above it"
        return ModelNotFoundError(
            f"{where}: is what DeepSpeed leaves of a training, in parts: make one file of them with {script}"
            " (python zero_to_fp32.py FOLDER OUT)"
        )
    aside = [name for name in names if name.endswith((".safetensors", *TORCH))]
    if aside:
        return ModelNotFoundError(f"{where}: holds no model, only what a trainer leaves beside one: {listed(aside)}")
    hint = f"; its folders: {listed(inside)}" if inside else ""
    endings = ".safetensors, .bin, .pt, .pth, .ckpt, .npz or .gguf"
    return ModelNotFoundError(f"{where}: holds no model: no {endings} file{hint}")
