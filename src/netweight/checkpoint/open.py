"""From a reference to an open checkpoint: a folder, an index, or a file of any supported format, here or far away."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from netweight.checkpoint.adapters.names import ADAPTER_FILES
from netweight.checkpoint.adapters.unmerged import with_adapters
from netweight.checkpoint.asides import instead_of_weights
from netweight.checkpoint.config import read_config
from netweight.checkpoint.decoders.decoded import decoded
from netweight.checkpoint.decoders.quantisation import declared
from netweight.checkpoint.decoders.quantize_config import with_settings_beside
from netweight.checkpoint.distcp import METADATA, read_distcp
from netweight.checkpoint.file_names import NUMBERED
from netweight.checkpoint.folder import Selection, check_alone, in_parts, select, select_index, whole_set
from netweight.checkpoint.gguf.config import config_of, lacking
from netweight.checkpoint.gguf.hub import as_on_hub
from netweight.checkpoint.index import join
from netweight.checkpoint.kinds import reader_of
from netweight.checkpoint.part import Part
from netweight.checkpoint.place import LocalPlace, Place
from netweight.checkpoint.reference import HubReference, UrlReference, parse_reference
from netweight.checkpoint.saved_chunks import are_chunks, join_chunks
from netweight.checkpoint.table import TensorTable
from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.checkpoint.tensor_parallel import join_parallel
from netweight.errors import FormatError, ModelNotFoundError, NetweightError, nearest_path, printable
from netweight.source.local import open_local
from netweight.source.protocol import Source
from netweight.source.remote import RemoteFile

__all__ = ["open_checkpoint"]

_AT_A_TIME = 8  # headers of files far away
_SHOWN = 4  # names of a note


def open_checkpoint(ref: str | os.PathLike[str], *, download: bool = False) -> Checkpoint:
    """Open the checkpoint at `ref`; headers are read, tensor data is not.

    `ref` is a folder or a file, else a model of the hub (`org/name`, `org/name@revision`, `hf://org/name`) or a URL
    that fsspec reads. A model of the hub is taken from the hub's cache where it is there; else its headers are read by
    ranges, and its data when they are asked for. `download` brings its files into the cache first.

    Raises ModelNotFoundError where `ref` leads to no model, FormatError where a file is not what it should be,
    UnsafeFileError where one asks for code or for files outside its folder, ReadError where bytes cannot be read.
    """
    name = os.fspath(ref)
    if not name:
        raise ModelNotFoundError("the model reference is empty; expected a folder or a file")
    path = Path(name)
    try:
        state = path.stat()
    except (OSError, ValueError) as problem:
        return _open_elsewhere(name, problem, download=download)
    if path.is_dir():
        return _open_selection(name, select(path), path)
    place = LocalPlace(path.parent)
    if name.endswith(".index.json") and state.st_size:
        return _open_selection(name, select_index(place, path.name), path)
    if path.name == METADATA:
        return _open_selection(name, select(path.parent), path.parent)
    if (match := NUMBERED.fullmatch(path.name)) and match[4] == ".gguf" and int(match[3]) > 1:
        return _open_selection(name, whole_set(place, path.name), path)
    # opened as it is named, wherever a link leads: it is the user's own word
    part = check_alone(path.parent, path.name)
    chosen = Selection(place, (path.name,), notes=(part,) if part else ())
    return _open_selection(name, chosen, path, [open_local(path)])


def _open_elsewhere(name: str, problem: OSError | ValueError, *, download: bool) -> Checkpoint:
    reference = parse_reference(name) if isinstance(problem, (FileNotFoundError, NotADirectoryError)) else None
    if isinstance(reference, HubReference):
        return _open_hub(name, reference, download=download)
    if isinstance(reference, UrlReference):
        from netweight.checkpoint.remote_place import place_of_url  # noqa: PLC0415 - only where it is needed

        place, file = place_of_url(reference.url)
        return _open_selection(name, _chosen(place, file))
    raise _not_found(name, problem) from None


def _open_hub(name: str, reference: HubReference, *, download: bool) -> Checkpoint:
    from netweight.checkpoint import hub  # noqa: PLC0415 - only where it is needed

    snapshot = hub.cached_snapshot(reference)
    if snapshot is not None:
        try:
            chosen = _in_snapshot(snapshot, reference.path)
        except (ModelNotFoundError, FormatError) as problem:
            if hub.offline():
                raise type(problem)(
                    f"{problem}; that is what the hub's cache has of {printable(name)}, and HF_HUB_OFFLINE forbids to"
                    " fetch the rest"
                ) from None
        else:
            return _open_selection(name, chosen, snapshot, revision=snapshot.name)
    listed = hub.list_files(reference)
    path = reference.path
    if path and path not in listed.files:
        place, file = replace(listed, prefix=f"{path}/"), ""
    else:
        above, _, file = path.rpartition("/")
        place = replace(listed, prefix=f"{above}/" if above else "")
    if download:
        folder, commit = hub.fetch(place, lambda place: _needed(_chosen(place, file)))
        return _open_selection(name, _in_snapshot(folder, path), folder, revision=commit)
    return _open_selection(name, _chosen(place, file), revision=place.commit)


def _in_snapshot(folder: Path, path: str) -> Selection:
    place = LocalPlace(folder / path)
    if not path or place.folder.is_dir():
        return select(place)
    return _chosen(LocalPlace(place.folder.parent), place.folder.name)


def _needed(chosen: Selection) -> list[str]:
    return [*chosen.names, *([chosen.index.name] if chosen.index else [])]


def _chosen(place: Place, file: str) -> Selection:
    """The model's files in `place`, or `file` alone."""
    if not file:
        return select(place)
    if file.endswith(".index.json"):
        return select_index(place, file)
    if not place.has(file):
        raise ModelNotFoundError(f"{printable(place.path(file))}: there is no such file")
    if (match := NUMBERED.fullmatch(file)) and match[4] == ".gguf" and int(match[3]) > 1 and place.can_list:
        return whole_set(place, file)
    return Selection(place, (file,))


