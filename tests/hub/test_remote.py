"""Reading by ranges: what is asked for, how much of it, and what happens when the network or the server fails."""

from __future__ import annotations

import json
import struct
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from hub_models import FIRST, SECOND, write_model, write_shape

import netweight
from netweight.checkpoint.open import open_checkpoint
from netweight.errors import ModelNotFoundError, NetweightError, ReadError
from netweight.run import plan
from netweight.source import http_ranges, least_rate, remote, retry
from shapes import SHAPES, Shape

SMALL = Shape("small", 512, 6, 8, 4, 64, 1536, 4000, tied=False, fine_tunes=1)
EMBEDDING, LAST = "model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.01)


@pytest.fixture
def model(hub, tmp_path):
    """The arrays of org/name, which is published."""
    tensors = write_model(tmp_path / "model")
    hub.publish("org/name", tmp_path / "model")
    return tensors


def same(opened, tensors) -> bool:
    return all(np.array_equal(opened[name].read(), values) for name, values in tensors.items())


def refused(error: type[NetweightError], call, *said: str) -> str:
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert all(part in text for part in said), text
    assert "\n" not in text
    return text


def test_info_and_structure_of_eight_billion_parameters(hub, tmp_path) -> None:
    folder = write_shape(tmp_path / "8b", SHAPES["8b"])
    commit = hub.publish("org/8b", folder, hashed=False)
    for job, layers in ((netweight.info, 0), (netweight.structure, SHAPES["8b"].layers)):
        hub.clear()
        found = job("org/8b")
        asked = [r for r in hub.requests if r.path != "/api/agent-harnesses"]
        # listing, index, config; four shards, each led to its storage; a look at each layer
        assert len(asked) <= 11 + layers
        assert sum(r.sent for r in asked) < 500_000 + layers * (1 << 16)
    assert netweight.info("org/8b").revision == commit
    assert netweight.info("org/8b").parameters == SHAPES["8b"].parameters
    assert found.structure["total_params"] == SHAPES["8b"].parameters
    hub.clear()
    netweight.structure("org/8b", "org/8b")
    assert hub.sent() < 1_000_000 + 2 * SHAPES["8b"].layers * (1 << 16)


def test_a_dry_run_reads_headers(hub, tmp_path) -> None:
    from click.testing import CliRunner

    from netweight.cli.main import cli

    hub.publish("org/8b", write_shape(tmp_path / "8b", SHAPES["8b"]), hashed=False)
    for command in ("delta --base org/8b --models hf://org/8b", "scan org/8b", "compare org/8b hf://org/8b",
                    "structure org/8b --deep", "embeddings org/8b"):  # fmt: skip
        done = CliRunner().invoke(cli, [*command.split(), "--dry-run"])
        assert done.exit_code == 0, done.output
    assert hub.sent() < 2_500_000


def test_delta_reads_the_bytes_of_the_chosen_tensors(hub, tmp_path) -> None:
    hub.publish("org/base", write_shape(tmp_path / "base", SMALL, 20_000_000), hashed=False)
    hub.publish("org/tuned", write_shape(tmp_path / "tuned", SMALL, 20_000_000), hashed=False)
    chosen = [shape for name, shape in SMALL.tensors().items() if name.startswith("model.layers.3.")]
    wanted = 2 * 2 * sum(int(np.prod(shape)) for shape in chosen)
    hub.clear()
    result = netweight.delta("org/base", ["org/tuned"], include=["model.layers.3.*"], remote=True)
    assert len(result.parameters) == len(chosen)
    cdn = [r for r in hub.requests if r.path.startswith("/cdn/")]
    heads = [r for r in cdn if r.range == f"bytes=0-{remote.HEAD - 1}"]
    data = sum(r.sent for r in cdn) - sum(r.sent for r in heads)
    shards = len(SMALL.shards(20_000_000))
    assert shards > 2
    assert len(heads) == 2 * shards
    ranges = [(r.path, r.range) for r in cdn if r.method == "GET"]
    assert len(set(ranges)) == len(ranges)
    # a tensor's bytes that came with a header are not asked for again
    assert wanted - 2 * remote.HEAD <= data <= wanted
    assert len([r for r in cdn if r not in heads and r.sent]) <= 2 * len(chosen)


