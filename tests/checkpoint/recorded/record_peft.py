"""Records what peft's merge_and_unload makes of tiny models, for test_adapters_of_peft.py. Run by hand, where peft and
transformers are installed: python tests/checkpoint/recorded/record_peft.py

Written with peft 0.21.2, transformers 5.24.0, torch 2.13.0.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SMALL = {"hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 2, "vocab_size": 14}
LLAMA = {**SMALL, "num_hidden_layers": 1, "num_key_value_heads": 1}
MODELS = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA)),
    "tied": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**LLAMA, tie_word_embeddings=True)),
    "gpt2": (
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(n_embd=12, n_layer=1, n_head=2, vocab_size=14, n_positions=4),
    ),
    "mixtral": (transformers.MixtralForCausalLM, transformers.MixtralConfig(**LLAMA, num_local_experts=3)),
    "t5": (
        transformers.T5ForConditionalGeneration,
        transformers.T5Config(d_model=12, d_ff=20, d_kv=6, num_layers=1, num_heads=2, vocab_size=14),
    ),
    "bert": (
        transformers.BertForSequenceClassification,
        transformers.BertConfig(**SMALL, num_hidden_layers=1, max_position_embeddings=4),
    ),
}
MATRICES = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "tied": ["q_proj"],
    "gpt2": ["c_attn", "c_fc"],
    "mixtral": ["q_proj", "o_proj"],
    "t5": ["q", "wo"],
    "bert": ["query", "dense"],
}
EMBEDDINGS = {"llama": "embed_tokens", "tied": "embed_tokens", "gpt2": "wte", "t5": "shared", "bert": "word_embeddings"}

_BASE = "base_model_name_or_path"


def settings():
    """(model, name, settings of the adapter)"""
    for model, on in MATRICES.items():
        flat = {"fan_in_fan_out": True} if model == "gpt2" else {}
        lora = {"r": 2, "lora_alpha": 7, "target_modules": on, **flat}
        yield model, "lora", peft.LoraConfig(**lora)
        yield model, "dora", peft.LoraConfig(**lora, use_dora=True)
        yield model, "ia3", peft.IA3Config(target_modules=on, feedforward_modules=on[1:], **flat)
        yield model, "adalora", peft.AdaLoraConfig(**lora, init_r=3, target_r=2, total_step=10)
        yield model, "vera", peft.VeraConfig(r=2, target_modules=on[:1], save_projection=True, **flat)
        if model != "gpt2":
            yield model, "loha", peft.LoHaConfig(r=2, alpha=7, target_modules=on)
            yield model, "lokr", peft.LoKrConfig(r=2, alpha=7, target_modules=on)
            yield model, "lokr-both", peft.LoKrConfig(r=1, alpha=7, decompose_both=True, target_modules=on)
    for model, embedding in EMBEDDINGS.items():
        flat = {"fan_in_fan_out": True} if model == "gpt2" else {}
        lora = {"r": 2, "lora_alpha": 7, **flat}
        both = [embedding, MATRICES[model][0]]
        yield model, "embedding", peft.LoraConfig(**lora, target_modules=both)
        yield model, "embedding-dora", peft.LoraConfig(**lora, target_modules=[embedding], use_dora=True)
        yield (
            model,
            "tokens",
            peft.LoraConfig(**lora, target_modules=both[1:], trainable_token_indices={embedding: [5, 1]}),
        )
        yield model, "saved", peft.LoraConfig(**lora, target_modules=both[1:], modules_to_save=[embedding])
    lora = {"r": 2, "lora_alpha": 7}
    patterns = {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"q_proj": 5}}
    yield "llama", "patterns", peft.LoraConfig(**lora, target_modules=["q_proj", "v_proj"], use_rslora=True, **patterns)
    yield "llama", "linear", peft.LoraConfig(**lora, target_modules="all-linear")
    yield "llama", "head", peft.LoraConfig(**lora, target_modules=["lm_head"])
    yield "llama", "only-tokens", peft.TrainableTokensConfig(token_indices=[3, 1], target_modules=["embed_tokens"])
    yield "bert", "bias", peft.LoraConfig(**lora, target_modules=["query"], bias="all")
    yield "bert", "lora-bias", peft.LoraConfig(**lora, target_modules=["query"], lora_bias=True)
    yield "bert", "classes", peft.LoraConfig(**lora, target_modules=["query"], task_type="SEQ_CLS")
    stacks = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    yield "mixtral", "stacks", peft.LoraConfig(**lora, target_modules=["q_proj"], target_parameters=stacks)


def shaken(model: torch.nn.Module) -> None:
    """Every parameter of the adapter away from where it begins, in steps that are short in decimal."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        trained = parameter.requires_grad or "lora_" in name or "vera_lambda" in name
        if trained and "ranknum" not in name and "original" not in name:
            parameter.data += torch.randint(-8, 9, parameter.shape) / 16


def main() -> None:
    held: dict[str, torch.Tensor] = {}
    about: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (kind, config) in MODELS.items():
            torch.manual_seed(1)
            model = kind(config)
            model.save_pretrained(f"{folder}/{name}")
            said = json.loads(Path(folder, name, "config.json").read_text())
            about[name] = {key: value for key, value in said.items() if value is not None}
            held |= {
                f"{name}|base|{key}": value for key, value in load_file(f"{folder}/{name}/model.safetensors").items()
            }
        for name, case, config in settings():
            model = peft.get_peft_model(MODELS[name][0].from_pretrained(f"{folder}/{name}"), config)
            shaken(model)
            place = Path(folder, f"{name}-{case}")
            model.save_pretrained(place)
            model.eval().merge_and_unload().save_pretrained(place / "merged")
            said = json.loads((place / "adapter_config.json").read_text())
            about[f"{name}|{case}"] = {key: value for key, value in said.items() if value} | {_BASE: "base"}
            adapter = load_file(place / "adapter_model.safetensors")
            held |= {f"{name}|{case}|adapter|{key}": value for key, value in adapter.items()}
            for key, value in load_file(place / "merged" / "model.safetensors").items():
                before = held.get(f"{name}|base|{key}")
                if before is None or not torch.equal(before, value):
                    held[f"{name}|{case}|merged|{key}"] = value
    save_file({key: value.contiguous() for key, value in held.items()}, HERE / "peft.safetensors")
    (HERE / "peft.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
