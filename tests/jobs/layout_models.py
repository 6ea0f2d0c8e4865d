"""One set of values of the kinds of `layout_kinds` under every layout, as folders that netweight and transformers read.

As a program, prints the names and shapes of every layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from layout_kinds import KINDS, State
from safetensors.torch import load_file, save_file


@cache
def _made(kind: str) -> Any:
    model, dtype = KINDS[kind].make().eval(), KINDS[kind].dtype
    return model if dtype == torch.float32 else model.to(dtype)


def values(kind: str, number: int = 0) -> State:
    """The state dict of the base (0), or of a fine-tune of it: every value random, norms and biases too."""
    return _values(kind, number)


@cache
def _values(kind: str, number: int) -> State:
    random = torch.Generator().manual_seed(number)
    made: State = {}
    tied: dict[int, torch.Tensor] = {}
    for name, tensor in _made(kind).state_dict().items():
        place = tensor.data_ptr()
        if place not in tied:
            drawn = torch.randn(tensor.shape, generator=random)
            first = values(kind)[name].float() if number else torch.zeros(())
            tied[place] = (first + (0.02 if number else 0.3) * drawn).to(tensor.dtype)
        made[name] = tied[place]
    return made


def model_of(kind: str, number: int = 0) -> Any:
    """The transformers model that holds `values`; one for all calls of a kind."""
    model = _made(kind)
    model.load_state_dict(values(kind, number))
    return model


def restated(kind: str, layout: str, state: State) -> State:
    """A state dict with that layout's names, as a file holds it."""
    return {name: t.contiguous().clone() for name, t in KINDS[kind].layouts[layout].names(state).items()}


def stored(kind: str, layout: str, number: int = 0) -> State:
    """`values` as a file in that layout holds them."""
    return restated(kind, layout, values(kind, number))


def config_of(kind: str, layout: str) -> dict[str, Any]:
    """The config.json of a folder in that layout."""
    config = json.loads(_made(kind).config.to_json_string(use_diff=False))
    return {**config, "architectures": [type(_made(kind)).__name__], **(KINDS[kind].layouts[layout].config or {})}


def write(folder: Path, kind: str, layout: str, state: State, *, shards: int = 1) -> str:
    """`state`, which has that layout's names, as a model's folder; `shards` deals the tensors to so many files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_of(kind, layout)))
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)
    files = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    where = {name: files[n % shards] for n, name in enumerate(sorted(state))}
    for file in files:
        save_file({n: t for n, t in state.items() if where[n] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return str(folder)


class Folders:
    """Folders of models below `root`, each written when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[tuple[str, str, int], str] = {}

    def __call__(self, kind: str, layout: str, number: int = 0) -> str:
        """The path of the base (0), or of a fine-tune of it, in that layout."""
        key = kind, layout, number
        if key not in self._written:
            folder = self._root / re.sub(r"\W+", "-", f"{kind} {layout} {number}")
            self._written[key] = write(folder, kind, layout, stored(kind, layout, number))
        return self._written[key]


def reader(kind: str, layout: str) -> str | None:
    """The name of the class of transformers that reads this layout, None where there is none."""
    found = KINDS[kind].layouts[layout].reader
    return type(_made(kind)).__name__ if found == "own" else found


def templates(state: State) -> dict[tuple[str, tuple[int, ...]], int]:
    """{(name with numbers as #, shape): how many}."""
    counts: dict[tuple[str, tuple[int, ...]], int] = {}
    for name, tensor in state.items():
        key = re.sub(r"(?<![^.])\d+(?![^.])", "#", name), tuple(tensor.shape)
        counts[key] = counts.get(key, 0) + 1
    return counts


def read(folder: str | Path) -> State:
    """{name: tensor} of all safetensors files of a folder."""
    made: State = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        made |= load_file(file)
    return made


def loaded(folder: str | Path, name: str) -> Any:
    """The folder by transformers' class of that name, which misses nothing and finds nothing that it does not know."""
    model, info = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True, local_files_only=True, dtype="auto"
    )
    assert not any(info.values()), info
    return model


def same_tensors(found: State, expected: State) -> None:
    """The same names, types, shapes and bits."""
    assert found.keys() == expected.keys()
    unlike = [n for n, t in expected.items() if found[n].dtype != t.dtype or not torch.equal(found[n], t)]
    assert unlike == []


def ordered(*, all_pairs: bool = True, kinds: Iterable[str] = KINDS) -> list[tuple[str, str, str]]:
    """(kind, a layout, another layout): all ordered pairs, or so many that each is once the first, once the second."""
    pairs = []
    for kind in kinds:
        layouts = list(KINDS[kind].layouts)
        for number, first in enumerate(layouts):
            following = [layouts[(number + step) % len(layouts)] for step in range(1, len(layouts))]
            pairs += [(kind, first, second) for second in (following if all_pairs else following[:1])]
    return pairs


def named(pair: tuple[str, str, str]) -> str:
    """The pair as a test's name."""
    kind, first, second = pair
    return f"{kind}: {first} and {second}"


if __name__ == "__main__":  # a table of every layout's names
    for kind, held in KINDS.items():
        for layout in held.layouts:
            print(f"\n{kind} / {layout}")
            for (name, shape), count in templates(stored(kind, layout)).items():
                print(f"    {count:3} x {name} {list(shape)}")
