"""Embeddings and heads by token: which row of which model each token of the output gets.

A token's row counts where the token is the same, whatever number each tokenizer gives it. A model that lacks a token
gets for it the row of the base; where that lacks it too, of the only model that has it, or the mean of those that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.checkpoint.tensors.token_rows import MEAN, ZERO, TokenRows
from netweight.checkpoint.vocabulary import Vocabulary
from netweight.dtypes import DTYPES
from netweight.errors import InputError, OptionError, printable
from netweight.jobs.merge.numbering import Vocabularies, shown
from netweight.jobs.merge.output_tokenizer import Added
from netweight.merging.recipe.tokens import BASE, UNION, TokenizerChoice
from netweight.params.model import Model
from netweight.params.tied import token_embedding

if TYPE_CHECKING:
    from netweight.jobs.merge.sides import Side
    from netweight.merging.recipe.recipe import Recipe

__all__ = ["ByToken", "rows_by_token"]

Numbers = np.ndarray[Any, np.dtype[np.int64]]
_LACKS = -1
_FAR = 1 << 16  # rows that a tokenizer may count beyond its model's embedding: added tokens without rows


class ByToken:
    """How the rows of a merge are found by token. `owner` is the input whose tokenizer the output has, `rows` what its
    embeddings count, `ids` its tokens with their numbers, `added` those that the owner's tokenizer lacks.
    """

    def __init__(
        self,
        owner: int,
        base: int | None,
        rows: int,
        ids: Mapping[str, int],
        own: Mapping[int, Numbers],
        rules: Mapping[int, tuple[int, int] | None],
        forced: frozenset[int],
        added: Added,
    ) -> None:
        self.owner = owner
        self.rows = rows
        self.added = added
        self._base = base
        self._tokens = {number: token for token, number in ids.items()}
        self._own = own
        self._rules = rules
        self._forced = forced

    @property
    def digest(self) -> str:
        """Changes with every row."""
        state = xxhash.xxh3_128(repr((self.owner, self.rows, self.added, self._rules, self._forced)).encode())
        for number, rows in self._own.items():
            state.update(b"%d" % number)
            state.update(rows.tobytes())
        return state.hexdigest()

    def tensor(self, side: int, tensors: Mapping[int, Tensor]) -> Tensor:
        """The parameter of model `side` with the output's rows; `tensors` is the parameter in every model, by number,
        all of one width.
        """
        mine = self._held(side, tensors[side]).copy()
        if not self._forced and tensors[side].shape[0] == self.rows and np.array_equal(mine, np.arange(self.rows)):
            return tensors[side]
        mine[list(self._forced)] = _LACKS
        origins, rows, means = np.where(mine >= 0, side, ZERO), np.maximum(mine, 0), {}
        held = {number: self._held(number, tensor) for number, tensor in tensors.items()}
        for at in map(int, np.flatnonzero(mine < 0)):
            origins[at], rows[at], group = self._default(at, held)
            if group:
                means[at] = group
        return _made_of(tensors, side, origins, rows, means)

    def _held(self, number: int, tensor: Tensor) -> Numbers:
        own = self._own[number]
        return np.where(own < tensor.shape[0], own, _LACKS)

    def _default(self, at: int, held: Mapping[int, Numbers]) -> tuple[int, int, tuple[tuple[int, int], ...]]:
        """(model, row, what is averaged) of a token's row in models that lack it."""
        if at in self._rules:
            rule = self._rules[at]
            return (ZERO, 0, ()) if rule is None else (*rule, ())
        if self._base is not None and self._base in held and held[self._base][at] >= 0:
            return self._base, int(held[self._base][at]), ()
        having = tuple((number, int(rows[at])) for number, rows in held.items() if rows[at] >= 0)
        if len(having) > 1:
            return MEAN, 0, having
        if not having and at in self._tokens:
            raise InputError(
                f"no model of this merge has a row for the token {shown(self._tokens[at])}: give its source under"
                " tokenizer: {tokens: ...}"
            )
        return (*having[0], ()) if having else (ZERO, 0, ())


