"""What the statistics of a matrix are, restated with numpy in float64; and matrices to try."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from netweight.dtypes import DTYPES, Kind

FLOATS = [d.name for d in DTYPES.values() if d.kind is Kind.FLOAT]


def sample(kind, name, shape, seed=0):
    """An array of the element type `name`."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[name].to_numpy()
    x = rng.standard_normal(shape)
    if kind == "normal":
        x *= 0.02
    elif kind == "heavy":
        x = rng.standard_t(2, shape) * 0.1
    elif kind == "sparse":
        x = np.where(rng.random(shape) < 0.7, 0.0, x)
    elif kind == "constant":
        x = np.full(shape, 0.75)
    elif kind == "ternary":
        x = rng.integers(-1, 2, shape) * 0.5
    elif kind == "zero":
        x = np.zeros(shape)
    elif kind == "offset":
        x = 1.0 + 0.001 * x
    elif kind == "mixed":  # groups of all magnitudes, dead rows and columns
        x = x * 10.0 ** rng.uniform(-12, 3, (*shape[:-1], 1))
        x[..., ::7] = 0
        x[::5] = 0
    if name == "F8_E8M0":  # powers of two only
        x = np.abs(x) + (x == 0)
    largest = float(ml_dtypes.finfo(dtype).max)
    return np.clip(x, -largest, largest).astype(dtype)


def extreme(kind, name, shape, seed=0):
    """Bit patterns at the ends of the type: subnormal, huge, any finite one, any at all."""
    rng = np.random.default_rng(seed)
    dtype = DTYPES[name].to_numpy()
    unsigned = np.dtype(f"u{dtype.itemsize}")
    bits = rng.integers(0, np.iinfo(unsigned).max, shape, dtype=unsigned, endpoint=True)
    if kind == "subnormal":
        bits = (bits & unsigned.type(3)) | (bits & unsigned.type(1 << (8 * dtype.itemsize - 1)))
    x = bits.view(dtype)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    if kind == "huge":
        largest = wide[np.isfinite(wide)].max(initial=1)
        with np.errstate(invalid="ignore"):
            x = np.where(np.abs(wide) > largest / 1e3, x, dtype.type(1))
            wide = x.astype(np.float64)
    if kind != "any":
        x = np.where(np.isfinite(wide), x, dtype.type(1))
    return np.ascontiguousarray(x)


def cleaned(array):
    """float64, zeros for what is not finite."""
    with np.errstate(invalid="ignore"):
        x = array.astype(np.float64)
    return np.where(np.isfinite(x), x, 0.0)


def group_error(x, levels, *, symmetric):
    """Sum of squared errors of each row of x as one group, in long double."""
    if not x.size:
        return 0.0
    wide = x.astype(np.longdouble)
    low = 0 if symmetric else wide.min(axis=1, keepdims=True)
    reach = np.abs(wide).max(axis=1, keepdims=True) if symmetric else wide.max(axis=1, keepdims=True) - low
    scale = np.where(reach > 0, reach, 1) / levels
    e = (wide - low) - np.rint((wide - low) / scale) * scale
    e = np.where(reach > 0, e, 0)
    return float((e * e).sum())


def grouped(x, size, levels, *, symmetric):
    """Over groups of `size` columns, the last of which may be short."""
    return sum(group_error(x[:, i : i + size], levels, symmetric=symmetric) for i in range(0, x.shape[1], size))


def channel_errors(x):
    """int8 by row, int4 128 symmetric and asymmetric, int4 32 symmetric and asymmetric."""
    return [
        group_error(x, 127, symmetric=True),
        *(grouped(x, size, 7 if s else 15, symmetric=s) for size in (128, 32) for s in (True, False)),
    ]


def fours(x):
    """Whole groups of four along the columns, and those with at least two zeros."""
    whole = x[:, : x.shape[1] // 4 * 4].reshape(x.shape[0], -1, 4)
    return whole.shape[0] * whole.shape[1], int(((whole == 0).sum(axis=2) >= 2).sum())
