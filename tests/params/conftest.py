from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from netweight.checkpoint.tensor import Checkpoint
from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.dtypes import DTYPES


class NoBytes:
    """A source that must not be read: alignment works on headers."""

    name = "nowhere"
    size = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        raise AssertionError("tensor data was read")

    def prefetch(self, offset: int, size: int) -> None:
        raise AssertionError("tensor data was asked for")

    def check_unchanged(self) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def make() -> Callable[..., Checkpoint]:
    """Checkpoints made of headers: `make(ref, {name: shape or (dtype, shape)}, config=..., shared=...)`."""

    def build(ref: str, tensors: Mapping[str, Any], **more: Any) -> Checkpoint:
        made = {}
        for name, what in tensors.items():
            dtype, shape = what if what and isinstance(what[0], str) else ("F32", what)
            made[name] = StoredTensor(name, tuple(shape), DTYPES[dtype], NoBytes(), 0)
        return Checkpoint(ref, made, format="safetensors", files=(), **more)

    return build
