"""`download` against a hub on loopback: the right files or one line, whatever the network does."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from task_vectors import netweight as program

import netweight
from netweight.errors import (
    FormatError,
    ModelNotFoundError,
    OptionError,
    OutputError,
    ReadError,
    UnsafeFileError,
)
from netweight.jobs.download.job import RECORD, plan_download

RNG = random.Random(7)
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
MEGABYTE = 1 << 20


def index(shards=tuple(SHARDS)):
    return json.dumps({"metadata": {}, "weight_map": {f"t{i}": s for i, s in enumerate(shards)}}).encode()


SMALL = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": RNG.randbytes(300_000),
    "tokenizer.json": b"{}" * 50_000,
    "tokenizer.model": RNG.randbytes(5000),
    "chat_template.jinja": b"{{ x }}",
    "README.md": b"# a card\n",
    "pytorch_model.bin": RNG.randbytes(1000),
    "modeling.py": b"raise SystemExit",
    "onnx/model.onnx": b"onnx",
    "original/params.json": b"{}",
    ".gitattributes": b"*",
}
USUAL = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "README.md"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("netweight.source.retry._FIRST_WAIT", 0.01)


class Notes:
    """Progress that remembers."""

    def __init__(self):
        self.notes, self.finished, self.came, self.waiting, self.stopped = [], [], {}, [], False

    def start(self, files):
        self.waiting = list(files)
        self.came = {f.name: f.done for f in files}

    def advance(self, name, nbytes):
        self.came[name] += nbytes

    def finish(self, name):
        self.finished.append(name)

    def note(self, text):
        self.notes.append(text)

    def stop(self):
        self.stopped = True


def found(folder):
    """What stands in a folder, without netweight's own lists."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".netweight")
    }


def left_beside(folder):
    return [p.name for p in folder.parent.iterdir() if "netweight" in p.name]


def start(hub, tmp_path, *args, **settings):
    env = {**os.environ, **hub.environment(tmp_path), "NO_COLOR": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", "from netweight.cli.main import main; main()", "download", *map(str, args)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


def run(hub, tmp_path, *args, **settings):
    done = program("download", *args, env=hub.environment(tmp_path), **settings)
    return done.returncode, done.stdout, done.stderr


def test_the_usual_choice(hub, tmp_path):
    commit = hub.publish("org/name", SMALL)
    shown = Notes()
    got = netweight.download("hf://org/name", tmp_path / "a" / "b", progress=shown)
    assert found(tmp_path / "a" / "b") == {name: SMALL[name] for name in USUAL}
    assert (got.id, got.revision, got.commit, got.fetched) == ("org/name", "main", commit, got.bytes)
    assert got.notes == ("folders left aside: 'onnx', 'original'; --include takes files of them",)
    assert set(shown.finished) == USUAL
    assert shown.came == {name: len(SMALL[name]) for name in USUAL}
    assert shown.stopped
    assert left_beside(tmp_path / "a" / "b") == []
    record = json.loads((tmp_path / "a" / "b" / RECORD).read_bytes())
    assert (record["id"], record["commit"], record["endpoint"]) == ("org/name", commit, hub.url)
    assert set(record["files"]) == USUAL
    assert not any(commit not in r.path for r in hub.requests if "/resolve/" in r.path)


def test_a_repeated_run_fetches_nothing(hub, tmp_path):
    hub.publish("org/name", {**dict.fromkeys(SHARDS, b"abc"), "model.safetensors.index.json": index()})
    netweight.download("org/name", tmp_path / "out")
    before = {p.name: p.stat().st_ino for p in (tmp_path / "out").iterdir()}
    hub.clear()
    again = netweight.download("org/name", tmp_path / "out")
    assert again.fetched == 0
    assert [r.path for r in hub.requests] == ["/api/models/org/name/revision/main"]
    assert before == {p.name: p.stat().st_ino for p in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / SHARDS[1]).write_bytes(b"abd")
    assert [f.name for f in netweight.download("org/name", tmp_path / "out").files if f.fetched] == [SHARDS[1]]
    assert (tmp_path / "out" / SHARDS[1]).read_bytes() == b"abc"


def stopped_after_the_weights(hub, out):
    """A run that has model.safetensors, verified, and then cannot have the tokenizer: the staged file."""
    hub.publish("org/name", SMALL)
    hub.fault("*/tokenizer.json", status=404, times=None)
    with pytest.raises(ReadError, match=r"is listed, but .* does not have it"):
        netweight.download("org/name", out, include=["model.safetensors", "tokenizer.json"], workers=1)
    hub.clear()
    staged = out.parent / f".{out.name}.netweight-run" / "stage" / "model.safetensors"
    if not staged.exists() or b":verified:model.safetensors" not in (staged.parents[1] / "journal.jsonl").read_bytes():
        pytest.fail("the weights were not verified before the fault")
    return staged


@pytest.mark.parametrize("change", ["other bytes", "shorter", "gone", "a link"])
def test_a_verified_file_that_changed_is_not_trusted(hub, tmp_path, monkeypatch, change):
    monkeypatch.setattr("netweight.jobs.download.fetch.PIECE", 50_000)  # so that the weights are not the last
    hub.publish("org/name", SMALL)
    staged = stopped_after_the_weights(hub, tmp_path / "out")
    before = staged.stat()
    if change == "other bytes":
        staged.write_bytes(bytes(before.st_size))
        os.utime(staged, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))
    elif change == "shorter":
        os.truncate(staged, before.st_size - 1)
        os.utime(staged, ns=(before.st_mtime_ns, before.st_mtime_ns))
    elif change == "gone":
        staged.unlink()
    else:
        other = tmp_path / "elsewhere"
        other.write_bytes(bytes(before.st_size))
        os.utime(other, ns=(before.st_mtime_ns, before.st_mtime_ns))
        staged.unlink()
        staged.symlink_to(other)
    netweight.download("org/name", tmp_path / "out", include=["model.safetensors", "tokenizer.json"], workers=1)
    assert found(tmp_path / "out") == {name: SMALL[name] for name in ("model.safetensors", "tokenizer.json")}
    assert not (tmp_path / "out" / "model.safetensors").is_symlink()
    assert left_beside(tmp_path / "out") == []


