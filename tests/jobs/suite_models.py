"""Tiny models of eight families for the recipe suite: bases, fine-tunes, an adapter, with tokenizers of their own.

`benchmarks/mergekit/record_suite.py` gives them to mergekit, and the tests make them again; only numpy is needed.
A row of an embedding or head belongs to its token, whatever number the tokenizer gives it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from small_models import Weights, from_bf16, to_bf16, write_safetensors
from suite_tokenizers import KINDS, Kind

Shapes = dict[str, tuple[int, ...]]

ROWS = ("embed_tokens.weight", "lm_head.weight", "wte.weight", "embed_in.weight", "embed_out.weight")
"""Ends of the names of tensors that have a row for each token."""
HIDDEN = 16
POSITIONS = 64
BUFFERS = ("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq")
"""Ends of names of what GPT-NeoX's code computes, and older checkpoints hold."""


def llama_shapes(layers: int, inner: int = 24, *, biased: bool = False) -> Shapes:
    made: Shapes = {"model.embed_tokens.weight": (0, HIDDEN)}
    for n in range(layers):
        head = f"model.layers.{n}."
        made |= {f"{head}self_attn.{p}_proj.weight": (HIDDEN if p in "qo" else 8, HIDDEN) for p in "qkvo"}
        if biased:
            made |= {f"{head}self_attn.{p}_proj.bias": (HIDDEN if p == "q" else 8,) for p in "qkv"}
        made |= {f"{head}mlp.{p}_proj.weight": (inner, HIDDEN) for p in ("gate", "up")}
        made[f"{head}mlp.down_proj.weight"] = (HIDDEN, inner)
        made |= {f"{head}{norm}.weight": (HIDDEN,) for norm in ("input_layernorm", "post_attention_layernorm")}
    return made | {"model.norm.weight": (HIDDEN,)}


def gemma_shapes(layers: int) -> Shapes:
    made = llama_shapes(layers)
    norms = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
    return made | {f"model.layers.{n}.{norm}.weight": (HIDDEN,) for n in range(layers) for norm in norms}


def phi_shapes(layers: int) -> Shapes:
    made: Shapes = {}
    for name, shape in llama_shapes(layers).items():
        if ".k_proj" in name or ".v_proj" in name or ".up_proj" in name:
            continue
        sides = {"self_attn.q_proj": ("self_attn.qkv_proj", 32), "mlp.gate_proj": ("mlp.gate_up_proj", 48)}
        for old, (new, rows) in sides.items():
            if old in name:
                made[name.replace(old, new)] = (rows, HIDDEN)
                break
        else:
            made[name] = shape
    return made


def mixtral_shapes(layers: int, experts: int = 2) -> Shapes:
    made: Shapes = {name: shape for name, shape in llama_shapes(layers).items() if ".mlp." not in name}
    for n in range(layers):
        head = f"model.layers.{n}.block_sparse_moe."
        made[f"{head}gate.weight"] = (experts, HIDDEN)
        for expert in range(experts):
            sides = {"w1": (20, HIDDEN), "w2": (HIDDEN, 20), "w3": (20, HIDDEN)}
            made |= {f"{head}experts.{expert}.{side}.weight": shape for side, shape in sides.items()}
    return made


def gpt2_shapes(layers: int) -> Shapes:
    sides: Shapes = {"attn.c_attn": (HIDDEN, 48), "attn.c_proj": (HIDDEN, HIDDEN)}
    sides |= {"mlp.c_fc": (HIDDEN, 64), "mlp.c_proj": (64, HIDDEN)}
    made: Shapes = {"transformer.wte.weight": (0, HIDDEN), "transformer.wpe.weight": (POSITIONS, HIDDEN)}
    for n in range(layers):
        for name, shape in sides.items():
            made |= {f"transformer.h.{n}.{name}.weight": shape, f"transformer.h.{n}.{name}.bias": shape[1:]}
        made |= {f"transformer.h.{n}.ln_{k}.{end}": (HIDDEN,) for k in (1, 2) for end in ("weight", "bias")}
    return made | {f"transformer.ln_f.{end}": (HIDDEN,) for end in ("weight", "bias")}


def neox_shapes(layers: int) -> Shapes:
    sides: Shapes = {"attention.query_key_value": (48, HIDDEN), "attention.dense": (HIDDEN, HIDDEN)}
    sides |= {"mlp.dense_h_to_4h": (64, HIDDEN), "mlp.dense_4h_to_h": (HIDDEN, 64)}
    norms = ("input_layernorm", "post_attention_layernorm")
    made: Shapes = {"gpt_neox.embed_in.weight": (0, HIDDEN)}
    for n in range(layers):
        head = f"gpt_neox.layers.{n}."
        for name, shape in sides.items():
            made |= {f"{head}{name}.weight": shape, f"{head}{name}.bias": shape[:1]}
        made |= {f"{head}{norm}.{end}": (HIDDEN,) for norm in norms for end in ("weight", "bias")}
        buffers: Shapes = {"bias": (1, 1, POSITIONS, POSITIONS), "masked_bias": (), "rotary_emb.inv_freq": (1,)}
        made |= {f"{head}attention.{name}": shape for name, shape in buffers.items()}
    made |= {f"gpt_neox.final_layer_norm.{end}": (HIDDEN,) for end in ("weight", "bias")}
    return made | {"embed_out.weight": (0, HIDDEN)}


