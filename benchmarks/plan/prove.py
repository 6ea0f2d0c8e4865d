"""What a plan loses against llama.cpp's mixtures of the same size: KL divergence and perplexity of language models.

    python benchmarks/plan/prove.py WORK [--seconds 480] [--real ../shared/realweights]

Trains four small language models on Python's own sources (kept in WORK), and takes stories260K where it is there. Of
each, llama-quantize's rules (restated from the llama-quant.cpp in llama-cpp-python 0.3.36) give a type to every tensor;
`netweight plan` gives others for the same size; both are encoded by libgguf, and what the model then says of held-out
text is set against what it said before. stories260K is asked about stories of its own. The third and the fourth model
took no part in choosing how much the embedding and the head count.
"""

from __future__ import annotations

import argparse
import json
import math
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libgguf
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import netweight
from netweight.checkpoint.gguf.naming import gguf_namer
from netweight.statistics.formats.table import FORMATS

TYPES = {one.ggml: one for one in FORMATS if one.ggml}
FALLBACK = {"Q2_K": "IQ4_NL", "Q3_K": "IQ4_NL", "IQ4_XS": "IQ4_NL", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
MIXTURES = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M")
PURE = ("pure Q3_K", "pure Q4_K", "pure Q5_K")  # one type for all, also for the head
STORIES = "crabml__crabml__testdata_tinyllamas-stories-260k-f32.gguf"
HELD = 48  # sequences that are asked about


@dataclass(frozen=True)
class Shape:
    """A language model to be trained: vocabulary 0 are bytes."""

    vocabulary: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    tied: bool
    seed: int
    length: int


SHAPES = {
    "bytes": Shape(0, 6, 768, 8, 4, tied=False, seed=0, length=128),
    "words": Shape(4096, 4, 768, 8, 2, tied=False, seed=1, length=96),
    "tied": Shape(2048, 5, 512, 4, 4, tied=True, seed=2, length=96),
    "deep": Shape(0, 10, 512, 4, 2, tied=False, seed=3, length=96),
}


def texts() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(file for file in root.rglob("*.py") if "test" not in str(file) and "site-packages" not in str(file))
    return [file.read_text(encoding="utf-8", errors="ignore") for file in files[:900]]


def tokens(vocabulary: int) -> Tensor:
    found = texts()
    if not vocabulary:
        return torch.tensor([byte for text in found for byte in text.encode() if byte < 128])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(found, trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=alphabet))
    return torch.tensor([number for text in found for number in tokenizer.encode(text).ids])


