"""YAML text of a recipe -> plain values, and the line of every key.

Only the safe part of YAML is read: text, numbers, booleans, lists, mappings, anchors and merge keys. The tree is built
from the parser's events, so that depth and size are bounded before anything is made of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import yaml

from netweight.errors import FormatError, printable

__all__ = ["EXPONENT", "FLOAT_TAG", "MAX_BYTES", "Lines", "Path", "location", "read_documents", "read_yaml"]

MAX_BYTES = 16 << 20  # own weights for 20,000 parameters of 8 models, as netweight writes them, must be readable
MAX_NODES = 1_000_000  # after aliases; some 300 MB of memory
MAX_DEPTH = 32
MAX_DOCUMENTS = 64

Path: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys, and numbers in lists."""
Lines: TypeAlias = Mapping[Path, int]
"""Lines from 1; values inside of lists of numbers have that of the list."""

_TAG = "tag:yaml.org,2002:"
FLOAT_TAG = _TAG + "float"
EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


class Scalars(yaml.SafeLoader):
    """Plain scalars as YAML 1.1 has them, which mergekit reads; and 1e-5, which 1.1 takes for text, as a number."""


Scalars.add_implicit_resolver(FLOAT_TAG, EXPONENT, list("-+.0123456789"))


@dataclass(slots=True)
class _Node:
    value: Any  # a scalar, a list of nodes, or a dict of nodes
    line: int
    key_lines: dict[str, int] | None = None


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    node: _Node
    anchor: str | None
    key: str | None = None
    key_line: int = 0
    merging: bool = False  # the key is YAML's own <<; one in quotes is a key like others
    merged: list[_Node] | None = None


def location(origin: str, lines: Lines, path: Path) -> str:
    """The location of a value as messages name it: `merge.yml, line 7, models[1].parameters.weight`."""
    near: Path = path
    while near and near not in lines:
        near = near[:-1]
    line = lines.get(near, 0)
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part, 60)}" for part in path).lstrip(".")
    return ", ".join([printable(origin), *([f"line {line}"] if line else []), *([text] if text else [])])


def read_yaml(text: str, origin: str) -> tuple[Any, dict[Path, int]]:
    """The one document in `text` as dicts, lists and scalars, and lines; FormatError for unsafe or invalid YAML."""
    documents = read_documents(text, origin)
    if len(documents) > 1:
        raise FormatError(f"{printable(origin)}: expected one recipe, got {len(documents)} (---): leave one")
    return documents[0]


def read_documents(text: str, origin: str) -> list[tuple[Any, dict[Path, int]]]:
    """The same of every document in `text` that is not empty; at least one."""
    if len(text) > MAX_BYTES:
        raise FormatError(f"{printable(origin)}: expected a recipe of at most {MAX_BYTES >> 20} MB, got more")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{printable(origin)}: character {error.start} is half of a surrogate pair") from None
    builder = _Builder(origin)
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text, origin) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise FormatError(f"{printable(origin)} is no YAML: {printable(reason)}") from None
    roots = [root for root in builder.roots if root.value is not None]
    if not roots:
        raise FormatError(f"{printable(origin)} is empty: expected a recipe with merge_method and models or slices")
    documents: list[tuple[Any, dict[Path, int]]] = []
    for root in roots:
        lines: dict[Path, int] = {}
        documents.append((_Values(origin, lines).of(root, (), 0), lines))
    return documents


def _syntax(error: yaml.MarkedYAMLError, text: str, origin: str) -> FormatError:
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    rows = text.splitlines()
    tab = line < len(rows) and "\t" in rows[line][: len(rows[line]) - len(rows[line].lstrip())]
    reason = printable(" ".join(str(error.problem or error.context or "it cannot be read").split()))
    hint = "; tabs cannot indent YAML: use spaces" if tab else ""
    return FormatError(f"{printable(origin)}, line {line + 1}: this is no YAML: {reason}{hint}")