HEAD: Shapes = {"lm_head.weight": (0, HIDDEN)}
SIZES = {
    "hidden_size": HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4,
    "intermediate_size": 24, "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model's tokenizer, its chat template, `rows` of its embedding (0: as many as tokens); `same` are parts of the
    names of tensors that are the base's, `change` is the scale of the other tensors' differences. Without `buffers` it
    is as newer versions of transformers write it.
    """

    tokenizer: str
    template: str | None = None
    rows: int = 0
    same: tuple[str, ...] = ()
    change: float = 0.02
    buffers: bool = True


@dataclass(frozen=True)
class Family:
    """Names and shapes of one architecture (0 stands for the rows of tokens), its config, its models."""

    shapes: Shapes
    config: Mapping[str, Any]
    models: Mapping[str, Model]
    dtype: str = "F32"


CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe of help.<|im_end|>\n' }}{% endif %}" + CHATML
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
TURNS = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


def named(architecture: str, kind: str, layers: int, **more: Any) -> dict[str, Any]:
    made = {"architectures": [architecture], "model_type": kind, "num_hidden_layers": layers, "use_cache": True}
    return made | {"tie_word_embeddings": False} | more


FAMILIES = {
    "llama": Family(
        llama_shapes(6) | HEAD,
        named("LlamaForCausalLM", "llama", 6, **SIZES, rope_theta=10000.0),
        {
            "base": Model("llama"),
            "math": Model("llama"),
            "story": Model("llama", same=("embed_tokens", "model.norm", "layers.2.self_attn")),
            "chat": Model("llama-chat", CHATML),
            "chat2": Model("llama-chat", CHATML),
            "renumbered": Model("llama-renumbered"),
            "code": Model("llama-code"),
        },
    ),
    "mistral": Family(
        llama_shapes(4) | HEAD,
        named("MistralForCausalLM", "mistral", 4, **SIZES, sliding_window=None, rope_theta=10000.0),
        {"base": Model("mistral"), "instruct": Model("mistral", INSTRUCT), "zephyr": Model("mistral-chat", CHATML)},
        dtype="BF16",
    ),
    "qwen2": Family(
        llama_shapes(3, biased=True),
        named("Qwen2ForCausalLM", "qwen2", 3, **(SIZES | {"tie_word_embeddings": True, "rope_theta": 10000.0})),
        {
            "base": Model("qwen", QWEN, rows=320),
            "instruct": Model("qwen-chat", QWEN, rows=320),
            "coder": Model("qwen-code", CHATML, rows=320),
        },
    ),
    "gemma2": Family(
        gemma_shapes(2),
        named("Gemma2ForCausalLM", "gemma2", 2, **SIZES, query_pre_attn_scalar=4, sliding_window=32)
        | {"tie_word_embeddings": True, "hidden_activation": "gelu_pytorch_tanh"},
        {"base": Model("gemma"), "it": Model("gemma", TURNS), "roleplay": Model("gemma", TURNS)},
    ),
    "phi3": Family(
        phi_shapes(2) | HEAD,
        named("Phi3ForCausalLM", "phi3", 2, **SIZES, original_max_position_embeddings=POSITIONS, sliding_window=None),
        {"base": Model("phi"), "instruct": Model("phi", CHATML), "tuned": Model("phi")},
        dtype="BF16",
    ),
    "gpt2": Family(
        gpt2_shapes(2),
        {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": HIDDEN, "n_head": 4, "n_layer": 2}
        | {"n_positions": POSITIONS, "tie_word_embeddings": True},
        {"base": Model("gpt2"), "poems": Model("gpt2"), "news": Model("gpt2")},
    ),
    "mixtral": Family(
        mixtral_shapes(2) | HEAD,
        named("MixtralForCausalLM", "mixtral", 2, **SIZES, num_local_experts=2, num_experts_per_tok=1)
        | {"intermediate_size": 20, "sliding_window": None},
        {"base": Model("mixtral"), "instruct": Model("mixtral", INSTRUCT), "dolphin": Model("mixtral-chat", CHATML)},
    ),
    "gpt_neox": Family(
        neox_shapes(3),
        named("GPTNeoXForCausalLM", "gpt_neox", 3, hidden_size=HIDDEN, num_attention_heads=4, intermediate_size=64)
        | {
            "rotary_pct": 0.5,
            "max_position_embeddings": POSITIONS,
            "use_parallel_residual": True,
            "hidden_act": "gelu",
        },
        {
            "base": Model("neox"),
            "chat": Model("neox"),
            "tuned": Model("neox"),
            "newer": Model("neox", buffers=False),
        },
    ),
}
ADAPTER = "llama/adapter"
RANK = 3
TARGETS = ("q_proj", "v_proj", "down_proj")


def _normals(*names: str, shape: tuple[int, ...]) -> np.ndarray:
    seed = [zlib.crc32(name.encode()) for name in names]
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def tokenizer_of(model: str) -> Kind:
    """The tokenizer of `family/model`."""
    family, _, name = model.partition("/")
    return KINDS[FAMILIES[family].models[name].tokenizer]


@cache
def weights_of(model: str) -> Weights:
    """The tensors of `family/model`, float32, of bfloat16 models what that holds."""
    name, _, own = model.partition("/")
    family = FAMILIES[name]
    made = {}
    for key, shape in family.shapes.items():
        if key.endswith(BUFFERS):
            if family.models[own].buffers:
                made[key] = _buffer(key, shape)
            continue
        if 0 not in shape:
            values = _tensor(name, own, key, shape)
        else:
            tokens = sorted(tokenizer_of(model).tokens.items(), key=lambda item: item[1])
            labels = [token for token, _ in tokens]
            labels += [f"row {n}" for n in range(len(tokens), family.models[own].rows)]
            values = np.stack([_tensor(name, own, key, shape[1:], row=label) for label in labels])
        made[key] = from_bf16(to_bf16(values)) if family.dtype == "BF16" else values.astype(np.float32)
    return made


def _buffer(key: str, shape: tuple[int, ...]) -> np.ndarray:
    if key.endswith("attention.bias"):
        return np.tril(np.ones(shape, bool))
    return np.full(shape, -1e9 if key.endswith("masked_bias") else 1.0, np.float32)


def _tensor(family: str, model: str, key: str, shape: tuple[int, ...], row: str = "") -> np.ndarray:
    values = 0.25 * _normals(family, key, row, shape=shape)
    if ("norm" in key or "ln_" in key) and key.endswith("weight") and family != "gemma2":
        values += 1.0
    about = FAMILIES[family].models[model]
    if model == "base" or any(part in key for part in about.same):
        return values
    common, own = (_normals(family, who, key, row, shape=shape) for who in ("common", model))
    return values + about.change * (0.6 * common + 0.8 * own)


def adapter_weights() -> Weights:
    """The adapter's tensors, under PEFT's names."""
    made: Weights = {}
    for key, shape in FAMILIES["llama"].shapes.items():
        if any(target in key for target in TARGETS):
            head = f"base_model.model.{key.removesuffix('.weight')}"
            made[f"{head}.lora_A.weight"] = _normals("A", key, shape=(RANK, shape[1])).astype(np.float32) * 0.1
            made[f"{head}.lora_B.weight"] = _normals("B", key, shape=(shape[0], RANK)).astype(np.float32) * 0.1
    return made


def config_of(model: str) -> dict[str, Any]:
    """config.json of `family/model`."""
    name, _, _ = model.partition("/")
    family, kind = FAMILIES[name], tokenizer_of(model)
    rows = next(len(values) for key, values in weights_of(model).items() if key.endswith(ROWS))
    dtype = {"F32": "float32", "BF16": "bfloat16"}[family.dtype]
    return {**family.config, "vocab_size": rows, "torch_dtype": dtype, **_special_ids(kind)}


def _special_ids(kind: Kind) -> dict[str, int | None]:
    special = kind.special()
    return {
        f"{which}_token_id": kind.tokens[special[f"{which}_token"]] if f"{which}_token" in special else None
        for which in ("bos", "eos", "pad")
    }


def write_models(folder: Path) -> None:
    """Every family's models below `folder`, as `family/model`, and the adapter."""
    for name, family in FAMILIES.items():
        for own, model in family.models.items():
            where = folder / name / own
            where.mkdir(parents=True)
            _write_json(where / "config.json", config_of(f"{name}/{own}"))
            _write_json(where / "generation_config.json", _special_ids(KINDS[model.tokenizer]))
            write_safetensors(where / "model.safetensors", weights_of(f"{name}/{own}"), family.dtype)
            KINDS[model.tokenizer].write(where, model.template)
    (folder / ADAPTER).mkdir()
    about = {
        "base_model_name_or_path": "llama/base", "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "lora_alpha": 6, "lora_dropout": 0.0, "peft_type": "LORA", "r": RANK, "target_modules": list(TARGETS),
        "task_type": "CAUSAL_LM",
    }  # fmt: skip
    _write_json(folder / ADAPTER / "adapter_config.json", about)
    write_safetensors(folder / ADAPTER / "adapter_model.safetensors", adapter_weights(), "F32")


def digest_of_models(folder: Path) -> str:
    """Of every byte below `folder`: that the models are those of a recording."""
    made = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        made.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode() + path.read_bytes())
    return made.hexdigest()


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
