"""One HTML file of sections: data, style and scripts inside, and a policy that lets nothing else run or load.

The page's own code is ES modules in `assets`; they are joined here, since a file alone cannot import. `vendor` holds
the libraries, joined and minified, with their licences (VENDOR.json).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from netweight.page.section import Section
from netweight.version import __version__

__all__ = ["MODULES", "page_of"]

MODULES = ("data", "format", "text", "elements", "charts", "curves", "drawer", "table", "tree", "section", "main")
"""The page's modules, each behind those that it imports."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./[a-z]+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=function|const|async)", re.MULTILINE)
_IN_SCRIPTS = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def page_of(sections: Sequence[Section]) -> str:
    """The whole page. Names, notes and values of the sections are data in it, never markup."""
    data = {"netweight": __version__, "sections": [section.to_json() for section in sections]}
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPTS)
    vendor, own, style = _read("vendor/vendor.js"), _joined(), _read("assets/page.css")
    scripts = " ".join(f"'{_digest(script)}'" for script in (vendor, own))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src '{_digest(style)}'; img-src data:; base-uri 'none';"
        " form-action 'none'"
    )
    title = ", ".join(section.title for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_plain(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<script type="application/json" id="data">{text}</script>\n'
        f"<script>{vendor}</script>\n<script>{own}</script>\n</body>\n</html>\n"
    )


def _plain(text: str) -> str:
    """A title: letters, digits and what cannot be markup; the page shows the whole name."""
    return re.sub(r"[^\w .,@:/+-]", " ", text)[:200]


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _read(name: str) -> str:
    return files("netweight.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _joined() -> str:
    """The modules as one script."""
    parts = [_EXPORT.sub("", _IMPORT.sub("", _read(f"assets/{name}.js"))) for name in MODULES]
    return f'"use strict";\n(() => {{\n{"".join(parts)}\nstartPage();\n}})();\n'
