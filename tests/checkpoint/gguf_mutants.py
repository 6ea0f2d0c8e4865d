"""GGUF files that are broken at random, by a seed: every number of a header as an extreme one, bytes changed, cut."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import NamedTuple

import gguf_files
import numpy as np
from gguf_files import field

from netweight.checkpoint.gguf.types import TYPES

EXTREMES = (
    0, 1, 2, 3, 7, 31, 33, 255, 256, 2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**60, 2**61 + 1, 2**62,
    2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1,
)  # fmt: skip
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
FAMILIES = ("llama", "mixtral", "gpt-oss", "deepseek2", "granite-moe", "phi3", "falcon", "mamba", "gemma", "t5")


class Seed(NamedTuple):
    """A whole file; where the numbers of its header lie, as (byte, bytes); where the shapes do, as (byte, dimensions);
    where the header ends.
    """

    name: str
    content: bytes
    numbers: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, int], ...]
    end: int


def of_all_types() -> bytes:
    """A tensor of every type that is stored in blocks, and key-values of every type."""
    made = np.random.default_rng(0)
    fields = [
        field("general.architecture", "text", "llama"), field("general.alignment", "u32", 32),
        field("llama.attention.head_count", "u32", 2), field("a.texts", "texts", ["a", "", "bcd"]),
        field("a.numbers", "[i32]", [1, -2, 3]), field("a.flags", "[bool]", [True, False]), field("b", "bool", True),
        field("c", "u8", 1), field("d", "f32", 0.5), field("e", "u64", 9),
    ]  # fmt: skip
    tensors = [
        (f"blk.0.{kind.name}", (2, kind.numbers), number, made.bytes(2 * kind.size)) for number, kind in TYPES.items()
    ]
    tensors += [("plain", (2, 3), 0, made.bytes(24)), ("none", (0, 5), 1, b""), ("one", (), 30, made.bytes(2))]
    return gguf_files.gguf(fields, tensors)


def seeds(names: tuple[str, ...] = FAMILIES) -> list[Seed]:
    """Whole files: of all types, and models of some families."""
    files = {"all types": of_all_types()} | {name: gguf_files.family(name) for name in names}
    return [Seed(name, content, *numbers_of(content)) for name, content in files.items()]


def numbers_of(content: bytes) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...], int]:
    """(Every count, length, type, dimension and offset of a header of version 3 and every number that it holds, as
    (byte, bytes); every shape, as (byte, dimensions); where the header ends).
    """
    found: list[tuple[int, int]] = []
    shapes: list[tuple[int, int]] = []
    at = 4

    def number(size: int) -> int:
        nonlocal at
        found.append((at, size))
        at += size
        return int.from_bytes(content[at - size : at], "little")

    def text() -> None:
        nonlocal at
        size = number(8)
        at += size

    def value(kind: int) -> None:
        if kind == 8:
            text()
        elif kind == 9:
            of, count = number(4), number(8)
            for _ in range(count):
                value(of)
        else:
            number(_SIZES[kind])

    number(4)
    tensors, pairs = number(8), number(8)
    for _ in range(pairs):
        text()
        value(number(4))
    for _ in range(tensors):
        text()
        count = number(4)
        shapes.append((at, count))
        for _ in range(count):
            number(8)
        number(4)
        number(8)
    return tuple(found), tuple(shapes), at


def mutants(files: list[Seed], count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(What was done, the broken file), `count` times."""
    rng = random.Random(seed)
    for _ in range(count):
        file = rng.choice(files)
        done, content = [], bytearray(file.content)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            done.append(_change(rng, file, files, content))
        yield f"{file.name}: {', '.join(done)}", bytes(content)


def _change(rng: random.Random, file: Seed, files: list[Seed], content: bytearray) -> str:
    how = rng.randrange(14)
    end = max(1, min(file.end, len(content)))
    if how < 6:
        at, size = rng.choice(file.numbers)
        was = int.from_bytes(content[at : at + size], "little")
        new = rng.choice((*EXTREMES, was + 1, was - 1, was * 2, was * 256)) % 256**size
        content[at : at + size] = struct.pack("<Q", new)[:size]
        return f"{new} at {at}"
    at = rng.randrange(end)
    if how < 8:
        bit = rng.randrange(8)
        if at < len(content):
            content[at] ^= 1 << bit
        return f"bit {bit} of {at}"
    if how == 8:
        del content[at:]
        return f"cut at {at}"
    if how == 9:
        size = rng.choice((1, 4, 8, 24))
        del content[at : at + size]
        return f"without {size} at {at}"
    if how == 10:
        size = rng.choice((1, 4, 8, 24))
        content[at:at] = content[at : at + size]
        return f"{size} twice at {at}"
    if how < 13:  # a shape of no elements, which fits everywhere
        at, dimensions = rng.choice(file.shapes)
        shape = [rng.choice(EXTREMES) for _ in range(dimensions)]
        if shape:
            shape[rng.randrange(dimensions)] = 0
        content[at : at + 8 * dimensions] = struct.pack(f"<{dimensions}Q", *shape)
        return f"shape {shape} at {at}"
    other = rng.choice(files)
    start = rng.randrange(other.end)
    content[at:] = other.content[start:]
    return f"from {at} on {other.name} from {start}"
