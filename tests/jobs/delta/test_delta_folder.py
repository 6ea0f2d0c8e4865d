"""Earlier results and foreign files; runs that fail; inputs that change; who may write where."""

from __future__ import annotations

import os
import shutil
import threading

import numpy as np
import pytest
from task_vectors import netweight as program
from task_vectors import normal, read_rows, save, tree, tuned

import netweight
from netweight.errors import BusyError, OutputError, ReadError
from netweight.run.progress import Silent
from netweight.source.local import PreadFile


@pytest.fixture
def models(tmp_path):
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal((30, 20), seed=i) for i in range(6)}
    save(tmp_path / "base", base)
    for i in (1, 2, 3):
        save(tmp_path / f"tune{i}", tuned(base, i))
    return tmp_path


class OnAdvance(Silent):
    """Calls `act` once, when the first parameter has been measured."""

    def __init__(self, act):
        self.act = act

    def advance(self, tensors, nbytes):
        if tensors and self.act:
            act, self.act = self.act, None
            act()


def folders(out):
    return sorted(p.name for p in out.iterdir() if p.is_dir())


def test_a_repeated_run_replaces_earlier_results(models):
    out = models / "out"
    netweight.delta(models / "base", [models / "tune1", models / "tune2"], out)
    (out / "notes.txt").write_text("mine")
    (out / "tune1" / "mine.txt").write_text("mine too")
    (out / "delta.parquet").write_bytes(b"damaged")
    netweight.delta(models / "base", [models / "tune2", models / "tune3"], out)
    assert folders(out) == ["tune1", "tune2", "tune3"]
    assert [p.name for p in (out / "tune1").iterdir()] == ["mine.txt"]
    fresh = models / "fresh"
    netweight.delta(models / "base", [models / "tune2", models / "tune3"], fresh)
    assert tree(out) == {**tree(fresh), "notes.txt": b"mine", "tune1/mine.txt": b"mine too"}


def test_the_exchange_is_one_step(models, monkeypatch):
    """While the second run works and writes, the first one's results are whole; only the exchange changes them."""
    from netweight.output import folder

    out = models / "out"
    netweight.delta(models / "base", [models / "tune1"], out)
    before = tree(out)
    seen = []
    exchange = folder.put_in_place

    def watched(new, target, aside):
        seen.append(tree(target))
        exchange(new, target, aside)
        seen.append(tree(target))

    monkeypatch.setattr(folder, "put_in_place", watched)
    netweight.delta(models / "base", [models / "tune2"], out, progress=OnAdvance(lambda: seen.append(tree(out))))
    assert seen[0] == seen[1] == before
    assert seen[2] == tree(out) != before


def test_a_failed_run_leaves_the_earlier_results(models, monkeypatch):
    out = models / "out"
    netweight.delta(models / "base", [models / "tune1"], out)
    before = tree(out)
    read, calls = PreadFile.read_into, []

    def failing(self, offset, buffer):
        calls.append(offset)
        if len(calls) > 5:
            raise OSError(5, "Input/output error")
        return read(self, offset, buffer)

    with netweight.open(models / "base") as opened:
        header = min(t.offset for t in opened.values())
    monkeypatch.setattr(PreadFile, "read_into", lambda s, o, b: failing(s, o, b) if o >= header else read(s, o, b))
    with pytest.raises(ReadError) as caught:
        netweight.delta(models / "base", [models / "tune2"], out, workers=1)
    said = str(caught.value)
    assert "model.safetensors: tensor 'model.layers." in said
    assert "could not be read at element 0: [Errno 5] Input/output error; check the file and the disk" in said
    assert "\n" not in said
    assert tree(out) == before
    monkeypatch.setattr(PreadFile, "read_into", read)
    netweight.delta(models / "base", [models / "tune2"], out, resume=True)
    assert folders(out) == ["tune2"]


