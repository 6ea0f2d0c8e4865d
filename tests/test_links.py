"""Links of the documents lead somewhere, and every page can be found."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

from test_docs import DOCUMENTS, FENCE, ROOT

LONGEST_README = 150
INDEXES = [ROOT / "docs" / "index.md", ROOT / "docs" / "zh" / "index.md"]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
FORMS = (r"\]\(<?([^)\s>]+)>?[^)]*\)", r"^\[[^\]]+\]:\s*(\S+)", r"(?:href|src)=\"([^\"]+)\"")


def without_code(path: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", path.read_text(encoding="utf-8")))


def targets(path: Path) -> list[str]:
    """What links and pictures of the document lead to, without addresses of other places."""
    found = [target for form in FORMS for target in re.findall(form, without_code(path), re.MULTILINE)]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as code hosts make them: a second one of a name has -1 behind it."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(path: Path) -> None:
    for target in targets(path):
        place, _, heading = unquote(target).partition("#")
        file = (path.parent / place).resolve() if place else path
        assert file.is_relative_to(ROOT.resolve()), f"{target} leads out of the project"
        assert file.is_file(), target  # a folder has no page in the site
        assert not heading or heading in anchors(file), target


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A: `b_c`, d\n\n# Two\n# Two\n[x](gone.md#a)\n![y](no.png)\n`[z](code.md)`\n[w](https://a.example)\n"
    )
    assert targets(page) == ["gone.md#a", "no.png"]
    assert anchors(page) == {"a-b_c-d", "two", "two-1"}


def test_all_documents_are_looked_at() -> None:
    assert {*PAGES} <= {*DOCUMENTS}


@pytest.mark.parametrize("index", INDEXES, ids=["English", "Chinese"])
def test_every_page_has_one_line_in_the_index(index: Path) -> None:
    lines = [line for line in index.read_text(encoding="utf-8").splitlines() if line.startswith("- [")]
    linked = [(index.parent / re.findall(FORMS[0], line)[0]).resolve() for line in lines]
    assert max(Counter(linked).values()) == 1
    wanted = {p for p in PAGES if p.parent.name != "measures" or p.stem == "README" or index.parent.name != "zh"}
    chinese = {p for p in wanted if p.parent.name == "zh"}
    if index.parent.name == "zh":  # a page in Chinese stands for its English twin
        wanted -= {ROOT / "docs" / p.name for p in chinese}
    else:
        wanted -= chinese
    assert {p.resolve() for p in wanted if p not in INDEXES} <= {*linked}
    assert all(re.match(r"- \[[^\]]+\]\([^)]+\)(:|\uff1a).+[.\u3002]$", line) for line in lines)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs" / "images" / "report.png").stat().st_size < 150_000