def test_every_byte_is_fetched_once(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(remote, "PIECE", 1 << 19)
    monkeypatch.setattr(plan, "STRETCH", 1 << 20)
    shape = Shape("wide", 1024, 3, 8, 8, 128, 4096, 16000, tied=True, fine_tunes=1)
    for name in ("base", "tuned"):
        hub.publish(f"org/{name}", write_shape(tmp_path / name, shape), hashed=False)
    hub.clear()
    netweight.delta("org/base", ["org/tuned"], remote=True, workers=4)
    asked = sorted((r.path, *map(int, r.range[6:].split("-"))) for r in hub.requests if r.range and "/cdn/" in r.path)
    assert len(asked) > 200
    for (path, _, last), (following, start, _) in pairwise(asked):
        assert path != following or start == last + 1
    hub.clear()
    netweight.scan("org/base", remote=True, workers=4)
    whole = sum(2 * int(np.prod(sizes)) for sizes in shape.tensors().values())
    assert hub.sent("/cdn/*") <= 1.2 * whole


def test_reading_by_ranges_gives_what_files_give(hub, tmp_path, model) -> None:
    other = write_model(tmp_path / "other", seed=1)
    hub.publish("org/other", tmp_path / "other")
    assert set(other) == set(model)
    local, far = (tmp_path / "model", tmp_path / "other"), ("org/name", "org/other")
    here, there = netweight.delta(local[0], [local[1]]), netweight.delta(far[0], [far[1]], remote=True)
    assert [p.rows for p in here.parameters] == [p.rows for p in there.parameters]
    here, there = netweight.compare(*local), netweight.compare(*far, remote=True)
    assert here.to_dict()["layer_comparisons"] == there.to_dict()["layer_comparisons"]
    here, there = netweight.scan(local[0]), netweight.scan(far[0], remote=True)
    assert dict(here) == dict(there)
    assert hub.sent("*/resolve/*.safetensors") == 0
    whole = sum((tmp_path / name / shard).stat().st_size for name in ("model", "other") for shard in (FIRST, SECOND))
    # two passes over both, two samples of so small a model, one pass over the first, and where quantiles were open
    assert hub.sent("/cdn/*") < 4.5 * whole
    here, there = netweight.structure(local[0], deep=True), netweight.structure(far[0], deep=True, remote=True)
    assert here.structure["zeros"] == there.structure["zeros"]


@pytest.mark.parametrize("method", ["within", "formats"])
def test_rows_of_a_sample_are_read_once(hub, tmp_path, method) -> None:
    shape = Shape("wide", 1024, 3, 8, 8, 128, 4096, 16000, tied=True, fine_tunes=0)
    folder = write_shape(tmp_path / "base", shape)
    hub.publish("org/base", folder, hashed=False)
    hub.clear()
    here, there = netweight.scan(folder, methods=method), netweight.scan("org/base", remote=True, methods=method)
    assert all(str(dict(here)[name]) == str(dict(there)[name]) for name in here)
    whole = sum(2 * int(np.prod(sizes)) for sizes in shape.tensors().values())
    assert hub.sent("/cdn/*") <= 1.1 * whole


def test_torch_files_by_ranges(hub, tmp_path) -> None:
    torch = pytest.importorskip("torch", reason="writes the file")
    folder = tmp_path / "torch"
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {f"model.layers.{i}.w": torch.randn(300, 400) for i in range(20)}
    torch.save(tensors, folder / "pytorch_model.bin")
    hub.publish("org/torch", folder)
    with open_checkpoint("org/torch") as opened:
        headers = hub.sent("/cdn/*")
        assert headers < 400_000 < (folder / "pytorch_model.bin").stat().st_size / 10
        assert all(np.array_equal(opened[name].read(), values.numpy()) for name, values in tensors.items())


def test_a_header_longer_than_the_first_range(hub, tmp_path) -> None:
    folder = tmp_path / "experts"
    folder.mkdir()
    names = [f"model.layers.0.mlp.experts.{i}.down_proj.weight" for i in range(3000)]
    entries = {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(names)}
    header = json.dumps(entries).encode()
    data = np.arange(6000, dtype="f4").tobytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    hub.publish("org/experts", folder)
    with open_checkpoint("org/experts") as opened:
        assert hub.count("/cdn/*") == 2
        assert hub.sent("/cdn/*") == len(header) + 8
        assert list(opened[names[-1]].read()) == [5998, 5999]


def test_lost_connections(hub, model) -> None:
    hub.fault("/cdn/*", drop_after=10_000, times=4)
    with open_checkpoint("org/name") as opened:
        hub.fault("/cdn/*", drop_after=700_000, times=6)
        hub.fault("*/resolve/*", drop_after=0, times=2)
        assert same(opened, model)
    assert hub.sent("/cdn/*") < 1.1 * sum(values.nbytes for values in model.values())  # what came was kept


def test_a_connection_that_is_lost_every_time(hub, model) -> None:
    hub.fault("/cdn/*", drop_after=5, times=None)
    text = refused(ReadError, lambda: open_checkpoint("org/name"), f"hf://org/name/{FIRST}: bytes 0 to 65536: ")
    assert text.endswith("6 times in a row; try again later")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server(hub, model, status) -> None:
    hub.fault("/api/models/*", status=status, times=2)
    hub.fault("*/resolve/*", status=status, times=2)
    hub.fault("/cdn/*", status=status, times=3)
    with open_checkpoint("org/name") as opened:
        assert same(opened, model)
    hub.fault("/cdn/*", status=status, times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), f"the server answers HTTP {status}, 6 times in a row")
    hub.clear()
    hub.fault("/api/models/*", status=status, times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), f"{hub.url}: the server answers HTTP {status}, 4 times")


