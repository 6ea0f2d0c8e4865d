"""Runs commands with options, inputs and outputs at random, and looks for tracebacks.

    python benchmarks/fuzz_commands.py [--runs N] [--seed S] [--corpus FOLDER ...]

Every option of every command can come up, with values that fit and values that do not; inputs are small models that are
whole, broken or hostile, and all files of the FOLDERs; outputs are places that take files and places that do not. A run
must end with an exit code of the documented ones and, where it is not 0, in one line. Prints how many runs ended how,
and leaves with 1 where any run raised, naming its command line. Nothing is fetched: hub and network are off.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "80"}

import click
import numpy as np
from safetensors.numpy import save_file

from netweight.cli import main as program

CODES = {0, 1, 2, 130, 141}
SKIPPED = {"demo", "download"}  # one makes its own models for a minute, the other needs a network


def weights(seed: int, layers: int = 2, dtype: type = np.float32, **more: np.ndarray) -> dict[str, np.ndarray]:
    """A tiny Llama."""
    rng = np.random.default_rng(seed)
    held = {"model.embed_tokens.weight": (30, 8), "model.norm.weight": (8,), "lm_head.weight": (30, 8)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        held |= {f"{at}self_attn.{x}_proj.weight": (8, 8) for x in "qkvo"} | {f"{at}input_layernorm.weight": (8,)}
        held |= {f"{at}mlp.{x}_proj.weight": (16, 8) for x in ("gate", "up")} | {f"{at}mlp.down_proj.weight": (8, 16)}
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in held.items()} | more


def make_inputs(root: Path) -> list[str]:
    """Models, and what is taken for one."""
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }

    def model(name: str, held: dict[str, np.ndarray], settings: object = config) -> None:
        (root / name).mkdir()
        save_file(held, root / name / "model.safetensors", {"format": "pt"})
        (root / name / "config.json").write_text(settings if isinstance(settings, str) else json.dumps(settings))

    for seed, name in enumerate(("base", "tuned", "other")):
        model(name, weights(seed))
    model("deep", weights(3, layers=5), config | {"num_hidden_layers": 5})
    model("half", weights(4, dtype=np.float16))
    model("wide", weights(5) | {"model.norm.weight": np.ones(9, np.float32)})
    model("nan", weights(6) | {"model.norm.weight": np.full(8, np.nan, np.float32)})
    model("huge", {n: a.astype(np.float64) * 1e300 for n, a in weights(7).items()})
    model("empty_tensors", {n: np.zeros((0, 8), np.float32) for n in weights(0)})
    model("integers", {n: np.ones(a.shape, np.int8) for n, a in weights(0).items()})
    model("qwen", weights(8), config | {"model_type": "qwen2"})
    model("list_config", weights(0), "[1, 2]")
    model("deep_config", weights(0), "[" * 5000 + "]" * 5000)
    model(
        "odd_config", weights(0), {"num_hidden_layers": -1, "hidden_size": "x", "text_config": [], "vocab_size": 1e400}
    )
    model(
        "odd_names", {"": np.ones(3, np.float32), "\x1b[31m": np.ones((2, 2), np.float32), "a" * 5000: np.ones(1, "f4")}
    )
    model("nothing", {})
    whole = (root / "base" / "model.safetensors").read_bytes()
    for name, data in (
        ("cut.safetensors", whole[:-7]), ("short.safetensors", whole[:5]), ("none.bin", b""), ("text.bin", b"hi\n" * 9),
        ("header.safetensors", struct.pack("<Q", 1 << 60) + whole[8:]), ("noise.bin", random.Random(0).randbytes(4096)),
        ("pickle.pt", b"\x80\x04cos\nsystem\n\x8c\x02idR."), ("zip.pt", b"PK\x03\x04" + bytes(60)),
        ("gguf", b"GGUF" + bytes(60)),
        ("recipe.yml", b"merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}]\n"),
        ("deep.yml", b"[" * 3000), ("alias.yml", b"a: &a [*a, *a]\n"),
        ("scan.json", b'{"w": {"basic_stats": {"mean": NaN}}}'),
    ):  # fmt: skip
        (root / name).write_bytes(data)
    (root / "loop").mkdir()
    (root / "loop" / "model.safetensors").symlink_to("model.safetensors")
    (root / "missing_shard").mkdir()
    (root / "missing_shard" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    (root / "bare").mkdir()
    make_folders_of_trainers(root)
    make_ggufs(root)
    return [*(str(path) for path in sorted(root.iterdir())), str(root), "", "x" * 5000, "no/such", "org/name", "hf://",
            "http://127.0.0.1:9/x", "a b", "-", "~", str(root / "base" / "model.safetensors")]  # fmt: skip


def make_folders_of_trainers(root: Path) -> None:
    """Checkpoints of torch.distributed, tensor-parallel files, files of ranks and DeepSpeed's; whole and broken."""
    import torch
    import torch.distributed.checkpoint as dcp

    held = {name: torch.from_numpy(array) for name, array in weights(9).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process saves is what is wanted
        for name in ("dcp", "dcp_cut", "dcp_alone"):
            dcp.save({"model": held, "step": 3}, checkpoint_id=root / name)
    (root / "dcp_cut" / "__0_0.distcp").write_bytes((root / "dcp" / "__0_0.distcp").read_bytes()[:-900])
    (root / "dcp_alone" / ".metadata").unlink()
    files = {"parallel": "consolidated.{:02}.pth", "ranks": "model_rank_{}.pt", "megatron": "mp_rank_{:02}.pt"}
    for name, file in files.items():
        (root / name).mkdir()
        for rank in range(2):
            torch.save({n: t.chunk(2)[rank].clone() for n, t in held.items()}, root / name / file.format(rank))
    (root / "zero2" / "global_step3").mkdir(parents=True)
    torch.save({"module": held, "ds_version": "0.16"}, root / "zero2" / "global_step3" / "mp_rank_00_model_states.pt")


def make_ggufs(root: Path) -> None:
    """Models of GGUF, whole and broken: small ones of the tests."""
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "checkpoint"))
    import gguf_mutants

    files = gguf_mutants.seeds(("llama", "mixtral", "gpt-oss", "falcon", "t5"))
    for file in files:
        (root / f"{file.name}.gguf").write_bytes(file.content)
    for number, (_, content) in enumerate(gguf_mutants.mutants(files, 40, 0)):
        (root / f"broken {number}.gguf").write_bytes(content)