def test_a_verified_file_that_did_not_change_is_not_fetched_again(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("netweight.jobs.download.fetch.PIECE", 50_000)
    stopped_after_the_weights(hub, tmp_path / "out")
    netweight.download("org/name", tmp_path / "out", include=["model.safetensors", "tokenizer.json"], workers=1)
    assert hub.count("*/model.safetensors") == 0
    assert found(tmp_path / "out")["model.safetensors"] == SMALL["model.safetensors"]


@pytest.mark.parametrize("time", ["of the record", "later"])
def test_a_file_in_place_that_changed_is_not_trusted(hub, tmp_path, time):
    """Its time or its size tell it; then its bytes are looked at."""
    hub.publish("org/name", SMALL)
    netweight.download("org/name", tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    before = path.stat()
    path.write_bytes(bytes(before.st_size + (time == "of the record")))
    at = before.st_mtime_ns + (time == "later")
    os.utime(path, ns=(at, at))
    again = netweight.download("org/name", tmp_path / "out")
    assert {f.name for f in again.files if f.fetched} == {"model.safetensors"}
    assert found(tmp_path / "out") == {name: SMALL[name] for name in USUAL}
    os.utime(path, ns=(at + 5, at + 5))  # the time alone: the bytes are right
    assert netweight.download("org/name", tmp_path / "out").fetched == 0


def test_modules_of_sentence_transformers(hub, tmp_path):
    modules = {
        "modules.json": b"[]", "1_Pooling/config.json": b"{}", "1_Pooling/code.py": b"code",
        "2_Dense/config.json": b"{}", "2_Dense/model.safetensors": b"w", "2_Dense/pytorch_model.bin": b"w",
        "3_Dense/pytorch_model.bin": b"w", "3_Dense/other.bin": b"w",
    }  # fmt: skip
    hub.publish("org/name", {**SMALL, **modules})
    got = netweight.download("org/name", tmp_path / "a")
    taken = set(modules) - {"1_Pooling/code.py", "2_Dense/pytorch_model.bin", "3_Dense/other.bin"}
    assert set(found(tmp_path / "a")) == USUAL | taken
    assert got.notes == ("folders left aside: 'onnx', 'original'; --include takes files of them",)
    del modules["modules.json"]
    hub.publish("org/other", {**SMALL, **modules})
    got = netweight.download("org/other", tmp_path / "b")
    assert set(found(tmp_path / "b")) == USUAL
    assert "'1_Pooling', '2_Dense', '3_Dense'" in got.notes[0]


def test_include_and_exclude(hub, tmp_path):
    hub.publish("org/name", SMALL)
    netweight.download("org/name", tmp_path / "a", include=["*.py", "onnx/*"])
    assert set(found(tmp_path / "a")) == {"modeling.py", "onnx/model.onnx"}
    netweight.download("org/name", tmp_path / "a", include=["config*"])  # the same commit: what is there stays
    assert set(found(tmp_path / "a")) == {"modeling.py", "onnx/model.onnx", "config.json"}
    netweight.download("org/name", tmp_path / "b", exclude=["*.safetensors", "tok*"])
    assert set(found(tmp_path / "b")) == {"config.json", "chat_template.jinja", "README.md"}
    with pytest.raises(OptionError, match=r"^org/name@main: --include and --exclude leave none of its 11 files"):
        netweight.download("org/name", tmp_path / "c", include=["*.gguf"])


def test_weights_are_one_set(hub):
    def chosen(files):
        hub.publish("org/choice", files)
        return set(plan_download("org/choice").choice.weights)

    shards = dict.fromkeys(SHARDS, b"abc")
    indexed = {**shards, "model.safetensors.index.json": index()}
    torch = {"pytorch_model-00001-of-00001.bin": b"a", "training_args.bin": b"b"}
    assert chosen({**indexed, **torch, "consolidated.safetensors": b"c"}) == set(SHARDS)
    assert chosen({**shards, **torch}) == set(SHARDS)
    assert chosen(torch) == {"pytorch_model-00001-of-00001.bin"}
    assert chosen({"model.fp16.safetensors": b"a", "model.safetensors": b"b"}) == {"model.safetensors"}
    assert chosen({"sub/a.safetensors": b"a", "model.safetensors.index.json": index(["sub/a.safetensors"])}) == {
        "sub/a.safetensors"
    }
    assert chosen({"weights.npz": b"a", "adapters.npz": b"b"}) == {"weights.npz"}
    assert chosen({"model.npz": b"a", "config.json": b"{}"}) == {"model.npz"}
    with pytest.raises(FormatError, match=r"^org/choice@main: holds several models: 'a.pt', 'b.pt'; choose one with"):
        chosen({"a.pt": b"a", "b.pt": b"b"})
    with pytest.raises(ModelNotFoundError, match=r"no weights that are read \(.*\) at its top, but 'm.gguf'"):
        chosen({"m.gguf": b""})


@pytest.mark.parametrize(
    "files",
    [
        {**dict.fromkeys(SHARDS[:2], b"abc"), "model.safetensors.index.json": index()},
        {**dict.fromkeys(SHARDS[:2], b"abc")},
    ],
)
def test_a_missing_shard_ends_it_before_anything_is_fetched(hub, tmp_path, files):
    hub.publish("org/name", {**files, "config.json": b"{}"})
    with pytest.raises(FormatError, match=rf"1 of 3 shards .* are missing on the hub: '{SHARDS[2]}'; nothing was"):
        netweight.download("org/name", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert hub.count("*safetensors") == 0


@pytest.mark.parametrize("broken", [b"[]", b"{", b'{"weight_map": {"a": "../x.safetensors"}}'])
def test_a_broken_index(hub, tmp_path, broken):
    hub.publish("org/name", {**dict.fromkeys(SHARDS, b"abc"), "model.safetensors.index.json": broken})
    with pytest.raises(FormatError, match=r"^org/name/model.safetensors.index.json: ") as caught:
        netweight.download("org/name", tmp_path / "out")
    assert "netweight-" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a\\b.json", "a/../b.json", "a//b.json", "x\n.json", "C:x.json", ".netweight.json"]
)
def test_names_that_must_not_be_files(hub, tmp_path, name):
    hub.publish("org/name", {"model.safetensors": b"a", name: b"b"})
    with pytest.raises(UnsafeFileError, match=r"names a file .*, expected a plain path inside the model; nothing was"):
        netweight.download("org/name", tmp_path / "out", include=["*"])
    assert not (tmp_path / "out").exists()
    assert hub.count("*/resolve/*") == 0


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.json", "A.json"], r"holds 'A.json' and 'a.json', one file on some systems"),
        (["s/a.json", "S/b.json"], r"holds folders 's' and 'S', one on some systems"),
        (["A", "a/b"], r"'A' is a file and a folder"),
    ],
)
def test_names_that_clash(hub, tmp_path, names, told):
    hub.publish("org/name", {"model.safetensors": b"a", **dict.fromkeys(names, b"b")})
    with pytest.raises(UnsafeFileError, match=told):
        netweight.download("org/name", tmp_path / "out", include=["*"])
    netweight.download("org/name", tmp_path / "out", include=["*"], exclude=[names[0]])
    assert set(found(tmp_path / "out")) == {"model.safetensors", names[1]}


