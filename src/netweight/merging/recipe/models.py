"""The form of a recipe: its keys and the types of their values; each fault is one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from netweight.dtypes import DTYPES, DType
from netweight.errors import OptionError, did_you_mean, printable
from netweight.merging.chat_templates import AUTO, MAX_TEMPLATE, TEMPLATES, is_jinja
from netweight.merging.recipe.conditions import BadValue, describe, read_value
from netweight.merging.recipe.tokens import UNION, BadTokenError, TokenRule, read_rules
from netweight.merging.recipe.yaml import Lines, Path, location

__all__ = ["DTYPE_NAMES", "ModelForm", "RecipeForm", "SliceForm", "SourceForm", "dtype_named", "read_form"]

DTYPE_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
"""Element types as recipes name them -> as safetensors does."""

_MOE = "mixtures of experts are not made here; mergekit-moe makes them"
_UNSUPPORTED = {
    "input_model_parameters": "write parameters under each model",
    "tokens": "it stands in tokenizer: {source: ..., tokens: ...}",
    "pad_to_multiple_of": "it stands in tokenizer: {source: ..., pad_to_multiple_of: ...}",
    "layer_range": "models are merged whole; ranges of layers stand in the sources of slices",
    "experts": _MOE,
    "gate_mode": _MOE,
    "experts_per_token": _MOE,
    "shared_experts": _MOE,
}


_BESIDE = {
    "merge_method", "base_model", "models", "slices", "modules", "dtype", "out_dtype", "tokenizer_source", "tokenizer",
    "chat_template",
}  # fmt: skip
"""Keys of the recipe, or of a model, that are never a setting of a method."""


def _refuse(message: str, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    return PydanticCustomError("recipe", "{text}", {"text": message, "at": at})


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = "; put it into quotes" if isinstance(value, int | float) else ""
        raise _refuse(f"expected text, got {describe(value)}{hint}")
    return value


def _reference(value: Any) -> str:
    """A model: text, or `{model: {path: ..., revision: ...}}`, which becomes `path@revision`; with an adapter text
    `model+adapter`, or `lora: {path: ..., revision: ...}` beside `model`, which becomes `path@revision+path@revision`.
    """
    if not isinstance(value, dict):
        return _text(value)
    if "path" in value:
        raise _refuse("expected {model: {path: ...}}, got a mapping with path alone: write model: before it")
    _only(value, {"model", "lora"}, ())
    adapter = value.get("lora")
    return _place(value.get("model"), "model") + ("" if adapter is None else f"+{_place(adapter, 'lora')}")


def _place(inner: Any, of: str) -> str:
    """`path@revision` of a mapping with these keys."""
    if not isinstance(inner, dict):
        raise _refuse(f"expected a mapping with path and revision, got {describe(inner)}", (of,))
    _only(inner, {"path", "revision"}, (of,))
    for key in ("path", "revision"):
        part = inner.get(key)
        if (key == "path" or part is not None) and not (isinstance(part, str) and part.strip()):
            raise _refuse(f"expected text, got {describe(part)}", (of, key))
    return str(inner["path"]) + (f"@{inner['revision']}" if inner.get("revision") else "")


def _only(value: Mapping[str, Any], known: set[str], at: tuple[str, ...]) -> None:
    for key in value:
        if key not in known and value[key] is not None:
            raise _refuse(_unknown(key, sorted(known)), (*at, key))


def _unknown(key: str, known: list[str]) -> str:
    if advice := _UNSUPPORTED.get(key):
        return f"the key {key!r} is not supported: {advice}"
    inside = "; the method's settings stand under parameters" if "parameters" in known else ""
    return f"unknown key {printable(key, 60)!r}{did_you_mean(key, known)}: expected one of {', '.join(known)}{inside}"


def dtype_named(name: str, where: str) -> DType:
    """The element type that recipes call `name`; raises OptionError, beginning with `place`, where there is none."""
    try:
        return _dtype(name)
    except PydanticCustomError as error:
        raise OptionError(f"{where}: {error.message()}") from None


def _dtype(value: Any) -> DType:
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    name = DTYPE_NAMES.get(name, name)
    if name not in DTYPE_NAMES.values():
        hint = did_you_mean(value, DTYPE_NAMES) if isinstance(value, str) else ""
        raise _refuse(
            f"expected one of {', '.join(DTYPE_NAMES)}, got {describe(value)}{hint}; leave it out to keep the element "
            "type of the inputs"
        )
    return DTYPES[name]


def _setting(value: Any) -> Any:
    try:
        return read_value(value)
    except BadValue as error:
        raise _refuse(str(error), error.at) from None


def _layer_range(value: Any) -> tuple[int, int]:
    ok = isinstance(value, list) and len(value) == 2 and all(type(end) is int for end in value)
    if not ok:
        got = f"[{', '.join(describe(v) for v in value[:4])}]" if isinstance(value, list) else describe(value)
        raise _refuse(f"expected two whole numbers [first layer, layer behind the last], got {got}")
    begin, end = value
    if not 0 <= begin < end < 1 << 20:
        raise _refuse(
            f"expected [a, b) with 0 <= a < b, got [{describe(begin)}, {describe(end)}]: layers count from 0 and the "
            "second number is not part of the range"
        )
    return begin, end


def _chat_template(value: Any) -> str:
    """`auto`, a name, or text in Jinja."""
    known = (AUTO, *TEMPLATES)
    expected = f"expected {', '.join(known)}, or a template in Jinja, which holds {{{{ or {{%"
    if not isinstance(value, str):
        raise _refuse(f"{expected}; got {describe(value)}")
    if value in known:
        return value
    if not is_jinja(value):
        raise _refuse(f"{expected}; got {describe(value)}{did_you_mean(value, known)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise _refuse(f"expected text that UTF-8 can hold, got {value[error.start]!a}") from None
    if size > MAX_TEMPLATE:
        raise _refuse(f"expected a template of at most {MAX_TEMPLATE} bytes, got {size}")
    return value


def _parameters(value: Any) -> Any:
    if isinstance(value, dict) and (astray := next((key for key in value if key in _BESIDE), None)) is not None:
        raise _refuse(f"the key {astray!r} stands beside parameters, not under it: move it out", (astray,))
    return {} if value is None else value


def _rules(value: Any) -> dict[str, TokenRule]:
    try:
        return read_rules(value, _reference)
    except BadTokenError as error:
        raise _refuse(str(error), error.at) from None


def _multiple(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 1 << 16:
        raise _refuse(f"expected a whole number from 1 to {1 << 16}, got {describe(value)}")
    return value


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


_Reference = Annotated[str, BeforeValidator(_reference)]
_Parameters = Annotated[dict[str, Annotated[Any, PlainValidator(_setting)]], BeforeValidator(_parameters)]
_Element = Annotated[DType, BeforeValidator(_dtype)]


class ModelForm(_Form):
    """An entry of `models`."""

    model: _Reference
    parameters: _Parameters = {}


class SourceForm(_Form):
    """An entry of a slice's `sources`."""

    model: _Reference
    layer_range: Annotated[tuple[int, int], BeforeValidator(_layer_range)]
    parameters: _Parameters = {}


