"""A model's folder: an earlier model of one's own is replaced when asked for, everything else is refused; the stage of
a stopped run goes on; big files are never copied.
"""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netweight.errors import JobError, OutputError
from netweight.output import entries, exchange, folder
from netweight.output.folder import ResultFolder
from netweight.output.manifest import read_manifest

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
ONE = {"model.safetensors": "one", "config.json": "{}", "README.md": "card one", "vocab.txt": "one"}
TWO = {"model-00001-of-00002.safetensors": "two", "model-00002-of-00002.safetensors": "2", "README.md": "card two"}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".netweight.json"
    }


def merge(target, files, *, overwrite=False, inputs=(), resume=False, sync=True, before_commit=lambda _: None):
    options = {"resume": resume, "keep_stage": True, "sync": sync, "replace": overwrite}
    with ResultFolder(target, inputs, "merge", **options) as results:
        results.journal_path.write_text("journal")
        write(results.stage, files)
        before_commit(results)
        return results.commit()


def stop(target, files, **options):
    """A run that has staged `files` and is stopped."""

    def now(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(target, files, before_commit=now, **options)


def refused(target, **options) -> str:
    with pytest.raises(OutputError) as caught:
        merge(target, TWO, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=["exchange", "two renames", "entries"])
def way(request, monkeypatch):
    def cannot(*_):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    if request.param == "two renames":
        monkeypatch.setattr(exchange, "swap", lambda *_: False)
    if request.param == "entries":
        monkeypatch.setattr(exchange, "swap", cannot)
    return request.param


@pytest.fixture
def never_copied(monkeypatch):
    def copied(*names, **_):
        raise AssertionError(f"copied: {names}")

    for function in ("copy2", "copy", "copyfile", "copyfileobj"):
        monkeypatch.setattr(shutil, function, copied)


def test_a_new_or_an_empty_folder(tmp_path, never_copied, way):
    assert merge(tmp_path / "new", ONE) == ()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "lost+found").mkdir()
    merge(tmp_path / "empty", ONE)
    for name in ("new", "empty"):
        assert tree(tmp_path / name) == ONE
        assert read_manifest(tmp_path / name) == ({"merge": sorted(ONE)}, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "new"]


def test_an_earlier_merge_is_replaced_only_when_asked_for(tmp_path, never_copied, way):
    target = tmp_path / "out"
    merge(target, ONE)
    assert refused(target) == (
        f"{target}: holds an earlier merge; give --overwrite to replace it, or choose another output folder"
    )
    assert tree(target) == ONE
    write(target, {"notes.txt": "mine", "plots/loss.safetensors": "mine"})
    merge(target, TWO, overwrite=True)
    assert tree(target) == TWO | {"notes.txt": "mine", "plots/loss.safetensors": "mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("files", [{"notes.txt": "x"}, {".git/HEAD": "x"}, {"model.safetensors": "x"}, {"a/b": "x"}])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_somebodys_is_refused(tmp_path, files, overwrite):
    target = tmp_path / "out"
    write(target, files)
    assert refused(target, overwrite=overwrite) == (
        f"{target}: is not empty, and no merge of netweight's made it; remove it, or choose another output folder"
    )
    assert tree(target) == files
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_results_of_another_kind_are_somebodys_too(tmp_path):
    with ResultFolder(tmp_path / "out", [], "delta") as results:
        write(results.stage, {"x.csv": "x"})
        results.commit()
    assert "is not empty, and no merge of netweight's made it" in refused(tmp_path / "out", overwrite=True)


def test_a_damaged_list_protects_the_folder(tmp_path):
    merge(tmp_path / "out", ONE)
    (tmp_path / "out" / ".netweight.json").write_text("{")
    assert "no merge of netweight's made it" in refused(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "PYTORCH_MODEL.BIN", "x.index.json", "tokenizer.json", "adapter_config.json",
     "generation_config.json", "qwen.tiktoken", "modules.json", "normalizer.json", "sentence_bert_config.json"],
)  # fmt: skip
def test_what_would_be_loaded_with_the_model_is_refused(tmp_path, name):
    target = tmp_path / "out"
    merge(target, ONE)
    write(target, {name: "foreign"})
    assert refused(target, overwrite=True) == (
        f"{target / name}: is not of the earlier merge, but would be loaded with the new model; move it away"
    )
    assert tree(target) == ONE | {name: "foreign"}


def test_results_of_other_jobs_in_the_models_folder_are_kept(tmp_path):
    target = tmp_path / "out"
    merge(target, ONE)
    with ResultFolder(target, [], "structure") as results:
        write(results.stage, {"analysis/structure.json": "s"})
        results.commit()
    merge(target, TWO, overwrite=True)
    assert tree(target) == TWO | {"analysis/structure.json": "s"}
    assert read_manifest(target)[0] == {"merge": sorted(TWO), "structure": ["analysis/structure.json"]}


