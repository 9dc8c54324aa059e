"""The browser itself: a page on disk opens, without a network, and a complaint would be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser


def test_a_page_on_disk_runs_its_scripts(open_page: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    script = "document.querySelector('p').textContent = 'b'"
    path.write_text(f"<!doctype html><title>t</title><p>a</p><script>{script}</script>")
    page = open_page(path.as_uri())
    assert page.inner_text("p") == "b"