def make_outputs(root: Path) -> list[str]:
    """Places that take files, and places that do not."""
    (root / "file").write_text("mine")
    (root / "taken").mkdir()
    (root / "taken" / "summary.json").write_text("mine")
    (root / "taken" / "model.safetensors").write_text("mine")
    new = [str(root / "new" / str(n)) for n in range(3)]
    files = [str(root / f"out.{ending}") for ending in ("json", "csv", "parquet", "txt")]
    bad = ["", "/proc/x", "/dev/full", "/dev/null", "x" * 300, str(root / ("y" * 300)), str(root / "file" / "below")]
    return [*new, *files, str(root / "file"), str(root / "taken"), *bad]


_NUMBERS = "0 1 2 -1 3 1e308 nan inf -inf 0.5 1e-320 99999999999999999999 x 1MB 1GB"
_WORDS = (
    "all basic_stats spectral quantization tail sparsity auto cpu cuda:0 json csv quiet human linear ties slerp exp"
    " equal metagpt global layer threads * *.weight weight=0.5 density=2 t=[0,1] float32 bfloat16 lm_head* [ union-rows"
)
WHOLE = {"base", "tuned", "other", "half", "nan", "huge", "llama.gguf", "all types.gguf"}
NUMBERS, WORDS = _NUMBERS.split(), _WORDS.split()

SANE = (
    "info M", "info M --tree", "scan M", "scan M --output O", "scan M --methods all --health", "compare M M",
    "compare M M --methods all --output O", "delta --base M --models M --outdir O", "delta --base M --models M M",
    "structure M --base M", "structure M --deep", "structure --models-dir M --output-dir O", "embeddings M --out O",
    "merge --base M --models M M --output O", "merge --base M --models M --method ties --output O", "verify O",
    "merge --models M M --method linear --output O", "merge --base M --models M M --dry-run", "estimate M --job scan",
)  # fmt: skip


