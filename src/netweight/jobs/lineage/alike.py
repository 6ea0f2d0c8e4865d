"""The tokens that two models share, by spelling or by number."""

from __future__ import annotations

import numpy as np

from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.vocabulary import Vocabulary, read_vocabulary
from netweight.errors import JobError, NetweightError, printable

__all__ = ["shared_tokens"]

_LEAST = 32


def shared_tokens(a: Checkpoint, b: Checkpoint, rows_a: int, rows_b: int) -> tuple[list[tuple[int, int]], str]:
    """(pairs of rows of the two embeddings, how they were paired), in a's order.

    Raises JobError with fewer than 32 of them.
    """
    one, two = _vocabulary(a), _vocabulary(b)
    if one is not None and two is not None:
        pairs = sorted(
            (number, two.ids[token])
            for token, number in one.ids.items()
            if token in two.ids and number < rows_a and two.ids[token] < rows_b
        )
        if len(pairs) >= _LEAST:
            return pairs, f"by the spelling of {len(pairs)} tokens"
    count = min(rows_a, rows_b)
    if count < _LEAST:
        raise JobError(
            f"{printable(a.ref)}, {printable(b.ref)}: share {count} rows of their embeddings, expected {_LEAST} or more"
        )
    why = "" if one is None and two is None else ", since only one of them has a tokenizer that can be read"
    return [(int(i), int(i)) for i in np.arange(count)], f"by the numbers of {count} rows{why}"


def _vocabulary(checkpoint: Checkpoint) -> Vocabulary | None:
    places = [part.place for part in checkpoint.made_of[:1]] or [checkpoint.place]
    if places[0] is None:
        return None
    try:
        return read_vocabulary(places[0])
    except NetweightError:
        return None
