"""Reports in a real browser: they draw, open, sort, filter and save what the results hold, and load nothing."""

from __future__ import annotations

import csv
import io
import json

import pytest
from pages import browser_page
from test_html import HOSTILE, section

import netweight
from netweight.columns import Column
from netweight.jobs.demo.models import make_demo_models
from netweight.page.html import page_of
from netweight.page.section import Section


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """(folder of pages, the scan, the delta, the comparison)"""
    folder = tmp_path_factory.mktemp("pages")
    models = make_demo_models(folder / "models", 0)
    scanned = netweight.scan(models.base, methods="all")
    found = netweight.delta(models.base, models.fine_tunes[:3], folder / "tv")
    compared = netweight.compare(models.base, models.fine_tunes[0])
    for name, result in (("scan", scanned), ("delta", found), ("compare", compared)):
        result.report(folder / f"{name}.html")
    return folder, scanned, found, compared


def inked(page):
    """How many colours the first picture has."""
    return page.evaluate("""() => {
        const canvas = document.querySelector(".chart canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add(`${data[i]} ${data[i + 1]} ${data[i + 2]} ${data[i + 3]}`);
        return seen.size;
    }""")


@pytest.mark.parametrize("name", ["scan", "delta", "compare"])
@pytest.mark.parametrize(("width", "scheme", "language"), [(1400, "light", "en-US"), (360, "dark", "zh-CN")])
def test_it_draws_and_loads_nothing(reports, name, width, scheme, language) -> None:
    problems = []
    with browser_page(reports[0] / f"{name}.html", problems, width=width, scheme=scheme, language=language) as page:
        assert inked(page) > 8
        assert page.locator(".lines .line").count() >= 10
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert ("全部行" in page.inner_text("main")) == (language == "zh-CN")
    assert problems == []


def test_a_cell_of_the_map_opens_its_tensor(reports) -> None:
    """The number that the drawer shows is the result's own, to the last digit."""
    folder, scanned, _, _ = reports
    problems = []
    with browser_page(folder / "scan.html", problems) as page:
        box = page.locator(".chart").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + 25)
        name = page.locator("dialog h2").inner_text()
        row = next(row for row in scanned.rows if row.name == name)
        for field in ("spectral.stable_rank", "basic_stats.std", "tail.alpha"):
            cell = page.locator(f'dialog tr[data-column="{field}"] td').first
            value = row.value(field)
            if value is None:
                assert cell.count() == 0
            else:
                assert float(cell.get_attribute("title")) == value
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
    assert problems == []


def test_rows_are_sorted_filtered_and_saved(reports) -> None:
    folder, scanned, _, _ = reports
    problems = []
    with browser_page(folder / "scan.html", problems) as page:
        page.get_by_role("button", name="spectral.stable_rank").first.click()
        first = page.locator(".lines .line").first.locator("span").first.inner_text()
        most = max(scanned.rows, key=lambda row: row.value("spectral.stable_rank") or -1)
        assert first == most.name
        page.get_by_role("searchbox").fill("layers.2 mlp")
        wanted = {row.name for row in scanned.rows if "layers.2" in row.name and "mlp" in row.name}
        shown = {line.locator("span").first.get_attribute("title") for line in page.locator(".lines .line").all()}
        assert shown == wanted
        assert page.get_by_role("status").inner_text().startswith(f"{len(wanted)} of {len(scanned.rows)}")
        page.get_by_role("searchbox").fill("")
        with page.expect_download() as waiting:
            page.get_by_role("button", name="Save as CSV").click()
        text = waiting.value.path().read_text(encoding="utf-8")
    saved = {row["param"]: row for row in csv.DictReader(io.StringIO(text))}
    assert len(saved) == len(scanned.rows)
    columns = [column for column in scanned.columns if column.name in next(iter(saved.values()))]
    for cells in scanned.frame.rows:
        own = dict(zip((column.name for column in scanned.columns), cells, strict=True))
        for column in columns:
            value, held = own[column.name], saved[own["param"]][column.name]
            if value is None:
                assert held == ""
            elif column.type in {"number", "integer"}:
                assert float(held) == value
            else:
                assert held == (value if isinstance(value, str) else json.dumps(value))
    assert problems == []


def test_one_model_at_a_time(reports) -> None:
    folder, _, found, _ = reports
    problems = []
    with browser_page(folder / "delta.html", problems) as page:
        name = found.models[1].name
        page.locator(".choice select").first.select_option(name)
        count = sum(p.rows[1] is not None for p in found.parameters)
        assert page.get_by_role("status").inner_text() == f"{count} of {count} rows"
        page.locator(".lines .line").first.press("Enter")
        assert page.locator('dialog tr[data-column="model"] td').first.inner_text() == name
    assert problems == []


def test_experts_are_a_distribution_first(tmp_path) -> None:
    """Then each of them, the largest value first."""
    columns = (
        Column("param", "", "its name", "text"), Column("layer", "", "its layer", "integer"),
        Column("role", "", "its role", "text"), Column("size", "", "a number", "number"),
    )  # fmt: skip
    rows = [(f"layers.0.experts.{n}.up_proj", 0, "up_proj", float((7 * n) % 40)) for n in range(40)]
    made = Section("scan", "moe", columns, rows, "param", shown=["param", "size"], metrics=["size"])
    (tmp_path / "page.html").write_text(page_of([made]), encoding="utf-8")
    problems = []
    with browser_page(tmp_path / "page.html", problems) as page:
        box = page.locator(".chart").first.bounding_box()
        page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 15)
        assert page.locator("dialog h2").inner_text() == "layer 0 · up_proj"
        assert "the middle of 40 values: 20" in page.locator("dialog .doc").inner_text()
        listed = page.locator("dialog ol li")
        assert listed.count() == 40
        largest = max(rows, key=lambda row: row[3])
        assert listed.first.inner_text() == f"{largest[0]} 39"
        listed.first.locator("button").click()
        assert page.locator("dialog h2").inner_text() == largest[0]
    assert problems == []


def test_hostile_names_are_text(tmp_path) -> None:
    (tmp_path / "page.html").write_text(page_of([section(HOSTILE)]), encoding="utf-8")
    problems = []
    with browser_page(tmp_path / "page.html", problems) as page:
        assert (
            page.evaluate("document.querySelectorAll('main script, main img, main iframe, main a[href]').length") == 0
        )
        text = page.inner_text("main")
        assert "</script><script>alert(1)</script>" in text
        assert "<img src=x onerror=alert(1)>" in text
        page.locator(".lines .line").first.click()
        assert page.locator("dialog h2").inner_text() == HOSTILE[0]
    assert problems == []
