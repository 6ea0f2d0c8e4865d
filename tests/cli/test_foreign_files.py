"""Files of others where results must go: every command refuses before it measures, and says so in a dry run too."""

from __future__ import annotations

import pytest
from task_vectors import netweight as program
from task_vectors import normal, save, tuned

from netweight.checkpoint.tensors.stored import StoredTensor
from netweight.cli.main import main


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = {f"model.layers.{i}.mlp.up_proj.weight": normal((20, 30), seed=i) for i in range(2)}
    base["model.embed_tokens.weight"] = normal((40, 30), seed=5)
    save(folder / "base", base, {"model_type": "llama"})
    save(folder / "one", tuned(base, 1), {"model_type": "llama"})
    return folder


COMMANDS = {
    "delta": (["delta", "--base", "base", "--models", "one", "--outdir"], "one/summary.json"),
    "structure": (["structure", "one", "--base", "base", "--output-dir"], "model_comparison.json"),
    "structures": (["structure", "--models-dir", ".", "--output-dir"], "models_summary.csv"),
    "compared structures": (
        ["structure", "--models-dir", ".", "--base", "base", "--output-dir"],
        "reduction_by_layer.png",
    ),
    "embeddings": (["embeddings", "one", "--max-k", "3", "--output-dir"], "anova_curve.png"),
    "embeddings' tokens": (["embeddings", "one", "--max-k", "3", "--output-dir"], "cluster_representatives.json"),
    "pictures": (["scan", "one", "--methods", "all", "--plots"], "rank_efficiency.png"),
    "dashboard": (["scan", "one", "--plots"], "health.png"),
}


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry run"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_of_others_ends_the_run_before_it_measures(models, tmp_path, capsys, monkeypatch, command, dry):
    monkeypatch.setattr(StoredTensor, "read_into", lambda *_: pytest.fail("tensor data was read"))
    monkeypatch.chdir(models)
    words, name = COMMANDS[command]
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("another tool's result")
    with pytest.raises(SystemExit) as left:
        main([*words, str(tmp_path / "out"), *dry])
    shown = capsys.readouterr()
    assert (left.value.code, shown.out) == (2, "")
    assert shown.err == (
        f"error: {tmp_path / 'out'}: holds 1 file that is not netweight's where results must go: {name}; choose "
        "another output folder, or move it away\n"
    )
    assert theirs.read_text() == "another tool's result"
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()] == [f"out/{name}"]


@pytest.mark.parametrize("command", ["delta", "structures", "structure", "embeddings", "pictures"])
def test_what_is_checked_is_what_is_written_and_a_second_run_replaces_it(models, tmp_path, command):
    words, _ = COMMANDS[command]
    out = tmp_path / "out"
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "mine.txt").write_text("mine")
    for _ in range(2):
        done = program(*words, str(out), cwd=models)
        assert done.returncode == 0, done.stderr
    assert (out / "notes" / "mine.txt").read_text() == "mine"
    # without the list of netweight's files, each of them is somebody's
    (out / ".netweight.json").unlink()
    written = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and "notes" not in p.parts)
    before = {name: (out / name).read_bytes() for name in written}
    done = program(*words, str(out), "--dry-run", cwd=models)
    assert done.returncode == 2
    known = [name for name in written if not name.startswith("tensor_")]  # which are drawn follows from the values
    assert f"holds {len(known)} files that are not netweight's where results must go: {known[0]}, " in done.stderr
    assert program(*words, str(out), cwd=models).returncode == 2
    assert {name: (out / name).read_bytes() for name in written} == before


def test_a_picture_of_others_with_a_name_that_follows_from_the_values_is_kept(models, tmp_path):
    out = tmp_path / "out"
    words = ["scan", "one", "--plots", str(out), "--output", str(tmp_path / "s.json")]
    assert program(*words, cwd=models).returncode == 0
    picture = next(out.glob("tensor_01_*.png"))
    for path in [*out.iterdir()]:
        if path != picture:
            path.unlink()
    picture.write_text("theirs")
    (tmp_path / "s.json").unlink()
    done = program(*words, cwd=models)
    assert done.returncode == 1
    assert f"1 file that is not netweight's where results must go: {picture.name}" in done.stderr
    assert picture.read_text() == "theirs"
    assert (tmp_path / "s.json").exists()  # what was measured is not lost


def test_a_file_that_is_named_is_replaced(models, tmp_path):
    for words in (["scan", "one", "--output"], ["compare", "base", "one", "--output"], ["embeddings", "one", "--out"]):
        file = tmp_path / f"{words[0]}.csv"
        file.write_text("another tool's result")
        more = ["--max-k", "3"] if words[0] == "embeddings" else []
        done = program(*words, str(file), *more, cwd=models)
        assert done.returncode == 0, done.stderr
        assert "another tool" not in file.read_text()


@pytest.mark.parametrize("words", [["scan", "one"], ["compare", "base", "one"]], ids=["scan", "compare"])
def test_a_dry_run_says_that_the_output_cannot_be(models, tmp_path, words):
    (tmp_path / "a.json").mkdir()
    for place, said in ((tmp_path / "a.json", "is a folder"), (models / "one" / "a.json", "lies in the model")):
        dry = program(*words, "--output", str(place), "--dry-run", cwd=models)
        run = program(*words, "--output", str(place), cwd=models)
        assert (dry.returncode, dry.stderr) == (run.returncode, run.stderr) == (2, dry.stderr)
        assert said in dry.stderr


def test_a_models_own_folder_keeps_what_others_have_put_there(tmp_path):
    model = save(
        tmp_path / "models" / "m", {"model.layers.0.mlp.up_proj.weight": normal((8, 8))}, {"model_type": "llama"}
    )
    theirs = model / "analysis" / "structure_summary.txt"
    theirs.parent.mkdir()
    theirs.write_text("theirs")
    out = tmp_path / "gathered"
    done = program("structure", "--models-dir", str(tmp_path / "models"), "--output-dir", str(out))
    assert done.returncode == 0, done.stderr
    assert theirs.read_text() == "theirs"
    assert "1 file that is not netweight's where results must go: structure_summary.txt" in done.stderr
    assert "parameters" in (out / "m" / "analysis" / "structure_summary.txt").read_text()
