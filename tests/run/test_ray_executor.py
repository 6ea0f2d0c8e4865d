"""Jobs on a cluster of three nodes: the bytes of a serial run, whatever happens to the nodes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import psutil
import pytest
from gguf_files import field, gguf
from slowness import slowness
from task_vectors import beside_progress, normal, save, tree, tuned

import netweight
from netweight.errors import JobError, OptionError, ReadError
from netweight.run.progress import Silent
from netweight.run.ray_cluster import connect
from netweight.run.ray_executor import RayExecutor
from netweight.run.threads import ThreadExecutor

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:unclosed file <_io.* name='/dev/null'.*:ResourceWarning"),  # of Ray itself
]

PROGRAM = (sys.executable, "-c", "from netweight.cli.main import main; main()")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two fine-tunes of many parameters; runs last long enough to be disturbed."""
    folder = tmp_path_factory.mktemp("models")
    base = {
        f"model.layers.{i}.mlp.up_proj.weight": normal((500, 300), "bfloat16" if i % 2 else "float32", seed=i)
        for i in range(60)
    }
    base["model.norm.weight"] = normal(300, "float64", seed=99)
    save(folder / "base", base, {"model_type": "llama"})
    for seed in (1, 2):
        save(folder / f"tune{seed}", tuned(base, seed), {"model_type": "llama"})
    return folder


class Trouble(Silent):
    """Does something once, when so many results are in."""

    def __init__(self, after, do):
        self._left = after
        self._do = do

    def advance(self, tensors, nbytes):
        self._left -= 1
        if self._left == 0:
            self._do()


def run(job, out, executor, progress=None):
    """The files of one job; references are relative to the current folder."""
    how = {"executor": executor, "progress": progress}
    if job == "delta":
        netweight.delta("base", ["tune1", "tune2"], out, **how)
    elif job == "merge":
        ties = {"method": "ties", "weights": [0.5, 0.5], "settings": {"density": 0.3}}
        netweight.merge(None, out, base="base", models=["tune1", "tune2"], **ties, **how)
    else:
        out.mkdir()
        netweight.scan("base", methods="all", output=out / "scan.json", **how)
    return tree(out)


@pytest.fixture(scope="module")
def serial(models, tmp_path_factory):
    """{job: files} of runs by one thread."""
    here = Path.cwd()
    os.chdir(models)
    try:
        return {
            job: run(job, tmp_path_factory.mktemp("serial") / "out", ThreadExecutor(1))
            for job in ("delta", "scan", "merge")
        }
    finally:
        os.chdir(here)


