"""What the recipe suite keeps of a merged model's folder, whichever program wrote it.

Tensors are kept as their norm and some values. Of a tensor with a row for each token, these are rows of named tokens,
so that it does not matter which number a tokenizer gives them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from suite_models import ROWS, weights_of
from suite_tokenizers import KINDS

SAMPLES, COLUMNS = 12, 3
PIECES = (
    "the river", " weights", "def f(x):", "\n    return ", "é", "日本", "  ", "\t", "1234", "!?", "<|im_start|>",
    "<|im_end|>", "<s>", "</s>", "Hello", " world", "merge", "ing", "self.values[0]", "'s", "<|user|>",
    "<start_of_turn>", "user\n", " Nobody", "<tool_call>", " winter", "<|begin|>", "<|end|>", "🙂", "ing ", "<|fim|>",
    "<|endoftext|>",
)  # fmt: skip
CHATS = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Bye"},
    ],
)


def strings() -> list[str]:
    """The 200 texts."""
    rng = random.Random(11)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randint(1, 8))) for _ in range(200)]


def _named_tokens() -> tuple[str, ...]:
    """Every added token of any tokenizer, and some others of each."""
    found: dict[str, None] = {}
    for kind in KINDS.values():
        found |= dict.fromkeys(kind.added)
    for kind in KINDS.values():
        found |= dict.fromkeys(token for token in kind.order[7::61])
    return tuple(found)


TOKENS = _named_tokens()


def length(name: str) -> int:
    """How many values `sampled` keeps of the tensor."""
    return 1 + (len(TOKENS) * COLUMNS if name.endswith(ROWS) else SAMPLES)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


def sampled(name: str, tensor: np.ndarray, ids: Mapping[str, int]) -> np.ndarray:
    """[n] float64: the norm, then values; of a row that no token has here NaN."""
    values = tensor.astype(np.float64)
    if name.endswith(ROWS):
        own = sorted(number for number in ids.values() if number < len(values))
        picked = np.full((len(TOKENS), COLUMNS), np.nan)
        for n, token in enumerate(TOKENS):
            if ids.get(token, len(values)) < len(values):
                picked[n] = values[ids[token], [(n * 5 + k * 7) % values.shape[1] for k in range(COLUMNS)]]
        return np.concatenate([[np.linalg.norm(values[own])], picked.ravel()])
    flat = values.ravel()
    return np.concatenate([[np.linalg.norm(flat)], flat[(np.arange(SAMPLES) * 7919 + 13) % flat.size]])


def tensors_of(folder: Path) -> dict[str, tuple[str, np.ndarray]]:
    """(element type, values as float64) of every tensor, by name."""
    from safetensors.torch import load_file

    loaded = {name: t for file in sorted(folder.glob("*.safetensors")) for name, t in load_file(file).items()}
    return {name: (str(t.dtype).removeprefix("torch."), t.double().numpy()) for name, t in sorted(loaded.items())}


def stacked(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mixtral's experts under the names that transformers has in memory, as mergekit writes them."""
    made = {name: w for name, w in tensors.items() if ".block_sparse_moe." not in name}
    for gate in (name for name in tensors if name.endswith("block_sparse_moe.gate.weight")):
        block = gate.removesuffix(".gate.weight")
        mixture = block.replace("block_sparse_moe", "mlp")
        count = len(tensors[gate])
        w1, w2, w3 = (
            np.stack([tensors[f"{block}.experts.{e}.{side}.weight"] for e in range(count)])
            for side in ("w1", "w2", "w3")
        )
        made[f"{mixture}.gate.weight"] = tensors[gate]
        made[f"{mixture}.experts.gate_up_proj"] = np.concatenate([w1, w3], axis=1)
        made[f"{mixture}.experts.down_proj"] = w2
    return dict(sorted(made.items()))


RANDOM = {
    "dare-ties-random": {"llama/math": 0.4, "llama/story": 0.3},
    "dare-linear-random": {"mistral/instruct": 0.8},
    "della-random": {"llama/math": 0.7},
    "della-linear-random": {"llama/story": 1.0},
}
"""Recipes of methods that draw numbers: their fine-tunes, with weights."""


