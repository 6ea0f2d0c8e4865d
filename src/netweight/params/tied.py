"""Tied weights: one parameter under two names, or a head that is not stored because it is the embedding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from netweight.checkpoint.tensor import Checkpoint, Tensor
from netweight.errors import printable
from netweight.params.families import MODEL_TYPES
from netweight.params.role import Parameter, classify_all

__all__ = ["HEAD", "TIED_BY_DEFAULT", "Ties", "find_ties", "head_names", "token_embedding", "with_head"]

HEAD = "lm_head.weight"
"""The name of a head that no file holds."""

TIED_BY_DEFAULT: dict[str, bool] = {
    family: is_tied
    for is_tied, families in (
        (True, "gpt2 gpt-bigcode gpt-neo gemma gemma2 gemma3 gemma3n gemma4 t5 bart whisper bert roberta distilbert"),
        (True, "opt bloom falcon mpt cohere mamba"),
        (
            False,
            "llama llama4 mistral mixtral qwen qwen2 qwen2-moe qwen3 qwen3-moe qwen3-next qwen3.5 qwen3.5-moe phi phi3",
        ),
        (False, "phimoe gpt-j gpt-neox gpt-oss deepseek-v2 deepseek-v3 granite granite-moe olmo olmo2 olmoe molmo"),
        (False, "stablelm internlm internlm2 baichuan chatglm glm4 dbrx rwkv jamba"),
    )
    for family in families.split()
}
"""What a config without `tie_word_embeddings` means, by family.

