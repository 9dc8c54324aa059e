"""The page: Gradio's widgets around the token view. It asks nothing of any machine but the one that serves it."""

from __future__ import annotations

import contextlib
import html
import os
import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from ..errors import MissingExtraError, MoebenchError, renamed
from ..show.tokens import SCRIPTS, STYLES, assets
from ..types import Json
from .main_thread import MainThread
from .policy import OnlyThisServer
from .routed import MODES, Mode, Models, Shown, show

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read where gradio is imported

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError as error:
    if (other := renamed(error)) is not None:
        raise other from error
    raise MissingExtraError("The demo", "demo") from error

EXAMPLE = "A router sends every token to a few experts.\nfor i in range(10):\n    print(i ** 2)\n"
EXAMPLE_B = "Sum the squares of the first ten integers: 1 + 4 + 9 + ... + 100 = 385."
LONGEST = 200_000
"""Characters that a text box takes; far more than is run."""

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
        mode.change(_boxes, mode, [first, second], api_visibility="private", queue=False).then(**run)
        gr.on([app.load, button.click, model.change], **run)
        if live:  # by change, since Gradio's input event misses what is pasted
            gr.on([first.change, second.change], **run)
    return app


def _run(models: Models, main: MainThread, max_tokens: int, inputs: list[Any], outputs: list[Any]) -> Json:
    """How Gradio is to run the texts: one after the other, and of a quick series of changes the last."""

    def routed(name: str, mode: Mode, a: str, b: str) -> tuple[str, str, str, str]:
        try:
            shown = main.call(lambda: show(models, name, mode, (a, b), max_tokens))
        except MoebenchError as error:
            shown = Shown(str(error), "", "", "")
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


def _boxes(mode: Mode) -> tuple[Any, Any]:
    two = mode == "two texts"
    return gr.update(label="Text A" if two else "Text"), gr.update(visible=two)


def serve(
    models: Models,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    max_tokens: int = 256,
    live: bool = True,
    browser: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    main: MainThread | None = None,
) -> None:
    """Serve the page until Ctrl-C, or until ``main`` is stopped; this thread loads and runs the models.

    port: None takes the first free one from 7860 on. tell: is told the address. Raises `MoebenchError` where the
    address is taken.
    """
    main = main or MainThread()
    check_address(host, port)
    app = build(models, main, max_tokens, live).queue(default_concurrency_limit=1, max_size=32)
    _, address, _ = app.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        app_kwargs={"middleware": [Middleware(OnlyThisServer)]},
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=assets(*STYLES) + (files(__package__) / "demo.css").read_text(encoding="utf-8"),
    )
    tell(address)
    try:
        with contextlib.suppress(KeyboardInterrupt):  # how a server ends
            main.serve()
    finally:
        app.close(verbose=False)


def check_address(host: str, port: int | None) -> None:
    """Raise `MoebenchError` where nothing can be served; the server itself would say so from a thread of its own."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does after one that ended
            probe.bind(address)
    except OSError as error:
        where = host if port is None else f"{host}, port {port}"
        raise MoebenchError(
            f"Cannot serve at {where} ({error.strerror}): choose another --port, or an address of this machine."
        ) from error