class Fuzzer:
    """Makes command lines."""

    def __init__(self, seed: int, inputs: list[str], outputs: list[str]) -> None:
        self.random = random.Random(seed)
        self.inputs, self.outputs = inputs, outputs
        names = [name for name in program.COMMANDS if name not in SKIPPED]
        with click.Context(program.cli) as context:
            self.commands = {name: program.cli.get_command(context, name) for name in names}

    def line(self) -> list[str]:
        """A command with what may follow it; mostly one that could run, and an option or two."""
        pick = self.random
        if pick.random() < 0.6:
            words = [self.filled(word) for word in pick.choice(SANE).split()]
            command = self.commands[words[0]]
            assert command is not None
            options = [option for option in command.params if isinstance(option, click.Option)]
            for option in pick.sample(options, pick.choice([0, 1, 1, 2])):
                words += [pick.choice(option.opts), *([] if option.is_flag else [self.value(option)])]
            return words
        name = pick.choice(list(self.commands))
        command = self.commands[name]
        assert command is not None
        words = [name]
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                if pick.random() < 0.9:
                    words += [self.reference() for _ in range(pick.choice([1, 1, 1, 2]) if parameter.nargs != 2 else 2)]
                continue
            assert isinstance(parameter, click.Option)
            if pick.random() > (0.6 if parameter.name in {"base", "models", "output", "outdir"} else 0.12):
                continue
            words.append(pick.choice(parameter.opts))
            if not parameter.is_flag:
                words += [self.value(parameter) for _ in range(pick.choice([1, 1, 2]) if parameter.multiple else 1)]
        return words if pick.random() < 0.97 else pick.sample(words, len(words))

    def filled(self, word: str) -> str:
        """A word of SANE: M stands for a model, O for an output."""
        if word == "O":
            return self.random.choice(self.outputs[:3] if self.random.random() < 0.6 else self.outputs)
        return self.reference() if word == "M" else word

    def reference(self) -> str:
        """A model that is whole, half of the time."""
        whole = [path for path in self.inputs if path.rpartition("/")[2] in WHOLE]
        return self.random.choice(whole if self.random.random() < 0.6 else self.inputs)

    def value(self, option: click.Option) -> str:
        """One that may fit the option."""
        name = option.name or ""
        if isinstance(option.type, click.Choice) and self.random.random() < 0.8:
            return str(self.random.choice(list(option.type.choices)))
        if any(word in name for word in ("out", "dir", "plots", "write")) and self.random.random() < 0.9:
            return self.random.choice(self.outputs)
        if any(word in name for word in ("base", "model", "from", "delta", "moved")) and self.random.random() < 0.9:
            return self.reference()
        return self.random.choice(NUMBERS if self.random.random() < 0.5 else WORDS)


def run(words: list[str]) -> tuple[int, str, str]:
    """(exit code, stderr, the traceback where there is one)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            return program._run(words), err.getvalue(), ""  # noqa: SLF001 - what the program does but for its exit
        except BaseException:
            return 1, err.getvalue(), traceback.format_exc()


def main() -> int:
    """Run and count; 1 where a run raised."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corpus", nargs="*", default=[], metavar="FOLDER")
    options = parser.parse_args()
    counts: collections.Counter[tuple[str, int]] = collections.Counter()
    faults: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "in").mkdir()
        (root / "out").mkdir()
        inputs = make_inputs(root / "in") + [str(p) for c in options.corpus for p in Path(c).rglob("*") if p.is_file()]
        outputs = make_outputs(root / "out")
        os.chdir(root)
        fuzzer = Fuzzer(options.seed, inputs, outputs)
        for _ in range(options.runs):
            words = fuzzer.line()
            code, err, trace = run(words)
            counts[words[0] if words[0] in program.COMMANDS else "(none)", code] += 1
            lines = [line for line in err.splitlines() if line.startswith("error: ")]
            if code == 1 and words[0] == "structure" and not lines:  # of a folder of models each has a line
                lines = [line for line in err.splitlines() if line.startswith("failed: ")][:1]
            if trace:
                faults.setdefault(trace.strip().splitlines()[-1][:160], []).append(f"{words}\n{trace}")
            elif code not in CODES or len(lines) != (code not in {0, 141}):
                faults.setdefault(f"exit {code} with {len(lines)} lines of error", []).append(f"{words}\n{err[-2000:]}")
            for path in (
                root / "out" / "new",
                root / "tv_stats",
                root / "baselines_analysis",
                root / "embedding_analysis",
            ):
                shutil.rmtree(path, ignore_errors=True)
    for (name, code), count in sorted(counts.items()):
        print(f"{name:<12}exit {code:<4}{count}")
    for what, cases in faults.items():
        print(f"\n{len(cases)} x {what}\n{cases[0]}")
    print(f"{options.runs} runs, {sum(map(len, faults.values()))} faults of {len(faults)} kinds")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
