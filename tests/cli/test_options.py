from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from netweight.cli.options import (
    SpaceSeparated,
    device_options,
    filter_options,
    format_option,
    parse_size,
    run_options,
    seed_option,
    verbose_option,
)
from netweight.errors import OptionError


@click.command()
@click.argument("rest", nargs=-1)
@click.option("--models", "--other_model_paths", "-m", cls=SpaceSeparated, required=True)
@click.option("--outdir", default="out")
@click.option("--flag", is_flag=True)
def several(**given: Any) -> None:
    click.echo(repr((given["models"], given["outdir"], given["flag"], given["rest"])))


@pytest.mark.parametrize(
    ("args", "models", "outdir", "flag"),
    [
        (["--models", "a"], ("a",), "out", False),
        (["--models", "a", "b", "c"], ("a", "b", "c"), "out", False),
        (["--models", "a", "b", "--outdir", "x"], ("a", "b"), "x", False),
        (["--outdir", "x", "--models", "a", "b"], ("a", "b"), "x", False),
        (["--models", "a", "--models", "b"], ("a", "b"), "out", False),
        (["--models", "a", "b", "--flag", "--models", "c"], ("a", "b", "c"), "out", True),
        (["--models=a", "b"], ("a", "b"), "out", False),
        (["--models=a", "b", "--outdir=x"], ("a", "b"), "x", False),
        (["--other_model_paths", "a", "b"], ("a", "b"), "out", False),
        (["-m", "a", "b"], ("a", "b"), "out", False),
        (["-ma", "b"], ("a", "b"), "out", False),
        (["--models", "a b", "c"], ("a b", "c"), "out", False),
        (["--models", "./-a", "b"], ("./-a", "b"), "out", False),
    ],
)
def test_several_values_after_one_name(args: list[str], models: tuple[str, ...], outdir: str, flag: bool) -> None:
    done = CliRunner().invoke(several, args)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == repr((models, outdir, flag, ()))


@click.command()
@click.option("--weights", cls=SpaceSeparated, type=float)
@click.option("--models", cls=SpaceSeparated)
@click.option("--flag", "-f", is_flag=True)
def numbers(**given: Any) -> None:
    click.echo(repr((given["weights"], given["models"], given["flag"])))


def test_negative_numbers_are_values_where_numbers_are_expected() -> None:
    done = CliRunner().invoke(numbers, ["--weights", "1", "-0.5", "-1e-3", "--flag", "--weights", "-2"])
    assert done.output.strip() == repr(((1.0, -0.5, -0.001, -2.0), (), True))
    assert CliRunner().invoke(numbers, ["--models", "a", "-1"]).exit_code == 2


@pytest.mark.parametrize("args", [["--models", "--flag"], ["--weights", "-f"], ["--models", "--weights", "1"]])
def test_an_option_where_a_value_must_be(args: list[str]) -> None:
    done = CliRunner().invoke(numbers, args)
    assert done.exit_code == 2
    assert f"{args[0]}: expected a value, got none" in done.output


def test_a_double_dash_ends_the_list() -> None:
    done = CliRunner().invoke(several, ["--models", "a", "--", "b"])
    assert done.output.strip() == repr((("a",), "out", False, ("b",)))


@pytest.mark.parametrize(
    ("args", "error", "option"),
    [
        (["--models", "a", "-b"], click.NoSuchOption, "-b"),
        (["--models", "a", "--unknown"], click.NoSuchOption, "--unknown"),
        (["--models"], click.BadOptionUsage, "--models"),
        ([], click.MissingParameter, "--models"),
    ],
)
def test_names_with_a_dash_are_not_swallowed(args: list[str], error: type[click.UsageError], option: str) -> None:
    with pytest.raises(error) as caught:
        several.main(args, standalone_mode=False)
    assert caught.value.exit_code == 2
    assert option in caught.value.format_message()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MB", 512 * 10**6),
        ("512mb", 512 * 10**6),
        ("1GiB", 2**30),
        ("1g", 2**30),
        ("2G", 2**31),
        ("1.5GiB", 3 * 2**29),
        ("1000", 1000),
        ("1000B", 1000),
        ("64 MiB", 2**26),
        (" 1k ", 1024),
        ("1kB", 1000),
        ("1T", 2**40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1g", "0", "0.1", "1e9", "1XB", "1 2", "9" * 400, "٣g", "nan", "1gg"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(OptionError, match="--memory: expected a size such as 512MB, 1GiB or 2g, got"):
        parse_size(text)


@click.command()
@device_options
@run_options
@filter_options
@format_option
@verbose_option
@seed_option
def shared(**given: Any) -> None:
    click.echo(repr(sorted(given.items())))


def test_the_shared_options() -> None:
    done = CliRunner().invoke(shared, [])
    assert done.output.strip() == repr(
        [
            ("device", "auto"),
            ("dry_run", False),
            ("exclude", ()),
            ("include", ()),
            ("memory", None),
            ("multi_gpu", False),
            ("output_format", "human"),
            ("resume", False),
            ("seed", 0),
            ("verbose", False),
            ("workers", None),
        ]
    )
    args = ["--device", "cpu", "--memory", "1GiB", "--workers", "3", "--include", "*a", "--include", "b"]
    args += ["--exclude", "c", "--format", "json", "--seed", "7"]
    given = dict(eval(CliRunner().invoke(shared, args).output))
    assert (given["device"], given["memory"], given["workers"], given["seed"]) == ("cpu", 2**30, 3, 7)
    assert (given["include"], given["exclude"], given["output_format"]) == (("*a", "b"), ("c",), "json")
    for device in ("cuda", "cuda:1", "mps", "xpu", "xpu:3"):  # whether it is there is asked by the job
        given = dict(eval(CliRunner().invoke(shared, ["--device", device, "--multi-gpu"]).output))
        assert (given["device"], given["multi_gpu"]) == (device, True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--device", "tpu\x1b"], r"--device: expected auto, cpu, cuda, cuda:N, mps, xpu or xpu:N, got 'tpu\x1b'"),
        (["--memory", "lots"], "--memory: expected a size such as 512MB, 1GiB or 2g, got 'lots'"),
    ],
)
def test_options_that_cannot_be(args: list[str], message: str) -> None:
    done = CliRunner().invoke(shared, args)
    assert isinstance(done.exception, OptionError)
    assert str(done.exception).startswith(message)


def test_no_workers_is_no_number_of_workers() -> None:
    assert CliRunner().invoke(shared, ["--workers", "0"]).exit_code == 2
