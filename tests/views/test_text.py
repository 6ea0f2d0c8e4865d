from __future__ import annotations

import io

import pytest
from rich.console import Console

from netweight.errors import printable
from netweight.views.text import human_bytes, human_count, one_line


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (12, "12"),
        (999, "999"),
        (1000, "1.00 k"),
        (837_744, "838 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (1_235_814_400, "1.24 G"),
        (9_994_999_999, "9.99 G"),
        (9_995_000_000, "10.0 G"),
        (99_950_000_000, "100 G"),
        (10**12, "1.00 T"),
        (10**20, "100000 P"),
    ],
)
def test_counts(count: int, text: str) -> None:
    assert human_count(count) == text


def test_bytes() -> None:
    assert [human_bytes(n) for n in (0, 12, 310_000, 2_471_645_608)] == ["0 B", "12 B", "310 kB", "2.47 GB"]


@pytest.mark.parametrize("name", ["[red]x[/red]", "\x1b[31mred", "a\nb", "[link=file:///]x", "\u202eabc", "\x07"])
def test_names_print_as_they_are_spelled(name: str) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True, highlight=False, markup=False, emoji=False)
    console.print(printable(name))  # as the commands print names
    shown = out.getvalue().removesuffix("\n")
    assert "\x1b" not in shown
    assert shown.isprintable()
    assert shown == name or not name.isprintable()


def test_messages_are_one_line() -> None:
    assert one_line("a\n  b\x1b\tc") == "a b\\x1b c"
    assert len(one_line("x" * 10_000)) == 2000
