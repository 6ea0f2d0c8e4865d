"""Where compiled code is kept, and how long: never in a folder that somebody else could have filled, nor when a source
of it has changed.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest

import netweight
from netweight.kernels.cpu import compiled as compiler


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)
    return tmp_path


def refusing_once(monkeypatch, refusals=1):
    """numba's cache as it is where no folder can be written: it says so when a loop is decorated."""
    real, calls = compiler._LoopCache, []

    def cache(function):
        calls.append(function)
        if len(calls) <= refusals:
            raise RuntimeError("cannot cache function 'f': no locator available for file 'x.py'")
        return real(function)

    monkeypatch.setattr(compiler, "_LoopCache", cache)
    return calls


def plain(a):
    return a + 1


def test_an_unwritable_cache_falls_back_to_a_private_folder(temporary, monkeypatch):
    calls = refusing_once(monkeypatch)
    loop = compiler.compiled(plain)
    assert loop(41) == 42
    assert len(calls) == 2
    folder = Path(numba.config.CACHE_DIR)
    assert folder.parent == temporary
    assert any(folder.rglob("*.nbi"))
    if hasattr(os, "getuid"):
        assert folder.name == f"netweight-numba-{os.getuid()}"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_refusal_that_remains_is_raised(temporary, monkeypatch):
    refusing_once(monkeypatch, refusals=2)
    with pytest.raises(RuntimeError, match="no locator available"):
        compiler.compiled(plain)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX owners and modes")
@pytest.mark.parametrize("trap", ["writable by others", "a link", "somebody else's"])
def test_a_folder_laid_out_by_somebody_else_is_not_used(temporary, monkeypatch, trap):
    expected = temporary / f"netweight-numba-{os.getuid()}"
    if trap == "a link":
        (temporary / "theirs").mkdir()
        expected.symlink_to(temporary / "theirs")
    else:
        expected.mkdir()
        expected.chmod(0o777 if trap == "writable by others" else 0o700)
    if trap == "somebody else's":
        other = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: other)
        expected.rename(temporary / f"netweight-numba-{other}")
    calls = refusing_once(monkeypatch)
    compiler.compiled(plain)
    folder = Path(numba.config.CACHE_DIR)
    assert len(calls) == 2
    assert folder.parent == temporary
    assert folder.name.startswith("netweight-numba-")
    assert folder not in {expected, temporary / "theirs"}
    assert folder.name != f"netweight-numba-{os.getuid()}"


def test_options_of_the_compiler(temporary, monkeypatch):
    """Threads run while a loop runs; NaN keeps its meaning unless a loop is only ever given finite values."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(temporary))
    real, calls = numba.njit, []
    monkeypatch.setattr(numba, "njit", lambda **options: calls.append(options) or real(**options))
    loops = [make(plain) for make in (compiler.compiled, compiler.compiled_for_finite, compiler.compiled_exactly)]
    assert all(Path(loop.stats.cache_path).is_relative_to(temporary) for loop in loops)
    assert all(c["nogil"] for c in calls)
    assert not calls[0]["fastmath"] & {"nnan", "ninf", "fast", "afn", "arcp"}
    assert calls[1]["fastmath"] >= {"nnan", "ninf"}
    assert calls[2]["fastmath"] == set()


# ---- a copy of the package, in processes of its own

WIDENED = """
import json
import numpy as np
from netweight.kernels.cpu.cluster_loops import widen_bfloat16

out = np.zeros(2, np.float32)
widen_bfloat16(np.array([0x3F80, 0xC000], np.uint16), np.float32(1), out)
stats = widen_bfloat16.stats
print(json.dumps([out.tolist(), sum(stats.cache_hits.values()), sum(stats.cache_misses.values()), stats.cache_path]))
"""
LOADED, COMPILED = (1, 0), (0, 1)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "site" / "netweight"
    shutil.copytree(Path(netweight.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(package, **environment):
    known = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    return subprocess.Popen(
        [sys.executable, "-c", WIDENED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**known, "PYTHONPATH": str(package.parent), **environment},
    )  # fmt: skip


def finish(process):
    """(widened values, (loads, compilations), folder)."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    values, hits, misses, folder = json.loads(out)
    return values, (hits, misses), Path(folder)


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("given", [False, True], ids=["in the package", "NUMBA_CACHE_DIR"])
def test_code_is_kept_until_a_source_of_it_changes(package, tmp_path, given):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "given")} if given else {}
    for expected in (COMPILED, LOADED):
        values, counts, folder = finish(start(package, **environment))
        assert (values, counts) == ([1.0, -2.0], expected)
        assert folder.is_relative_to(tmp_path / "given" if given else package / "kernels/cpu/__pycache__")
    inlined = package / "kernels" / "cpu" / "elements.py"
    edit(inlined, "return np.uint32(np.uint32(pattern)", "return -np.uint32(np.uint32(pattern)")
    for expected in (COMPILED, LOADED):
        assert finish(start(package, **environment)) == ([-1.0, 2.0], expected, folder)
    # a constant of a seam; what a loop holds of it is not asked
    edit(package / "kernels" / "pairs.py", "SIGNIFICANT, SMALLEST = 0.01,", "SIGNIFICANT, SMALLEST = 0.02,")
    kept = set(folder.glob("cluster_loops.widen_bfloat16-*"))
    for expected in (COMPILED, LOADED):
        assert finish(start(package, **environment)) == ([-1.0, 2.0], expected, folder)
    now = set(folder.glob("cluster_loops.widen_bfloat16-*"))
    assert len(now) == len(kept) == 2, "what was compiled from other sources is removed"
    assert not now & kept


def test_processes_that_compile_at_once(package):
    first, second = start(package), start(package)
    assert finish(first)[0] == finish(second)[0] == [1.0, -2.0]
    assert finish(start(package))[:2] == ([1.0, -2.0], LOADED)


@pytest.mark.skipif(sys.platform == "win32", reason="folders of POSIX")
def test_a_package_and_a_home_that_cannot_be_written(package, tmp_path):
    """Files where folders should be stop even root."""
    (package / "kernels" / "cpu" / "__pycache__").touch()
    (tmp_path / "home").touch()
    (tmp_path / "tmp").mkdir()
    environment = {
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path / "tmp"),
        "XDG_CACHE_HOME": str(tmp_path / "home"),
    }
    for expected in (COMPILED, LOADED):
        values, counts, folder = finish(start(package, **environment))
        assert (values, counts) == ([1.0, -2.0], expected)
        assert folder.parent == tmp_path / "tmp" / f"netweight-numba-{os.getuid()}"