@pytest.mark.parametrize("place", ["/api/models/*", "/cdn/*"])
def test_retry_after_is_kept_to(hub, model, place) -> None:
    hub.fault(place, status=429, headers={"Retry-After": "1"}, times=1)
    start = time.monotonic()
    with open_checkpoint("org/name"):
        assert 1.0 <= time.monotonic() - start < 60
    hub.fault(place, status=503, headers={"Retry-After": "3600"}, times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), "HTTP 503; the server asks to wait 3600 s: try again then")


def test_slow_answers(hub, model, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.fault("*/resolve/*", delay=0.1, times=None)
    hub.fault("/cdn/*", delay=1.0, times=1)
    with open_checkpoint("org/name") as opened:
        assert np.array_equal(opened[LAST].read(), model[LAST])
    hub.clear()
    hub.fault("*/resolve/*", delay=0.6, times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), "the server did not answer in time, 6 times in a row")


def test_refusals_while_reading(hub, model) -> None:
    for status, said in (
        (401, "access is refused (HTTP 401); for a model that is private or gated, set HF_TOKEN"),
        (403, "access is refused (HTTP 403)"),
        (404, "is gone (HTTP 404); was it moved or renamed?"),
        (418, "the server answers HTTP 418, expected 206 and the bytes"),
    ):
        hub.clear()
        hub.fault("*/resolve/*.safetensors", status=status, times=None)
        refused(ReadError, lambda: open_checkpoint("org/name"), said)


