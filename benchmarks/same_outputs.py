"""Whether two versions of the source write the same: every command run by both on the same models, all files compared.

    python benchmarks/same_outputs.py BEFORE/src AFTER/src [MODEL ...]

The models are those of `netweight demo`, made by AFTER, and every MODEL named besides: each is scanned, and compared
with itself and with the next. Both versions run in one folder of one name, so that paths in results are the same.
Times of day and netweight's version are left out of the comparison; everything else is compared byte by byte, of
Parquet files the table and its metadata. Leaves with 1 where anything differs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

MAIN = "from netweight.cli.main import main; main()"
TIME = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[+\d:.Z]*")
VERSION = re.compile(rb"(netweight[\w ._\"':]*?)\d+\.\d+\.\d+[\w.+]*")
BASE, TUNES = "demo/models/demo-base", [f"demo/models/demo-{name}" for name in ("math", "korean", "dpo")]

RECIPES = {
    "ties": "merge_method: ties\nbase_model: {base}\nmodels:\n"
    "  - model: {a}\n    parameters: {{weight: 0.6, density: 0.5}}\n"
    "  - model: {b}\n    parameters: {{weight: 0.4, density: 0.7}}\ndtype: bfloat16\n",
    "slerp": "merge_method: slerp\nbase_model: {a}\nmodels:\n  - model: {a}\n  - model: {b}\nparameters: {{t: 0.3}}\n"
    "dtype: float32\n",
    "slices": "merge_method: passthrough\nslices:\n  - sources: [{{model: {a}, layer_range: [0, 2]}}]\n"
    "  - sources: [{{model: {b}, layer_range: [1, 3]}}]\ndtype: bfloat16\n",
}


def run(source: Path, folder: Path, name: str, *words: str) -> None:
    """One command; what it prints, but for its progress, and how it ends, is a result too."""
    environment = {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *words], cwd=folder, env=environment, capture_output=True, check=False
    )
    (folder / "printed").mkdir(exist_ok=True)
    said = [line for line in done.stderr.splitlines(keepends=True) if line.startswith((b"error:", b"note:"))]
    said = [line for line in said if not line.startswith(b"note: compiling")]
    (folder / "printed" / f"{name}.txt").write_bytes(b"%d\n" % done.returncode + done.stdout + b"".join(said))


def run_all(source: Path, folder: Path, models: list[str]) -> None:
    """Every command whose results are compared."""
    run(source, folder, "info", "info", BASE, "--tree")
    run(source, folder, "delta", "delta", "--base", BASE, "--models", *TUNES, "--outdir", "delta")
    for form in ("json", "csv", "parquet"):
        run(source, folder, f"scan-{form}", "scan", BASE, "--methods", "all", "--health", "--output", f"scan.{form}")
        run(source, folder, f"compare-{form}", "compare", BASE, TUNES[0], "--methods", "all", "--output", f"c.{form}")
    run(source, folder, "plots", "scan", BASE, "--methods", "all", "--plots", "plots")
    run(
        source,
        folder,
        "structure",
        "structure",
        "--models-dir",
        "demo/pruned",
        "--base",
        BASE,
        "--output-dir",
        "structure",
    )
    run(source, folder, "deep", "structure", BASE, "--deep", "--format", "json")
    run(source, folder, "exp", "merge", "--base", BASE, "--models", *TUNES, "--mode", "exp", "--output", "exp")
    for name, text in RECIPES.items():
        (folder / f"{name}.yml").write_text(text.format(base=BASE, a=TUNES[0], b=TUNES[1]), encoding="utf-8")
        run(source, folder, name, "merge", f"{name}.yml", "--output", name)
    for name in ("exp", *RECIPES):
        run(source, folder, f"verify-{name}", "verify", name)
    for number, model in enumerate(models):
        other = models[(number + 1) % len(models)]
        for form in ("json", "parquet"):
            run(source, folder, f"{number}-{form}", "scan", model, "--methods", "all", "--output", f"{number}.{form}")
        run(source, folder, f"{number}-info", "info", model, "--format", "json")
        run(source, folder, f"{number}-structure", "structure", model, "--deep", "--format", "json")
        for second in (model, other):
            run(source, folder, f"{number}-{second == other}", "compare", model, second, "--format", "json")
            run(source, folder, f"{number}-{second == other}-delta", "delta", "--base", model, "--models", second,
                "--outdir", f"{number}-delta-{second == other}")  # fmt: skip


def content(path: Path) -> bytes:
    """What is compared of a file."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return plain(
            repr(table.schema.metadata).encode() + repr(table.schema).encode() + repr(table.to_pylist()).encode()
        )
    data = path.read_bytes()
    return data if path.suffix in {".safetensors", ".png"} else plain(data)


def plain(data: bytes) -> bytes:
    """Without times of day and netweight's version."""
    return VERSION.sub(rb"\1VERSION", TIME.sub(b"TIME", data))


def digests(folder: Path) -> dict[str, str]:
    """{name below `folder`: digest} of every result."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.relative_to(folder).parts[0] != "demo"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(content(p)).hexdigest() for p in files}


def main(before: Path, after: Path, models: list[str]) -> int:
    """The number of results that differ, at most 1."""
    with tempfile.TemporaryDirectory() as scratch:
        made, folder = Path(scratch) / "made", Path(scratch) / "run"
        made.mkdir()
        run(after, made, "demo", "demo", "demo")
        found = []
        for source in (before, after):
            folder.mkdir()
            (folder / "demo").mkdir()
            for part in ("models", "pruned"):
                shutil.copytree(made / "demo" / part, folder / "demo" / part, copy_function=os.link)
            run_all(source, folder, models)
            found.append(digests(folder))
            folder.rename(Path(scratch) / f"done{len(found)}")
        first, second = found
        different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        for name in different:
            texts = [content(p) if (p := Path(scratch) / f"done{i}" / name).exists() else b"" for i in (1, 2)]
            lines = [text.decode("utf-8", "replace").splitlines() for text in texts]
            shown = next(((a, b) for a, b in zip(*lines, strict=False) if a != b), ("", ""))
            print(f"differs: {name}: {shown[0][:150]!r} | {shown[1][:150]!r}")
        print(f"{len(first)} results before, {len(second)} after, {len(different)} differ")
        return int(bool(different))


if __name__ == "__main__":
    sys.exit(
        main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), [str(Path(m).resolve()) for m in sys.argv[3:]])
    )
