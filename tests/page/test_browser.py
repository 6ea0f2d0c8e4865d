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

NAMES = ["scan", "delta", "compare", "merge", "info", "verify", "structure", "lineage"]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """(folder of pages, the scan, the delta, the comparison)"""
    folder = tmp_path_factory.mktemp("pages")
    models = make_demo_models(folder / "models", 0)
    scanned = netweight.scan(models.base, methods="all", pictured=True)
    found = netweight.delta(models.base, models.fine_tunes[:3], folder / "tv", pictured=True)
    compared = netweight.compare(models.base, models.fine_tunes[0])
    merged = netweight.merge(
        None, folder / "merged", base=models.base, models=models.fine_tunes[:2], method="ties", pictured=True
    )
    results = {
        "scan": scanned, "delta": found, "compare": compared, "merge": merged,
        "info": netweight.info(models.base, listed=True), "verify": netweight.verify(folder / "merged"),
        "structure": netweight.structure(models.fine_tunes[0], models.base),
        "lineage": netweight.lineage([models.base, *models.fine_tunes]),
    }  # fmt: skip
    assert list(results) == NAMES
    for name, result in results.items():
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "scheme", "language"), [(1400, "light", "en-US"), (360, "dark", "zh-CN")])
def test_it_draws_and_loads_nothing(reports, name, width, scheme, language) -> None:
    problems = []
    with browser_page(reports[0] / f"{name}.html", problems, width=width, scheme=scheme, language=language) as page:
        assert inked(page) > (3 if name in {"verify", "structure"} else 8)  # these have one colour: nothing differs
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
        chart = page.locator(".chart").first
        chart.scroll_into_view_if_needed()  # findings stand above it
        box = chart.bounding_box()
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


def test_the_drawer_draws_what_was_gathered(reports) -> None:
    """The tables behind the histogram and the singular values are those of the result."""
    folder, scanned, _, _ = reports
    problems = []
    with browser_page(folder / "scan.html", problems) as page:
        row = next(row for row in scanned.rows if row.name.endswith("layers.2.mlp.up_proj.weight"))
        page.get_by_role("searchbox").fill(row.name)
        page.locator(".lines .line").first.press("Enter")
        dialog = page.locator("dialog")
        dialog.locator(".chart canvas").nth(2).wait_for()
        for at, (measure, columns) in enumerate(
            ((row.pictures["histogram"], (1, 2)), (row.pictures["singular_values"], (0, 1)))
        ):
            dialog.locator("figure").nth(at).locator("summary").click()
            dialog.locator("figure").nth(at).locator("tbody tr").first.wait_for()
            cells = dialog.locator("figure").nth(at).locator("tbody tr").all_inner_texts()
            held = [line.split("\t") for line in cells]
            if at:
                assert [int(line[columns[0]]) for line in held] == measure["ranks"]
                assert [float(line[columns[1]]) for line in held] == pytest.approx(measure["values"], rel=1e-5)
            else:
                assert [int(line[columns[1]]) for line in held] == measure["counts"]
                assert [float(line[columns[0]]) for line in held] == pytest.approx(measure["edges"][1:], rel=1e-5)
        assert f"svd_90_percent_rank: {row.value('spectral.svd_90_percent_rank')}" in dialog.inner_text()
    assert problems == []


def test_two_metrics_against_each_other(reports) -> None:
    """A pair that is chosen; every row that has both is behind the picture."""
    folder, scanned, _, _ = reports
    problems = []
    with browser_page(folder / "scan.html", problems) as page:
        page.get_by_text("Two metrics against each other").click()
        page.get_by_label("Upwards").select_option("quantization.sqnr_db")
        page.get_by_label("Across").select_option("basic_stats.std")
        figure = page.locator("figure").nth(1)
        figure.locator("canvas").wait_for()
        figure.locator("summary").click()
        figure.locator("tbody tr").first.wait_for()
        lines = [line.split("\t") for line in figure.locator("tbody tr").all_inner_texts()]
        wanted = {
            row.name: (row.value("basic_stats.std"), row.value("quantization.sqnr_db"))
            for row in scanned.rows
            if None not in (row.value("basic_stats.std"), row.value("quantization.sqnr_db"))
        }
        assert {line[0] for line in lines} == set(wanted)
        for name, x, y in lines:
            assert (float(x), float(y)) == pytest.approx(wanted[name], rel=1e-5)
    assert problems == []


def test_it_prints_and_takes_the_keyboard_alone(reports) -> None:
    """On paper: text in dark ink, tables of what was looked at. Every control can be reached, and the focus is seen."""
    folder, scanned, *_ = reports
    problems = []
    with browser_page(folder / "scan.html", problems, scheme="dark") as page:
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("header button").first.is_visible() is False
        assert page.evaluate("document.body.scrollHeight") < 6000  # no empty pages for rows out of sight
        image = page.locator("img.print").first
        assert image.is_visible()
        assert image.evaluate("image => image.naturalWidth") > 500
        page.emulate_media(media="screen", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert page.locator("img.print").count() == 0
        reached = set()
        for _ in range(120):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.className || document.activeElement.tagName"))
            if page.evaluate("document.activeElement.classList.contains('line')"):
                break
        assert {"BUTTON", "SELECT", "SUMMARY", "INPUT", "line"} <= reached
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        for _ in range(30):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        names = [row.name for row in scanned.rows]
        focused = page.evaluate("document.activeElement.firstChild.title")
        assert focused == names[29]
        page.keyboard.press("Enter")
        assert page.locator("dialog h2").inner_text() == focused
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


def test_an_edge_of_the_tree_opens_its_evidence(reports) -> None:
    problems = []
    with browser_page(reports[0] / "lineage.html", problems) as page:
        edges = page.locator(".tree details")
        assert edges.count() == 5
        edge = page.locator(".tree li", has_text="demo-dpo").last.locator("details")
        edge.locator("summary").click()
        edge.locator("table").last.wait_for()  # what opens is made by an event that comes later
        text = edge.inner_text()
        assert "adapter merged" in text
        assert "log10_p" in text
        assert "mean cosine" in text
    assert not problems


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
