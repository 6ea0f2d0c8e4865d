"""Meta's tensor-parallel files, `consolidated.00.pth` and those that follow, joined to the model that they make.

Which axis a matrix is cut along is not in the files; it follows from its name, as in the layers of the llama repository
(llama/model.py: ColumnParallelLinear is cut along its rows, RowParallelLinear along its columns). Embeddings are cut
along the columns in Llama 1 and 2, along the rows in Llama 3; their shape tells which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from netweight.checkpoint.index import join, listed
from netweight.checkpoint.part import Part
from netweight.checkpoint.tensor import Tensor
from netweight.checkpoint.tensors.sharded import Chunk, put_together, same_bytes
from netweight.errors import FormatError, printable

__all__ = ["join_parallel"]

_BY_ROWS = re.compile(r"output\.weight|layers\.\d+\.(attention\.w[qkv]|feed_forward\.w[13])\.weight")
_BY_COLUMNS = re.compile(r"layers\.\d+\.(attention\.wo|feed_forward\.w2)\.weight")
_EMBEDDINGS = "tok_embeddings.weight"
_WHOLE = re.compile(r"norm\.weight|layers\.\d+\.(attention|ffn)_norm\.weight|rope\.freqs")


def join_parallel(parts: Sequence[Part], names: Sequence[str]) -> tuple[Mapping[str, Tensor], list[str]]:
    """The tensors that `parts`, of the files `names` in their order, make together, and notes.

    Raises FormatError where the parts are not all there, do not fit, or have names of which it is not known how they
    are cut. Parts that hold different tensors, as Mixtral's, are simply joined.
    """
    first = parts[0]
    if not any(name in part.tensors for part in parts[1:] for name in first.tensors):
        return join(parts, names, None)
    where = printable(first.source.name)
    for part, file in zip(parts, names, strict=True):
        if unlike := sorted((set(part.tensors) ^ set(first.tensors)) - {"rope.freqs"}):
            raise FormatError(
                f"{where}: and {printable(file)!r} do not hold the same tensors: {listed(unlike)}; expected the"
                " tensor-parallel parts of one model"
            )
    width = _width(first, len(parts), where)
    tensors: dict[str, Tensor] = {}
    for name in first.tensors:
        tensors[name] = _joined(name, [part.tensors[name] for part in parts if name in part.tensors], width, where)
    return tensors, [f"{len(parts)} tensor-parallel files ({names[0]} to {names[-1]}) are read as one model"]


def _width(first: Part, count: int, where: str) -> int:
    """The size of the model's hidden state; raises FormatError where the files are too few for it."""
    norm, query = first.tensors.get("norm.weight"), first.tensors.get("layers.0.attention.wq.weight")
    if norm is None or query is None or len(norm.shape) != 1 or len(query.shape) != 2:
        raise FormatError(
            f"{where}: is one of {count} files with a part of every tensor, of another model than Llama: not known is"
            " how its tensors are cut; convert them to one model first, with the script of the repository that they"
            " are from"
        )
    width = norm.shape[0]
    if query.shape[0] * count != width or query.shape[1] != width:
        raise FormatError(
            f"{where}: {count} files with queries {list(query.shape)} each make {query.shape[0] * count} rows, expected"
            f" {width}, the model's hidden size; a file is missing: bring all of them into the same folder"
        )
    return width


def _joined(name: str, tensors: Sequence[Tensor], width: int, where: str) -> Tensor:
    of = f"{where}: tensor {printable(name)!r}"
    shape = tensors[0].shape
    if any(tensor.shape != shape or tensor.dtype != tensors[0].dtype for tensor in tensors):
        raise FormatError(f"{of}: the files have it in other shapes or types; they are not of one model")
    if _WHOLE.fullmatch(name):
        if not all(same_bytes(tensors[0], tensor) for tensor in tensors[1:]):
            raise FormatError(f"{of}: has other values in every file, expected one for all; they are not of one model")
        return tensors[0]
    axis = 0 if _BY_ROWS.fullmatch(name) else 1 if _BY_COLUMNS.fullmatch(name) else None
    if name == _EMBEDDINGS and len(shape) == 2 and width in (shape[1], shape[1] * len(tensors)):
        axis = 0 if shape[1] == width else 1
    if axis is None or len(shape) != 2:
        raise FormatError(
            f"{of}: is one of {len(tensors)} parts, and not known is how it is cut; convert the model first, with the"
            " script of the repository that it is from"
        )
    if re.fullmatch(r"layers\.0\.attention\.wk\.weight", name) and same_bytes(tensors[0], tensors[1]):
        raise FormatError(
            f"{of}: is the same in two files: there are more files than heads of keys, which is not supported; convert"
            " the model first"
        )
    step = shape[axis]
    chunks = [Chunk((step * i, 0) if axis == 0 else (0, step * i), tensor) for i, tensor in enumerate(tensors)]
    whole = tuple(n * len(tensors) if i == axis else n for i, n in enumerate(shape))
    return put_together(name, whole, tensors[0].dtype, chunks)
