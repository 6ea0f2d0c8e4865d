"""The examples at the end of each command's help; a test parses every one of them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["EXAMPLES"]

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "netweight": (
        "netweight info gpt2",
        "netweight delta --base BASE --models TUNED1 TUNED2 -o results",
        "netweight help merge",
    ),
    "info": (
        "netweight info ./model --tree",
        "netweight info Qwen/Qwen3-0.6B --json",
        "netweight info model.gguf --report model.html",
    ),
    "structure": (
        "netweight structure ./pruned --base ./base",
        "netweight structure --models-dir ./models --base ./base -o results",
    ),
    "scan": (
        "netweight scan ./model",
        "netweight scan ./model --methods spectral,tail -o scan.parquet",
        "netweight scan ./model --health --include '*mlp*' --report scan.html",
    ),
    "compare": (
        "netweight compare ./base ./tuned",
        "netweight compare ./base ./tuned --methods spectral -o changes.csv",
        "netweight compare --to ./original ./q4.gguf ./q8.gguf",
    ),
    "plan": (
        "netweight plan ./model --size 4.5bpw -o types.txt",
        "netweight plan ./model --size 8GB --imatrix imatrix.gguf --plot sizes.png",
        "netweight plan ./model --size 5bpw --format compressed-tensors -o recipe.yaml",
    ),
    "lineage": (
        "netweight lineage ./models --report tree.html",
        "netweight lineage index ./models org/base -o ./index",
        "netweight lineage ./unknown --index ./index",
        "netweight lineage --confirm ./base ./suspect",
    ),
    "embeddings": (
        "netweight embeddings ./model -o clusters",
        "netweight embeddings ./model --nearest king queen",
    ),
    "delta": (
        "netweight delta --base ./base --models ./math ./code -o results",
        "netweight delta --base ./base --models ./math --dry-run",
        "netweight delta --base ./base --models ./math -o results --resume",
    ),
    "report": (
        "netweight report scan.parquet -o scan.html",
        "netweight report results merged -o page.html",
    ),
    "merge": (
        "netweight merge recipe.yml merged",
        "netweight merge recipe.yml --check",
        "netweight merge --base ./base --models ./math ./code -o merged",
        "netweight merge --base B --models M1 M2 --method ties --weights 0.5,0.5 -o out",
    ),
    "convert": (
        "netweight convert model.gguf -o model",
        "netweight convert ./quantised --dtype bfloat16 -o dense",
    ),
    "extract-lora": (
        "netweight extract-lora --base ./base --model ./tuned --dry-run",
        "netweight extract-lora --base ./base --model ./tuned --rank 32 -o adapter",
    ),
    "verify": (
        "netweight verify merged",
        "netweight verify merged --moved ./math=/data/math",
    ),
    "devices": ("netweight devices", "netweight devices --json", "netweight devices --warm"),
    "download": (
        "netweight download Qwen/Qwen3-0.6B -o model",
        "netweight download gpt2 --include '*.json' -o gpt2",
    ),
    "estimate": (
        "netweight estimate ./model --methods spectral",
        "netweight estimate ./tuned --job delta --base ./base",
    ),
    "demo": ("netweight demo", "netweight demo ./somewhere"),
    "help": ("netweight help", "netweight help merge"),
}
"""{command: command lines}; a line that goes on ends with a backslash."""
