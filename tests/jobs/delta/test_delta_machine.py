"""The machine's troubles: full disks, places that cannot be written, no home, and what is compiled once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from task_vectors import PROGRAM, beside_progress, normal, save, strict_json, tree, tuned
from task_vectors import netweight as program

resource = pytest.importorskip("resource", reason="a full disk is played by a limit that only Unix has")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = {f"model.layers.0.mlp.experts.{i}.up_proj.weight": normal((30, 20), seed=i) for i in range(30)}
    save(folder / "base", base)
    save(folder / "tuned", tuned(base, 1))
    program("delta", "--base", folder / "base", "--models", folder / "tuned", "--outdir", folder / "whole")
    return folder


def delta(models, out, *more, **settings):
    return program(
        "delta", "--base", models / "base", "--models", models / "tuned", "--outdir", out, *more, **settings
    )  # fmt: skip


def limited(size):
    """No file may grow beyond `size` bytes: what a full disk does, but for the error's number."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("size", [50, 2000, 14_000, 20_000])
def test_a_full_disk(models, tmp_path, size):
    """It fills while the journal, the tables or a picture is written; the earlier results stay."""
    out = tmp_path / "out"
    assert delta(models, out, "--include", "*experts.1.*").returncode == 0
    before = tree(out)
    done = delta(models, out, "--format", "quiet", preexec_fn=limited(size))
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert os.strerror(errno.EFBIG) in done.stderr
    assert ("run again with --resume" in done.stderr) or ("free the disk" in done.stderr)
    assert tree(out) == before
    again = delta(models, out, "--resume", "--format", "quiet")
    assert (again.returncode, again.stdout) == (0, ""), again.stderr
    assert tree(out) == tree(models / "whole")


@pytest.mark.parametrize("place", ["/proc/netweight/out", "/sys/netweight", "a file", "below a file", "nul"])
def test_places_that_take_no_results(models, tmp_path, place):
    if place.startswith("/") and not Path(place[:5].rstrip("/")).is_dir():
        pytest.skip("this system has no such folder")
    (tmp_path / "file").write_text("mine")
    out = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "out", "nul": tmp_path / ("x" * 300)}
    done = delta(models, out.get(place, place))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert "choose another output folder" in done.stderr
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(models, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = delta(models, tmp_path / "locked" / "out")
    assert done.returncode == 2
    assert "choose another output folder" in done.stderr


def test_a_read_only_folder_is_found_before_any_data_is_read(models, tmp_path, monkeypatch):
    """As root there are no read-only folders: the system's answer is put in its place."""
    import netweight
    from netweight.checkpoint.tensors.stored import StoredTensor
    from netweight.errors import OutputError

    (tmp_path / "out").mkdir()
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: False if mode & os.W_OK else real(path, mode))
    monkeypatch.setattr(StoredTensor, "read_into", lambda *_: pytest.fail("tensor data was read"))
    with pytest.raises(OutputError, match="out: cannot take results: it is read-only; choose another output folder"):
        netweight.delta(models / "base", [models / "tuned"], tmp_path / "out")


@pytest.mark.parametrize("home", [None, "/nonexistent", "/dev/null"])
def test_no_home(models, tmp_path, home):
    environment = {"HOME": home, "XDG_CACHE_HOME": None, "MPLCONFIGDIR": None, "XDG_CONFIG_HOME": None}
    done = delta(models, tmp_path / "out", "--format", "quiet", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tree(tmp_path / "out") == tree(models / "whole")


def test_a_tiny_memory_is_refused_and_a_small_one_works(models, tmp_path):
    done = delta(models, tmp_path / "out", "--memory", "10MB")
    assert done.returncode == 2
    assert "--memory 9 MiB: this job needs at least" in done.stderr
    need = done.stderr.split("give --memory ")[1].strip()
    done = delta(models, tmp_path / "out", "--memory", need, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert strict_json(done.stdout)["models"]["tuned"]["n_params_considered"] == 30
    assert tree(tmp_path / "out") == tree(models / "whole")


COUNT = r"""
import json, sys
from netweight.cli.main import main
from netweight.kernels.cpu import prebuilt
prebuilt.folder = lambda: None
try:
    main(sys.argv[1:])
except SystemExit as left:
    assert left.code == 0
from netweight.kernels.cpu import difference_loops as loops
from netweight.kernels.cpu.compiled import Loop
found = {name: value for name, value in vars(loops).items() if isinstance(value, Loop)}
print(json.dumps({name: [len(loop.loaded), len(loop.made)] for name, loop in found.items()}))
"""


def test_compiled_once_on_a_machine(models, tmp_path):
    """The second run compiles nothing, and its code gives the very bits of the run that compiled it."""
    large = tmp_path / "large"
    base = {"a": normal(1_200_000), "c": normal((50, 50), "bfloat16")}
    save(large / "base", base)
    save(large / "tuned", tuned(base, 1))
    arguments = ["delta", "--base", large / "base", "--models", large / "tuned", "--format", "quiet", "--outdir"]
    counts = []
    for number in range(2):
        command = [sys.executable, "-c", COUNT, *arguments, tmp_path / f"out{number}"]
        done = subprocess.run(
            list(map(str, command)), check=True, capture_output=True, text=True, timeout=300,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
        )  # fmt: skip
        counts.append(strict_json(done.stdout))
    outer = {"add_block", "refine_block"}  # the other loops are parts of these; another process may compile one
    assert {name for name, held in counts[0].items() if sum(held)} == outer
    assert any(compiled for _, compiled in counts[0].values())
    assert counts[1] == {name: [int(name in outer), 0] for name in counts[0]}
    assert tree(tmp_path / "out0") == tree(tmp_path / "out1")


def test_a_run_of_the_installed_program(models, tmp_path):
    """`python -W error` all the way: no warning of any library reaches the user."""
    done = subprocess.run(
        [*PROGRAM, "delta", "--base", str(models / "base"), "--models", str(models / "tuned"), "--outdir", "out"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert beside_progress(done.stderr) == ""
    assert done.stdout.splitlines()[-1] == "written to out"
    assert np.isclose(float(done.stdout.split("tuned")[1].split()[0]), 0.134, rtol=0.1)
