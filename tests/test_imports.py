"""What `import netweight` offers, and what it and `netweight info` load."""

from __future__ import annotations

import subprocess
import sys

import pytest
from safetensors.numpy import save_file

import netweight

HEAVY = {"numba", "torch", "scipy", "matplotlib", "pyarrow", "ray", "pandas", "polars", "llvmlite"}
HEAVY |= {"huggingface_hub", "fsspec", "httpx", "httpx2"}  # what models far away alone need
HEAVY |= {"pydantic", "pydantic_core", "yaml", "xxhash"}  # what merges alone need
HEAVY |= {"sklearn", "joblib", "tokenizers"}  # what embeddings alone need
REPORT = "import sys; print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})), file=sys.stderr)"


def loaded(program, *args):
    """Top-level modules that a fresh interpreter has loaded after `program`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}\n{REPORT}", *map(str, args)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].split())


PROGRAM = "from netweight.cli.main import main\ntry:\n    main()\nexcept SystemExit as left:\n    assert not left.code"


def test_importing_loads_nothing_heavy():
    assert HEAVY.isdisjoint(loaded("import netweight"))


@pytest.mark.parametrize("module", ["main", "scan", "compare", "merge"])
def test_a_command_is_there_without_numpy(module):
    assert (HEAVY | {"numpy"}).isdisjoint(loaded(f"import netweight.cli.{module}"))


def test_the_package_runs_as_the_program_does():
    done = subprocess.run([sys.executable, "-m", "netweight", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"netweight {netweight.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "netweight", "inof"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no command 'inof' (did you mean 'info'?)" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        *(
            [name, "--help"]
            for name in ("info", "scan", "delta", "compare", "merge", "verify", "devices", "download", "demo")
        ),
        ["embeddings", "--help"],
        ["estimate", "--help"],
        ["extract-lora", "--help"],
    ],
)
def test_help_loads_nothing_heavy(args):
    found = loaded(PROGRAM, *args)
    assert HEAVY.isdisjoint(found)
    assert "click" in found


@pytest.mark.parametrize("output", ["human", "json", "quiet"])
def test_info_loads_nothing_heavy(tmp_path, output):
    import numpy as np

    save_file({"model.layers.0.mlp.up_proj.weight": np.ones((3, 3), "f4")}, tmp_path / "model.safetensors")
    assert HEAVY.isdisjoint(loaded(PROGRAM, "info", tmp_path, "--format", output))


def test_delta_loads_no_torch_and_draws_without_matplotlib(tmp_path):
    import numpy as np

    save_file({"a": np.ones((3, 3), "f4")}, tmp_path / "model.safetensors")
    found = loaded(PROGRAM, "delta", "--base", tmp_path, "--models", tmp_path, "--outdir", tmp_path / "out")
    assert {"torch", "ray", "matplotlib"}.isdisjoint(found)
    assert {"pyarrow", "llvmlite", "PIL"} <= found
    assert (tmp_path / "out" / "pairwise_cosines.png").stat().st_size > 0


def test_a_second_run_loads_no_numba(tmp_path):
    """Its loops are called without it."""
    import numpy as np

    save_file({"a.weight": np.ones((30, 30), "f4")}, tmp_path / "model.safetensors")
    ask = "import sys; print('numba' in sys.modules, 'llvmlite' in sys.modules)"
    command = [
        sys.executable,
        "-c",
        f"{PROGRAM}\n{ask}",
        "scan",
        str(tmp_path),
        "--methods",
        "all",
        "--format",
        "quiet",
    ]
    for _ in range(2):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "False True\n"


def test_exported_names():
    assert netweight.__all__ == [
        "Checkpoint", "NetweightError", "Scope", "Skipped", "Tensor", "__version__", "compare", "confirm", "convert",
        "delta", "demo", "devices", "download", "embeddings", "estimate", "extract_lora", "find_most_changed_layers",
        "index_models", "info", "lineage", "merge", "nearest_tokens", "open", "plan", "report", "scan", "structure",
        "structure_many", "verify",
    ]  # fmt: skip
    assert dir(netweight) == sorted(netweight.__all__)
    for name in netweight.__all__:
        assert getattr(netweight, name) is not None
    for name in ("delta", "demo", "info", "open"):
        assert callable(getattr(netweight, name))
        assert getattr(netweight, name).__doc__


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'netweight' has no attribute 'merge_all'"):
        _ = netweight.merge_all
