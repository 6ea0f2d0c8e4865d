"""Merges by methods that are linear combinations, on arrays: settings by name, defaults from the registry."""

from __future__ import annotations

import numpy as np
from in_memory import run_in_memory, subject

from netweight.merging.method import Base
from netweight.merging.registry import METHODS

CUTS = ({}, {"block": 8192, "seed": 1}, {"block": 4096, "seed": 2}, {"block": 1 << 20, "seed": 3})
"""Ways of cutting the stretches of `run_in_memory` into blocks."""

MERGEKIT = frozenset(
    {"ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "sce"}
    | {"slerp", "nuslerp", "multislerp", "karcher"}
    | {"linear", "task_arithmetic", "model_stock", "nearswap", "passthrough", "arcee_fusion"}
    | {"ram", "ramplus_tl"}
)
"""The methods of mergekit that are promised, and that the recording has."""


def course_of(method, tensors, *, base=None, weights=None, each=None, bits=32, **settings):
    row = METHODS[method]
    has_base = row.base is Base.REQUIRED or bool(base)
    models = len(tensors) - has_base
    own = {s.name: s.default for s in row.settings if s.per_model}
    given = each or [{} if weights is None else {"weight": w} for w in weights or range(models)]
    shared = {s.name: s.default for s in row.settings if not s.per_model} | settings
    return row.course, subject(
        np.shape(tensors[0]), models=models, base=has_base, each=[own | g for g in given], bits=bits, **shared
    )


def merged(method, tensors, *, cuts=None, **given):
    """What `method` makes of `tensors`, the base first where it needs one, or where `base` is true."""
    course, what = course_of(method, tensors, **given)
    return run_in_memory(course, what, tensors, **(cuts or {}))


def vectors(n, shape=(24, 40), seed=0, common=0.5, dtype=np.float32):
    """`n` arrays, the cosine of any two of which is about `common`."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=shape)
    return [(np.sqrt(common) * shared + np.sqrt(1 - common) * rng.normal(size=shape)).astype(dtype) for _ in range(n)]


def near(found, wanted, *, bits=32, condition=1.0):
    """Whether they agree to the arithmetic's rounding, relative to the largest element; `condition`: how many times the
    relative error of what they are made of is found in them.
    """
    tolerance = condition * (2e-6 if bits == 32 else 2e-14)
    scale = max(np.abs(wanted).max(initial=0), np.finfo(np.float32).tiny)
    assert found.dtype == (np.float32 if bits == 32 else np.float64)
    assert np.isfinite(found).all()
    return np.abs(found - wanted).max(initial=0) <= tolerance * scale


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
