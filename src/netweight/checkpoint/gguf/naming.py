"""What llama.cpp calls the tensors of a model of the hub: the names of `names.py`, read the other way."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from netweight.checkpoint.gguf.names import ARCHITECTURES, Dialect

__all__ = ["gguf_namer"]

_ALIKE = {"mistral": "llama", "mixtral": "llama", "mistral3": "llama", "ministral": "llama", "gemma3": "gemma3_text"}
"""Model types that llama.cpp has under another's names."""


def gguf_namer(config: Mapping[str, Any]) -> Callable[[str], str | None] | None:
    """The function from a name of the hub to llama.cpp's, None for a tensor that it has not; None for a `model_type`
    whose names are not known.
    """
    kinds = {dialect.model_type: dialect for dialect in ARCHITECTURES.values()}
    kind = str(config.get("model_type"))
    dialect = kinds.get(_ALIKE.get(kind, kind))
    if dialect is None:
        return None
    table = _reversed(dialect)

    def name_of(name: str) -> str | None:
        for pattern, target in table:
            if match := pattern.fullmatch(name):
                numbers = match.groups()
                return target.replace("#", numbers[0] if numbers else "") + name[name.rindex(".") :]
        return None

    return name_of


def _reversed(dialect: Dialect) -> list[tuple[re.Pattern[str], str]]:
    """(pattern of the hub's name, llama.cpp's without its ending); # is the block's number."""
    found = []
    places = [("", "", dialect.top)]
    places += [(dialect.layers[blocks], f"{blocks}.#.", table) for blocks, table in dialect.blocks.items()]
    for prefix, ours, table in places:
        for key, value in table.items():
            stem = value.rpartition(":")[2]
            if stem.startswith("="):
                continue  # no weight matrix
            text = re.escape(prefix + stem).replace(r"\#", r"(\d+)").replace("#", r"(\d+)").replace(r"\*", r"\d+")
            found.append((re.compile(rf"{text}\.(?:weight|bias)"), ours + key.removesuffix(".weight")))
    return found
