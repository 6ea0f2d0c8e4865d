"""Views of storages, checked against the file and made into Tensors; shared storages and hidden bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from netweight.checkpoint.part import Part
from netweight.checkpoint.strided import is_c_order, span_of
from netweight.checkpoint.tensor import CheckpointFile, Skipped
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.checkpoint.torch_nodes import View
from netweight.checkpoint.unwrap import Unwrapped
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source

__all__ = ["Region", "build_part"]

_EXPANDED = 1 << 30  # bytes that a view may have beyond what its storage justifies
_FACTOR = 64

_ViewKey = tuple[str, int, tuple[int, ...], tuple[int, ...], str, bool, bool]


@dataclass(frozen=True)
class Region:
    """Where a storage's bytes lie in the file."""

    offset: int
    nbytes: int


def build_part(
    unwrapped: Unwrapped,
    locate: Callable[[str], Region],
    *,
    source: Source,
    file: CheckpointFile,
    format: str,  # noqa: A002 - the field's word
    byteorder: str = "little",
    outside: Iterable[str] = (),
) -> Part:
    """The Part of the `unwrapped` tensors; `locate` gives the region of a storage by its key; `outside` is what
    its pickles name beside what is harmless.

    Raises FormatError where a view leaves its storage.
    """
    where = printable(source.name)
    regions: dict[str, Region] = {}
    placed: list[StoredTensor] = []
    skipped = list(unwrapped.skipped)
    for name, view in unwrapped.tensors.items():
        key = view.storage.key
        if key not in regions:
            regions[key] = locate(key)
        tensor = _tensor(where, name, view, regions[key], source, byteorder)
        if tensor.nbytes > _EXPANDED + _FACTOR * regions[key].nbytes:
            reason = f"an expanded view: {tensor.nbytes} bytes of tensor over {regions[key].nbytes} bytes of storage"
            skipped.append(Skipped(name, reason))
        else:
            placed.append(tensor)
    placed.sort(key=lambda tensor: tensor.offset)
    shared, overlapping = _sharing(placed)
    notes = []
    if overlapping:
        notes.append(
            f"{where}: {overlapping} tensors overlap others in their storage without being the same view; "
            "each is taken for itself"
        )
    hidden = _hidden(placed, regions)
    if hidden:
        notes.append(f"{where}: {hidden} bytes of its storages belong to no tensor (hidden bytes)")
    return Part(
        format,
        source,
        file,
        {tensor.name: tensor for tensor in placed},
        skipped=tuple(skipped),
        notes=tuple(notes),
        shared=shared,
        chunks={name: view.inside for name, view in unwrapped.tensors.items() if view.inside},
        instead=unwrapped.instead,
        outside=tuple(outside),
    )


def _tensor(where: str, name: str, view: View, region: Region, source: Source, byteorder: str) -> StoredTensor:
    itemsize = view.dtype.bits // 8
    storage = view.storage
    shift = storage.shift * (storage.dtype.bits // 8 if storage.dtype else 1)
    claimed = storage.count * (storage.dtype.bits // 8 if storage.dtype else 1)
    needed = (view.offset + span_of(view.shape, view.strides)) * itemsize
    room = min(region.nbytes - shift, claimed)
    if needed > room:
        raise FormatError(
            f"{where}: tensor {printable(name)!r}: offset {view.offset}, shape {list(view.shape)} and strides "
            f"{list(view.strides)} of {view.dtype} reach byte {needed} of its storage, which has {max(0, room)}; "
            "the file is damaged"
        )
    return StoredTensor(
        name,
        view.shape,
        view.dtype,
        source,
        region.offset + shift + view.offset * itemsize,
        None if is_c_order(view.shape, view.strides) else view.strides,
        storage.key,
        byteorder,
        view.negative,
        view.conjugate,
    )


def _sharing(tensors: list[StoredTensor]) -> tuple[dict[str, str], int]:
    """Aliases of the same view, and how many tensors overlap others without being aliases."""
    first: dict[_ViewKey, str] = {}
    shared: dict[str, str] = {}
    extents: dict[str, list[tuple[int, int]]] = {}
    for tensor in tensors:
        if not tensor.size or tensor.storage is None:
            continue
        view = (tensor.storage, tensor.offset, tensor.shape, tensor.strides or (), tensor.dtype.name)
        key = (*view, tensor.negative, tensor.conjugate)
        if key in first:
            shared[tensor.name] = first[key]
            continue
        first[key] = tensor.name
        extents.setdefault(tensor.storage, []).append(_extent(tensor))
    overlapping = 0
    for spans in extents.values():
        end = -1
        for start, stop in sorted(spans):
            overlapping += start < end
            end = max(end, stop)
    return shared, overlapping


def _extent(tensor: StoredTensor) -> tuple[int, int]:
    span = tensor.size if tensor.strides is None else span_of(tensor.shape, tensor.strides)
    return tensor.offset, tensor.offset + span * tensor.dtype.bits // 8


def _hidden(tensors: list[StoredTensor], regions: dict[str, Region]) -> int:
    """Bytes of the used storages that lie outside every tensor's extent."""
    extents: dict[str, list[tuple[int, int]]] = {key: [] for key in regions}
    for tensor in tensors:
        if tensor.storage is not None and tensor.size:
            extents[tensor.storage].append(_extent(tensor))
    total = 0
    for key, spans in extents.items():
        covered, end = 0, -1
        for start, stop in sorted(spans):
            covered += max(0, stop - max(start, end))
            end = max(end, stop)
        total += regions[key].nbytes - covered if spans else 0
    return total
