"""Pages of other origins, and one whose name was pointed at this machine, against demo and serve in Chromium.

Another port of 127.0.0.1, localhost where the server is 127.0.0.1, and a rebound name try all that a page can: nothing
is read, nothing is run. A listed origin reads, and the server's own page works.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from serve_process import DEMO, OURS, Server, checkpoint, serving

pytestmark = pytest.mark.browser

pytest.importorskip("mlx_lm", reason="needs MLX to serve")

ATTACK = """async ({ base, reads, post, body }) => {
  const read = {}, quiet = (promise) => promise.catch(() => "refused");
  const wait = (run) => new Promise((done) => { run(done); setTimeout(() => done("nothing"), 4000); });
  const note = (name, promise) => quiet(promise).then((what) => { read[name] = what; });
  const tag = (kind, where, href) => wait((done) => {
    const element = document.createElement(kind);
    element.onload = () => done("loaded");
    element.onerror = () => done("refused");
    if (kind === "link") element.rel = "stylesheet";
    element[where] = href;
    document.body.append(element);
  });
  const text = async (path, options) => {
    const answer = await fetch(base + path, options);
    return answer.type === "opaque" ? "opaque" : answer.ok ? await answer.text() : "refused";
  };
  const jobs = [];
  for (const path of reads) {
    jobs.push(note(`cors ${path}`, text(path)));
    jobs.push(note(`no-cors ${path}`, text(path, { mode: "no-cors" })));
    jobs.push(note(`credentials ${path}`, text(path, { credentials: "include" })));
    jobs.push(note(`script ${path}`, tag("script", "src", base + path)));
    jobs.push(note(`img ${path}`, tag("img", "src", base + path)));
    jobs.push(note(`css ${path}`, tag("link", "href", base + path)));
    jobs.push(note(`events ${path}`, wait((done) => {
      const source = new EventSource(base + path);
      source.onmessage = source.onopen = () => done("opened");
      source.onerror = () => { source.close(); done("refused"); };
    })));
    jobs.push(note(`socket ${path}`, wait((done) => {
      const socket = new WebSocket(base.replace("http", "ws") + path);
      socket.onopen = () => done("opened");
      socket.onerror = () => done("refused");
    })));
    jobs.push(note(`frame ${path}`, wait((done) => {
      const frame = document.createElement("iframe");
      frame.onload = () => {
        let said = "refused";
        try { said = frame.contentDocument.body.innerText; } catch { /* of another origin */ }
        done(said);
      };
      frame.src = base + path;
      document.body.append(frame);
    })));
  }
  const sent = JSON.stringify(body);
  const kinds = ["application/json", "text/plain", "application/x-www-form-urlencoded"];
  for (const type of kinds) {
    const headers = { "Content-Type": type };
    jobs.push(note(`post ${type}`, text(post, { method: "POST", headers, body: sent })));
    jobs.push(note(`post no-cors ${type}`, text(post, { method: "POST", mode: "no-cors", headers, body: sent })));
  }
  for (const path of [post, "/gradio_api/upload", "/upload"]) {
    const upload = new FormData();
    upload.append("files", new Blob(["hello"]), "a.txt");
    jobs.push(note(`upload ${path}`, text(path, { method: "POST", mode: "no-cors", body: upload })));
  }
  navigator.sendBeacon(base + post, new Blob([sent], { type: "text/plain" }));
  jobs.push(note("form", wait((done) => {
    const form = document.createElement("form"), frame = document.createElement("iframe");
    frame.name = "into";
    const name = document.createElement("input");  // the old way to post JSON by a form
    name.name = sent.slice(0, -1) + ', "x": "';
    name.value = '"}';
    Object.assign(form, { method: "POST", action: base + post, enctype: "text/plain", target: "into" }).append(name);
    document.body.append(frame, form);
    form.submit();
    setTimeout(() => done("nothing"), 1500);
  })));
  await Promise.all(jobs);
  return read;
}"""

HARMLESS = ("refused", "nothing", "opaque", "")
"""What may come of an attempt; an opaque answer has neither status nor text for the page that asked."""


class Blank(BaseHTTPRequestHandler):
    """An empty page at every address."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another</title><body>")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    """The port of another site of this machine."""
    site = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    yield site.server_address[1]
    site.shutdown()
    site.server_close()
    thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, other: int) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("origins")
    model: Path = checkpoint(folder / "nano32")
    arguments = ("--model", str(model), "--output", "out.json", "--allowed-origins", f"http://friend.localhost:{other}")
    with serving(OURS, *arguments, cwd=folder) as running:
        yield running


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="gradio is not installed (extra demo)")
    with serving(DEMO, "--max-length", "32", cwd=tmp_path_factory.mktemp("origins")) as running:
        yield running


ATTACKERS = ("127.0.0.1", "localhost", "evil.test")