def drawn(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, float]:
    """What a merge of RANDOM shows, whatever was drawn: by what elements that every fine-tune changed were changed. The
    share that did not change, the slope over the weighted sum of the task vectors, and the squares by its squares.
    """
    models = {model: weights_of(model) for model in RANDOM[name]}
    base = weights_of(f"{next(iter(models)).partition('/')[0]}/base")
    sums, made = [], []
    for key, start in base.items():
        changes = [own[key].astype(np.float64) - start for own in models.values()]
        every = np.all([change != 0 for change in changes], axis=0)
        sums.append(sum(w * c for w, c in zip(RANDOM[name].values(), changes, strict=True))[every])
        made.append((tensors[key] - start)[every])
    whole, found = np.concatenate(sums), np.concatenate(made)
    total = float(whole @ whole)
    return {
        "same": float(np.mean(found == 0)),
        "slope": float(found @ whole) / total,
        "squares": float(found @ found) / total,
    }


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """What it makes of the texts, its vocabulary, special tokens, and what its chat template renders."""
    texts = strings()
    ids = [tokenizer(text)["input_ids"] for text in texts]
    pieces = [tokenizer.convert_ids_to_tokens(numbers) for numbers in ids]
    vocabulary = tokenizer.get_vocab()
    return {
        "tokens": len(vocabulary),
        "vocabulary": digest(sorted(vocabulary)),
        "numbers": digest(sorted(vocabulary.items())),
        "ids": digest(ids),
        "pieces": digest(pieces),
        "decoded": digest([tokenizer.decode(numbers) for numbers in ids]),
        "first": pieces[0],
        "special": {which: getattr(tokenizer, which) for which in ("bos_token", "eos_token", "pad_token", "unk_token")},
        "added": sorted([t.content, t.special] for t in tokenizer.added_tokens_decoder.values()),
        "chats": [rendered(tokenizer, chat) for chat in CHATS] if tokenizer.chat_template else None,
    }


def rendered(tokenizer: Any, chat: Sequence[Mapping[str, str]]) -> str:
    try:
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except Exception as problem:
        return f"error: {type(problem).__name__}"


def config_facts(folder: Path) -> dict[str, Any]:
    """Fields of config.json and generation_config.json."""
    keys = ("architectures", "model_type", "vocab_size", "num_hidden_layers", "n_layer", "tie_word_embeddings")
    tokens = ("bos_token_id", "eos_token_id", "pad_token_id")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = {key: config.get(key) for key in (*keys, *tokens)}
    found["dtype"] = config.get("dtype", config.get("torch_dtype"))
    path = folder / "generation_config.json"
    if path.exists():
        own = json.loads(path.read_text(encoding="utf-8"))
        found["generation"] = [own.get(key) for key in tokens]
    return found


def loading_facts(folder: Path, tokenizer: Any) -> dict[str, Any]:
    """The class that transformers makes of the folder, what it misses, and the tokens that it says."""
    import torch
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, local_files_only=True, dtype="auto"
    )
    prompt = torch.tensor([tokenizer("the river ran")["input_ids"]])
    with torch.no_grad():
        said = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=4, do_sample=False)
    wrong = {key: sorted(str(name) for name in info[key]) for key in ("missing_keys", "unexpected_keys") if info[key]}
    numbers = said[0, prompt.shape[1] :].tolist()
    return {"class": type(model).__name__, "wrong": wrong, "says": tokenizer.convert_ids_to_tokens(numbers)}


def error_line(problem: BaseException) -> str:
    """The error's kind and first line, without paths of this machine."""
    line = str(problem).strip().splitlines()[0] if str(problem).strip() else ""
    return re.sub(r"/\S*/", "", f"{type(problem).__name__}: {line}")[:200]


def facts(folder: Path, name: str) -> tuple[dict[str, Any], np.ndarray, dict[str, np.ndarray]]:
    """Of the recipe `name`'s result: (what JSON holds, the values of all tensors in their order, the tensors)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer.get_vocab()
    loaded = tensors_of(folder)
    dtypes = {key: dtype for key, (dtype, _) in loaded.items()}
    tensors = stacked({key: values for key, (_, values) in loaded.items()})
    found = {
        "config": config_facts(folder),
        "tokenizer": tokenizer_facts(tokenizer),
        "loads": loading_facts(folder, tokenizer),
        "tensors": [[key, dtypes.get(key, max(dtypes.values())), list(w.shape)] for key, w in tensors.items()],
    }
    if name in RANDOM:
        found["drawn"] = drawn(name, tensors)
    return found, np.concatenate([sampled(key, values, ids) for key, values in tensors.items()]), tensors
