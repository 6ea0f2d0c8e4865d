from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from netweight.cli.main import main


@pytest.fixture
def model(tmp_path: Path) -> Path:
    arrays = {f"model.layers.{i}.mlp.up_proj.weight": np.ones((6, 4), np.float32) for i in range(12)}
    arrays |= {"model.embed_tokens.weight": np.ones((1000, 4), np.float16), "model.norm.weight": np.ones(4, np.float32)}
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(arrays, folder / "model.safetensors", metadata={"by": "[red]x\x1b[0m"})
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma", "num_attention_heads": 2, "vocab_size": 999})
    )
    return folder


def run(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    with pytest.raises(SystemExit) as left:
        main(["info", *map(str, args)])
    shown = capsys.readouterr()
    assert (left.value.code, shown.err) == (0, "")
    return shown.out


def test_human(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    lines = [line.rstrip() for line in run(capsys, model).splitlines()]
    assert lines[0].startswith(str(model)[:40])
    text = "\n".join(lines)
    for line in (
        "format        safetensors",
        "family        gemma",
        "parameters    4.29 k (4,292) in 14 tensors",
        "bytes         9.17 kB",
        "dtypes        F16 87.3%, F32 12.7%",
        "layers        12",
        "heads         2",
        "hidden size   4",
        "intermediate  6",
        "vocabulary    999",
        "tied          the head (not stored) = model.embed_tokens.weight",
        "metadata      by=[red]x\\x1b[0m",
        "embedding        1      4.00 k  8.00 kB  93.2%",
        "note: config.json says vocab_size = 999, the rows of the embedding are 1000",
        "--tree shows the tensors, --format json everything",
    ):
        assert line in lines, (line, text)
    assert "\x1b" not in text
    assert max(len(line) for line in lines[1:]) <= 80


def test_tree(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    text = run(capsys, model, "--tree")
    assert "layers.0-11.mlp.up_proj.weight (12x)  [6, 4] F32" in text
    assert "embed_tokens.weight  [1000, 4] F16" in text
    shallow = run(capsys, model, "--depth", "1")
    assert "model  14 tensors, 4.29 k, 9.17 kB" in shallow
    assert "up_proj.weight" not in shallow


def test_json(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    found = json.loads(run(capsys, model, "--format", "json"))
    assert (found["parameters"], found["layers"], found["vocabulary"]) == (4292, 12, 999)
    assert found["metadata"] == {"by": "[red]x\x1b[0m"}
    assert "tree" not in found
    found = json.loads(run(capsys, model, "--format", "json", "--tree", "--count-tied-twice"))
    assert found["tree"]["parameters"] == 4292
    assert found["parameters"] == 8292


def test_quiet_and_the_old_names(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    assert run(capsys, model, "--format", "quiet") == ""
    assert run(capsys, "--model_path", model) == run(capsys, "--model", model) == run(capsys, model)


def test_hostile_names_stay_on_their_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = [
        "\x1b[2Jgone",
        "a\nb",
        "[bold]x[/bold]",
        "../../etc/passwd",
        "=cmd()",
        "y" * 5000,
        "\N{PILE OF POO}",
        ":smile:",
    ]
    save_file({name: np.ones(1, np.float32) for name in names}, tmp_path / "m.safetensors")
    text = run(capsys, tmp_path / "m.safetensors", "--tree")
    assert "\x1b" not in text
    for shown in ("\\x1b[2Jgone", "a\\nb", "[bold]x[/bold]", ":smile:"):
        assert shown in text
    assert len(text) < 6000


def test_a_wide_branch_is_cut(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_file({f"n{i}": np.ones(1, np.float32) for i in range(250)}, tmp_path / "m.safetensors")
    assert "and 50 more" in run(capsys, tmp_path / "m.safetensors", "--tree")


@pytest.mark.parametrize(("name", "start"), [("nothing", "error: "), ("model.txt", "error: ")])
def test_errors(tmp_path: Path, name: str, start: str) -> None:
    (tmp_path / "model.txt").write_text("not a model")
    command = [sys.executable, "-m", "netweight.cli.main", "info", str(tmp_path / name)]
    command[1:3] = ["-c", "from netweight.cli.main import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(start)
    assert done.stderr.count("\n") == 1
