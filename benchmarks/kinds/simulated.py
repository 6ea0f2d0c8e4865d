"""Simulated fine-tunes of one matrix, and what `update` says of each: the confusion table of docs/measures/update.md.

python benchmarks/kinds/simulated.py
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator

import ml_dtypes
import numpy as np
from threadpoolctl import threadpool_limits

from netweight.dtypes import DTYPES
from netweight.measures.update import derive
from netweight.statistics.task_vector import block_of

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
RELATIVE = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # root mean square of a change, over that of the weights
Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def weights(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Gaussian, with rows and columns of unequal size, as trained matrices have them."""
    by_row, by_col = (np.exp(0.3 * rng.standard_normal(shape)) for shape in ((rows, 1), (1, cols)))
    return 0.02 * rng.standard_normal((rows, cols)) * by_row * by_col


def low_rank(rank: int, decay: float = 0.0) -> Change:
    def change(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
        left = rng.standard_normal((w.shape[0], rank)) * np.arange(1, rank + 1) ** -decay
        return left @ rng.standard_normal((rank, w.shape[1]))

    return change


def power_law(alpha: float) -> Change:
    """Full rank, sigma_i = i^-alpha."""

    def change(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
        short = min(w.shape)
        left, right = (np.linalg.qr(rng.standard_normal((n, short)))[0] for n in w.shape)
        return left * np.arange(1, short + 1) ** -alpha @ right.T

    return change


def noise(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
    return rng.standard_normal(w.shape)


def masked(share: float, *, largest: bool) -> Change:
    """Only so much of a full change: at random, or its largest elements."""

    def change(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
        d = power_law(0.5)(rng, w)
        chosen = np.abs(d) if largest else rng.random(w.shape)
        return d * (chosen >= np.quantile(chosen, 1 - share))

    return change


def with_rows_scaled(change: Change) -> Change:
    """DoRA: rows of base and product together are scaled by learned numbers."""

    def both(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
        d = change(rng, w)
        d *= np.sqrt(np.square(w).mean() / np.square(d).mean())
        return d + rng.standard_normal((w.shape[0], 1)) * w

    return both


def rounded_product(rank: int) -> Change:
    """An adapter whose product is rounded to bfloat16 before it is added."""

    def change(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
        return low_rank(rank)(rng, w).astype(ml_dtypes.bfloat16).astype(np.float64)

    return change


def signs(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
    """The first step of Adam on a gradient of rank 8."""
    return np.sign(low_rank(8)(rng, w))


def decayed(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
    """A full change, and weights that decayed by as much."""
    d = power_law(0.5)(rng, w)
    return d * np.sqrt(np.square(w).mean() / np.square(d).mean()) - w


def rows_differ(rng: np.random.Generator, w: np.ndarray) -> np.ndarray:
    """A full change of rows that learned at rates from 1 to 1000, as those of an embedding do."""
    return rng.standard_normal(w.shape) * 10 ** rng.uniform(0, 3, (w.shape[0], 1))


def cases() -> Iterator[tuple[str, str, Change]]:
    """(what it is, the form that it has, the change before it is scaled)."""
    for rank in (4, 16, 64):
        yield f"LoRA r={rank}", "low rank", low_rank(rank)
    yield "LoRA r=16, sigma_i = 1/i", "low rank", low_rank(16, 1.0)
    yield "LoRA r=16, bfloat16 product", "low rank", rounded_product(16)
    yield "DoRA r=16", "low rank", with_rows_scaled(low_rank(16))
    yield "full, noise", "full", noise
    for alpha in (0.5, 1.0, 1.5, 2.0):
        yield f"full, sigma_i = i^-{alpha:g}", "full", power_law(alpha)
    yield "full, Adam's first step", "full", signs
    yield "full, with weight decay", "full", decayed
    yield "full, rows by 1 to 1000", "full", rows_differ
    for share in (0.01, 0.1, 0.3):
        yield f"mask of {share:.0%}, at random", "sparse", masked(share, largest=False)
    yield "mask of 10%, the largest", "sparse", masked(0.1, largest=True)


def others(w: np.ndarray, kind: type) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """(what it is, its form, base, model) of copies that are no fine-tunes; `w` in `kind`."""
    f32 = w.astype(np.float32)
    if kind is np.float32:
        yield "F32 to BF16", "rounded", w, f32.astype(ml_dtypes.bfloat16)
        yield "F32 to F16", "rounded", w, f32.astype(np.float16)
    if kind is ml_dtypes.bfloat16:
        yield "BF16 to F16", "rounded", w, f32.astype(np.float16)
        yield "BF16 to F32", "unchanged", w, f32
    yield "times 0.9", "scaled", w, (f32 * np.float32(0.9)).astype(kind)
    by_row = np.exp(0.2 * np.random.default_rng(5).standard_normal((len(w), 1))).astype(np.float32)
    yield "rows times 0.7 to 1.5", "scaled", w, (f32 * by_row).astype(kind)
    product = 0.01 * low_rank(16)(np.random.default_rng(6), f32) / 4 * 0.02
    for label, other in TYPES.items():
        if other is not kind:
            yield f"LoRA r=16, in another type ({label})", "low rank", w, (f32 + product).astype(other)
    for share in (0.1, 0.5):
        kept = np.abs(f32) >= np.quantile(np.abs(f32), share)
        yield f"smallest {share:.0%} to zero", "pruned", w, np.where(kept, f32, 0).astype(kind)
    for bits, group in ((4, 32), (4, 128), (8, 128)):
        grouped = f32.reshape(-1, group)
        step = np.abs(grouped).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
        back = (np.rint(grouped / step) * step).reshape(w.shape)
        yield f"int{bits} in {group}s and back", "quantised" if bits == 4 else "full", w, back.astype(kind)


def tried(rows: int, cols: int, seeds: int) -> Iterator[tuple[str, str, str, float, dict[str, object]]]:
    """(case, expected, type, relative size, fields) of every case."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        w = weights(rng, rows, cols)
        for label, kind in TYPES.items():
            base = w.astype(kind)
            wide = base.astype(np.float64)
            for what, expected, change in cases():
                d = change(rng, wide)
                d *= np.sqrt(np.square(wide).mean() / np.square(d).mean())
                for size in RELATIVE:
                    model = (wide + size * d).astype(np.float32).astype(kind)
                    yield what, expected, label, size, fields(base, model)
            for what, expected, before, after in others(base, kind):
                yield what, expected, label, 0.0, fields(before, after)


def fields(base: np.ndarray, model: np.ndarray) -> dict[str, object]:
    name = next(label for label, kind in TYPES.items() if model.dtype == kind)
    return derive(block_of(base.astype(np.float32), model.astype(np.float32), DTYPES[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--cols", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--verbose", action="store_true", help="a line for each trial")
    arguments = parser.parse_args()
    counts: dict[tuple[str, str], Counter[str]] = {}
    with threadpool_limits(1, user_api="blas"):
        for what, expected, label, size, row in tried(arguments.rows, arguments.cols, arguments.seeds):
            form = str(row["update_form"])
            if form == "low rank":
                wanted = what.partition("r=")[2].partition(",")[0]
                form = "rank told" if str(row["update_rank"]) == wanted else "WRONG RANK"
            counts.setdefault((what, expected), Counter())[form] += 1
            if arguments.verbose:
                print(f"{what:28} {label:5} {size:7.0e} {form:10} {row}")
    heads = sorted({form for counted in counts.values() for form in counted})
    print(f"{'what it is':28} {'its form':10} {' '.join(f'{h:>10}' for h in heads)}")
    for (what, expected), counted in counts.items():
        print(f"{what:28} {expected:10} {' '.join(f'{counted[h] or chr(183):>10}' for h in heads)}")


if __name__ == "__main__":
    main()
