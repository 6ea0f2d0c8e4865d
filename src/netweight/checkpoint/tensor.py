"""Checkpoints as readers give them: named tensors whose bytes stay in their files until they are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from netweight.checkpoint.place import Place
from netweight.dtypes import DType
from netweight.errors import ReadError, printable
from netweight.source.protocol import Source

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Checkpoint", "CheckpointFile", "Skipped", "Stretch", "Tensor", "read_elements"]


class Stretch(NamedTuple):
    """Bytes of one file: `size` from `offset`."""

    source: Source
    offset: int
    size: int


@dataclass(frozen=True)
class Tensor(ABC):
    """One tensor of a checkpoint, its data still in its files: what every kind of tensor answers.

    A tensor is a frozen value: it pickles by what it is made of, and any thread may read it, in bounded memory. The
    kinds are in `checkpoint/tensors`; they nest.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, as if stored in C order."""
        return -(-self.size * self.dtype.bits // 8)

    @property
    def stored(self) -> str:
        """How files have the elements: their dtype's name, or what they are decoded from."""
        return self.dtype.name

    @property
    def written(self) -> DType:
        """The type that a merge writes it in where nothing else is said: of a weight with an adapter, the weight's."""
        return self.dtype

    @property
    def quantised(self) -> bool:
        """Whether its elements are decoded from codes."""
        return False

    @property
    def file_bytes(self) -> int:
        """Bytes that it takes in files."""
        return self.nbytes

    def file_bytes_of(self, start: int, stop: int) -> int:
        """The share of `file_bytes` of elements `start` to `stop`: those of neighbouring stretches add up."""
        held, size = self.file_bytes, max(self.size, 1)
        return held * stop // size - held * start // size

    @property
    def scratch(self) -> int:
        """Bytes that a thread holds to read it, beside what it fills."""
        return 0

    @property
    @abstractmethod
    def where(self) -> str:
        """The file that it lies in, for messages; the first where there are several."""

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensors of the checkpoint that it is made of, each once: itself, where it is one."""
        return (self,)

    @property
    def stored_parts(self) -> tuple[Tensor, ...]:
        """The tensors of files that its elements come from, as they are stored: codes, scales, chunks, each once."""
        return (self,)

    @abstractmethod
    def bytes_of(self, start: int, count: int) -> Iterator[Stretch]:
        """The bytes that elements `start` to `start + count` are read from, in the order of reading."""

    @abstractmethod
    def read_into(self, start: int, out: memoryview) -> None:
        """Fill `out` with elements from `start` (C order, little-endian, counted flat). Any thread may call it.

        `out` is a writable contiguous byte view whose length is a whole number of elements; raises ReadError where the
        file ends early, ValueError where the range leaves the tensor.
        """

    def count_in(self, start: int, out: memoryview) -> int:
        """How many elements `out` takes; raises ValueError where those from `start` leave the tensor."""
        count, rest = divmod(len(out) * 8, self.dtype.bits)
        if rest or start * self.dtype.bits % 8 or start < 0 or start + count > self.size:
            msg = f"{self.name}: {len(out)} bytes from element {start}, of {self.size} elements of {self.dtype}"
            raise ValueError(msg)
        return count

    def prefetch(self, start: int, count: int) -> None:
        """Hint that `count` elements from `start` are wanted soon; returns at once."""
        for source, offset, size in self.bytes_of(start, min(count, self.size - start)):
            source.prefetch(offset, size)

    def read(self) -> np.ndarray[Any, np.dtype[Any]]:
        """The whole tensor as a new numpy array of `dtype.to_numpy()`; raises TypeError for packed types."""
        import numpy as np  # noqa: PLC0415 - headers are read without numpy

        array = np.empty(self.shape, self.dtype.to_numpy())
        if array.size:
            self.read_into(0, array.reshape(-1).view(np.uint8).data)
        return array


@dataclass(frozen=True)
class CheckpointFile:
    """One file that tensors come from: `digest` is the hex SHA-256 of its header (pickle, JSON), not of its data.
    `stamp` is the ETag or digest that a server gives of a file that is not on this machine, else None.
    """

    path: str
    size: int
    digest: str
    stamp: str | None = None


@dataclass(frozen=True)
class Skipped:
    """An entry of the file that is not a weight, or a tensor that a job did not measure, and why.

    `asked`: it was left out because options said so.
    """

    name: str
    reason: str
    asked: bool = False


class Checkpoint(Mapping[str, Tensor]):
    """A checkpoint opened without its data: an ordered mapping of names to tensors, in file order.

    `format` is the reader's name, such as "safetensors" or "torch zip" (joined by " + " where shards differ).
    `config` is config.json as a dict, or None with `config_problem` saying why; `config_lacks` says why one that was
    made of a file's metadata is not enough to load the model with; `stored` are the tensors before any is decoded,
    under the names of the files; `skipped` lists entries that are not weights; `notes` are findings worth a line
    (hidden bytes, an index that disagrees with its shards); `shared` maps an alias to the tensor whose storage it is;
    `sources` are the open files. `revision` is the commit of a model of the hub, else None. `location` is the folder or
    file on this machine (of the hub: the snapshot in its cache), None where the model is read from far away. `place` is
    the folder that its files lie in, wherever that is. `outside` is what its pickles name beside what is harmless,
    whether they call it or not; a note says so too. `settings` is what files beside config.json say of how the weights
    are read (quantize_config.json, adapter_config.json). `made_of` are the base and the adapters that it is put
    together of, whose files are its own.
    """

    def __init__(
        self,
        ref: str,
        tensors: Mapping[str, Tensor],
        *,
        format: str,  # noqa: A002 - the field's word
        files: tuple[CheckpointFile, ...],
        config: dict[str, Any] | None = None,
        config_problem: str | None = None,
        config_lacks: str = "",
        stored: Mapping[str, Tensor] | None = None,
        metadata: Mapping[str, str] | None = None,
        skipped: tuple[Skipped, ...] = (),
        notes: tuple[str, ...] = (),
        shared: Mapping[str, str] | None = None,
        sources: tuple[Source, ...] = (),
        revision: str | None = None,
        location: Path | None = None,
        place: Place | None = None,
        outside: tuple[str, ...] = (),
        settings: Mapping[str, Any] | None = None,
        made_of: tuple[Checkpoint, ...] = (),
    ) -> None:
        self.ref = ref
        self.format = format
        self.files = files
        self.config = config
        self.config_problem = config_problem
        self.config_lacks = config_lacks
        self.stored = tensors if stored is None else stored
        self.metadata = dict(metadata or {})
        self.skipped = skipped
        self.notes = notes
        self.shared = dict(shared or {})
        self.sources = sources
        self.revision = revision
        self.location = location
        self.place = place
        self.outside = outside
        self.settings = dict(settings or {})
        self.made_of = made_of
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.ref!r}: {len(self)} tensors, {self.format}>"

    def with_tensors(self, tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> Checkpoint:
        """The same files with other tensors, made of theirs."""
        other = copy(self)
        other._tensors, other.shared = tensors, dict(shared)  # noqa: SLF001 - its own
        return other

    def check_unchanged(self) -> None:
        """Raises ReadError where a file is no longer the one that was opened."""
        for source in self.sources:
            source.check_unchanged()

    def close(self) -> None:
        """Close every file; reading a tensor afterwards raises ReadError."""
        for source in self.sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_elements(tensor: Tensor, start: int, out: memoryview, *, resumable: bool = False) -> None:
    """`Tensor.read_into`, where every failure is a ReadError that names tensor and element. `resumable` adds the advice
    to run again with --resume.
    """
    try:
        tensor.read_into(start, out)
    except (OSError, ValueError) as error:
        then = ", then run again with --resume" if resumable else ""
        raise ReadError(
            f"{printable(tensor.where)}: tensor {printable(tensor.name)!r} could not be read at element {start}:"
            f" {error}; check the file and the disk{then}"
        ) from error
