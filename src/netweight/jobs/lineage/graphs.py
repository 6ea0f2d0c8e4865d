"""The tree of models for other programs: Graphviz's DOT and GraphML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from netweight.jobs.lineage.tree import Edge

__all__ = ["write_dot", "write_graphml"]

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_EDGE = {"relation": "string", "directed": "boolean", "log10_p": "double", "drift": "double", "weight": "double"}


def write_dot(names: Sequence[str], edges: Sequence[Edge], path: Path) -> None:
    """The edges of the tree as a DOT digraph; one whose direction is open has no arrow."""
    lines = ["digraph lineage {", "  rankdir=LR;", "  node [shape=box];"]
    lines += [f"  {_quoted(name)};" for name in names]
    for edge in edges:
        arrow = "" if edge.directed else ", dir=none"
        lines.append(f"  {_quoted(edge.a)} -> {_quoted(edge.b)} [label={_quoted(edge.label)}{arrow}];")
    path.write_text("\n".join([*lines, "}"]) + "\n", encoding="utf-8", errors="backslashreplace")


def _quoted(text: str) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_graphml(names: Sequence[str], edges: Sequence[Edge], path: Path) -> None:
    """The same as GraphML, with the evidence of an edge as its data."""
    root = ET.Element("graphml", xmlns=_NAMESPACE)
    for name, kind in _EDGE.items():
        ET.SubElement(root, "key", {"id": name, "for": "edge", "attr.name": name, "attr.type": kind})
    graph = ET.SubElement(root, "graph", edgedefault="directed")
    numbers = {name: f"n{i}" for i, name in enumerate(names)}
    ET.SubElement(root, "key", {"id": "name", "for": "node", "attr.name": "name", "attr.type": "string"})
    for name, number in numbers.items():
        _data(ET.SubElement(graph, "node", id=number), [("name", _plain(name))])
    for edge in edges:
        made = ET.SubElement(graph, "edge", source=numbers[edge.a], target=numbers[edge.b])
        made.set("directed", str(edge.directed).lower())
        values = (edge.relation, str(edge.directed).lower(), edge.log10_p, edge.drift, edge.weight)
        _data(made, [(k, str(v)) for k, v in zip(_EDGE, values, strict=True) if v is not None])
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _data(parent: ET.Element, values: Sequence[tuple[str, str]]) -> None:
    for key, value in values:
        ET.SubElement(parent, "data", key=key).text = value
