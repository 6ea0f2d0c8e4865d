"""Models named by hub ids and URLs: where they are found, which commit is read, what is said where there is none."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from hub_models import FIRST, SECOND, TOKENIZER, write_model
from safetensors.numpy import save, save_file
from task_vectors import netweight as program

import netweight
from netweight.checkpoint.open import open_checkpoint
from netweight.checkpoint.reference import HubReference, UrlReference, at_commit, parse_reference
from netweight.errors import FormatError, ModelNotFoundError, NetweightError, OptionError, OutputError, ReadError
from netweight.source import least_rate, retry


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.01)


def refused(ref, error: type[NetweightError], *said: str, **options) -> str:
    with pytest.raises(error) as caught:
        open_checkpoint(ref, **options)
    text = str(caught.value)
    assert all(part in text for part in said), text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", HubReference("org/name")),
        ("org/name@v1.0", HubReference("org/name", "v1.0")),
        ("org/name@refs/pr/3", HubReference("org/name", "refs/pr/3")),
        ("hf://org/name", HubReference("org/name")),
        ("hf://org/name@main", HubReference("org/name", "main")),
        ("hf://org/name@refs/pr/3/a/b.bin", HubReference("org/name", "refs/pr/3", "a/b.bin")),
        ("hf://org/na.me_2-x/sub/model.safetensors", HubReference("org/na.me_2-x", None, "sub/model.safetensors")),
        ("s3://bucket/model", UrlReference("s3://bucket/model")),
        ("simplecache::https://host/m.bin", UrlReference("simplecache::https://host/m.bin")),
        ("name", None),
        ("a/b/c", None),
        ("../name", None),
        ("./name", None),
        ("/org/name", None),
        ("org/name/", None),
        ("org/..", None),
        ("org/name@../x", None),
        ("org\\name", None),
        ("C:/name", None),
        ("org/na\nme", None),
        ("-org/name", None),
    ],
)
def test_what_a_name_means(name, expected) -> None:
    assert parse_reference(name) == expected


@pytest.mark.parametrize("name", ["hf://", "hf://name", "hf://org/name@", "hf://org/name/../x", "hf://a b/c"])
def test_broken_hub_urls(name) -> None:
    refused(name, ModelNotFoundError, f"{name}: not a reference to a hub; expected hf://org/name or")


def test_a_reference_at_a_commit() -> None:
    assert at_commit("org/name@main", "f" * 40) == "hf://org/name@" + "f" * 40
    assert at_commit("hf://org/name/sub", "0" * 40) == f"hf://org/name@{'0' * 40}/sub"
    assert at_commit("some/folder/of/mine", "0" * 40) is None


def test_the_same_model_by_every_name(hub, tmp_path) -> None:
    tensors = write_model(tmp_path / "model")
    commit = hub.publish("org/name", tmp_path / "model")
    hub.publish("org/name", tmp_path / "model", revision="v1")
    for ref in ("org/name", "org/name@main", "hf://org/name", "hf://org/name@main", f"org/name@{commit}"):
        with open_checkpoint(ref) as opened:
            assert (opened.ref, opened.revision, opened.location) == (ref, commit, None)
            assert {name: t.shape for name, t in opened.items()} == {n: a.shape for n, a in tensors.items()}
            assert opened.config["model_type"] == "llama"
            assert opened.notes == ()
    with open_checkpoint("org/name@v1") as opened:
        assert opened.revision != commit
        assert opened.files[0].path == f"hf://org/name@v1/{FIRST}"
    with open_checkpoint(f"hf://org/name/{SECOND}") as opened:
        assert [f.path for f in opened.files] == [f"hf://org/name/{SECOND}"]
        assert np.array_equal(
            opened["model.layers.3.mlp.up_proj.weight"].read(), tensors["model.layers.3.mlp.up_proj.weight"]
        )
    with open_checkpoint("hf://org/name/model.safetensors.index.json") as opened:
        assert len(opened) == len(tensors)


def test_a_model_in_a_folder_of_its_repository(hub, tmp_path) -> None:
    tensors = write_model(tmp_path / "model" / "deep" / "er")
    hub.publish("org/name", tmp_path / "model")
    refused("org/name", ModelNotFoundError, "hf://org/name: holds no model", "its folders: 'deep'")
    with open_checkpoint("hf://org/name/deep/er") as opened:
        assert list(opened) == sorted(opened, key=list(opened).index)
        assert set(opened) == set(tensors)
        assert opened.config is not None
    with open_checkpoint("hf://org/name/deep/er", download=True) as opened:
        assert opened.location.is_dir()
        assert set(opened) == set(tensors)
    refused("hf://org/name/other", ModelNotFoundError, "hf://org/name/other: holds no model")


def test_a_path_that_exists_wins(hub, tmp_path, monkeypatch) -> None:
    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    (tmp_path / "org" / "name").mkdir(parents=True)
    save_file({"local": np.ones(3, "f4")}, tmp_path / "org" / "name" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    with open_checkpoint("org/name") as opened:
        assert (list(opened), opened.revision, opened.location) == (["local"], None, Path("org/name"))
    assert hub.count() == 0
    with open_checkpoint("hf://org/name") as opened:
        assert "local" not in opened
    shutil.rmtree(tmp_path / "org" / "name")
    with open_checkpoint("org/name") as opened:  # its parent is there, it itself is not
        assert "local" not in opened


def test_the_cache_is_filled_with_what_makes_up_the_model(hub, tmp_path) -> None:
    tensors = write_model(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(bytes(1000))
    (tmp_path / "model" / "model.gguf").write_bytes(bytes(1000))
    commit = hub.publish("org/name", tmp_path / "model")
    with open_checkpoint("org/name", download=True) as opened:
        assert opened.revision == commit == opened.location.name
        assert all(np.array_equal(opened[name].read(), values) for name, values in tensors.items())
        opened.check_unchanged()
    assert sorted(p.name for p in opened.location.iterdir()) == [
        "config.json", FIRST, SECOND, "model.safetensors.index.json", "tokenizer.json"
    ]  # fmt: skip
    assert hub.sent("*/optimizer.pt") == hub.sent("*.bin") == 0
    hub.clear()
    for options in ({}, {"download": True}):
        with open_checkpoint("org/name", **options) as again:
            assert (again.revision, again.location) == (commit, opened.location)
    assert hub.count() == 0


def test_a_cache_that_has_a_part_is_completed(hub, tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants, hf_hub_download

    tensors = write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    hf_hub_download("org/name", "config.json")
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        text = refused("org/name", ModelNotFoundError, "holds no model", "HF_HUB_OFFLINE forbids to fetch the rest")
        assert "hub's cache has of org/name" in text
    hf_hub_download("org/name", "model.safetensors.index.json")
    hf_hub_download("org/name", FIRST)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        refused("org/name", FormatError, f"1 of its 2 shards are missing: '{SECOND}'", "HF_HUB_OFFLINE forbids")
    with open_checkpoint("org/name") as opened:
        assert (set(opened), opened.location) == (set(tensors), None)
    hub.clear()
    with open_checkpoint("org/name", download=True) as opened:
        assert set(opened) == set(tensors)
    assert hub.sent(f"*/{FIRST}") == 0


def test_a_branch_that_moves_while_it_is_fetched(hub, tmp_path) -> None:
    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    new = tmp_path / "new"
    new.mkdir()
    save_file({"w": np.ones(3, "f4")}, new / "model.safetensors")
    commits = []

    def move(request) -> None:
        if request.path == "/api/models/org/name/revision/main" and not commits:
            commits.append(hub.publish("org/name", new))

    hub.before = move
    with open_checkpoint("org/name", download=True) as opened:
        assert (list(opened), [opened.revision]) == (["w"], commits)


def test_results_say_which_commit_was_read(hub, tmp_path) -> None:
    write_model(tmp_path / "base")
    write_model(tmp_path / "tuned", add=0.25)
    base, tuned = hub.publish("org/base", tmp_path / "base"), hub.publish("me/tuned", tmp_path / "tuned")
    result = netweight.delta("org/base", ["me/tuned@main"], tmp_path / "out", remote=True)
    inputs = result.to_dict()["inputs"]
    assert [(i["ref"], i["path"], i["revision"]) for i in inputs] == [
        ("org/base", "org/base", base), ("me/tuned@main", "me/tuned@main", tuned)
    ]  # fmt: skip
    assert (tmp_path / "out" / "tuned@main" / "per_param_stats.csv").is_file()
    scanned = netweight.scan("org/base", output=tmp_path / "scan.csv", remote=True)
    assert scanned.inputs[0]["revision"] == base
    assert base in (tmp_path / "scan.csv").read_text()
    local = netweight.delta(tmp_path / "base", [tmp_path / "tuned"]).to_dict()["inputs"]
    assert [i["revision"] for i in local] == [None, None]
    structure = netweight.structure("org/base", "me/tuned")
    assert structure.structure["model_name"] == "base"
    structure.write(tmp_path / "analysis")


def test_a_merge_of_models_of_the_hub_is_verified_at_its_commits(hub, tmp_path) -> None:
    write_model(tmp_path / "base")
    write_model(tmp_path / "tuned", add=0.25)
    base = hub.publish("org/base", tmp_path / "base")
    hub.publish("me/tuned", tmp_path / "tuned")
    merged = tmp_path / "merged"
    netweight.merge(None, merged, base="org/base", models=["me/tuned"], weights=[0.5])
    record = json.loads((merged / "netweight_merge.json").read_text())
    assert next((i["path"], i["revision"]) for i in record["inputs"]) == ("org/base", base)
    assert (merged / "tokenizer.json").read_text() == TOKENIZER
    hub.publish("org/base", tmp_path / "tuned")  # main moves on; the record does not
    assert netweight.verify(merged).good


MODULES = {
    "modules.json": '[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]',
    "1_Pooling/config.json": '{"pooling_mode_cls_token": true}',
}


def files_of(folder: Path) -> dict[str, bytes]:
    """What a merge wrote, without the two files that say when and from where."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "netweight_merge.json"}


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_merge_by_ranges_is_the_merge_of_the_files(hub, tmp_path, method, monkeypatch) -> None:
    write_model(tmp_path / "base", layers=2)
    (tmp_path / "base" / "additional_chat_templates").mkdir()
    (tmp_path / "base" / "additional_chat_templates" / "rag.jinja").write_text("r")
    (tmp_path / "base" / "generation_config.json").write_text('{"top_k": 3}')
    for name, text in MODULES.items():
        (tmp_path / "base" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "base" / name).write_text(text)
    write_model(tmp_path / "tuned", layers=2, add=0.25)
    hub.publish("org/base", tmp_path / "base")
    hub.publish("me/tuned", tmp_path / "tuned")
    settings = {} if method == "task_arithmetic" else {"density": 0.5}
    far, near = tmp_path / "far", tmp_path / "near"
    options = {"method": method, "weights": [0.5], "settings": settings, "workers": 2}
    netweight.merge(None, far, base="org/base", models=["me/tuned"], **options, remote=True)
    data = sum(t.nbytes for ref in ("org/base", "me/tuned") for t in netweight.open(ref).values())
    assert hub.sent("*.safetensors") < (1.1 if method == "task_arithmetic" else 2.1) * data  # ties looks once before
    cached = list((tmp_path / "cache").rglob("*.safetensors")) if (tmp_path / "cache").exists() else []
    assert cached == []
    netweight.merge(None, near, base="org/base", models=["me/tuned"], **options)
    assert files_of(far) == files_of(near)
    assert (far / "additional_chat_templates" / "rag.jinja").read_text() == "r"
    for folder in (far, near):
        assert {name: (folder / name).read_text() for name in MODULES} == MODULES
    assert netweight.verify(far, remote=True).good
    from_disk = tmp_path / "from_disk"
    netweight.merge(None, from_disk, base=tmp_path / "base", models=[tmp_path / "tuned"], **options)
    assert (far / "model.safetensors").read_bytes() == (from_disk / "model.safetensors").read_bytes()


