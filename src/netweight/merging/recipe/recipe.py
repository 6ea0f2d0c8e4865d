"""Recipes in mergekit's YAML: read, written, and made of command-line options.

A recipe does not say what the models hold. Planning the merge checks that its layers and parameters exist.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as File
from typing import Any

from netweight.errors import FormatError, OptionError, did_you_mean, nearest_path, printable
from netweight.merging.recipe.conditions import describe
from netweight.merging.recipe.habits import as_meant
from netweight.merging.recipe.models import ModelForm, ModuleForm, RecipeForm, SourceForm, dtype_named, read_form
from netweight.merging.recipe.parts import Recipe, Slice, Source, check_parts
from netweight.merging.recipe.tokens import BASE, UNION, TokenizerChoice
from netweight.merging.recipe.write import build_recipe, recipe_mapping, write_recipe
from netweight.merging.recipe.yaml import MAX_BYTES, Lines, Path, location, read_documents, read_yaml

__all__ = [
    "Recipe",
    "Slice",
    "Source",
    "build_recipe",
    "dtype_named",
    "parse_recipe",
    "parse_recipes",
    "read_recipes",
    "recipe_mapping",
    "write_recipe",
]


def read_recipes(path: str | File) -> tuple[Recipe, ...]:
    """The recipes in a file, one a document; OptionError where there is none, FormatError where it is no YAML in UTF-8,
    or too large.
    """
    file = File(path)
    origin = str(path)
    try:
        if not file.is_file():
            raise OptionError(f"{printable(origin)}: expected a recipe (a YAML file), got {_what_is(file, origin)}")
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise OptionError(f"{printable(origin)}: the recipe cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BYTES:
        raise FormatError(f"{printable(origin)}: expected a recipe of at most {MAX_BYTES >> 20} MB, got more")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = " (it looks like UTF-16)" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else ""
        raise FormatError(
            f"{printable(origin)}, byte {error.start}: expected text in UTF-8, got other bytes{utf16}; save it as UTF-8"
        ) from None
    return parse_recipes(text, origin)


def _what_is(file: File, origin: str) -> str:
    return (
        "a folder; --base and --models name models"
        if file.is_dir()
        else "something else"
        if file.exists()
        else f"no such file{nearest_path(origin)}"
    )


def parse_recipe(text: str, origin: str) -> Recipe:
    """The one recipe in `text`; `origin` is what messages call it.

    Raises FormatError for what is not YAML, OptionError for keys and values that a recipe cannot have.
    """
    return _parsed(*read_yaml(text, origin), origin)


def parse_recipes(text: str, origin: str) -> tuple[Recipe, ...]:
    """The recipe of every document in `text`; raises as `parse_recipe`."""
    return tuple(_parsed(data, lines, origin) for data, lines in read_documents(text, origin))


def _parsed(data: Any, lines: Lines, origin: str) -> Recipe:
    if not isinstance(data, dict):
        raise FormatError(f"{printable(origin)}: expected a recipe with lines of key: value, got something else")
    meant, lines_of, notes = as_meant(data, origin, lines)
    return _recipe(read_form(meant, origin, lines_of), origin, lines_of, notes)


def _sources(form: RecipeForm | ModuleForm, lines: Lines, at: Path) -> tuple[tuple[Source, ...], tuple[Slice, ...]]:
    """(models, slices) of a form that stands at `at`."""

    def source(entry: ModelForm | SourceForm, *path: str | int) -> Source:
        layers = entry.layer_range if isinstance(entry, SourceForm) else None
        return Source(entry.model, layers, entry.parameters, lines.get((*at, *path), 0))

    slices = tuple(
        Slice(
            tuple(source(entry, "slices", n, "sources", m) for m, entry in enumerate(part.sources)),
            part.parameters,
            lines.get((*at, "slices", n), 0),
        )
        for n, part in enumerate(form.slices or ())
    )
    return tuple(source(entry, "models", n) for n, entry in enumerate(form.models or ())), slices


def _recipe(form: RecipeForm, origin: str, lines: Lines, notes: tuple[str, ...]) -> Recipe:
    models, slices = _sources(form, lines, ())
    recipe = Recipe(
        method=form.merge_method,
        base=form.base_model,
        models=models,
        slices=slices,
        parameters=form.parameters,
        dtype=form.dtype,
        out_dtype=form.out_dtype,
        tokenizer=_tokenizer(form, origin, lines),
        origin=origin,
        name=form.name,
        chat_template=form.chat_template,
        lines=lines,
        notes=notes,
    )
    modules = []
    for name, inner in (form.modules or {}).items():
        within = ("modules", name)
        own, cut = _sources(inner, lines, within)
        part = replace(
            recipe, models=own, slices=cut, parameters=inner.parameters, above=form.parameters, within=within
        )
        modules.append((name, replace(part, tokenizer=None, chat_template=None, name=None, notes=())))
    recipe = replace(recipe, modules=tuple(modules))
    check_parts(recipe)
    return recipe


def _tokenizer(form: RecipeForm, origin: str, lines: Lines) -> TokenizerChoice | None:
    """What the recipe says of tokens; the base's (else the first model's) own reference is `base`."""
    if form.tokenizer and form.tokenizer_source:
        where = location(origin, lines, ("tokenizer",))
        raise OptionError(f"{where}: expected tokenizer or tokenizer_source, got both")
    given = form.tokenizer.source if form.tokenizer else form.tokenizer_source
    if given is None:
        return None
    forms: list[RecipeForm | ModuleForm] = [form, *(form.modules or {}).values()]
    named = [source.model for held in forms for part in held.slices or () for source in part.sources]
    named += [entry.model for held in forms for entry in held.models or ()]
    kept = form.base_model or (named[0] if named else None)
    source = given.removeprefix("model:")  # as mergekit's earlier versions have it
    hint = did_you_mean(source, (BASE, UNION))
    if source not in {BASE, UNION, kept} and hint and not File(source).exists():
        path = ("tokenizer", "source") if form.tokenizer else ("tokenizer_source",)
        where = location(origin, lines, path)
        raise OptionError(f"{where}: expected base, union or a model, got {describe(source)}{hint}")
    rules, multiple = (form.tokenizer.tokens, form.tokenizer.pad_to_multiple_of) if form.tokenizer else ({}, None)
    return TokenizerChoice(BASE if source == kept else source, rules, multiple)