class _Builder:
    """Events -> tree. Holds the anchors and the containers that are open."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.roots: list[_Node] = []
        self.nodes = 0
        self.open: list[_Open] = []
        self.anchors: dict[str, _Node] = {}
        self.scalars: Any = Scalars("")

    def fail(self, line: int, text: str) -> NoReturn:
        raise FormatError(f"{printable(self.origin)}, line {line}: {text}")

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            self._add(_Node(self._scalar(event, line), line), event.anchor, line, merge=_is_merge(event))
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            is_list = isinstance(event, yaml.SequenceStartEvent)
            if event.tag not in {None, "!", _TAG + ("seq" if is_list else "map")}:
                self.fail(line, f"the tag {printable(event.tag)!r} is not supported: write plain values")
            if len(self.open) >= MAX_DEPTH:
                self.fail(line, f"lists and mappings are nested more than {MAX_DEPTH} deep")
            node = _Node([], line) if is_list else _Node({}, line, {})
            self.open.append(_Open(node, event.anchor))
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            done = self.open.pop()
            self._merge(done)
            self._add(done.node, done.anchor, done.node.line)
        elif isinstance(event, yaml.AliasEvent):
            target = self.anchors.get(str(event.anchor))
            if target is None:
                self.fail(line, f"the alias *{printable(str(event.anchor))} has no anchor that ends before it")
            self._add(target, None, line)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.anchors = {}
            if len(self.roots) >= MAX_DOCUMENTS:
                self.fail(line, f"expected at most {MAX_DOCUMENTS} recipes in a file, got more")

    def _scalar(self, event: Any, line: int) -> Any:
        tag = event.tag
        if tag in {None, "!"}:
            plain = event.implicit[0] and tag is None
            tag = self.scalars.resolve(yaml.ScalarNode, event.value, (plain, not plain))
        elif tag not in {_TAG + kind for kind in ("str", "int", "float", "bool", "null")}:
            self.fail(line, f"the tag {printable(tag)!r} is not supported: write plain values")
        node = yaml.ScalarNode(tag, event.value)
        try:
            match tag.removeprefix(_TAG):
                case "null":
                    return None
                case "bool":
                    return self.scalars.construct_yaml_bool(node)
                case "int":
                    return self.scalars.construct_yaml_int(node)
                case "float":
                    return self.scalars.construct_yaml_float(node)
        except (ValueError, KeyError):
            self.fail(line, f"{printable(event.value, 40)!r} is no number that can be read")
        return event.value

    def _add(self, node: _Node, anchor: str | None, line: int, *, merge: bool = False) -> None:
        self._count(1, line)
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.open:
            self.roots.append(node)
            return
        top = self.open[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif top.key is None:
            top.key, top.key_line, top.merging = self._key(top, node, line, merge=merge), line, merge
        else:
            if top.merging:
                top.merged = [*(top.merged or []), node]
            else:
                top.node.value[top.key] = node
                top.node.key_lines[top.key] = top.key_line  # type: ignore[index]
            top.key = None

    def _key(self, top: _Open, node: _Node, line: int, *, merge: bool) -> str:
        if merge:
            return _MERGE
        if not isinstance(node.value, str):
            kind = "a list" if isinstance(node.value, list) else "a mapping" if isinstance(node.value, dict) else None
            got = kind or printable(str(node.value), 40)
            self.fail(line, f"expected a word as key, got {got}; put it into quotes")
        if node.value in top.node.value:
            first = (top.node.key_lines or {})[node.value]
            self.fail(line, f"the key {printable(node.value, 60)!r} stands twice (first in line {first}): keep one")
        return node.value

    def _merge(self, done: _Open) -> None:
        """Add the keys that `<<: *anchor` brings in, behind those that are written out."""
        for merged in done.merged or []:
            for source in merged.value if isinstance(merged.value, list) else [merged]:
                if not isinstance(source.value, dict):
                    self.fail(merged.line, "expected a mapping (or a list of mappings) behind <<")
                self._count(len(source.value), merged.line)
                for key, node in source.value.items():
                    if key not in done.node.value:
                        done.node.value[key] = node
                        done.node.key_lines[key] = source.key_lines[key]  # type: ignore[index]

    def _count(self, more: int, line: int) -> None:
        self.nodes += more
        if self.nodes > MAX_NODES:
            self.fail(line, f"expected at most {MAX_NODES:,} values in a recipe, got more")


_MERGE = "<<"


def _is_merge(event: Any) -> bool:
    return bool(event.value == _MERGE and event.implicit[0])


@dataclass(slots=True)
class _Values:
    """Tree -> plain values. Aliases are expanded here, so nodes are counted again."""

    origin: str
    lines: dict[Path, int]
    nodes: int = 0

    def of(self, node: _Node, path: Path, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise FormatError(
                f"{location(self.origin, self.lines, path)}: its aliases unfold to more than {MAX_NODES:,} values, "
                f"or {MAX_DEPTH} levels: write out what is meant"
            )
        if isinstance(node.value, dict):
            return {key: self._entry(child, (*path, key), depth, line) for key, child, line in _entries(node)}
        if isinstance(node.value, list):
            return [self._entry(child, (*path, n), depth, child.line) for n, child in enumerate(node.value)]
        return node.value

    def _entry(self, node: _Node, path: Path, depth: int, line: int) -> Any:
        if isinstance(node.value, dict | list) or not _within_values(path):
            self.lines[path] = line
        return self.of(node, path, depth + 1)


def _entries(node: _Node) -> Iterator[tuple[str, _Node, int]]:
    lines = node.key_lines or {}
    for key, child in node.value.items():
        yield key, child, lines[key]


def _within_values(path: Sequence[str | int]) -> bool:
    """Whether `path` leads to a number of a gradient, or into a filter: these have the line of their container."""
    return isinstance(path[-1], int) or (
        len(path) > 1 and isinstance(path[-2], int) and path[-1] in {"filter", "value"}
    )
