"""kill -9 at every call that touches the file system: the target is the old results or the new ones, whole."""

import os
import subprocess
import sys

import pytest

# One process forks a child for each point of death: the audit hook sees every open, mkdir, link, rename and remove.
DRIVER = r"""
import os, signal, sys
from pathlib import Path
from netweight.output import exchange
from netweight.output.folder import ResultFolder

root, way = Path(sys.argv[1]), sys.argv[2]
if way == "two renames":
    exchange.swap = lambda first, second: False
import ctypes, shutil, encodings.ascii  # imports open files: not what is killed here

OLD = {"a/s": "old", "b/s": "old", "c": "old"}
NEW = {"a/s": "new", "d/s": "new", "c": "new"}
MINE = {"mine": "m", "b/mine": "m"}
WATCHED = ("open", "os.", "shutil.", "ctypes.dlsym")

def write(where, files):
    for name, text in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text(text)

def tree(where):
    return {p.relative_to(where).as_posix(): p.read_text() for p in where.rglob("*")
            if p.is_file() and p.name != ".netweight.json"}

def run(target, files, resume=False):
    with ResultFolder(target, [], "delta", resume=resume) as results:
        if not resume:
            results.journal_path.write_text("journal")
        write(results.stage, files)
        results.commit()

seen, point = set(), 0
while True:
    target = root / str(point) / "out"
    run(target, OLD)
    write(target, MINE)
    child = os.fork()
    if child == 0:
        count = 0
        def hook(event, arguments):
            global count
            if event.startswith(WATCHED):
                count += 1
                if count == point + 1:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        run(target, NEW)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0 and tree(target) == NEW | MINE
        break
    if way == "two renames" and not target.exists():
        seen.add("between")  # the next run, whatever becomes of it, first puts the old results back
    else:
        seen.add("new" if tree(target) == NEW | MINE else "old")
    try:
        with ResultFolder(target, [], "delta", resume=True):
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    state = tree(target)
    assert state in (OLD | MINE, NEW | MINE), (point, state)
    run(target, {"after": "x"}, resume=True)
    assert tree(target) == {"after": "x"} | MINE, (point, tree(target))
    assert os.listdir(root / str(point)) == ["out"], (point, os.listdir(root / str(point)))
    point += 1
print(point, *sorted(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("way", "states"), [("exchange", "new old"), ("two renames", "between new old")])
def test_killed_at_every_call(tmp_path, way, states):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER, str(tmp_path), way],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    points, seen = done.stdout.strip().split(" ", 1)
    assert int(points) > 60
    assert seen == states
