"""What a terminal shows of what is in a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netweight.dtypes import DTYPES
from netweight.errors import printable
from netweight.views.console import print_trimmed, stdout_console
from netweight.views.fitted_table import name, numbers, print_pairs, print_table
from netweight.views.text import human_bytes, human_count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from netweight.jobs.info.job import DtypeRow, Info
    from netweight.jobs.info.tree import Branch

__all__ = ["show_info"]

_WIDEST_BRANCH = 200  # children shown of one branch
_LISTED = 8  # files, notes, skipped entries shown before "and N more"


def show_info(info: Info, *, depth: int | None) -> None:
    """Print the header, a table of roles, remarks, and the tree where it was asked for (`depth` levels; None: all)."""
    from rich.text import Text

    console = stdout_console()
    print_trimmed(console, Text(printable(info.ref), style="bold"))
    print_pairs(console, _header(info))
    console.print()
    if any(row.dtype not in DTYPES for row in info.dtypes):
        stored = [
            (printable(row.dtype), str(row.tensors), human_count(row.elements), human_bytes(row.bytes), _bits(row))
            for row in info.dtypes
        ]
        print_table(console, [name("stored as"), *numbers("tensors", "parameters", "bytes", "bits each")], stored)
        console.print()
    rows = [
        (
            row.role,
            str(row.tensors),
            human_count(row.parameters),
            human_bytes(row.bytes),
            f"{row.share:.1f}%" if row.role != "buffer" else "",
        )
        for row in info.roles
    ]
    print_table(console, [name("role"), *numbers("tensors", "parameters", "bytes", "share")], rows)
    for row in info.other[:_LISTED]:
        count = f"{row.tensors} tensor{'s' * (row.tensors != 1)}"
        line = f"other: {printable(row.pattern)}: {count}, {human_count(row.parameters)}"
        print_trimmed(console, Text(line, style="dim"))
    if len(info.other) > _LISTED:
        line = f"other: {len(info.other) - _LISTED} more forms of names; --format json lists them"
        print_trimmed(console, Text(line, style="dim"))
    _remarks(console, info)
    if info.tree is not None:
        console.print()
        print_trimmed(console, _tree(info.tree, printable(info.ref), depth))
    elif info.tensors:
        print_trimmed(console, Text("--tree shows the tensors, --format json everything", style="dim"))


def _header(info: Info) -> list[tuple[str, str]]:
    files = f"{len(info.files)}: " + _listed(
        [f"{printable(_base(f.name))} ({human_bytes(f.size)})" for f in info.files]
    )
    parameters = f"{human_count(info.parameters)} ({info.parameters:,}) in {info.tensors} tensors"
    if info.buffers:
        parameters += f", and {human_count(info.buffers)} in buffers"
    total = sum(row.bytes for row in info.dtypes)
    mix = ", ".join(f"{row.dtype} {100 * row.bytes / total:.3g}%" if total else row.dtype for row in info.dtypes)
    towers = [f"{count} {printable(stack)}" for stack, count in info.stacks.items() if stack]
    layers = str(info.layers) if info.layers is not None else ""
    if towers:
        layers = ", ".join([layers, *towers]) if layers else ", ".join(towers)
    heads = "" if info.heads is None else str(info.heads)
    if info.kv_heads is not None and info.kv_heads != info.heads:
        heads += f", {info.kv_heads} for keys and values"
    tied = [f"{printable(alias)} = {printable(name)}" for alias, name in info.tied.items()]
    if info.head_is is not None:
        tied.append(f"the head (not stored) = {printable(info.head_is)}")
    rows = [
        ("commit", info.revision or ""),
        ("format", info.format),
        ("family", printable(info.family)),
        ("files", files),
        ("parameters", parameters),
        ("bytes", human_bytes(info.bytes)),
        ("dtypes", mix),
        ("layers", layers),
        ("heads", heads.removeprefix(", ")),
        ("hidden size", _number(info.hidden_size)),
        ("intermediate", _number(info.intermediate_size)),
        ("vocabulary", _number(info.vocabulary)),
        ("tied", _listed(tied) if tied else "none found"),
        *_adapter(info),
        ("metadata", _listed([f"{printable(k, 40)}={printable(v, 60)}" for k, v in info.metadata.items()])),
    ]
    return [(label, value) for label, value in rows if value]


def _adapter(info: Info) -> list[tuple[str, str]]:
    """Of an adapter alone."""
    if (adapter := info.adapter) is None:
        return []
    ranks = [f"{rank} on {count} modules" for rank, count in adapter.ranks.items()]
    share = "" if adapter.base_share is None else f", {100 * adapter.base_share:.3g}% of the base's"
    return [
        ("adapter", f"{adapter.kind}: {human_count(adapter.parameters)} parameters{share}"),
        ("base", printable(adapter.base) or "not named"),
        ("targets", _listed([f"{count} {printable(name)}" for name, count in adapter.targets.items()])),
        ("rank", _listed(ranks)),
        ("scale", _listed([f"{scale:g}" for scale in adapter.scales])),
        ("whole", _listed([printable(name) for name in adapter.saved])),
    ]


def _bits(row: DtypeRow) -> str:
    return "" if row.bits_per_weight is None else f"{row.bits_per_weight:.4g}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _base(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _listed(items: list[str]) -> str:
    more = len(items) - _LISTED
    return ", ".join(items[:_LISTED]) + (f", and {more} more" if more > 0 else "")


def _remarks(console: Console, info: Info) -> None:
    from rich.text import Text

    lines = [("config", info.config_problem)] if info.config_problem else []
    lines += [("note", note) for note in info.notes]
    lines += [("not a weight", f"{entry.name}: {entry.reason}") for entry in info.skipped]
    if lines:
        console.print()
    for label, line in lines[: 2 * _LISTED]:
        style = "yellow" if label != "not a weight" else "dim"
        print_trimmed(console, Text(f"{label}: {printable(line, 400)}", style=style))
    if len(lines) > 2 * _LISTED:
        more = f"and {len(lines) - 2 * _LISTED} more; --format json lists them all"
        print_trimmed(console, Text(more, style="dim"))


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
        details = f"{_shape(child)} {child.dtype}" if child.shape is not None else _counts(child)
        line.append(f"  {details}", style="dim")
        _grow(node.add(line), child, None if depth is None else depth - 1)
    if len(branch.children) > _WIDEST_BRANCH:
        node.add(Text(f"and {len(branch.children) - _WIDEST_BRANCH} more", style="dim"))


def _shape(branch: Branch) -> str:
    return "[" + ", ".join(str(size) for size in branch.shape or ()) + "]"


def _counts(branch: Branch) -> str:
    tensors = "tensor" if branch.tensors == 1 else "tensors"
    return f"{branch.tensors} {tensors}, {human_count(branch.parameters)}, {human_bytes(branch.bytes)}"
