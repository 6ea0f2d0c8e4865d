"""Fine-tunes that were really trained, and the word that `compare` has for each: the second table of
docs/measures/update.md.

    python benchmarks/kinds/trained.py              # three minutes on two cores
    python benchmarks/kinds/trained.py --steps 20   # does everything work?

A Llama-shaped model of 3 layers and width 192 learns the bytes of numpy's source, is rounded to bfloat16, and is then
trained on the bytes of Python's library in many ways: all weights by AdamW or SGD at several rates, LoRA, DoRA, masks,
single modules. Each result is saved as F32, F16 and BF16 and compared with the base in that type.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.nn import functional

import netweight

WIDTH, INNER, HEADS, LAYERS, LENGTH, BATCH = 192, 512, 4, 3, 48, 8
TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.self_attn = nn.ModuleDict({f"{n}_proj": nn.Linear(WIDTH, WIDTH, bias=False) for n in "qkvo"})
        self.mlp = nn.ModuleDict({
            "gate_proj": nn.Linear(WIDTH, INNER, bias=False),
            "up_proj": nn.Linear(WIDTH, INNER, bias=False),
            "down_proj": nn.Linear(INNER, WIDTH, bias=False),
        })  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.input_layernorm(x)
        q, k, v = (self.self_attn[f"{n}_proj"](h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in "qkv")
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + self.self_attn["o_proj"](mixed)
        h = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](functional.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(256, WIDTH),
            "layers": nn.ModuleList(Block() for _ in range(LAYERS)),
            "norm": nn.RMSNorm(WIDTH),
        })  # fmt: skip
        self.lm_head = nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.model["embed_tokens"](tokens)
        for layer in self.model["layers"]:
            x = layer(x)
        return self.lm_head(self.model["norm"](x))


class Adapter(nn.Module):
    """W + s B A in place of W; `rows`: each row of the sum scaled by a learned number, as DoRA does."""

    def __init__(self, weight: torch.Tensor, rank: int, *, rows: bool) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.b = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.m = nn.Parameter(weight.norm(dim=1, keepdim=True)) if rows else None

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        moved = weight + 2 * self.b @ self.a
        return moved if self.m is None else self.m * moved / moved.norm(dim=1, keepdim=True).detach()


def corpus(folder: Path) -> torch.Tensor:
    text = b"".join(p.read_bytes() for p in sorted(folder.rglob("*.py"))[:200])
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batches(text: torch.Tensor, steps: int, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH - 1, (BATCH,), generator=generator)
        yield torch.stack([text[s : s + LENGTH + 1] for s in starts])


def train(
    model: Model,
    optimiser: torch.optim.Optimizer,
    text: torch.Tensor,
    steps: int,
    after: Callable[[], None] = lambda: None,
) -> float:
    loss = torch.zeros(())
    for batch in batches(text, steps, 1):
        logits = model(batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        after()
    return loss.item()


def copied(base: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Model:
    model = Model()
    model.load_state_dict(base)
    return model.to(dtype)


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: w.detach().float().numpy().copy() for name, w in model.state_dict().items()}


def full(base, text, steps, rate, *, only="", kind=torch.optim.AdamW, dtype=torch.float32):
    model = copied(base, dtype)
    chosen = [p for name, p in model.named_parameters() if only in name]
    train(model, kind(chosen, lr=rate), text, steps)
    return weights(model)


def masked(base, text, steps, rate, share):
    """Only a random part of every matrix learns."""
    model = copied(base)
    generator = torch.Generator().manual_seed(3)
    held = [(p, p.detach().clone(), torch.rand(p.shape, generator=generator) < share) for p in model.parameters()]

    def put_back() -> None:
        with torch.no_grad():
            for p, before, mask in held:
                p.copy_(torch.where(mask, p, before))

    train(model, torch.optim.AdamW(model.parameters(), lr=rate), text, steps, put_back)
    return weights(model)


def adapted(base, text, steps, rate, rank, *, on=("q_proj", "v_proj"), rows=False):
    from torch.nn.utils import parametrize

    torch.manual_seed(rank)
    model = copied(base).requires_grad_(requires_grad=False)
    linear = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.rpartition(".")[2] in on}
    for module in linear.values():
        parametrize.register_parametrization(module, "weight", Adapter(module.weight.detach(), rank, rows=rows))
    train(model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate), text, steps)
    for module in linear.values():
        parametrize.remove_parametrizations(module, "weight")
    return weights(model)


ALL = tuple(f"{n}_proj" for n in ("q", "k", "v", "o", "gate", "up", "down"))


def fine_tunes(base, text, steps):
    """(what it is, the words that are right, its tensors)."""
    for rate in (1e-3, 1e-4, 1e-5):
        yield f"full, AdamW at {rate:g}", {"full"}, full(base, text, steps, rate)
    yield "full, AdamW at 1e-4 in bfloat16", {"full"}, full(base, text, steps, 1e-4, dtype=torch.bfloat16)
    yield "full, SGD at 0.1", {"full"}, full(base, text, steps, 0.1, kind=torch.optim.SGD)
    for rank in (4, 16, 64):
        yield f"LoRA r={rank} on q, v", {f"adapter-like {rank}"}, adapted(base, text, steps, 1e-3, rank)
    yield "LoRA r=16 on all", {"adapter-like 16"}, adapted(base, text, steps, 1e-3, 16, on=ALL)
    yield "LoRA r=16 on all, at 1e-4", {"adapter-like 16"}, adapted(base, text, steps, 1e-4, 16, on=ALL)
    yield "DoRA r=16 on all", {"adapter-like 16"}, adapted(base, text, steps, 1e-3, 16, on=ALL, rows=True)
    yield "mask of 5%", {"sparse"}, masked(base, text, steps, 1e-3, 0.05)
    yield "norms alone", {"one module"}, full(base, text, steps, 1e-3, only="norm")
    yield "lm_head alone", {"one module"}, full(base, text, steps, 1e-3, only="lm_head")
    yield "embeddings alone", {"one module"}, full(base, text, steps, 1e-3, only="embed_tokens")
    yield "last layer alone", {"full"}, full(base, text, steps, 1e-3, only="layers.2.")


def written(folder: Path, tensors: dict[str, np.ndarray], kind: str) -> Path:
    folder.mkdir()
    save_file({n: w.astype(TYPES[kind]) for n, w in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="of each fine-tune; the base takes four times as many")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--verbose", action="store_true", help="print what is said of each")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = Model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = train(model, optimiser, corpus(Path(np.__file__).parent), 4 * arguments.steps)
    print(f"base: loss {loss:.2f}")
    text = corpus(Path(json.__file__).parents[1])
    print(f"{'what it is':32} {' '.join(f'{kind:16}' for kind in TYPES)}")
    with tempfile.TemporaryDirectory() as name:
        base = {n: w.detach().bfloat16().float() for n, w in model.state_dict().items()}
        held = {n: w.numpy() for n, w in base.items()}
        bases = {kind: written(Path(name) / f"base {kind}", held, kind) for kind in TYPES}
        for number, (what, right, tensors) in enumerate(fine_tunes(base, text, arguments.steps)):
            words = []
            for kind, reference in bases.items():
                said = netweight.compare(reference, written(Path(name) / f"{kind} {number}", tensors, kind)).kind
                assert said is not None
                word = f"{said.word} {said.rank}" if said.rank else said.word
                words.append(word if word in right or said.word == "undecided" else f"{word} WRONG")
                if arguments.verbose:
                    print(f"    {kind:5} {said}")
            print(f"{what:32} {' '.join(f'{word:16}' for word in words)}", flush=True)


if __name__ == "__main__":
    main()
