"""From an entry of the catalogue to the folder of the model: one function for each kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from catalogue import Entry
from disguises import difference, disguised
from folders import DTYPES, Model, card_of, network, read, write
from packing import PACKED, decoded, write_gguf
from safetensors.torch import save_file
from surgery import abliterated, extended, narrowed, relayered, upcycled
from training import adapted, merged, moved, new_model, preferred, tuned
from transformers.utils import logging

import netweight

__all__ = ["make"]

logging.set_verbosity_error()

Made = tuple[Model | None, dict[str, Any]]
"""A model that is yet to be written (None where it is already), and the truth's detail."""
MAKERS: dict[str, Callable[[Entry, list[Model], Path], Made]] = {}


def maker(*kinds: str) -> Callable[[Callable[[Entry, list[Model], Path], Made]], Callable[..., Made]]:
    def registered(function: Callable[[Entry, list[Model], Path], Made]) -> Callable[..., Made]:
        MAKERS.update(dict.fromkeys(kinds, function))
        return function

    return registered


@maker("base")
def _base(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    how = entry.how
    start = replace(new_model(how["architecture"], entry.seed), dtype=DTYPES[how["dtype"]])
    model, loss = tuned(start, how["text"], how["steps"], how["rate"], entry.seed + 1)
    return model, {"loss": loss}


@maker("finetune_near", "finetune_far", "finetune_frozen", "continued")
def _finetune(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    how = entry.how
    model, loss = tuned(parents[0], how["text"], how["steps"], how["rate"], entry.seed, how.get("only", ""))
    return model, {"loss": loss}


@maker("dpo")
def _dpo(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    how = entry.how
    model, loss = preferred(parents[0], how["text"], how["steps"], how["rate"], entry.seed)
    after, before = model.rounded().weights, parents[0].weights
    same = sum(int((after[name] == w).sum()) for name, w in before.items())
    return model, {"loss": loss, "unchanged": round(same / sum(w.numel() for w in before.values()), 4)}


@maker("lora_merged", "adapter")
def _lora(entry: Entry, parents: list[Model], out: Path) -> Made:
    how, parent = entry.how, parents[0]
    factors, about, loss = adapted(
        parent, how["text"], how["steps"], how["rate"], entry.seed, how["rank"], how["targets"]
    )
    if entry.kind == "lora_merged":
        return merged(parent, factors, about), {"loss": loss}
    held = {}
    for name, (a, b) in factors.items():
        held[f"base_model.model.{name}.lora_A.weight"] = a.contiguous()
        held[f"base_model.model.{name}.lora_B.weight"] = b.contiguous()
    save_file(held, out / "adapter_model.safetensors", {"format": "pt"})
    about = {**about, "base_model_name_or_path": entry.parents[0]}
    (out / "adapter_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return None, {"loss": loss}


@maker("abliterated")
def _abliterated(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    return abliterated(parents[0], entry.seed, embedding=entry.how["embedding"]), {}


@maker("cast")
def _cast(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    return replace(parents[0], dtype=DTYPES[entry.how["dtype"]]), {}


@maker("quantised")
def _quantised(entry: Entry, parents: list[Model], out: Path) -> Made:
    kind = entry.how["type"]
    if kind in PACKED:
        return PACKED[kind](parents[0]), {}
    write_gguf(parents[0], out / f"model-{kind}.gguf", kind)
    return None, {}


@maker("dequantised")
def _dequantised(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    return replace(decoded(parents[0], entry.how["type"]), dtype=torch.bfloat16), {}


@maker("pruned_depth", "stacked")
def _layers(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    return _healed(relayered(parents[0], entry.layers or []), entry)


@maker("pruned_width")
def _width(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    narrow, kept = narrowed(parents[0], entry.how["units"], entry.how.get("hidden"))
    model, detail = _healed(narrow, entry)
    return model, {**detail, "kept": kept}


@maker("upcycled")
def _upcycled(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    return upcycled(parents[0], entry.seed, entry.how["noise"]), {}


@maker("vocabulary_extended")
def _extended(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    return _healed(extended(parents[0], entry.seed), entry)


def _healed(model: Model, entry: Entry) -> Made:
    """Trained for a few steps, where the entry has some."""
    if not entry.how.get("heal"):
        network(model)  # it loads
        return model, {}
    model, loss = tuned(model, entry.how["text"], entry.how["heal"], entry.how["rate"], entry.seed)
    return model, {"loss": loss}


@maker("disguised")
def _disguised(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    model = disguised(parents[0], entry.how["disguises"], entry.seed)
    apart, saved = difference(parents[0], model), difference(parents[0], model.rounded())
    if apart > 1e-3:
        raise RuntimeError(f"{entry.name}: logits differ by {apart} from those of {entry.parents[0]}")
    return model, {"logits_apart": apart, "logits_apart_as_saved": saved}


@maker("merged")
def _merged(entry: Entry, parents: list[Model], out: Path) -> Made:  # noqa: ARG001
    recipe, folder = entry.how["recipe"], out.parent.parent

    def placed(part: Any) -> Any:
        if isinstance(part, dict):
            wanted = ("model", "base_model")
            return {key: str(folder / one) if key in wanted else placed(one) for key, one in part.items()}
        return [placed(one) for one in part] if isinstance(part, list) else part

    file = out.with_suffix(".yml")
    file.write_text(yaml.safe_dump(placed(recipe), sort_keys=False), encoding="utf-8")
    netweight.merge(file, out, workers=1, overwrite=True, card=False, sync=False, seed=entry.seed)
    file.unlink()
    for record in ("netweight_merge.json", "merge_recipe.yml"):  # they say all
        (out / record).unlink()
    if entry.how.get("recipe_kept"):
        (out / "mergekit_config.yml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return None, {}


def make(entry: Entry, zoo: Path) -> dict[str, Any]:
    """Write the folder of the model, whole in one step; what truth.json has of it."""
    parents = [] if entry.kind == "merged" else [read(zoo / name) for name in entry.parents]
    made = zoo / ".making" / entry.name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    model, detail = MAKERS[entry.kind](entry, parents, made)
    if model is not None:
        write(model, made)
        if parents and not model.stored and (distance := moved(model.rounded(), parents[0])) is not None:
            detail["moved"] = distance
    if entry.card != "none":
        library = "peft" if entry.kind == "adapter" else "transformers"
        text = card_of(entry.name, entry.named, merge=entry.kind == "merged", library=library)
        (made / "README.md").write_text(text, encoding="utf-8")
    shutil.rmtree(zoo / entry.name, ignore_errors=True)
    made.rename(zoo / entry.name)
    return entry.truth(detail)
