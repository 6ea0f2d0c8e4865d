"""The result of `delta`: a row for each model and parameter, sums by group, cosines between task vectors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import fsum, inf, nan, sqrt
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.adapters.references import split_adapters
from netweight.checkpoint.tensor import Skipped
from netweight.columns import Column
from netweight.figures.delta import cosine_heatmap, group_l2_bar
from netweight.jobs.delta.factored import FACTORED, kind_of_factors
from netweight.jobs.delta.page import section_of_delta
from netweight.jobs.kinds import Updates, changed_parameter, kind_from
from netweight.jobs.pages import Reported
from netweight.jobs.role_columns import ROLE_COLUMNS, role_cells
from netweight.measures import drift, update
from netweight.measures.kind import Changed, Kind
from netweight.output.frame import Frame, Framed
from netweight.output.table import Row, json_number, write_csv, write_json, write_parquet
from netweight.params.pairing import Aligned, Coverage

if TYPE_CHECKING:
    from netweight.output.folder import ResultFolder
    from netweight.page.section import Section

__all__ = ["RESERVED", "Delta", "ModelDelta", "ParameterDelta", "result_folder", "write_delta"]

COLUMNS = (
    Column("model", "", "the model's name in the results", "text"),
    Column("param", "", "the parameter's name in the base", "text"),
    Column("shape", "", "its shape", "integers"),
    *drift.COLUMNS,
    Column("elements", "elements", "elements of the parameter", "integer"),
    Column("base_dtype", "", "element type in the base", "text"),
    Column("model_dtype", "", "element type in the model", "text"),
    *ROLE_COLUMNS,
    *FACTORED,
    Column(
        "gram", "", "inner products with every model's task vector of this parameter, in the models' order", "numbers"
    ),
    *update.COLUMNS,
)
"""The columns of delta.parquet; those up to q100 are the columns of per_param_stats.csv."""

PER_PARAM = ("param", "shape", *(c.name for c in drift.COLUMNS))
"""The columns of the per-model CSV files, in their order."""

_FIXED_GROUPS = ("embed", "lm_head", "layer", "attn", "mlp", "norm", "other")


@dataclass(frozen=True)
class ParameterDelta:
    """One parameter: `rows[i]` holds drift's columns for model i, None where it has none; `gram` is float [N][N];
    `spectra[i]` the columns FACTORED where model i's update has factors; `pictures[i]` the histogram of its difference,
    where it was asked for.
    """

    aligned: Aligned
    rows: tuple[Mapping[str, Any] | None, ...]
    gram: tuple[tuple[float, ...], ...]
    spectra: tuple[Mapping[str, Any] | None, ...] = ()
    pictures: tuple[Mapping[str, Any] | None, ...] = ()

    def spectrum(self, model: int) -> Mapping[str, Any]:
        """The fields of FACTORED of model number `model`."""
        return (self.spectra[model] if self.spectra else None) or dict.fromkeys(c.name for c in FACTORED)


@dataclass(frozen=True)
class ModelDelta:
    """One model's sums: `summary` is what summary.json holds; `coverage` the shares of the base's parameters and of the
    model's that were measured; `kind` what the fine-tune is, in one word.
    """

    name: str
    ref: str
    summary: dict[str, Any]
    skipped: tuple[Skipped, ...]
    coverage: Coverage
    kind: Kind


def _sums(rows: Sequence[tuple[ParameterDelta, Mapping[str, Any]]]) -> dict[str, Any]:
    l2 = _norm(row["l2"] for _, row in rows)
    base = _norm(row["base_l2"] for _, row in rows)
    return {
        "l2": l2,
        "l1": _total(row["l1"] for _, row in rows),
        "param_count_approx": sum(p.aligned.base.size for p, _ in rows),
        "relative_l2": json_number(l2 / base) if base and l2 is not None else None,
    }


def _total(values: Iterable[float | None]) -> float | None:
    """The sum, None where it is beyond float64 or a part is."""
    held = list(values)
    try:
        return fsum(v for v in held if v is not None) if None not in held else None
    except OverflowError:
        return None


def _norm(values: Iterable[float | None]) -> float | None:
    """The norm of a whole from those of its parts, None where its square is beyond float64."""
    square = _total(None if v is None else v * v for v in values)
    return None if square is None else sqrt(square)


def _groups(rows: Sequence[tuple[ParameterDelta, Mapping[str, Any]]]) -> dict[str, Any]:
    members: dict[str, list[tuple[ParameterDelta, Mapping[str, Any]]]] = {name: [] for name in _FIXED_GROUPS}
    layers: dict[tuple[str, int], str] = {}
    for pair in rows:
        parameter = pair[0].aligned.parameter
        members[parameter.group].append(pair)
        if parameter.part:
            members[parameter.part].append(pair)
        if parameter.layer is not None and parameter.layer_group is not None:
            layers[parameter.stack, parameter.layer] = parameter.layer_group
            members.setdefault(parameter.layer_group, []).append(pair)
    order = [*_FIXED_GROUPS, *(layers[key] for key in sorted(layers))]
    return {name: _sums(members[name]) for name in order}


class Delta(Reported, Framed):
    """The result of `netweight.delta`.

    `models`: a ModelDelta each, in the order given; `frame`: a row for each model and parameter; `cosines`: [N][N]
    floats, None where a task vector is zero; `parameters`: the rows by parameter that is learned; `apart`: those of
    running statistics and of what the model's code computes, which are only in `not_weights` of the summaries; `notes`:
    findings worth a line;
    `inputs`: the identity of every file that was read, base first; `device`: where it was computed.
    """

    def __init__(
        self,
        base: str,
        names: Sequence[str],
        refs: Sequence[str],
        parameters: Sequence[ParameterDelta],
        skipped: Sequence[tuple[Skipped, ...]],
        coverage: Sequence[Coverage],
        notes: Sequence[str],
        inputs: Sequence[Mapping[str, Any]],
        device: str = "cpu",
        updates: Updates | None = None,
    ) -> None:
        self.base = base
        self._updates = updates or {}
        self.device = device
        self.parameters = tuple(p for p in parameters if p.aligned.parameter.state == "learned")
        self.apart = tuple(p for p in parameters if p.aligned.parameter.state != "learned")
        self.notes = tuple(notes)
        self.inputs = tuple(inputs)
        self.models = tuple(
            self._model(i, name, ref, skipped[i], coverage[i])
            for i, (name, ref) in enumerate(zip(names, refs, strict=True))
        )
        self.cosines = self._cosines()

    @cached_property
    def frame(self) -> Frame:
        """A row for each model and parameter."""
        return Frame(COLUMNS, [row for i in range(len(self.models)) for row in self._rows(i)])

    def section(self) -> Section:
        """See Reported."""
        rows = [p.pictures[i] if p.pictures else None for i in range(len(self.models)) for p, _ in self._measured(i)]
        return section_of_delta(
            self.frame, self.models, self.cosines, self.notes, self.inputs, self.device, rows if any(rows) else ()
        )

    def _measured(self, model: int) -> list[tuple[ParameterDelta, Mapping[str, Any]]]:
        return [(p, row) for p in self.parameters if (row := p.rows[model]) is not None]

    @property
    def coverage(self) -> tuple[Coverage, ...]:
        """The shares of base and model that were measured, by model."""
        return tuple(model.coverage for model in self.models)

    def _model(self, number: int, name: str, ref: str, skipped: tuple[Skipped, ...], coverage: Coverage) -> ModelDelta:
        sides = ("the base", "the model")
        kind = kind_from(self._changed(number), coverage, sides) if self.base else self._of_factors(number)
        summary = self._summary(number, name, ref, skipped, coverage) | {"kind": kind.to_dict()}
        return ModelDelta(name, ref, summary, skipped, coverage, kind)

    def _of_factors(self, model: int) -> Kind:
        """Of an adapter without its base."""
        held = [p for p in self.parameters if p.rows[model] is not None]
        return kind_of_factors([(p.aligned.parameter, p.spectrum(model)["factor_rank"]) for p in held])

    def _changed(self, model: int) -> list[Changed]:
        """Every parameter that one model has, and how many of its values are not the base's."""
        changed = []
        for p, row in self._measured(model):
            a, tensor = p.aligned, p.aligned.models[model]
            assert tensor is not None  # noqa: S101 - a row is only made where the model has the tensor
            same = round((row["unchanged_percentage"] or 0.0) * a.base.size / 100)
            of_base, of_model = (t.stored if t.quantised else "" for t in (a.base, tensor))
            fields = self._updates.get(a.name, {}).get(model)
            changed.append(
                changed_parameter(
                    a.parameter, a.base.shape, a.base.size, a.base.size - same, (of_base, of_model), fields
                )
            )
        return changed

    def _summary(
        self, model: int, name: str, ref: str, skipped: Sequence[Skipped], coverage: Coverage
    ) -> dict[str, Any]:
        rows = self._measured(model)
        total = _sums(rows)
        summary = {
            "global_l2": total["l2"],
            "global_l1": total["l1"],
            "n_params_considered": len(rows),
            "skipped_params": len(skipped),
            "groups": _groups(rows),
            "relative_l2": total["relative_l2"],
            "base_l2": _norm(row["base_l2"] for _, row in rows),
            "elements": total["param_count_approx"],
            "n_nan": sum(row["n_nan"] for _, row in rows),
            "n_inf": sum(row["n_inf"] for _, row in rows),
            "flagged": [{"name": p.aligned.name, "flag": row["flag"]} for p, row in rows if row["flag"]],
            "skipped": [{"name": s.name, "reason": s.reason} for s in skipped],
            "model": name,
            "model_ref": ref,
            "base_ref": self.base,
        }
        apart = [(p.aligned.parameter, row) for p in self.apart if (row := p.rows[model]) is not None]
        if apart:
            summary["not_weights"] = [
                {"name": p.name, "state": p.state, **{c.name: row[c.name] for c in drift.COLUMNS}} for p, row in apart
            ]
        if not coverage.complete:
            summary["measured_share"] = {"base": coverage.a, "model": coverage.b}
        if total["l2"] is None:
            summary["reason"] = "sums of squares beyond the range of float64: see `flagged`"
        return summary

    def _cosines(self) -> list[list[float | None]]:
        """Sum over parameters of <a, b> / (|a| |b|); the diagonal is 1."""
        count = len(self.models)
        norms = [m.summary["global_l2"] for m in self.models]
        cosines: list[list[float | None]] = [[1.0 if i == j else None for j in range(count)] for i in range(count)]
        for i in range(count):
            for j in range(i):
                if norms[i] and norms[j]:
                    cosine = fsum(p.gram[i][j] for p in self.parameters) / (norms[i] * norms[j])
                    cosines[i][j] = cosines[j][i] = max(-1.0, min(1.0, cosine))
        return cosines

    def _rows(self, model: int) -> list[Row]:
        rows: list[Row] = []
        for p, row in self._measured(model):
            a, tensor = p.aligned, p.aligned.models[model]
            assert tensor is not None  # noqa: S101 - a row is only made where the model has the tensor
            fields = self._updates.get(a.name, {}).get(model, {})
            rows.append(
                (
                    self.models[model].name,
                    a.name,
                    list(a.base.shape),
                    *(row[c.name] for c in drift.COLUMNS),
                    a.base.size,
                    a.base.dtype.name,
                    tensor.dtype.name,
                    *role_cells(a.parameter),
                    *p.spectrum(model).values(),
                    list(p.gram[model]),
                    *(fields.get(c.name) for c in update.COLUMNS),
                )
            )
        return rows

    def per_parameter(self, model: int) -> list[Row]:
        """Model number `model`'s rows with the columns PER_PARAM, in the base's file order."""
        return [
            (p.aligned.name, list(p.aligned.base.shape), *(row[c.name] for c in drift.COLUMNS))
            for p, row in self._measured(model)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: the summaries and the cosines."""
        return {
            "base": self.base,
            "models": {m.name: m.summary for m in self.models},
            "pairwise_cosines": {
                m.name: dict(zip([n.name for n in self.models], row, strict=True))
                for m, row in zip(self.models, self.cosines, strict=True)
            },
            "device": self.device,
            "notes": list(self.notes),
            "inputs": list(self.inputs),
        }

    def write(self, outdir: str | Path) -> tuple[str, ...]:
        """Write all result files into `outdir`, replacing an earlier result there in one step; returns notes.

        Raises OutputError where the folder cannot take them, BusyError where another run holds it.
        """
        paths = [Path(part) for i in self.inputs for part in split_adapters(i["path"])]
        with result_folder(outdir, paths, [m.name for m in self.models]) as folder:
            write_delta(self, folder.stage)
            return folder.commit()

    def __repr__(self) -> str:
        return f"<Delta of {len(self.models)} models to {self.base!r}: {len(self.parameters)} parameters>"


RESERVED = ("pairwise_cosines.csv", "pairwise_cosines.png", "delta.parquet", ".netweight.json")
"""Names in the results' folder that no model may have."""

_TOP = 50

_OF_A_MODEL = (
    "per_param_stats.csv",
    f"top{_TOP}_by_l2.csv",
    f"top{_TOP}_by_maxabs.csv",
    "summary.json",
    "group_l2_bar.png",
)


def result_folder(
    outdir: str | PathLike[str], inputs: Sequence[Path], names: Sequence[str], *, resume: bool = False
) -> ResultFolder:
    """The folder of the results of models of these `names`, not entered yet."""
    from netweight.output.folder import ResultFolder

    planned = [*RESERVED[:-1], *(f"{name}/{file}" for name in names for file in _OF_A_MODEL)]
    return ResultFolder(Path(outdir), inputs, "delta", resume=resume, planned=planned)


def preload() -> None:
    """Import what writing needs, so that it is loaded when measuring ends."""
    from netweight.figures.canvas import drawing

    with drawing():
        pass


def write_delta(result: Delta, folder: Path) -> None:
    """Write every result file into the empty `folder`; raises OSError where the disk refuses."""
    columns = [*(c for c in COLUMNS if c.name in ("param", "shape")), *drift.COLUMNS]
    assert tuple(c.name for c in columns) == PER_PARAM  # noqa: S101 - one list of names, two uses
    for number, model in enumerate(result.models):
        model_folder = folder / model.name
        model_folder.mkdir()
        rows = result.per_parameter(number)
        write_csv(model_folder / "per_param_stats.csv", columns, rows)
        for key in ("l2", "maxabs"):
            at = PER_PARAM.index(key)
            if any(row[at] is not None for row in rows) or key == "l2":
                top = sorted(rows, key=partial(_descending, at))
                write_csv(model_folder / f"top{_TOP}_by_{key}.csv", columns, top[:_TOP])
        write_json(model_folder / "summary.json", model.summary)
        groups = {
            name: nan if g["l2"] is None else g["l2"]
            for name, g in model.summary["groups"].items()
            if g["param_count_approx"]
        }
        relative = {name: model.summary["groups"][name]["relative_l2"] for name in groups}
        group_l2_bar(model_folder / "group_l2_bar.png", model.name, groups, relative)
    names = [m.name for m in result.models]
    square = [Column("", "", "the model's name", "text"), *(Column(n, "", "cosine", "number") for n in names)]
    write_csv(folder / "pairwise_cosines.csv", square, [(n, *r) for n, r in zip(names, result.cosines, strict=True)])
    cosine_heatmap(folder / "pairwise_cosines.png", names, result.cosines)
    kinds = {m.name: m.kind.to_dict() for m in result.models}
    write_parquet(
        folder / "delta.parquet",
        COLUMNS,
        result.frame.rows,
        inputs=list(result.inputs),
        metadata={
            "netweight.device": result.device,
            "netweight.kinds": json.dumps(kinds, allow_nan=False),
            "netweight.notes": json.dumps(result.notes),
        },
    )


def _descending(at: int, row: Row) -> float:
    """Largest first; a sum beyond float64 before all others."""
    value = row[at]
    return -inf if value is None else -float(value)
