"""Tokenizers for the recipe suite: byte pair encoding learnt from short texts, in the forms that published models have.

Learning is written out here, so that every machine and every version of a library gets the same tokens.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

Pair = tuple[str, str]

ENGLISH = """The river ran past the mill and the miller watched the water. When the winter came the water slowed,
and then there was ice on the wheel. Nobody in the valley remembered another winter like this one.
They merged their stores, they weighed the flour, and they shared what there was. In the morning the
children went over the bridge to the other side, where the forest began and the hunters returned
with nothing. Reading and writing were what the evenings were for, and the older ones told the
younger ones how the weather had been when they were young themselves."""
CODE = """def forward(self, x): return self.layer(x)
for index in range(len(values)): values[index] = self.state[index] + 1
if values is None: raise ValueError("no values")
class Layer(Module): def __init__(self, size): self.size = size; self.values = [0] * size
print(values); return values; import math; from typing import Any; self.index = index"""


def _bytes() -> dict[int, str]:
    """The character that byte-level tokenizers write for each byte: itself where it is printable, else one from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


BYTES = _bytes()


def learn(text: str, count: int, space: str) -> list[Pair]:
    """`count` merges of the most common neighbours, the first in order where several are as common."""
    words = Counter(re.findall(r" ?[A-Za-z]+| ?[^\sA-Za-z]", re.sub(r"\s+", " ", text)))
    split = {tuple(word.replace(" ", space)): times for word, times in words.items()}
    found: list[Pair] = []
    while len(found) < count:
        pairs: Counter[Pair] = Counter()
        for word, times in split.items():
            for pair in pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(best)
        split = {_merged(word, best): times for word, times in split.items()}
    return found


def _merged(word: Sequence[str], pair: Pair) -> tuple[str, ...]:
    made: list[str] = []
    for part in word:
        if made and (made[-1], part) == pair:
            made[-1] += part
        else:
            made.append(part)
    return tuple(made)


def _unique(tokens: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(tokens))


@dataclass(frozen=True)
class Kind:
    """One tokenizer. `order` are the tokens of its model by number; `added` the added tokens, which follow unless they
    are in `order`, all special but those of `plain`. `spaced`: spaces are written as ▁, with one before the text where
    `prefix`; else as bytes. `files` are those that are written, `more` are further parts of tokenizer.json.
    """

    order: tuple[str, ...]
    merges: tuple[Pair, ...]
    added: tuple[str, ...]
    spaced: bool
    config: Mapping[str, Any]
    prefix: bool = False
    plain: tuple[str, ...] = ()
    files: tuple[str, ...] = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> dict[str, int]:
        """Every token's number."""
        return {token: n for n, token in enumerate(_unique([*self.order, *self.added]))}

    def special(self) -> dict[str, str]:
        return {key: value for key, value in self.config.items() if key in {"bos_token", "eos_token", "unk_token",
                                                                            "pad_token"}}  # fmt: skip

    def write(self, folder: Path, template: str | None) -> None:
        """The files into `folder`, the chat template among them."""
        made = {
            "tokenizer.json": self._tokenizer(),
            "tokenizer_config.json": self._config(template),
            "special_tokens_map.json": self.special(),
            "vocab.json": {token: n for token, n in self.tokens.items() if token in self.order},
            "added_tokens.json": {token: self.tokens[token] for token in self.added if token not in self.order},
        }
        for name in self.files:
            if name == "merges.txt":
                lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
                (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
            else:
                (folder / name).write_text(json.dumps(made[name], ensure_ascii=False, indent=1), encoding="utf-8")

    def _entries(self) -> list[dict[str, Any]]:
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        numbered = sorted((self.tokens[token], token) for token in self.added)
        return [{"id": n, "content": t, **flags, "special": t not in self.plain} for n, t in numbered]

    def _config(self, template: str | None) -> dict[str, Any]:
        decoder = {str(e["id"]): {key: value for key, value in e.items() if key != "id"} for e in self._entries()}
        made = {"added_tokens_decoder": decoder, "clean_up_tokenization_spaces": False, **self.config}
        return made if template is None else made | {"chat_template": template}

    def _tokenizer(self) -> dict[str, Any]:
        space = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        model = {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: n for token, n in self.tokens.items() if token in self.order},
            "merges": [list(pair) for pair in self.merges],
        }  # fmt: skip
        made = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": self._entries(),
                "normalizer": None, "pre_tokenizer": space, "post_processor": None, "decoder": space}  # fmt: skip
        if self.spaced:
            model |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
            replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
            steps = [{"type": "Prepend", "prepend": "▁"}, replace] if self.prefix else [replace]
            back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
                    {"type": "Fuse"}]  # fmt: skip
            if self.prefix:
                back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
            made["normalizer"] = {"type": "Sequence", "normalizers": steps}
            made["pre_tokenizer"] = None
            made["decoder"] = {"type": "Sequence", "decoders": back}
        return made | {"model": model, **self.more}


