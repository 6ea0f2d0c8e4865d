"""Small models, trained in minutes: language models on Python's own sources, classifiers and autoencoders on digits.

    python benchmarks/health/train.py OUT

Every family is trained twice, with other seeds, rates and lengths. What comes is a safetensors file each, and beside it
one of the same net as it was before the first step. Files that are there are kept.
"""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

TOKENS = 128  # bytes above are left out of the text
CONTEXT = 96


class Norm(nn.Module):
    """RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], self.weight)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(width, width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Experts(nn.Module):
    """All experts weighed by a router (dense, since these are small)."""

    def __init__(self, width: int, inner: int, count: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(Gated(width, inner) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.gate(x).softmax(-1)
        return sum((shares[..., i, None] * expert(x) for i, expert in enumerate(self.experts)), torch.zeros_like(x))


class Layer(nn.Module):
    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(width), Norm(width)
        self.self_attn = Attention(width, 4)
        self.mlp = Experts(width, width, experts) if experts else Gated(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, width: int, depth: int, experts: int = 0) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(TOKENS, width)
        self.model.positions = nn.Embedding(CONTEXT, width)
        self.model.layers = nn.ModuleList(Layer(width, experts) for _ in range(depth))
        self.model.norm = Norm(width)
        self.lm_head = nn.Linear(width, TOKENS, bias=False)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model.embed_tokens(tokens) + self.model.positions.weight[: tokens.shape[1]]
        for layer in self.model.layers:
            x = layer(x)
        return self.lm_head(self.model.norm(x))


class Gpt2(nn.Module):
    """Fused projections, biases, layer norms, torch's own initialisation."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(TOKENS, width), nn.Embedding(CONTEXT, width)
        self.h = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, functional.gelu, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.wte(tokens) + self.wpe.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        for layer in self.h:
            x = layer(x, src_mask=mask, is_causal=True)
        return self.ln_f(x) @ self.wte.weight.T


class Lstm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width)
        self.lstm = nn.LSTM(width, width, 2, batch_first=True)
        self.decoder = nn.Linear(width, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.lstm(self.embedding(tokens))[0])


class Cnn(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 8)), nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * width, 10),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(1, (8, 8)))


def perceptron(*widths: int) -> nn.Sequential:
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


Loss = Callable[[nn.Module], Tensor]


def python_text() -> Tensor:
    """The bytes below TOKENS of the standard library's sources, int64."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = torch.frombuffer(bytearray(b"".join(p.read_bytes() for p in files)), dtype=torch.uint8)
    return text[text < TOKENS].long()


def of_text() -> Loss:
    """Next bytes of Python's own sources."""
    text = python_text()

    def loss(net: nn.Module) -> Tensor:
        starts = torch.randint(len(text) - CONTEXT - 1, (16,))
        rows = text[starts[:, None] + torch.arange(CONTEXT + 1)]
        return functional.cross_entropy(net(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())

    return loss


def of_digits(*, same: bool = False) -> Loss:
    """Classes of 1,797 digits of 8 x 8, or (`same`) the digits themselves."""
    digits = load_digits()
    images, classes = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)

    def loss(net: nn.Module) -> Tensor:
        chosen = torch.randint(len(images), (64,))
        out = net(images[chosen])
        return functional.mse_loss(out, images[chosen]) if same else functional.cross_entropy(out, classes[chosen])

    return loss


@dataclass(frozen=True)
class Family:
    name: str
    make: Callable[[], nn.Module]
    loss: Callable[[], Loss]
    steps: int
    rate: float


FAMILIES = (
    Family("llama", lambda: Llama(128, 4), of_text, 700, 2e-3),
    Family("moe", lambda: Llama(64, 4, experts=6), of_text, 500, 3e-3),
    Family("gpt2", lambda: Gpt2(128, 4), of_text, 500, 1e-3),
    Family("lstm", lambda: Lstm(160), of_text, 400, 3e-3),
    Family("cnn", lambda: Cnn(32), of_digits, 1500, 2e-3),
    Family("perceptron", lambda: perceptron(64, 256, 256, 256, 10), of_digits, 3000, 1e-3),
    Family("autoencoder", lambda: perceptron(64, 256, 64, 16, 64, 256, 64), lambda: of_digits(same=True), 4000, 1e-3),
)


def trained(family: Family, seed: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """("start", weights) and ("trained", weights)."""
    torch.manual_seed(seed)
    net, loss = family.make(), family.loss()
    yield "start", {name: p.detach().clone() for name, p in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=family.rate * (1 + seed), weight_decay=0.01 * seed)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, family.rate * (1 + seed), family.steps)
    value = torch.tensor(0.0)
    for _ in range(family.steps):
        optimizer.zero_grad()
        value = loss(net)
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"{family.name} {seed}: loss {value.item():.3f}", flush=True)
    yield "trained", {name: p.detach().clone() for name, p in net.state_dict().items()}


def train_all(out: Path) -> None:
    """Write OUT/FAMILY-SEED-{start,trained}.safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        for seed in (0, 1):
            files = {state: out / f"{family.name}-{seed}-{state}.safetensors" for state in ("start", "trained")}
            if not all(file.exists() for file in files.values()):
                for state, weights in trained(family, seed):
                    save_file({name: w.contiguous() for name, w in weights.items()}, files[state])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    train_all(parser.parse_args().out)