Source: the configuration classes of the transformers library. `PretrainedConfig` says True, and the families listed
as False say so in their own class. Families that are not listed count as untied.
"""

_TIED_BY_TYPE: dict[str, bool] = {
    model_type: is_tied
    for is_tied, model_types in (
        (False, "mamba2"),
        (True, "gpt_neox_japanese qwen3_vl_moe qwen3_vl_moe_text albert bert-generation big_bird bigbird_pegasus"),
        (True, "biogpt blenderbot blenderbot-small camembert cohere2_moe convbert cpmant ctrl data2vec-text deberta"),
        (True, "deberta-v2 electra ernie ernie4_5 ernie4_5_moe esm flaubert fnet funnel gpt-sw3 granite_swa ibert"),
        (True, "jetmoe led lfm2 lfm2_moe longformer luke m2m_100 megatron-bert minicpm3 mobilebert modernbert"),
        (True, "modernbert-decoder mpnet mra mvp nllb-moe pegasus_x plbart prophetnet recurrent_gemma"),
        (True, "roberta-prelayernorm roc_bert roformer smollm3 squeezebert starcoder2 switch_transformers trocr"),
        (True, "vaultgemma xglm xlm xlm-roberta-xl xlnet xmod youtu zamba zamba2"),
    )
    for model_type in model_types.split()
}
"""Model types whose default differs from that of their family, and those of no family that tie."""

_NO_HEAD = ("Classification", "QuestionAnswering", "MultipleChoice", "ElectraForPreTraining")
"""Parts of the names of classes that yield no tokens."""

_BLOCK = 1 << 20  # elements compared at a time


@dataclass(frozen=True)
class Ties:
    """What is tied in one checkpoint.

    `aliases` maps a name to the one that it repeats: the same storage, or (where it was compared) equal content that
    config ties. `absent` is the name of the embedding that also serves as the head which the file does not hold, None
    where that is not so. `stored_twice` are pairs (head, embedding) that config ties and the file holds twice with
    one shape and dtype, not compared; `apart` those of another shape or dtype.
    """

    aliases: dict[str, str]
    absent: str | None = None
    stored_twice: tuple[tuple[str, str], ...] = ()
    apart: tuple[tuple[str, str], ...] = ()

    def notes(self, how: str) -> list[str]:
        """What is to be said of heads that config ties and the file holds; `how` says how equal ones are counted."""
        return [
            f"config.json ties {printable(head)} to {printable(embedding)}, and the file holds both: {how}"
            for head, embedding in self.stored_twice
        ] + [
            f"config.json ties {printable(head)} to {printable(embedding)}, and the file holds another head, of another"
            " shape or type: tools that load the model by its config leave it out"
            for head, embedding in self.apart
        ]


def find_ties(
    checkpoint: Checkpoint, *, compare: bool = False, parameters: Mapping[str, Parameter] | None = None
) -> Ties:
    """The ties of a checkpoint, from shared storage and from config's `tie_word_embeddings` (also in `text_config`).

    Only headers are read, unless `compare`: then a head and an embedding that config ties are read in blocks up to
    the first difference, and count as one where there is none. Raises ReadError where that reading fails.
    """
    aliases = {alias: name for alias, name in checkpoint.shared.items() if alias in checkpoint and name in checkpoint}
    if parameters is None:
        parameters = classify_all({name: tensor.shape for name, tensor in checkpoint.items()})
    embedding = token_embedding(checkpoint, parameters)
    if embedding is None or not _config_ties(checkpoint.config):
        return Ties(aliases)
    heads = head_names(parameters)
    if not heads:
        others = [p.name for p in parameters.values() if p.slot == "head" and p.group == "lm_head"]
        # BERT's `cls.predictions` and RoBERTa's `lm_head.dense` come before their head, which is the embedding
        of_tokens = not others or any(
            re.search(r"(?:^|\.)(?:predictions|vocab_transform)\.|lm_head\.", n) for n in others
        )
        # a head under a name that says nothing is the embedding's other name
        names = {alias: name for alias, name in aliases.items() if embedding in {alias, name}}
        of_tokens = of_tokens and all(
            parameters[n].slot == "token_embedding" for pair in names.items() for n in pair if n in parameters
        )
        of_tokens = of_tokens and not _is_headless(checkpoint.config)
        return Ties(aliases, absent=embedding if of_tokens else None)
    twice, apart = [], []
    for head in heads:
        first, second = checkpoint[head], checkpoint[embedding]
        if head in aliases or aliases.get(embedding) == head:
            continue
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            apart += [(head, embedding)] if parameters[head].kind == "weight" else []
        elif compare and _equal(first, second):
            aliases[head] = embedding
        elif not compare:
            twice.append((head, embedding))
    return Ties(aliases, stored_twice=tuple(twice), apart=tuple(apart))


def head_names(parameters: Mapping[str, Parameter]) -> list[str]:
    """The stored heads that yield tokens, outside the blocks."""
    return [p.name for p in parameters.values() if p.slot == "lm_head" and p.role == "output" and p.layer is None]


def with_head(checkpoint: Checkpoint, embedding: str, name: str) -> Checkpoint:
    """The checkpoint with the head that it does not hold, as `name`: an alias of its `embedding`."""
    tensors = dict(checkpoint.items())
    head = replace(tensors[embedding], name=name)
    return checkpoint.with_tensors(tensors | {name: head}, {**checkpoint.shared, name: embedding})


def token_embedding(checkpoint: Checkpoint, parameters: Mapping[str, Parameter]) -> str | None:
    """The largest matrix of token embeddings outside the blocks and outside other towers. Gemma's second table, whose
    rows have a part for every layer, is larger, and tied to nothing.
    """
    embeddings = [
        p for p in parameters.values() if p.slot == "token_embedding" and p.role == "embedding" and not p.stack
    ]
    matrices = [p.name for p in embeddings if p.layer is None and len(checkpoint[p.name].shape) == 2]
    return max(matrices, key=lambda name: ("per_layer" not in name, checkpoint[name].size), default=None)


def _is_headless(config: Mapping[str, Any] | None) -> bool:
    """Whether config names classes of transformers that yield no tokens, such as BertModel and the discriminators of
    ELECTRA; GPT2LMHeadModel and MarianMTModel do.
    """
    named = (config or {}).get("architectures")
    classes = named if isinstance(named, list) else []
    return bool(classes) and all(
        isinstance(c, str)
        and (any(part in c for part in _NO_HEAD) or (c.endswith("Model") and "Head" not in c and c != "MarianMTModel"))
        for c in classes
    )


def _config_ties(config: Mapping[str, Any] | None) -> bool:
    """Whether config ties the head to the embedding, by its own entry or by its family's default; False for a
    malformed config.
    """
    if not isinstance(config, Mapping):
        return False
    levels = [level for level in (config, config.get("text_config")) if isinstance(level, Mapping)]
    for level in levels:
        tie = level.get("tie_word_embeddings")
        if isinstance(tie, bool):
            return tie
    for level in levels:
        model_type = level.get("model_type")
        model_type = model_type.lower() if isinstance(model_type, str) else ""
        if model_type in _TIED_BY_TYPE:
            return _TIED_BY_TYPE[model_type]
        known = MODEL_TYPES.get(model_type)
        if known in TIED_BY_DEFAULT:
            return TIED_BY_DEFAULT[known]
    return False


def _equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bytes; stops at the first block that differs."""
    if first.dtype.bits % 8:
        return False  # packed types are not weights that a model ties
    width = first.dtype.bits // 8
    left, right = bytearray(min(_BLOCK, first.size) * width), bytearray(min(_BLOCK, first.size) * width)
    for start in range(0, first.size, _BLOCK):
        size = min(_BLOCK, first.size - start) * width
        with memoryview(left)[:size] as a, memoryview(right)[:size] as b:
            first.read_into(start, a)
            second.read_into(start, b)
            if a != b:
                return False
    return True
