"""The mutation run: which tests a module has, what is left alone, and the report. cosmic-ray is not needed here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import mutants

ROOT = Path(__file__).parents[2]


def test_every_module_has_tests_that_are_there():
    for package in mutants.PACKAGES:
        modules = mutants.modules_of(package)
        assert f"{package}/__init__.py" in modules
        for module in modules:
            assert mutants.tests_of(module)
    for name, tests in mutants.TESTS.items():
        assert (mutants.SOURCE / name).exists(), name
        for path, _, test in (given.partition("::") for given in tests):
            assert (ROOT / path).exists(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
    assert mutants.tests_of("run/plan.py") == mutants.TESTS["run/plan.py"]
    assert mutants.tests_of("merging/recipe/yaml.py") == mutants.TESTS["merging/recipe"]
    assert mutants.tests_of("output/folder.py") == mutants.TESTS["output"]


def test_annotations_are_left_alone():
    source = "def f(a: int | None, *, b: str = 'x' | y) -> list[int | str]:\n    c: int | None = a | b\n    return c\n"
    lines = source.splitlines()
    found = [lines[first[0] - 1][first[1] : last[1]] for first, last in mutants.annotated(source)]
    assert sorted(found) == ["int | None", "int | None", "list[int | str]", "str"]


def test_the_report():
    killed = mutants.Result(mutants.Mutant("run/plan.py", "NumberReplacer", 0, 3), "killed", "")
    late = mutants.Result(mutants.Mutant("run/plan.py", "AddNot", 0, 9), "timeout", "")
    lived = mutants.Result(mutants.Mutant("output/lock.py", "AddNot", 2, 31), "survived", "-if a\n+if not a")
    text = mutants.report({"output": 40, "run": 50}, [killed, late, lived], 7)
    assert "| output | 40 | 1 | 0 | 1 |\n| run | 50 | 2 | 2 | 0 |\n\n66.7% of 3 are killed (seed 7).\n" in text
    assert text.endswith("\n`output/lock.py:31`, AddNot\n\n```diff\n-if a\n+if not a\n```\n")


def test_a_mutant_is_made_in_the_copy_and_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "netweight" / "run" / "plan.py"
    path.parent.mkdir(parents=True)
    path.write_text("before\n")
    os.utime(path, ns=(10**18, 10**18))
    seen = []

    def fails(tests, copy, seconds):
        seen.append((tests, (copy / "netweight" / "run" / "plan.py").read_text(), seconds))
        return "killed"

    monkeypatch.setattr(mutants, "mutated", lambda mutant, operators: ("before\n", "after\n"))
    monkeypatch.setattr(mutants, "run_tests", fails)
    tests = mutants.tests_of("run/plan.py")
    result = mutants.try_mutant(mutants.Mutant("run/plan.py", "AddNot", 0, 1), {}, tmp_path, {tests: 60})
    assert seen == [(tests, "after\n", 60)]
    assert result.verdict == "killed"
    assert "-before\n+after" in result.diff
    assert path.read_text() == "before\n"
    assert path.stat().st_mtime_ns == 10**18


@pytest.mark.parametrize(
    ("body", "verdict"), [("pass", "survived"), ("raise OSError", "killed"), ("time.sleep(600)", "timeout")]
)
def test_what_tests_say(tmp_path, body, verdict):
    """They see the package in the copy, and none that is installed."""
    (tmp_path / "netweight").mkdir()
    (tmp_path / "netweight" / "__init__.py").write_text("mark = 7\n")
    test = tmp_path / "test_it.py"
    test.write_text(f"import time\nimport netweight\n\ndef test_it():\n    assert netweight.mark == 7\n    {body}\n")
    command = [f"--rootdir={tmp_path}", "-c", os.devnull, str(test)]
    assert mutants.run_tests(command, tmp_path, 5 if verdict == "timeout" else 120) == verdict


def test_its_help(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["mutants.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        mutants.main()
    assert "--sample" in capsys.readouterr().out
