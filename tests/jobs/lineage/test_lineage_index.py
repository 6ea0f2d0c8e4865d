"""An index of sketches: what is kept is what was read, again and again, and lies are found."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fine_tunes import changed, noise
from lineage_models import reordered, save, start

import netweight
from netweight.errors import BusyError, FormatError, ModelNotFoundError, OutputError
from netweight.jobs.lineage.features import LIKELY, SIZE, feature_of, scores
from netweight.jobs.lineage.index import Index, adding
from netweight.jobs.lineage.job import find_base
from netweight.jobs.lineage.relation import relate
from netweight.jobs.lineage.sketch import load_sketch, save_sketch
from netweight.jobs.lineage.sketching import sketch_of


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    base = start(1)
    save(folder / "base", base, "base_model: someone/else")
    for seed, name in enumerate(("one", "two", "three"), 11):
        save(folder / name, changed(base, noise(0.05), "", seed=seed), "base_model: org/base")
    save(folder / "stranger", start(2), "base_model: base")
    return folder


def test_a_sketch_comes_back_as_it_was(models, tmp_path) -> None:
    sketch = sketch_of(models / "base")
    save_sketch(sketch, tmp_path / "s.parquet")
    again = load_sketch(tmp_path / "s.parquet")
    assert again.about == sketch.about
    assert again.digest == sketch.digest
    assert list(again.tensors) == list(sketch.tensors)
    for key, held in sketch.tensors.items():
        other = again.tensors[key]
        np.testing.assert_array_equal(held.values, other.values)
        assert (held.shape, held.dtype, held.stored, held.rows, held.digest, held.parameter) == (
            other.shape, other.dtype, other.stored, other.rows, other.digest, other.parameter,
        )  # fmt: skip
    assert relate(sketch, again).relation == "identical"


def test_a_sketch_that_was_changed_is_refused(models, tmp_path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "s.parquet"
    save_sketch(sketch_of(models / "base"), path)
    table = pq.read_table(path)
    values = table.column("values").to_pylist()
    values[0] = bytes(8) + values[0][8:]
    lying = table.set_column(table.schema.get_field_index("values"), "values", [values])
    pq.write_table(lying.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(FormatError, match="not those that its digest is of; index the model again"):
        load_sketch(path)
    old = json.loads(table.schema.metadata[b"netweight.sketch"]) | {"sketch_version": 0}
    pq.write_table(table.replace_schema_metadata({b"netweight.sketch": json.dumps(old).encode()}), path)
    with pytest.raises(FormatError, match="version 0, expected 1"):
        load_sketch(path)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(FormatError, match="is no sketch"):
        load_sketch(path)


def test_it_grows_and_reads_only_what_is_new_or_has_changed(models, tmp_path) -> None:
    own = tmp_path / "models"
    shutil.copytree(models, own)
    index, done, failed = netweight.index_models([own / "base", own / "one"], tmp_path / "ix")
    assert (len(index), done, failed) == (2, ["base", "one"], [])
    index, done, _ = netweight.index_models(own, tmp_path / "ix")
    assert (len(index), sorted(done)) == (5, ["stranger", "three", "two"])
    before = index.load("one").digest
    shutil.rmtree(own / "one")
    save(own / "one", changed(start(1), noise(0.07), "", seed=99))
    index, done, _ = netweight.index_models(own, tmp_path / "ix")
    assert done == ["one"]
    assert index.load("one").digest != before
    again = Index.open(tmp_path / "ix")
    assert sorted(entry.name for entry in again.entries) == ["base", "one", "stranger", "three", "two"]
    assert again.features().shape == (5, SIZE)
    for entry, row in zip(again.entries, again.features(), strict=True):
        np.testing.assert_array_equal(row, feature_of(again.load(entry.name)))
    assert len(list((tmp_path / "ix").glob("features-*.f16"))) == 1


def test_a_first_look_finds_what_is_related(models) -> None:
    sketches = [sketch_of(models / name) for name in ("base", "one", "stranger")]
    vectors = np.stack([feature_of(sketch) for sketch in sketches])
    rows, tokens = scores(vectors, vectors[:1].astype("f4"))
    assert rows[1, 0] > 0.9
    assert abs(rows[2, 0]) < LIKELY
    assert tokens[1, 0] > 0.9
    shuffled = feature_of(sketch_of_reordered(models))
    assert scores(vectors, shuffled[None].astype("f4"))[1][0, 0] > 0.99


def sketch_of_reordered(models):
    folder = models.parent / "reordered"
    if not folder.exists():
        save(folder, reordered(start(1)))
    return sketch_of(folder)


def test_one_model_against_an_index(models, tmp_path) -> None:
    netweight.index_models([models / "base", models / "one", models / "stranger"], tmp_path / "ix")
    result = netweight.lineage(models / "two", index=tmp_path / "ix")
    assert sorted(result.families[0]) == ["base", "one", "two"]
    assert find_base(models / "two", tmp_path / "ix").name == "base"
    assert result.relation("two", "stranger") is None  # a first look has left it out
    disguised = sketch_of_reordered(models)
    found = netweight.lineage(models.parent / "reordered", index=tmp_path / "ix")
    assert found.relation("reordered", "base").relation == "reordered"
    assert disguised.name == "reordered"
    with pytest.raises(ModelNotFoundError, match="no model of the index"):
        find_base(save(tmp_path / "alone", start(77)), tmp_path / "ix")


def test_an_index_that_lies_is_found_out(models, tmp_path) -> None:
    index, _, _ = netweight.index_models([models / "base", models / "stranger"], tmp_path / "ix")
    sketches = tmp_path / "ix" / "sketches"
    base, stranger = (sketches / index.entry(name).file for name in ("base", "stranger"))
    shutil.copy(stranger, base)
    with pytest.raises(FormatError, match="other weights than the index says"):
        Index.open(tmp_path / "ix").load("base")
    held = json.loads((tmp_path / "ix" / "index.json").read_text())
    held["models"][0]["row"] = 7
    (tmp_path / "ix" / "index.json").write_text(json.dumps(held))
    with pytest.raises(FormatError, match="fewer models"):
        Index.open(tmp_path / "ix")


def test_places_that_cannot_be_an_index(models, tmp_path) -> None:
    with pytest.raises(ModelNotFoundError, match="is no index; make one"):
        netweight.lineage(models / "one", index=tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        netweight.index_models(models, tmp_path / "full")
    with adding(tmp_path / "ix"), pytest.raises(BusyError):
        netweight.index_models(models / "base", tmp_path / "ix")


def test_a_model_that_cannot_be_read_leaves_the_others(models, tmp_path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "model.safetensors").write_bytes(b"nothing")
    index, done, failed = netweight.index_models([bad, models / "base"], tmp_path / "ix")
    assert (len(index), done, len(failed)) == (1, ["base"], 1)
    with pytest.raises(FormatError):
        netweight.index_models(bad, tmp_path / "ix")
    assert len(Index.open(tmp_path / "ix")) == 1


def test_claims_are_checked(models, tmp_path) -> None:
    result = netweight.lineage([models / name for name in ("base", "one", "stranger")])
    verdicts = {(check.model, check.named): check.verdict for check in result.checks}
    assert verdicts == {
        ("base", "someone/else"): "undecided",
        ("one", "org/base"): "supported",
        ("stranger", "base"): "contradicted",
    }
    assert result.verdict == "contradicted"
    tuned = start(3)
    save(tmp_path / "a", tuned, "base_model:\n- org/b")
    save(tmp_path / "b", changed(tuned, noise(0.05), ""), "base_model: org/a")
    circle = netweight.lineage([tmp_path / "a", tmp_path / "b"])
    assert [check.verdict for check in circle.checks] == ["undecided", "undecided"]
    assert "claims to descend from" in circle.checks[0].reason


def test_a_claim_the_other_way_round_is_contradicted(tmp_path) -> None:
    tuned = start(3)
    save(tmp_path / "whole", tuned, "base_model: half")
    save(tmp_path / "half", {name: w.astype("f2") for name, w in tuned.items()})
    check = netweight.lineage([tmp_path / "whole", tmp_path / "half"]).checks[0]
    assert check.verdict == "contradicted"
    assert "other way round" in check.reason


def test_a_card_that_is_no_yaml_is_said(tmp_path) -> None:
    save(tmp_path / "a", start(1), "base_model: [x")
    save(tmp_path / "b", start(1))
    result = netweight.lineage([tmp_path / "a", tmp_path / "b"])
    assert any("what it claims is not known" in note for note in result.sketches[0].about.notes)
    assert result.checks == []
    assert result.verdict == "undecided"


def test_all_of_an_index_as_of_the_models_themselves(models, tmp_path) -> None:
    netweight.index_models(models, tmp_path / "ix")
    whole, given = netweight.lineage(index=tmp_path / "ix"), netweight.lineage(models)
    found = [{frozenset((r.a, r.b)): (r.relation, r.log10_p) for r in one.relations} for one in (whole, given)]
    assert found[0] == found[1]
    assert [s.digest for s in sorted(whole.sketches, key=lambda s: s.name)] == [
        s.digest for s in sorted(given.sketches, key=lambda s: s.name)
    ]
    assert sorted(map(sorted, whole.families)) == sorted(map(sorted, given.families))
    assert whole.to_dict()["families"]


def test_processes_find_what_one_does(models, tmp_path, monkeypatch) -> None:
    from netweight.jobs.lineage import whole_index

    netweight.index_models(models, tmp_path / "ix")
    monkeypatch.setattr(whole_index, "_FEW", 1)
    one, two = (netweight.lineage(index=tmp_path / "ix", processes=count) for count in (1, 2))
    assert one.to_dict() == two.to_dict()


def test_too_many_models_at_once_are_sent_to_an_index(tmp_path, monkeypatch) -> None:
    from netweight.errors import OptionError
    from netweight.jobs.lineage import job

    monkeypatch.setattr(job, "_MOST", 2)
    with pytest.raises(OptionError, match="make an index"):
        netweight.lineage(["a", "b", "c"])


def test_another_model_of_the_same_name_is_not_overlooked(models, tmp_path) -> None:
    """A suspect that is called as its base is compared with it, and found in it."""
    netweight.index_models([models / "base", models / "stranger"], tmp_path / "ix")
    suspect = save(tmp_path / "base", changed(start(1), noise(0.02), "", seed=3))
    result = netweight.lineage(suspect, index=tmp_path / "ix")
    assert result.relation("base", "base (index)").relation == "fine-tune"
    assert find_base(suspect, tmp_path / "ix").ref == str(models / "base")
    again = netweight.lineage(models / "base", index=tmp_path / "ix")  # the model itself is not its own relative
    assert again.relations == []
    shutil.copytree(models / "base", tmp_path / "copy" / "base")
    copied = netweight.lineage(tmp_path / "copy" / "base", index=tmp_path / "ix")
    assert copied.relation("base", "base (index)").relation == "identical"
    with pytest.raises(ModelNotFoundError):
        find_base(tmp_path / "copy" / "base", tmp_path / "ix")


def test_two_models_of_one_name_are_both_kept(models, tmp_path) -> None:
    other = save(tmp_path / "other" / "base", start(50))
    netweight.index_models(models / "base", tmp_path / "ix")
    for _ in range(2):
        index, _, _ = netweight.index_models(other, tmp_path / "ix")
        assert [entry.name for entry in index.entries] == ["base", "other/base"]
    netweight.index_models(models / "base", tmp_path / "ix")
    assert Index.open(tmp_path / "ix").entry("base").path == str(models / "base")


def test_the_full_test_names_the_library_that_it_needs(models, monkeypatch) -> None:
    from netweight.errors import JobError
    from netweight.jobs.lineage import confirm

    monkeypatch.setattr(confirm, "find_spec", lambda _name: None)
    with pytest.raises(JobError, match=r"pip install netweight\[lineage\]"):
        netweight.confirm(models / "base", models / "one")


def test_relations_need_no_scipy(models) -> None:
    import subprocess
    import sys

    code = (
        "import sys, netweight; r = netweight.lineage(sys.argv[1:]);"
        " print(len(r.relations), [m for m in ('scipy', 'torch', 'pandas') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(models / "base"), str(models / "one"), str(models / "stranger")]
    assert subprocess.run(words, check=True, capture_output=True, text=True).stdout == "3 []\n"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]", "[" * 5000, "!!python/object/apply:os.system ['true']", "\x00"])
def test_a_hostile_card_or_recipe_claims_nothing_and_is_said(tmp_path, text) -> None:
    folder = save(tmp_path / "a", start(1), text)
    (folder / "mergekit_config.yml").write_text(text)
    about = sketch_of(folder).about
    assert about.claims == []
    assert sum("what it claims is not known" in note for note in about.notes) == 2


def test_a_sketch_with_other_fields_is_none(models, tmp_path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "s.parquet"
    save_sketch(sketch_of(models / "base"), path)
    table = pq.read_table(path)
    metadata = table.schema.metadata
    about = json.loads(metadata[b"netweight.sketch"])
    for change in ({"more": 1}, {"name": None, "sketch_version": "one"}):
        said = metadata | {b"netweight.sketch": json.dumps(about | change).encode()}
        pq.write_table(table.replace_schema_metadata(said), path)
        with pytest.raises(FormatError):
            load_sketch(path)
    pq.write_table(table.drop_columns(["values"]), path)
    with pytest.raises(FormatError, match="is no sketch"):
        load_sketch(path)


def test_a_disk_that_refuses_keeps_what_was_added(models, tmp_path, monkeypatch) -> None:
    import errno

    from netweight.errors import JobError
    from netweight.jobs.lineage import index

    whole = index.save_sketch

    def full(sketch, path):
        if sketch.name == "two":
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(sketch, path)

    monkeypatch.setattr(index, "save_sketch", full)
    with pytest.raises(JobError, match="No space left"):
        netweight.index_models([models / "base", models / "one", models / "two"], tmp_path / "ix")
    assert [entry.name for entry in Index.open(tmp_path / "ix").entries] == ["base", "one"]
