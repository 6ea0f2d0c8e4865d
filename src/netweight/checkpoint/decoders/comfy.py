"""What ComfyUI says of the layers that it has quantised, and which of its formats are read.

`X.comfy_quant` holds JSON in bytes, {"format": ...}; the file's metadata may have the same for all layers, under
`_quantization_metadata`. Plain floats and integers of 8 bits with a scale are read as everybody's (see `scales.py`);
others are not: its NVFP4 and MXFP8 have scales in the order of a GPU's tiles and the high half first, "convrot" rotates
weights. Nothing in their tensors would tell them from modelopt's. Older files are marked as a whole, by a tensor
`scaled_fp8`. Source: ComfyUI's `comfy/ops.py` and `comfy/utils.py`; comfy-kitchen's `tensor/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from netweight.checkpoint.decoders.found import Found, shown, wrong
from netweight.checkpoint.tensor import Skipped, Tensor
from netweight.errors import printable

__all__ = ["find", "named_in"]

_LAYER, _FILE, _METADATA = "comfy_quant", "scaled_fp8", "_quantization_metadata"
_READ = {"float8_e4m3fn": {"F8_E4M3"}, "float8_e5m2": {"F8_E5M2"}, "int8_tensorwise": {"I8"}}
_HARMLESS = {"format", "full_precision_matrix_mult", "convrot", "convrot_groupsize"}
_LARGEST = 1 << 12  # bytes of a layer's JSON


def find(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> Found:
    """ComfyUI's marks, which are no weights; raises FormatError for a format that is not read."""
    marks: dict[str, str] = {}
    for name in [name for name in tensors if name.endswith((_LAYER, _FILE))]:
        if _is(name, _LAYER) and tensors[name].dtype.name == "U8":
            _check(name.removesuffix(_LAYER), _object(tensors[name]), tensors, where)
            marks[name] = "ComfyUI's word on how the layer is quantised, no weight"
        elif _is(name, _FILE) and tensors[name].size <= 2 and tensors[name].dtype.name.startswith("F8"):
            marks[name] = "ComfyUI's mark of scaled weights of 8 bits, no weight"
    for layer, about in _layers(metadata):
        _check(f"{layer}.", about, tensors, where)
    return Found(parts=frozenset(marks), skipped=tuple(Skipped(name, reason) for name, reason in marks.items()))


def named_in(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of files speak of how layers are quantised."""
    return _METADATA in metadata


def _is(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")


def _check(layer: str, about: object, tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises FormatError where the weight of `layer` (with its point) is not of a format that is read."""
    weight = f"{layer}weight"
    known = about if isinstance(about, Mapping) else {}
    kind, rotated = known.get("format"), bool(known.get("convrot"))
    types = _READ.get(kind, set()) if isinstance(kind, str) else set()
    right = bool(types) and (weight not in tensors or tensors[weight].dtype.name in types)
    if not right or rotated or not known.keys() <= _HARMLESS:
        raise wrong(
            where,
            weight,
            f"{shown(tensors.get(weight))} is in ComfyUI's format {printable(str(kind))!r}"
            f"{', rotated' if rotated else ''}, which is not read; expected one of {', '.join(_READ)}",
        )


def _object(tensor: Tensor) -> object:
    if tensor.nbytes > _LARGEST:
        return None
    data = bytearray(tensor.nbytes)
    tensor.read_into(0, memoryview(data))
    return _parsed(bytes(data))


def _layers(metadata: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    about = _parsed(metadata.get(_METADATA, "{}"))
    layers = about.get("layers") if isinstance(about, Mapping) else None
    if isinstance(layers, Mapping):
        yield from layers.items()


def _parsed(text: str | bytes) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value
