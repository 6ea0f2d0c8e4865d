"""Small checkpoints for tests of the merge's plan, and what a plan's inputs hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from netweight.checkpoint.open import open_checkpoint
from netweight.jobs.merge.targets import MergePlan, PlanOptions, plan_with
from netweight.merging.method import Base, Method
from netweight.merging.recipe.recipe import parse_recipe
from netweight.merging.registry import find
from netweight.merging.settings import resolve
from netweight.merging.target import Input, Target

BF16 = ml_dtypes.bfloat16


def _course(subject):
    raise AssertionError("a plan runs no course")
    yield


def method(name: str, base: Base, models: tuple[int, int | None]) -> Method:
    """A method that is in no registry."""
    return Method(name, name, "", "", base, models, (), _course)


LINEAR, TASK = find("linear"), find("task_arithmetic")
SETTINGS = {
    "linear": {"weight": 1.0},
    "task_arithmetic": {"weight": 1.0},
    "nuslerp": {"weight": 1.0},
    "slerp": {"t": 0.5},
}


def llama(seed=0, *, layers=2, rows=10, width=4, tied=False, dtype=np.float32, names="model.") -> dict[str, np.ndarray]:
    """The tensors of a Llama of that many layers."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    made = {f"{names}embed_tokens.weight": some(rows, width)}
    for n in range(layers):
        head = f"{names}layers.{n}."
        made |= {f"{head}self_attn.{p}_proj.weight": some(width, width) for p in "qkvo"}
        made |= {f"{head}mlp.up_proj.weight": some(6, width), f"{head}mlp.down_proj.weight": some(width, 6)}
        made[f"{head}input_layernorm.weight"] = some(width)
    made[f"{names}norm.weight"] = some(width)
    if not tied:
        made["lm_head.weight"] = some(rows, width)
    return made


def llama_config(*, layers=2, rows=10, tied=False, **more: Any) -> dict[str, Any]:
    made = {"model_type": "llama", "num_hidden_layers": layers, "vocab_size": rows, "tie_word_embeddings": tied}
    return made | {"torch_dtype": "float32"} | more


class Bench:
    """A folder of models, and plans of their merges; references are the models' names."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack

    def write(self, name: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any] | None = None) -> str:
        """Files list tensors in the order that safetensors chooses."""
        where = self.folder / name
        where.mkdir()
        save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, where / "model.safetensors")
        if config is not None:
            (where / "config.json").write_text(json.dumps(config))
        return name

    def llama(
        self, name: str, seed: int, *, config: Mapping[str, Any] | None = None, **how: Any
    ) -> dict[str, np.ndarray]:
        tensors = llama(seed, **how)
        known = {key: how[key] for key in ("layers", "rows", "tied") if key in how}
        self.write(name, tensors, llama_config(**known, **(config or {})))
        return tensors

    def plan(self, text: str, chosen: Method | None = None, **options: Any) -> MergePlan:
        recipe = parse_recipe(text, "merge.yml")
        opened = [self._stack.enter_context(open_checkpoint(self.folder / ref)) for ref in recipe.references()]
        for checkpoint, ref in zip(opened, recipe.references(), strict=True):
            checkpoint.ref = ref
        return plan_with(chosen or find(recipe.method), resolve, recipe, opened, PlanOptions(**options))


def models(kind: str, *names: str, base: str | None = None, **more: Any) -> str:
    """A recipe of whole models as JSON, which is YAML."""
    found: dict[str, Any] = {
        "merge_method": kind,
        "models": [{"model": n} for n in names],
        "parameters": SETTINGS.get(kind, {}),
    }
    if base is not None:
        found["base_model"] = base
    return json.dumps(found | more)


def slices(kind: str, *parts: list[tuple[str, int, int]], base: str | None = None, **more: Any) -> str:
    found: dict[str, Any] = {
        "merge_method": kind,
        "slices": [{"sources": [{"model": m, "layer_range": [a, b]} for m, a, b in part]} for part in parts],
        "parameters": SETTINGS.get(kind, {}),
    }
    if base is not None:
        found["base_model"] = base
    return json.dumps(found | more)


def held(given: Input, shape: tuple[int, ...]) -> np.ndarray:
    """What an input holds, as float64."""
    found = [p.tensor.read().reshape(-1)[p.start : p.start + p.count].astype(np.float64) for p in given.pieces]
    return np.concatenate(found).reshape(shape)


def inputs_of(target: Target) -> list[np.ndarray]:
    return [held(given, target.shape) for given in target.inputs]


def by_name(plan: MergePlan) -> dict[str, Target]:
    return {target.name: target for target in plan.targets}


def check_inputs(target: Target, *expected: np.ndarray) -> None:
    """That the inputs hold exactly these arrays, in this order."""
    found = inputs_of(target)
    assert len(found) == len(expected)
    for one, wanted in zip(found, expected, strict=True):
        assert one.shape == target.shape
        np.testing.assert_array_equal(one, np.asarray(wanted, np.float64))
