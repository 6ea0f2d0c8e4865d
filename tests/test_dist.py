"""What `make dist` made works without the repository. `make test-dist` runs these; elsewhere they are skipped.

They need `build` and `hatchling`, and make an environment that holds nothing but the wheel and what it asks for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = os.environ.get("NETWEIGHT_DIST")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", "tools", ".ci", ".github")  # what the sdist has, whole
FILES = ("README.md", "README.zh-CN.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "CITATION.cff")
FILES += ("Makefile", "pyproject.toml", "constraints.txt", ".pre-commit-config.yaml")
LEFT = {"__pycache__", "node_modules", "data", "package-lock.json", ".mypy_cache"}

pytestmark = pytest.mark.skipif(FOLDER is None, reason="what is tested is built first: make test-dist")


def folder() -> Path:
    assert FOLDER is not None
    return ROOT / FOLDER


def wheel() -> Path:
    return folder() / f"netweight-{VERSION}-py3-none-any.whl"


def run(*command: str | Path, cwd: Path, errors: bool = False) -> str:
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "NETWEIGHT_DIST"}}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr if errors else done.stdout


def files_of(place: Path) -> set[str]:
    """The files below a folder of the project, without what tools leave there."""
    found = (p for p in place.rglob("*") if p.is_file() and not LEFT & {*p.parts} and not p.name.startswith(".venv"))
    return {p.relative_to(ROOT).as_posix() for p in found if ".venv" not in p.as_posix()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sdist, away from the repository."""
    place = tmp_path_factory.mktemp("sdist")
    with tarfile.open(folder() / f"netweight-{VERSION}.tar.gz") as archive:
        archive.extractall(place, filter="data")
    return place / f"netweight-{VERSION}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with the wheel."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=True)
    programs = place / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", wheel(), cwd=place)
    return programs


def test_the_sdist_has_everything(unpacked: Path) -> None:
    found = {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}
    wanted = {*FILES}.union(*(files_of(ROOT / name) for name in FOLDERS))
    assert sorted(wanted - found) == []
    assert sorted(found - wanted) == [".gitignore", "PKG-INFO"]


def test_the_wheel_has_the_package_and_nothing_else() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        names = {*archive.namelist()}
    about = f"netweight-{VERSION}.dist-info"
    package = {name.removeprefix("src/") for name in files_of(ROOT / "src")}
    assert package >= {"netweight/py.typed", "netweight/page/vendor/vendor.js"}
    assert names - package == {
        f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    }
    assert package <= names


@pytest.mark.parametrize("source", ["sdist", "repository"])
def test_the_wheel_is_the_same_from(source: str, unpacked: Path, tmp_path: Path) -> None:
    place = unpacked if source == "sdist" else ROOT
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, place, cwd=tmp_path)
    assert (tmp_path / wheel().name).read_bytes() == wheel().read_bytes()


def test_the_wheel_carries_the_code_of_all_loops() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        carried = [name for name in archive.namelist() if name.endswith(".loop")]
        listed = json.loads(archive.read("netweight/kernels/cpu/loops.json"))
    loops = {(name, kinds.replace(" ", "_").replace("?", "bool")) for loops in listed.values() for name, kinds in loops}
    for place in {name.rpartition("/")[0] for name in carried}:
        here = [Path(name).stem.split("-", 2) for name in carried if name.startswith(place)]
        assert {(loop, kinds) for loop, _, kinds in here} == loops
    assert carried


def test_the_wheel_says_its_version(installed: Path, tmp_path: Path) -> None:
    assert VERSION in run(installed / "netweight", "--version", cwd=tmp_path)
    place = run(installed / "python", "-c", "import netweight; print(netweight.__file__)", cwd=tmp_path)
    assert Path(place).is_relative_to(installed.parent)


def test_the_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "netweight", "demo", cwd=tmp_path, errors=True)
    assert "compiling" not in said
    assert "56 of 56 parameters verified" in said
    for name in ("report.html", "scan.json", "compare.json", "tv_stats/delta.parquet", "merged/model.safetensors"):
        assert (tmp_path / "demo" / name).stat().st_size > 0


def test_tests_of_the_sdist_pass(installed: Path, unpacked: Path) -> None:
    run(installed / "python", "-m", "pip", "install", "--quiet", "pytest", "hypothesis", cwd=unpacked)
    run(installed / "python", "-m", "pytest", "tests/test_project.py", "tests/test_links.py", cwd=unpacked)
