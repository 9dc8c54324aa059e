"""A real headless Chromium, without a network, that fails a test when a page complains."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

AXE = Path(__file__).parents[1] / "node_modules" / "axe-core" / "axe.min.js"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def executable() -> str | None:
    """Chromium of this machine: MOEBENCH_CHROMIUM, or the first of `NAMES` on the path."""
    return os.environ.get("MOEBENCH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def wait_until(page: Any, expression: str) -> None:
    """Wait until a JavaScript expression holds. wait_for_function would have the page make code of it; ours refuse."""
    until = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < until, expression
        page.wait_for_timeout(50)


def assert_accessible(page: Any) -> None:
    """No rule of axe is broken by what a page shows now."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed (make lint installs it where Node is)")
    page.evaluate(AXE.read_text(encoding="utf-8"))
    violations = page.evaluate("axe.run().then(({ violations }) => violations)")
    words = [f"{v['id']}: {v['help']}: {[n['target'] for n in v['nodes'][:3]]}" for v in violations]
    assert not words, "\n".join(words)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One Chromium for all tests; they are skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    if (path := executable()) is None:
        pytest.skip("Chromium is not installed (make browser installs it)")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    arguments += ["--disable-background-networking", "--disable-component-update"]
    arguments += ["--host-resolver-rules=MAP evil.test 127.0.0.1"]  # a name that was pointed at this machine
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """``open_page(url, **options)``: a page in a context of its own. Errors in its console fail the test.

    offline: no network, for pages on disk (default). options: as for playwright's ``new_context``.
    """
    contexts: list[Any] = []
    complaints: list[str] = []

    def opened(url: str, *, offline: bool = True, **options: Any) -> Any:
        context = browser.new_context(offline=offline, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not complaints, complaints