def test_an_address_of_storage_that_expires(hub, model) -> None:
    with open_checkpoint("org/name") as opened:
        before = hub.count("*/resolve/*.safetensors")
        hub.fault("/cdn/*", status=403, times=1)
        assert np.array_equal(opened[EMBEDDING].read(), model[EMBEDDING])
        assert hub.count("*/resolve/*.safetensors") == before + 1


@pytest.mark.parametrize("status", [302, 303, 307])
def test_where_a_redirect_leads_is_asked_at_once(hub, status) -> None:
    data = np.random.default_rng(0).bytes(200_000)
    commit = hub.publish("org/name", {"file": data})
    place = {"Location": f"{hub.cdn}/cdn/{commit}/org/name/file"}
    hub.fault("*/resolve/*", status=status, headers=place, times=None)
    ranges = http_ranges.open_http(f"{hub.url}/org/name/resolve/main/file")
    for start in (70_000, 150_000):
        out = bytearray(1000)
        ranges.fetch(start, memoryview(out), threading.Event())
        assert out == data[start : start + 1000]
    assert (hub.count("*/resolve/*"), hub.count("/cdn/*")) == (1, 3)


def test_files_that_are_not_what_the_listing_says(hub, model) -> None:
    hub.fault("/cdn/*", body=b"short", times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), "changed since it was opened", "now 5)")
    hub.clear()
    hub.fault("*/resolve/*.safetensors", etag="0" * 64, times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), "changed since it was opened (its ETag is another)")


def test_files_that_change_while_they_are_read(hub, tmp_path, model) -> None:
    with open_checkpoint("org/name") as opened:
        hub.fault("/cdn/*", etag="another", times=None)
        refused(ReadError, opened[LAST].read, f"hf://org/name/{SECOND}: changed since it was opened (its ETag")
    hub.clear()
    with open_checkpoint("org/name") as opened:
        hub.fault("*/resolve/*", method="HEAD", etag="another", times=None)
        refused(ReadError, opened.check_unchanged, "changed since it was opened")
        hub.clear()
        opened.check_unchanged()
        hub.repo("org/name").gone = True
        refused(ReadError, opened.check_unchanged, f"hf://org/name/{FIRST}: ", "HTTP 401")
    refused(ReadError, opened[EMBEDDING].read, f"hf://org/name/{FIRST}: is closed; open the checkpoint again")


def test_a_commit_is_read_to_the_end_also_where_main_moves_on(hub, tmp_path, model) -> None:
    with open_checkpoint("org/name") as opened:
        write_model(tmp_path / "next", seed=5)
        hub.publish("org/name", tmp_path / "next")
        assert same(opened, model)
        opened.check_unchanged()


def test_a_server_that_knows_no_ranges(hub, model, monkeypatch) -> None:
    monkeypatch.setattr(http_ranges, "_SKIPPED", 1 << 20)
    hub.fault("/cdn/*", no_range=True, times=None)
    with open_checkpoint("org/name") as opened:
        assert np.array_equal(opened[EMBEDDING].read(), model[EMBEDDING])
        refused(ReadError, opened["model.layers.1.mlp.up_proj.weight"].read, "sends the whole file and no ranges")


def test_a_job_says_what_went_wrong_in_one_line(hub, tmp_path, model) -> None:
    hub.publish("org/other", tmp_path / "model")
    hub.fault("/cdn/*", status=503, skip=4, times=None)
    said = refused(ReadError, lambda: netweight.delta("org/name", ["org/other"], tmp_path / "out", remote=True))
    assert "HTTP 503, 6 times in a row" in said
    assert not (tmp_path / "out" / "delta.parquet").exists()


def test_fetching_into_the_cache_outlasts_faults(hub, model) -> None:
    hub.fault("/api/models/*", status=503, times=3)
    hub.fault("*/resolve/*", method="HEAD", status=429, headers={"Retry-After": "0"}, times=2)
    hub.fault(f"/cdn/*{FIRST}", drop_after=100_000, times=3)
    with open_checkpoint("org/name", download=True) as opened:
        assert opened.location is not None
        assert same(opened, model)


