"""The plan of a plan: the model opened, its tensors in the units of a back end; no tensor data read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import OptionError, printable
from netweight.jobs.inputs import Reference, notes_of
from netweight.jobs.plan.backends import Backend, backend_of
from netweight.params.opening import open_whole
from netweight.passes.subjects import Subject, find_subjects

if TYPE_CHECKING:
    from pathlib import Path

    from netweight.statistics.formats.table import Format

__all__ = ["Options", "Prepared", "Unit", "prepare"]

_BOTH_ENDS = 10.0
_BITS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:bpw|bits?)", re.IGNORECASE)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt])(i?)b?", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class Options:
    """How a plan is made. `size`: "4.5bpw" (bits for a parameter of the whole model) or "8GB"; `head`, `embedding`: the
    format that these have at least, "any", or None for the back end's rule; `imatrix`: llama.cpp's file of importance;
    `exact`: all rows and experts, not a sample; `workers`: threads; `remote`: read a hub's model by ranges.
    """

    size: str
    backend: str = "gguf"
    head: str | None = None
    embedding: str | None = None
    imatrix: str | Path | None = None
    exact: bool = False
    workers: int | None = None
    remote: bool = False


@dataclass(frozen=True)
class Unit:
    """Matrices that take one format together: `name` is the back end's, `matrices` are all of them, `formats` those
    that all of them can take (none: they are kept as they are).
    """

    name: str
    matrices: tuple[Subject, ...]
    formats: tuple[Format, ...]

    @property
    def role(self) -> str:
        """Of its matrices."""
        return self.matrices[0].parameter.role

    @property
    def weight(self) -> float:
        """How much its squared relative error counts. What is lost in the embedding and the head is in every token:
        benchmarks/plan measures their effect, and that of ten times the weight.
        """
        return _BOTH_ENDS if self.role in ("embedding", "output") else 1.0

    @property
    def elements(self) -> int:
        """Of all matrices."""
        return sum(matrix.part.size for matrix in self.matrices)


@dataclass(frozen=True)
class Prepared:
    """The model opened, its units in file order; `budget`: bits of the whole model; `fixed`: bits of what is in no
    unit, or in one that no format can take.
    """

    checkpoint: Checkpoint
    backend: Backend
    units: tuple[Unit, ...]
    parameters: int
    budget: float
    fixed: int
    notes: tuple[str, ...]


def prepare(ref: Reference, options: Options, stack: ExitStack) -> Prepared:
    """Open the model and sort its tensors; the checkpoint is closed with `stack`. Reads headers only.

    Raises OptionError for options that cannot be, and what opening raises.
    """
    from netweight.params.model import Model

    backend = backend_of(options.backend)
    if options.imatrix is not None and backend.name != "gguf":
        raise OptionError("--imatrix: llama.cpp's importance goes with --format gguf")
    head, embedding = (_least(backend, value, option) for value, option in _asked(options, backend))
    checkpoint = stack.enter_context(open_whole(ref, download=not options.remote))
    model = Model(checkpoint)
    unit_of = backend.unit(model)
    subjects, skipped = find_subjects(checkpoint, split=False)
    rule_of = _rule_of(head, embedding, subjects)
    grouped: dict[str, list[Subject]] = {}
    fixed, parameters, unnamed = 0, 0, []
    for subject in subjects:
        parameters += subject.part.size
        kept = rule_of(subject) == "kept"
        weight = subject.is_matrix and subject.parameter.kind == "weight" and subject.parameter.role not in _NEVER
        name = unit_of(subject.parameter) if weight and not kept else None
        if name is None:
            fixed += subject.part.size * backend.other(2 if subject.is_matrix else 1)
            unnamed += [subject] if weight and not kept else []
        else:
            grouped.setdefault(name, []).append(subject)
    units = []
    for name, held in grouped.items():
        units.append(Unit(name, tuple(held), _taken(backend, held, rule_of(held[0]))))
    fixed += sum(unit.elements * backend.other(2) for unit in units if not unit.formats)
    budget = _budget(options.size, parameters)
    if not any(unit.formats for unit in units):
        raise OptionError(f"{printable(checkpoint.ref)}: no tensor that {backend.name} quantises was found")
    least = fixed + sum(min(one.bits for one in unit.formats) * unit.elements for unit in units if unit.formats)
    if budget < least:
        raise OptionError(
            f"--size {printable(options.size)}: the smallest that {backend.name} gives is {least / parameters:.3f}bpw,"
            f" {least / 8e9:.3g} GB"
        )
    notes = list(notes_of((checkpoint,)))
    if coded := sum(subject.tensor.quantised for subject in subjects):
        notes.append(f"{coded} matrices are quantised already: errors are against what their codes stand for")
    if unnamed:
        share = 100 * sum(subject.part.size for subject in unnamed) / parameters
        notes.append(
            f"{len(unnamed)} matrices ({share:.3g}% of the model) are not in the plan, and count with 16 bits: what"
            f" {backend.name} calls them is not known, such as {printable(unnamed[0].name)}"
        )
    notes += [f"{printable(s.name)}: {s.reason}" for s in skipped if "tied" in s.reason]
    return Prepared(checkpoint, backend, tuple(units), parameters, budget, fixed, tuple(notes))


_NEVER = {"norm", "bias", "moe_gate", "conv"}
"""Roles of weights that no back end quantises."""


def _asked(options: Options, backend: Backend) -> tuple[tuple[str, str], tuple[str, str]]:
    """(what was asked for, the option) of the head and the embedding."""
    head = backend.head if options.head is None else options.head
    embedding = backend.embedding if options.embedding is None else options.embedding
    return (head, "--head"), (embedding, "--embedding")


def _least(backend: Backend, value: str, option: str) -> str:
    """The key of a format, "" or "kept"."""
    usual = backend.head if option == "--head" else backend.embedding
    if value == usual:
        return value
    if usual == "kept":
        raise OptionError(f"{option}: {backend.name} leaves it as it is; leave the option out")
    return "" if value == "any" else backend.format_named(value, option).key


def _rule_of(head: str, embedding: str, subjects: Sequence[Subject]) -> Callable[[Subject], str]:
    """The rule for a matrix: that of the head, of the embedding, or none. Without a head the embedding is one."""
    apart = any(subject.parameter.role == "output" for subject in subjects)
    rules = {"output": head, "embedding": embedding if apart else head}
    return lambda subject: rules.get(subject.parameter.role, "")


def _taken(backend: Backend, held: Sequence[Subject], least: str) -> tuple[Format, ...]:
    """The formats that all of these matrices can take, of as many bits as `least` has."""
    cols = [subject.part.matrix_shape[1] for subject in held]
    fitting = [one for one in backend.formats if all(width % one.block == 0 for width in cols)]
    bits = next((one.bits for one in backend.formats if one.key == least), 0.0)
    return tuple(one for one in fitting if one.bits >= bits)


def _budget(size: str, parameters: int) -> float:
    """Bits of the whole model."""
    if match := _BITS.fullmatch(size.strip()):
        return float(match[1]) * parameters
    if match := _BYTES.fullmatch(size.strip()):
        number, prefix, binary = match.groups()
        return 8 * float(number) * float(1024 if binary else 1000) ** _POWERS[prefix.lower()]
    raise OptionError(f"--size: expected bits for a parameter or bytes, such as 4.5bpw or 8GB, got '{printable(size)}'")
