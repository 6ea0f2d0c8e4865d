"""GGUF files for tests: those that llama.cpp's converter wrote, and small ones made byte by byte."""

from __future__ import annotations

import json
import struct
import tarfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

_RECORDED = Path(__file__).parent / "recorded" / "gguf.tar.xz"
_TYPES = {"u8": (0, "<B"), "u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}


@cache
def _archive() -> dict[str, bytes]:
    with tarfile.open(_RECORDED) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive.getmembers()}


@cache
def families() -> dict[str, Any]:
    """By name: the `config` of a tiny model and the `shapes` of its tensors."""
    return json.loads(_archive()["gguf.json"])


def family(name: str) -> bytes:
    """The GGUF file of a family."""
    return _archive()[f"{name}.gguf"]


def write_family(name: str, folder: Path) -> tuple[Path, Path]:
    """(The GGUF file of a family, the folder of the model that it was made from)."""
    from safetensors.numpy import save_file

    file = folder / f"{name}.gguf"
    file.write_bytes(family(name))
    source = folder / name
    source.mkdir()
    about = families()[name]
    save_file({key: values_of(key, shape) for key, shape in about["shapes"].items()}, source / "model.safetensors")
    (source / "config.json").write_text(json.dumps(about["config"]))
    return file, source


def values_of(name: str, shape: list[int]) -> np.ndarray:
    """As recorded/make_gguf.py has them."""
    made = np.random.default_rng(zlib.crc32(name.encode()))
    return (made.integers(-7, 8, shape) / np.float32(16)).astype(np.float32)


def text(value: str, width: str = "<Q") -> bytes:
    return struct.pack(width, len(value.encode())) + value.encode()


def field(key: str, kind: str, value: Any) -> bytes:
    """A key-value; `texts` is a list of texts, `[u32]` one of numbers."""
    if kind == "text":
        return text(key) + struct.pack("<I", 8) + text(value)
    if kind == "texts":
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if kind.startswith("["):
        number, code = _TYPES[kind[1:-1]]
        return text(key) + struct.pack("<IIQ", 9, number, len(value)) + b"".join(struct.pack(code, v) for v in value)
    number, code = _TYPES[kind]
    return text(key) + struct.pack("<I", number) + struct.pack(code, value)


def info(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<{len(shape)}Q", *reversed(shape))
    return text(name) + struct.pack("<I", len(shape)) + dims + struct.pack("<IQ", kind, offset)


def gguf(
    fields: list[bytes],
    tensors: list[tuple[str, tuple[int, ...], int, bytes]],
    *,
    version: int = 3,
    alignment: int = 32,
    counts: tuple[int, int] | None = None,
    offsets: list[int] | None = None,
) -> bytes:
    """A file of key-values and tensors (name, shape in C order, ggml's number of the type, bytes)."""
    where, data = [], b""
    for *_, content in tensors:
        where.append(len(data))
        data += content + b"\0" * (-len(content) % alignment)
    infos = [info(name, shape, kind, at) for (name, shape, kind, _), at in zip(tensors, offsets or where, strict=True)]
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(fields))))
    head += b"".join(fields) + b"".join(infos)
    return head + b"\0" * (-len(head) % alignment) + data
