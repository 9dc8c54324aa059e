"""The live page in Chromium, on a real server whose model has a hostile name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_process import OURS, Server, checkpoint, serving, until

pytestmark = pytest.mark.browser

pytest.importorskip("mlx_lm", reason="needs MLX to serve")

HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps the choices of the last tokens."""
    folder = tmp_path_factory.mktemp("keeping")
    arguments = ["--model", str(checkpoint(folder / "nano32")), "--output", "out.json", "--last-tokens", "16"]
    with serving(OURS, *arguments, cwd=folder) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("view")
    model: Path = checkpoint(folder / HOSTILE)
    with serving(OURS, "--model", str(model), "--output", "out.json", cwd=folder) as running:
        yield running


def colours(page: Any) -> int:
    """How many colours the heatmap has."""
    return int(
        page.evaluate(
            """() => {
              const canvas = document.querySelector("#heat canvas");
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              return new Set(new Uint32Array(data.buffer)).size;
            }"""
        )
    )


def holds(page: Any, condition: str) -> None:
    """Wait for it; not as Playwright does, which makes code of text, as the page's policy forbids."""
    until(lambda: page.evaluate(f"() => {condition}"))


def test_the_load_moves_for_sixty_updates(server: Server, open_page: Any) -> None:
    server.complete(prompt="What is 2 + 2?", max_tokens=9)
    page = open_page("about:blank", offline=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.install()
    page.goto(f"http://127.0.0.1:{server.port}/routing/view")
    holds(page, "document.querySelectorAll('#rows tr').length === 6")
    first = page.locator("#rows").inner_text()
    assert colours(page) > 4
    server.complete(prompt="A farmer has", max_tokens=30)
    for update in range(2, 62):
        page.clock.run_for(1000)
        holds(page, f"Number(document.body.dataset.updates) >= {update}")
    assert page.locator("#rows").inner_text() != first
    assert page.locator("#rows tr").count() == 6
    assert page.locator("#heat canvas").count() == 1
    assert "39 tokens" in page.locator("#state").inner_text()
    assert page.locator("#model").inner_text() == HOSTILE
    assert page.title() == "Routing, live"
    assert page.locator("img").count() == 0
    assert all(url.startswith(f"http://127.0.0.1:{server.port}/routing") for url in asked)


def test_phases_times_and_pause(server: Server, open_page: Any) -> None:
    server.complete(prompt="What is 2 + 2?", max_tokens=3)
    page = open_page(f"http://127.0.0.1:{server.port}/routing/view", offline=False)
    holds(page, "document.querySelectorAll('#rows tr').length === 6")
    page.select_option("#over", "all")
    holds(page, "document.getElementById('state').textContent.endsWith('since the start.')")
    page.select_option("#phase", "unsplit")
    holds(page, "document.getElementById('state').textContent === 'No such token was run yet.'")
    page.select_option("#phase", "prefill")
    holds(page, "document.querySelectorAll('#rows tr').length === 6")
    box = page.locator("#heat canvas").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 8)
    assert "expert 0" in page.locator("#tip").inner_text()
    page.click("#pause")
    page.wait_for_timeout(1200)
    updates = page.evaluate("document.body.dataset.updates")
    page.wait_for_timeout(1500)
    assert page.evaluate("document.body.dataset.updates") == updates


def test_the_map_of_the_last_tokens_grows_and_has_no_text(keeping: Server, open_page: Any) -> None:
    page = open_page(f"http://127.0.0.1:{keeping.port}/routing/view", offline=False)
    holds(page, "document.getElementById('last-note').textContent === 'No token was run yet.'")
    keeping.complete(prompt="A farmer has", max_tokens=3)
    holds(page, "document.querySelectorAll('#last g[data-token]').length === 7")
    assert "its last 7 tokens, 3 of them generated" in page.locator("#last-note").inner_text()
    assert page.locator("#last .mm-cell").count() == 7 * 6
    assert page.locator("#last .mm-made").count() == 1
    assert "farmer" not in page.content()
    assert b"farmer" not in keeping.get("/routing/last")
    page.locator("#last .mm-cell").first.hover()
    assert "#0 (token 0), layer 0" in page.locator("#tip").inner_text()
    keeping.complete(prompt="What is 2 + 2?", max_tokens=30)
    holds(page, "document.getElementById('last-note').textContent.startsWith('Request 2 ')")
    holds(page, "document.querySelectorAll('#last g[data-token]').length === 16")


def test_without_the_flag_nothing_of_a_token_is_kept(server: Server, open_page: Any) -> None:
    server.complete(prompt="What is 2 + 2?", max_tokens=3)
    page = open_page(f"http://127.0.0.1:{server.port}/routing/view", offline=False)
    holds(page, "document.getElementById('last-note').textContent.includes('--last-tokens')")
    assert page.locator("#last").is_hidden()
    assert server.get("/routing/last") == b'{"most": 0, "latest": null}'
