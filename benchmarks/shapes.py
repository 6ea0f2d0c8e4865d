"""The shapes of the benchmark's checkpoints: tensors, shards and their order, as the usual writer makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

BYTES_PER_WEIGHT = 2  # bfloat16
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes; `tied` means that lm_head is the embedding and is not stored."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    fine_tunes: int  # that the benchmark measures

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape in self.tensors().values())

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes in the order of the model's modules."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            block: dict[str, tuple[int, ...]] = {
                "self_attn.q_proj": (q, self.hidden),
                "self_attn.k_proj": (kv, self.hidden),
                "self_attn.v_proj": (kv, self.hidden),
                "self_attn.o_proj": (self.hidden, q),
                "mlp.gate_proj": (self.intermediate, self.hidden),
                "mlp.up_proj": (self.intermediate, self.hidden),
                "mlp.down_proj": (self.hidden, self.intermediate),
                "input_layernorm": (self.hidden,),
                "post_attention_layernorm": (self.hidden,),
            }
            tensors |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
        tensors["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            tensors["lm_head.weight"] = (self.vocabulary, self.hidden)
        return tensors

    def shards(self, limit: int = SHARD_BYTES) -> dict[str, dict[str, tuple[int, ...]]]:
        """File names and their tensors: shards are filled in module order, each is then stored sorted by name."""
        filled = list(_fill(self.tensors(), limit))
        if len(filled) == 1:
            names = ["model.safetensors"]
        else:
            names = [f"model-{i:05d}-of-{len(filled):05d}.safetensors" for i in range(1, len(filled) + 1)]
        return {name: dict(sorted(tensors.items())) for name, tensors in zip(names, filled, strict=True)}

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
        }


def _fill(tensors: dict[str, tuple[int, ...]], limit: int) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in tensors.items():
        nbytes = prod(shape) * BYTES_PER_WEIGHT
        if shard and size + nbytes > limit:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += nbytes
    yield shard


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", 256, 4, 8, 4, 32, 768, 8000, tied=True, fine_tunes=3),
        Shape("1b", 2048, 16, 32, 8, 64, 8192, 128256, tied=True, fine_tunes=3),
        Shape("3b", 3072, 28, 24, 8, 128, 8192, 128256, tied=True, fine_tunes=5),
        Shape("8b", 4096, 32, 32, 8, 128, 14336, 128256, tied=False, fine_tunes=1),
    )
}
"""Llama 3.2 1B and 3B, Llama 3.1 8B, and one to try the benchmark out with."""