def test_a_file_cut_short_while_it_is_read(models):
    base = {"a": normal(10), "b": normal(3_000_000, seed=1)}
    save(models / "large", base)
    save(models / "large-tuned", tuned(base, 1))
    victim = models / "large-tuned" / "model.safetensors"
    with pytest.raises(ReadError, match=r"large-tuned/model\.safetensors: .*(cut short|changed since it was opened)"):
        netweight.delta(
            models / "large", [models / "large-tuned"], models / "out", workers=1,
            progress=OnAdvance(lambda: os.truncate(victim, 4096)),
        )  # fmt: skip
    assert not (models / "out").exists()


@pytest.mark.parametrize("change", ["rewritten", "touched", "replaced", "deleted"])
def test_an_input_that_changes_while_it_is_read(models, change):
    out = models / "out"
    netweight.delta(models / "base", [models / "tune1"], out)
    before = tree(out)
    victim = models / "tune2" / "model.safetensors"

    def act():
        if change == "rewritten":
            raw = bytearray(victim.read_bytes())
            raw[-1] ^= 1
            victim.write_bytes(raw)
        elif change == "touched":
            os.utime(victim, (1, 1))
        elif change == "replaced":
            shutil.copy2(victim, models / "copy")
            (models / "copy").replace(victim)
        else:
            victim.unlink()

    with pytest.raises(ReadError) as caught:
        netweight.delta(models / "base", [models / "tune2"], out, progress=OnAdvance(act))
    what = "is gone since it was opened" if change == "deleted" else "changed since it was opened"
    assert f"{victim}: {what}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tree(out) == before


def test_two_runs_into_one_folder(models):
    out = models / "out"
    found = []

    def second():
        found.append(program("delta", "--base", models / "base", "--models", models / "tune2", "--outdir", out))

    netweight.delta(models / "base", [models / "tune1"], out, progress=OnAdvance(second))
    done = found[0]
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"error: {out}: process {os.getpid()} is writing results there; wait for it to end, or choose another output"
        " folder\n"
    )
    assert folders(out) == ["tune1"]


def test_two_runs_in_one_process(models):
    out, errors = models / "out", []

    def second():
        def run():
            try:
                netweight.delta(models / "base", [models / "tune2"], out)
            except BusyError as error:
                errors.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    netweight.delta(models / "base", [models / "tune1"], out, progress=OnAdvance(second))
    assert len(errors) == 1
    assert folders(out) == ["tune1"]


def test_output_inside_an_input_and_around_it(models):
    expected = models / "elsewhere"
    netweight.delta(models / "base", [models / "tune1"], expected)
    for inside in (models / "tune1" / "out", models / "base" / "deep" / "out"):
        for _ in range(2):  # the second run has the first one's files in its input
            netweight.delta(models / "base", [models / "tune1"], inside)
            assert tree(inside) == tree(expected)
    for taken in ("base", "tune1"):
        before = tree(models / taken)
        with pytest.raises(OutputError, match="is an input model; choose another output folder"):
            netweight.delta(models / "base", [models / "tune1"], models / taken)
        assert tree(models / taken) == before
    single = models / "tune1" / "model.safetensors"
    netweight.delta(models / "base", [single], models / "tune1")
    assert single.exists()
    assert set(folders(models / "tune1")) == {"model", "out"}


def test_the_result_is_returned_and_nothing_written_without_outdir(models, monkeypatch):
    monkeypatch.chdir(models)
    before = tree(models)
    result = netweight.delta("base", ["tune1"])
    assert tree(models) == before
    with netweight.open("base") as b, netweight.open("tune1") as m:
        l2 = [np.linalg.norm(m[n].read().astype("f8") - b[n].read().astype("f8")) for n in b]
    assert result.frame.column("l2") == pytest.approx(l2, rel=1e-6)
    result.write("out")
    assert list(read_rows("out/tune1/per_param_stats.csv")) == list(b)
