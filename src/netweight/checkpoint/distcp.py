"""Folders that torch.distributed.checkpoint writes: `.metadata`, a pickle that says of which chunks each tensor is
made, and `.distcp` files, in which each chunk is a torch file (or a safetensors file) of its own.

Layout: torch/distributed/checkpoint/metadata.py and filesystem.py. No class that the pickle names is built.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from netweight.checkpoint.byte_stream import digest_of, stream_of
from netweight.checkpoint.foreign import JOIN
from netweight.checkpoint.index import check_shard_name, listed
from netweight.checkpoint.kinds import READERS
from netweight.checkpoint.part import Part
from netweight.checkpoint.pickle_nodes import Blob, Call, Global, Mapped, Persistent
from netweight.checkpoint.place import LocalPlace, Place
from netweight.checkpoint.tensor import CheckpointFile, Tensor
from netweight.checkpoint.tensors.sharded import Chunk, put_together
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.checkpoint.torch_nodes import Storage, TensorNodes, Unreadable, View, dtype_named
from netweight.checkpoint.unpickler import load_pickle
from netweight.checkpoint.unwrap import unwrap
from netweight.errors import FormatError, printable
from netweight.source.protocol import Source
from netweight.source.window import WindowSource

__all__ = ["METADATA", "read_distcp"]

METADATA = ".metadata"
MAX_METADATA = 256 << 20  # bytes
MAX_OBJECTS = 1 << 30  # bytes of Python objects, estimated from above: 200,000 chunks
_OTHERS = f"to read them: {JOIN}, and save them from that"
_FORMS = ("torch zip", "safetensors")
_HEAD = 512
_OPTIMIZER = re.compile(r"(chained_)?optim(izer)?s?(_state)?(\.|$).*")

_Key = tuple[str, tuple[int, ...] | None]


@dataclass(frozen=True)
class _Stored:
    """Where an item lies: `size` bytes from `offset` of the file `name`."""

    name: str
    offset: int
    size: int
    packed: bool


@dataclass(frozen=True)
class _Declared:
    """A tensor as `.metadata` declares it: `chunks` are (offsets, sizes)."""

    view: View | Unreadable
    chunks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


def read_distcp(place: Place, name: str = METADATA) -> list[Part]:
    """The checkpoint whose metadata are the file `name` in `place`: one Part with its tensors, and one for each file
    that they lie in.

    Optimizer state and what else lies beside the model is left out, as of a torch file that holds the same dict.
    Raises FormatError where files are missing or damaged, UnsafeFileError where names lead out of the folder or the
    pickle calls what only an attack calls.
    """
    where = printable(place.path(name))
    if not isinstance(place, LocalPlace):
        raise FormatError(f"{where}: a torch.distributed checkpoint is read from this machine only; download it first")
    source = place.open(name)
    files: dict[str, Source] = {}
    try:
        return _read(place, source, where, files)
    except BaseException:
        for opened in (source, *files.values()):
            opened.close()
        raise


def _read(place: LocalPlace, source: Source, where: str, files: dict[str, Source]) -> list[Part]:
    if source.size > MAX_METADATA:
        raise FormatError(f"{where}: {source.size} bytes, expected at most {MAX_METADATA}")
    outside: dict[str, None] = {}
    root = load_pickle(stream_of(source, 0, source.size), where, outside=outside, most=MAX_OBJECTS)
    declared, stored, paths = _metadata(root, where)
    boxes = {name: entry.chunks for name, entry in declared.items() if entry}
    nodes = TensorNodes(lambda _: Unreadable("no storage", broken=True), lambda name: _view(declared, name))
    unwrapped = unwrap(_tree(declared, paths), nodes, where, _OTHERS)
    _open_all(place, where, files, stored, [view.storage.key for view in unwrapped.tensors.values()])
    digests = {name: hashlib.sha256() for name in files}
    tensors: dict[str, Tensor] = {}
    for name, view in unwrapped.tensors.items():
        full = view.storage.key
        chunks = []
        for offsets, sizes in boxes[full]:
            item = _item(stored, full, offsets, where)
            tensor, digest = _chunk(files[item.name], item, full)
            if tensor.shape != sizes:
                raise FormatError(
                    f"{where}: tensor {printable(full)!r}: a chunk has the shape {list(tensor.shape)}, expected"
                    f" {list(sizes)}; the files are of two checkpoints or damaged"
                )
            digests[item.name].update(digest.encode())
            chunks.append(Chunk(offsets, tensor))
        try:
            tensors[name] = put_together(name, view.shape, view.dtype, chunks)
        except FormatError as problem:
            raise FormatError(f"{where}: tensor {printable(full)!r}: {problem}") from None
    about = CheckpointFile(source.name, source.size, digest_of(source, 0, source.size))
    parts = [
        Part(
            "torch distributed",
            source,
            about,
            tensors,
            skipped=tuple(unwrapped.skipped),
            instead=unwrapped.instead,
            outside=tuple(outside),
        )
    ]
    for file, opened in files.items():
        held = CheckpointFile(opened.name, opened.size, digests[file].hexdigest())
        parts.append(Part("torch distributed", opened, held, {}))
    return parts


def _metadata(
    root: Any, where: str
) -> tuple[dict[str, _Declared | None], dict[_Key, _Stored], dict[str, tuple[Any, ...]]]:
    """(What is declared by full name, None for what is no tensor; where each item lies; paths in the dict that was
    saved).
    """
    fields = _fields(root)
    entries, stored, plan = (fields.get(name) for name in ("state_dict_metadata", "storage_data", "planner_data"))
    if not _is(root, "Metadata") or not isinstance(entries, Mapped) or not isinstance(stored, Mapped):
        raise FormatError(f"{where}: does not hold what torch.distributed.checkpoint writes of its tensors; {JOIN}")
    declared = {name: _declared(entry) for name, entry in entries.pairs if isinstance(name, str)}
    items = dict(_items(stored, where))
    paths = plan.pairs if isinstance(plan, Mapped) else []
    return declared, items, {name: path for name, path in paths if isinstance(name, str) and isinstance(path, tuple)}


def _fields(node: Any) -> Mapped:
    return node.state if isinstance(node, Call) and isinstance(node.state, Mapped) else Mapped([])


def _is(node: Any, name: str) -> bool:
    return isinstance(node, Call) and isinstance(node.function, Global) and node.function.name == name


def _declared(entry: Any) -> _Declared | None:
    if not _is(entry, "TensorStorageMetadata"):
        return None
    fields = _fields(entry)
    shape, chunks, properties = fields.get("size"), fields.get("chunks"), fields.get("properties")
    held = properties.state if isinstance(properties, Call) else None
    dtype = held[0] if isinstance(held, tuple) and held else held.get("dtype") if isinstance(held, Mapped) else None
    known = dtype_named(dtype)
    if isinstance(known, Unreadable):
        return _Declared(known)
    boxes = [(_fields(chunk).get("offsets"), _fields(chunk).get("sizes")) for chunk in _list(chunks)]
    if not _counts(shape) or not boxes or not all(_counts(starts) and _counts(sizes) for starts, sizes in boxes):
        return _Declared(Unreadable("its shape and chunks are no whole numbers from 0", broken=True))
    strides, step = [], 1
    for count in reversed(shape):
        strides.append(step)
        step *= max(1, count)
    return _Declared(View(Storage("", known, step), known, 0, shape, tuple(reversed(strides))), tuple(boxes))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _counts(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 64 and all(type(n) is int and 0 <= n < 1 << 62 for n in value)


def _items(stored: Mapped, where: str) -> Iterator[tuple[_Key, _Stored]]:
    for key, info in stored.pairs:
        about, held = _fields(key), _fields(info)
        name, offsets = about.get("fqn"), about.get("offset")
        file, offset, size = (held.get(field) for field in ("relative_path", "offset", "length"))
        if not isinstance(name, str) or not isinstance(file, str) or not _counts((offset, size)):
            raise FormatError(f"{where}: does not say of every item in which bytes of which file it lies")
        packed = held.get("transform_descriptors") not in (None, [], ())
        yield (name, offsets if _counts(offsets) else None), _Stored(file, offset, size, packed)


def _view(declared: dict[str, _Declared | None], name: Any) -> View | Unreadable | None:
    found = declared.get(name) if isinstance(name, str) else None
    if found is None:
        return None
    if isinstance(found.view, Unreadable):
        return found.view
    return replace(found.view, storage=replace(found.view.storage, key=name))


def _tree(declared: dict[str, _Declared | None], paths: dict[str, tuple[Any, ...]]) -> Mapped:
    """The dict that was saved, as nodes: tensors are references by their full names."""
    root = Mapped([])
    folders: dict[tuple[Any, ...], Mapped] = {(): root}
    for name, entry in declared.items():
        path = paths.get(name, ())
        if not path or not all(isinstance(step, (str, int)) for step in path):
            path = (name,)
        if len(path) == 1 and _OPTIMIZER.fullmatch(name):
            first, _, rest = name.partition(".")
            path = (first, rest) if rest else path
        above = root
        for depth in range(1, len(path)):
            inner = folders.get(path[:depth])
            if inner is None:
                inner = folders[path[:depth]] = Mapped([])
                above.pairs.append((path[depth - 1], inner))
            above = inner
        above.pairs.append((path[-1], Blob(0) if entry is None else Persistent(name)))
    return root


def _open_all(
    place: LocalPlace, where: str, files: dict[str, Source], stored: dict[_Key, _Stored], wanted: list[str]
) -> None:
    """Open every file that has items of `wanted`, into `files`; raises FormatError where some are missing."""
    names = set(wanted)
    needed = sorted({item.name for (name, _), item in stored.items() if name in names})
    for name in needed:
        check_shard_name(where, name)
    missing = [name for name in needed if not place.has(name)]
    if missing:
        raise FormatError(
            f"{where}: {len(missing)} of {len(needed)} files are missing: {listed(missing)}; each rank writes its own:"
            " bring those of all machines into the same folder"
        )
    for name in needed:
        files[name] = place.open(name)


def _item(stored: dict[_Key, _Stored], name: str, offsets: tuple[int, ...], where: str) -> _Stored:
    item = stored.get((name, offsets)) or (stored.get((name, None)) if not any(offsets) else None)
    if item is None:
        raise FormatError(f"{where}: tensor {printable(name)!r}: no file is named for its chunk at {list(offsets)}")
    if item.packed:
        raise FormatError(f"{where}: tensor {printable(name)!r} is stored packed, which is not supported: {JOIN}")
    return item


def _chunk(file: Source, item: _Stored, name: str) -> tuple[StoredTensor, str]:
    """The one tensor of an item, in its file, and the digest of the item's header."""
    if item.offset + item.size > file.size:
        raise FormatError(
            f"{printable(file.name)}: tensor {printable(name)!r} ends at byte {item.offset + item.size} of {file.size};"
            " the file is cut short, or of another checkpoint"
        )
    window = WindowSource(file, item.offset, item.size)
    head = bytearray(min(_HEAD, item.size))
    window.read_into(0, memoryview(head))
    reader = next((READERS[form] for form in _FORMS if READERS[form].matches(bytes(head), item.size)), None)
    if reader is None:
        raise FormatError(
            f"{printable(file.name)}: tensor {printable(name)!r}: neither a torch nor a safetensors file from byte"
            f" {item.offset}; the file is damaged, or of another checkpoint"
        )
    part = reader.read(window)
    held = list(part.tensors.values())
    if len(held) != 1 or not isinstance(held[0], StoredTensor):
        raise FormatError(
            f"{printable(file.name)}: {len(held)} tensors from byte {item.offset}, expected a chunk of"
            f" {printable(name)!r}; the files are of two checkpoints or damaged"
        )
    return replace(held[0], source=file, offset=item.offset + held[0].offset, storage=None), part.file.digest
