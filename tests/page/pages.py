"""Pages taken apart: their data as a reader of its own decodes them, and a browser where there is one."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import struct
from contextlib import contextmanager

import pytest

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def data_of(text):
    """The JSON inside a page."""
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def cells_of(column):
    """The cells of one column of a page's data."""
    if "numbers" in column:
        raw = base64.b64decode(column["numbers"])
        values = struct.unpack(f"<{len(raw) // 8}d", raw)
        return [None if math.isnan(value) else value for value in values]
    raw = base64.b64decode(column["at"])
    return [None if at == 0xFFFFFFFF else column["texts"][at] for at in struct.unpack(f"<{len(raw) // 4}I", raw)]


def lists_of(column):
    """The lists of one of a page's pictures."""
    values, ends, places = (
        struct.unpack(f"<{len(raw) // size}{kind}", raw)
        for key, size, kind in (("lists", 8, "d"), ("ends", 4, "I"), ("at", 4, "I"))
        for raw in [base64.b64decode(column[key])]
    )
    bounds = (0, *ends)
    return [None if at == 0xFFFFFFFF else list(values[bounds[at] : bounds[at + 1]]) for at in places]


def chromium():
    """The path of Chromium; skips where there is none."""
    path = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if path is None:
        pytest.skip("no Chromium on this machine")
    return path


@contextmanager
def browser_page(file, problems, *, width=1400, height=1000, scheme="light", language="en-US"):
    """The page of a file in Chromium, ready; console messages, errors and requests go to `problems`."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives Chromium: pip install playwright")
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, locale=language, accept_downloads=True
        )
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "blob:")) else problems.append(request.url),
        )
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.wait_for_timeout(300)
        yield page
        browser.close()