@pytest.mark.parametrize("workers", [1, 4])
def test_pieces_of_a_file_come_at_once(hub, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("netweight.jobs.download.fetch.PIECE", 70_000)
    hub.publish("org/name", SMALL)
    hub.fault("/cdn/*/model.safetensors", drop_after=10_000, times=3, skip=2)
    hub.fault("/cdn/*", drop_after=100, times=2)
    netweight.download("org/name", tmp_path / "out", workers=workers)
    assert found(tmp_path / "out")["model.safetensors"] == SMALL["model.safetensors"]
    assert hub.count("/cdn/*/model.safetensors") >= 5 + 3
    assert hub.sent("/cdn/*/model.safetensors") == 300_000  # nothing came twice


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_to_wait(hub, tmp_path, status):
    hub.publish("org/name", SMALL)
    hub.fault("/api/models/*", status=status, headers={"Retry-After": "1"})
    hub.fault("/cdn/*", status=status, headers={"Retry-After": "1"})
    began = time.monotonic()
    netweight.download("org/name", tmp_path / "out")
    assert time.monotonic() - began >= 2
    assert set(found(tmp_path / "out")) == USUAL


def test_a_server_that_never_recovers(hub, tmp_path):
    hub.publish("org/name", SMALL)
    hub.fault("/cdn/*/model.safetensors", status=503, times=None)
    with pytest.raises(ReadError, match=r"^org/name/model.safetensors: .*HTTP 503.*what is fetched is kept$"):
        netweight.download("org/name", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    hub.clear()
    netweight.download("org/name", tmp_path / "out")
    assert hub.count("*/tokenizer.json") == 0  # it was there, and verified
    assert set(found(tmp_path / "out")) == USUAL


def test_a_wait_that_is_too_long(hub, tmp_path):
    hub.publish("org/name", SMALL)
    hub.fault("/api/models/*", status=429, headers={"Retry-After": "86400"})
    with pytest.raises(ReadError, match=r"asks to wait 86400 s: try again then$"):
        netweight.download("org/name", tmp_path / "out")


def test_slow_answers(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.4)
    hub.publish("org/name", SMALL)
    hub.fault("/cdn/*", delay=1.0, times=2)
    hub.fault("*/config.json", delay=0.2)
    netweight.download("org/name", tmp_path / "out")
    assert set(found(tmp_path / "out")) == USUAL


@pytest.mark.parametrize("size", [0, 100, 299_999, 300_001])
def test_another_size_than_listed(hub, tmp_path, size):
    hub.publish("org/name", SMALL)
    hub.fault("/cdn/*/model.safetensors", body=bytes(size), times=None)
    with pytest.raises(ReadError, match=rf"^org/name/model.safetensors: .*({size} bytes, the hub lists 300000|416)"):
        netweight.download("org/name", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_digest(hub, tmp_path, name):
    hub.publish("org/name", SMALL)
    damaged = bytes([SMALL[name][0] ^ 1]) + SMALL[name][1:]
    hub.fault(f"*/{name}", body=damaged, times=None)
    with pytest.raises(ReadError, match=rf"^org/name/{name}: (sha256|git-sha1) is \w+, expected \w+, also when fetch"):
        netweight.download("org/name", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    hub.clear()
    hub.fault(f"/cdn/*/{name}" if "saf" in name else f"*/{name}", body=damaged)  # once: it is fetched again
    shown = Notes()
    netweight.download("org/name", tmp_path / "out", progress=shown)
    assert found(tmp_path / "out")[name] == SMALL[name]
    assert any(f"{name}: " in note and "it is fetched again" in note for note in shown.notes)
    assert shown.came[name] == len(SMALL[name])


def test_no_ranges(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("netweight.jobs.download.fetch.PIECE", 70_000)
    hub.publish("org/name", SMALL)
    hub.fault("/cdn/*/model.safetensors", no_range=True, drop_after=200_000, times=6)
    hub.fault("/cdn/*/model.safetensors", no_range=True, times=None)
    shown = Notes()
    netweight.download("org/name", tmp_path / "out", progress=shown)
    assert found(tmp_path / "out")["model.safetensors"] == SMALL["model.safetensors"]
    assert shown.came["model.safetensors"] == 300_000


def test_a_new_commit_in_between_does_not_mix(hub, tmp_path):
    first = hub.publish("org/name", SMALL)
    other = {**SMALL, "config.json": b'{"other": 1}', "model.safetensors": b"other" * 1000}

    def publish(request):
        if "/resolve/" in request.path:
            hub.before = None
            hub.publish("org/name", other)

    hub.before = publish
    assert netweight.download("org/name", tmp_path / "out").commit == first
    assert found(tmp_path / "out") == {name: SMALL[name] for name in USUAL}
    hub.clear()
    again = netweight.download("org/name", tmp_path / "out")
    assert again.commit != first
    assert found(tmp_path / "out") == {name: other[name] for name in USUAL}
    assert {f.name for f in again.files if f.fetched} == {"config.json", "model.safetensors"}
    assert netweight.download("org/name@" + first, tmp_path / "old").commit == first


def test_a_hub_without_digests(hub, tmp_path, monkeypatch):
    """Then sizes are checked, and what is there at the same commit is taken for right."""
    from huggingface_hub import HfApi

    original = HfApi.model_info

    def bare(self, *args, **settings):
        info = original(self, *args, **settings)
        for sibling in info.siblings:
            sibling.lfs = sibling.blob_id = None
        return info

    monkeypatch.setattr(HfApi, "model_info", bare)
    hub.publish("org/name", SMALL)
    got = netweight.download("org/name", tmp_path / "out")
    assert {f.algorithm for f in got.files} == {""}
    assert netweight.download("org/name", tmp_path / "out").fetched == 0
    other = {**SMALL, "config.json": SMALL["config.json"].replace(b"llama", b"gemma")}
    hub.publish("org/name", other)
    netweight.download("org/name", tmp_path / "out")
    assert found(tmp_path / "out") == {name: other[name] for name in USUAL}


def test_a_file_of_another_commit(hub, tmp_path):
    hub.publish("org/name", SMALL)

    def move(request):  # a broken mirror: an old address leads to new files
        if "/resolve/" in request.path:
            hub.before = None
            commits = hub.repo("org/name").commits
            commits[next(iter(commits))] = {**next(iter(commits.values()))}
            hub.repo("org/name").refs[request.path.split("/")[4]] = hub.publish("org/name", {**SMALL, "x.txt": b""})

    hub.before = move
    with pytest.raises(ReadError, match=r"the answer is of commit \w{40}, not of \w{40}; it changed, or a mirror is"):
        netweight.download("org/name", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_download_goes_on_with_another_commit(hub, tmp_path):
    hub.publish("org/name", SMALL)
    hub.fault("*/config.json", status=404, times=None)
    with pytest.raises(ReadError, match=r"is listed, but .* does not have it"):
        netweight.download("org/name", tmp_path / "out", workers=1)
    hub.clear()
    netweight.download("org/name", tmp_path / "out", exclude=["config.json", "*.model"])
    hub.publish("org/name", {**SMALL, "config.json": b"{}"})
    hub.clear()
    netweight.download("org/name", tmp_path / "out")
    assert hub.count("/cdn/*") == 1  # tokenizer.model
    assert found(tmp_path / "out")["config.json"] == b"{}"


def test_what_an_unfinished_run_has_fetched_stays_beside_a_whole_model(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("netweight.jobs.download.fetch.PIECE", 50_000)
    out, beside = tmp_path / "out", tmp_path / ".out.netweight-run"
    first = hub.publish("org/name", SMALL)
    netweight.download("org/name", out)
    newer = {**SMALL, "model.safetensors": RNG.randbytes(200_000), "tokenizer.json": b"[]" * 50_000}
    hub.publish("org/name", newer)
    hub.fault("*/tokenizer.json", status=404, times=None)
    with pytest.raises(ReadError, match=r"is listed, but .* does not have it"):
        netweight.download("org/name", out, workers=1)
    hub.clear()
    assert netweight.download(f"org/name@{first}", out).fetched == 0
    assert found(out) == {name: SMALL[name] for name in USUAL}
    assert (beside / "stage" / "model.safetensors").read_bytes() == newer["model.safetensors"]
    netweight.download("org/name", out)
    assert hub.count("*/model.safetensors") == 0
    assert found(out) == {name: newer[name] for name in USUAL}
    assert left_beside(out) == []


def test_what_a_run_that_was_killed_at_its_end_has_left_is_removed(hub, tmp_path):
    """It has put the model in place, and has the one before in its stage."""
    hub.publish("org/name", SMALL)
    out, beside = tmp_path / "out", tmp_path / ".out.netweight-run"
    netweight.download("org/name", out)
    (beside / "stage").mkdir(parents=True)
    for name in ("stage/model.safetensors", "journal.jsonl", "lock"):
        (beside / name).write_text("left")
    hub.clear()
    assert netweight.download("org/name", out).fetched == 0
    assert [r.path for r in hub.requests] == ["/api/models/org/name/revision/main"]
    assert left_beside(out) == []


@pytest.mark.parametrize(
    ("ref", "revision", "told"),
    [
        (
            "org/none",
            None,
            "org/none@main: there is no such model at http://.*, or it is private: check the id, or set",
        ),
        ("org/name", "none", "org/name@none: there is no such revision at http://.*; give a branch, a tag or a commit"),
        ("no such/id", None, "no such/id: is no model on the hub; expected an id such as org/name or org/name@rev"),
        ("org/name@", None, "org/name@: is no model on the hub"),
        ("../x", None, "../x: is no model on the hub"),
    ],
)
def test_what_is_not_there(hub, tmp_path, ref, revision, told):
    hub.publish("org/name", SMALL)
    with pytest.raises(ModelNotFoundError, match=f"^{told}"):
        netweight.download(ref, tmp_path / "out", revision=revision)
    assert not (tmp_path / "out").exists()


def test_private_and_gated(hub, tmp_path, monkeypatch):
    hub.publish("org/name", SMALL)
    hub.repo("org/name").token = "hf_right"
    with pytest.raises(ModelNotFoundError, match="or it is private: check the id, or set HF_TOKEN"):
        netweight.download("org/name", tmp_path / "out")
    hub.repo("org/name").gated = True
    with pytest.raises(ModelNotFoundError, match=r"is gated: ask for access at http://\S+/org/name, then log in"):
        netweight.download("org/name", tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelNotFoundError, match=r"is gated: .* wait until access is granted$"):
        netweight.download("org/name", tmp_path / "out")
    hub.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    netweight.download("org/name", tmp_path / "out")
    assert found(tmp_path / "out") == {name: SMALL[name] for name in USUAL}
    assert {r.authorized for r in hub.requests if r.path.startswith("/cdn/")} == {False}
    assert {r.authorized for r in hub.requests if not r.path.startswith("/cdn/")} == {True}


@pytest.mark.parametrize("status", [401, 403])
def test_refused_without_a_reason(hub, tmp_path, status):
    hub.publish("org/name", SMALL)
    hub.fault("/api/models/*", status=status)
    with pytest.raises(ModelNotFoundError, match=rf"refuses access \({status}\): check HF_TOKEN, or log in"):
        netweight.download("org/name", tmp_path / "out")


def test_two_revisions_and_no_folder(tmp_path):
    with pytest.raises(OptionError, match=r"^org/name@a: names the revision 'a', and --revision 'b'; give one of them"):
        netweight.download("org/name@a", tmp_path / "out", revision="b")
    with pytest.raises(OptionError, match=r"^--out: expected the folder"):
        netweight.download("org/name", "")
    with pytest.raises(OptionError, match=r"^--workers: expected 1 or more, got 0"):
        netweight.download("org/name", tmp_path, workers=0)


def test_an_endpoint_that_is_no_hub(hub, tmp_path):
    hub.publish("org/name", SMALL)
    hub.repos["org/name"].commits = {}
    hub.repos["org/name"].refs = {"main": "0"}
    hub.repos["org/name"].commits["0"] = {}
    with pytest.raises(ReadError, match="names no commit of it; check HF_ENDPOINT"):
        netweight.download("org/name", tmp_path / "out")


def test_a_file_of_others_beside_a_download_is_kept(hub, tmp_path):
    hub.publish("org/name", SMALL)
    netweight.download("org/name", tmp_path / "out")
    (tmp_path / "out" / "NOTICE").write_text("mine")
    hub.publish("org/name", SMALL | {"NOTICE": b"theirs"})
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(OutputError, match=r"out: holds 1 file that is not netweight's where results must go: NOTICE; "):
        netweight.download("org/name", tmp_path / "out")
    for more in ([], ["--dry-run"]):
        code, stdout, stderr = run(hub, tmp_path, "org/name", "--out", tmp_path / "out", *more)
        assert (code, stdout) == (2, "")
        assert "where results must go: NOTICE; choose another output folder, or move it away" in stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_folders_that_cannot_take_it(hub, tmp_path, monkeypatch):
    hub.publish("org/name", SMALL)
    hub.publish("org/other", SMALL)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="is not empty, and no download of netweight's made it; remove it, or choose"):
        netweight.download("org/name", tmp_path / "mine")
    netweight.download("org/other", tmp_path / "other")
    with pytest.raises(OutputError, match="holds the model org/other; choose another folder"):
        netweight.download("org/name", tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        netweight.download("org/name", tmp_path / "file")
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 1000)) and type("U", (), {"free": 1000})())
    with pytest.raises(OutputError, match=r"needs 405,\d\d\d bytes more, and 1,000 are free on its disk; make room"):
        netweight.download("org/name", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert found(tmp_path / "mine") == {"config.json": b"{}"}


@pytest.mark.skipif(sys.platform != "linux", reason="root writes everywhere but into /proc")
def test_a_read_only_place(hub, tmp_path):
    hub.publish("org/name", SMALL)
    (tmp_path / "closed").mkdir(mode=0o500)
    for place in ("/proc/model", *([tmp_path / "closed" / "out"] if os.geteuid() else ())):
        with pytest.raises(OutputError, match=r"cannot take results: .*; choose another output folder$"):
            netweight.download("org/name", place)


def test_the_local_cache_is_used(hub, tmp_path):
    from huggingface_hub import hf_hub_download

    commit = hub.publish("org/name", SMALL)
    cached = Path(hf_hub_download("org/name", "model.safetensors"))
    hf_hub_download("org/name", "tokenizer.model")
    Path(hf_hub_download("org/name", "tokenizer.json", revision=commit)).resolve().write_bytes(b"damaged")
    hub.clear()
    got = netweight.download("org/name", tmp_path / "out")
    assert cached.exists()
    assert hub.count("/cdn/*") == 0
    assert {f.name for f in got.files if not f.fetched} == {"model.safetensors", "tokenizer.model"}
    assert found(tmp_path / "out") == {name: SMALL[name] for name in USUAL}


def big_model(hub):
    files = {shard: RNG.randbytes(4 * MEGABYTE) for shard in SHARDS}
    files |= {"model.safetensors.index.json": index(), "config.json": b"{}", "empty.json": b""}
    hub.publish("org/big", files)
    return files


def test_interrupted_ten_times_ends_identical(hub, tmp_path):
    files = big_model(hub)
    out = tmp_path / "out"
    drops = hub.fault("/cdn/*", rate=8e6, drop_after=1_300_000, times=4)
    hub.fault("/cdn/*", rate=8e6, times=None)
    for number in range(1, 7):  # killed; meanwhile the server drops four connections
        process = start(hub, tmp_path, "org/big", "--out", out, "--workers", "2", "--format", "quiet")
        until = time.monotonic() + 300
        while (
            hub.sent("/cdn/*") < number * 1_700_000 + RNG.randrange(400_000)
            and process.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not out.exists()
    assert drops.times == 0
    code, stdout, stderr = run(hub, tmp_path, "org/big", "--out", out)
    assert (code, found(out)) == (0, files), stderr
    assert "6 files, 12.6 MB" in stdout
    assert left_beside(out) == []
    assert hub.sent("/cdn/*") < 2 * 12 * MEGABYTE  # a kill costs a megabyte a worker, not a file


def test_ctrl_c(hub, tmp_path):
    files = big_model(hub)
    hub.fault("/cdn/*", rate=2e6, times=2)
    process = start(hub, tmp_path, "org/big", "--out", tmp_path / "out", "--workers", "2")
    until = time.monotonic() + 300
    while hub.sent("/cdn/*") < MEGABYTE and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].endswith("was changed; run again to go on")
    assert "Traceback" not in stderr
    assert run(hub, tmp_path, "org/big", "--out", tmp_path / "out")[0] == 0
    assert found(tmp_path / "out") == files


def test_disk_full(hub, tmp_path):
    files = big_model(hub)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, MEGABYTE))

    code, _, stderr = run(hub, tmp_path, "org/big", "--out", tmp_path / "out", preexec_fn=limit)
    assert code == 1
    assert f"results could not be written: {os.strerror(errno.EFBIG)}" in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()
    assert run(hub, tmp_path, "org/big", "--out", tmp_path / "out")[0] == 0
    assert found(tmp_path / "out") == files


def test_two_runs_at_once(hub, tmp_path):
    files = big_model(hub)
    goes_on = threading.Event()
    hub.fault("/cdn/*", hold=goes_on, times=3)
    first = start(hub, tmp_path, "org/big", "--out", tmp_path / "out")
    try:
        until = time.monotonic() + 300
        while not hub.sent("/cdn/*"):
            assert first.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        code, _, stderr = run(hub, tmp_path, "org/big", "--out", tmp_path / "out")
    finally:
        goes_on.set()
    assert (code, stderr.count("\n")) == (1, 1)
    assert "is writing results there; wait for it to end" in stderr
    first.communicate(timeout=300)
    assert (first.returncode, found(tmp_path / "out")) == (0, files)


def test_the_command_line(hub, tmp_path):
    commit = hub.publish("org/name", SMALL, revision="v1")
    code, stdout, stderr = run(
        hub,
        tmp_path,
        "--model_id",
        "org/name",
        "--out_dir",
        tmp_path / "models",
        "--revision",
        "v1",
        "--format",
        "json",
    )
    assert code == 0, stderr
    assert json.loads(stdout)["commit"] == commit
    assert set(found(tmp_path / "models" / "org" / "name")) == USUAL
    assert "model.safetensors: 300 kB, verified" in stderr
    code, stdout, _ = run(
        hub, tmp_path, "org/name@v1", "--out", tmp_path / "b", "--dry-run", "--include", "*.py", "*.md"
    )
    assert stdout.splitlines()[0] == f"org/name at commit {commit}"
    assert stdout.splitlines()[-1].startswith("2 files, 25 B; nothing was fetched")
    assert not (tmp_path / "b").exists()
    assert run(hub, tmp_path, "--out", tmp_path / "b")[0] == 2


def test_offline_and_unreachable(hub, tmp_path):
    hub.publish("org/name", SMALL)
    env = {**os.environ, **hub.environment(tmp_path), "HF_HUB_OFFLINE": "1"}
    program = [sys.executable, "-c", "from netweight.cli.main import main; main()", "download", "org/name", "--out"]
    done = subprocess.run([*program, tmp_path / "out"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "HF_HUB_OFFLINE is set, and the hub must be asked; unset it" in done.stderr
    assert hub.requests == []


def test_a_hub_that_is_not_there(hub, tmp_path, monkeypatch):
    hub.publish("org/name", SMALL)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        ReadError, match=r"^org/name@main at http://127.0.0.1:9: the server cannot be reached .*6 times"
    ):
        netweight.download("org/name", tmp_path / "out")