def by_bytes(text: str, merges: int, added: Sequence[str], config: Mapping[str, Any], **more: Any) -> Kind:
    """A byte-level tokenizer, as Llama 3, Qwen, GPT-2 and GPT-NeoX have them. `shuffled`: a seed for other numbers."""
    pairs = learn(text, merges, BYTES[ord(" ")])
    order = _unique([*BYTES.values(), *(a + b for a, b in pairs)])
    if seed := more.pop("shuffled", 0):
        random.Random(seed).shuffle(order)
    first = more.pop("first", ())
    return Kind((*first, *order), tuple(pairs), tuple(added), spaced=False, config=config, **more)


def by_spaces(text: str, merges: int, added: Sequence[str], config: Mapping[str, Any], **more: Any) -> Kind:
    """A tokenizer with spaces written as ▁ and bytes for what it does not know, as Llama 2, Mistral and Gemma have."""
    pairs = learn(text, merges, "▁")
    first = more.pop("first", ("<unk>", "<s>", "</s>"))
    characters = ["▁", *(chr(code) for code in range(33, 127)), "é", "ü"]
    pieces = [*(a + b for a, b in pairs), *characters]
    order = _unique([*first, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces])
    return Kind(tuple(order), tuple(pairs), (*first, *added), spaced=True, config=config, **more)


FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64}
CHATML = ("<|im_start|>", "<|im_end|>")
BEGINS = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
}
GPT2_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

_LLAMA = FAST | {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
_LLAMA_CHAT = _LLAMA | {"eos_token": "<|im_end|>", "pad_token": "<|end|>"}
_QWEN = FAST | {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
_QWEN_ADDED = ("<|endoftext|>", *CHATML)
_MISTRAL = {
    "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    "add_bos_token": True, "add_eos_token": False, "model_max_length": 64, "legacy": False,
}  # fmt: skip
_MISTRAL_MORE = {"prefix": True, "more": {"post_processor": BEGINS}}
_ZEPHYR = ("<|user|>", "<|assistant|>", *CHATML)
_GEMMA = {
    "tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
    "pad_token": "<pad>", "add_bos_token": True, "add_eos_token": False, "model_max_length": 64,
}  # fmt: skip
_GEMMA_FIRST = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
_PHI = FAST | {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}
_GPT2 = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64} | dict.fromkeys(
    ("bos_token", "eos_token", "unk_token"), "<|endoftext|>"
)
_NEOX = FAST | dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")

KINDS: dict[str, Kind] = {
    "llama": by_bytes(ENGLISH, 60, ("<|begin|>", "<|end|>"), _LLAMA),
    "llama-renumbered": by_bytes(ENGLISH, 60, ("<|end|>", "<|begin|>"), _LLAMA, shuffled=5),
    "llama-chat": by_bytes(ENGLISH, 60, ("<|begin|>", "<|end|>", *CHATML), _LLAMA_CHAT),
    "llama-code": by_bytes(CODE, 50, ("<|begin|>", "<|end|>", "<|fim|>"), _LLAMA),
    "mistral": by_spaces(ENGLISH, 70, (), _MISTRAL, **_MISTRAL_MORE),
    "mistral-chat": by_spaces(
        ENGLISH, 70, _ZEPHYR, _MISTRAL | {"eos_token": "<|im_end|>", "pad_token": "</s>"}, **_MISTRAL_MORE
    ),
    "qwen": by_bytes(ENGLISH, 50, _QWEN_ADDED, _QWEN),
    "qwen-chat": by_bytes(ENGLISH, 50, _QWEN_ADDED, _QWEN | {"eos_token": "<|im_end|>"}),
    "qwen-code": by_bytes(
        ENGLISH, 50, (*_QWEN_ADDED, "<|fim_prefix|>", "<|fim_suffix|>", "<tool_call>"), _QWEN, plain=("<tool_call>",)
    ),
    "gemma": by_spaces(
        ENGLISH, 55, ("<start_of_turn>", "<end_of_turn>"), _GEMMA, first=_GEMMA_FIRST, plain=("<start_of_turn>",)
    ),
    "phi": by_spaces(CODE, 45, ("<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>"), _PHI, prefix=True),
    "gpt2": by_bytes(ENGLISH, 40, ("<|endoftext|>",), _GPT2, files=GPT2_FILES),
    "mixtral": by_spaces(CODE, 60, (), _MISTRAL, **_MISTRAL_MORE),
    "mixtral-chat": by_spaces(CODE, 60, CHATML, _MISTRAL | {"eos_token": "<|im_end|>"}, **_MISTRAL_MORE),
    "neox": by_bytes(CODE, 40, ("<|endoftext|>", "<|padding|>"), _NEOX, first=("<|endoftext|>", "<|padding|>")),
}
