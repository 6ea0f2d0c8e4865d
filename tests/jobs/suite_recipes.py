"""The recipe suite's recipes, what mergekit made of them, where netweight departs, and netweight's own results."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from suite_facts import facts

import netweight

RECIPES = Path(__file__).parent / "merge" / "suite"
RECORDED = json.loads((RECIPES / "recorded.json").read_text(encoding="utf-8"))
CASES: dict[str, dict[str, Any]] = RECORDED["cases"]
VALUES = load_file(RECIPES / "values.safetensors")
NAMES = sorted(path.stem for path in RECIPES.glob("*.yml"))
TOLERANCE = 1e-6

MASKS = {"tensors": "masks"}
ROWS = {"tensors": "rows without a token", "values": "rows without a token", "config": "rows without a token"}
UNION = {"tokenizer": "tokens of other vocabularies under `union`"}
ADDED_IDS = "numbers of special tokens"

DEPARTURES: dict[str, dict[str, str]] = {
    "arcee-fusion-bfloat16": {"tensors": "arcee_fusion's type", "values": "arcee_fusion"},
    "arcee-fusion-two": {"values": "arcee_fusion", **MASKS},
    "breadcrumbs-ties-gamma": MASKS,
    "dare-ties-two-levels": {"values": "bfloat16"},
    "della-linear-random": {"drawn": "DELLA's rescaling"},
    "della-random": {"drawn": "DELLA's rescaling"},
    "karcher-union-chatml": {"values": "karcher's last step"},
    "linear-alpaca": {"chats": "chat templates by name"},
    "linear-exaone-template": {"chats": "chat templates by name"},
    "linear-float16": {"values": "bfloat16"},
    "linear-jinja": MASKS,
    "linear-llama3-template": {"chats": "chat templates by name"},
    "linear-not-normalized-gradient": MASKS,
    "linear-union-other-vocabularies": UNION,
    "multislerp-weights": {"values": "multislerp"},
    "nuslerp-base-rowwise": MASKS,
    "ramplus-two": MASKS,
    "sce-stray-topk": MASKS,
    "sce-weight-ignored": ROWS,
    "slerp-stray-keys": {"values": "Mixtral's experts"},
    "ties-bfloat16": {"values": "equal magnitudes"},
    "ties-everything-outside": ROWS,
    "ties-int8-gradient-density": MASKS,
    "ties-model-tokenizer": {"values": "sums that cancel", "config": ADDED_IDS},
    "ties-union": UNION,
}
"""By recipe, the parts of the result that differ, and their rows in docs/merging.md."""

REFUSED = {
    "linear-token-beyond-base": "`tokens` without a source, or with one for a token that no model has",
    "slerp-dot-slash": "one model under two names",
    "slerp-neox-newer": "masks",
}
"""What mergekit refuses and netweight does."""

STOPPED = {
    "passthrough-tokenizer-of-another": (
        "a token that no model has a row for",
        r"^no model of this merge has a row for the token '<\|im_start\|>': give its source under tokenizer",
    ),
}
"""What netweight refuses, its row in docs/merging.md and its words."""


@dataclass(frozen=True)
class Result:
    """netweight's result: what suite_facts says of it, and its tensors."""

    folder: Path
    facts: dict[str, Any]
    values: np.ndarray
    tensors: dict[str, np.ndarray]


class Results:
    """netweight's results of recipes, each made once."""

    def __init__(self, models: Path, folder: Path) -> None:
        self.models, self._folder = models, folder
        self._made: dict[str, Result] = {}

    def recipe(self, name: str) -> Path:
        return RECIPES / f"{name}.yml"

    def folder(self, name: str) -> Path:
        return self.of(name).folder

    def merge(self, name: str) -> Path:
        """The folder of the recipe's merge; paths in recipes count from the models' folder."""
        out = self._folder / name
        with contextlib.chdir(self.models):
            netweight.merge(self.recipe(name), out)
        return out

    def of(self, name: str) -> Result:
        if name not in self._made:
            out = self.merge(name)
            self._made[name] = Result(out, *facts(out, name))
        return self._made[name]
