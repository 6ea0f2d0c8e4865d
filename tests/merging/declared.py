"""A merge by the name of its method: settings as its row declares them, filled up with their defaults."""

from __future__ import annotations

import numpy as np
from in_memory import run_in_memory, subject

from netweight.merging.methods import arcee_fusion, breadcrumbs, dare, della, nearswap, ram, sce, ties

ROWS = {
    method.name: method
    for module in (arcee_fusion, breadcrumbs, dare, della, nearswap, ram, sce, ties)
    for method in module.METHODS
}


def course_of(name, shape, each=({},), *, bits=32, keys=None, **settings):
    """(what a course of the method `name` gets, the course's function)."""
    method = ROWS[name]
    own = {s.name: s.default for s in method.settings if not s.per_model} | settings
    of_models = {s.name: s.default for s in method.settings if s.per_model}
    if "weight" in of_models:
        of_models["weight"] = 1.0
    each = [of_models | given for given in each]
    return subject(shape, models=len(each), each=each, bits=bits, keys=keys, **own), method.course


def merge(name, tensors, each=None, *, bits=32, keys=None, cuts=None, **settings):
    """The output for `tensors` (base first); `cuts` go to `run_in_memory`."""
    tensors = [np.asarray(t) for t in tensors]
    each = [{}] * (len(tensors) - 1) if each is None else each
    what, course = course_of(name, tensors[0].shape, each, bits=bits, keys=keys, **settings)
    return run_in_memory(course, what, tensors, **(cuts or {}))


def same_bits(a, b):
    """Whether two arrays are equal bit for bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def bfloat16_like(values):
    """float32 of which the lower 16 bits are zero, as upcast bfloat16 is."""
    return (np.asarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def models_like(kind, shape, count, seed=0):
    """A base and `count` models near it, float32 or (kind "wide") float64; kind "coarse": as from bfloat16."""
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 0.1, shape)
    found = [base, *(base + rng.normal(0, 0.01, shape) for _ in range(count))]
    if kind == "coarse":
        return [bfloat16_like(t) for t in found]
    return [t.astype(np.float64 if kind == "wide" else np.float32) for t in found]
