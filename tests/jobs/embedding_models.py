"""Models with planted clusters, and tokenizers that `tokenizers` itself makes, for the tests of embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

NAME = "model.embed_tokens.weight"


def planted(rows: int, cols: int, k: int, seed: int = 0, apart: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [rows, cols], labels): normal noise of variance 1 around k centres of standard deviation `apart`."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((k, cols)) * apart
    labels = rng.integers(0, k, rows)
    return (centres[labels] + rng.standard_normal((rows, cols))).astype(np.float32), labels


def save_model(folder: Path, arrays: dict[str, np.ndarray], config: dict | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


def save_tokenizer(folder: Path, words: list[str], special: tuple[str, ...] = ()) -> None:
    """A tokenizer of whole words, ids in the order of `words`, `special` after them."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in special])
    tokenizer.save(str(folder / "tokenizer.json"))
