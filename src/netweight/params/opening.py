"""Opening a model by its reference: with adapters (`BASE+ADAPTER`), under the file's names or under canonical ones."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from netweight.checkpoint.adapters.adapter import Adapter
from netweight.checkpoint.adapters.reading import adapter_in
from netweight.checkpoint.adapters.references import split_adapters
from netweight.checkpoint.adapters.settings import ADAPTER_CONFIG
from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.tensor import Checkpoint
from netweight.errors import InputError, ModelNotFoundError, printable
from netweight.params.adapted import with_adapter

__all__ = ["base_of", "open_model", "open_whole"]


def open_model(
    ref: str | os.PathLike[str], *, canonical: bool = False, raw: bool = False, download: bool = False
) -> Checkpoint:
    """Open the model at `ref`: its tensors under the names that its files give them. `BASE+ADAPTER` is the base with
    the adapter in its weights, `BASE+A+B` with both; an adapter alone is what its file holds.

    `canonical`: under names that do not depend on who saved it, experts and projections one by one, as `delta` and
    `compare` pair them. `raw`: what is stored, codes and scales of quantised weights as tensors of their own, under the
    names and in the layout of the file. `download` and what is raised: see `open_checkpoint`; also InputError where an
    adapter does not belong to its base.
    """
    checkpoint = _open(os.fspath(ref), download=download)
    if raw:
        stored = {part.name: part for tensor in checkpoint.stored.values() for part in tensor.stored_parts}
        return checkpoint.with_tensors(stored, {})
    if not canonical:
        return checkpoint
    from netweight.params.model import Model  # noqa: PLC0415 - only where it is needed

    return Model(checkpoint).as_checkpoint()


def open_whole(
    ref: str | os.PathLike[str],
    *,
    download: bool = False,
    base: str | os.PathLike[str] | None = None,
    beside: Sequence[Checkpoint] = (),
) -> Checkpoint:
    """As `open_model`; an adapter alone is the model that it makes of its base: of `base`, else of the one that its
    adapter_config.json names. An adapter shares the tensors of a base that is open already, one of `beside`, and closes
    it too: what reads both reads such a tensor once.

    Raises what `open_model` raises, and ModelNotFoundError where the base cannot be found.
    """
    checkpoint = _open(os.fspath(ref), download=download, beside=beside)
    if checkpoint.made_of:
        return checkpoint
    with ExitStack() as stack:
        stack.callback(checkpoint.close)
        adapter = adapter_in(checkpoint)
        if adapter is not None:
            named = os.fspath(base) if base is not None else _named_base(checkpoint, adapter)
            if not named:
                raise ModelNotFoundError(
                    f"{adapter.where}: is an adapter, and {ADAPTER_CONFIG} does not name its base; name it:"
                    f" BASE+{adapter.where}"
                )
            whole = stack.enter_context(_base(named, adapter, download=download, beside=beside))
            own = adapter.settings.base
            if own and _last(own) != _last(named):
                note = (
                    f"was trained on {printable(own)}, as {ADAPTER_CONFIG} says: read on {printable(named)}, as asked"
                )
                adapter = replace(adapter, notes=(*adapter.notes, note))
            made = with_adapter(whole, adapter, checkpoint, checkpoint.ref)
            stack.pop_all()
            return made
        stack.pop_all()
    return checkpoint


def _open(ref: str, *, download: bool, beside: Sequence[Checkpoint] = ()) -> Checkpoint:
    base, *adapters = split_adapters(ref)
    with ExitStack() as stack:
        known = (held for held in beside if adapters and held.ref == base)
        model = next(known, None)
        if model is None:
            model = stack.enter_context(open_checkpoint(base, download=download))
        if adapters and (held := adapter_in(model)) is not None:
            raise InputError(f"{held.where}: is an adapter; expected a model before the +, and adapters behind it")
        for at, named in enumerate(adapters, 1):
            source = stack.enter_context(open_checkpoint(named, download=download))
            adapter = adapter_in(source)
            if adapter is None:
                raise InputError(
                    f"{printable(named)}: is no adapter; expected a model before the +, and adapters behind it"
                )
            model = with_adapter(model, adapter, source, ref if at == len(adapters) else f"{base}+{named}")
        stack.pop_all()
    return model


def _last(ref: str) -> str:
    """The last word of a reference, which a copy of a model keeps as a rule."""
    return re.split(r"[/\\]", ref.rstrip("/\\"))[-1].partition("@")[0].casefold()


def _base(named: str, adapter: Adapter, *, download: bool, beside: Sequence[Checkpoint] = ()) -> Checkpoint:
    """The base of an adapter."""
    base = next((held for held in beside if held.ref == named), None)
    try:
        base = _open(named, download=download) if base is None else base
    except ModelNotFoundError as problem:
        raise ModelNotFoundError(
            f"{adapter.where}: is an adapter of {printable(named)!r}, which was not found ({problem}); name the base:"
            f" BASE+{adapter.where}"
        ) from None
    if not base.made_of and adapter_in(base) is not None:
        base.close()
        raise InputError(
            f"{adapter.where}: is an adapter of {printable(named)!r}, which is an adapter too; name a model"
        )
    return base


def base_of(checkpoint: Checkpoint, adapter: Adapter, *, here: bool) -> Checkpoint | None:
    """The base that adapter_config.json names, opened; None where it names none, or, with `here`, none on this machine.

    Raises what `open_model` raises.
    """
    named = _named_base(checkpoint, adapter)
    if not named or (here and not os.path.lexists(named)):
        return None
    return _base(named, adapter, download=False)


def _named_base(checkpoint: Checkpoint, adapter: Adapter) -> str:
    """A path from here or from the adapter's folder, or a model of the hub; "" where the file does not say."""
    named = adapter.settings.base
    if not named or checkpoint.location is None:
        return named
    folder = checkpoint.location if checkpoint.location.is_dir() else checkpoint.location.parent
    beside = str(folder / named)
    first, second = (beside, named) if named.startswith(".") else (named, beside)
    return first if os.path.lexists(first) else second if os.path.lexists(second) else named