def _open_selection(
    ref: str,
    selection: Selection,
    local: Path | None = None,
    sources: Sequence[Source] | None = None,
    *,
    revision: str | None = None,
) -> Checkpoint:
    """`local`: the path on this machine that is the model."""
    place = selection.place
    if selection.names[0] == METADATA:
        parts = read_distcp(place)
    else:
        parts = _read_all(sources or [place.open(name) for name in selection.names])
    notes = list(selection.notes)
    if selection.parallel:
        tensors, findings = join_parallel(parts, selection.names)
        notes += findings
    elif are_chunks(parts) or selection.ranks:
        if not are_chunks(parts):
            raise in_parts(place.label, selection.names)
        tensors, findings = join_chunks(parts)
        notes += findings
    elif len(parts) == 1 and selection.index is None:
        tensors = parts[0].tensors
    else:
        tensors, findings = join(parts, selection.names, selection.index)
        notes += findings
    formats = {part.format for part in parts}
    instead = [holds for part in parts if (holds := instead_of_weights(part))]
    if len(instead) == len(parts) and (tensors or formats != {"safetensors"}):
        raise _no_model(ref, parts, instead[0], selection)
    if selection.index and selection.index.total_size is not None:
        total = sum(tensor.nbytes for tensor in tensors.values())
        if total != selection.index.total_size:
            notes.append(
                f"{printable(selection.index.name)}: total_size is {selection.index.total_size} bytes, "
                f"the tensors take {total}"
            )
    empty = sum(_count_of(part.tensors, (0,)) for part in parts)
    if empty:
        notes.append(
            f"{empty} of {len(tensors)} tensors are empty, of shape [0]: DeepSpeed's ZeRO-3 leaves them where a model"
            " is saved without its weights gathered; give what zero_to_fp32.py makes of the training's folder"
        )
    (config, problem), lacks = read_config(place), ""
    metadata = {key: value for part in reversed(parts) for key, value in part.metadata.items()}
    stored, settings = tensors, dict[str, Any]()
    if parts[0].fields.get("general.type") == "adapter":
        unused = found = tuple[Any, ...]()  # its tensors are parts of updates, which checkpoint/adapters knows
    elif parts[0].format == "gguf":
        if config is None and (config := config_of(parts[0].fields, tensors)) is not None:
            problem, lacks = None, lacking(parts[0].fields, config, tensors)
        tensors, unused, found = as_on_hub(tensors, parts[0].fields, printable(ref))
    else:
        whole = with_settings_beside(config, tensors, place)
        settings = {} if whole is config else {"quantization_config": declared(whole)}
        tensors, unused, found = decoded(tensors, whole, printable(ref), metadata)
    notes += [f"{printable(ref)}: {note}" for note in found]
    adapter: dict[str, Any] = {}
    if not all(name.startswith(ADAPTER_FILES) for name in selection.names):
        tensors, found, adapter = with_adapters(tensors, place, printable(ref))
        notes += found
    outside = tuple(dict.fromkeys(name for part in parts for name in part.outside))
    if outside:
        notes.append(_outside_note(outside))
    return Checkpoint(
        ref,
        tensors,
        format=" + ".join(sorted(formats)),
        files=tuple(part.file for part in parts),
        config=config,
        config_problem=problem,
        config_lacks=lacks,
        stored=stored,
        metadata=metadata,
        skipped=(*(skipped for part in parts for skipped in part.skipped), *unused),
        notes=(*notes, *(note for part in parts for note in part.notes)),
        shared={alias: name for part in parts for alias, name in part.shared.items()},
        sources=tuple(part.source for part in parts),
        revision=revision,
        location=local,
        place=place,
        outside=outside,
        settings=settings | adapter,
    )