@pytest.mark.parametrize("job", ["delta", "scan", "merge"])
def test_the_bytes_of_a_serial_run(job, serial, models, ray_executor, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    assert run(job, tmp_path / "out", ray_executor) == serial[job]


@pytest.mark.parametrize("job", ["delta", "scan", "merge"])
def test_the_same_bytes_where_a_node_is_lost(job, serial, models, nodes, ray_executor, tmp_path, monkeypatch):
    monkeypatch.chdir(models)
    nodes.wait(ray_executor)
    before = ray_executor.lost

    def kill():
        nodes.kill()
        time.sleep(1)  # what runs there has ended, and most of the tasks are still to come

    found = run(job, tmp_path / "out", ray_executor, Trouble(10, kill))
    nodes.add()
    assert ray_executor.lost == before + 1
    assert found == serial[job]


def test_quantised_models_and_adapters(ray_executor, nodes, tmp_path):
    """Blocks of GGUF and weights with an adapter are computed where they are read: all bytes are a serial run's."""
    nodes.wait(ray_executor)
    rng = np.random.default_rng(0)
    shape, name = (512, 256), "model.layers.0.mlp.up_proj"
    weight = rng.standard_normal(shape).astype(np.float32)
    save(tmp_path / "base", {f"{name}.weight": weight, "model.norm.weight": np.ones(256, np.float32)}, {})
    codes = rng.integers(0, 64, (512, 34), dtype=np.uint8).repeat(8, axis=1).reshape(512, -1)[:, :272]
    codes.reshape(-1, 34)[:, :2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    fields = [field("general.architecture", "text", "llama"), field("llama.attention.head_count", "u32", 4)]
    norm = ("output_norm.weight", (256,), 0, np.ones(256, np.float32).tobytes())
    (tmp_path / "q.gguf").write_bytes(gguf([*fields], [("blk.0.ffn_up.weight", shape, 8, codes.tobytes()), norm]))
    parts = {f"{name}.base_layer.weight": weight, f"{name}.lora_A.default.weight": rng.standard_normal((4, 256))}
    parts[f"{name}.lora_B.default.weight"] = rng.standard_normal((512, 4))
    held = {key: array.astype(np.float32) for key, array in parts.items()} | {"model.norm.weight": np.ones(256, "f4")}
    save(tmp_path / "peft", held, {})
    (tmp_path / "peft" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    for other in ("q.gguf", "peft"):
        one, far = (
            netweight.compare(tmp_path / "base", tmp_path / other, executor=executor).to_dict()
            for executor in (ThreadExecutor(1), ray_executor)
        )
        assert one["layer_comparisons"][f"{name}.weight"]["l2_distance"] > 1
        assert far == one
    merged = []
    for number, executor in enumerate((ThreadExecutor(1), ray_executor)):
        out = tmp_path / f"out{number}"
        models = [str(tmp_path / "q.gguf"), str(tmp_path / "peft")]
        ties = {"method": "ties", "weights": [0.5, 0.5], "settings": {"density": 0.3}}
        netweight.merge(None, out, base=tmp_path / "base", models=models, executor=executor, **ties)
        merged.append((out / "model.safetensors").read_bytes())
    assert merged[0] == merged[1]


def test_workers_have_folders_and_processes_of_their_own(ray_executor, nodes):
    nodes.wait(ray_executor)

    def where(_):
        time.sleep(0.1)
        return str(Path.cwd()), os.getpid()

    tasks = deque(range(12))
    found = dict(ray_executor.run(lambda: tasks.popleft() if tasks else None, where))
    assert len({folder for folder, _ in found.values()}) == len({pid for _, pid in found.values()}) == 3
    assert os.getpid() not in {pid for _, pid in found.values()}
    assert str(Path.cwd()) not in {folder for folder, _ in found.values()}


def test_a_task_costs_little(ray_executor):
    times = []
    for _ in range(5):  # in one of them nothing else keeps the machine busy
        tasks = iter(range(100))
        began = time.perf_counter()
        assert len(list(ray_executor.run(lambda left=tasks: next(left, None), lambda _: bytes(2000)))) == 100
        times.append(time.perf_counter() - began)
    assert min(times) / 100 < 0.005 * slowness()


def test_a_task_that_ends_its_worker_is_named_after_three_times(ray_executor):
    class Named:
        def __init__(self, name):
            self.name = name

    def work(task):
        if task.name == "lm_head.weight":
            os._exit(1)
        return task.name

    tasks = deque([Named("a"), Named("lm_head.weight"), Named("b"), Named("c")])
    found = []
    with pytest.raises(
        JobError, match=r"^lm_head\.weight: the worker that had it was lost 3 times, last on "
    ) as caught:
        found.extend(r for _, r in ray_executor.run(lambda: tasks.popleft() if tasks else None, work))
    assert "\n" not in str(caught.value)
    assert set(found) <= {"a", "b", "c"}


def test_a_file_that_is_cut_short(models, ray_executor, tmp_path, monkeypatch):
    """Every worker looks at the file that it opens: one line, as with threads."""
    arrays = {f"model.layers.{i}.mlp.up_proj.weight": normal((50, 40), seed=i) for i in range(3)}
    path = save(tmp_path / "model", arrays)

    class Cut(Silent):
        def start(self, tensors, nbytes, done_tensors=0, done_bytes=0):
            with (path / "model.safetensors").open("r+b") as file:
                file.truncate(9000)

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ReadError, match=r"^model.model\.safetensors: changed since it was opened.*now 9000\)"
    ) as caught:
        netweight.delta("model", ["model"], executor=ray_executor, progress=Cut())
    assert "\n" not in str(caught.value)


def test_a_disk_that_fails_is_one_line_with_the_name_of_the_tensor(ray_executor, tmp_path, monkeypatch):
    from dataclasses import replace

    from netweight.checkpoint.tensor import Checkpoint
    from netweight.jobs.delta import plan as delta

    path = save(tmp_path / "model", {"model.norm.weight": normal(300), "lm_head.weight": normal((40, 30))})
    usual = delta.open_whole

    class Broken:
        name = "broken disk"
        size = 1 << 20

        def read_into(self, offset, buffer):
            raise OSError(5, "Input/output error")

        def prefetch(self, offset, size):
            pass

    def faulty(ref, **how):
        opened = usual(ref, **how)
        tensors = {n: replace(t, source=Broken()) if n == "lm_head.weight" else t for n, t in opened.items()}
        return Checkpoint(str(ref), tensors, format=opened.format, files=opened.files, location=opened.location)

    monkeypatch.setattr(delta, "open_whole", faulty)
    line = r"^broken disk: tensor 'lm_head\.weight' could not be read at element 0: .*Input/output error"
    with pytest.raises(ReadError, match=line) as caught:
        netweight.delta(path, [path], executor=ray_executor)
    assert "\n" not in str(caught.value)


def test_a_file_that_a_node_does_not_have(ray_executor, tmp_path):
    path = save(tmp_path / "model", {"model.norm.weight": normal(300)})

    class Gone(Silent):
        def start(self, tensors, nbytes, done_tensors=0, done_bytes=0):
            (path / "model.safetensors").rename(tmp_path / "elsewhere")

    with pytest.raises(ReadError, match=r"cannot be opened on .*every node must see the inputs under the same path$"):
        netweight.delta(path, [path], executor=ray_executor, progress=Gone())


def test_a_model_of_a_hub_is_read_by_every_worker_itself(hub, ray_executor, tmp_path):
    from hub_models import write_model

    for name in ("base", "tune"):
        write_model(tmp_path / name, seed=len(name), layers=2, width=128)
        hub.publish(f"org/{name}", tmp_path / name)
    near = netweight.delta("org/base", ["org/tune"], remote=True, executor=ThreadExecutor(1))
    hub.clear()
    far = netweight.delta("org/base", ["org/tune"], remote=True, executor=ray_executor)
    assert repr(far.to_dict()) == repr(near.to_dict())
    assert hub.sent("*.safetensors") >= sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors"))


def test_the_command_joins_a_cluster_and_leaves_it(nodes, ray_executor, serial, models, tmp_path):
    ray_executor.close()  # its workers have all CPUs
    done = subprocess.run(
        [*PROGRAM, "delta", "--base", "base", "--models", "tune1", "tune2", "--outdir", tmp_path / "out",
         "--executor", "ray", "--ray-address", nodes.address, "--workers", "3", "--format", "json"],
        cwd=models, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, beside_progress(done.stderr)) == (0, "")
    assert json.loads(done.stdout)
    assert tree(tmp_path / "out") == serial["delta"]
    nodes.wait(ray_executor)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_ctrl_c_leaves_nothing_running(models, tmp_path, number):
    out = tmp_path / "out"
    journal = tmp_path / ".out.netweight-run" / "journal.jsonl"
    program = (
        "import time; from netweight.passes import differences as d; from netweight.cli.main import main\n"
        "usual = d._ReadingSchedule.take\n"
        "def slow(self, look, found): time.sleep(0.2); return usual(self, look, found)\n"
        "d._ReadingSchedule.take = slow; main()"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program, "delta", "--base", "base", "--models", "tune1", "--outdir", out,
         "--executor", "ray", "--workers", "2", "--format", "quiet"],
        cwd=models, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NO_COLOR": "1"}, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 300
    while not (journal.exists() and journal.read_bytes().count(b"\n") > 2):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    family = psutil.Process(started.pid).children(recursive=True)
    assert any("ray::" in " ".join(p.cmdline()) for p in family)
    started.send_signal(signal.Signals[number])
    said, complaint = started.communicate(timeout=300)
    assert (started.returncode, said) == (128 + signal.Signals[number], "")
    assert complaint == f"error: stopped; nothing in {out} was changed; run again with --resume to go on\n"
    end = time.monotonic() + 300
    while [p for p in psutil.wait_procs(family, timeout=0.1)[1] if p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < end


def test_a_cluster_that_does_not_answer():
    with pytest.raises(OptionError, match=r"^--ray-address 127\.0\.0\.1:9: no cluster answers there: "):
        _not_connected(lambda: connect("127.0.0.1:9", 1))


def _not_connected(call):
    """As in a process that no other test has connected."""
    ray = pytest.importorskip("ray")
    usual, ray.is_initialized = ray.is_initialized, lambda: False
    try:
        return call()
    finally:
        ray.is_initialized = usual


def test_nobody_can_start_workers(nodes, ray_executor, monkeypatch):
    """One line says why where no worker comes."""
    from netweight.run import ray_executor as module

    class Broken:
        def __init__(self):
            raise ModuleNotFoundError("No module named 'netweight'")

        def take(self, work):
            pass

    ray_executor.close()
    monkeypatch.setattr(module, "TaskRunner", Broken)
    executor = RayExecutor(2, nodes.address)
    with pytest.raises(JobError, match=r"no worker could be started on the cluster: .*No module named 'netweight'"):
        list(executor.run(lambda: 1, lambda n: n))
    executor.close()


def test_another_version_on_a_node(nodes, ray_executor, monkeypatch):
    from netweight.run import ray_executor as module

    monkeypatch.setattr(module, "__version__", "0.0.1")
    with pytest.raises(JobError, match=r"^netweight \S+ on \S+, 0\.0\.1 here; install the same version on every node$"):
        list(ray_executor.run(lambda: 1, lambda n: n))
