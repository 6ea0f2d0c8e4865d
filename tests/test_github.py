"""The files for the code host and for those who cite: they parse, and agree with the project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [p for p in sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")) if p.stem != "config"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_may_only_read_and_runs_what_there_is(path: Path) -> None:
    made = read(path)
    assert made["permissions"] == {"contents": "read"}
    assert True in made  # `on`, which YAML 1.1 takes for a truth value
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for step in steps(path):
        assert len({"run", "uses"} & {*step}) == 1
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_tests_run_on_every_system_and_python_that_is_named() -> None:
    matrix = read(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert {*named} <= {*matrix["python"]}


def test_publishing_needs_a_tag_the_tests_and_no_secret() -> None:
    path = ROOT / ".github" / "workflows" / "publish.yml"
    made = read(path)
    assert made[True] == {"push": {"tags": ["v*"]}}
    assert made["jobs"]["publish"]["needs"] == "build"
    assert made["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert {"run": "make test-dist"} in made["jobs"]["build"]["steps"]
    assert "secrets." not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_a_form_asks_for_something(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= {*form}
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all({"id", "attributes"} <= {*field} and field["type"] in {"textarea", "input"} for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_hooks_are_those_of_make_check() -> None:
    (local,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    entries = " ".join(hook["entry"] for hook in local["hooks"])
    check = re.search(r"^check:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert check is not None
    for program in re.findall(r"\$\(BIN\)/([\w-]+)", check[1]):
        assert program in entries


def test_the_citation_is_of_this_version() -> None:
    cited = read(ROOT / "CITATION.cff")
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    assert cited["title"] == PROJECT["name"]
    assert cited["authors"] == [{"name": "the netweight authors"}]  # as in LICENSE
    assert "the netweight authors" in (ROOT / "LICENSE").read_text(encoding="utf-8")
