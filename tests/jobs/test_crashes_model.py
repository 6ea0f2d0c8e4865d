"""The record of tests/jobs/crashes.py itself: ways of writing a file that are known to be safe, or not."""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from crashes import needs_folder_sync, recorded

pytestmark = needs_folder_sync


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def states(root, write):
    """What a file `f`, which held b"old", may hold after a crash, while and after `write` makes it b"new"."""
    (root / "f").write_bytes(b"old")
    with recorded(root) as record:
        write(root)
    assert (root / "f").read_bytes() == b"new"
    return {state.tree.get("f") for state in record.states()}, record.least().get("f")


def in_place(root):
    (root / "f").write_bytes(b"new")


def written(root):
    with (root / "g").open("wb") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())


def renamed(root):
    written(root)
    (root / "g").rename(root / "f")


def safe(root):
    renamed(root)
    sync(root)


def not_synced(root):
    (root / "g").write_bytes(b"new")
    (root / "g").rename(root / "f")
    sync(root)


def synced_after(root):
    not_synced(root)
    sync(root / "f")


def removed_first(root):
    written(root)
    (root / "f").unlink()
    (root / "g").rename(root / "f")
    sync(root)


def copied(root):
    written(root)
    shutil.copyfile(root / "g", root / "f")
    sync(root / "f")


@pytest.mark.parametrize(
    ("write", "may_be", "at_the_end"),
    [
        (in_place, {b"old", b"new", b""}, b"old"),
        (renamed, {b"old", b"new"}, b"old"),
        (safe, {b"old", b"new"}, b"new"),
        (not_synced, {b"old", b"new", b"", b"\0\0\0"}, b""),
        (synced_after, {b"old", b"new", b"", b"\0\0\0"}, b"new"),
        (removed_first, {b"old", b"new", None}, b"new"),
        (copied, {b"old", b"new", b""}, b"new"),
    ],
)
def test_what_is_known_of_files(tmp_path, write, may_be, at_the_end):
    assert states(tmp_path, write) == (may_be, at_the_end)


def test_names_are_lost_one_by_one_and_folders_with_what_is_in_them(tmp_path):
    with recorded(tmp_path) as record:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "f").write_bytes(b"x")
        sync(tmp_path / "a" / "f")
        sync(tmp_path / "a")
        (tmp_path / "b").mkdir()
        sync(tmp_path)
    assert record.least() == {"a": None, "b": None, "a/f": b"x"}
    trees = [state.tree for state in record.states()]
    assert {"b": None} in trees  # its name came to the disk, the earlier one's did not
    assert {"a": None, "b": None} not in trees  # a/f was synced, and its name too, before there was a b
    assert not any("a/f" in tree and "a" not in tree for tree in trees)


def test_a_rename_is_whole_and_a_new_file_of_an_old_inode_is_another(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"one")
    with recorded(tmp_path) as record:
        (tmp_path / "a" / "f").rename(tmp_path / "b" / "f")
        sync(tmp_path / "b")
        (tmp_path / "b" / "f").unlink()
        (tmp_path / "b" / "g").write_bytes(b"two")
    assert record.least() == {"a": None, "b": None, "b/f": b"one"}
    found = [(state.tree.get("a/f"), state.tree.get("b/f")) for state in record.states()]
    assert set(found) == {(b"one", None), (None, b"one"), (None, None)}


@pytest.mark.skipif(sys.platform not in {"linux", "darwin"}, reason="other systems have no exchange of names")
def test_an_exchange_is_one_step(tmp_path):
    from netweight.output import exchange

    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    with recorded(tmp_path) as record:
        if not exchange.swap(tmp_path / "a", tmp_path / "b"):
            pytest.skip("no exchange on this file system")
    assert sorted((s.tree["a/f"], s.tree["b/f"]) for s in record.states()) == [(b"a", b"b"), (b"b", b"a")]


def test_a_state_is_put_back_with_its_times(tmp_path):
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "d" / "f").write_bytes(b"x")
    os.utime(root / "d" / "f", ns=(10**18, 10**18))
    (root / "link").symlink_to("d/f")
    with recorded(root) as record:
        (root / "d" / "f").unlink()
    state = next(iter(record.states()))
    assert state.below("d") == {"f": b"x"}
    assert state.below("link") is None
    assert state.below("e") is None
    state.put(root)
    assert (root / "link").read_bytes() == b"x"
    assert (root / "d" / "f").stat().st_mtime_ns == 10**18
