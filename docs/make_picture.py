"""Draw docs/images/report.png, the map of a report on the demo's models: `python docs/make_picture.py`.

It needs Chromium, and playwright to drive it (`make browser`). The page is one that `netweight delta --report` writes.
"""  # noqa: INP001

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import netweight
from netweight.jobs.demo.models import make_demo_models

TARGET = Path(__file__).parent / "images" / "report.png"
_WIDTH, _SCALE, _MARGIN = 960, 2, 12


def page_of_the_demo(folder: Path) -> Path:
    """A page on the first of the demo's fine-tunes."""
    models = make_demo_models(folder / "models")
    page = folder / "report.html"
    netweight.delta(models.base, models.fine_tunes[:1]).report(page)
    return page


def draw(page: Page, target: Path) -> None:
    """The page from the heading of its map to the end of the map's canvas."""
    top = page.get_by_role("heading", name="Layers and roles").first.bounding_box()
    canvas = page.locator("figure canvas").first.bounding_box()
    if top is None or canvas is None:
        sys.exit("the page shows no map")
    bottom = canvas["y"] + canvas["height"]
    clip = {"x": 0, "y": top["y"] - _MARGIN, "width": _WIDTH, "height": bottom - top["y"] + _MARGIN}
    page.screenshot(path=target, full_page=True, clip=clip)


def main() -> None:
    """Make models and page in a folder for temporary files, and the picture of them."""
    TARGET.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = page_of_the_demo(Path(folder))
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view = {"width": _WIDTH, "height": 1000}
        page = browser.new_page(viewport=view, device_scale_factor=_SCALE, locale="en-US", color_scheme="light")
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.wait_for_timeout(500)  # the map is drawn step by step
        draw(page, TARGET)
        browser.close()


if __name__ == "__main__":
    main()
