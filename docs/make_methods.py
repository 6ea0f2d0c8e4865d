"""Write docs/merge_methods.md from the registry of merge methods: `python docs/make_methods.py`."""  # noqa: INP001

from __future__ import annotations

from pathlib import Path

from netweight.merging.method import Base, Method, Setting
from netweight.merging.registry import METHODS

TARGET = Path(__file__).with_name("merge_methods.md")

_HEAD = """# Merge methods

Every method of `netweight merge`, from the registry in the code: made by `docs/make_methods.py`; a test compares the
two. How to run them, and what all have in common: [merging](merging.md).

In the formulas b is the base, x_i are the models, d_i = x_i - b their task vectors, w_i their weights. A setting is
one number for the whole merge, or where the table says so one for each model; each may be a gradient over the depth
or a list of filters.
"""

_BASE = {
    Base.REQUIRED: "a base and {models}",
    Base.OPTIONAL: "{models}, with or without a base",
    Base.UNUSED: "{models}; a base gives config and tokenizer only",
}


def render() -> str:
    """The whole of docs/merge_methods.md."""
    return "\n".join([_HEAD, *(_method(method) for method in METHODS.values())])


def _method(method: Method) -> str:
    low, high = method.models
    models = f"{low} model{'s' if low > 1 else ''}" if low == high else f"{low} or more models"
    if high is not None and high != low:
        models = f"{low} to {high} models"
    lines = [
        f"## `{method.name}`",
        "",
        f"{method.title}. Takes {_BASE[method.base].format(models=models)}. Source: {method.source}.",
        "",
        "```text",
        method.formula,
        "```",
    ]
    if method.settings:
        lines += ["", "| setting | for | default | range | meaning |", "| --- | --- | --- | --- | --- |"]
        lines += [_setting(setting) for setting in method.settings]
    return "\n".join(lines) + "\n"


def _setting(setting: Setting) -> str:
    default = "must be given" if setting.default is None else str(setting.default).lower()
    whom = "each model" if setting.per_model else "the merge"
    return f"| `{setting.name}` | {whom} | {default} | {_range(setting)} | {setting.text} |"


def _range(setting: Setting) -> str:
    if setting.kind == "flag":
        return "true, false"
    parts = []
    if setting.low is not None:
        parts.append(f"{'above' if setting.open_low else 'from'} {setting.low:g}")
    if setting.high is not None:
        parts.append(f"{'below' if setting.open_high else 'to'} {setting.high:g}")
    return " ".join(parts) or "any"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8", newline="\n")
