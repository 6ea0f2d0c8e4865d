"""Machine code of loops on disk: written once by whoever compiled it, loaded by LLVM alone."""

from __future__ import annotations

import os
import platform
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import version
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import xxhash

from netweight.kernels.cpu import prebuilt

__all__ = [
    "Code",
    "can_keep",
    "can_load",
    "claim",
    "claimed",
    "find",
    "folders",
    "keep",
    "load",
    "release",
    "there",
    "wait_for",
]

_SUFFIX, _CLAIM = ".loop", ".claim"
_PATIENCE = 60.0  # seconds; the largest loop takes some 5


@dataclass(frozen=True)
class Code:
    """Machine code: an object file, the `symbol` of the loop in it, the symbols that it `needs`, and the numpy
    characters of the numbers that it returns, in order ("" for nothing).
    """

    symbol: str
    returns: str
    needs: tuple[str, ...]
    objects: bytes


def _digest() -> str:
    """Hexadecimal, of all that code depends on: sources, compilers, and the processor."""
    compilers = f"{llvm.llvm_version_info} {version('numba')} {version('llvmlite')}"
    machine = f"{llvm.get_process_triple()} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    return prebuilt.digest_of(f"{compilers} {machine}")


_DIGEST = _digest()  # now, not at the first call: what is imported is what was read


def find(name: str, kinds: Sequence[str]) -> Code | None:
    """The code of the loop `name` for these kinds of arguments, None where no folder has it whole."""
    for file in _places(name, kinds):
        try:
            data = file.read_bytes()
        except OSError:
            continue
        digest, _, rest = data.partition(b"\n")
        if digest == xxhash.xxh3_128_hexdigest(rest).encode():
            symbol, returns, needs, objects = rest.split(b"\n", 3)
            code = Code(symbol.decode(), returns.decode(), tuple(needs.decode().split()), objects)
            return code if can_load(code) else None
    return None


