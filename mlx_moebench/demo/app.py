"""The page: Gradio's widgets around the token view. It asks nothing of any machine but the one that serves it."""

from __future__ import annotations

import contextlib
import html
import json
import logging
import os
import socket
import webbrowser
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from importlib.resources import files
from queue import SimpleQueue
from threading import Event
from typing import Any

from ..checkpoints.weights import shortened
from ..errors import MissingExtraError, MoebenchError, needed, renamed
from ..show.colours import as_json
from ..show.tokens import SCRIPTS, STYLES, assets
from ..types import Json
from ..web.origins import Origins
from .examples import EXAMPLE_B, EXAMPLES
from .gate import Gate
from .growing import grow
from .main_thread import MainThread
from .routed import MODES, Mode, Models, Shown, report_page, show
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

QUEUE = 512
"""Texts that wait to be run; whoever comes then is told so."""

Answer = tuple[str, str, str, str]
"""Of the places of message, tokens, heatmap and table."""


def build(models: Models, main: MainThread, max_tokens: int, live: bool) -> Any:
    """The app, not yet served. live: route while the user types; else at the button."""

    with gr.Blocks(analytics_enabled=False, title="mlx_moebench: how a text is routed") as app:
        gr.Markdown("# How a text is routed\nType a text and see which experts its tokens choose, in every layer.")
        with gr.Row():
            model = gr.Dropdown(models.names, value=models.names[0], label="Model", interactive=True, scale=1)
            mode = gr.Radio(models.modes, value=MODES[0], label="Show", scale=2)
        with gr.Row():
            first = gr.Textbox(EXAMPLES[0].a, label="Text", lines=3, max_lines=8, max_length=LONGEST, elem_id="text-a")
            second = gr.Textbox(
                EXAMPLE_B, label="Text B", lines=3, max_lines=8, max_length=LONGEST, visible=False, elem_id="text-b"
            )
        with gr.Row(elem_id="examples"):
            examples = [gr.Button(one.name, size="sm", min_width=60) for one in EXAMPLES]
        with gr.Row(elem_id="actions"):
            route = gr.Button("Route", variant="primary", elem_id="route", min_width=80)
            generate = gr.Button("Generate", elem_id="generate", min_width=80)
            stop = gr.Button("Stop", elem_id="stop", min_width=80, interactive=False)
            share = gr.Button("Copy link", elem_id="share", min_width=80)
        gr.HTML('<p id="shared" role="status"></p>', elem_id="shared-place", apply_default_css=False)
        message = gr.HTML(elem_id="message", apply_default_css=False)
        tokens = gr.HTML(
            "",
            html_template='<h2>Every token in every layer</h2><div class="token-map"></div>'
            '<h2>One layer, token by token</h2><div class="token-view"></div>',
            js_on_load=f"{_scripts()}MoebenchDemo.mount(element, props, watch, {json.dumps(as_json())});",
            elem_id="tokens",
            apply_default_css=False,
        )
        gr.Markdown("## Load of the experts\nSelections of an expert, as a multiple of the even share of its router.")
        heatmap = gr.HTML(elem_id="heatmap", apply_default_css=False, js_on_load=_own("loads.js"))
        gr.Markdown("## Routers")
        table = gr.HTML(elem_id="routers", apply_default_css=False)
        gr.Markdown(
            "## River and cards\nA report on this text: the river of moves between layers, which its tokens run down, "
            "a card of every expert, and all figures.",
            elem_id="offer",
        )
        report = gr.Button("Make the report", elem_id="report", min_width=80)
        page = gr.HTML(elem_id="page", apply_default_css=False)
        widgets, shown = [model, mode, first, second], [message, tokens, heatmap, table]
        run, offered = _run(models, main, max_tokens, widgets, shown), _offered(models)
        mode.change(_boxes, mode, [first, second], api_visibility="private", concurrency_limit=None).then(**run)
        gr.on([route.click, model.change], **run)
        app.load(None, widgets, widgets, js=_linked(offered), api_visibility="private").then(**run)
        if live:  # by change, since Gradio's input event misses what is pasted
            gr.on([first.change, second.change], **run)
        for button, one in zip(examples, EXAMPLES, strict=True):
            texts = json.dumps([one.mode, one.a, one.b])
            button.click(None, None, [mode, first, second], js=f"() => {texts}", api_visibility="private").then(**run)
        share.click(
            None, widgets, None, js=f"(...there) => MoebenchDemo.share(there, {offered})", api_visibility="private"
        )
        made = _run(models, main, max_tokens, widgets, [page]) | {"fn": _reports(models, main, max_tokens)}
        report.click(**made)
        _add_generation(models, main, max_tokens, widgets, [*shown, generate, stop])
    return app


def _scripts() -> str:
    return assets(*SCRIPTS, "map.js") + "".join(map(_own, ("link.js", "player.js", "page.js")))


