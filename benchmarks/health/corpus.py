"""What the bench of health judges: models that were trained, twins that were not, and twins with one fault each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import netweight
from netweight.dtypes import Kind
from netweight.errors import NetweightError
from netweight.params.role import classify

Array = NDArray[np.float32]
Weights = dict[str, Array]

LEAST = 24  # sides of the matrices that faults are planted in
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class Model:
    """`kind`: trained, untrained (as `how` says), or damaged (`how` is the fault); `family`: of its relatives."""

    family: str
    kind: str
    how: str
    path: Path

    @property
    def name(self) -> str:
        return self.path.stem


PUBLISHED = {
    "saltyduckegg": "llama2xs", "crabml": "stories260k", "sqtian": "gpt-by-hand", "BlinkDL": "rwkv",
    "jbloomAus": "decision-lstm", "JunSuzukiJapan__tl__model_2digit@6bcd94": "2digit",
    "JunSuzukiJapan__tl__model_2digit@f262cc": "2digit", "greydanus": "a3c", "silero": "silero", "snakers4": "silero",
    "ggml-org__ggml__examples_superpoint": "superpoint", "twtygqyy": "vdsr", "ikostrikov": "ppo-ant",
    "tracel-ai__burn__examples": "mnist",
}  # fmt: skip
"""Beginnings of published files' names, and their families. Not here: one that diverged, random ones, adapters."""


Config = dict[str, int]  # heads and width, where they are known

CONFIGS: dict[str, Config] = {
    "llama": {"num_attention_heads": 4, "hidden_size": 128}, "moe": {"num_attention_heads": 4, "hidden_size": 64},
}  # fmt: skip
"""Of the families of train.py with attention under names of its own."""


def published(folder: Path) -> Iterator[tuple[str, str, Weights, Config]]:
    """(family, name, weights, config) of the published files that can be read."""
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        family = next((family for start, family in PUBLISHED.items() if path.name.startswith(start)), None)
        if family is None:
            continue
        try:
            model = netweight.open(path)
        except NetweightError as error:
            print(f"left out: {path.name}: {error}")
            continue
        tensors = {name: model[name] for name in model}
        weights = {n: t.read().astype(np.float32) for n, t in tensors.items() if t.dtype.kind is Kind.FLOAT}
        held = model.config or {}
        known = {key: held[key] for key in ("num_attention_heads", "num_key_value_heads", "hidden_size") if key in held}
        yield family, path.name.replace(".", "_"), weights, known


def matrices(weights: Mapping[str, Array]) -> list[str]:
    """Names of what faults may be planted in."""
    return [n for n, w in weights.items() if w.ndim >= 2 and min(len(w), w[0].size) >= LEAST]


def siblings(weights: Mapping[str, Array], name: str) -> list[str]:
    """Others of its pattern and shape."""
    pattern = _NUMBER.sub("*", name)
    return [n for n in matrices(weights) if n != name and _NUMBER.sub("*", n) == pattern
            and weights[n].shape == weights[name].shape]  # fmt: skip


Start = Callable[[np.random.Generator, Array], Array]


def _normal(rng: np.random.Generator, w: Array) -> Array:
    return rng.normal(0, 0.02, w.shape).astype(np.float32)


def _uniform(rng: np.random.Generator, w: Array) -> Array:
    bound = 1 / np.sqrt(w[0].size)
    return rng.uniform(-bound, bound, w.shape).astype(np.float32)


def _orthogonal(rng: np.random.Generator, w: Array) -> Array:
    rows, cols = len(w), w[0].size
    q, r = np.linalg.qr(rng.normal(size=(max(rows, cols), min(rows, cols))))
    q = q * np.sign(np.diagonal(r))
    return (q if rows >= cols else q.T).reshape(w.shape).astype(np.float32)


STARTS: dict[str, Start] = {"normal 0.02": _normal, "uniform 1/sqrt(fan in)": _uniform, "orthogonal": _orthogonal}


def untrained(weights: Weights, start: Start, rng: np.random.Generator) -> Weights:
    """The same names and shapes as before training: vectors are ones where they were positive on the whole, else 0."""
    return {
        n: start(rng, w) if w.ndim >= 2 else np.full_like(w, float(w.size > 0 and w.mean() > 0.5))
        for n, w in weights.items()
    }


