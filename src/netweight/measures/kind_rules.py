"""Rules that find the kind of a fine-tune: one word, or "undecided" where nothing is certain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from netweight.measures.kind import Changed, Kind
from netweight.measures.kind_sentences import (
    QUANTISED,
    ROUNDED,
    above,
    by_module,
    flatness,
    form_of,
    hidden_rank,
    in_layers,
    listed,
    of_a_layer,
    percent,
    pruned,
    scaled,
    undecided,
    where,
)
from netweight.measures.update import NONFINITE, WIDE

__all__ = ["kind_of"]

COMMON = 0.8
"""Of the ranks that were told: so many must be one and the same; of forms: so many must agree."""
SOME = 0.25
"""Of the matrices looked at: so many must be of full rank, where the others cannot be told."""
NEARLY_ALL = 0.9
"""Of the weight matrices: where so many changed, embeddings and norms too, the fine-tune is full."""

Verdict = tuple[str, str, int | None]
"""Word, reason, rank."""


def kind_of(parameters: Sequence[Changed], unmeasured: str = "") -> Kind:
    """The kind of one model; `unmeasured` says what share was compared, where it is not all."""
    changed = [p for p in parameters if p.changed]
    looked = [p for p in changed if p.matrix and p.update is not None]
    size = sum(p.size for p in parameters)
    same = 100 * (size - sum(p.changed for p in parameters)) / size if size else None
    word, reason, rank = _word(parameters, changed, looked)
    if changed and same is not None:
        reason += f"; {percent(same)} of the values unchanged"
    if any(p.update is not None and p.update["update_reason"] == NONFINITE for p in looked):
        reason += f"; {NONFINITE} among them"
    if unmeasured and parameters:
        reason += f"; of what was compared ({unmeasured})" if changed else f" where compared ({unmeasured})"
    return Kind(
        word,
        reason,
        rank,
        tuple(dict.fromkeys(p.module for p in changed)),
        same,
        len(parameters),
        len(changed),
        sum(p.matrix for p in changed),
        len(looked),
        {name: _module(held) for name, held in by_module(parameters).items()},
    )


def _word(parameters: Sequence[Changed], changed: Sequence[Changed], looked: Sequence[Changed]) -> Verdict:
    if not parameters:
        return "undecided", "nothing was compared", None
    if not changed:
        return "identical", "every value is the same", None
    if (stored := _stored(changed)) is not None:
        return stored
    main = [p for p in looked if not p.top] or list(looked)
    told = [p for p in main if form_of(p) != "unchanged"]
    forms = Counter(map(form_of, told))
    one = _one_module(parameters, changed)
    for form, say in (("rounded", ROUNDED), ("scaled", scaled), ("pruned", pruned), ("quantised", QUANTISED)):
        if forms[form] and forms[form] >= COMMON * len(told):
            return form, say if isinstance(say, str) else say([p for p in told if form_of(p) == form]), None
    if forms["low rank"] and not (one and told[0].top):
        return _low_rank(parameters, changed, told)
    if one:
        return "one module", one + (f" ({flatness(told)})" if forms["full"] else ""), None
    if forms["sparse"] and forms["sparse"] >= COMMON * len(told):
        share = 100 * sum(p.changed for p in told) / sum(p.size for p in told)
        return "sparse", f"{percent(share)} of the values of changed matrices changed, large and small ones", None
    if forms["full"] >= max(1.0, SOME * len(told)) and not forms.keys() - {"full", "unclear"}:
        return "full", f"{where(parameters, changed)} changed, {flatness(told)}", None
    if _everything(parameters, changed) and not forms.keys() - {"full", "unclear"}:
        return "full", f"{where(parameters, changed)} changed, embeddings and norms too ({hidden_rank(told)})", None
    return "undecided", undecided(told), None


def _stored(changed: Sequence[Changed]) -> Verdict | None:
    """Where codes of a quantisation lie between base and model: their errors hide what else there is."""
    coded = [p for p in changed if p.quantised]
    total = sum(p.size for p in changed)
    if 2 * sum(p.size for p in coded) >= total:
        kinds = listed(dict.fromkeys(p.quantised for p in coded))
        return "quantised", f"stored as {kinds}, whose errors hide what else was changed", None
    of_coded = [p for p in changed if p.of_quantised and not p.quantised]
    if of_coded:
        kinds = listed(dict.fromkeys(p.of_quantised for p in of_coded))
        return "undecided", f"the base is stored as {kinds}, whose errors hide what was changed", None
    return None


def _one_module(parameters: Sequence[Changed], changed: Sequence[Changed]) -> str:
    """What to say where all that changed is of one kind of module, or vectors; else empty."""
    every, modules = ({p.module for p in held} for held in (parameters, changed))
    if len(every) < 2:
        return ""
    named = listed(dict.fromkeys(p.module for p in changed))
    if len(modules) == 1:
        return f"only {named}{in_layers(parameters, changed)} changed"
    if not any(p.matrix for p in changed):
        return f"only vectors changed: {named}{in_layers(parameters, changed)}"
    return ""


def _low_rank(parameters: Sequence[Changed], changed: Sequence[Changed], told: Sequence[Changed]) -> Verdict:
    """adapter-like, where the ranks agree or nothing hides them."""
    low = [p for p in told if form_of(p) == "low rank"]
    hidden = [p for p in told if form_of(p) == "unclear"]
    others = Counter(form_of(p) for p in told if form_of(p) not in ("low rank", "unclear"))
    ranks = {p.name: int(p.update["update_rank"]) for p in low if p.update is not None}
    most = max(ranks.values())
    if any(p.update is not None and p.update["update_scaled"] for p in low) and len(low) >= COMMON * len(told):
        del others["full"]  # some rows are scaled so little that this is not taken off again
    if others or len(low) < len(told) / 2 or any(above(p) > most for p in hidden):
        return "undecided", undecided(told), None
    rank, count = Counter(ranks.values()).most_common(1)[0]
    clear = all(p.update is not None and p.update["update_gap"] >= WIDE for p in low) and not hidden
    if count >= COMMON * len(low) and rank == most:
        said: str = f"rank {rank}"
    elif clear or _one_rank_each(low, ranks):
        said, rank = f"rank {min(ranks.values())} to {most}", 0
    else:
        return "undecided", f"low rank, but of {min(ranks.values())} to {most}: {undecided(told)}", None
    on = listed(dict.fromkeys(p.module for p in changed if p.matrix and not p.top))
    beside = listed(dict.fromkeys(p.module for p in changed if p.top or not p.matrix))
    layers, count, total = in_layers(parameters, changed), *of_a_layer(parameters, changed)
    share = f" ({count} of {total} matrices of a layer)" if total else ""
    rest = f", and {beside} changed too" if beside else ""
    if any(p.update is not None and p.update["update_scaled"] for p in low):
        said += ", and rows scaled,"
    return "adapter-like", f"{said} on {on or beside}{share}{layers}{rest if on else ''}", rank or None


def _one_rank_each(low: Sequence[Changed], ranks: Mapping[str, int]) -> bool:
    """Whether the matrices of every module have one rank, which several show."""
    held = [[ranks[p.name] for p in members] for members in by_module(low).values()]
    return all(len(r) > 1 and len(set(r)) == 1 for r in held)


def _everything(parameters: Sequence[Changed], changed: Sequence[Changed]) -> bool:
    """Whether nearly all matrices changed, embeddings and vectors among them."""
    every, some = (sum(p.matrix for p in held) for held in (parameters, changed))
    nearly_all = every > 1 and some >= NEARLY_ALL * every
    return nearly_all and any(p.top for p in changed) and not all(p.matrix for p in changed)


def _module(held: Sequence[Changed]) -> dict[str, Any]:
    """MODULE_COLUMNS of one kind of module."""
    size = sum(p.size for p in held)
    looked = [p.update for p in held if p.update is not None and p.changed]
    ranks = [u["update_rank"] for u in looked if u["update_rank"] is not None]
    effective = [u["update_effective_rank"] for u in looked if u["update_effective_rank"] is not None]
    return {
        "parameters": len(held),
        "changed_parameters": sum(p.changed > 0 for p in held),
        "elements": size,
        "unchanged_percentage": 100 * (size - sum(p.changed for p in held)) / size if size else None,
        "looked_at": len(looked),
        "forms": dict(Counter(str(u["update_form"]) for u in looked)),
        "rank": median(ranks) if ranks else None,
        "effective_rank": median(effective) if effective else None,
        "of": max((min(u["update_block"]) for u in looked), default=None),
    }