def test_inputs_lie_apart(tmp_path, monkeypatch):
    model = tmp_path / "model"
    write(model, {"model.safetensors": "w"})
    (tmp_path / "alias").symlink_to(model)
    for place in (model, tmp_path / "alias"):
        assert refused(place / "sub" / "out", inputs=[tmp_path / "x", place]) == (
            f"{place / 'sub' / 'out'}: lies in the folder of the input model {place}; choose an output folder outside "
            "of it"
        )
        assert refused(place, inputs=[model]) == f"{place}: is an input model; choose another output folder"
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "deep" / "model", {"model.safetensors": "w"})
    inner = tmp_path / "out" / "deep" / "model" / "model.safetensors"
    for given in (inner, inner.parent):
        assert refused(tmp_path / "out", inputs=[given], overwrite=True) == (
            f"{tmp_path / 'out'}: the input model {given} lies in it; choose another output folder"
        )
    assert refused(model, inputs=[model / "model.safetensors"], overwrite=True) == (
        f"{model}: the input model {model / 'model.safetensors'} lies in it; choose another output folder"
    )
    monkeypatch.chdir(model)
    assert refused(Path("out"), inputs=[Path()]) == (
        "out: lies in the folder of the input model .; choose an output folder outside of it"
    )
    assert tree(model) == {"model.safetensors": "w"}
    # files beside each other are no folder of a model's own
    merge(tmp_path / "files" / "out", ONE, inputs=[tmp_path / "files" / "base.safetensors"])


def test_a_folder_that_came_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "out"
    with pytest.raises(JobError) as caught:
        merge(target, ONE, before_commit=lambda _: write(target, {"model.safetensors": "theirs"}))
    assert str(caught.value) == (
        f"{target}: is not empty, and no merge of netweight's made it; remove it, or choose another output folder; "
        "then run again with --resume"
    )
    assert tree(target) == {"model.safetensors": "theirs"}
    shutil.rmtree(target)
    merge(target, {}, resume=True)
    assert tree(target) == ONE


