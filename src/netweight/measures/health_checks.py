"""What a scan's numbers are judged by: every check with its thresholds and its advice.

Critical and warning are levels of checks that tell a planted fault from none (`benchmarks/health`: next to no trained
model has such a finding). The rest is information: trained models that work well have ill-conditioned matrices, heavy
tails and outliers, and matrices that never were trained have some of it too. Its thresholds are empirical.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from netweight.measures.siblings import NEAR_NOISE

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
        """The thresholds on one line: `above 0% info, 1% warning, 10% critical`, `above 1e3, 1e4: info`."""
        if self.unit == "" and all(bound == 0 for _, bound in self.limits):
            return f"any is {self.limits[0][0]}"
        bounds = [(self.bound(bound), level) for level, bound in reversed(self.limits)]
        if len(bounds) > 1 and len({level for _, level in bounds}) == 1:
            return f"{self.worse} {', '.join(bound for bound, _ in bounds)}: {bounds[0][1]}"
        return f"{self.worse} " + ", ".join(f"{bound} {level}" for bound, level in bounds)

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
        "scale", "root mean square off its siblings'", "x", "above", (("critical", 20.0),), "basic_stats", "scales",
        _advice(critical="a layer out of scale with all of its kind: scaled by mistake, or in another unit"),
    ),
    Check(
        "noise", "largest singular value, over that of noise, unlike its siblings'", "x", "below",
        (("critical", NEAR_NOISE),), "spectral", "likeness to noise",
        _advice(critical="no direction stands out as in its siblings: shuffled, begun anew or never trained"),
    ),
    Check(
        "copy", "the same values as a tensor before it", "", "above", (("info", 0.0),), "basic_stats", "copies",
        _advice(info="meant in stacked models (passthrough); else a layer was saved twice"),
    ),
    Check(
        "grid", "different values", "", "below", (("info", 257.0),), "basic_stats", "different values",
        _advice(info="values of a code of 8 bits or less, stored as floats: quantised before, so not what was trained"),
    ),
    Check(
        "code", "rounded to the values of a code", " values", "below", (("info", 289.0),), "within", "codes",
        _advice(info="quantised before and stored as floats: not what was trained, and the code takes less room"),
    ),
    Check(
        "bits", "significant bits", "", "below", (("info", 5.0),), "within", "codes",
        _advice(info="values of a float of 8 bits or less, stored wider: as such they take less room and lose nothing"),
    ),
    Check(
        "zero_heads", "heads that are all zero", "", "above", (("warning", 0.0),), "within", "heads",
        _advice(warning="heads that do nothing: cut on purpose, or lost"),
    ),
    Check(
        "head_scale", "root mean square of a head off the others'", "x", "above", (("warning", 20.0),),
        "within", "heads",
        _advice(warning="a head out of scale with the others: scaled by mistake, or it does nearly nothing"),
    ),
    Check(
        "head_noise", "largest singular value of a head, over that of noise, unlike the others'", "x", "below",
        (("warning", NEAR_NOISE),), "within", "heads",
        _advice(warning="no direction stands out as in the other heads: shuffled, begun anew or never trained"),
    ),
    Check(
        "tokens", "token rows that training did not make", "%", "above", (("info", 0.0),), "within", "token rows",
        _advice(info="text does not lead to these tokens, or did not in training: `netweight embeddings` names them"),
    ),
    Check(
        "condition", "condition number", "", "above", (("info", 1e5), ("info", 1e4), ("info", 1e3)),
        "spectral", "condition numbers",
        _advice(info="small directions are lost in 16 bit, and low-rank edits are unstable here"),
    ),
    Check(
        "sqnr", "SQNR in int8 per tensor", " dB", "below", (("info", 30.0), ("info", 40.0)),
        "quantization", "quantization risks",
        _advice(info="quantize per channel; below 30 dB smooth before quantizing (SmoothQuant, AWQ), or keep 16 bit"),
    ),
    Check(
        "outliers", "extreme outliers", "%", "above", (("info", 10.0), ("info", 1.0), ("info", 0.1)),
        "quantization", "outliers",
        _advice(info="quantize per channel; above 1% smooth before quantizing (SmoothQuant, AWQ), or keep 16 bit"),
    ),
    Check(
        # a square matrix of independent normal numbers has a ratio of 1/4, trained ones less
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
        "alpha_low", "power-law exponent alpha", "", "below", (("info", 2.0),), "tail", "exponents alpha",
        _advice(info="over-trained by WeightWatcher's rule: overfitting or collapsed rank; lower the learning rate"),
    ),
    Check(
        "alpha_high", "power-law exponent alpha", "", "above", (("info", 6.0),), "tail", "exponents alpha",
        _advice(info="under-trained by WeightWatcher's rule: hardly any structure was learnt here"),
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
