"""Reads the files that scanners of models test themselves with, and says what became of each.

    python benchmarks/corpora.py FOLDER ... [--list]

FOLDERs are checkouts of picklescan, fickling, modelscan, modelaudit, safetensors, or any others; nothing is fetched,
and one that is not there is skipped. Every file that is no text is opened, and its first elements are read, each in a
process of its own; every pickle is opened once more as a part of a torch file, beside a good tensor. A file is

    read      and names nothing outside the list of harmless names
    named     read, and what its pickle names outside the list is told (with `info --strict` an error)
    unsafe    refused: its pickle calls what only an attack calls, or a name leads out of the folder
    refused   in one line, for any other reason

The program leaves with 1 where one raised anything but an error of netweight's own, ran something, opened a file for
writing or reached the network (told by an audit hook), took more than 10 seconds, or more than 1 GB.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import pickletools
import resource
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1"}

import netweight
from netweight.errors import NetweightError, UnsafeFileError

SECONDS, BYTES = 10.0, 10**9
TEXT = frozenset(
    ["", ".py", ".pyi", ".md", ".mdx", ".rst", ".txt", ".json", ".yml", ".yaml", ".toml", ".cfg", ".ini", ".lock",
     ".rs", ".sh", ".svg", ".png", ".gif", ".jpg", ".ipynb", ".js", ".ts", ".html", ".css", ".csv", ".typed",
     ".template", ".j2", ".jinja", ".nix", ".example"]
)  # fmt: skip
RUNS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "pty.spawn",
    "ctypes.dlopen",
)
REACHES = (
    "socket.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "imaplib.",
    "webbrowser.",
    "pickle.find_class",
    "marshal.",
)
MADE_ITSELF = {"marshal.loads", "ctypes.dlopen"}  # what importing a module of the program does


def beside_a_tensor(pickle: bytes) -> bytes | None:
    """A torch file with a good tensor and, beside it in its dict, what `pickle` makes; None where that is no pickle."""
    stream = io.BytesIO(pickle)
    try:
        for _opcode, _, _ in pickletools.genops(stream):
            pass
    except Exception:
        return None
    body = pickle[2 : stream.tell() - 1] if pickle[:1] == b"\x80" else pickle[: stream.tell() - 1]

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    view = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    )
    view += b"K\x04tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x05}(" + text("w") + view + text("x") + body + b"u.")
        archive.writestr("archive/data/0", struct.pack("<4f", 1, 2, 3, 4))
    return made.getvalue()


def look(path: Path) -> dict[str, object]:
    """What became of one file, in this process."""
    events: list[str] = []

    def hear(event: str, given: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(given[1], str) and set(given[1]) & set("wax+")
        if (writes or event.startswith((*RUNS, *REACHES))) and event not in MADE_ITSELF:
            events.append(f"{event}{given!r}"[:200])

    sys.addaudithook(hear)
    try:
        with netweight.open(path) as opened:
            for name in list(opened)[:50]:
                tensor = opened[name]
                count = min(tensor.size, 1024) // 8 * 8
                tensor.read_into(0, memoryview(bytearray(count * tensor.dtype.bits // 8)))
            how, said = ("named", ", ".join(opened.outside)) if opened.outside else ("read", opened.format)
    except UnsafeFileError as problem:
        how, said = "unsafe", str(problem)
    except NetweightError as problem:
        how, said = "refused", str(problem)
    except BaseException:  # that is what is looked for
        how, said = "raised", traceback.format_exc()
    return {"how": how, "said": said, "events": events}


def in_a_process(path: Path) -> dict[str, object]:
    """`look` in a process of its own, with its seconds and bytes."""
    reading, writing = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if not child:
        os.close(reading)
        with os.fdopen(writing, "w") as answer:
            json.dump(look(path), answer)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    _, status, used = os.wait4(child, 0)
    found = json.loads(said) if said else {"how": "raised", "said": f"ended with status {status}", "events": []}
    unit = 1 if sys.platform == "darwin" else 1024
    return {**found, "seconds": time.monotonic() - begun, "bytes": used.ru_maxrss * unit}


def main() -> int:
    """Look at every file, and print what became of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="print every file, and what is said of it")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for folder in options.folders:
            if not folder.is_dir():
                print(f"{folder}: not there, skipped")
                continue
            wrong += survey(folder, Path(scratch), every=options.list)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"largest process {peak / (1e9 if sys.platform == 'darwin' else 1e6):.2f} GB; {wrong} files that went wrong")
    return bool(wrong)


def survey(folder: Path, scratch: Path, *, every: bool) -> int:
    """All files of one folder; returns how many went wrong."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    wrong = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts):
        if path.suffix.lower() in TEXT or not path.stat().st_size:
            continue
        looks = [("itself", path)]
        data = beside_a_tensor(path.read_bytes()) if path.stat().st_size < 1 << 24 else None
        if data:
            (scratch / "beside.pt").write_bytes(data)
            looks.append(("beside a tensor", scratch / "beside.pt"))
        for kind, file in looks:
            found = in_a_process(file)
            counts[kind, str(found["how"])] += 1
            bad = found["how"] == "raised" or found["events"] or found["seconds"] > SECONDS or found["bytes"] > BYTES
            wrong += bool(bad)
            if every or bad:
                what = f"{found['how']}, {found['seconds']:.1f} s, {found['bytes'] / 1e6:.0f} MB"
                print(f"{path.relative_to(folder)} {kind}: {what}: {found['said']} {found['events'] or ''}")
    for kind in ("itself", "beside a tensor"):
        shown = ", ".join(f"{counts[kind, how]} {how}" for how in ("read", "named", "unsafe", "refused", "raised"))
        print(f"{folder.name}: {sum(n for (k, _), n in counts.items() if k == kind)} files {kind}: {shown}")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