def test_the_stage_of_a_stopped_run_goes_on(tmp_path):
    target = tmp_path / "out"
    stop(target, ONE)
    assert not target.exists()
    assert tree(tmp_path) == {
        ".out.netweight-run/journal.jsonl": "journal",
        ".out.netweight-run/unfinished": "",
    } | {f".out.netweight-run/stage/{name}": text for name, text in ONE.items()}
    stop(target, {"more": "m"}, resume=True)
    assert merge(target, {}, resume=True) == ()
    assert tree(target) == ONE | {"more": "m"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_without_resume_or_journal_the_stage_is_cleared(tmp_path):
    stop(tmp_path / "out", ONE)
    stop(tmp_path / "out", {"two": "2"})
    assert tree(tmp_path / ".out.netweight-run" / "stage") == {"two": "2"}
    (tmp_path / ".out.netweight-run" / "journal.jsonl").unlink()
    merge(tmp_path / "out", {"three": "3"}, resume=True)
    assert tree(tmp_path / "out") == {"three": "3"}


def test_other_jobs_keep_no_stage(tmp_path):
    with ResultFolder(tmp_path / "out", [], "delta") as results:
        write(results.stage, ONE)
    assert list(tmp_path.iterdir()) == []
    stop(tmp_path / "out", ONE)
    with ResultFolder(tmp_path / "out", [], "delta", resume=True) as results:
        assert list(results.stage.iterdir()) == []


def test_nothing_is_left_where_nothing_was_staged(tmp_path):
    options = {"resume": False, "keep_stage": True, "replace": False}
    with pytest.raises(KeyError), ResultFolder(tmp_path / "new" / "out", [], "merge", **options):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", ["sync_tree", "put_in_place"])
def test_a_disk_that_is_full_at_the_commit(tmp_path, monkeypatch, way, point):
    """What the commit had carried into the stage by then is not the model's."""
    target = tmp_path / "out"
    merge(target, ONE)
    write(target, {"notes.txt": "mine", "closed/x": "mine", "empty/x": ""})
    (target / "empty" / "x").unlink()
    (target / "closed").chmod(0o555)

    def full(*arguments, **_):
        if point == "put_in_place" or arguments[0].name == "stage":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    with monkeypatch.context() as patch:
        patch.setattr(folder, point, full)
        with pytest.raises(JobError, match="make room, then run again with --resume"):
            merge(target, TWO, overwrite=True)
    assert tree(target) == ONE | {"notes.txt": "mine", "closed/x": "mine"}
    (target / "notes.txt").unlink()
    merge(target, {"last": "l"}, overwrite=True, resume=True)
    assert tree(target) == TWO | {"last": "l", "closed/x": "mine"}
    assert read_manifest(target)[0] == {"merge": sorted([*TWO, "last"])}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_stage_whose_list_is_damaged_is_not_taken_up(tmp_path):
    stop(tmp_path / "out", ONE)
    (tmp_path / ".out.netweight-run" / "stage" / ".netweight.json").write_text("{")
    merge(tmp_path / "out", TWO, resume=True)
    assert tree(tmp_path / "out") == TWO


def test_a_link_in_the_stages_place_is_refused(tmp_path):
    stop(tmp_path / "out", ONE)
    stage = tmp_path / ".out.netweight-run" / "stage"
    stage.rename(tmp_path / "elsewhere")
    stage.symlink_to(tmp_path / "elsewhere")
    assert f"cannot take results: {os.strerror(errno.EEXIST)}" in refused(tmp_path / "out", resume=True)
    assert tree(tmp_path / "elsewhere") == ONE


def test_without_sync_nothing_is_synced(tmp_path, monkeypatch, way):
    def never(*_):
        raise AssertionError("synced")

    monkeypatch.setattr(os, "fsync", never)
    monkeypatch.setattr(os, "fdatasync", never, raising=False)
    merge(tmp_path / "out", ONE, sync=False)
    write(tmp_path / "out", {"notes.txt": "n"})
    merge(tmp_path / "out", TWO, sync=False, overwrite=True)
    assert tree(tmp_path / "out") == TWO | {"notes.txt": "n"}


def test_killed_among_the_entries(tmp_path, monkeypatch):
    """A folder that is filled file by file, half of them: all in it is netweight's, and the next run may replace it."""
    target = tmp_path / "volume"
    target.mkdir()
    real = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == target or real(path))
    moved = []

    def killed(source, place, *, sync):
        if len(moved) == 2:
            raise KeyboardInterrupt
        moved.append(place.name)
        source.replace(place)

    with monkeypatch.context() as patch:
        patch.setattr(entries, "move_file", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(target, ONE)
    assert len(tree(target)) >= 3  # two files, and the journal and the rest of the stage
    assert "give --overwrite to replace it" in refused(target, resume=True)
    (note,) = merge(target, TWO, overwrite=True)
    assert "not in one step: it cannot be renamed (a mount point" in note
    assert tree(target) == TWO


@pytest.fixture
def bound(tmp_path):
    """A folder mounted from the same file system."""
    (tmp_path / "real").mkdir()
    place = tmp_path / "bound"
    place.mkdir()
    if not ROOT or sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("a folder cannot be mounted here")
    if subprocess.run(["mount", "--bind", tmp_path / "real", place], check=False, capture_output=True).returncode:
        pytest.skip("a folder cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_files_are_moved_and_not_copied_into_a_mount(bound, never_copied):
    assert not os.path.ismount(bound)  # which is why this needs a test
    (note,) = merge(bound, ONE)
    assert "not in one step: it cannot be renamed (a mount point" in note
    assert tree(bound) == tree(bound.parent / "real") == ONE
    merge(bound, TWO, overwrite=True)
    assert tree(bound) == TWO
    assert sorted(p.name for p in bound.parent.iterdir()) == ["bound", "real"]


DRIVER = r"""
import os, signal, sys
from pathlib import Path
from netweight.errors import OutputError
from netweight.output import exchange
from netweight.output.folder import ResultFolder

root, way = Path(sys.argv[1]), sys.argv[2]
if way == "two renames":
    exchange.swap = lambda first, second: False
import ctypes, shutil, encodings.ascii  # imports open files: not what is killed here

OLD = {"model.safetensors": "old", "vocab.txt": "old"}
NEW = {"model.safetensors": "new", "merges.txt": "new"}
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
    with ResultFolder(target, [], "merge", resume=resume, keep_stage=True, replace=True) as results:
        results.journal_path.write_text("journal")
        seen = tree(results.stage)
        write(results.stage, files)
        results.commit()
    return seen

resumed, point = set(), 0
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
    if target.exists():
        assert tree(target) in (OLD | MINE, NEW | MINE), (point, tree(target))
    staged = run(target, {"vocab.json": "newer"}, resume=True)
    # never what was replaced, never what is somebody else's
    assert staged.items() <= NEW.items(), (point, staged)
    resumed.add(len(staged))
    assert tree(target) == {"vocab.json": "newer"} | staged | MINE, (point, tree(target))
    assert os.listdir(root / str(point)) == ["out"], (point, os.listdir(root / str(point)))
    point += 1
print(point, *sorted(resumed))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("way_of_death", ["exchange", "two renames"])
def test_killed_at_every_call(tmp_path, way_of_death):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DRIVER, str(tmp_path), way_of_death],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    points, resumed = done.stdout.strip().split(" ", 1)
    assert int(points) > 60
    assert resumed == "0 1 2"