def test_the_tokenizer_of_a_merge_comes_from_urls_too(hub, tmp_path) -> None:
    import fsspec

    write_model(tmp_path / "base", layers=1)
    files = fsspec.filesystem("memory")
    for path in (tmp_path / "base").iterdir():
        files.pipe(f"/merge-far/{path.name}", path.read_bytes())
    files.pipe("/merge-far/additional_chat_templates/rag.jinja", b"r")
    hub.publish("org/base", tmp_path / "base")
    here = f"{hub.url}/org/base/resolve/main"
    for number, ref in enumerate(("memory://merge-far", here)):
        out = tmp_path / f"out{number}"
        result = netweight.merge(None, out, base=ref, models=[tmp_path / "base"], weights=[1.0])
        assert (out / "tokenizer.json").read_text() == TOKENIZER
        assert (out / "additional_chat_templates" / "rag.jinja").exists() == (number == 0)
        assert not any("tokenizer" in note for note in result.notes)


def test_what_is_held_ahead_counts_as_memory(hub, tmp_path) -> None:
    from netweight.source.remote import KEPT, PIECE, READ_AHEAD

    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    write_model(tmp_path / "other", add=0.5)
    ahead = READ_AHEAD + KEPT * PIECE
    other, small = [tmp_path / "other"], {"memory": 1 << 20, "remote": True}
    for job in (
        lambda ref: netweight.scan(ref, **small),
        lambda ref: netweight.delta(ref, other, **small),
        lambda ref: netweight.compare(ref, other[0], **small),
        lambda ref: netweight.merge(None, tmp_path / "out", base=ref, models=other, **small),
    ):
        need = []
        for ref in ("org/name", tmp_path / "model"):
            with pytest.raises(OptionError, match=r"needs at least (\d+) MiB for one worker") as caught:
                job(ref)
            need.append(int(re.search(r"at least (\d+) MiB", str(caught.value))[1]))
        assert need[0] - need[1] == ahead >> 20


