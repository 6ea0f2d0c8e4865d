"""The tokens that two models share, by spelling or by number."""

from __future__ import annotations

from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.vocabulary import Vocabulary, read_vocabulary
from netweight.errors import JobError, NetweightError, printable

__all__ = ["shared_tokens"]

_LEAST = 32


def shared_tokens(a: Checkpoint, b: Checkpoint, rows_a: int, rows_b: int) -> tuple[list[tuple[int, int]], str]:
    """(pairs of rows of the two embeddings, how they were paired), in a's order.

    By the spelling of tokens where both say it, else by their numbers. Raises JobError with fewer than 32 of them, and
    where two tokenizers share fewer.
    """
    (one, why_one), (two, why_two) = _vocabulary(a), _vocabulary(b)
    if one is not None and two is not None:
        pairs = sorted(
            (number, two.ids[token])
            for token, number in one.ids.items()
            if token in two.ids and number < rows_a and two.ids[token] < rows_b
        )
        how = f"by the spelling of {len(pairs)} tokens"
    else:
        pairs = [(row, row) for row in range(min(rows_a, rows_b))]
        how = "; ".join([f"by the numbers of {len(pairs)} rows", *filter(None, (why_one, why_two))])
    if len(pairs) < _LEAST:
        raise JobError(
            f"{printable(a.ref)}, {printable(b.ref)}: share {len(pairs)} tokens, expected {_LEAST} or more ({how})"
        )
    return pairs, how


def _vocabulary(checkpoint: Checkpoint) -> tuple[Vocabulary | None, str]:
    """(the vocabulary, why there is none)"""
    place = checkpoint.made_of[0].place if checkpoint.made_of else checkpoint.place
    ref = printable(checkpoint.ref)
    if place is None:
        return None, f"{ref} has no folder with a tokenizer"
    try:
        found = read_vocabulary(place)
    except NetweightError as problem:
        return None, f"the tokenizer of {ref} cannot be read ({problem})"
    return found, "" if found is not None else f"{ref} has no tokenizer"