class SliceForm(_Form):
    """An entry of `slices`."""

    sources: list[SourceForm]
    parameters: _Parameters = {}


class ModuleForm(_Form):
    """An entry of `modules`: one part of a model."""

    models: list[ModelForm] | None = None
    slices: list[SliceForm] | None = None
    parameters: _Parameters = {}


class TokenizerForm(_Form):
    """`tokenizer`, the newer form of `tokenizer_source`."""

    source: _Reference = UNION
    tokens: Annotated[Mapping[str, TokenRule], PlainValidator(_rules)] = {}
    pad_to_multiple_of: Annotated[int, PlainValidator(_multiple)] | None = None


class RecipeForm(_Form):
    """The whole recipe, keys as in mergekit."""

    merge_method: Annotated[str, BeforeValidator(_text)]
    base_model: _Reference | None = None
    models: list[ModelForm] | None = None
    slices: list[SliceForm] | None = None
    modules: Annotated[dict[str, ModuleForm], Field(min_length=1)] | None = None
    parameters: _Parameters = {}
    dtype: _Element | None = None
    out_dtype: _Element | None = None
    tokenizer_source: _Reference | None = None
    tokenizer: TokenizerForm | None = None
    chat_template: Annotated[str, BeforeValidator(_chat_template)] | None = None
    name: Annotated[str, BeforeValidator(_text)] | None = None


_FORMS: dict[Path, type[_Form]] = {
    (): RecipeForm,
    ("models",): ModelForm,
    ("slices",): SliceForm,
    ("slices", "sources"): SourceForm,
    ("modules",): ModuleForm,
    ("tokenizer",): TokenizerForm,
}
_EXPECTED = {
    "string_type": "text",
    "list_type": "a list (lines that begin with -)",
    "dict_type": "a mapping (lines of key: value)",
    "model_type": "a mapping (lines of key: value)",
    "too_short": "at least one part",
}


def read_form(data: Any, origin: str, lines: Lines) -> RecipeForm:
    """Check `data`. OptionError names file, line, key, expected and got of the first fault in the file. Wrong entries
    come before missing ones: a wrong key is often a misspelled one.
    """
    try:
        return RecipeForm.model_validate(data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        faults = [(detail["type"] == "missing", *_fault(detail)) for detail in details]
        _, path, message = min(faults, key=lambda fault: (fault[0], lines.get(fault[1], 0)))
        raise OptionError(f"{location(origin, lines, path)}: {message}") from None


def _fault(detail: ErrorDetails) -> tuple[Path, str]:
    path: Path = detail["loc"]
    above = path[:-1]
    if above[:1] == ("modules",) and len(above) > 1:  # a part's entries have the forms of the recipe's
        above = above[2:] or above[:1]
    form = _FORMS.get(tuple(part for part in above if isinstance(part, str)))
    match detail["type"]:
        case "recipe":
            context = detail["ctx"]
            return (*path, *context["at"]), context["text"]
        case "extra_forbidden":
            return path, _unknown(str(path[-1]), list(form.model_fields) if form else [])
        case "missing":
            return path[:-1], f"the key {path[-1]!r} is missing: add {path[-1]}: ..."
        case kind:
            return path, f"expected {_EXPECTED.get(kind, detail['msg'])}, got {describe(detail['input'])}"
