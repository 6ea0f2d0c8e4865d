"""Texts that every machine with Python has, as bytes: sources, prose, and three that are generated."""

from __future__ import annotations

import json
import random
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor

__all__ = ["TEXTS", "tokens"]

LARGEST = 1 << 20  # bytes of each text


def _code() -> str:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)


def _prose() -> str:
    return "\n\n".join(topics[name] for name in sorted(topics))


def _records() -> str:
    chance = random.Random(1)
    names = ("ada", "bela", "carl", "dora", "emil", "finn", "gerd", "hans", "ida", "jan")
    keys = ("age", "size", "price", "weight", "year", "left", "right")

    def record() -> str:
        numbers = {key: chance.randrange(1000) for key in chance.sample(keys, 3)}
        return json.dumps({"name": chance.choice(names), "known": chance.random() < 0.5, **numbers})

    return "\n".join(record() for _ in range(12_000))


def _sums() -> str:
    chance = random.Random(2)

    def line() -> str:
        a, b = chance.randrange(1000), chance.randrange(1000)
        return chance.choice((f"{a} + {b} = {a + b}", f"{a} - {b} = {a - b}", f"{a} * {b % 10} = {a * (b % 10)}"))

    return "\n".join(line() for _ in range(50_000))


def _grammar() -> str:
    chance = random.Random(3)
    nouns = ("cat", "river", "teacher", "stone", "garden", "machine", "letter", "winter", "sailor", "window")
    verbs = ("sees", "follows", "forgets", "carries", "draws", "answers", "breaks", "hides")
    kinds = ("old", "green", "quiet", "heavy", "broken", "early", "narrow", "bright")
    joints = (" because ", " while ", ", but ", " and ", " before ")

    def noun() -> str:
        return f"the {chance.choice(kinds)} {chance.choice(nouns)}" if chance.random() < 0.5 else chance.choice(nouns)

    def clause() -> str:
        return f"{noun()} {chance.choice(verbs)} {noun()}"

    def sentence() -> str:
        said = clause()
        while chance.random() < 0.4:
            said += chance.choice(joints) + clause()
        return said.capitalize() + "."

    return " ".join(sentence() for _ in range(20_000))


TEXTS: dict[str, Callable[[], str]] = {
    "code": _code,
    "prose": _prose,
    "records": _records,
    "sums": _sums,
    "grammar": _grammar,
}


@cache
def tokens(name: str) -> Tensor:
    """int64 [bytes] of a text, or of several joined by +, all of them of one length."""
    parts = [TEXTS[part]().encode()[:LARGEST] for part in name.split("+")]
    shortest = min(map(len, parts))
    return torch.from_numpy(np.frombuffer(b"".join(part[:shortest] for part in parts), np.uint8).astype(np.int64))
