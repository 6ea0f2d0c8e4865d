"""What the ends of a quantised weight must be, whatever its format: no code is beyond them, and some are there."""

from __future__ import annotations

import pickle

import numpy as np

from netweight.checkpoint.tensors.ends import ends_of


def low_and_high(tensor):
    """(The lower, the upper) end of every element, float64; a negative scale turns them."""
    ends = pickle.loads(pickle.dumps(ends_of(tensor)))
    with np.errstate(all="ignore"):
        low = ends.low.read().astype(np.float64)
        high = -low if ends.high is None else ends.high.read().astype(np.float64)
    return np.minimum(low, high), np.maximum(low, high)


def check_ends(tensor):
    """Of a weight of random codes."""
    with np.errstate(all="ignore"):
        values = tensor.read().astype(np.float64)
    low, high = low_and_high(tensor)
    assert low.shape == tensor.shape
    good = np.isfinite(values) & np.isfinite(low) & np.isfinite(high)
    assert (low[good] <= values[good]).all()
    assert (values[good] <= high[good]).all()
    if np.count_nonzero(good & (low < high)) > 4000:
        assert (values == low)[good & (low < high)].any()
        assert (values == high)[good & (low < high)].any()