def _outside_note(outside: Sequence[str]) -> str:
    shown = ", ".join(printable(name, 80) for name in outside[:_SHOWN])
    more = f" and {len(outside) - _SHOWN} more" if len(outside) > _SHOWN else ""
    count = "a name" if len(outside) == 1 else f"{len(outside)} names"
    return (
        f"its pickle has {count} outside the list of harmless ones ({shown}{more}): nothing was run here; loading it"
        " elsewhere runs what they stand for"
    )


def _count_of(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> int:
    if isinstance(tensors, TensorTable):
        return tensors.count_of(shape)
    return sum(tensor.shape == shape for tensor in tensors.values())


def _read_all(sources: Sequence[Source]) -> list[Part]:
    """Read the files' headers; those of files far away several at a time."""
    distant = [source for source in sources if isinstance(source, RemoteFile)]
    try:
        if len(distant) < 2:
            return [_read(source) for source in sources]
        with ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="netweight-headers") as pool:
            return list(pool.map(_read, sources))
    except BaseException:
        for source in sources:
            source.close()
        raise


def _read(source: Source) -> Part:
    part = reader_of(source).read(source)
    if isinstance(source, RemoteFile):
        return replace(part, file=replace(part.file, stamp=source.state.stamp))
    return part


def _no_model(ref: str, parts: list[Part], instead: str, selection: Selection) -> FormatError:
    """What files hold that are no model, and where a model is."""
    if instead == "no tensors":
        skipped = [entry for part in parts for entry in part.skipped][:3]
        instead += "".join(f"; {printable(entry.name)!r}: {entry.reason}" for entry in skipped)
        return FormatError(f"{printable(ref)}: holds {instead}")
    beside: tuple[str, ...] = ()
    if selection.place.can_list:
        try:
            beside = select(selection.place).names
        except NetweightError:
            beside = ()  # there is no one model: nothing to point at
    named = printable(parts[0].source.name if len(parts) == 1 else ref)
    if not beside or set(beside) & set(selection.names):
        return FormatError(f"{named}: holds {instead} and no model; name the file that holds the weights")
    there = f"{printable(beside[0])!r}, beside it" if len(beside) == 1 else "the shards beside it: name their folder"
    return FormatError(f"{named}: holds {instead} and no model; the model is {there}")


def _not_found(name: str, problem: OSError | ValueError) -> ModelNotFoundError:
    if isinstance(problem, OSError) and not isinstance(problem, (FileNotFoundError, NotADirectoryError)):
        return ModelNotFoundError(f"{printable(name)}: cannot be opened: {problem.strerror}")
    return ModelNotFoundError(f"{printable(name)}: there is no such file or folder{nearest_path(name)}")
