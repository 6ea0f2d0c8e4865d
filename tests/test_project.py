"""Rules of the project that no linter knows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from netweight.version import __version__

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "netweight"
MODULES = sorted(SOURCE.rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LONGEST = 400
BANNED = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_names_say_what_lives_there() -> None:
    words = {path: set(re.split(r"[_/]", path.relative_to(SOURCE).with_suffix("").as_posix())) for path in MODULES}
    assert [path for path, found in words.items() if found & BANNED] == []


def test_every_folder_says_what_its_floor_is_for() -> None:
    for folder in {path.parent for path in MODULES}:
        first = (folder / "__init__.py").read_text(encoding="utf-8").splitlines()[0]
        assert re.match(r'"""\S.+', first), folder


def test_the_version_is_one() -> None:
    assert PYPROJECT["project"]["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_floors_are_those_of_the_architecture_document() -> None:
    (contract,) = [c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    floors: dict[int, set[str]] = {}
    for number, names in rows:
        floors.setdefault(int(number), set()).update(re.findall(r"`(\w+)`", names))
    assert [floors[n] for n in sorted(floors)] == [{*re.split(r"\s*\|\s*", layer)} for layer in contract["layers"]]
    assert set().union(*floors.values()) == {p.stem for p in SOURCE.iterdir() if p.name[0] not in "_."} - {"py"}


def test_a_core_install_has_no_torch() -> None:
    names = {re.split(r"[^\w-]", line)[0].lower() for line in PYPROJECT["project"]["dependencies"]}
    assert "numpy" in names
    assert not names & {"torch", "transformers", "safetensors"}
