"""`Scope`: a model to measure from Python, with the method names of the replaced tool."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from netweight.jobs.inputs import Reference
from netweight.run.devices import check_device

if TYPE_CHECKING:
    from netweight.jobs.compare.result import Comparison
    from netweight.jobs.scan.result import ScanResults

__all__ = ["Scope"]


class Scope:
    """A model, by reference: nothing is opened before it is measured.

    `device`: where to compute, "auto", "cpu", "cuda", "cuda:N", "mps", "xpu" or "xpu:N"; raises OptionError for others.
    """

    def __init__(self, ref: Reference, device: str = "auto") -> None:
        self.ref = os.fspath(ref)
        self.device = check_device(device)
        self._last: ScanResults | None = None

    def scan(
        self,
        methods: str | Sequence[str] = ("all",),
        *,
        parallel: bool = True,
        num_workers: int | None = None,
        weights_only: bool = True,
        **settings: Any,
    ) -> ScanResults:
        """{parameter: {measure: {field: value}}} of the weight matrices (of every float tensor, where `weights_only` is
        False); see `netweight.scan`, whose other arguments `settings` are.

        `parallel`: False measures one matrix after another, which gives the same numbers.
        """
        from netweight.jobs.scan.job import scan

        workers = num_workers if parallel else 1
        settings = {"device": self.device, **settings}
        self._last = scan(self.ref, methods=methods, workers=workers, weights_only=weights_only, **settings)
        return self._last

    def compare_with(
        self,
        other: Reference | Mapping[str, Any],
        methods: str | Sequence[str] = ("basic_stats",),
        **settings: Any,
    ) -> Comparison:
        """What differs between this model and `other`: a model, or the results of scanning one.

        Results of `scan` name their model, whose weights are read; of a mapping read back from a file only the numbers
        are known, and only what follows from them is compared. See `netweight.compare`.
        """
        from netweight.jobs.compare.job import compare
        from netweight.jobs.compare.scans import compare_results, mapping_of
        from netweight.jobs.scan.result import ScanResults

        if isinstance(other, ScanResults):
            other = other.ref
        if isinstance(other, Mapping):
            names = [methods] if isinstance(methods, str) else list(methods)
            results = mapping_of(other)
            return compare_results(
                self.scan(names, weights_only=not self._vectors() & results.keys()),
                results,
                names,
                names=(self.ref, "the given results"),
            )
        return compare(self.ref, other, methods=methods, **{"device": self.device, **settings})

    def _vectors(self) -> set[str]:
        """What a scan of the weight matrices alone leaves out."""
        from netweight.params.opening import open_model
        from netweight.passes.subjects import find_subjects

        with open_model(self.ref) as checkpoint:
            return {entry.name for entry in find_subjects(checkpoint, weights_only=True)[1] if entry.asked}

    def print_summary(self, top_issues: int = 10) -> None:
        """Print the layer-by-layer view, the worst matrices and the health of the last scan (of a scan of all measures,
        where there was none).
        """
        from netweight.views.scan import show_scan

        result = self._last if self._last is not None else self.scan()
        show_scan(
            result.rows, top_issues=top_issues, skipped=result.skipped, notes=result.notes, health=result.health()
        )

    def __repr__(self) -> str:
        return f"Scope({self.ref!r}, device={self.device!r})"
