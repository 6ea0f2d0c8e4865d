"""What a recipe says of tokens: whose tokenizer the output has, and where rows of single tokens come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from netweight.merging.recipe.conditions import describe

__all__ = ["BASE", "UNION", "BadTokenError", "TokenRule", "TokenizerChoice", "read_rules", "rules_mapping"]

BASE, UNION = "base", "union"


class BadTokenError(ValueError):
    """A value that is none: the message says why, `at` where below the key `tokens`."""

    def __init__(self, message: str, *at: str) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True)
class TokenRule:
    """Where the row of a token comes from in models that lack it, or with `force` in all: from `model`, the row of
    `token` (a text or a number there; None: of the token itself); zeros where `zero`; as without a rule where neither.
    """

    model: str | None = None
    token: str | int | None = None
    zero: bool = False
    force: bool = False


@dataclass(frozen=True)
class TokenizerChoice:
    """`source`: `base`, `union`, or the reference of a model. Rows are a multiple of `multiple`, where it is given."""

    source: str
    rules: Mapping[str, TokenRule] = field(default_factory=dict)
    multiple: int | None = None


def read_rules(value: Any, reference: Any) -> dict[str, TokenRule]:
    """The rules of a recipe's `tokens`; `reference` reads a model. Raises BadTokenError, and what that raises."""
    if not isinstance(value, dict):
        raise BadTokenError(f"expected a mapping of tokens, got {describe(value)}")
    return {_token(token): _rule(str(token), rule, reference) for token, rule in value.items()}


def _token(token: Any) -> str:
    if not isinstance(token, str) or not token:
        raise BadTokenError(f"expected a token's text, got {describe(token)}; put it into quotes")
    return token


def _rule(token: str, value: Any, reference: Any) -> TokenRule:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise BadTokenError(f"expected a mapping with source and force, got {describe(value)}", token)
    _only(value, {"source", "force"}, token)
    force = value.get("force", False)
    if type(force) is not bool and force not in (0, 1):
        raise BadTokenError(f"expected true or false, got {describe(force)}", token, "force")
    source = value.get("source")
    if source is None:
        if force:
            raise BadTokenError("force needs a source to take the row from", token, "force")
        return TokenRule()
    if not isinstance(source, dict) or "kind" not in source:
        return TokenRule(model=reference(source), force=bool(force))
    kind = source["kind"]
    if kind == "zero":
        _only(source, {"kind"}, token, "source")
        return TokenRule(zero=True, force=bool(force))
    if kind != "model_token":
        raise BadTokenError(f"expected model_token or zero, got {describe(kind)}", token, "source", "kind")
    _only(source, {"kind", "model", "token", "token_id"}, token, "source")
    if "model" not in source:
        raise BadTokenError("expected the model that has the token", token, "source", "model")
    text, number = source.get("token"), source.get("token_id")
    if (text is None) == (number is None):
        raise BadTokenError("expected either token or token_id", token, "source")
    if text is not None and not isinstance(text, str):
        raise BadTokenError(
            f"expected a token's text, got {describe(text)}; put it into quotes", token, "source", "token"
        )
    if number is not None and (type(number) is not int or number < 0):
        raise BadTokenError(f"expected the number of a row, got {describe(number)}", token, "source", "token_id")
    return TokenRule(reference(source["model"]), number if text is None else text, force=bool(force))


def _only(value: Mapping[str, Any], known: set[str], *at: str) -> None:
    for key in value:
        if key not in known:
            raise BadTokenError(f"unknown key {describe(key)}: expected one of {', '.join(sorted(known))}", *at)


def rules_mapping(rules: Mapping[str, TokenRule]) -> dict[str, Any]:
    """`rules` as a recipe has them."""
    made: dict[str, Any] = {}
    for token, rule in rules.items():
        entry: dict[str, Any] = {}
        if rule.zero:
            entry["source"] = {"kind": "zero"}
        elif rule.model is not None and rule.token is not None:
            key = "token" if isinstance(rule.token, str) else "token_id"
            entry["source"] = {"kind": "model_token", "model": rule.model, key: rule.token}
        elif rule.model is not None:
            entry["source"] = rule.model
        made[token] = entry | ({"force": True} if rule.force else {})
    return made
