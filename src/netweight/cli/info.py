"""`netweight info MODEL`: what is in a checkpoint, from its headers alone."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from netweight.cli.options import format_option
from netweight.cli.text import human_bytes, human_count
from netweight.errors import OptionError, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from netweight.jobs.info import Info
    from netweight.jobs.tree import Branch

__all__ = ["info"]

_WIDEST_BRANCH = 200  # children shown of one branch
_LISTED = 8  # files, notes, skipped entries shown before "and N more"


@click.command(short_help="What is in a checkpoint, from its headers alone.")
@click.argument("model", required=False)
@click.option("--model_path", "--model", "model_option", hidden=True, metavar="MODEL", help="The same as MODEL.")
@format_option
@click.option("--tree", is_flag=True, help="Show the tensors as a tree, equal layers folded into one branch.")
@click.option("--depth", type=click.IntRange(min=1), metavar="N", help="Levels of the tree to show. Implies --tree.")
@click.option("--count-tied-twice", is_flag=True, help="Count tied weights under each of their names.")
def info(
    model: str | None,
    model_option: str | None,
    output_format: str,
    tree: bool,  # noqa: FBT001 - click passes by name
    depth: int | None,
    count_tied_twice: bool,  # noqa: FBT001
) -> None:
    """Say what is in MODEL without reading its weights.

    Format, files, parameters, bytes, dtypes, layers, heads, sizes, tied weights, and a table per role. MODEL is a
    folder, a file, a model of a hub or a URL: of these too only headers are read.
    """
    if (model is None) == (model_option is None):
        raise OptionError("info takes one MODEL: a folder or a file; see `netweight info --help`")
    from netweight.jobs.info import info as describe

    ref = model if model is not None else str(model_option)
    found = describe(ref, count_tied_twice=count_tied_twice, tree=tree or depth is not None)
    if output_format == "json":
        json.dump(found.to_dict(), sys.stdout, indent=2, allow_nan=False)
        click.echo()
    elif output_format == "human":
        _show(found, depth=depth)


def _show(found: Info, *, depth: int | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    console.print(Text(printable(found.ref), style="bold"))
    header = Table.grid(padding=(0, 2))
    header.add_column(style="dim", no_wrap=True)
    header.add_column(overflow="fold")
    for label, value in _header(found):
        header.add_row(label, Text(value))
    console.print(header)
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("role")
    for name in ("tensors", "parameters", "bytes", "share"):
        table.add_column(name, justify="right")
    for row in found.roles:
        share = f"{row.share:.1f}%" if row.role != "buffer" else ""
        table.add_row(row.role, str(row.tensors), human_count(row.parameters), human_bytes(row.bytes), share)
    console.print(table)
    _remarks(console, found)
    if found.tree is not None:
        console.print()
        console.print(_tree(found.tree, printable(found.ref, 80), depth))
    elif found.tensors:
        console.print(Text("--tree shows the tensors, --format json everything", style="dim"))


def _header(found: Info) -> list[tuple[str, str]]:
    files = f"{len(found.files)}: " + _listed(
        [f"{printable(_base(f.name))} ({human_bytes(f.size)})" for f in found.files]
    )
    parameters = f"{human_count(found.parameters)} ({found.parameters:,}) in {found.tensors} tensors"
    if found.buffers:
        parameters += f", and {human_count(found.buffers)} in buffers"
    total = sum(row.bytes for row in found.dtypes)
    mix = ", ".join(f"{row.dtype} {100 * row.bytes / total:.3g}%" if total else row.dtype for row in found.dtypes)
    towers = [f"{count} {printable(stack)}" for stack, count in found.stacks.items() if stack]
    layers = str(found.layers) if found.layers is not None else ""
    if towers:
        layers = ", ".join([layers, *towers]) if layers else ", ".join(towers)
    heads = "" if found.heads is None else str(found.heads)
    if found.kv_heads is not None and found.kv_heads != found.heads:
        heads += f", {found.kv_heads} for keys and values"
    tied = [f"{printable(alias)} = {printable(name)}" for alias, name in found.tied.items()]
    if found.head_is is not None:
        tied.append(f"the head (not stored) = {printable(found.head_is)}")
    rows = [
        ("commit", found.revision or ""),
        ("format", found.format),
        ("family", printable(found.family)),
        ("files", files),
        ("parameters", parameters),
        ("bytes", human_bytes(found.bytes)),
        ("dtypes", mix),
        ("layers", layers),
        ("heads", heads.removeprefix(", ")),
        ("hidden size", _number(found.hidden_size)),
        ("intermediate", _number(found.intermediate_size)),
        ("vocabulary", _number(found.vocabulary)),
        ("tied", _listed(tied) if tied else "none found"),
        ("metadata", _listed([f"{printable(k, 40)}={printable(v, 60)}" for k, v in found.metadata.items()])),
    ]
    return [(label, value) for label, value in rows if value]


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _base(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _listed(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f", and {more} more" if more > 0 else "")


def _remarks(console: Console, found: Info) -> None:
    from rich.text import Text

    lines = [("config", found.config_problem)] if found.config_problem else []
    lines += [("note", note) for note in found.notes]
    lines += [("not a weight", f"{entry.name}: {entry.reason}") for entry in found.skipped]
    if lines:
        console.print()
    for label, line in lines[: 2 * _LISTED]:
        console.print(Text(f"{label}: {printable(line, 400)}", style="yellow" if label != "not a weight" else "dim"))
    if len(lines) > 2 * _LISTED:
        console.print(Text(f"and {len(lines) - 2 * _LISTED} more; --format json lists them all", style="dim"))


def _tree(branch: Branch, label: str, depth: int | None) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    root = Tree(Text(f"{label}  {_counts(branch)}"), guide_style="dim")
    _grow(root, branch, depth)
    return root


def _grow(node: Tree, branch: Branch, depth: int | None) -> None:
    from rich.text import Text

    if depth == 0:
        return
    for child in branch.children[:_WIDEST_BRANCH]:
        times = f" ({child.times}x)" if child.times > 1 else ""
        line = Text(printable(child.label) + times)
        what = f"{_shape(child)} {child.dtype}" if child.shape is not None else _counts(child)
        line.append(f"  {what}", style="dim")
        _grow(node.add(line), child, None if depth is None else depth - 1)
    if len(branch.children) > _WIDEST_BRANCH:
        node.add(Text(f"and {len(branch.children) - _WIDEST_BRANCH} more", style="dim"))


def _shape(branch: Branch) -> str:
    return "[" + ", ".join(str(size) for size in branch.shape or ()) + "]"


def _counts(branch: Branch) -> str:
    tensors = "tensor" if branch.tensors == 1 else "tensors"
    return f"{branch.tensors} {tensors}, {human_count(branch.parameters)}, {human_bytes(branch.bytes)}"
