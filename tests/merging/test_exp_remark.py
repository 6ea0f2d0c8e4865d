"""What exp does to models, said where it may surprise."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from netweight.merging.coefficients import coefficients, remark

NAMES = ("little", "much", "most")


def said(norms, mode="exp", beta=1.0):
    weights = coefficients(mode, norms, beta=beta, names=NAMES[: len(norms)])
    return remark(mode, [weights], norms, NAMES[: len(norms)])


def test_a_model_with_next_to_no_weight():
    line = said((0.5, 10.0), beta=3)
    assert line.startswith(
        "mode exp: much gets 0.0044, as its task vector is the longest: the more a model was trained"
    )
    assert line.endswith("--mode equal weighs all alike, --mode metagpt those more that changed more")


def test_a_model_that_is_the_base():
    assert "little is the base itself, and gets the largest weight" in said((0.0, 1.0, 2.0))


@pytest.mark.parametrize(("norms", "mode"), [((1.0, 2.0), "exp"), ((0.0, 0.0), "exp"), ((0.0, 1.0), "metagpt"),
                                             ((1.0, 1e3), "linear"), ((1.0, 1e3), "metagpt")])  # fmt: skip
def test_nothing_to_say(norms, mode):
    assert said(norms, mode) is None


def test_groups():
    groups = [(0.5, 0.5), (0.995, 0.005), (0.99, 0.01)]
    assert "much gets 0.005 in 2 of 3 groups" in remark("exp", groups, (1.0, 5.0), NAMES[:2])


def test_the_command_says_so(tmp_path):
    """The published default: an untouched model is weighed most, in a dry run and in a merge."""
    from merge_families import family, save

    base, models, arrays, _ = family(tmp_path, models=2)
    save(tmp_path / "same", arrays)
    args = [sys.executable, "-m", "netweight", "merge", "--base", base, "--models", *models, str(tmp_path / "same")]
    for more in (["--dry-run"], ["--output", str(tmp_path / "out")]):
        done = subprocess.run([*args, *more], capture_output=True, text=True, check=True)
        [line] = [line for line in done.stdout.splitlines() if "mode exp:" in line]
        assert "same is the base itself, and gets the largest weight" in line
    record = json.loads((tmp_path / "out" / "netweight_merge.json").read_text())
    assert record["weights"]["remark"] in line
