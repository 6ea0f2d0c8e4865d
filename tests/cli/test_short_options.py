"""Short forms, and forms that people try."""

from __future__ import annotations

from typing import Any

import click
import pytest

from netweight.cli.main import COMMANDS, cli
from netweight.errors import OptionError

FORMATS = [name for name in COMMANDS if name not in {"report", "demo", "help", "plan"}]  # plan's are of numbers
MODEL = {
    "compare": ["a", "b"], "delta": ["--base", "b", "--models", "m"], "merge": ["r.yml", "o"],
    "extract-lora": ["--base", "b", "--model", "m"], "download": ["org/name", "--out", "o"], "devices": [],
    "plan": ["m", "--size", "4bpw"],
}  # fmt: skip
OUTPUTS = {
    "structure": "output_dir", "scan": "output", "compare": "output", "embeddings": "output_dir", "delta": "outdir",
    "report": "output", "merge": "output", "convert": "output", "extract-lora": "output", "download": "out",
    "plan": "output",
}  # fmt: skip


def given(name: str, *words: str) -> dict[str, Any]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    context = command.make_context(name, [*MODEL.get(name, ["m"]), *words], parent=click.Context(cli))
    return context.params


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --quiet tells other libraries is gone after the test."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")


@pytest.mark.parametrize("name", OUTPUTS)
def test_o_is_the_output(name: str) -> None:
    assert given(name, "-o", "there")[OUTPUTS[name]] == given(name, "-othere")[OUTPUTS[name]] == "there"


@pytest.mark.parametrize("name", FORMATS)
def test_formats_in_short(name: str) -> None:
    assert given(name)["output_format"] == "human"
    assert given(name, "--json")["output_format"] == "json"
    for quiet in ("-q", "--quiet"):
        assert given(name, quiet)["output_format"] == "quiet"
    assert given(name, "--format", "json", "--json", "--json")["output_format"] == "json"
    assert given(name, "-q", "--format", "quiet")["output_format"] == "quiet"


@pytest.mark.parametrize(
    ("words", "both"),
    [
        ("--json --quiet", "--json and --quiet"),
        ("-q --json", "--quiet and --json"),
        ("--format csv --json", "--json and --format"),
        ("--json --format csv", "--json and --format"),
        ("-q --format human", "--quiet and --format"),
    ],
)
def test_formats_that_contradict(words: str, both: str) -> None:
    with pytest.raises(OptionError) as caught:
        given("scan", *words.split())
    assert str(caught.value) == f"{both}: say two different things; leave one of them out"


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in {"info", "devices", "estimate"}])
def test_v_is_verbose(name: str) -> None:
    assert given(name, "-v")["verbose"]
    assert not given(name)["verbose"]


def test_capital_v_is_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-V"], prog_name="netweight", standalone_mode=False) == 0
    short = capsys.readouterr().out
    cli.main(["--version"], prog_name="netweight", standalone_mode=False)
    assert short == capsys.readouterr().out


@pytest.mark.parametrize("name", ["scan", "embeddings"])
def test_a_flag_of_the_replaced_tools_changes_nothing(name: str) -> None:
    for option in ("--low_cpu_mem_usage", "--low-cpu-mem-usage"):
        assert given(name, option) == given(name)
