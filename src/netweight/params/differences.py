"""A fine-tune less its base: what training changed, as a model of differences."""

from __future__ import annotations

from netweight.checkpoint.tensor import Checkpoint, Skipped, Tensor
from netweight.checkpoint.tensors.difference import DifferenceTensor
from netweight.dtypes import DTYPES
from netweight.errors import InputError, printable
from netweight.params.pairing import pair_up

__all__ = ["differences"]


def differences(tuned: Checkpoint, base: Checkpoint) -> tuple[Checkpoint, tuple[Skipped, ...]]:
    """tuned - base, under the names and in the layout of `tuned`, in float32; and what has no difference, with reasons.

    A note says what is measured, and what share of the fine-tune. Raises InputError where nothing is left to measure.
    """
    pairing = pair_up(tuned, base, labels=("the model", "the base"))
    made: dict[str, Tensor] = {
        pair.name: DifferenceTensor(pair.name, pair.a.shape, DTYPES["F32"], pair.a, pair.b)
        for pair in pairing.pairs
        if not pair.reason
    }
    if not made:
        first = next(iter(pairing.left_out))
        raise InputError(
            f"{printable(tuned.ref)} less {printable(base.ref)}: no parameter is in both with one shape"
            f" ({printable(first.name)!r}: {first.reason}); give the model that it was fine-tuned from"
        )
    found = tuned.with_tensors(made, {})
    found.ref = f"{tuned.ref} - {base.ref}"
    share = pairing.coverage.a
    which = "" if share == 1.0 else f", {100 * share:.3g}% of its parameters: the others are listed below"
    what = f"measured: what {printable(tuned.ref)} has more than {printable(base.ref)}, not its weights{which}"
    found.notes = (what, *pairing.notes)
    found.skipped = tuned.skipped
    return found, pairing.left_out
