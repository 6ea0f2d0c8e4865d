"""Train a tiny language model, fine-tune it on two tasks, merge the fine-tunes, and see what each model can do.

    python examples/two_tasks.py                 # some minutes on two cores; models in ./two-tasks
    python examples/two_tasks.py --steps 2       # seconds: does everything work?

The base (a Llama of 4 blocks, 96 wide, one token a character) learns easy forms of both tasks: sums of small numbers,
and short strings in alphabetical order. One fine-tune goes on with sums of two-digit numbers, the other with strings
of eight letters. netweight merges the two in several ways, and every model is asked both: the mean loss of the answer's
characters, and the share of answers that are right to the last character. Nothing is tuned for the merges to look
good, and no seed is left to chance. Needs torch and transformers (the `dev` extra has both).
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

CHARACTERS = "\0\n+=>0123456789abcdefghijklmnopqrstuvwxyz"
CODES = {character: code for code, character in enumerate(CHARACTERS)}
LENGTH = 18
PAD, END = "\0", "\n"
HELD_OUT = 1000  # problems a task that no model is trained on
LETTERS = CHARACTERS[CHARACTERS.index("a") :]

Problem = tuple[str, str]
"""What is given, and the answer to be written after it."""


def addition(numbers: tuple[int, int]) -> Problem:
    return f"{numbers[0]:02d}+{numbers[1]:02d}=", f"{sum(numbers):03d}{END}"


def sorting(letters: str) -> Problem:
    return f"{letters}>", f"{''.join(sorted(letters))}{END}"


@dataclass(frozen=True)
class Task:
    """Problems to train on, drawn at random, and others to be asked."""

    name: str
    draw: Callable[[random.Random], Problem]
    asked: tuple[Problem, ...]


def tasks(seed: int) -> tuple[Task, Task]:
    """Sums of two-digit numbers, and eight letters in order."""
    chance = random.Random(seed)
    pairs = [(i, j) for i in range(10, 100) for j in range(10, 100)]
    chance.shuffle(pairs)
    held_out, rest = pairs[:HELD_OUT], pairs[HELD_OUT:]
    words = {"".join(chance.choices(LETTERS, k=8)) for _ in range(2 * HELD_OUT)}
    asked_words = sorted(words)[:HELD_OUT]
    hidden = set(asked_words)

    def word(draw: random.Random) -> Problem:
        while (letters := "".join(draw.choices(LETTERS, k=8))) in hidden:
            pass
        return sorting(letters)

    return (
        Task("addition", lambda draw: addition(draw.choice(rest)), tuple(map(addition, held_out))),
        Task("sorting", word, tuple(map(sorting, asked_words))),
    )


def mixture(both: tuple[Task, Task]) -> Callable[[random.Random], Problem]:
    """What the base learns: easy problems (numbers below ten, two to five letters), and half as many of each task."""

    def draw(chance: random.Random) -> Problem:
        kind = chance.randrange(4)
        if kind < 2:
            return both[kind].draw(chance)
        if kind == 2:
            return addition((chance.randrange(10), chance.randrange(10)))
        return sorting("".join(chance.choices(LETTERS, k=chance.randint(2, 5))))

    return draw


def batch(problems: list[Problem]) -> tuple[torch.Tensor, torch.Tensor]:
    """Character codes int64 [problems, LENGTH], and the same with -100 (no loss) wherever there is no answer."""
    tokens, targets = [], []
    for given, answer in problems:
        text = (given + answer).ljust(LENGTH, PAD)
        codes = [CODES[character] for character in text]
        end = len(given) + len(answer)
        tokens.append(codes)
        targets.append([code if len(given) <= i < end else -100 for i, code in enumerate(codes)])
    return torch.tensor(tokens), torch.tensor(targets)


def answer_losses(model: LlamaForCausalLM, problems: list[Problem]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean loss, and whether each answer is right: bool [problems]. With everything before it right, a character
    that is the likeliest one is what greedy decoding writes.
    """
    tokens, targets = batch(problems)
    logits, wanted = model(input_ids=tokens).logits[:, :-1], targets[:, 1:]
    loss = cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
    return loss, ((logits.argmax(-1) == wanted) | (wanted == -100)).all(1)


