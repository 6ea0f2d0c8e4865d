"""The hub of these tests is one for `huggingface_hub`."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, HfFileSystem, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 1000, "sub/more.txt": b"more\n"}


def test_info_and_tree(hub):
    commit = hub.publish("org/name", FILES)
    info = HfApi().model_info("org/name", files_metadata=True)
    assert info.sha == commit
    assert [(s.rfilename, s.size, bool(s.lfs)) for s in info.siblings] == [
        ("config.json", 8, False), ("model.safetensors", 256_000, True), ("sub/more.txt", 5, False)
    ]  # fmt: skip
    hub.page = 2
    tree = list(HfApi().list_repo_tree("org/name", recursive=True, expand=True))
    assert [e.path for e in tree] == ["config.json", "model.safetensors", "sub", "sub/more.txt"]
    assert [e.path for e in HfApi().list_repo_tree("org/name", "sub")] == ["sub/more.txt"]
    assert [e.path for e in HfApi().get_paths_info("org/name", ["config.json", "none"])] == ["config.json"]


def test_snapshot_and_file(hub):
    commit = hub.publish("org/name", FILES)
    folder = Path(snapshot_download("org/name"))
    assert folder.name == commit
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    hub.publish("org/name", {"config.json": b"{}"}, revision="v2")
    assert Path(hf_hub_download("org/name", "config.json", revision="v2")).read_bytes() == b"{}"
    assert hub.sent("/cdn/*") == 256_000
    assert not any(r.authorized for r in hub.requests)


def test_ranges(hub):
    hub.publish("org/name", FILES)
    with HfFileSystem(skip_instance_cache=True).open("org/name/model.safetensors", block_size=1000) as file:
        file.seek(1000)
        assert file.read(300) == FILES["model.safetensors"][1000:1300]
    assert hub.sent("/cdn/*") < 10_000
    found = get_hf_file_metadata(hf_hub_url("org/name", "model.safetensors"))
    assert found.size == 256_000
    assert found.location.startswith(hub.cdn)


def test_a_dropped_connection_is_taken_up_again(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.publish("org/name", FILES)
    fault = hub.fault("/cdn/*", drop_after=100_000)
    assert Path(hf_hub_download("org/name", "model.safetensors")).read_bytes() == FILES["model.safetensors"]
    assert fault.times == 0
    assert [r.range for r in hub.requests if r.path.startswith("/cdn") and r.method == "GET"][1] == "bytes=100000-"


def test_refusals(hub):
    hub.publish("org/name", FILES)
    with pytest.raises(RepositoryNotFoundError):
        HfApi().model_info("org/none")
    with pytest.raises(RevisionNotFoundError):
        HfApi().model_info("org/name", revision="none")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/name", "none.json")
    hub.repo("org/name").gated = True
    hub.repo("org/name").token = "hf_right"
    assert HfApi().model_info("org/name").gated == "manual"
    with pytest.raises(GatedRepoError):
        hf_hub_download("org/name", "config.json")
    assert hf_hub_download("org/name", "config.json", token="hf_right")


def test_a_file_of_another_size_is_noticed(hub):
    hub.publish("org/name", FILES)
    hub.fault("/cdn/*", body=b"short")
    with pytest.raises(OSError, match=r"model\.safetensors"):  # the wording is huggingface_hub's
        hf_hub_download("org/name", "model.safetensors")
