"""What sentence-transformers reads beside a model is copied; what modules.json names stays inside the model."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from merge_families import family

import netweight
from netweight.checkpoint.place import LocalPlace
from netweight.errors import ModelNotFoundError
from netweight.jobs.merge.sentence_files import copy_sentence_files

POOLING = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
FILES = {
    "modules.json": json.dumps(MODULES),
    "1_Pooling/config.json": json.dumps(POOLING),
    "config_sentence_transformers.json": '{"prompts": {}}',
    "sentence_bert_config.json": '{"max_seq_length": 64}',
}


def fill(folder, files):
    for name, text in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Path(folder)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


@pytest.fixture
def copied(tmp_path):
    """A function: (what is copied of a model with these files, the notes)."""

    def copy(files, link=None):
        source, stage = tmp_path / "model", tmp_path / "stage"
        fill(source, files)
        stage.mkdir()
        if link is not None:
            (source / link[0]).symlink_to(link[1])
        notes = [note.replace(str(source), "MODEL") for note in copy_sentence_files(LocalPlace(source), stage)]
        return tree(stage), notes

    return copy


def module(path, kind="sentence_transformers.models.Pooling"):
    return json.dumps([MODULES[0], {"path": path, "type": kind}])


def test_a_merge_keeps_the_bases(tmp_path):
    """Pooling, prompts and length; the merge can be replaced, and a folder with a foreign modules.json is refused."""
    base, tuned, _, _ = family(tmp_path)
    fill(base, FILES)
    fill(tuned[0], {**FILES, "modules.json": "[]", "1_Pooling/config.json": "{}"})
    out = tmp_path / "out"
    notes = netweight.merge(None, out, base=base, models=tuned, weights=[0.1] * 3).notes
    assert not any("modules" in note or "not copied" in note for note in notes)
    assert {name: (out / name).read_text() for name in FILES} == FILES
    netweight.merge(None, out, base=base, models=tuned, weights=[0.1] * 3, overwrite=True)
    assert {name: (out / name).read_text() for name in FILES} == FILES
    assert netweight.verify(out).good


def test_a_conversion_keeps_them(tmp_path):
    base, _, _, _ = family(tmp_path, models=1)
    fill(base, FILES)
    netweight.convert(base, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_text() for name in FILES} == FILES


def test_files_alone(copied):
    assert copied(FILES) == (FILES, [])


def test_nothing_else_is_taken(copied):
    others = {
        "1_Pooling/README.md": "r", "1_Pooling/evil.py": "code", "3_Other/config.json": "{}", "config.json": "{}",
        "1_Pooling/x.index.json": "{}",
    }  # fmt: skip
    assert copied(FILES | others) == (FILES, [])


def test_weights_of_modules_are_said(copied):
    dense = {
        "modules.json": module("2_Dense", "sentence_transformers.models.Dense"),
        "2_Dense/config.json": '{"in_features": 16}',
        "2_Dense/model.safetensors": "w",
        "2_Dense/pytorch_model.bin": "w",
    }
    files, notes = copied(dense)
    assert set(files) == {"modules.json", "2_Dense/config.json"}
    weights = "'model.safetensors', 'pytorch_model.bin'"
    why = "sentence-transformers needs them: copy them from MODEL/2_Dense"
    assert notes == [f"2_Dense: its weights are not merged, and not written: {weights}; {why}"]


def test_modules_that_are_not_there(copied):
    files, notes = copied({"modules.json": module("1_Pooling")})
    assert set(files) == {"modules.json"}
    assert notes == ["modules.json: names 1_Pooling, and MODEL has no such files: the output gets none"]


def test_modules_with_code_of_their_own(copied):
    kinds = [("", "custom_st.Transformer"), ("1_Pooling", "org/repo--pooling.Pooling"), ("2_X", "a\x1b\n.B")]
    entries = [{"path": path, "type": kind} for path, kind in kinds]
    files = {"modules.json": json.dumps(entries), "1_Pooling/config.json": "{}", "2_X/config.json": "{}"}
    code = r"'a\\x1b\\n.py', 'custom_st.py'"
    assert copied(files)[1] == [
        f"modules.json: needs the model's own code, which is not copied: {code}; copy it from MODEL"
    ]


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "..",
        ".",
        "/etc",
        "a/b",
        "1_Pooling/../../x",
        "a\\b",
        "C:",
        "x\0",
        "é",
        "README.md",
        ".netweight-run",
        "-x",
    ],
)
def test_folders_stay_inside(copied, tmp_path, path):
    """modules.json is not copied either: it would lead its reader there."""
    fill(tmp_path / "x", {"config.json": "{}"})
    files, (note,) = copied({"modules.json": module(path), "config_sentence_transformers.json": "{}"})
    assert files == {"config_sentence_transformers.json": "{}"}
    assert note.startswith("not copied: MODEL/modules.json, module 1: names the folder ")
    assert note.endswith("expected one of letters, digits, - and _ beside modules.json")
    assert note.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, expected a JSON array"),
        ("{", "is not valid JSON"),
        ("{}", "holds a JSON object, expected an array"),
        ("7", "holds a JSON number, expected an array"),
        ("[" * 100_000, "is nested too deeply"),
        ("[1]", "module 0: expected an object with path and type, both text"),
        ('[{"path": "x"}]', "module 0: expected an object with path and type, both text"),
        ('[{"path": 5, "type": "x"}]', "module 0: expected an object with path and type, both text"),
        (json.dumps([MODULES[0]] * 101), "names 101 modules, expected at most 100"),
    ],
)
def test_modules_that_cannot_be_read(copied, text, message):
    files, (note,) = copied({"modules.json": text})
    assert files == {}
    assert note.startswith("not copied: MODEL/modules.json")
    assert message in note


@pytest.mark.parametrize("link", ["1_Pooling", "1_Pooling/config.json", "modules.json"])
def test_links_that_lead_out_are_not_followed(copied, tmp_path, link):
    outside = fill(tmp_path / "outside", {"config.json": "secret", "modules.json": module("")})
    target = {"1_Pooling": outside, "modules.json": outside / "modules.json"}.get(link, outside / "config.json")
    kept = {"modules.json": module("1_Pooling"), "1_Pooling/x.json": "{}"}
    if link == "1_Pooling":
        del kept["1_Pooling/x.json"]
    kept.pop(link, None)
    files, notes = copied(kept, (link, target))
    assert "secret" not in files.values()
    assert files == {name: text for name, text in kept.items() if link != "modules.json"}
    assert any(note.startswith("not copied: MODEL/") or "is a link to" in note for note in notes)
    assert any("outside its folder" in note for note in notes)


def test_large_files_are_refused(copied, tmp_path):
    fill(tmp_path / "model", FILES)
    for name in ("1_Pooling/config.json", "sentence_bert_config.json"):
        os.truncate(tmp_path / "model" / name, 17 << 20)
    files, notes = copied({})
    assert set(files) == {"modules.json", "config_sentence_transformers.json"}
    assert notes == [
        "not copied: MODEL/1_Pooling/config.json: 17825792 bytes, expected at most 16777216",
        "not copied: MODEL/sentence_bert_config.json: 17825792 bytes, expected at most 16777216",
    ]


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    source = fill(tmp_path / "model", FILES)
    (tmp_path / "stage").mkdir()
    names = LocalPlace.names

    def refuse(self, folder=""):
        if folder:
            raise ModelNotFoundError("1_Pooling: cannot be listed: Permission denied")
        return names(self)

    monkeypatch.setattr(LocalPlace, "names", refuse)
    notes = list(copy_sentence_files(LocalPlace(source), tmp_path / "stage"))
    assert notes[0] == "not copied: 1_Pooling: cannot be listed: Permission denied"
    assert set(tree(tmp_path / "stage")) == set(FILES) - {"1_Pooling/config.json"}


def test_a_place_that_cannot_be_listed(tmp_path):
    """A web server's folder: what is usual is asked for."""

    class Unlisted(LocalPlace):
        can_list = False

        def names(self, folder=""):
            return []

    source = fill(tmp_path / "model", FILES | {"1_Pooling/model.safetensors": "w"})
    (tmp_path / "stage").mkdir()
    (note,) = copy_sentence_files(Unlisted(source), tmp_path / "stage")
    assert tree(tmp_path / "stage") == FILES
    assert note.startswith("1_Pooling: its weights are not merged, and not written: 'model.safetensors'")


def test_many_files_are_refused(copied):
    files, notes = copied({"modules.json": module("1_Pooling")} | {f"1_Pooling/{n}.json": "{}" for n in range(101)})
    assert set(files) == {"modules.json"}
    assert notes == ["not copied: MODEL/1_Pooling: holds 101 files, expected at most 100"]
