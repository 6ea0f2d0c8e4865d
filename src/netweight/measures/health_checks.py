"""What a scan's numbers are judged by: every check with its thresholds and its advice.

Thresholds are empirical, those of the advice in the documentation of each measure. A value beyond one is a reason to
look, not a verdict: trained models have ill-conditioned matrices and heavy tails and work well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["CHECKS", "LEVELS", "Check", "Level", "judge"]

Level = Literal["critical", "warning", "info"]

LEVELS: tuple[Level, ...] = ("critical", "warning", "info")
"""Worst first."""


@dataclass(frozen=True)
class Check:
    """One thing that is judged: `limits` are (level, threshold), the worst first.

    `worse` says on which side of a threshold a value is at fault, `method` the scan method that measures it, `noun`
    what was not measured without it, `advice` what to do, by level.
    """

    key: str
    label: str
    unit: str
    worse: Literal["above", "below"]
    limits: tuple[tuple[Level, float], ...]
    method: str
    noun: str
    advice: Mapping[Level, str]

    def limit(self, value: float) -> tuple[Level, float] | None:
        """The worst level that `value` reaches, with its threshold; None where nothing is at fault."""
        for level, threshold in self.limits:
            if value > threshold if self.worse == "above" else value < threshold:
                return level, threshold
        return None

    def thresholds(self) -> str:
        """The thresholds on one line: `above 1e3 info, 1e4 warning, 1e5 critical`."""
        if self.unit == "" and all(bound == 0 for _, bound in self.limits):
            return f"any is {self.limits[0][0]}"
        return f"{self.worse} " + ", ".join(f"{self.bound(bound)} {level}" for level, bound in reversed(self.limits))

    def value(self, value: float) -> str:
        """A value in three figures with its unit: 2.73e4, 24.3 dB, 0.12%."""
        text = f"{value:.3g}" if 1e-3 <= abs(value) < 999.5 or value == 0 else f"{value:.2e}"
        return text.replace("e+0", "e").replace("e-0", "e-").replace("e+", "e") + self.unit

    def bound(self, threshold: float) -> str:
        """A threshold as text with its unit: 1e5, 30 dB, 0.1%."""
        return (f"{threshold:g}" if threshold < 1000 else f"{threshold:.0e}".replace("e+0", "e")) + self.unit


def _advice(**texts: str) -> dict[Level, str]:
    return {level: texts[level] for level in LEVELS if level in texts}


_DEAD = _advice(
    info="a few outputs or inputs carry nothing: reserved tokens, or dead units",
    warning="units that carry nothing can be cut out, or show that training lost them",
    critical="much of the tensor carries nothing: cut it out, or look for a fault in training or conversion",
)

CHECKS: tuple[Check, ...] = (
    Check(
        "non_finite", "NaN or infinite values", "", "above", (("critical", 0.0),), "basic_stats", "non-finite values",
        _advice(critical="the model computes NaN: take an earlier checkpoint, or convert again from float32"),
    ),
    Check(
        "all_zero", "tensors that are all zero", "", "above", (("critical", 0.0),), "basic_stats", "zero tensors",
        _advice(critical="the matrix does nothing: cut on purpose (then drop the layer), or never written or loaded"),
    ),
    Check(
        "condition", "condition number", "", "above", (("critical", 1e5), ("warning", 1e4), ("info", 1e3)),
        "spectral", "condition numbers",
        _advice(
            info="nothing to do; keep an eye on it while training",
            warning="small directions are lost in 16 bit and low-rank edits are unstable here: keep it out of them",
            critical="nearly or fully rank-deficient: prune to its rank, and do not invert or merge it by its inverse",
        ),
    ),
    Check(
        "sqnr", "SQNR in int8 per tensor", " dB", "below", (("warning", 30.0), ("info", 40.0)),
        "quantization", "quantization risks",
        _advice(info="quantize per channel", warning="keep 16 bit, or smooth before quantizing (SmoothQuant, AWQ)"),
    ),
    Check(
        "outliers", "extreme outliers", "%", "above", (("critical", 10.0), ("warning", 1.0), ("info", 0.1)),
        "quantization", "outliers",
        _advice(
            info="quantize per channel",
            warning="keep 16 bit, or smooth before quantizing (SmoothQuant, AWQ)",
            critical="do not quantize to 8 bit: the quantiles and the range have nothing to do with each other",
        ),
    ),
    Check(
        # both are information: a square matrix of independent normal numbers has a ratio of 1/4, trained ones less
        "stable_rank", "stable rank / full rank", "", "below", (("info", 0.1), ("info", 0.3)),
        "spectral", "stable ranks",
        _advice(info="few directions hold much of the energy: a candidate for low-rank compression"),
    ),
    Check(
        "dead_rows", "dead rows", "%", "above", (("critical", 10.0), ("warning", 1.0), ("info", 0.0)),
        "sparsity", "dead rows", _DEAD,
    ),
    Check(
        "dead_columns", "dead columns", "%", "above", (("critical", 10.0), ("warning", 1.0), ("info", 0.0)),
        "sparsity", "dead columns", _DEAD,
    ),
    Check(
        "alpha_low", "power-law exponent alpha", "", "below", (("warning", 2.0),), "tail", "exponents alpha",
        _advice(warning="over-trained by WeightWatcher's rule: overfitting or collapsed rank; lower the learning rate"),
    ),
    Check(
        "alpha_high", "power-law exponent alpha", "", "above", (("warning", 6.0),), "tail", "exponents alpha",
        _advice(warning="under-trained by WeightWatcher's rule: hardly any structure was learnt here"),
    ),
)  # fmt: skip
"""Everything that is judged, with its thresholds."""

_BY_KEY = {check.key: check for check in CHECKS}


def judge(key: str, value: float | None) -> Level | None:
    """The level of a value by the check of this key; None where it is fine, or undefined."""
    if value is None or math.isnan(value):
        return None
    limit = _BY_KEY[key].limit(value)
    return None if limit is None else limit[0]