def test_gated_private_missing(hub, tmp_path, monkeypatch) -> None:
    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    nowhere = "there is no such file or folder here, and no such model on " + hub.url
    refused("org/other", ModelNotFoundError, f"hf://org/other: {nowhere}", "set HF_TOKEN")
    refused("org/name@v9", ModelNotFoundError, "hf://org/name@v9: the model has no revision 'v9'")
    hub.repo("org/name").token = "hf_secret"
    refused("org/name", ModelNotFoundError, nowhere)
    hub.repo("org/name").gated = True
    for options in ({}, {"download": True}):
        text = refused("org/name", NetweightError, "set HF_TOKEN to a token", **options)
        assert "hf_secret" not in text
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.clear()
    with open_checkpoint("org/name") as opened:
        assert opened["model.embed_tokens.weight"].read().size == 512_000
    asked = [r for r in hub.requests if r.path.startswith(("/api/models", "/org"))]
    assert asked
    assert all(r.authorized for r in asked)
    assert not any(r.authorized for r in hub.requests if r.path.startswith("/cdn/"))


def run(*args: object, env: dict[str, str], code: int = 0) -> subprocess.CompletedProcess:
    gone = {name: None for name in os.environ if name not in env}
    done = program(*args, env={**gone, **env})
    assert done.returncode == code, done.stderr
    return done


