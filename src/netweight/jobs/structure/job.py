"""`structure`: what one model is made of, from its headers, and what is left of its base."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.jobs.inputs import SUFFIXES, Reference, locations
from netweight.jobs.pages import Reported
from netweight.jobs.structure.compare import comparison_dict, needs_fingerprints
from netweight.jobs.structure.fields import structure_dict
from netweight.jobs.structure.layers import Fingerprint, LayerKey, fingerprints
from netweight.jobs.structure.model import Analysed, analyse, file_stamps
from netweight.jobs.structure.page import section_of_structures
from netweight.jobs.structure.rows import LAYER_COLUMNS, layer_cells, summary_row
from netweight.jobs.structure.text import summary_text
from netweight.jobs.structure.zero_layers import find_zero_layers
from netweight.output.frame import Frame, Framed
from netweight.page.section import Section
from netweight.params.opening import open_whole
from netweight.run.progress import Progress, Silent

if TYPE_CHECKING:
    from netweight.jobs.structure.zeros import Zeros

__all__ = ["Base", "ModelStructure", "name_of", "structure", "workers_within"]

_PER_WORKER = 64 << 20  # bytes: a large model's header, or blocks of data


class ModelStructure(Reported, Framed):
    """The result of `structure`: `structure` and `comparison` (None without a base) as their JSON files hold them."""

    def __init__(self, fields: dict[str, Any], comparison: dict[str, Any] | None, inputs: Sequence[Path] = ()) -> None:
        self.structure = fields
        self.comparison = comparison
        self._inputs = tuple(inputs)

    def __repr__(self) -> str:
        layers = self.structure["layer_summary"]["num_layers"]
        return (
            f"<ModelStructure {self.structure['model_name']!r}: {self.structure['total_params']:,} parameters,"
            f" {layers} layers>"
        )

    def to_dict(self) -> dict[str, Any]:
        """{"structure": ..., "comparison": ... or None}, ready for JSON."""
        return {"structure": self.structure, "comparison": self.comparison}

    @cached_property
    def frame(self) -> Frame:
        """A row for each layer, and for each base layer that is gone."""
        name = self.structure["model_name"]
        row = summary_row(self.structure, self.comparison, name)
        return Frame(LAYER_COLUMNS, [layer_cells(name, layer) for layer in row.rows])

    def locations(self) -> list[Path]:
        """See Reported."""
        return list(self._inputs)

    def section(self) -> Section:
        """See Reported."""
        return section_of_structures(self.structure["model_name"], [(self.structure, self.comparison)])

    @property
    def text(self) -> str:
        """The lines of structure_summary.txt."""
        return summary_text(self.structure, self.comparison)

    def write(self, folder: Reference) -> tuple[str, ...]:
        """Write model_structure.json, model_comparison.json (with a base) and structure_summary.txt into `folder`, in
        one step; earlier ones are replaced. Returns notes. Raises OutputError and JobError as ResultFolder does.
        """
        from netweight.jobs.structure.files import write_model

        return write_model(Path(folder), self.structure, self.comparison, self._inputs)


class Base:
    """The model that others are compared with, open meanwhile; the fingerprints of its layers are read once."""

    def __init__(self, model: Analysed, *, count_tied_twice: bool) -> None:
        self.model = model
        self.structure = structure_dict(model, find_zero_layers(model), count_tied_twice=count_tied_twice)
        self.files = file_stamps(model.checkpoint)
        self._lock = threading.Lock()
        self._prints: Mapping[LayerKey, Fingerprint] | None = None

    def fingerprints(self) -> Mapping[LayerKey, Fingerprint]:
        """`layers.fingerprints` of the base, read at the first call; any thread may call. Raises ReadError."""
        with self._lock:
            if self._prints is None:
                self._prints = fingerprints(self.model)
            return self._prints

    def compare(self, model: Analysed, pruned: Mapping[str, Any]) -> dict[str, Any]:
        """The comparison of `model`, whose `structure_dict` is `pruned`, with this base, for JSON."""
        prints = self.fingerprints() if needs_fingerprints(model, self.model) else None
        entry = comparison_dict(model, self.model, prints, pruned, self.structure)
        entry["source"] = {"base_ref": self.model.checkpoint.ref, "base_files": self.files}
        return entry


def name_of(ref: Reference) -> str:
    """The name of a model in the results: its folder's name, or its file's without the suffix."""
    path = Path(os.path.abspath(ref))  # noqa: PTH100 - resolve() would name what a link leads to
    name = path.name
    if name.endswith(SUFFIXES) and path.is_file():
        name = name.rpartition(".")[0]
    return name or str(path)


def structure(
    ref: Reference,
    base: Reference | None = None,
    *,
    deep: bool = False,
    remote: bool = False,
    count_tied_twice: bool = False,
    workers: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> ModelStructure:
    """What the model at `ref` is made of, and what is left of `base` in it.

    Reads headers, the first weights of each layer (a layer of zeros whole), and some 20 kB of each where layers were
    removed or added. `deep` reads every weight and
    counts exact zeros, zero rows and columns, with `workers` threads (fewer within `memory` bytes): those of a model of
    a hub from the hub's cache, or by ranges where `remote`. `count_tied_twice` counts tied weights under each name.
    Raises what `open_whole` raises, and ReadError where bytes cannot be read.
    """
    with ExitStack() as stack:
        original = None
        if base is not None:
            opened = stack.enter_context(open_whole(base))
            original = Base(analyse(opened, name_of(base)), count_tied_twice=count_tied_twice)
        checkpoint = stack.enter_context(open_whole(ref, download=deep and not remote))
        described = describe(
            checkpoint,
            name_of(ref),
            original,
            deep=deep,
            count_tied_twice=count_tied_twice,
            workers=workers_within(workers or os.cpu_count() or 1, memory),
            progress=progress,
        )
        inputs = locations([checkpoint, *([opened] if base is not None else [])])
        return ModelStructure(described.structure, described.comparison, inputs)


def workers_within(workers: int, memory: int | None) -> int:
    """How many of `workers` keep within `memory` bytes; one always works."""
    return workers if memory is None else max(1, min(workers, memory // _PER_WORKER))


def describe(
    checkpoint: Any,
    name: str,
    base: Base | None,
    *,
    deep: bool,
    count_tied_twice: bool,
    workers: int,
    progress: Progress | None = None,
) -> ModelStructure:
    """`structure` of an open checkpoint."""
    head_size = base.model.head_size if base is not None else None
    model = analyse(checkpoint, name, compare_tied=deep, head_size=head_size)
    zeros: Zeros | None = None
    if deep:
        from netweight.jobs.structure.zeros import count_zeros

        zeros = count_zeros(model, workers, progress or Silent())
    entry = structure_dict(model, find_zero_layers(model), count_tied_twice=count_tied_twice, zeros=zeros)
    return ModelStructure(entry, base.compare(model, entry) if base is not None else None)
