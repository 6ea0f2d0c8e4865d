"""Where compiled code is kept: never in a folder that somebody else could have filled."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import numba
import pytest

from netweight.kernels.cpu import compiled as place


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)
    return tmp_path


def refusing_once(monkeypatch, refusals=1):
    """numba.njit as it is where no cache folder can be written: it says so when it decorates."""
    real, calls = numba.njit, []
    real(plain)(1)  # numba loads the rest of itself, which is decorated with numba.njit, when it first compiles

    def njit(**options):
        decorate = real(**options)

        def decorator(function):
            calls.append(options)
            if len(calls) <= refusals:
                raise RuntimeError("cannot cache function 'f': no locator available for file 'x.py'")
            return decorate(function)

        return decorator

    monkeypatch.setattr(numba, "njit", njit)
    return calls


def plain(a):
    return a + 1


def test_an_unwritable_cache_falls_back_to_a_private_folder(temporary, monkeypatch):
    calls = refusing_once(monkeypatch)
    found = place.compiled(plain)
    assert found(41) == 42
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
        place.compiled(plain)


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
    place.compiled(plain)
    folder = Path(numba.config.CACHE_DIR)
    assert len(calls) == 2
    assert folder.parent == temporary
    assert folder.name.startswith("netweight-numba-")
    assert folder not in {expected, temporary / "theirs"}
    assert folder.name != f"netweight-numba-{os.getuid()}"


def test_options_of_the_compiler(monkeypatch):
    """Threads run while a loop runs; NaN keeps its meaning unless a loop is only ever given finite values."""
    calls = refusing_once(monkeypatch, refusals=0)
    place.compiled(plain)
    place.compiled_for_finite(plain)
    assert all(c["nogil"] and c["cache"] for c in calls)
    assert not calls[0]["fastmath"] & {"nnan", "ninf", "fast", "afn", "arcp"}
    assert calls[1]["fastmath"] >= {"nnan", "ninf"}
