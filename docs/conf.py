"""Settings of the site: `make docs` builds it with Sphinx from the folder of the project, so that all links hold."""  # noqa: INP001

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

project = "netweight"
author = copyright = "the netweight authors"  # noqa: A001 - the name that Sphinx asks for
release = version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser"]
include_patterns = ["*.md", "docs/**.md", "benchmarks/*.md", "examples/*.md"]
root_doc = "docs/index"
myst_heading_anchors = 4  # as code hosts make them, so that one link serves both
suppress_warnings = ["toc.not_included"]  # the READMEs, which lead to the index and not from it

html_theme = "furo"
html_title = f"netweight {version}"
html_copy_source = False
html_show_sourcelink = False
templates_path = ["site"]
html_additional_pages = {"index": "index.html"}  # leads to the index of the documents


def list_of_pages(app: Any, docname: str, source: list[str]) -> None:  # noqa: ARG001 - Sphinx passes it
    """The lists of an index are its table of contents too, which the theme shows at the side."""
    if docname in {root_doc, "docs/zh/index"}:
        linked = re.findall(r"^- \[[^\]]+\]\(([^)]+)\.md\)", source[0], re.MULTILINE)
        pages = [*linked, "zh/index"] if docname == root_doc else [page for page in linked if "/" not in page]
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("source-read", list_of_pages)