def train(
    model: LlamaForCausalLM, draw: Callable[[random.Random], Problem], steps: int, rate: float, seed: int
) -> float:
    """AdamW with a cosine schedule after a short warm-up; returns the mean loss of the last tenth of the steps."""
    chance = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    warm_up = max(1, steps // 20)
    losses = []
    model.train()
    for step in range(steps):
        part = min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * part
        loss, _ = answer_losses(model, [draw(chance) for _ in range(BATCH)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


BATCH = 64


@torch.inference_mode()
def measured(folder: Path, task: Task) -> tuple[float, float]:
    """Mean loss of the answers' characters, and the share of answers that are right."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loss, right = answer_losses(model, list(task.asked))
    return loss.item(), right.float().mean().item()


def new_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(CHARACTERS),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=CODES[END],
            pad_token_id=CODES[PAD],
        )
    )


def make_models(folder: Path, both: tuple[Task, Task], steps: int, seed: int) -> None:
    """Train the base and its two fine-tunes and save them below `folder`."""
    model = new_model(seed)
    timed("base", model, mixture(both), steps, 1e-3, seed + 1)
    model.save_pretrained(folder / "base")
    for number, task in enumerate(both):
        tuned = LlamaForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
        timed(task.name, tuned, task.draw, steps, 1.5e-4, seed + 2 + number)
        tuned.save_pretrained(folder / task.name)


def timed(
    name: str, model: LlamaForCausalLM, draw: Callable[[random.Random], Problem], steps: int, rate: float, seed: int
) -> None:
    started = time.perf_counter()
    loss = train(model, draw, steps, rate, seed)
    print(f"{name}: {steps} steps, loss {loss:.4f}, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def recipe(method: str, weight: float, more: str = "") -> str:
    """A recipe of the two fine-tunes, its paths relative to the folder with the models."""
    models = "".join(
        f"  - model: {name}\n    parameters: {{weight: {weight}{more}}}\n" for name in ("addition", "sorting")
    )
    return f"merge_method: {method}\nbase_model: base\nmodels:\n{models}dtype: float32\n"


RECIPES = {
    "mean of the two": recipe("task_arithmetic", 0.5),
    "sum of the two": recipe("task_arithmetic", 1.0),
    "ties, density 0.5": recipe("ties", 1.0, ", density: 0.5"),
    "ties, density 0.2": recipe("ties", 1.0, ", density: 0.2"),
}


def merge(folder: Path) -> dict[str, Path]:
    """Merge the fine-tunes with the command line of netweight; the folders of the results."""
    made = {"exp": folder / "merged-exp"}
    netweight(
        folder, "--base", "base", "--models", "addition", "sorting", "--mode", "exp", "--output", made["exp"].name
    )
    for number, (name, text) in enumerate(RECIPES.items(), 1):
        (folder / f"recipe-{number}.yml").write_text(text, encoding="utf-8")
        made[name] = folder / f"merged-{number}"
        netweight(folder, f"recipe-{number}.yml", "--output", made[name].name)
    return made


def netweight(folder: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("netweight")), "merge", *arguments, "--overwrite"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"netweight merge {' '.join(arguments)} returned {done.returncode}:\n{done.stderr}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("two-tasks"), help="where models go")
    parser.add_argument("--steps", type=int, default=1000, help="of each of the three trainings (default 1000)")
    parser.add_argument(
        "--threads", type=int, default=2, help="of torch: other numbers train to slightly other models (default 2)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-merge", action="store_true", help="train and measure the parents alone")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    disable_progress_bar()
    both = tasks(asked.seed)
    asked.folder.mkdir(parents=True, exist_ok=True)
    make_models(asked.folder, both, asked.steps, asked.seed)
    models = {name: asked.folder / name for name in ("base", *(task.name for task in both))}
    if not asked.no_merge:
        models |= merge(asked.folder)
    header = "".join(f"  {task.name + ': loss':>15}  {'right':>6}" for task in both)
    print(f"{'model':18}{header}")
    for name, folder in models.items():
        found = "".join(f"  {loss:15.4f}  {right:6.1%}" for loss, right in (measured(folder, task) for task in both))
        print(f"{name:18}{found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
