"""The page: Gradio's widgets around the token view. It asks nothing of any machine but the one that serves it."""

from __future__ import annotations

import contextlib
import html
import logging
import os
import socket
import webbrowser
from collections.abc import Callable, Collection
from importlib.resources import files
from typing import Any

from ..checkpoints.weights import shortened
from ..errors import MissingExtraError, MoebenchError, needed, renamed
from ..show.tokens import SCRIPTS, STYLES, assets
from ..types import Json
from ..web.origins import Origins
from .gate import Gate
from .main_thread import MainThread
from .routed import MODES, Mode, Models, Shown, show
from .server import address_of, bind, serving
from .wanted import LONGEST, MOST_BYTES, Wanted, too_long

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where gradio is imported
os.environ["GRADIO_RUN_HISTORY"] = "False"  # else browsers keep what was typed

try:
    import gradio as gr
    from fastapi import FastAPI
except ImportError as error:
    if (other := renamed(error)) is not None:
        raise other from error
    raise MissingExtraError("The demo", "demo") from error

EXAMPLE = "A router sends every token to a few experts.\nfor i in range(10):\n    print(i ** 2)\n"
EXAMPLE_B = "Sum the squares of the first ten integers: 1 + 4 + 9 + ... + 100 = 385."
QUEUE = 512
"""Texts that wait to be run; whoever comes then is told so."""

_MOUNT = """
// Which layer, colour and expert are shown stays the same when other text is typed.
let view = {};
element.addEventListener("moebench-view", (event) => { view = event.detail; });
const draw = () => {
  const place = element.querySelector(".token-view");
  if (!props.value) return place.replaceChildren();
  const data = JSON.parse(props.value);
  const { router, colour, expert } = view;
  MoebenchTokens.mount(place, { ...data, view: { router, colour, expert } });
};
watch("value", draw);
draw();
"""


def build(models: Models, main: MainThread, max_tokens: int, live: bool) -> Any:
    """The app, not yet served. live: route while the user types; else at the button."""

    with gr.Blocks(analytics_enabled=False, title="mlx_moebench: how a text is routed") as app:
        gr.Markdown("# How a text is routed\nType a text and see which experts its tokens choose, layer by layer.")
        with gr.Row():
            model = gr.Dropdown(models.names, value=models.names[0], label="Model", interactive=True, scale=1)
            mode = gr.Radio(models.modes, value=MODES[0], label="Show", scale=2)
        with gr.Row():
            first = gr.Textbox(EXAMPLE, label="Text", lines=5, max_lines=12, max_length=LONGEST, elem_id="text-a")
            second = gr.Textbox(
                EXAMPLE_B, label="Text B", lines=5, max_lines=12, max_length=LONGEST, visible=False, elem_id="text-b"
            )
        button = gr.Button("Route", variant="primary", elem_id="route")
        message = gr.HTML(elem_id="message", apply_default_css=False)
        tokens = gr.HTML(
            "",
            html_template='<div class="token-view"></div>',
            js_on_load=assets(*SCRIPTS) + _MOUNT,
            elem_id="tokens",
            apply_default_css=False,
        )
        gr.Markdown("## Load of the experts\nSelections of an expert, as a multiple of the even share of its router.")
        heatmap = gr.HTML(elem_id="heatmap", apply_default_css=False)
        gr.Markdown("## Routers")
        table = gr.HTML(elem_id="routers", apply_default_css=False)
        run = _run(models, main, max_tokens, [model, mode, first, second], [message, tokens, heatmap, table])
        mode.change(_boxes, mode, [first, second], api_visibility="private", concurrency_limit=None).then(**run)
        gr.on([app.load, button.click, model.change], **run)
        if live:  # by change, since Gradio's input event misses what is pasted
            gr.on([first.change, second.change], **run)
    return app


def _run(models: Models, main: MainThread, max_tokens: int, inputs: list[Any], outputs: list[Any]) -> Json:
    """How Gradio is to run the texts: one after the other, and of a quick series of changes the last."""

    def routed(name: str, mode: Mode, a: str, b: str) -> tuple[str, str, str, str]:
        if (why := too_long(a, b)) is not None:
            shown = Shown(why, "", "", "")
        else:
            shown = _answer(main, lambda: show(models, name, mode, (a, b), max_tokens))
        message = f'<p class="message" role="status">{html.escape(shown.message)}</p>'
        return message, shown.tokens, shown.heatmap, shown.table

    return {
        "fn": routed,
        "inputs": inputs,
        "outputs": outputs,
        "concurrency_limit": 1,
        "concurrency_id": "model",
        "trigger_mode": "always_last",
        "show_progress": "minimal",
        "api_visibility": "private",
    }


def _answer(main: MainThread, job: Callable[[], Shown]) -> Shown:
    """What ``job`` shows, or why it shows nothing, in one sentence; what nobody foresaw is logged, too."""
    answer = main.ask(job)
    error = answer.exception()
    if error is None:
        return answer.result()
    if isinstance(error, MoebenchError):
        return Shown(" ".join(str(error).split()), "", "", "")
    sentence = f"This text cannot be shown ({type(error).__name__}: {shortened(error)})."
    logging.getLogger(__name__).error("%s", sentence)
    return Shown(sentence, "", "", "")


def _boxes(mode: Mode) -> tuple[Any, Any]:
    two = mode == "two texts"
    return gr.update(label="Text A" if two else "Text"), gr.update(visible=two)


def gated(models: Models, main: MainThread, max_tokens: int, live: bool, origins: Origins) -> Gate:
    """The page as an ASGI application that answers what the page asks for, and nothing else."""
    blocks = build(models, main, max_tokens, live).queue(default_concurrency_limit=1, max_size=QUEUE)
    wanted = Wanted({number: len(one.inputs) for number, one in blocks.fns.items()}, models.names, models.modes)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="/",
        show_error=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=assets(*STYLES) + (files(__package__) / "demo.css").read_text(encoding="utf-8"),
    )
    waiting = needed(blocks._queue, "pending_messages_per_session", "gradio", "tells who waits for an answer")
    return Gate(app, origins, wanted, lambda session: session in waiting, MOST_BYTES)


def serve(
    models: Models,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    allow_hosts: Collection[str] = (),
    max_tokens: int = 256,
    live: bool = True,
    browser: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    main: MainThread | None = None,
    bound: socket.socket | None = None,
) -> None:
    """Serve the page until Ctrl-C, or until ``main`` is stopped; this thread loads and runs the models.

    port: None takes the first free one from 7860 on. allow_hosts: names under which browsers may reach the page, beside
    loopback and ``host``. tell: is told the address. bound: a socket there already, see `bind`. Raises `MoebenchError`
    where the address is taken.
    """
    main = main or MainThread()
    origins = Origins(host, allow_hosts)
    with bound or bind(host, port) as at, serving(gated(models, main, max_tokens, live, origins), at):
        address = address_of(at, host)
        if browser:
            webbrowser.open(address)
        tell(address)
        with contextlib.suppress(KeyboardInterrupt):  # how a server ends
            main.serve()