def _made_of(
    tensors: Mapping[int, Tensor],
    side: int,
    origins: Numbers,
    rows: Numbers,
    means: dict[int, tuple[tuple[int, int], ...]],
) -> Tensor:
    used = {int(n) for n in np.unique(origins) if n >= 0} | {n for group in means.values() for n, _ in group}
    order = [side, *sorted(used - {side})]
    place = {number: at for at, number in enumerate(order)}
    renumbered = origins.copy()
    for number, at in place.items():
        renumbered[origins == number] = at
    sources = tuple(tensors[number] for number in order)
    own = sources[0]
    dtypes = {source.dtype.name for source in sources}
    wide = DTYPES["F64" if "F64" in dtypes else "F32"]
    groups = {at: tuple((place[number], row) for number, row in group) for at, group in means.items()}
    dtype = own.dtype if len(dtypes) == 1 and not means else wide
    return TokenRows(own.name, (len(rows), *own.shape[1:]), dtype, sources, renumbered, rows, groups)


def rows_by_token(
    recipe: Recipe,
    choice: TokenizerChoice,
    checkpoints: Sequence[Checkpoint],
    sides: Mapping[int, Side],
    vocabularies: Vocabularies,
) -> tuple[ByToken | None, list[str]]:
    """How a recipe's `tokenizer` pairs rows, None where no model has one and all are taken by number; and notes.

    Raises InputError where a tokenizer is needed that is not there, OptionError for a rule that no model can follow.
    """
    references = recipe.references()
    owner = 0 if choice.source in {BASE, UNION} else references.index(choice.source)
    found = {number: vocabularies.get(number) for number in dict.fromkeys([owner, *sides])}
    refs = {number: printable(references[number]) for number in found}
    output = found[owner]
    if output is None:
        if choice.source in {BASE, UNION} and not choice.rules and choice.multiple is None and not any(found.values()):
            return None, ["no model has a tokenizer that can be read: rows of tokens are merged by number"]
        raise InputError(
            f"{refs[owner]}: has no tokenizer that can be read (tokenizer.json, vocab.json, vocab.txt,"
            f" tokenizer.model), and {recipe.where('tokenizer' if choice.rules else 'tokenizer_source')} needs one"
        )
    ids = dict(output.ids)
    number = max(ids.values(), default=-1) + 1
    others = [] if choice.source != UNION else [v for n, v in sorted(found.items()) if v is not None and n != owner]
    wanted = [token for v in others for token, _ in sorted(v.ids.items(), key=lambda item: item[1])]
    for token in dict.fromkeys([*wanted, *choice.rules]):
        if token not in ids:
            ids[token] = number
            number += 1
    rows = max(number, _rows_of(checkpoints[owner]))
    if choice.multiple is not None:
        rows = -(-rows // choice.multiple) * choice.multiple
    notes = [
        f"{refs[n]}: has no tokenizer that can be read: its rows are taken to be those of {refs[owner]}'s tokens"
        for n in sides
        if found[n] is None
    ]
    for n, vocabulary in found.items():
        notes += [] if vocabulary is None else _beyond(refs[n], vocabulary, _rows_of(checkpoints[n]))
    own = {n: _own_rows(ids, rows, output, found[n] or output, is_owner=n == owner) for n in sides}
    for n in sides:
        if (vocabulary := found[n]) is not None and n != owner:
            notes += _difference(refs[n], vocabulary, ids)
    rules, forced = _rules(recipe, choice, ids, checkpoints, {n: found[n] for n in sides}, output)
    added = {token: at for token, at in ids.items() if token not in output.ids}
    if added and not output.file.endswith("tokenizer.json"):
        raise InputError(
            f"{refs[owner]}: gets {len(added)} tokens of other models, and has no tokenizer.json to add them to: write"
            " one with transformers' AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL), or write"
            " tokenizer_source: base"
        )
    if added and output.listed and len(set(ids.values())) < number:
        raise InputError(
            f"{output.file}: its pieces are a list without gaps, and not every number below {number} has a token: no"
            " tokens can be added behind them; write tokenizer_source: base"
        )
    flags = {token: v.added.get(token) for v in others for token in v.ids if token in added}
    base = 0 if recipe.base is not None else None
    return ByToken(owner, base, rows, ids, own, rules, forced, Added(added, flags)), notes


def _rows_of(checkpoint: Checkpoint) -> int:
    """Rows of the token embedding, 0 where there is none."""
    name = token_embedding(checkpoint, Model(checkpoint).parameters)
    return 0 if name is None else checkpoint[name].shape[0]


def _beyond(ref: str, vocabulary: Vocabulary, rows: int) -> list[str]:
    """A note on tokens whose numbers are no rows of the model's own embedding; raises InputError for one far off."""
    beyond = {token: number for token, number in vocabulary.ids.items() if number >= rows > 0}
    if not beyond:
        return []
    token, number = max(beyond.items(), key=lambda item: item[1])
    if number >= rows + _FAR:
        raise InputError(
            f"{ref}: its tokenizer gives {shown(token)} the number {number}, its embedding has {rows} rows: they do not"
            " belong together"
        )
    return [f"{ref}: its embedding has {rows} rows, and none for {len(beyond)} of its tokens, such as {shown(token)}"]


def _own_rows(ids: Mapping[str, int], rows: int, output: Vocabulary, own: Vocabulary, *, is_owner: bool) -> Numbers:
    """The row that a model has for each row of the output, _LACKS where it has none. Rows without a token are the
    owner's, and those of models with the same tokens.
    """
    found = np.full(rows, _LACKS, np.int64)
    for token, at in ids.items():
        number = own.ids.get(token)
        if number is not None:
            found[at] = number
    if is_owner or own.ids == output.ids:
        free = np.ones(rows, bool)
        free[list(ids.values())] = False
        found[free] = np.flatnonzero(free)
    return found


def _difference(ref: str, own: Vocabulary, ids: Mapping[str, int]) -> list[str]:
    lacks = [token for token in ids if token not in own.ids]
    left = [token for token in own.ids if token not in ids]
    notes = []
    if lacks:
        notes.append(
            f"{ref}: lacks {len(lacks)} of the output's {len(ids)} tokens, {shown(lacks[0])} first: their rows are the"
            " base's, else of the only model that has them, else means"
        )
    if left:
        notes.append(
            f"{ref}: {len(left)} of its tokens are not the output's, {shown(left[0])} first: their rows are left out"
        )
    return notes


def _rules(
    recipe: Recipe,
    choice: TokenizerChoice,
    ids: Mapping[str, int],
    checkpoints: Sequence[Checkpoint],
    found: Mapping[int, Vocabulary | None],
    output: Vocabulary,
) -> tuple[dict[int, tuple[int, int] | None], frozenset[int]]:
    """(row of the output -> (model, its row), None for zeros; rows that all models take from there)."""
    references = recipe.references()
    rules: dict[int, tuple[int, int] | None] = {}
    forced = set()
    for token, rule in choice.rules.items():
        where = recipe.where("tokenizer", "tokens", token)
        if rule.force:
            forced.add(ids[token])
        if rule.zero:
            rules[ids[token]] = None
        if rule.model is None:
            continue
        number = references.index(rule.model) if rule.model in references else -1
        if number not in found:
            raise OptionError(f"{where}: {printable(rule.model)} is no model of this merge: rows come from those alone")
        vocabulary = found[number] or output
        row = (
            rule.token
            if isinstance(rule.token, int)
            else vocabulary.ids.get(token if rule.token is None else rule.token)
        )
        if row is None:
            missing = shown(token if rule.token is None else str(rule.token))
            raise OptionError(f"{where}: {printable(rule.model)} has no token {missing}")
        if row >= (most := _rows_of(checkpoints[number])):
            raise OptionError(f"{where}: {printable(rule.model)} has {most} rows, and no row {row}")
        rules[ids[token]] = number, row
    return rules, frozenset(forced)
