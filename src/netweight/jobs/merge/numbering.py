"""Whether the tokenizers of a merge's models number tokens alike, so that rows of tokens may be paired by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.vocabulary import Vocabulary, read_vocabulary
from netweight.errors import InputError, NetweightError, printable
from netweight.jobs.merge.vocabulary import spans_vocabulary

if TYPE_CHECKING:
    from netweight.jobs.merge.sides import Side
    from netweight.merging.target import Target

__all__ = ["Vocabularies", "check_numbers", "shown"]

_SHOWN = 40  # characters of a token in a message


class Vocabularies:
    """Those of a merge's inputs, by number, each read once, when it is asked for."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        self._checkpoints = checkpoints
        self._read: dict[int, Vocabulary | NetweightError | None] = {}

    def get(self, number: int) -> Vocabulary | None:
        """None where no file says one; raises FormatError, JobError, ReadError as `read_vocabulary`."""
        if number not in self._read:
            place = self._checkpoints[number].place
            try:
                self._read[number] = None if place is None else read_vocabulary(place)
            except NetweightError as problem:
                self._read[number] = problem
        found = self._read[number]
        if isinstance(found, NetweightError):
            raise found
        return found

    def count(self, number: int, rows: int) -> int:
        """How many of the first `rows` numbers have a token; 0 where no vocabulary can be read."""
        try:
            found = self.get(number)
        except NetweightError:
            return 0
        return 0 if found is None else sum(at < rows for at in found.tokens)

    def apart(self, number: int, owner: int, rows: int) -> tuple[str | None, str | None]:
        """(why the first `rows` rows of input `number` must not be paired with `owner`'s by number, a note on them).

        Models number tokens differently where one token has two numbers, or one number two tokens of the tokenizer's
        own model. A number whose added token has another name is a note: fine-tunes rename what was reserved.
        """
        ref = printable(self._checkpoints[number].ref)
        try:
            mine, theirs = self.get(number), self.get(owner)
        except NetweightError as problem:
            return None, f"{ref}: whether it numbers tokens like the others is not known: {problem}"
        if theirs is None or (mine is not None and mine.ids == theirs.ids):
            return None, None
        other = printable(self._checkpoints[owner].ref)
        if mine is None:
            return None, f"{ref}: has no tokenizer that can be read: its tokens are taken to be numbered as in {other}"
        renamed = []
        for at, token in sorted(mine.tokens.items()):
            against = theirs.tokens.get(at)
            if at >= rows or against is None or mine.ids.get(against) == at or theirs.ids.get(token) == at:
                continue
            if token in theirs.ids or against in mine.ids or not (token in mine.added and against in theirs.added):
                return f"number {at} is {shown(token)} in {ref} and {shown(against)} in {other}", None
            renamed.append((at, token, against))
        for token, at in mine.ids.items():  # with gaps in a vocabulary, no number needs to stand in both
            if at < rows and theirs.ids.get(token, at) != at:
                return f"{shown(token)} is number {at} in {ref} and {theirs.ids[token]} in {other}", None
        if not renamed:
            return None, None
        at, token, against = renamed[0]
        more = f" and {len(renamed) - 1} more" if len(renamed) > 1 else ""
        return None, (
            f"{ref}: token {at} is {shown(token)}, in {other} {shown(against)}{more}: added tokens of other names are"
            " merged by number"
        )


def shown(token: str) -> str:
    """A token in a message."""
    return f"'{printable(token, _SHOWN)}'"


def check_numbers(
    targets: Sequence[Target],
    sides: Mapping[int, Side],
    anchor: Side,
    owner: int,
    vocabularies: Vocabularies,
    *,
    allow_mismatch: bool,
) -> list[str]:
    """Notes on models whose tokenizers name a number otherwise, where rows of tokens are merged by number.

    Looks at models with a part in an embedding or a head. Raises InputError where one numbers tokens in another way
    than the tokenizer of the output, number `owner`, unless `allow_mismatch`.
    """
    taking: dict[int, int] = {}
    for target in targets:
        parameter = anchor.parameters.get(target.name)
        if parameter is not None and target.shape and spans_vocabulary(parameter):
            for number in _taking_part(target):
                taking[number] = max(taking.get(number, 0), target.shape[0])
    notes = []
    for number, rows in taking.items():
        if number == owner:
            continue
        fault, note = vocabularies.apart(number, owner, rows)
        notes += [note] if note else []
        if fault and not allow_mismatch:
            raise InputError(
                f"{sides[number].ref}: its tokenizer numbers tokens differently: {fault}: rows that are merged by"
                " number would mix tokens; write tokenizer_source: base (or union, or a model) into the recipe to merge"
                " them by token, or give --allow-mismatch to merge by number all the same"
            )
        notes += (
            [f"tokenizers number tokens differently: {fault}: merged by number (--allow-mismatch)"] if fault else []
        )
    return notes


def _taking_part(target: Target) -> Iterator[int]:
    """The models whose values reach a target: those whose weight is not zero."""
    subject = target.subject
    first = len(target.inputs) - len(subject.model_settings) if subject is not None else 0
    for at, source in enumerate(target.inputs):
        weight = subject.model_settings[at - first].get("weight") if subject is not None and at >= first else None
        if weight is None or weight != 0:
            yield source.model
