"""The options of `lineage`, and the models that it looks at: sketches made, or loaded from an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from netweight.errors import NetweightError, OptionError, printable
from netweight.jobs.inputs import SUFFIXES, Reference
from netweight.jobs.lineage.sketch import Sketch
from netweight.jobs.lineage.sketching import last_part, name_of, sketch_of
from netweight.run.progress import Progress

__all__ = ["Failed", "Options", "models_in", "names_of", "sketches_of"]

_ADAPTER = "adapter_config.json"
_CONFIG = "config.json"


@dataclass(frozen=True)
class Options:
    """How models are looked at. `workers`: reads at a time. `processes`: at most, where all of a large index is
    compared; a script that asks for more than one needs multiprocessing's guard, `if __name__ == "__main__"`.
    `keep_going`: a model that cannot be read is listed, and the others go on.
    """

    workers: int = 4
    processes: int = 1
    keep_going: bool = True


@dataclass(frozen=True)
class Failed:
    """A model that could not be read, and why."""

    ref: str
    reason: str


def models_in(refs: Sequence[Reference]) -> list[str]:
    """The references, with every folder that is no model but holds some in the place of these, by name."""
    found: list[str] = []
    for ref in refs:
        text = os.fspath(ref)
        try:
            held = _models_of(Path(text))
        except (OSError, ValueError):  # opening it says why
            held = []
        found += held or [text]
    return list(dict.fromkeys(found))


def _models_of(folder: Path) -> list[str]:
    """The models in a folder that is none."""
    return _held(folder) if folder.is_dir() and not _is_model(folder) else []


def _is_model(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return bool({_CONFIG, _ADAPTER, ".metadata"} & names) or any(
        name.startswith(("model", "pytorch_model", "adapter_model")) and name.endswith(SUFFIXES) for name in names
    )


def _held(folder: Path) -> list[str]:
    inside = sorted(folder.iterdir())
    files = [str(path) for path in inside if path.is_file() and path.name.endswith(SUFFIXES)]
    return files + [str(path) for path in inside if path.is_dir() and _has_weights(path)]


def _has_weights(folder: Path) -> bool:
    return _is_model(folder) or any(path.name.endswith(SUFFIXES) for path in folder.iterdir())


def names_of(refs: Sequence[str]) -> list[str]:
    """What the models are called: the last part of each reference, with as many parts before it as tell them apart."""
    names = [name_of(ref) for ref in refs]
    depth = 1
    while len(set(names)) < len(names) and depth < 8:
        depth += 1
        for name in {name for name in names if names.count(name) > 1}:
            for at in [i for i, held in enumerate(names) if held == name]:
                parts = [part for part in refs[at].replace("\\", "/").split("/") if part not in ("", ".", "..")]
                names[at] = "/".join(parts[-depth:])
    if len(set(names)) < len(names):
        twice = next(ref for ref, name in zip(refs, names, strict=True) if names.count(name) > 1)
        raise OptionError(f"{printable(twice)}: is named twice; name every model once")
    return names


def sketches_of(refs: Sequence[str], options: Options, progress: Progress) -> tuple[list[Sketch], list[Failed]]:
    """The sketches of models, one after the other; those that could not be read, where `keep_going` says so."""
    made: list[Sketch] = []
    failed: list[Failed] = []
    known = {last_part(name_of(ref)): ref for ref in refs}
    for ref, name in zip(refs, names_of(refs), strict=True):
        try:
            sketch = sketch_of(ref, name=name, workers=options.workers, known=known)
        except NetweightError as problem:
            if not options.keep_going or len(refs) == 1:
                raise
            failed.append(Failed(ref, str(problem)))
            progress.note(f"{printable(ref)} is left out: {problem}")
        else:
            made.append(sketch)
            progress.advance(1, sketch.about.read_bytes)
    return made, failed
