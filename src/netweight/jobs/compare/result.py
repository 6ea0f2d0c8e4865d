"""The result of `compare`: a mapping of parameters to their differences, with the table, totals and files of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from netweight.checkpoint.tensor import Skipped
from netweight.columns import Column
from netweight.errors import printable
from netweight.jobs.compare.parameter import PARAMETER_COLUMNS, ParameterComparison
from netweight.jobs.compare.quantisation import quantisation_of
from netweight.jobs.compare.totals import by_block, totals_of
from netweight.jobs.kinds import changed_parameter, kind_from
from netweight.jobs.pages import Reported, card_of, only_in, section_of
from netweight.jobs.role_columns import role_cells
from netweight.jobs.scan.result import check_output, finite
from netweight.measures import update
from netweight.measures.between import between_columns
from netweight.measures.change import COLUMNS, change_score, is_adapted, is_frozen
from netweight.measures.kind import Kind
from netweight.output.frame import Frame, Framed
from netweight.output.table import Row, write_csv, write_json, write_parquet
from netweight.page.section import Section
from netweight.params.pairing import Coverage

__all__ = [
    "PARAMETER_COLUMNS",
    "Comparison",
    "ParameterComparison",
    "check_output",
    "find_most_changed_layers",
    "write_comparison",
]


class Comparison(Reported, Framed, dict[str, Any]):
    """The result of `netweight.compare`: {common_layers, only_in_model1, only_in_model2, layer_comparisons}.

    `layer_comparisons` is {parameter: {field: value}} of what is learned; a number that is not defined is NaN here, a
    ratio to zero infinite, and both are null in files. `parameters`: a ParameterComparison each; `apart`: those of
    running statistics and of what the model's code computes, which are in nothing else here (`not_weights` in files);
    `totals` and `groups` ({embed, layer_0 ...: sums}) over what was compared; `identical`, `frozen` and `adapted`:
    names of parameters whose every value is finite and the same, whose norm is within 1%, and beyond 10%
    (measures.change); `skipped`: what was left out, with its reason; `failed`: those whose bytes could not
    be read; `notes`: findings worth a line; `inputs`: the identity of the files; `device`: where it was computed;
    `quantisation`: what it did, where either side is quantised, else None;
    `kind`: what B is to A in one word (measures.kind), None where only summary numbers are known,
    and of two adapters;
    `coverage`: the shares of A's parameters and of B's that were compared, None where only summary numbers are known.
    """

    def __init__(
        self,
        ref_a: str,
        ref_b: str,
        parameters: Sequence[ParameterComparison],
        *,
        methods: Sequence[str] = (),
        only_in_a: Sequence[str] = (),
        only_in_b: Sequence[str] = (),
        skipped: Sequence[Skipped] = (),
        failed: Sequence[Skipped] = (),
        notes: Sequence[str] = (),
        inputs: Sequence[Mapping[str, Any]] = (),
        device: str = "cpu",
        coverage: Coverage | None = None,
        updates: bool = False,
    ) -> None:
        """`updates`: A and B are what two adapters add to their base, and neither is a fine-tune of the other."""
        self._updates = updates
        apart = tuple(p for p in parameters if p.parameter.state != "learned")
        parameters = [p for p in parameters if p.parameter.state == "learned"]
        super().__init__(
            common_layers=[p.name for p in parameters],
            only_in_model1=list(only_in_a),
            only_in_model2=list(only_in_b),
            layer_comparisons={p.name: p.metrics for p in parameters},
        )
        self.refs = (ref_a, ref_b)
        self.parameters = tuple(parameters)
        self.apart = apart
        self.methods = tuple(methods)
        self.skipped = tuple(skipped)
        self.failed = tuple(failed)
        self.notes = tuple(notes)
        self.inputs = tuple(inputs)
        self.device = device
        self.coverage = coverage
        measured = [(p, p.metrics) for p in parameters if p.metrics["comparable"]]
        # NaN at one place of both may hide different bits, and NaN on one side a change: neither counts as the same
        self.identical = tuple(p.name for p, m in measured if m["identical_percentage"] == 100 and not m["n_nonfinite"])
        self.frozen = tuple(p.name for p, m in measured if is_frozen(m))
        self.adapted = tuple(p.name for p, m in measured if is_adapted(m))
        self.totals = totals_of(p.pairs for p in parameters)
        self.groups = {name: totals_of(p.pairs for p in held) for name, held in by_block(parameters).items()}
        self.quantisation = quantisation_of(self.parameters)
        self.kind = self._kind()

    def _kind(self) -> Kind | None:
        changed = [
            changed_parameter(
                p.parameter,
                p.shape or (),
                p.pairs.n + p.pairs.n_nonfinite,
                p.pairs.n + p.pairs.n_nonfinite - p.pairs.n_identical,
                _coded(p),
                p.metrics if "update_form" in p.metrics else None,
            )
            for p in self.parameters
            if p.pairs is not None
        ]
        if self._updates or not (changed or self.coverage is not None):
            return None
        return kind_from(changed, self.coverage, ("A", "B"))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns."""
        return (*PARAMETER_COLUMNS, *COLUMNS, *between_columns(self.methods), *update.COLUMNS)

    @property
    def frame(self) -> Frame:
        """The table: a row for each common parameter."""
        return Frame(self.columns, self._rows())

    def _rows(self) -> Iterator[Row]:
        fields = self.columns[len(PARAMETER_COLUMNS) :]
        for p in self.parameters:
            yield (
                p.name,
                p.name_b,
                None if p.shape is None else list(p.shape),
                None if p.shape_b is None else list(p.shape_b),
                p.dtype,
                p.dtype_b,
                p.stored,
                p.stored_b,
                *p.bits,
                *role_cells(p.parameter),
                *(_cell(p.metrics, column) for column in fields),
            )

    def section(self) -> Section:
        """See Reported."""
        kind = [] if self.kind is None else [("in one word", str(self.kind))]
        sides = zip(self.refs, ("only_in_model1", "only_in_model2"), strict=True)
        alone = [(str(name), only_in(ref)) for ref, key in sides for name in self[key]]
        return section_of(
            "compare",
            " | ".join(self.refs),
            self.columns,
            self.frame.rows,
            card=[*kind, *card_of(self.inputs, self.device)],
            notes=self.notes,
            skipped=[*((s.name, s.reason) for s in (*self.skipped, *self.failed)), *alone],
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe, NaN and infinities None: the mapping, and after it what else is known."""
        fields: dict[str, Any] = {
            **self,
            "model1": self.refs[0],
            "model2": self.refs[1],
            "methods": list(self.methods),
            "kind": None if self.kind is None else self.kind.to_dict(),
            "totals": self.totals,
            "groups": self.groups,
            "identical_layers": list(self.identical),
            "frozen_layers": list(self.frozen),
            "adapted_layers": list(self.adapted),
            "skipped": [{"name": s.name, "reason": s.reason} for s in (*self.skipped, *self.failed)],
            "device": self.device,
            "notes": list(self.notes),
            "inputs": list(self.inputs),
        }
        if self.quantisation is not None:
            fields["quantisation"] = self.quantisation.to_dict()
        if self.apart:
            fields["not_weights"] = {p.name: {"state": p.parameter.state, **p.metrics} for p in self.apart}
        if self.coverage is not None and not self.coverage.complete:
            fields["compared_share"] = {"model1": self.coverage.a, "model2": self.coverage.b}
        return {key: finite(value) for key, value in fields.items()}

    def write(self, path: str | Path) -> None:
        """Write `path` as its suffix says (.json, .csv, .parquet), in one step.

        Raises OptionError for another suffix, OutputError and JobError where the file cannot be written.
        """
        from netweight.output.result_file import write_file

        target = check_output(path)
        write_file(target, lambda file: write_comparison(self, file), [Path(i["path"]) for i in self.inputs])

    def __repr__(self) -> str:
        a, b = (printable(ref) for ref in self.refs)
        return f"<comparison of {a!r} with {b!r}: {len(self.parameters)} common parameters>"


def find_most_changed_layers(
    comparison: Mapping[str, Any], top_k: int = 10
) -> list[tuple[str, float, Mapping[str, Any]]]:
    """The `top_k` parameters of the highest change score: (name, score, its fields), most changed first.

    `comparison` is a Comparison, or the mapping that its JSON file holds. What could not be compared is left out.
    Raises ValueError for a negative `top_k`.
    """
    if top_k < 0:
        raise ValueError(f"top_k {top_k}: expected 0 or more")
    scored = [
        (name, score, metrics)
        for name, metrics in comparison["layer_comparisons"].items()
        if not isnan(score := change_score(metrics))
    ]
    return sorted(scored, key=lambda entry: -entry[1])[:top_k]


def _coded(p: ParameterComparison) -> tuple[str, str]:
    """How either side has it, where that is as codes of a quantisation."""
    a, b = (
        (stored or "") if decoded else "" for stored, decoded in zip((p.stored, p.stored_b), p.decoded, strict=True)
    )
    return a, b


def _cell(metrics: Mapping[str, Any], column: Column) -> Any:
    name, _, key = column.name.partition(".")
    value = metrics.get(name)
    value = finite(value[key] if key and isinstance(value, Mapping) else value)
    return int(value) if column.type == "integer" and value is not None else value


def write_comparison(result: Comparison, path: Path) -> None:
    """Write the form that the suffix of `path` names; raises OSError where the disk refuses."""
    match path.suffix.lower():
        case ".json":
            write_json(path, result.to_dict())
        case ".csv":
            write_csv(path, result.columns, result.frame.rows)
        case _:
            about = result.to_dict()
            recorded = ("only_in_model1", "only_in_model2", "skipped", "device", "notes", "totals", "kind")
            write_parquet(
                path,
                result.columns,
                result.frame.rows,
                inputs=list(result.inputs),
                metadata={f"netweight.{key}": json.dumps(about[key], allow_nan=False) for key in recorded},
            )