def _zeroed(w: Array, _: np.random.Generator, __: Array) -> Array:
    return np.zeros_like(w)


def _scaled(factor: float) -> Callable[[Array, np.random.Generator, Array], Array]:
    return lambda w, _, __: w * np.float32(factor)


def _nan(w: Array, rng: np.random.Generator, _: Array) -> Array:
    w = w.copy()
    w.reshape(-1)[rng.integers(w.size)] = np.nan
    return w


def _shuffled(w: Array, rng: np.random.Generator, _: Array) -> Array:
    return rng.permutation(w.reshape(-1)).reshape(w.shape)


def _int8(w: Array, _: np.random.Generator, __: Array) -> Array:
    scale = np.abs(w).max() / 127
    return (np.rint(w / scale) * scale).astype(ml_dtypes.bfloat16).astype(np.float32)


def _int4(w: Array, _: np.random.Generator, __: Array) -> Array:
    flat = w.reshape(len(w), -1)
    size = 32 if flat.shape[1] % 32 == 0 else flat.shape[1]
    groups = flat.reshape(len(w), -1, size)
    scale = np.maximum(np.abs(groups).max(-1, keepdims=True) / 7, 1e-30)
    return (np.rint(groups / scale) * scale).astype(ml_dtypes.bfloat16).astype(np.float32).reshape(w.shape)