def _own(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _offered(models: Models) -> str:
    return json.dumps({"models": models.names, "modes": models.modes})


def _linked(offered: str) -> str:
    """What puts the texts of a link into the widgets, in the browser: nothing after # reaches a server."""
    return f"(...there) => {{ {_own('link.js')} return MoebenchLink.widgets(location.hash, there, {offered}); }}"


def _run(models: Models, main: MainThread, max_tokens: int, inputs: list[Any], outputs: list[Any]) -> Json:
    """How Gradio is to run the texts: one after the other, and of a quick series of changes the last."""

    def routed(name: str, mode: Mode, a: str, b: str) -> Answer:
        if (why := too_long(a, b)) is not None:
            return _places(Shown(why, "", "", ""))
        return _places(_shown(main.ask(lambda: show(models, name, mode, (a, b), max_tokens))))

    return {"fn": routed, "inputs": inputs, "outputs": outputs, **_AT_THE_MODEL, "trigger_mode": "always_last"}


def _reports(models: Models, main: MainThread, max_tokens: int) -> Callable[[str, Mode, str, str], str]:
    """The function that makes the page of a report on the texts, or says why there is none."""

    def reported(name: str, mode: Mode, a: str, b: str) -> str:
        if (why := too_long(a, b)) is not None:
            return _message(why)
        answer = main.ask(lambda: report_page(models, name, mode, (a, b), max_tokens))
        return answer.result() if answer.exception() is None else _message(_why(answer))

    return reported


_AT_THE_MODEL: Json = {
    "concurrency_limit": 1,
    "concurrency_id": "model",
    "show_progress": "minimal",
    "api_visibility": "private",
}
"""Of every function that runs the model."""


def _add_generation(models: Models, main: MainThread, max_tokens: int, widgets: list[Any], outputs: list[Any]) -> None:
    """Let the last two of ``outputs``, buttons, have texts continued, and stop that."""
    *_, generate, stop = outputs
    stopped: dict[str, Event] = {}

    def generated(name: str, mode: Mode, a: str, b: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        busy, idle = (
            (gr.update(interactive=False), gr.update(interactive=True)),
            (
                gr.update(interactive=True),
                gr.update(interactive=False),
            ),
        )
        if (why := too_long(a, b)) is not None:
            yield (*_places(Shown(why, "", "", "")), *idle)
            return
        end = stopped[str(request.session_hash)] = Event()
        lines: SimpleQueue[str | None] = SimpleQueue()

        def tell(line: str) -> bool:
            lines.put(line)
            return not end.is_set()

        answer = main.ask(lambda: grow(models, name, mode, (a, b), max_tokens, tell))
        answer.add_done_callback(lambda _: lines.put(None))
        try:
            grown = ""
            while (line := lines.get()) is not None:
                grown += line
                yield _message("Generating."), grown, gr.skip(), gr.skip(), *busy
            yield (*_places(_shown(answer)), *idle)
        finally:
            end.set()  # whoever left waits for nothing
            stopped.pop(str(request.session_hash), None)

    def ended(_: Mode, request: gr.Request) -> None:
        if (end := stopped.get(str(request.session_hash))) is not None:
            end.set()

    generate.click(generated, widgets, outputs, trigger_mode="once", **_AT_THE_MODEL)
    stop.click(ended, widgets[1], None, api_visibility="private", concurrency_limit=None, show_progress="hidden")


def _places(shown: Shown) -> Answer:
    return _message(shown.message), shown.tokens, shown.heatmap, shown.table


def _message(sentence: str) -> str:
    return f'<p class="message" role="status">{html.escape(sentence)}</p>'


def _shown(answer: Future[Shown]) -> Shown:
    """What was made, or why nothing is shown."""
    return answer.result() if answer.exception() is None else Shown(_why(answer), "", "", "")


def _why(answer: Future[Any]) -> str:
    """Why there is no answer, in one sentence; what nobody foresaw is logged, too."""
    error = answer.exception()
    assert error is not None
    if isinstance(error, MoebenchError):
        return " ".join(str(error).split())
    sentence = f"This text cannot be shown ({type(error).__name__}: {shortened(error)})."
    logging.getLogger(__name__).error("%s", sentence)
    return sentence


def _boxes(mode: Mode) -> tuple[Any, Any]:
    two = mode == "two texts"
    return gr.update(label="Text A" if two else "Text"), gr.update(visible=two)


def gated(models: Models, main: MainThread, max_tokens: int, live: bool, origins: Origins) -> Gate:
    """The page as an ASGI application that answers what the page asks for, and nothing else."""
    blocks = build(models, main, max_tokens, live).queue(default_concurrency_limit=1, max_size=QUEUE)
    functions = {number: len(one.inputs) for number, one in blocks.fns.items() if one.fn is not None}
    wanted = Wanted(functions, models.names, models.modes)
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
        theme=_theme(),
        css=assets(*STYLES) + _own("demo.css"),
    )
    waiting = needed(blocks._queue, "pending_messages_per_session", "gradio", "tells who waits for an answer")
    return Gate(app, origins, wanted, lambda session: session in waiting, MOST_BYTES)


def _theme() -> Any:
    """Gradio's, but for white on its light blue, which is 3.7 : 1."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.themes.Base(**fonts).set(
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700"
    )


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
