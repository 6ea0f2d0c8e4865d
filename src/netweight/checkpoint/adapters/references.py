"""References to a model with adapters: `BASE+ADAPTER`, as mergekit writes it, `BASE+A+B`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from netweight.errors import ModelNotFoundError, printable

__all__ = ["has_adapters", "split_adapters"]


def split_adapters(ref: str) -> tuple[str, ...]:
    """(base, adapters ...) of a reference; it alone where it names no adapter.

    A part is the longest that is a path here, since names may have a +; else what stands before the next one. A URL
    that is not of a hub has its + for itself. Raises ModelNotFoundError where a part is empty.
    """
    if "+" not in ref or os.path.lexists(ref):
        return (ref,)
    if "://" in ref and not ref.startswith("hf://"):
        return (ref,)
    parts = tuple(_parts(ref))
    if any(not part.strip() for part in parts):
        raise ModelNotFoundError(
            f"{printable(ref)}: a part is empty; expected BASE+ADAPTER, each a folder, a file or a model of the hub"
        )
    return parts


def has_adapters(ref: str) -> bool:
    """Whether a reference names a base and adapters."""
    try:
        return len(split_adapters(ref)) > 1
    except ModelNotFoundError:
        return False


def _parts(ref: str) -> Iterator[str]:
    rest: str | None = ref
    while rest is not None:
        cuts = [at for at, letter in enumerate(rest) if letter == "+"]
        found = next((at for at in (len(rest), *reversed(cuts)) if os.path.lexists(rest[:at])), None)
        at = found if found is not None else (cuts[0] if cuts else len(rest))
        yield rest[:at]
        rest = rest[at + 1 :] if at < len(rest) else None
