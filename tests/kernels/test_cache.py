"""Where compiled code is kept, and how long: never in a folder that somebody else could have filled, nor when a source
of it has changed; and that code from the disk is called right, without numba.
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

import ml_dtypes
import numba
import numpy as np
import pytest

import netweight
from netweight.kernels.cpu import compiled as loops
from netweight.kernels.cpu import object_files, prebuilt
from netweight.kernels.cpu.compiled import compiled, compiled_exactly, compiled_for_finite

NAME = "test_cache.plain"


def plain(a):
    return a + 1


def everything(a, b, flag, small, out):
    """Arrays of one and two dimensions, every kind of number, and a result of two."""
    for i in range(len(a)):
        out[i, 0] = a[i] + small
        out[i, 1] = b if flag else -b
    return out[0, 0] * b, len(a)


def taking_room(a):
    room = np.empty((2, 7), np.float32)
    room[:] = a[0]
    return room.sum()


def less(a, b):
    return a < b


@pytest.fixture
def given(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    usual = object_files.folders
    usual.cache_clear()
    yield tmp_path / "cache"
    usual.cache_clear()


@pytest.mark.parametrize("way", ["made", "loaded"])
def test_arguments_and_results(given, way) -> None:
    """As Python computes them: of code that was just compiled, and of the same code from the disk."""
    kinds = {
        everything: ((np.arange(3.0), 2, True, np.float32(0.5), np.zeros((3, 2))), (1.0, 3)),
        taking_room: ((np.array([0.5], np.float32),), 7.0),
        less: ((1, 2.5), True),
        plain: ((41,), 42),
    }
    for function, (arguments, wanted) in kinds.items():
        if way == "loaded":
            compiled(function)(*arguments)
        loop = compiled(function)
        found = loop(*arguments)
        assert found == wanted
        assert type(found) is type(wanted)
        assert (len(loop.made), len(loop.loaded)) == ((1, 0) if way == "made" else (0, 1))
        assert loop(*arguments) == wanted
    assert len(list(given.glob("*.loop"))) == len(kinds)


def test_layouts_of_arrays(given) -> None:
    """Parts of arrays, read-only ones and those of no elements, each with code of its own."""
    loop = compiled_exactly(everything)
    wide = np.arange(12.0).reshape(3, 4)
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    empty = np.zeros(0)
    apart = np.zeros(25, np.uint8)[1:].view(np.float64)  # not at a multiple of eight bytes
    apart[:] = [5, 6, 7]
    for a in (wide[:, 1], wide[0, :3], fixed, empty[::2], empty, apart):
        out = np.full((4, 3), 9.0)[:, :2][: max(len(a), 1)]
        loop(a, 1.0, False, np.float32(0), out)
        assert np.array_equal(out[: len(a), 0], a)
        assert (out[: len(a), 1] == -1).all()
    assert {kinds[0] for kinds in loop.made} == {"1dA", "1dC", "1dCr", "1dCu"}


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match="an argument of a loop is a list: expected an array or a number"):
        compiled(plain)([1])
    with pytest.raises(TypeError):
        compiled(plain)(np.ones(2, ml_dtypes.bfloat16))
    with pytest.raises(TypeError, match="elements of type >f4: expected this machine's byte order"):
        compiled(taking_room)(np.ones(2, ">f4" if sys.byteorder == "little" else "<f4"))
    with pytest.raises(OverflowError, match="expected an int64"):
        compiled(plain)(1 << 63)


def test_a_file_that_is_not_whole_is_made_again(given) -> None:
    compiled(plain)(1)
    (file,) = given.glob("*.loop")
    whole = file.read_bytes()
    for broken in (whole[:-9], b"", whole.replace(b"plain", b"plein")):
        file.write_bytes(broken)
        loop = compiled(plain)
        assert loop(1) == 2
        assert loop.made
        again = compiled(plain)  # of the file that was written anew, which is whole
        assert again(1) == 2
        assert (len(again.made), len(again.loaded)) == (0, 1)


def test_what_this_machine_lacks_is_not_loaded(given) -> None:
    """LLVM would end the process."""
    code = object_files.Code("x", "", ("memcpy", "no_such_function"), b"")
    assert not object_files.can_load(code)
    object_files.keep(NAME, ("int",), code)
    assert object_files.find(NAME, ("int",)) is None


def test_options_of_the_compiler(given, monkeypatch) -> None:
    """Threads run while a loop runs; NaN keeps its meaning unless a loop is only ever given finite values."""
    real, calls = numba.njit, []
    monkeypatch.setattr(numba, "njit", lambda **options: calls.append(options) or real(**options))
    for make in (compiled, compiled_for_finite, compiled_exactly):
        make(plain)(1)
        for file in given.glob("*.loop"):
            file.unlink()
    assert all(c["nogil"] for c in calls)
    assert not calls[0]["fastmath"] & {"nnan", "ninf", "fast", "afn", "arcp"}
    assert calls[1]["fastmath"] >= {"nnan", "ninf"}
    assert calls[2]["fastmath"] == set()


# ---- folders


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A temporary folder, where the package's and the user's own cannot be written."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(object_files, "__file__", str(tmp_path / "file" / "object_files.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    usual = object_files.folders
    usual.cache_clear()
    yield tmp_path / "tmp"
    usual.cache_clear()


def test_folders_that_cannot_be_written_leave_a_private_one(temporary) -> None:
    assert compiled(plain)(41) == 42
    folder = temporary / (f"netweight-loops-{os.getuid()}" if hasattr(os, "getuid") else "netweight-loops-0")
    assert list(folder.glob("*.loop"))
    if hasattr(os, "getuid"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again = compiled(plain)
    assert again(41) == 42
    assert again.loaded


def test_where_nothing_can_be_written_it_runs(temporary, monkeypatch) -> None:
    """Compiled anew by every process."""
    monkeypatch.setattr(object_files, "folders", lambda: (Path(os.devnull) / "x",))
    for _ in range(2):
        loop = compiled(plain)
        assert loop(1) == 2
        assert loop.made


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX owners and modes")
@pytest.mark.parametrize("trap", ["writable by others", "a link", "somebody else's"])
def test_a_folder_laid_out_by_somebody_else_is_not_used(temporary, monkeypatch, trap) -> None:
    expected = temporary / f"netweight-loops-{os.getuid()}"
    if trap == "a link":
        (temporary / "theirs").mkdir()
        expected.symlink_to(temporary / "theirs")
    else:
        expected.mkdir()
        expected.chmod(0o777 if trap == "writable by others" else 0o700)
    if trap == "somebody else's":
        other = os.getuid() + 1
        monkeypatch.setattr(os, "getuid", lambda: other)
        expected.rename(temporary / f"netweight-loops-{other}")
    folder = object_files._private_folder()
    assert folder.parent == temporary
    assert folder.name.startswith("netweight-loops-")
    assert folder not in {expected, temporary / "theirs", temporary / f"netweight-loops-{os.getuid()}"}


# ---- a copy of the package, in processes of its own

WIDENED = """
import json, sys
import numpy as np
from netweight.kernels.cpu.cluster_loops import widen_bfloat16
from netweight.kernels.cpu import compiled as loops
from netweight.kernels.cpu import object_files, prebuilt

