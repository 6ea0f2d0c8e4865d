"""Small Llamas whose tokenizers number the same tokens differently, and rows by token as numpy finds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

WIDTH = 8
CHARS = [chr(code) for code in range(33, 127)]
MERGES = [["a", "b"], ["ab", "c"], ["d", "e"], ["t", "h"], ["th", "e"]]
ORDER = [*CHARS, *("".join(pair) for pair in MERGES)]
EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def tokenizer_json(ids: Mapping[str, int], added: Mapping[str, int], merges: Sequence[list[str]]) -> dict[str, Any]:
    """A byte-level BPE as the library of tokenizers writes it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": at, "content": token} | flags for token, at in added.items()],
        "pre_tokenizer": bytes_,
        "decoder": bytes_,
        "model": {"type": "BPE", "fuse_unk": False, "vocab": dict(ids), "merges": list(merges)},
    }


def token_model(
    folder: Path,
    seed: int,
    *,
    order: Sequence[str] = ORDER,
    added: Sequence[str] = ("<s>", "</s>"),
    merges: Sequence[list[str]] = MERGES,
    rows: int | None = None,
    dtype: Any = np.float32,
    eos: str = "</s>",
) -> dict[str, np.ndarray]:
    """Write a model into `folder`; returns its tensors. Tokens of `order` have the first numbers, `added` the next."""
    folder.mkdir()
    ids = {token: at for at, token in enumerate(order)}
    more = {token: len(order) + at for at, token in enumerate(added)}
    rows = rows or len(order) + len(added)
    rng = np.random.default_rng(seed)
    shapes = {EMBED: (rows, WIDTH), HEAD: (rows, WIDTH), NORM: (WIDTH,)}
    layer = "model.layers.0."
    shapes |= {f"{layer}self_attn.{p}_proj.weight": (WIDTH, WIDTH) for p in "qkvo"}
    shapes |= {f"{layer}mlp.{p}_proj.weight": (WIDTH, WIDTH) for p in ("gate", "up", "down")}
    shapes |= {f"{layer}{p}_layernorm.weight": (WIDTH,) for p in ("input", "post_attention")}
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    special = {"bos_token_id": more["<s>"], "eos_token_id": more[eos]}
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 1, "num_key_value_heads": 1}
    kind = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(kind | sizes | special))
    (folder / "generation_config.json").write_text(json.dumps(special))
    made = tokenizer_json(ids, more, merges)
    (folder / "tokenizer.json").write_text(json.dumps(made))
    decoder = {str(e["id"]): {k: v for k, v in e.items() if k != "id"} for e in made["added_tokens"]}
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(about | {"added_tokens_decoder": decoder}))
    return tensors


def numbers(folder: Path) -> dict[str, int]:
    """The vocabulary of a folder, by the library of tokenizers."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)


def rows_for(
    tokens: Sequence[str], model: str, models: Mapping[str, tuple[Mapping[str, int], np.ndarray]], base: str | None
) -> np.ndarray:
    """[tokens, width] float64: rows of each token in `model`, else in the base, else in the only one, else means."""
    found = []
    for token in tokens:
        having = {name: values[ids[token]].astype(np.float64) for name, (ids, values) in models.items() if token in ids}
        order = [name for name in (model, base) if name in having]
        found.append(having[order[0]] if order else np.mean(list(having.values()), axis=0))
    return np.array(found)


def read(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of a result."""
    return {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}
