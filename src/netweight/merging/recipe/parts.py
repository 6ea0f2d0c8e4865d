"""A recipe as a value: what to merge and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from netweight.dtypes import DType
from netweight.errors import OptionError, printable
from netweight.merging.recipe.conditions import SettingValue
from netweight.merging.recipe.tokens import BASE, UNION, TokenizerChoice
from netweight.merging.recipe.yaml import Lines, Path, location

__all__ = ["Recipe", "Slice", "Source", "check_parts"]


@dataclass(frozen=True)
class Source:
    """One model of `models`, or of a slice's `sources`.

    `layers` are its blocks [a, b), None for the whole model. `parameters` are values from `conditions.read_value`.
    `line` is 0 where there is no file.
    """

    model: str
    layers: tuple[int, int] | None
    parameters: Mapping[str, SettingValue]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Slice:
    """Blocks of the output: made of as many blocks of every source."""

    sources: tuple[Source, ...]
    parameters: Mapping[str, SettingValue]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Recipe:
    """A merge. One of `models`, `slices` and `modules` is not empty. `origin`, lines and notes are not compared.

    `modules` are parts of a model by name, each a recipe of its own with the method, base and types of the whole;
    `above` are the whole recipe's parameters there, and `within` says where it stands.
    """

    method: str
    base: str | None
    models: tuple[Source, ...]
    slices: tuple[Slice, ...]
    parameters: Mapping[str, SettingValue]
    dtype: DType | None
    out_dtype: DType | None
    tokenizer: TokenizerChoice | None
    origin: str = field(compare=False)
    name: str | None = None
    chat_template: str | None = None
    modules: tuple[tuple[str, Recipe], ...] = ()
    above: Mapping[str, SettingValue] = field(default_factory=dict)
    within: Path = ()
    lines: Lines = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def references(self) -> tuple[str, ...]:
        """Models to be opened: the base first where there is one, then every model as it appears, each once, and the
        one whose tokenizer it is.
        """
        named = [source.model for _, part in self.parts() for _, source in part.sources()]
        if self.tokenizer is not None and self.tokenizer.source not in {BASE, UNION}:
            named.append(self.tokenizer.source)
        return tuple(dict.fromkeys([*([] if self.base is None else [self.base]), *named]))

    def parts(self) -> tuple[tuple[str, Recipe], ...]:
        """Its modules by name; itself, named "", where it has none."""
        return self.modules or (("", self),)

    def sources(self) -> Iterator[tuple[Path, Source]]:
        """Every source with its path, as `where` takes it; not those of modules."""
        for n, model in enumerate(self.models):
            yield ("models", n), model
        for n, part in enumerate(self.slices):
            for m, source in enumerate(part.sources):
                yield ("slices", n, "sources", m), source

    def where(self, *path: str | int) -> str:
        """The location of a path such as ("models", 1, "model") in messages: `merge.yml, line 7, models[1].model`."""
        return location(self.origin, self.lines, (*self.within, *path))


def check_parts(recipe: Recipe) -> None:
    """Raises OptionError where models, slices and modules do not fit together."""
    if recipe.modules:
        if recipe.models or recipe.slices:
            raise OptionError(
                f"{recipe.where('modules')}: expected models, slices or modules, got two: keep one of them"
            )
        for _, inner in recipe.modules:
            check_parts(inner)
        return
    if recipe.models and recipe.slices:
        raise OptionError(f"{recipe.where('slices')}: expected models or slices, got both: keep one of them")
    if not recipe.models and not recipe.slices:
        raise OptionError(f"{recipe.where()}: expected models (or slices) with at least one model, got none")
    _check_repeats(recipe, recipe.models, ("models",))
    for n, part in enumerate(recipe.slices):
        if not part.sources:
            raise OptionError(f"{recipe.where('slices', n, 'sources')}: expected at least one model, got none")
        _check_repeats(recipe, part.sources, ("slices", n, "sources"))
        lengths = [source.layers[1] - source.layers[0] for source in part.sources if source.layers]
        for m, length in enumerate(lengths):
            if length != lengths[0]:
                raise OptionError(
                    f"{recipe.where('slices', n, 'sources', m, 'layer_range')}: expected {lengths[0]} layers as in the "
                    f"slice's first source, got {length}: all sources of a slice have the same number"
                )


def _check_repeats(recipe: Recipe, sources: Sequence[Source], path: Path) -> None:
    for model, times in Counter(source.model for source in sources).items():
        if times > 1:
            n = [n for n, source in enumerate(sources) if source.model == model][1]
            raise OptionError(
                f"{recipe.where(*path, n, 'model')}: {printable(model)!r} stands {times} times: name each model once "
                "and add up its weights"
            )