def trained(name: str, folder: Path, seconds: float) -> tuple[LlamaForCausalLM, Tensor]:
    """The model, and sequences that it was not trained on."""
    shape, kept = SHAPES[name], folder / name
    data = tokens(shape.vocabulary)
    split = int(0.95 * len(data))
    held = data[split : split + (len(data) - split) // shape.length * shape.length].reshape(-1, shape.length)
    held = held[torch.randperm(len(held), generator=torch.Generator().manual_seed(0))[:HELD]]
    if not kept.exists():
        torch.manual_seed(shape.seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=shape.vocabulary or 256,
                hidden_size=256,
                intermediate_size=shape.inner,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                max_position_embeddings=256,
                tie_word_embeddings=shape.tied,
            )
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
        begun, step = time.perf_counter(), 0
        while (done := (time.perf_counter() - begun) / seconds) < 1:
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * min(1, step / 50) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
            starts = torch.randint(0, split - shape.length - 1, (16,))
            batch = torch.stack([data[start : start + shape.length] for start in starts])
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
        print(f"{name}: {step} steps, loss {loss.item():.3f}", flush=True)
        model.save_pretrained(kept)
    return LlamaForCausalLM.from_pretrained(kept, dtype=torch.float32).eval(), held


def stories(file: Path, folder: Path) -> tuple[LlamaForCausalLM, Tensor]:
    """stories260K, and stories that it tells."""
    if not (folder / "stories260K").exists():
        netweight.convert(file, folder / "stories260K")
    model = LlamaForCausalLM.from_pretrained(folder / "stories260K", dtype=torch.float32).eval()
    torch.manual_seed(0)
    start = torch.full((HELD, 1), model.config.bos_token_id)
    with torch.no_grad():
        told = model.generate(start, do_sample=True, max_new_tokens=200, min_new_tokens=200, pad_token_id=0)
    return model, told


@torch.no_grad()
def compared(name: str, folder: Path, model: LlamaForCausalLM, text: Tensor) -> list[dict[str, Any]]:
    asked = Asked(model, text)
    rows = []
    for mixture in (*MIXTURES, *PURE):
        types = asked.mixture(mixture)
        bits = asked.bits(types)
        try:
            plan = planned(folder, asked, bits)
        except netweight.NetweightError as error:  # a size below that of all smallest types with the head's
            print(f"| {name} | {mixture} | {bits:.3f} | {error} |", flush=True)
            continue
        theirs, perplexity = asked.lost(types)
        ours, our_perplexity = asked.lost(plan)
        rows.append(
            {"model": name, "mixture": mixture, "bits": bits, "planned_bits": asked.bits(plan), "kl": theirs,
             "planned_kl": ours, "perplexity": perplexity, "planned_perplexity": our_perplexity}
        )  # fmt: skip
        print(
            f"| {name} | {mixture} | {bits:.3f} | {asked.bits(plan):.3f} | {theirs:.5f} | {ours:.5f} |"
            f" **{ours / theirs:.2f}** | {perplexity:.3f} | {our_perplexity:.3f} |",
            flush=True,
        )
    return rows


class Asked:
    """A model whose matrices are encoded and set back, and what it says of some text."""

    def __init__(self, model: LlamaForCausalLM, text: Tensor) -> None:
        self.model, self.text = model, text
        held = dict(model.named_parameters())
        self.parameters = {name: value for name, value in held.items() if value.dim() == 2}
        self.plain = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.fixed = 32 * sum(value.numel() for value in held.values() if value.dim() < 2)
        self.elements = sum(value.numel() for value in held.values())
        self.before = [torch.log_softmax(model(input_ids=batch).logits, -1) for batch in self._batches()]
        self.decoded: dict[tuple[str, str], Tensor] = {}

    def _batches(self) -> Iterator[Tensor]:
        yield from self.text.split(16)

    def bits(self, types: dict[str, str]) -> float:
        """For a parameter; F16 is 16."""
        sizes = {**{key: one.bits for key, one in TYPES.items()}, "F16": 16.0}
        used = sum(sizes[types[name]] * value.numel() for name, value in self.plain.items())
        return (used + self.fixed) / self.elements

    def fitting(self, kind: str, name: str) -> str:
        """The type, or the one that llama-quantize falls back to where rows do not divide into its blocks."""
        cols = self.plain[name].shape[1]
        for one in (kind, FALLBACK.get(kind, "F16")):
            if one != "F16" and cols % TYPES[one].block == 0:
                return one
        return "F16"

    def lost(self, types: dict[str, str]) -> tuple[float, float]:
        """(KL divergence a token, perplexity) with these types."""
        for name, value in self.parameters.items():
            value.copy_(self._coded(name, types[name]))
        divergence = entropy = 0.0
        for batch, before in zip(self._batches(), self.before, strict=True):
            after = torch.log_softmax(self.model(input_ids=batch).logits, -1)
            divergence += float((before.exp() * (before - after)).sum())
            entropy -= float(after[:, :-1].gather(-1, batch[:, 1:, None]).sum())
        for name, value in self.parameters.items():
            value.copy_(self.plain[name])
        rows, length = self.text.shape
        return divergence / self.text.numel(), math.exp(entropy / (rows * (length - 1)))

    def _coded(self, name: str, kind: str) -> Tensor:
        if (name, kind) not in self.decoded:
            plain = self.plain[name]
            if kind == "F16":
                self.decoded[name, kind] = plain.half().float()
            else:
                number = libgguf.GGMLQuantizationType[kind]
                rows = plain.numpy()
                back = libgguf.dequantize_rows(libgguf.quantize_rows(rows, number), number, n_per_row=rows.shape[1])
                self.decoded[name, kind] = torch.from_numpy(np.array(back))
        return self.decoded[name, kind]

    def mixture(self, name: str) -> dict[str, str]:
        """llama-quantize's types of a mixture, of models of llama's kind without experts."""
        config = self.model.config
        layers, grouped = config.num_hidden_layers, config.num_attention_heads // config.num_key_value_heads
        if name in PURE:
            return {key: self.fitting(name.removeprefix("pure "), key) for key in self.plain}
        base = name.rpartition("_")[0] if name.endswith(("_S", "_M", "_L")) else name
        return {
            key: self.fitting(_mixed(name, base, key, layers, grouped, tied=config.tie_word_embeddings), key)
            for key in self.plain
        }


def _mixed(mixture: str, base: str, key: str, layers: int, grouped: int, *, tied: bool) -> str:
    if key.startswith("lm_head") or (tied and "embed" in key):
        return "Q6_K"
    layer = int(key.split(".")[2]) if ".layers." in key else -1
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    first = layer < layers // 8
    if ".v_proj" in key:
        rules = {
            "Q2_K": "Q4_K" if grouped >= 4 else "Q3_K", "Q3_K_M": "Q5_K" if layer < 2 else "Q4_K", "Q3_K_L": "Q5_K",
            "IQ4_XS": "Q5_K" if grouped >= 4 else base, "Q4_K_S": "Q5_K" if layer < 4 else base,
            "Q4_K_M": "Q6_K" if more else base, "Q5_K_M": "Q6_K" if more else base,
        }  # fmt: skip
    elif ".down_proj" in key:
        rules = {
            "Q2_K": "Q3_K", "Q3_K_M": "Q5_K" if layer < layers // 16 else "Q4_K", "Q3_K_L": "Q5_K",
            "IQ4_XS": "Q5_K" if first else base, "Q4_K_S": "Q5_K" if first else base,
            "Q4_K_M": "Q6_K" if more else base, "Q5_K_M": "Q6_K" if more else base,
        }  # fmt: skip
    elif ".o_proj" in key:
        rules = {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}
    else:
        rules = {}
    return rules.get(mixture, base)


def planned(folder: Path, asked: Asked, bits: float) -> dict[str, str]:
    """What `netweight plan` gives every tensor for so many bits for a parameter."""
    config = json.loads((folder / "config.json").read_text())
    name_of = gguf_namer(config)
    assert name_of is not None
    result = netweight.plan(folder, f"{bits + 1e-6:.6f}bpw")
    given = {row.unit.name: row.option.key.upper() for row in result.rows if row.option is not None}
    return {name: given.get(str(name_of(name)), "F16") for name in asked.plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="where the models are, or will be")
    parser.add_argument("--seconds", type=float, default=480, help="of training, for each model")
    parser.add_argument("--real", type=Path, help="the folder that has stories260K")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    print("| model | mixture | bits | of the plan | KL | of the plan | ratio | perplexity | of the plan |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    rows = []
    for name in SHAPES:
        rows += compared(name, asked.work / name, *trained(name, asked.work, asked.seconds))
    if asked.real is not None:
        rows += compared("stories260K", asked.work / "stories260K", *stories(asked.real / STORIES, asked.work))
    ratios = [row["planned_kl"] / row["kl"] for row in rows]
    print(f"{len(rows)} comparisons: geometric mean {math.exp(np.mean(np.log(ratios))):.2f}, worst {max(ratios):.2f}")
    if asked.results is not None:
        asked.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