def keep(name: str, kinds: Sequence[str], code: Code) -> None:
    """Write code into the first folder that takes it, and remove there what other sources of the loop have left.
    Where no folder does, the next process compiles again.
    """
    rest = f"{code.symbol}\n{code.returns}\n{' '.join(code.needs)}\n".encode() + code.objects
    data = xxhash.xxh3_128_hexdigest(rest).encode() + b"\n" + rest
    file = _file_name(name, kinds)
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, made = tempfile.mkstemp(prefix=f".{name}-", dir=folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(made).replace(folder / file)
        except OSError:
            continue
        for old in folder.glob(f"{name}-*{_SUFFIX}"):
            if f"-{_DIGEST}-" not in old.name:
                with suppress(OSError):  # another process uses it, or has removed it
                    old.unlink()
        return


def there(name: str, kinds: Sequence[str]) -> bool:
    """Whether some folder has code of a loop for these kinds."""
    return any(file.exists() for file in _places(name, kinds))


def _places(name: str, kinds: Sequence[str]) -> Iterator[Path]:
    """Where its code may lie: what this machine has compiled, then what came with the package."""
    for folder in folders():
        yield folder / _file_name(name, kinds)
    if (carried := prebuilt.folder()) is not None:
        yield carried[0] / _file_name(name, kinds, carried[1])


def claim(name: str, kinds: Sequence[str]) -> bool:
    """Say that this process compiles a loop; False where another one does. True too where no folder can be written."""
    for folder in folders():
        file = folder / (_file_name(name, kinds) + _CLAIM)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if _is_old(file):
                file.unlink(missing_ok=True)
            with file.open("x", encoding="utf-8") as stream:
                stream.write(f"{platform.node()}\n{os.getpid()}")
        except FileExistsError:
            if file.exists():  # else a folder's name is a file's
                return False
        except OSError:
            continue
        else:
            return True
    return True


def claimed(name: str, kinds: Sequence[str]) -> bool:
    """Whether some process compiles a loop."""
    files = [folder / (_file_name(name, kinds) + _CLAIM) for folder in folders()]
    return any(file.exists() and not _is_old(file) for file in files)


def release(name: str, kinds: Sequence[str]) -> None:
    """Take back what `claim` has said."""
    for folder in folders():
        with suppress(OSError):
            (folder / (_file_name(name, kinds) + _CLAIM)).unlink()


def wait_for(name: str, kinds: Sequence[str]) -> None:
    """Return once a loop has code, or no process compiles it any more."""
    while not there(name, kinds) and claimed(name, kinds):
        time.sleep(0.02)


def _is_old(claim: Path) -> bool:
    """Whether the process that said it has ended without a word, as one that was killed does."""
    try:
        host, _, process = claim.read_text(encoding="utf-8").partition("\n")
        if os.name == "posix" and host == platform.node() and process.isdigit():
            os.kill(int(process), 0)
        return time.time() - claim.stat().st_mtime > _PATIENCE
    except ProcessLookupError:
        return True
    except OSError:  # it is gone by now, or is somebody else's
        return False


def _file_name(name: str, kinds: Sequence[str], digest: str = _DIGEST) -> str:
    return f"{name}-{digest}-{'_'.join(kinds)}{_SUFFIX}".replace("?", "bool")


@cache
def folders() -> tuple[Path, ...]:
    """Where code may lie: the folder that NUMBA_CACHE_DIR names alone; else the package's own and the user's cache; and
    where neither can be written, a private one under the temporary folder.
    """
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return (Path(given),)
    usual = tuple(_usual())
    return usual if any(map(_takes_files, usual)) else (*usual, _private_folder())


def can_keep() -> bool:
    """Whether some folder takes code."""
    return any(map(_takes_files, folders()))


def _takes_files(folder: Path) -> bool:
    """Whether files can be made in a folder, or in one that can be made under this name."""
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _usual() -> Iterator[Path]:
    package = Path(__file__).parent
    if package.is_dir():  # not inside an archive
        yield package / "__pycache__"
    with suppress(RuntimeError):  # nobody's home
        home = Path.home()
        if sys.platform == "win32":
            yield Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "netweight" / "loops"
        elif sys.platform == "darwin":
            yield home / "Library/Caches/netweight/loops"
        else:
            yield Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "netweight" / "loops"


def _private_folder() -> Path:
    """A folder of this user's own under the temporary folder; never one that somebody else could have filled."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"netweight-loops-{owner}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        mine = not hasattr(os, "getuid") or (
            state.st_uid == owner and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        )
        if mine and stat.S_ISDIR(state.st_mode):
            return folder
    return Path(tempfile.mkdtemp(prefix="netweight-loops-"))


@cache
def _engine() -> Any:
    """LLVM's loader of objects, for the machine as it is."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    _add_runtime()
    machine = llvm.Target.from_default_triple().create_target_machine(codemodel="jitdefault", jit=True)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _add_runtime() -> None:
    """Tell LLVM of the functions by which numba's loops take memory. They are in a library of numba's package, which
    is loaded by its path: the package itself takes longer to import than most commands take to run.
    """
    package = find_spec("numba")
    if package is None or package.origin is None:
        return
    for suffix in EXTENSION_SUFFIXES:
        file = Path(package.origin).parent / "core" / "runtime" / f"_nrt_python{suffix}"
        spec = spec_from_file_location("numba.core.runtime._nrt_python", file) if file.is_file() else None
        if spec is not None and spec.loader is not None:
            runtime = module_from_spec(spec)
            spec.loader.exec_module(runtime)
            for name, address in runtime.c_helpers.items():
                llvm.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)
            return


def can_load(code: Code) -> bool:
    """Whether all that the code needs is there; LLVM ends the process where something is not."""
    _engine()
    return all(llvm.address_of_symbol(name) is not None for name in code.needs)


def load(code: Code) -> int:
    """The address of the code in memory; it must be one that `can_load`."""
    engine = _engine()
    engine.add_object_file(llvm.ObjectFileRef.from_data(code.objects))
    engine.finalize_object()
    return int(engine.get_function_address(code.symbol))
