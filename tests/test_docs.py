"""The documents say what is there: commands, options, and examples that parse."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import click
import pytest
from task_vectors import netweight

from netweight.cli.main import COMMANDS, cli
from netweight.jobs.demo.models import make_demo_models
from netweight.measures.registry import NAMES, find

ROOT = Path(__file__).parents[1]
PLACES = (".", "docs", "docs/measures", "docs/zh", "benchmarks", "examples")
DOCUMENTS = sorted(p for place in PLACES for p in (ROOT / place).glob("*.md"))
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
CHINESE = [(READMES[0], READMES[1])]  # (English, Chinese) of every document that is there in both languages
CHINESE += [(ROOT / "docs" / p.name, p) for p in sorted((ROOT / "docs" / "zh").glob("*.md"))]
CHINESE = [(english, p) for english, p in CHINESE if english.exists() and p.name != "index.md"]
FIRST_STEPS = ROOT / "docs" / "first_steps.md"
SHOWING = [*READMES, FIRST_STEPS, ROOT / "docs" / "merging.md"]  # documents with commands to type
PLANNED: tuple[str, ...] = ()
SPOKEN = (["delta"], ["verify"])  # `netweight delta` is also a name, though the command needs more
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = sorted(p.stem for p in (ROOT / "docs" / "measures").glob("*.md") if p.stem != "README")
SKIPPED_FOLDERS = {"__pycache__", "data", ".venv", "node_modules"}


def prose(path: Path) -> str:
    """The document without its code blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def shell_lines(path: Path) -> list[str]:
    """Every command of the document's bash and console blocks, continued lines joined."""
    found = []
    for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "bash":
            found += [command for line in lines for command in line.split(" && ") if command.strip()]
        elif language == "console":
            found += [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return found


def spans(path: Path) -> list[tuple[str, str]]:
    """(line, command) for every `netweight ...` in the document's text."""
    return [(line, span) for line in prose(path).splitlines() for span in re.findall(r"`(netweight(?: [^`]+)?)`", line)]


def program(name: str) -> ModuleType:
    """docs/NAME.py, which writes a document."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_command(line: str) -> None:
    """`netweight ...` parses as the program parses it: command, options, their values, what is required."""
    words = shlex.split(line, comments=True)[1:]
    if words and words[0] in COMMANDS:
        command = cli.get_command(click.Context(cli), words[0])
        assert command is not None
        if "--help" not in words:
            command.make_context(words[0], words[1:])
    else:
        known = {option for p in cli.params for option in p.opts} | {"--help", "-h"}
        assert set(words) <= known, line


def test_commands_are_up_to_date() -> None:
    module = program("make_commands")
    text = module.TARGET.read_text(encoding="utf-8")
    assert text == module.render(), "run: python docs/make_commands.py"
    assert max(len(line) for _, block in FENCE.findall(text) for line in block.splitlines()) <= 80


def test_columns_are_up_to_date() -> None:
    module = program("make_columns")
    assert module.TARGET.read_text(encoding="utf-8") == module.render(), "run: python docs/make_columns.py"


def test_the_floors_are_up_to_date() -> None:
    module = program("make_floors")
    assert module.TARGET.read_text(encoding="utf-8") == module.render(), "run: python docs/make_floors.py"


def test_merge_methods_are_up_to_date() -> None:
    module = program("make_methods")
    assert module.TARGET.read_text(encoding="utf-8") == module.render(), "run: python docs/make_methods.py"


def test_pages_are_of_measures() -> None:
    assert {"basic_stats", "change", "drift", "health", "quantization", "sparsity", "spectral", "tail"} <= {*PAGES}
    assert {*PAGES} <= {*NAMES, "health"}


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_of_a_measure_says(name: str) -> None:
    text = (ROOT / "docs" / "measures" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}: ")
    assert re.search(r"`netweight (scan|compare|delta) ", text), "which command gives it?"
    assert "what it does not" in text
    assert f"({name}.md)" in (ROOT / "docs" / "measures" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if name in PAGES and name != "drift"])  # docs/numbers.md
def test_every_column_is_on_its_page(name: str) -> None:
    text = (ROOT / "docs" / "measures" / f"{name}.md").read_text(encoding="utf-8")
    shown = re.findall(r"`([^`]+)`", text)
    stems = tuple(s.rstrip("*.") for s in shown if s.endswith(("*", "...")))  # `int4_g32_symmetric_*`, `extreme_...`
    for column in find(name).columns:
        head, _, key = column.name.partition(".")  # `difference_stats`, or `.threshold_1e-06` behind its first one
        forms = {column.name, head, f".{key}"} if key else {column.name}
        assert forms & {*shown} or column.name.startswith(stems), column.name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_documents(name: str) -> None:
    text = "".join((ROOT / place).read_text(encoding="utf-8") for place in ("README.md", "docs/commands.md"))
    assert f"netweight {name}" in (ROOT / "README.md").read_text(encoding="utf-8")
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text), f"{name} {option}"


@pytest.mark.parametrize("path", SHOWING, ids=lambda p: p.name)
def test_the_commands_shown_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = shell_lines(path)
    assert any(line.startswith("netweight ") for line in lines)
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "netweight":
            check_command(line)
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        else:
            assert words == ["pip", "install", "."], f"nothing checks this command: {line}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_in_the_text_exist_or_are_said_to_be_planned(path: Path) -> None:
    for line, span in spans(path):
        words = span.split()
        if len(words) > 1 and words[1] in PLANNED:
            assert "planned" in line or "计划" in line, line
        elif "..." not in words and words[1:] not in SPOKEN:
            check_command(span)


def shown_outputs(path: Path) -> list[tuple[str, list[str]]]:
    """(command, the lines below it) of every console block."""
    found: list[tuple[str, list[str]]] = []
    for language, block in FENCE.findall(path.read_text(encoding="utf-8")):
        for line in block.splitlines() if language == "console" else ():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return found


@pytest.mark.parametrize(("english", "chinese"), CHINESE, ids=lambda p: p.name)
def test_a_page_in_chinese_shows_the_same(english: Path, chinese: Path) -> None:
    first, second = (
        [b for b in FENCE.findall(p.read_text(encoding="utf-8")) if b[0] != "text"] for p in (english, chinese)
    )
    assert first == second
    spoken = [{*re.findall(r"`([^`\n]+)`", prose(p))} for p in (english, chinese)]
    assert sorted(spoken[0] ^ spoken[1]) == []
    headings = [re.findall(r"^#+ ", prose(p), re.MULTILINE) for p in (english, chinese)]
    assert headings[0] == headings[1]


def test_there_are_pages_in_chinese() -> None:
    assert {p.name for _, p in CHINESE} >= {"README.zh-CN.md", "first_steps.md", "coming_from.md", "python.md"}


@pytest.mark.parametrize(
    ("path", "commands"),
    [(FIRST_STEPS, ["delta", "info", "scan", "compare", "merge", "verify"]), (SHOWING[-1], ["merge"])],
    ids=["first_steps.md", "merging.md"],
)
def test_the_output_shown_is_what_the_commands_print(tmp_path: Path, path: Path, commands: list[str]) -> None:
    make_demo_models(tmp_path / "demo" / "models")
    shown = shown_outputs(path)
    assert [command.split()[1] for command, _ in shown] == commands
    for command, lines in shown:
        done = netweight(*shlex.split(command)[1:], cwd=tmp_path, env={"COLUMNS": "80"})
        assert done.returncode == 0, done.stderr
        assert [line.rstrip() for line in done.stdout.splitlines()] == lines


def test_the_python_shown_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo_models(tmp_path / "demo" / "models")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = [b for language, b in FENCE.findall(text) if language == "python"]
    assert len(blocks) == 3
    for block in blocks:
        exec(block, {})
    assert (tmp_path / "results" / "delta.parquet").exists()
    assert (tmp_path / "scan.parquet").exists()
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_the_readme_names_each_planned_command_as_planned() -> None:
    assert not set(PLANNED) & set(COMMANDS), "these exist now: move them to the table of commands"
    assert {span.split()[1] for _, span in spans(READMES[0]) if "planned" in _} <= {*PLANNED, *COMMANDS}


def test_no_file_mentions_the_machine_that_it_was_written_on() -> None:
    # The words are put together here, so that this file does not find itself.
    private = re.compile(r"(?<![\w.~])/(?:" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + r"me/\w+"]) + r")(?:/|\b)")
    places = [ROOT / name for name in (".ci", ".github", "benchmarks", "docs", "examples", "src", "tests", "tools")]
    files = [p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"]  # a worktree has such a file
    files += [p for place in places for p in place.rglob("*") if p.is_file() and not SKIPPED_FOLDERS & {*p.parts}]
    assert len(files) > 50
    for path in files:
        if path.suffix in {".png", ".parquet", ".safetensors", ".pyc"}:
            continue
        found = private.search(path.read_text(encoding="utf-8", errors="replace"))
        assert found is None, f"{path.relative_to(ROOT)}: {found}"
