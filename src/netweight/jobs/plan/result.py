"""The result of `plan`: a format for every unit, how it compares with one format for all, and the back end's file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from netweight.columns import Column
from netweight.output.frame import Frame, Framed

if TYPE_CHECKING:
    from netweight.jobs.plan.choose import Option
    from netweight.jobs.plan.plan import Prepared, Unit
    from netweight.output.table import Row

__all__ = ["COLUMNS", "PlanResult", "Planned", "write_plan"]

COLUMNS = (
    Column("tensor", "", "the back end's name of what takes one format", "text"),
    Column("role", "", "what it is: q_proj, embedding ...", "text"),
    Column("elements", "elements", "of all its matrices", "integer"),
    Column("format", "", "the format it is given, or kept", "text"),
    Column("bits", "", "bits for an element", "number"),
    Column("relative_error", "", "sqrt(sum (x - x')^2 / sum x^2) in it, of sampled rows", "number"),
)


@dataclass(frozen=True)
class Planned:
    """A unit and what it is given: `option` None where no format can take it, and it has `other` bits. `errors`: of
    every format, squared.
    """

    unit: Unit
    option: Option | None
    other: int
    errors: Mapping[str, float]

    @property
    def format(self) -> str:
        """The label of its format, or "kept"."""
        named = {one.key: one.label for one in self.unit.formats}
        return named.get(self.option.key, "kept") if self.option is not None else "kept"

    @property
    def bits(self) -> float:
        """For an element."""
        return self.option.size / self.unit.elements if self.option is not None else float(self.other)

    @property
    def error(self) -> float:
        """Relative."""
        return sqrt(self.errors.get(self.option.key, 0.0)) if self.option is not None else 0.0


class PlanResult(Framed):
    """`rows`: a Planned for each unit, in file order; `curve`: (bits for a parameter, error) of the best plans of all
    sizes; `uniform`: (format, bits, error) with one format for all; `notes`; `inputs`: the identity of the files;
    `exact`: of all rows, not of a sample. Errors of the model are root mean squares of the units' relative errors, by
    their weights.
    """

    def __init__(
        self,
        rows: Sequence[Planned],
        prepared: Prepared,
        curve: Sequence[tuple[float, float]],
        uniform: Sequence[tuple[str, float, float]],
        notes: Sequence[str],
        inputs: Sequence[Mapping[str, Any]],
        *,
        exact: bool,
    ) -> None:
        self.rows = tuple(rows)
        self.ref = prepared.checkpoint.ref
        self.backend = prepared.backend.name
        self.parameters = prepared.parameters
        self.budget = prepared.budget / 8
        self.curve = tuple(curve)
        self.uniform = tuple(uniform)
        self.notes = tuple(notes)
        self.inputs = tuple(inputs)
        self.exact = exact
        used = sum(row.option.size for row in self.rows if row.option is not None)
        self.size = (used + prepared.fixed) / 8
        free = [(row.unit.weight, row.option.cost) for row in self.rows if row.option is not None]
        self.error = sqrt(sum(cost for _, cost in free) / sum(weight for weight, _ in free))

    @property
    def bits(self) -> float:
        """For a parameter of the whole model."""
        return 8 * self.size / self.parameters

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns."""
        return COLUMNS

    @property
    def frame(self) -> Frame:
        """The table: a row for each unit."""
        return Frame(COLUMNS, self._table())

    def _table(self) -> Iterator[Row]:
        for row in self.rows:
            yield row.unit.name, row.unit.role, row.unit.elements, row.format, row.bits, row.error

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.ref,
            "format": self.backend,
            "bytes": round(self.size),
            "bits_per_parameter": self.bits,
            "error": self.error,
            "tensors": [dict(zip((c.name for c in COLUMNS), cells, strict=True)) for cells in self._table()],
            "uniform": [{"format": f, "bits_per_parameter": b, "error": e} for f, b, e in self.uniform],
            "curve": [{"bits_per_parameter": b, "error": e} for b, e in self.curve],
            "notes": list(self.notes),
        }

    def error_at(self, bits: float) -> float | None:
        """The error of the best plan of so many bits for a parameter; None beyond the sizes there are."""
        inside = [point for point in self.curve if point[0] <= bits + 1e-9]
        return inside[-1][1] if inside else None

    def draw(self, path: str | Path) -> None:
        """Draw the error against the size as PNG, in one step; raises OutputError and JobError."""
        from netweight.figures.plan import size_curve
        from netweight.output.result_file import write_file

        chosen = (self.bits, self.error)
        write_file(
            Path(path),
            lambda file: size_curve(file, self.ref, self.curve, self.uniform, chosen),
            [Path(i["path"]) for i in self.inputs],
        )

    def write(self, path: str | Path) -> None:
        """Write the back end's file in one step; raises OutputError and JobError."""
        from netweight.output.result_file import write_file

        write_file(Path(path), lambda file: write_plan(self, file), [Path(i["path"]) for i in self.inputs])


def write_plan(result: PlanResult, path: Path) -> None:
    """The file that the back end takes; raises OSError where the disk refuses."""
    text = {"gguf": _gguf, "compressed-tensors": _compressed, "mlx": _mlx}[result.backend](result)
    path.write_text(text, encoding="utf-8", newline="\n")


def _gguf(result: PlanResult) -> str:
    """For llama-quantize --tensor-type-file: a regular expression and a type on every line, in small letters."""
    lines = []
    for row in result.rows:
        if row.option is not None:
            name = row.unit.name.replace(".", r"\.")
            lines.append(f"^{name}$={row.option.key}")
    return "\n".join(lines) + "\n"


_SCHEMES: dict[str, dict[str, Any]] = {
    "int4_sym": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 128},
    "fp8_channel": {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel"},
}


def _compressed(result: PlanResult) -> str:
    """A recipe of llm-compressor."""
    groups: dict[str, Any] = {}
    for key, weights in _SCHEMES.items():
        targets = [module for row in result.rows if row.option and row.option.key == key for module in _modules(row)]
        if targets:
            groups[key] = {"targets": targets, "weights": dict(weights)}
    kept = [module for row in result.rows if row.option is None or row.option.key == "kept" for module in _modules(row)]
    modifier = {"ignore": ["lm_head", *kept], "config_groups": groups}
    recipe = {"quant_stage": {"quant_modifiers": {"QuantizationModifier": modifier}}}
    text: str = yaml.safe_dump(recipe, sort_keys=False, width=1000)
    return text


def _modules(row: Planned) -> list[str]:
    return [matrix.parameter.name.partition("[")[0].removesuffix(".weight") for matrix in row.unit.matrices]


def _mlx(result: PlanResult) -> str:
    """For the quant_predicate of mlx_lm.convert: {module: its settings, or false}."""
    found: dict[str, Any] = {}
    for row in result.rows:
        quantised = row.option is not None and row.option.key != "kept"
        found[row.unit.name] = {"group_size": 64, "bits": int(row.bits)} if quantised else False
    return json.dumps(found, indent=1) + "\n"