def attacked(browser: Any, page_at: str, base: str, reads: list[str], post: str, body: Any) -> dict[str, str]:
    """What a page read of a server, by what it tried."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(page_at)
    found: dict[str, str] = page.evaluate(ATTACK, {"base": base, "reads": reads, "post": post, "body": body})
    context.close()
    assert len(found) > 9 * len(reads)
    return found


def bases(server: Server, site: str) -> list[str]:
    """Under which names a page of that site tries to reach the server."""
    return [f"http://{name}:{server.port}" for name in dict.fromkeys(("127.0.0.1", site))]


@pytest.mark.parametrize("site", ATTACKERS)
def test_serve_gives_other_pages_nothing(browser: Any, served: Server, other: int, site: str) -> None:
    reads = ["/routing", "/metrics", "/routing/view", "/v1/models", "/health"]
    body = {"prompt": "x", "max_tokens": 2}
    before = served.routing()["phases"]
    for base in bases(served, site):
        found = attacked(browser, f"http://{site}:{other}/", base, reads, "/v1/completions", body)
        assert not {name: what for name, what in found.items() if what not in HARMLESS}
    assert served.routing()["phases"] == before


@pytest.mark.parametrize("site", ATTACKERS)
def test_the_demo_gives_other_pages_nothing(browser: Any, demo: Server, other: int, site: str) -> None:
    reads = ["/", "/config", "/theme.css", "/gradio_api/queue/data?session_hash=evil", "/gradio_api/file=/etc/passwd"]
    number = next(one["id"] for one in json.loads(demo.get("/config"))["dependencies"] if len(one["inputs"]) == 4)
    body = {"session_hash": "evil", "fn_index": number, "data": ["moebench-nano", "one text", "a", "b"]}
    for base in bases(demo, site):
        found = attacked(browser, f"http://{site}:{other}/", base, reads, "/gradio_api/queue/join", body)
        assert not {name: what for name, what in found.items() if what not in HARMLESS}
    assert demo.status("/gradio_api/queue/data?session_hash=evil") == 404  # it never joined


def test_what_is_tried_works_on_the_own_page(browser: Any, demo: Server) -> None:
    """Else that nothing came of it would say nothing."""
    base = f"http://127.0.0.1:{demo.port}"
    found = attacked(browser, f"{base}/", base, ["/config", "/theme.css"], "/gradio_api/queue/join", {})
    assert '"dependencies"' in found["cors /config"]
    assert found["css /theme.css"] == "loaded"
    assert found["frame /theme.css"] not in HARMLESS


@pytest.mark.parametrize("which", ["served", "demo"])
def test_a_rebound_name_reads_nothing_though_it_is_of_one_origin(
    browser: Any, request: pytest.FixtureRequest, which: str
) -> None:
    server: Server = request.getfixturevalue(which)
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"http://evil.test:{server.port}/{'' if which == 'demo' else 'routing/view'}")
    assert answer.status == 403
    assert "--allow-host" in answer.text()
    for path in ("/config", "/routing", "/metrics", "/v1/models", "/"):
        said = page.evaluate("(path) => fetch(path).then((a) => a.status)", path)
        assert said == 403, path
    for path in ("/v1/completions", "/gradio_api/queue/join"):
        asked = "(path) => fetch(path, { method: 'POST', body: '{\"prompt\": \"x\"}' }).then((a) => a.status)"
        assert page.evaluate(asked, path) == 403
    context.close()


def test_a_listed_origin_reads_and_posts(browser: Any, served: Server, other: int) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://friend.localhost:{other}/")
    asked = """async (base) => {
      const headers = { "Content-Type": "application/json" };
      const body = JSON.stringify({ prompt: "x", max_tokens: 2 });
      const answer = await fetch(base + "/v1/completions", { method: "POST", headers, body });
      return [(await (await fetch(base + "/routing")).json()).version, (await answer.json()).usage.completion_tokens];
    }"""
    assert page.evaluate(asked, f"http://127.0.0.1:{served.port}") == ["1", 2]
    context.close()


def test_a_link_of_another_site_opens_the_pages_which_then_work(
    browser: Any, served: Server, demo: Server, other: int
) -> None:
    context = browser.new_context()
    page = context.new_page()
    for server, path, shown in ((served, "routing/view", "#rows"), (demo, "", "#message")):
        page.goto(f"http://localhost:{other}/")
        address = f"http://127.0.0.1:{server.port}/{path}"
        page.evaluate("(href) => { document.body.innerHTML = `<a id=go href='${href}'>go</a>`; }", address)
        page.click("#go")
        page.wait_for_url(address)
        page.locator(shown).first.wait_for(state="attached", timeout=30_000)
    page.locator("#message", has_text="through 6 routers").wait_for(timeout=30_000)
    context.close()