def environment(hub, home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return {**kept, **hub.environment(home), "NO_COLOR": "1", **more}


def test_offline_in_a_subprocess(hub, tmp_path) -> None:
    write_model(tmp_path / "model")
    commit = hub.publish("org/name", tmp_path / "model")
    home = tmp_path / "home"
    offline = environment(hub, home, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    failed = run("info", "org/name", env=offline, code=2)
    assert failed.stderr.startswith(
        "error: hf://org/name: there is no such file or folder here, it is not in the hub's"
    )
    assert failed.stderr.count("\n") == 1
    assert hub.count() == 0
    assert run("scan", "org/name", "--format", "quiet", env=environment(hub, home)).stderr == ""
    said = json.loads(run("info", "org/name", "--format", "json", env=offline).stdout)
    assert said["revision"] == commit
    compared = run("compare", "org/name", f"org/name@{commit}", "--format", "json", env=offline)
    assert json.loads(compared.stdout)["common_layers"]


def test_a_read_only_cache_in_a_subprocess(hub, tmp_path) -> None:
    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    hub.publish("org/other", tmp_path / "model")
    home = tmp_path / "home"
    env = environment(hub, home)
    run("scan", "org/name", "--format", "quiet", env=env)
    cache = home / "hf_home" / "hub"
    folders = [cache, *(p for p in cache.rglob("*") if p.is_dir() and not p.is_symlink())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        if os.access(cache, os.W_OK):
            pytest.skip("this user may write everywhere")
        hub.clear()
        run("scan", "org/name", "--format", "quiet", env=env)
        assert hub.sent() == 0
        failed = run("scan", "org/other", "--format", "quiet", env=env, code=2)
        assert "cannot be fetched into the hub's cache" in failed.stderr
        assert failed.stderr.count("\n") == 1
        run("scan", "org/other", "--remote", "--format", "quiet", env=env)
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_cache_that_cannot_be_written(hub, tmp_path, monkeypatch) -> None:
    from huggingface_hub import constants

    write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
    refused("org/name", OutputError, "cannot be fetched into the hub's cache", "--remote", download=True)
    assert len(open_checkpoint("org/name")) == 13


def test_no_hub_in_reach(monkeypatch, tmp_path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refused(
        "org/name", ReadError,
        "hf://org/name: there is no such file or folder here: http://127.0.0.1:9: the server cannot be reached (",
        "4 times in a row; try again later",
    )  # fmt: skip


def test_memory_urls(tmp_path) -> None:
    import fsspec

    tensors = write_model(tmp_path / "model")
    system = fsspec.filesystem("memory")
    system.put(str(tmp_path / "model"), "/netweight-test/model", recursive=True)
    try:
        for ref in ("memory://netweight-test/model", "memory://netweight-test/model/model.safetensors.index.json"):
            with open_checkpoint(ref) as opened:
                assert (opened.ref, opened.revision, opened.location) == (ref, None, None)
                assert opened.config["hidden_size"] == 512
                assert all(np.array_equal(opened[name].read(), values) for name, values in tensors.items())
                opened.check_unchanged()
        with open_checkpoint(f"memory://netweight-test/model/{FIRST}") as opened:
            assert 0 < len(opened) < len(tensors)
        refused("memory://netweight-test/nothing", ModelNotFoundError, "there is no such file or folder")
        refused(f"memory://netweight-test/{FIRST}", ModelNotFoundError, f"memory://netweight-test/{FIRST}: there is no")
        opened = open_checkpoint("memory://netweight-test/model")
        system.pipe("/netweight-test/model/" + FIRST, b"another")
        with pytest.raises(ReadError, match=f"memory://netweight-test/model/{FIRST}: changed since it was opened"):
            opened.check_unchanged()
        result = netweight.delta(tmp_path / "model", [f"memory://netweight-test/model/{SECOND}"])
        assert {p.aligned.name for p in result.parameters} == set(list(tensors)[len(tensors) // 2 :])
        assert result.to_dict()["inputs"][1]["path"] == f"memory://netweight-test/model/{SECOND}"
    finally:
        system.rm("/netweight-test", recursive=True)


def test_urls_that_nothing_reads() -> None:
    refused("nosuch://host/model", ModelNotFoundError, "nosuch://host/model: ", "rotocol")


_COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    "answer",
    [
        [], {}, None, "x", {"siblings": []}, {"id": "org/name", "sha": None, "siblings": []},
        {"id": "org/name", "sha": "main", "siblings": []}, {"id": 3, "sha": _COMMIT, "siblings": [{}]},
        {"id": "org/name", "sha": _COMMIT, "siblings": [{"rfilename": "model.safetensors", "size": "many"}]},
    ],
)  # fmt: skip
def test_answers_that_no_hub_gives(hub, answer) -> None:
    hub.fault("/api/models/*", body=json.dumps(answer).encode(), times=None)
    refused("org/name", ReadError, "hf://org/name: ", "does not answer as a hub does (", "is HF_ENDPOINT right?")


def test_an_answer_that_is_no_json(hub) -> None:
    hub.fault("/api/models/*", body=b"not json", times=None)
    refused("org/name", ReadError, "hf://org/name: ", "does not answer as a hub does (", "is HF_ENDPOINT right?")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_comes_into_the_cache_is_held_against_its_digest(hub, tmp_path, name) -> None:
    """Same size, same ETag, other bytes: they do not stay in the cache, and the next run gets the right ones."""
    files = {"model.safetensors": save({"a": np.arange(64, dtype=np.float32)}), "config.json": b'{"model_type": "x"}'}
    hub.publish("org/name", files)
    wrong = files[name][:-2] + b" }" if name == "config.json" else files[name][:-4] + b"abcd"
    glob = f"/cdn/*/{name}" if name != "config.json" else f"*/resolve/*/{name}"
    hub.fault(glob, body=wrong, times=None)
    refused("org/name", ReadError, f"hf://org/name/{name}: came with other bytes than the hub lists", download=True)
    hub.clear()
    with open_checkpoint("org/name", download=True) as opened:
        assert np.array_equal(opened["a"].read(), np.arange(64))
        assert (opened.location / name).read_bytes() == files[name]
    assert hub.count(glob, "GET") == 1


def test_what_comes_into_the_cache_comes_at_a_least_rate(hub, monkeypatch) -> None:
    """One slow answer is asked for again; a server that is slow each time ends the run. Other users of
    huggingface_hub's connections in this process are left as they were.
    """
    monkeypatch.setattr(least_rate, "_WINDOW", 0.05)
    monkeypatch.setattr(least_rate, "_LEAST", 4 << 20)
    hub.publish("org/name", {"model.safetensors": save({"a": np.arange(1 << 20, dtype=np.float32)})})
    hooks = huggingface_hub.get_session().event_hooks["response"]
    slow = hub.fault("/cdn/*", rate=1e6, times=1)
    with open_checkpoint("org/name", download=True) as opened:
        assert np.array_equal(opened["a"].read(), np.arange(1 << 20))
    assert slow.times == 0
    hub.publish("org/other", {"model.safetensors": save({"a": np.arange(1 << 20, dtype=np.float32)})})
    hub.fault("/cdn/*", rate=1e6, times=None)
    refused("org/other", ReadError, "expected 4194304 a second, 6 times in a row", download=True)
    assert huggingface_hub.get_session().event_hooks["response"] == hooks


def test_file_urls(tmp_path, monkeypatch) -> None:
    """A path from the root is no path from the folder that the program runs in."""
    monkeypatch.chdir(tmp_path)
    save_file({"a": np.arange(4, dtype=np.float32)}, tmp_path / "model.safetensors")
    decoy = tmp_path / str(tmp_path / "model.safetensors").lstrip("/")
    decoy.parent.mkdir(parents=True)
    save_file({"a": np.ones(4, dtype=np.float32)}, decoy)
    for url in (f"file://{tmp_path}/model.safetensors", f"file://{tmp_path}"):
        with open_checkpoint(url) as opened:
            assert np.array_equal(opened["a"].read(), np.arange(4))
