"""Runs of the program as forks of a process that has loaded the libraries: each is a process of its own, with its
arguments, folder, environment, streams and exit, but begins where a fresh one is after a second.

What a fresh interpreter does (imports, what the environment says to libraries, signals, limits) is tested with fresh
ones; so is everything on systems without fork.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SERVER = r"""
import gc, json, os, socket, sys, warnings
from contextlib import suppress
from importlib import import_module

# What the program itself loads sooner or later, but huggingface_hub, which reads the environment while it is loaded.
for name in ("click", "ml_dtypes", "numba", "pandas", "PIL.ImageDraw", "PIL.ImageFont", "pyarrow.parquet",
             "pydantic", "rich.table", "threadpoolctl", "xxhash", "yaml"):
    with suppress(ImportError):
        import_module(name)
import_module("numba.core.registry").cpu_target.target_context.refresh()
gc.freeze()
here = socket.socket(fileno=int(sys.argv[1]))
while True:
    asked, streams, _, _ = socket.recv_fds(here, 1 << 22, 3)
    if not asked:
        here.close()
        sys.exit()
    with warnings.catch_warnings(action="ignore"):  # Python 3.12 warns of forks beside threads; BLAS has such, asleep
        child = os.fork()
    if not child:
        break
    for stream in streams:
        os.close(stream)
    here.send(str(child).encode())
    here.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())

here.close()
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
asked = json.loads(asked)
os.chdir(asked["folder"])
os.environ.clear()
os.environ.update(asked["environment"])
sys.argv = ["-c", *asked["arguments"]]
exec(asked["code"], {"__name__": "__main__"})
"""
READ_WHILE_IT_RUNS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM", "HF_", "HUGGING", "NO_PROXY", "no_proxy")
"""Beginnings of variables that no library of the prepared process has read."""


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, "-W", "error", "-c", SERVER, str(theirs.fileno())]
    null = subprocess.DEVNULL
    process = subprocess.Popen(words, stdin=null, stdout=null, pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def can_run(environment: dict[str, str]) -> bool:
    """Whether a fork is what a fresh process would be in this environment."""
    differing = {k for k in {*environment, *os.environ} if environment.get(k) != os.environ.get(k)}
    return hasattr(os, "fork") and all(name.startswith(READ_WHILE_IT_RUNS) for name in differing)


def run(code: str, arguments, environment: dict[str, str], cwd=None, timeout: float = 300):
    """Run `python -W error -c CODE ARGUMENTS`; the completed process, its output as text."""
    asked = {"code": code, "arguments": arguments, "environment": environment, "folder": os.fspath(cwd or Path.cwd())}
    server = _server()
    with Path(os.devnull).open() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        streams = [stdin.fileno(), out.fileno(), err.fileno()]
        socket.send_fds(server, [json.dumps(asked).encode()], streams)
        child = int(server.recv(100))
        server.settimeout(timeout)
        try:
            code = int(server.recv(100))
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            server.settimeout(None)
            server.recv(100)
            raise subprocess.TimeoutExpired(arguments, timeout) from None
        finally:
            server.settimeout(None)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    return subprocess.CompletedProcess(arguments, code, *texts)
