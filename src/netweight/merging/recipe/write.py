"""Recipes as YAML and JSON, and recipes made of command-line options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from netweight.checkpoint.adapters.references import has_adapters
from netweight.dtypes import DType
from netweight.errors import OptionError, printable
from netweight.merging.recipe.conditions import BadValue, SettingValue, read_value, yaml_value
from netweight.merging.recipe.models import DTYPE_NAMES
from netweight.merging.recipe.parts import Recipe, Source, check_parts
from netweight.merging.recipe.tokens import BASE, UNION, TokenizerChoice, rules_mapping
from netweight.merging.recipe.yaml import EXPONENT, FLOAT_TAG

__all__ = ["build_recipe", "recipe_mapping", "write_recipe"]

_BLOCK = re.compile(r"(?<![^.])[0-9]+\.")
"""A number between dots. The first one in a name is the number of its block."""

_DTYPE_NAME = {name: word for word, name in DTYPE_NAMES.items()}
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BaseDumper):  # type: ignore[misc]
    """Text that YAML 1.2 takes for a number, as 1e-5, is quoted as well."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - no anchors, whatever stands twice
        return True


_Dumper.add_implicit_resolver(FLOAT_TAG, EXPONENT, list("-+.0123456789"))


def recipe_mapping(recipe: Recipe) -> dict[str, Any]:
    """`recipe` as plain values with mergekit's keys, as JSON and YAML take them; empty keys are left out."""

    def source(model: Source) -> dict[str, Any]:
        return {
            "model": _reference(model.model),
            **({"layer_range": list(model.layers)} if model.layers else {}),
            **_parameters(model.parameters),
        }

    def inner(part: Recipe) -> dict[str, Any]:
        slices = [{"sources": [source(s) for s in one.sources], **_parameters(one.parameters)} for one in part.slices]
        models = [source(model) for model in part.models]
        return {**({"models": models} if models else {}), **({"slices": slices} if slices else {})}

    modules = {name: {**inner(part), **_parameters(part.parameters)} for name, part in recipe.modules}
    every = {
        "name": recipe.name,
        "merge_method": recipe.method,
        "base_model": None if recipe.base is None else _reference(recipe.base),
        **inner(recipe),
        "modules": modules or None,
        **_parameters(recipe.parameters),
        "dtype": _dtype(recipe.dtype),
        "out_dtype": _dtype(recipe.out_dtype),
        **_tokenizer(recipe.tokenizer),
        "chat_template": recipe.chat_template,
    }
    return {key: value for key, value in every.items() if value is not None}


def _tokenizer(choice: TokenizerChoice | None) -> dict[str, Any]:
    if choice is None:
        return {}
    source = choice.source if choice.source in {BASE, UNION} else _reference(choice.source)
    if not choice.rules and choice.multiple is None:
        return {"tokenizer_source": source}
    rules = {"tokens": rules_mapping(choice.rules)} if choice.rules else {}
    multiple = {} if choice.multiple is None else {"pad_to_multiple_of": choice.multiple}
    return {"tokenizer": {"source": source, **rules, **multiple}}


def _reference(model: str) -> Any:
    """In plain text what is behind a + is an adapter; a path with a + in it is written as one."""
    return {"model": {"path": model}} if "+" in model and not has_adapters(model) else model


def _parameters(parameters: Mapping[str, SettingValue]) -> dict[str, Any]:
    return {"parameters": {key: yaml_value(value) for key, value in parameters.items()}} if parameters else {}


def _dtype(dtype: DType | None) -> str | None:
    if dtype is None:
        return None
    if dtype.name not in _DTYPE_NAME:
        raise OptionError(f"expected an output of {', '.join(DTYPE_NAMES)}, got {dtype.name}")
    return _DTYPE_NAME[dtype.name]


def write_recipe(recipe: Recipe, comments: Sequence[str] = ()) -> str:
    """YAML that `parse_recipe` reads as an equal recipe, numbers exactly, and mergekit reads too; each of `comments` is
    a line before it. Raises OptionError for text that cannot be written as UTF-8.
    """
    try:
        text: str = yaml.dump(
            recipe_mapping(recipe),
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=None,
            width=1000,
        )
    except UnicodeEncodeError as error:
        raise OptionError(
            f"{printable(str(error.object))!r} holds what cannot be written as UTF-8: rename it"
        ) from None
    return "".join(f"# {printable(comment, 1000)}\n" for comment in comments) + text


def build_recipe(
    method: str,
    base: str | None,
    models: Sequence[str],
    *,
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None = None,
    settings: Mapping[str, Any] | None = None,
    dtype: DType | None = None,
    out_dtype: DType | None = None,
    origin: str = "the command line",
) -> Recipe:
    """A recipe of whole models.

    `weights` are one number a model; or by parameter's name, one a model. `settings` are the recipe's `parameters`, in
    the form that YAML gives them. Raises OptionError for values that no setting can have, and for a model named twice.
    """
    if weights is not None:
        counts = {len(row) for row in weights.values()} if isinstance(weights, Mapping) else {len(weights)}
        if counts - {len(models)}:
            got = ", ".join(str(count) for count in sorted(counts))
            raise OptionError(f"{printable(origin)}: expected {len(models)} weights, one for each model, got {got}")
    shared = {key: _read_value(value, origin, f"{printable(key)}: ") for key, value in (settings or {}).items()}
    own_settings = [{} if weights is None else {"weight": _weight(weights, n, origin)} for n in range(len(models))]
    sources = tuple(Source(model, None, own) for model, own in zip(models, own_settings, strict=True))
    recipe = Recipe(method, base, sources, (), shared, dtype, out_dtype, None, origin)
    check_parts(recipe)
    return recipe


def _read_value(value: Any, origin: str, key: str = "") -> SettingValue:
    try:
        return read_value(value)
    except BadValue as error:
        raise OptionError(f"{printable(origin)}: {key}{error}") from None


def _weight(weights: Sequence[float] | Mapping[str, Sequence[float]], n: int, origin: str) -> SettingValue:
    if not isinstance(weights, Mapping):
        return _read_value(float(weights[n]), origin)
    rows = {name: float(row[n]) for name, row in weights.items()}
    if len(set(rows.values())) == 1:
        return _read_value(next(iter(rows.values())), origin)
    for name in rows:
        if name in {"", "*"}:
            raise OptionError(
                f"a parameter named {name!r} cannot have its own weight: as a filter it means every parameter"
            )
    # a filter fits wherever it is a part of the name: blocks first, for whatever they fit has their value, then the
    # longest first, so that each parameter meets its own name first
    blocks, rest = _layers_as_one(rows)
    words = [sorted(filters, key=lambda word: (-len(word), word)) for filters in (blocks, rest)]
    filters = blocks | rest
    return _read_value([{"filter": word, "value": filters[word]} for each in words for word in each], origin)


def _layers_as_one(rows: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """One filter, `model.layers.3.`, for all parameters of a block that have one value, and the rows of the others.

    A filter fits every name that it is a part of, so a block stands for itself only where all those agree.
    """
    blocks: dict[str, set[str]] = {}
    for name in rows:
        if number := _BLOCK.search(name):
            blocks.setdefault(name[: number.end()], set()).add(name)
    whole: dict[str, float] = {}
    within: set[str] = set()
    for block, members in blocks.items():
        values = {rows[name] for name in rows if block in name} if len(members) > 1 else set()
        if len(values) == 1:
            whole[block] = values.pop()
            within |= members
    return whole, {name: value for name, value in rows.items() if name not in within and name not in whole}
