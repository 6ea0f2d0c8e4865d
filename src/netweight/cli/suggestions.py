"""What an unknown option or command was meant to be: a slip of the hand, or a word of another tool."""

from __future__ import annotations

from collections.abc import Mapping

import click

from netweight.cli.lists import Aliased
from netweight.errors import nearest

__all__ = ["COMMAND_WORDS", "OPTION_WORDS", "hint_for_option"]

COMMAND_WORDS: Mapping[str, str] = {
    "analyse": "scan",
    "analyze": "scan",
    "stats": "scan",
    "inspect": "info",
    "show": "info",
    "ls": "info",
    "diff": "compare",
    "task-vectors": "delta",
    "average": "merge",
    "mergekit": "merge",
    "lora": "extract-lora",
    "dequantize": "convert",
    "export": "convert",
    "check": "verify",
    "fetch": "download",
    "pull": "download",
    "gpus": "devices",
    "cluster": "embeddings",
    "html": "report",
    "time": "estimate",
}
"""{a word of another tool: the command}."""

_OUTPUT = ("--output", "--outdir", "--output-dir", "--out")
OPTION_WORDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("cuda", "gpu", "gpus", "use-gpu", "use-cuda", "gpu-id"), ("--device cuda",)),
    **dict.fromkeys(("cpu", "no-gpu", "no-cuda", "cpu-only"), ("--device cpu",)),
    **dict.fromkeys(("mps", "metal"), ("--device mps",)),
    **dict.fromkeys(("all-gpus", "gpu-rich"), ("--multi-gpu",)),
    **dict.fromkeys(
        ("out", "output", "outdir", "output-dir", "out-dir", "output-file", "out-file", "outfile", "output-path"),
        _OUTPUT,
    ),
    **dict.fromkeys(("output-folder", "save", "save-to", "save-dir", "dest", "destination", "target", "-O"), _OUTPUT),
    **dict.fromkeys(
        ("threads", "jobs", "num-workers", "num-threads", "n-jobs", "cores", "nproc", "-j"), ("--workers",)
    ),
    **dict.fromkeys(("ram", "mem", "max-memory", "memory-limit", "max-ram"), ("--memory",)),
    **dict.fromkeys(("measures", "measure", "metrics", "metric"), ("--methods",)),
    **dict.fromkeys(("methods", "merge-method", "algorithm", "strategy"), ("--method", "--methods")),
    **dict.fromkeys(("filter", "only", "select", "pattern", "layers", "params"), ("--include",)),
    **dict.fromkeys(("ignore", "skip", "omit", "without"), ("--exclude",)),
    **dict.fromkeys(("force", "yes", "replace", "clobber", "-f", "-y"), ("--overwrite",)),
    **dict.fromkeys(("silent", "no-progress", "-s"), ("--quiet",)),
    **dict.fromkeys(("debug", "log-level", "loglevel"), ("--verbose",)),
    **dict.fromkeys(("html", "page"), ("--report",)),
    **dict.fromkeys(("plot", "figures", "images"), ("--plots",)),
    **dict.fromkeys(("dryrun", "simulate", "plan", "-n"), ("--dry-run",)),
    **dict.fromkeys(("continue", "restart"), ("--resume",)),
    **dict.fromkeys(("precision", "torch-dtype", "out-dtype"), ("--dtype",)),
    **dict.fromkeys(("top", "top-k", "topk", "top-n", "limit"), ("--top-issues", "--top-changes")),
    **dict.fromkeys(("base-model", "pretrained", "reference", "original"), ("--base", "--to")),
    **dict.fromkeys(("model", "finetuned", "fine-tuned", "tuned", "-m"), ("--models", "--model")),
    **dict.fromkeys(("shard-size", "max-file-size"), ("--max-shard-size",)),
    **dict.fromkeys(("ray", "distributed"), ("--executor ray",)),
    **dict.fromkeys(("ratio", "ratios", "coefficients", "scales"), ("--weights",)),
    **dict.fromkeys(("branch", "commit", "tag"), ("--revision",)),
    "csv": ("--format csv", "--output"),
}
"""{an option of another tool, without dashes before it: what may be meant; the first that the command has counts}."""


def hint_for_option(name: str, command: click.Command) -> str:
    """` (did you mean '--x'?)` for an option that the command has not, or nothing."""
    options = sorted((p for p in command.params if isinstance(p, click.Option)), key=lambda p: p.hidden)
    names = [name for p in options for name in (*p.opts, *p.secondary_opts)]
    names += [alias for p in options if isinstance(p, Aliased) for alias in p.aliases]
    further: Mapping[str, str] = getattr(command, "hints", dict)()
    plain = name if len(name) == 2 else name.lstrip("-").casefold().replace("_", "-")
    listed = {name for p in options if not p.hidden for name in p.opts}
    meant = [m for m in OPTION_WORDS.get(plain, ()) if m.split()[0] in listed]
    if meant and name not in further:
        return f" (did you mean '{meant[0]}'?)"
    near = nearest(name, [n for n in (*names, *further) if n.startswith("--")]) if name.startswith("--") else None
    return "" if near is None else f" (did you mean '{further.get(near, near)}'?)"
