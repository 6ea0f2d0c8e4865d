"""Which models the zoo has, and what each is made from: a list of entries, parents before their children."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Entry", "Zoo"]


@dataclass(frozen=True)
class Entry:
    """A model that is to be made. `how` is what its maker needs; `card`: honest, silent (names nothing), false, cycle
    or none; `named` are the models that the card names.
    """

    name: str
    kind: str
    parents: tuple[str, ...]
    family: str | None
    how: dict[str, Any]
    seed: int
    weights: tuple[float, ...] | None = None
    base: str | None = None
    layers: list[int] | None = None
    card: str = "honest"
    named: tuple[str, ...] = ()

    def truth(self, detail: dict[str, Any]) -> dict[str, Any]:
        """As truth.json has it."""
        return {
            "name": self.name,
            "family": self.family,
            "kind": self.kind,
            "parents": list(self.parents),
            "weights": None if self.weights is None else list(self.weights),
            "base": self.base,
            "layers": self.layers,
            "detail": {**self.how, "seed": self.seed, "card": self.card, "named": list(self.named), **detail},
        }


@dataclass(frozen=True)
class Steps:
    """Of training."""

    base: int = 300
    far: int = 300
    near: int = 40
    few: int = 10
    heal: int = 25


SMALL = Steps(base=42, far=40, near=8, few=4, heal=5)


@dataclass
class Zoo:
    """Entries as they are added; every method adds one and returns its name."""

    seed: int
    steps: Steps
    entries: dict[str, Entry] = field(default_factory=dict)

    def add(
        self,
        name: str,
        kind: str,
        *parents: str,
        card: str = "honest",
        named: str = "",
        weights: tuple[float, ...] | None = None,
        base: str | None = None,
        layers: list[int] | None = None,
        **how: Any,
    ) -> str:
        families = {self.entries[parent].family for parent in parents} or {name}
        family = families.pop() if len(families) == 1 else None
        honest = tuple(dict.fromkeys((*parents, base) if base else parents))
        said = {"honest": honest, "silent": (), "none": ()}.get(card, (named,))
        seed = self.seed * 1_000_003 + zlib.crc32(name.encode()) % 1_000_000
        self.entries[name] = Entry(name, kind, parents, family, how, seed, weights, base, layers, card, said)
        return name

    def base(self, name: str, text: str, dtype: str, **more: Any) -> str:
        architecture = "gpt2" if name.startswith("gpt") else "llama"
        how = {"text": text, "dtype": dtype, "steps": self.steps.base, "rate": 3e-3, "architecture": architecture}
        return self.add(name, "base", **{"card": "silent", **more}, **how)

    def near(self, parent: str, end: str, text: str, kind: str = "finetune_near", **more: Any) -> str:
        how = {"text": text, "steps": self.steps.near, "rate": 2e-4, **more}
        return self.add(f"{parent}-{end}", kind, parent, **how)

    def far(self, parent: str, text: str, rate: float = 3e-3, **more: Any) -> str:
        how = {"text": text, "steps": self.steps.far, "rate": rate, **more}
        return self.add(f"{parent}-far", "finetune_far", parent, **how)

    def frozen(self, parent: str, only: str, text: str) -> str:
        return self.near(parent, f"only-{only}", text, "finetune_frozen", only=only, rate=5e-4)

    def dpo(self, parent: str, text: str, rate: float) -> str:
        how = {"text": text, "steps": self.steps.few, "rate": rate}
        return self.add(f"{parent}-dpo", "dpo", parent, **how)

    def lora(self, parent: str, rank: int, targets: str, text: str, kind: str = "lora_merged") -> str:
        base = parent if kind == "adapter" else None
        how = {"rank": rank, "targets": targets, "text": text, "steps": self.steps.near, "rate": 2e-3}
        return self.add(f"{parent}-{kind.partition('_')[0]}{rank}", kind, parent, base=base, **how)

    def merged(self, name: str, method: str, parents: list[str], weights: list[float], **more: Any) -> str:
        """`more`: settings of the method that all models share; `origin`: the base, where the method has none."""
        origin, kept = more.pop("origin", None), more.pop("recipe_kept", False)
        dtype = self._root(parents[0]).how["dtype"]
        if method == "slerp":
            models = [{"model": one} for one in parents]
            recipe: dict[str, Any] = {"base_model": parents[0], "models": models, "parameters": {"t": weights[1]}}
        else:
            each = [{"weight": one, **more} for one in weights]
            models = [{"model": one, "parameters": how} for one, how in zip(parents, each, strict=True)]
            recipe = {"models": models}
            if method != "linear":
                recipe["base_model"] = origin
        recipe = {"merge_method": method, **recipe, "dtype": dtype}
        how = {"method": method, "recipe": recipe, "recipe_kept": kept}
        return self.add(name, "merged", *parents, weights=tuple(weights), base=origin, **how)

    def disguised(self, parent: str, *disguises: str, end: str = "") -> str:
        return self.add(f"{parent}-{end or disguises[0]}", "disguised", parent, disguises=list(disguises))

    def quantised(self, parent: str, kind: str) -> str:
        return self.add(f"{parent}-{kind}", "quantised", parent, type=kind)

    def dequantised(self, parent: str, kind: str) -> str:
        return self.add(f"{parent}-from-{kind}", "dequantised", parent, type=kind)

    def cast(self, parent: str, dtype: str) -> str:
        return self.add(f"{parent}-{dtype}", "cast", parent, dtype=dtype)

    def layered(self, parent: str, layers: list[int], **more: Any) -> str:
        kind = "pruned_depth" if len(set(layers)) == len(layers) else "stacked"
        return self.add(f"{parent}-{len(layers)}-layers", kind, parent, layers=layers, **more)

    def narrowed(self, parent: str, units: int, hidden: int | None = None, **more: Any) -> str:
        end = f"{hidden}-wide" if hidden else f"{units}-units"
        return self.add(f"{parent}-{end}", "pruned_width", parent, units=units, hidden=hidden, **more)

    def healed(self, text: str) -> dict[str, Any]:
        """What an operation on a model takes to train it a little afterwards."""
        return {"heal": self.steps.heal, "text": text, "rate": 5e-4}

    def _root(self, name: str) -> Entry:
        entry = self.entries[name]
        return self._root(entry.parents[0]) if entry.parents else entry
