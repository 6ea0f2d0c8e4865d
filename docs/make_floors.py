"""Write the picture of the floors into docs/architecture.md, from the imports: `python docs/make_floors.py`."""  # noqa: INP001

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
TARGET = Path(__file__).with_name("architecture.md")
_PLACE = re.compile(r"(?<=<!-- floors: made by docs/make_floors.py -->\n).*?(?=<!-- end of the floors -->)", re.DOTALL)


def floors() -> list[list[str]]:
    """The names on every floor, from the top, as the contract in pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [re.split(r"\s*\|\s*", layer) for layer in contract["layers"]]


def purpose(name: str) -> str:
    """The first sentence of the docstring: what the folder or file is for."""
    folder = ROOT / "src" / "netweight" / name
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = path.read_text(encoding="utf-8").split('"""')[1]
    return " ".join(re.split(r"\n\n", text)[0].split())


def render() -> str:
    """docs/architecture.md with the picture as the imports are now."""
    graph = grimp.build_graph("netweight", cache_dir=None)
    named = {name: f"netweight.{name}" for floor in floors() for name in floor}
    for module in named.values():
        if any(m.startswith(f"{module}.") for m in graph.modules):
            graph.squash_module(module)
    order = list(named)
    lines = ["| floor | room | what it is for | imports |", "| --- | --- | --- | --- |"]
    for number, floor in enumerate(floors(), 1):
        for name in floor:
            below = {m.rpartition(".")[2] for m in graph.find_modules_directly_imported_by(named[name])}
            used = ", ".join(sorted(below & named.keys(), key=order.index)) or "nothing"
            lines.append(f"| {number} | `{name}` | {purpose(name)} | {used} |")
    return _PLACE.sub("\n".join(lines) + "\n", TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8", newline="\n")