def test_http_urls(hub, tmp_path, model) -> None:
    with open_checkpoint(f"{hub.url}/org/name/resolve/main") as opened:
        assert opened.files[0].path == f"{hub.url}/org/name/resolve/main/{FIRST}"
        assert opened.config["model_type"] == "llama"
        assert same(opened, model)
        opened.check_unchanged()
    with open_checkpoint(f"{hub.url}/org/name/resolve/main/{SECOND}?download=true") as opened:
        assert np.array_equal(opened[LAST].read(), model[LAST])
        opened.check_unchanged()
        assert opened.config["model_type"] == "llama"
    refused(ModelNotFoundError, lambda: open_checkpoint(f"{hub.url}/org/name/resolve/main/x.bin"), "no such file")
    refused(ModelNotFoundError, lambda: open_checkpoint(f"{hub.url}/nothing"), f"{hub.url}/nothing: holds no model")


def test_several_ranges_are_in_flight(hub, tmp_path) -> None:
    shape = Shape("wide", 1024, 2, 8, 8, 128, 4096, 16000, tied=True, fine_tunes=1)
    hub.publish("org/wide", write_shape(tmp_path / "wide", shape), hashed=False)
    hub.fault("/cdn/*", delay=0.25, times=None)
    netweight.scan("org/wide", remote=True)
    assert hub.count("/cdn/*", "GET") > 13
    assert hub.most_waiting > 1


def test_a_server_that_sends_other_bytes_than_were_asked_for(hub, tmp_path) -> None:
    """The answer says which bytes it has: those are not taken for the others."""
    hub.publish("org/name", write_shape(tmp_path / "m", SMALL, 20_000_000), hashed=False)
    with open_checkpoint("org/name") as opened:
        hub.fault("/cdn/*", shift=64, times=None)
        said = refused(ReadError, opened[LAST].read, "asked for the bytes from", "the server sends bytes ")
        assert "model-" in said


def test_a_packed_answer_is_not_unpacked(hub, model) -> None:
    """A few bytes may become gigabytes: nothing of it is read."""
    with open_checkpoint("org/name") as opened:
        hub.fault("/cdn/*", headers={"Content-Encoding": "gzip"}, times=None)
        refused(ReadError, opened[LAST].read, "the server packs what it sends (gzip)", "download the file")
        hub.clear()
        hub.fault("/cdn/*", headers={"Content-Encoding": "x" * 500}, times=None)
        refused(ReadError, opened[LAST].read, f"({'x' * 37}...)")
        hub.clear()
        hub.fault("/cdn/*", headers={"Content-Encoding": "aws-chunked"}, times=None)  # plain bytes, as S3 has them
        assert np.array_equal(opened[LAST].read(), model[LAST])


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/model.safetensors", "gopher://host/"])
def test_a_redirect_to_no_web_address(hub, model, address) -> None:
    """It is said at once: no other try leads elsewhere."""
    hub.fault("*/resolve/*", status=302, headers={"Location": address}, times=None)
    refused(ReadError, lambda: open_checkpoint("org/name"), "cannot be read: ", address.partition(":")[0])
    assert hub.count("*/resolve/*", "GET") == 1


def test_an_answer_that_drips(hub, model, monkeypatch) -> None:
    monkeypatch.setattr(least_rate, "_WINDOW", 0.05)
    monkeypatch.setattr(least_rate, "_LEAST", 4 << 20)
    with open_checkpoint("org/name") as opened:
        hub.fault("/cdn/*", rate=400_000, times=1)
        assert np.array_equal(opened[LAST].read(), model[LAST])  # one slow answer is asked for again
        hub.fault("/cdn/*", rate=400_000, times=None)
        name = max(model, key=lambda name: model[name].nbytes)
        refused(ReadError, opened[name].read, "expected 4194304 a second, 6 times in a row")
