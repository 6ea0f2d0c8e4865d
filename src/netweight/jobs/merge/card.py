"""The card of a merged model: YAML for the hub, a table of models and weights, the recipe.

References and names come from folders and files of others: they are escaped, so that Markdown and YAML show them as
text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from netweight.errors import printable
from netweight.jobs.inputs import SUFFIXES
from netweight.version import __version__

__all__ = ["model_card", "public_name"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_CACHED = re.compile(r"models--(.+)")
_OF_ANY_MODEL = {"model", "pytorch_model"}


def model_card(
    *,
    references: Sequence[str],
    base: str | None,
    method: str,
    models: Sequence[tuple[str, float | None, float | None]],
    recipe: str,
) -> str:
    """README.md of a merge of `references` by `method`, with the text of its `recipe`.

    `models` are references with weight and L2 norm of the task vector, where they are known; without any, all
    references but the base are listed.
    """
    alone = base is None and len(set(references)) == 1
    rows = models or [(reference, None, None) for reference in references if reference != base]
    if base is not None:
        rows = [(base, None, None), *rows]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", recipe)), default=0))
    text = "\n".join(_plain(line) for line in recipe.rstrip("\n").split("\n"))
    return (
        f"{_front_matter(references, alone=alone)}\n"
        f"# {'Converted' if alone else 'Merged'} model\n\n"
        f"Made of {'one model' if alone else f'{len(set(references))} models'} by {_code(method)}, with netweight"
        f" {__version__}. What went into each parameter stands in `netweight_merge.json`.\n\n"
        f"{_table(rows, base)}\n"
        "## Recipe\n\n"
        f"{fence}yaml\n{text}\n{fence}\n"
    )


def public_name(reference: str) -> str:
    """The public name of a model: its name on the hub, else its folder's or file's name, without the path to it.

    `models/base` is a path where it exists here, else a name on the hub; a folder of the hub's cache has its hub name.
    """
    if _HUB_NAME.fullmatch(reference) and "/" in reference and not os.path.lexists(reference):
        return reference
    parts = Path(os.path.abspath(reference.replace("\0", ""))).parts  # noqa: PTH100 - a link keeps the name it has here
    for part, below in pairwise(parts):
        if (match := _CACHED.fullmatch(part)) and below == "snapshots":
            return match[1].replace("--", "/", 1)
    name = parts[-1]
    ending = next((e for e in SUFFIXES if name.endswith(e)), "")
    stem = name.removesuffix(ending) or name
    return parts[-2] if ending and stem in _OF_ANY_MODEL and len(parts) > 2 else stem


def _front_matter(references: Sequence[str], *, alone: bool) -> str:
    import yaml

    names = dict.fromkeys(public_name(reference) for reference in references)
    tags = ["netweight"] if alone else ["merge", "netweight"]
    value: dict[str, object] = {"library_name": "transformers", "tags": tags}
    if known := [name for name in names if _HUB_NAME.fullmatch(name)]:  # the hub takes no others
        value = {"base_model": known, **value}
    return f"---\n{yaml.safe_dump(value, sort_keys=False)}---\n"


def _table(rows: Sequence[tuple[str, float | None, float | None]], base: str | None) -> str:
    columns = ["Model", "Role"]
    weights = any(weight is not None for _, weight, _ in rows)
    norms = any(norm is not None for _, _, norm in rows)
    columns += ["Weight"] * weights + ["L2 norm of its task vector"] * norms
    lines = [columns, ["---"] * len(columns)]
    for number, (reference, weight, norm) in enumerate(rows):
        cells = [_code(public_name(reference)), "base" if base is not None and not number else "model"]
        cells += [_number(weight)] * weights + [_number(norm)] * norms
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _code(text: str) -> str:
    """A name as code: between backticks where it has nothing that Markdown or HTML could take for its own."""
    if re.fullmatch(r"[A-Za-z0-9._/ -]*[A-Za-z0-9]", text):
        return f"`{text}`"
    shown = "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in printable(text))
    return f"<code>{shown}</code>"


def _plain(line: str) -> str:
    """A line of a fenced block: without characters that could end the line or the file's encoding."""
    return "\t".join(printable(part, 10 * len(part) + 3) for part in line.split("\t"))