def _fp8(w: Array, _: np.random.Generator, __: Array) -> Array:
    scale = np.abs(w).max() / 448
    codes = (w / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    return (codes * scale).astype(ml_dtypes.bfloat16).astype(np.float32)


def _int8_rows(w: Array, _: np.random.Generator, __: Array) -> Array:
    flat = w.reshape(len(w), -1)
    scale = np.maximum(np.abs(flat).max(axis=1, keepdims=True) / 127, 1e-30)
    return (np.rint(flat / scale) * scale).astype(ml_dtypes.bfloat16).astype(np.float32).reshape(w.shape)


def _fp8_tiles(w: Array, _: np.random.Generator, __: Array) -> Array:
    flat = w.reshape(len(w), -1).copy()
    for i in range(0, flat.shape[0], 128):
        for j in range(0, flat.shape[1], 128):
            flat[i : i + 128, j : j + 128] = _fp8(flat[i : i + 128, j : j + 128], _, __)
    return flat.reshape(w.shape)


def _transposed(w: Array, _: np.random.Generator, __: Array) -> Array:
    return np.ascontiguousarray(w.T)


def _copied(_: Array, __: np.random.Generator, other: Array) -> Array:
    return other.copy()


def _reset(w: Array, rng: np.random.Generator, _: Array) -> Array:
    return rng.normal(0, w.std(), w.shape).astype(np.float32)


def _in_head(change: Callable[[Array, np.random.Generator], Array]) -> Callable[..., Array]:
    """One head of an attention projection changed: rows, or columns of the output's."""

    def planted(w: Array, rng: np.random.Generator, _: Array, heads: int, *, columns: bool) -> Array:
        w = (w.T if columns else w).copy()
        parts = w.reshape(heads, -1, w.shape[1])
        number = rng.integers(heads)
        parts[number] = change(parts[number], rng)
        return np.ascontiguousarray(w.T if columns else w)

    return planted


def _dead_rows(w: Array, rng: np.random.Generator, _: Array) -> Array:
    w = w.copy()
    w[rng.choice(len(w), max(1, len(w) // 8), replace=False)] = 0
    return w


FAULTS: dict[str, Callable[[Array, np.random.Generator, Array], Array]] = {
    "zeroed": _zeroed, "times 100": _scaled(100), "by 100": _scaled(0.01), "one NaN": _nan, "shuffled": _shuffled,
    "begun anew": _reset, "rounded to int8": _int8, "rounded to int4": _int4, "rounded to FP8": _fp8,
    "rounded to int8 by row": _int8_rows, "rounded to FP8 in tiles": _fp8_tiles, "one expert zero": _zeroed,
    "a copy of another layer's": _copied, "transposed": _transposed, "an eighth of the rows zero": _dead_rows,
}  # fmt: skip
HEADS: dict[str, Callable[..., Array]] = {
    "a head zero": _in_head(lambda head, _: np.zeros_like(head)),
    "a head times 100": _in_head(lambda head, _: head * 100),
    "a head by 100": _in_head(lambda head, _: head / 100),
    "a head begun anew": _in_head(lambda head, rng: rng.normal(0, head.std(), head.shape).astype(np.float32)),
    "a head shuffled": _in_head(lambda head, rng: rng.permutation(head.reshape(-1)).reshape(head.shape)),
}  # fmt: skip
"""Faults of single heads, in models whose config says how many there are."""

ALONE = {
    "rounded to int8 by row",
    "rounded to FP8 in tiles",
    "one expert zero",
    "rounded to int8",
    "rounded to int4",
    "rounded to FP8",
    "one NaN",
    "zeroed",
    "an eighth of the rows zero",
}
"""Faults that need no sibling of the same pattern to be one."""


def damaged(weights: Weights, fault: str, rng: np.random.Generator, config: Config) -> tuple[str, Weights] | None:
    """(the name of the matrix, all weights with the fault planted in it); None where there is no place for it."""
    names = [n for n in matrices(weights) if np.isfinite(weights[n]).all() and weights[n].any()]
    if fault in HEADS:
        count = config.get("num_attention_heads", 0)
        roles = {n: classify(n).role for n in names}
        names = [n for n, role in roles.items() if count and role in ("q_proj", "o_proj")]
        names = [n for n in names if len(weights[n]) == weights[n].shape[1] and len(weights[n]) >= 16 * count]
        if not names:
            return None
        name = names[rng.integers(len(names))]
        w = HEADS[fault](weights[name], rng, weights[name], count, columns=roles[name] == "o_proj")
        return name, {**weights, name: w}
    if fault == "one expert zero":
        names = [n for n in names if ".experts." in n]
    if fault == "transposed":
        names = [n for n in names if weights[n].ndim == 2 and len(set(weights[n].shape)) == 1]
    if fault not in ALONE:
        names = [n for n in names if siblings(weights, n)]
    if not names:
        return None
    name = names[rng.integers(len(names))]
    others = siblings(weights, name) or [name]
    planted = FAULTS[fault](weights[name], rng, weights[others[rng.integers(len(others))]])
    return name, {**weights, name: np.ascontiguousarray(planted)}


def make(real: Path | None, trained_here: Path, out: Path) -> list[tuple[Model, str]]:
    """Write every model of the corpus into `out`: (model, the matrix with the fault or "")."""
    out.mkdir(parents=True, exist_ok=True)
    sources = list(published(real)) if real is not None and real.is_dir() else []
    made: list[tuple[Model, str]] = []

    def put(family: str, kind: str, how: str, name: str, weights: Weights, config: Config, place: str = "") -> None:
        path = out / f"{name}--{kind}--{how.replace('/', ' ')}".replace(" ", "_")
        path.mkdir(exist_ok=True)
        save_file({n: np.ascontiguousarray(w) for n, w in weights.items()}, path / "model.safetensors")
        (path / "config.json").write_text(json.dumps(config))
        made.append((Model(family, kind, how, path), place))

    for path in sorted(trained_here.glob("*.safetensors")):
        family, seed, state = path.stem.split("-")
        if state == "start":
            put(family, "untrained", "as it began", f"{family}-{seed}", load_file(path), CONFIGS.get(family, {}))
        else:
            sources.append((family, f"{family}-{seed}", load_file(path), CONFIGS.get(family, {})))
    for number, (family, name, weights, config) in enumerate(sources):
        put(family, "trained", "", name, weights, config)
        for how, start in STARTS.items():
            put(family, "untrained", how, name, untrained(weights, start, np.random.default_rng(number)), config)
        for place, fault in enumerate((*FAULTS, *HEADS)):
            found = damaged(weights, fault, np.random.default_rng((number, place)), config)
            if found is not None:
                put(family, "damaged", fault, name, found[1], config, found[0])
    return made
