"""Tiny models of many families, written by llama.cpp's own converter: `python make_gguf.py LLAMA_CPP WORK`.

LLAMA_CPP is a checkout of llama.cpp (what is recorded was made by the one in llama-cpp-python 0.3.36), WORK a folder
to work in. The models are of transformers, without vocabulary, with the values of `values_of`, which the tests make
again from the names and shapes in gguf.json; so only the GGUF files are kept, with it, in gguf.tar.xz.
"""

from __future__ import annotations

import json
import lzma
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
VOCABULARY = 48
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": ("LlamaForCausalLM", {**COMMON, "attention_bias": True, "tie_word_embeddings": False}),
    "llama-long": (
        "LlamaForCausalLM",
        {**COMMON, "tie_word_embeddings": True, "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 16}},
    ),
    "mistral": ("MistralForCausalLM", {**COMMON, "head_dim": 8}),
    "mixtral": ("MixtralForCausalLM", {**COMMON, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen2": ("Qwen2ForCausalLM", {**COMMON, "tie_word_embeddings": True}),
    "qwen2-moe": (
        "Qwen2MoeForCausalLM",
        {**COMMON, "num_experts": 3, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 24},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**COMMON, "head_dim": 8}),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM", {**COMMON, "head_dim": 8, "num_experts": 3, "moe_intermediate_size": 8},
    ),
    "gemma": ("GemmaForCausalLM", {**COMMON, "head_dim": 8}),
    "gemma2": ("Gemma2ForCausalLM", {**COMMON, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**COMMON, "head_dim": 8, "query_pre_attn_scalar": 8}),
    "phi3": ("Phi3ForCausalLM", {**COMMON, "original_max_position_embeddings": 64}),
    "phi2": ("PhiForCausalLM", {**COMMON, "num_key_value_heads": 4}),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_ctx": 64},
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", {**COMMON, "rotary_pct": 0.25}),
    "falcon": (
        "FalconForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_kv_heads": 2, "new_decoder_architecture": True, "ffn_hidden_size": 24},
    ),
    "falcon-7b": (
        "FalconForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
         "multi_query": True, "new_decoder_architecture": False, "num_kv_heads": 1},
    ),
    "bloom": ("BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 4}),
    "mpt": (
        "MptForCausalLM", {"vocab_size": VOCABULARY, "d_model": 16, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "mamba": (
        "MambaForCausalLM",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "intermediate_size": 32},
    ),
    "olmo": ("OlmoForCausalLM", {**COMMON, "clip_qkv": None}),
    "olmo2": ("Olmo2ForCausalLM", {**COMMON}),
    "olmoe": ("OlmoeForCausalLM", {**COMMON, "num_experts": 3}),
    "granite": ("GraniteForCausalLM", {**COMMON}),
    "granite-moe": ("GraniteMoeForCausalLM", {**COMMON, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "command-r": ("CohereForCausalLM", {**COMMON}),
    "starcoder2": ("Starcoder2ForCausalLM", {**COMMON, "use_bias": True}),
    "starcoder": (
        "GPTBigCodeForCausalLM",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "multi_query": True},
    ),
    "stablelm": ("StableLmForCausalLM", {**COMMON, "use_qkv_bias": True}),
    "nemotron": ("NemotronForCausalLM", {**COMMON, "head_dim": 4}),
    "gpt-oss": (
        "GptOssForCausalLM", {**COMMON, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2},
    ),
    "deepseek2": (
        "DeepseekV2ForCausalLM",
        {**COMMON, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
         "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 3, "n_shared_experts": 1,
         "moe_intermediate_size": 8, "first_k_dense_replace": 1, "num_experts_per_tok": 2, "scoring_func": "softmax",
         "topk_method": "greedy", "norm_topk_prob": False, "routed_scaling_factor": 1.0, "aux_loss_alpha": 0.0,
         "seq_aux": True, "moe_layer_freq": 1, "head_dim": 4},
    ),
    "glm4": ("Glm4ForCausalLM", {**COMMON, "head_dim": 4}),
    "smollm3": ("SmolLM3ForCausalLM", {**COMMON}),
    "exaone4": ("Exaone4ForCausalLM", {**COMMON, "sliding_window": 32}),
    "seed-oss": ("SeedOssForCausalLM", {**COMMON, "head_dim": 8}),
    "deepseek3": (
        "DeepseekV3ForCausalLM",
        {**COMMON, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
         "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 2,
         "topk_group": 1, "moe_intermediate_size": 8, "first_k_dense_replace": 1, "num_experts_per_tok": 2,
         "norm_topk_prob": True, "routed_scaling_factor": 1.0, "head_dim": 4, "scoring_func": "sigmoid"},
    ),
    "glm4-moe": (
        "Glm4MoeForCausalLM",
        {**COMMON, "head_dim": 4, "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 8,
         "first_k_dense_replace": 1, "num_experts_per_tok": 2, "use_qk_norm": True, "n_group": 1, "topk_group": 1},
    ),
    "ernie4_5": ("Ernie4_5ForCausalLM", {**COMMON, "head_dim": 4}),
    "hunyuan": ("HunYuanDenseV1ForCausalLM", {**COMMON, "head_dim": 4}),
    "olmo3": ("Olmo3ForCausalLM", {**COMMON}),
    "arcee": ("ArceeForCausalLM", {**COMMON}),
    "lfm2": (
        "Lfm2ForCausalLM",
        {**COMMON, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "bert": ("BertModel", {**COMMON, "type_vocab_size": 2}),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4,
         "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0},
    ),
}  # fmt: skip


def values_of(name: str, shape: list[int]) -> np.ndarray:
    """float32 of 15 different numbers: made from a tensor's name, the same everywhere."""
    made = np.random.default_rng(zlib.crc32(name.encode()))
    return (made.integers(-7, 8, shape) / np.float32(16)).astype(np.float32)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def main() -> None:
    sys.path[:0] = [sys.argv[1], f"{sys.argv[1]}/gguf-py"]
    import gguf
    import torch
    import transformers
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class
    from safetensors.torch import load_file, save_file

    work = Path(sys.argv[2])
    recorded, out_files = {}, []
    for name, (architecture, config) in FAMILIES.items():
        folder = work / name
        cls = getattr(transformers, architecture)
        model = cls(cls.config_class(**config))
        model.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        made = {key: torch.from_numpy(values_of(key, list(tensor.shape))) for key, tensor in tensors.items()}
        save_file(made, folder / "model.safetensors", {"format": "pt"})
        kept = json.loads((folder / "config.json").read_text())
        vocabulary = {"added_tokens": [], "model": {"vocab": {str(n): n for n in range(VOCABULARY)}}}
        (folder / "tokenizer.json").write_text(json.dumps(vocabulary))  # its length is asked for
        with torch.inference_mode():
            hparams = ModelBase.load_hparams(folder, False)
            found = get_model_class(get_model_architecture(hparams, ModelType.TEXT).replace("Mpt", "MPT"))
            found.set_vocab = lambda self: None
            out = work / f"{name}.gguf"
            converter = found(folder, gguf.LlamaFileType.ALL_F32, out, model_name="tiny")
            converter.hparams |= config  # with the keys of older releases
            converter.write()
        recorded[name] = {"config": kept, "shapes": {key: list(tensor.shape) for key, tensor in tensors.items()}}
        out_files.append(out)
    (work / "gguf.json").write_text(json.dumps(recorded, separators=(",", ":"), sort_keys=True))
    with tarfile.open(HERE / "gguf.tar.xz", "w:xz", preset=9 | lzma.PRESET_EXTREME) as archive:
        for file in (work / "gguf.json", *out_files):
            archive.add(file, file.name, filter=_anonymous)


if __name__ == "__main__":
    main()
