"""The chat template that a recipe asks for: by name, in Jinja, or the most common one of the models. It is text that is
found, compared and written, and never run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netweight.checkpoint.byte_stream import read_whole
from netweight.checkpoint.config import MAX_CONFIG, read_json_in
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import FormatError, InputError, OptionError, printable
from netweight.merging.chat_templates import AUTO, MAX_TEMPLATE, TEMPLATES, is_jinja
from netweight.merging.recipe.conditions import describe

if TYPE_CHECKING:
    from netweight.checkpoint.place import Place

__all__ = ["ChosenTemplate", "choose_template", "template_of"]

_RAW = "chat_template.jinja"
_CONFIGS = ("tokenizer_config.json", "chat_template.json")
_OF_GGUF = "tokenizer.chat_template"


@dataclass(frozen=True)
class ChosenTemplate:
    """`text` takes the place of the template in the tokenizer's folder; None: that one stays. `tokens` are those that
    the text needs, where that is known.
    """

    text: str | None = None
    tokens: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose_template(asked: str | None, checkpoints: Sequence[Checkpoint], kept: Checkpoint) -> ChosenTemplate:
    """What a recipe's `chat_template` stands for. `checkpoints` are all models, the base first; `kept` is the one whose
    tokenizer the output gets. Raises OptionError for a name that there is not, ReadError where a file of a model cannot
    be read.
    """
    if asked is None:
        return ChosenTemplate()
    named = TEMPLATES.get(asked)
    if named is not None:
        return ChosenTemplate(named.text, named.tokens)
    if asked == AUTO:
        return _most_common(checkpoints, kept)
    if not is_jinja(asked):
        known = ", ".join((AUTO, *TEMPLATES))
        raise OptionError(f"chat_template: expected {known} or a template in Jinja, got {describe(asked)}")
    return ChosenTemplate(asked)


def _most_common(checkpoints: Sequence[Checkpoint], kept: Checkpoint) -> ChosenTemplate:
    found: dict[str, str] = {}
    notes = []
    for checkpoint in checkpoints:
        try:
            text = template_of(checkpoint)
        except InputError as problem:
            notes.append(f"chat_template auto: not counted: {problem}")
        else:
            if text is not None:
                found[checkpoint.ref] = text
    if not found:
        notes.append("chat_template auto: no model has a chat template, and the output gets none")
        return ChosenTemplate(notes=tuple(notes))
    counts = Counter(_compared(text) for text in found.values())  # in the order of the models: the first of equals wins
    chosen, times = counts.most_common(1)[0]
    ref, text = next((ref, text) for ref, text in found.items() if _compared(text) == chosen)
    tied = sum(count == times for count in counts.values()) - 1
    notes.append(
        f"chat_template auto: that of {printable(ref, 300)}, which {times} of {len(checkpoints)} models"
        f" {'has' if times == 1 else 'have'}" + (f"; {tied} more as common: the first one counts" if tied else "")
    )
    try:
        own = template_of(kept)
    except InputError:
        own = None
    stays = own is not None and kept.format != "gguf" and _compared(own) == chosen
    return ChosenTemplate(None if stays else text, notes=tuple(notes))


def _compared(text: str) -> str:
    """Texts that differ only in how lines end are one template: Jinja makes no difference."""
    return text.replace("\r\n", "\n").removesuffix("\n")


def template_of(checkpoint: Checkpoint) -> str | None:
    """The model's own chat template, looked for where transformers does; None where it has none.

    Raises FormatError for what is no text, or longer than MAX_TEMPLATE, UnsafeFileError for a link that leads out.
    """
    if checkpoint.format == "gguf" and (text := checkpoint.metadata.get(_OF_GGUF)) is not None:
        return _checked(text, f"{printable(checkpoint.ref, 300)}, {_OF_GGUF}")
    place = checkpoint.place
    if place is None:
        return None
    if place.has(_RAW):
        return _raw(place)
    for name in _CONFIGS:
        if place.has(name):
            where = printable(place.path(name), 300)
            text = _default(read_json_in(place, name, MAX_CONFIG).get("chat_template"), where)
            if text is not None:
                return _checked(text, where)
    return None


def _raw(place: Place) -> str:
    where = printable(place.path(_RAW), 300)
    source = place.open(_RAW)
    if source.size > MAX_TEMPLATE:
        source.close()
        raise FormatError(f"{where}: {source.size} bytes, expected at most {MAX_TEMPLATE}")
    try:
        return read_whole(source).decode() if source.size else ""
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}, byte {error.start}: expected text in UTF-8, got other bytes") from None


def _default(value: Any, where: str) -> str | None:
    """The template itself, or the one named `default` of a list of {name, template}."""
    if isinstance(value, list):
        entries = [entry for entry in value if isinstance(entry, Mapping)]
        value = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    if value is None or isinstance(value, str):
        return value
    raise FormatError(f"{where}, chat_template: expected text, got {describe(value)}")


def _checked(text: str, where: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise FormatError(f"{where}: the chat template holds {text[error.start]!a}, no text of UTF-8") from None
    if size > MAX_TEMPLATE:
        raise FormatError(f"{where}: the chat template has {size} bytes, expected at most {MAX_TEMPLATE}")
    return text