out = np.zeros(2, np.float32)
widen_bfloat16(np.array([0x3F80, 0xC000], np.uint16), np.float32(1), out)
places = [*object_files.folders(), *(prebuilt.folder() or ())[:1]]
held = [str(f) for f in places if list(f.glob("cluster_loops.widen_bfloat16-*"))]
counts = len(widen_bfloat16.loaded), len(widen_bfloat16.made)
print(json.dumps([out.tolist(), counts, held[0], "numba" in sys.modules]))
"""
LOADED, COMPILED = (1, 0), (0, 1)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "site" / "netweight"
    shutil.copytree(Path(netweight.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__", "prebuilt"))
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
    values, counts, folder, numba_came = json.loads(out)
    assert numba_came == (counts == [0, 1])
    return values, tuple(counts), Path(folder)


def edit(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("given", [False, True], ids=["in the package", "NUMBA_CACHE_DIR"])
def test_code_is_kept_until_a_source_of_it_changes(package, tmp_path, given) -> None:
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
    assert len(now) == len(kept) == 1, "what was compiled from other sources is removed"
    assert not now & kept


def test_code_that_came_with_the_package(package, tmp_path) -> None:
    """Is called where none was compiled here; not where a source has changed, nor where nothing of it is known."""
    values, _, folder = finish(start(package))
    (made,) = folder.glob("cluster_loops.widen_bfloat16-*")
    carried = package / "kernels" / "cpu" / "prebuilt" / prebuilt.target()[1]
    carried.mkdir(parents=True)
    loop, _, kinds = made.name.split("-", 2)
    shutil.move(made, carried / f"{loop}-{prebuilt.digest_of(carried.name)}-{kinds}")
    empty = {"NUMBA_CACHE_DIR": str(tmp_path / "empty")}
    assert finish(start(package, **empty)) == (values, LOADED, carried)
    inlined = package / "kernels" / "cpu" / "elements.py"
    edit(inlined, "return np.uint32(np.uint32(pattern)", "return -np.uint32(np.uint32(pattern)")
    assert finish(start(package, **empty)) == ([-1.0, 2.0], COMPILED, tmp_path / "empty")


@pytest.mark.parametrize("lacks", ["a feature", "a known processor"])
def test_code_for_another_processor_is_not_called(monkeypatch, tmp_path, lacks) -> None:
    """It would end the process."""
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path)
    features = prebuilt.llvm.get_host_cpu_features()
    (tmp_path / prebuilt.target()[1]).mkdir()
    for function in (prebuilt.target, prebuilt.folder):
        function.cache_clear()
    assert prebuilt.folder() is not None
    if lacks == "a feature":
        features["fma"] = features["neon"] = False
        monkeypatch.setattr(prebuilt.llvm, "get_host_cpu_features", lambda: features)
    else:
        monkeypatch.setattr(prebuilt.llvm, "get_process_triple", lambda: "riscv64-unknown-linux-gnu")
    for function in (prebuilt.target, prebuilt.folder):
        function.cache_clear()
    try:
        assert prebuilt.folder() is None
    finally:
        for function in (prebuilt.target, prebuilt.folder):
            function.cache_clear()


def test_processes_that_compile_at_once(package) -> None:
    first, second = start(package), start(package)
    assert finish(first)[0] == finish(second)[0] == [1.0, -2.0]
    assert finish(start(package))[:2] == ([1.0, -2.0], LOADED)


@pytest.mark.skipif(sys.platform == "win32", reason="folders of POSIX")
def test_a_package_and_a_home_that_cannot_be_written(package, tmp_path) -> None:
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
        assert folder == tmp_path / "tmp" / f"netweight-loops-{os.getuid()}"


def test_every_loop_can_be_called_without_numba() -> None:
    """No module of loops imports it: only the compiler does."""
    code = (
        "import pkgutil, sys, importlib, netweight.kernels.cpu as cpu\n"
        "for m in pkgutil.iter_modules(cpu.__path__):\n"
        "    if m.name != 'compiler': importlib.import_module(f'netweight.kernels.cpu.{m.name}')\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"


AHEAD = """
import json, sys
from netweight.kernels.cpu import ahead, object_files, prebuilt
prebuilt.folder = lambda: None
notes = []
names = ["rounding.narrow_to_bfloat16", "merge_arithmetic.combine", "turned.turn"]
entries = [entry for name in names for entry in ahead.every() if entry[0] == name][:4]
counts = [ahead.compile_ahead(entries, notes.append) for _ in range(2)]
print(json.dumps([counts, notes, [object_files.there(*entry) for entry in entries], len(entries)]))
"""


def test_loops_are_compiled_ahead_by_several_processes(tmp_path) -> None:
    """Of modules that are imported one after another, in this process and in helpers; nothing is left behind."""
    done = subprocess.run(
        [sys.executable, "-c", AHEAD], capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    counts, notes, there, number = json.loads(done.stdout)
    assert counts == [number, 0]
    assert notes == [f"compiling once for this machine: {number} loops"]
    assert all(there)
    assert not list(tmp_path.glob("*.claim"))


def test_what_is_listed_is_there(given) -> None:
    """Every entry names a loop, and kinds of as many arguments as it takes."""
    from importlib import import_module
    from inspect import signature

    from netweight.kernels.cpu import ahead

    assert len(ahead.every()) > 60
    assert ahead.wanted("scan basic_stats", ["BF16", "I64"])
    for name, kinds in ahead.every():
        module, _, function = name.partition(".")
        loop = getattr(import_module(f"netweight.kernels.cpu.{module}"), function)
        assert isinstance(loop, loops.Loop)
        assert len(signature(loop.function).parameters) == len(kinds)


def test_a_claim_of_a_process_that_has_ended(given, monkeypatch) -> None:
    """Is taken over after a while; a fresh one is respected until the code is there."""
    assert object_files.claim(NAME, ("int",))
    assert not object_files.claim(NAME, ("int",))
    assert object_files.claimed(NAME, ("int",))
    (file,) = given.glob("*.claim")
    if os.name == "posix":
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        file.write_text(file.read_text().replace(str(os.getpid()), str(ended.pid)))
    else:
        os.utime(file, (1, 1))
    assert not object_files.claimed(NAME, ("int",))
    object_files.wait_for(NAME, ("int",))
    loop = compiled(plain)
    assert loop(1) == 2
    assert loop.made
    assert not list(given.glob("*.claim"))


@pytest.mark.parametrize("trouble", ["a package in the current folder", "no process can be started"])
def test_helpers_take_nothing_from_the_current_folder(tmp_path, trouble) -> None:
    """It may be a model's: what is in it is never executed. Without helpers the job compiles all."""
    (tmp_path / "here" / "netweight").mkdir(parents=True)
    for file in ("netweight/__init__.py", "numba.py", "json.py"):
        (tmp_path / "here" / file).write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    code = AHEAD.replace("notes = []", "sys.executable = '/no/such/program'; notes = []") if "no " in trouble else AHEAD
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=300,
        cwd=tmp_path / "here", env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    counts, _, there, number = json.loads(done.stdout)
    assert counts == [number, 0]
    assert all(there)
    assert not (tmp_path / "executed").exists()


def test_a_folder_that_takes_nothing_is_said(tmp_path) -> None:
    """Instead of compiling everything twice in every run."""
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", AHEAD], capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache")},
    )  # fmt: skip
    counts, notes, there, _ = json.loads(done.stdout)
    assert counts == [0, 0]
    assert not any(there)
    assert "takes no files, so that every run compiles its loops again" in notes[0]


def test_no_private_folder_is_made_where_another_one_serves(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    object_files.folders.cache_clear()
    try:
        assert len(object_files.folders()) == 2
        assert not list(tmp_path.iterdir())
    finally:
        object_files.folders.cache_clear()
