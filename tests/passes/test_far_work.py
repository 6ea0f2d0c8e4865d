"""Jobs whose work, tasks and results go from process to process give the bytes of one thread's run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from far_executor import FarExecutor
from task_vectors import normal, save, tree, tuned

import netweight
from netweight.errors import OptionError, ReadError
from netweight.passes import merge_blocks
from netweight.passes.far_work import FarWork
from netweight.run import plan
from netweight.run.threads import ThreadExecutor


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two fine-tunes, of element types that need one look, several, and none."""
    folder = tmp_path_factory.mktemp("models")
    base = {
        "model.embed_tokens.weight": normal((700, 200), "bfloat16", seed=1),
        "model.layers.0.self_attn.q_proj.weight": normal((300, 200), "float16", seed=2),
        "model.layers.0.mlp.up_proj.weight": normal((500, 400), seed=3),
        "model.layers.0.mlp.experts": normal((4, 60, 50), "bfloat16", seed=4),
        "model.layers.1.mlp.up_proj.weight": normal((100, 90), "float64", seed=5),
        "model.norm.weight": normal(64, "bfloat16", seed=6),
        "model.layers.0.positions": np.arange(300, dtype=np.int64),
    }
    save(folder / "base", base, {"model_type": "llama"})
    for seed in (1, 2):
        save(folder / f"tune{seed}", tuned(base, seed), {"model_type": "llama"})
    return folder / "base", folder / "tune1", folder / "tune2"


@pytest.fixture(params=[plan.STRETCH, 1 << 14], ids=["whole", "stretches"])
def stretch(request, monkeypatch):
    monkeypatch.setattr(plan, "STRETCH", request.param)
    monkeypatch.setattr(merge_blocks, "STRETCH", request.param)


@pytest.mark.usefixtures("stretch")
def test_delta(models, tmp_path):
    netweight.delta(models[0], models[1:], tmp_path / "near", executor=ThreadExecutor(1))
    netweight.delta(models[0], models[1:], tmp_path / "far", executor=FarExecutor())
    assert tree(tmp_path / "near") == tree(tmp_path / "far")


@pytest.mark.usefixtures("stretch")
def test_pictures(models):
    near, far = (
        netweight.delta(models[0], models[1:], executor=executor, pictured=True)
        for executor in (ThreadExecutor(1), FarExecutor())
    )
    assert [p.pictures for p in near.parameters] == [p.pictures for p in far.parameters]
    assert all(sum(held["counts"]) for p in near.parameters for held in p.pictures)


def test_scan(models, tmp_path):
    for name, executor in (("near", ThreadExecutor(1)), ("far", FarExecutor())):
        netweight.scan(models[0], methods="all", output=tmp_path / name / "scan.json", executor=executor)
    assert tree(tmp_path / "near") == tree(tmp_path / "far")


@pytest.mark.usefixtures("stretch")
def test_compare(models):
    near, far = (
        netweight.compare(*models[1:], methods="all", executor=executor).to_dict()
        for executor in (ThreadExecutor(1), FarExecutor())
    )
    assert repr(near) == repr(far)


@pytest.mark.usefixtures("stretch")
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ties", {"density": 0.3}),
        ("della", {"density": 0.5}),
        ("model_stock", {"filter_wise": True}),
        ("sce", {}),
        ("arcee_fusion", {}),
        ("ramplus_tl", {"epsilon": 0.002}),
        ("slerp", {"t": 0.3}),
    ],
)
def test_merge_and_verify(models, tmp_path, method, settings):
    others = models[1:2] if method in ("arcee_fusion", "slerp") else models[1:]
    for name, executor in (("near", ThreadExecutor(1)), ("far", FarExecutor())):
        netweight.merge(
            None, tmp_path / name, base=models[0], models=others, method=method, settings=settings, executor=executor
        )
    near, far = tree(tmp_path / "near"), tree(tmp_path / "far")
    assert near == far
    assert netweight.verify(tmp_path / "far", executor=FarExecutor()).good
    with (tmp_path / "far" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\x11\x22\x33\x44")
    bad = netweight.verify(tmp_path / "far", executor=FarExecutor())
    assert [(v.verdict, v.differing > 0) for v in bad.verdicts if v.verdict != "same"] == [("differs", True)]


def test_little_is_sent(tmp_path):
    """Of bfloat16 models, as they are in practice: below one part in a hundred of what is read."""
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal((1024, 2048), "bfloat16", seed=i) for i in range(3)}
    paths = [save(tmp_path / "base", base), save(tmp_path / "tune", tuned(base, 1))]
    read = 2 * sum(a.nbytes for a in base.values())
    executor = FarExecutor()
    netweight.delta(paths[0], paths[1:], executor=executor)
    assert executor.moved < read / 100
    executor = FarExecutor()
    netweight.merge(
        None, tmp_path / "out", base=paths[0], models=paths[1:], method="ties", weights=[1.0],
        settings={"density": 0.2}, executor=executor,
    )  # fmt: skip
    assert executor.moved < read / 100


def test_little_is_sent_of_a_parameter_of_many_stretches(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "STRETCH", 1 << 21)
    base = {"model.embed_tokens.weight": normal((1 << 12, 1 << 11), "bfloat16", seed=1)}
    paths = [save(tmp_path / "base", base), save(tmp_path / "tune", tuned(base, 1))]
    executor = FarExecutor()
    netweight.delta(paths[0], paths[1:], executor=executor)
    assert executor.moved < 2 * base["model.embed_tokens.weight"].nbytes / 100


def test_relative_paths_mean_the_folder_they_were_named_in(models, tmp_path, monkeypatch):
    monkeypatch.chdir(models[0].parent)

    class Elsewhere(FarExecutor):
        def _sent(self, value):
            monkeypatch.chdir(models[0].parent)
            blob = pickle.dumps(value)
            monkeypatch.chdir(tmp_path)
            return pickle.loads(blob)

        def close(self):
            raise AssertionError("whoever made it closes it")

    near = netweight.delta("base", ["tune1"])

    class Back(Elsewhere):
        def run(self, next_task, work):
            yield from super().run(next_task, work)
            monkeypatch.chdir(models[0].parent)  # where the inputs are looked at once more, at the end

    assert repr(netweight.delta("base", ["tune1"], executor=Back()).to_dict()) == repr(near.to_dict())


def test_a_file_cut_short_meanwhile_is_one_line_of_its_name(models, tmp_path):
    path = save(tmp_path / "base", {"w": normal((300, 200), seed=1)})

    class Cut(FarExecutor):
        def run(self, next_task, work):
            with (tmp_path / "base" / "model.safetensors").open("r+b") as file:
                file.truncate(1000)
            yield from super().run(next_task, work)

    with pytest.raises(ReadError, match=r"model\.safetensors: changed since it was opened.*now 1000") as caught:
        netweight.delta(path, [path], executor=Cut())
    assert "\n" not in str(caught.value)


def test_thread_locals_stay_behind():
    work = FarWork()
    work._own.buffer = 1
    work.kept = [2]
    arrived = pickle.loads(pickle.dumps(work))
    assert (work.far, arrived.far, arrived.kept) == (False, True, [2])
    assert not hasattr(arrived._own, "buffer")


def test_embeddings_fill_memory_that_workers_share(models):
    executor = FarExecutor()
    executor.shares_memory = False
    with pytest.raises(OptionError, match=r"^embeddings: expected an executor whose workers share memory, such as"):
        netweight.embeddings(models[0], max_k=3, executor=executor)
