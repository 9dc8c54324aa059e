"""The token view: which experts the tokens of some sequences chose, as data for a page, and a page with it alone.

The `SCRIPTS` of `page/assets/` draw it. Arrays are base64 of little-endian numbers; a token that uses K experts at each
of R routers takes 4/3 R (3 K + 4) bytes, so what is kept is limited and what is left out is said.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from ..analysis.tokens import first_sequences
from ..data.trace import Trace
from ..errors import TraceError
from ..routing.record import Phase, RouterSpec
from ..routing.tokens import TokenSequence, changed_choices, choice_counts
from ..types import Facts, HostArray, Json
from .colours import as_json
from .names import model_name
from .numbers import count

MAX_SEQUENCES = 24
MAX_TOKENS = 6_000
MAX_BYTES = 1_000_000
MAX_TEXT = 200
"""Characters kept of the text of one token."""

PHASES: tuple[Phase, ...] = get_args(Phase)

UNPAIRED = 0xFFFF
"""In place of a number of changed experts, where a token has nothing to be compared with."""

SCRIPTS = ("tokens_data.js", "tokens_drawing.js", "tokens.js")
"""Assets that draw the token view: what is read, how it looks, what is chosen; each needs those before it."""

STYLES = ("tokens.css",)

UNITS = {
    "weights": "gate weight, as the block used it",
    "entropy": "nats",
    "margin": "selection score, last chosen minus best unchosen",
}


def token_data(
    trace_folder: str | Path,
    max_sequences: int = MAX_SEQUENCES,
    max_tokens: int = MAX_TOKENS,
    *,
    phase: Phase | None = None,
    max_bytes: int = MAX_BYTES,
) -> Json:
    """The token view of a trace: the first sequences of its data set, as many as the limits allow, as JSON has it.

    Reads one shard at a time. phase: None takes the first of `PHASES` that was traced; that others hold tokens is said.
    Raises `TraceError` for a bad trace, or one without tokens of this phase.
    """
    trace = Trace(trace_folder)
    first: Phase = min(trace.phases, key=PHASES.index, default="prefill")
    chosen = phase or first
    every = [entry for entry in trace.entries(chosen) if entry["n_tokens"]]
    if not every:
        raise TraceError(
            f"The trace in {trace_folder} holds no token of phase {chosen}: let the run measure some first."
        )
    data = trace.manifest["data"]
    view = token_data_of(
        trace.specs,
        first_sequences(trace, every, max_sequences),
        model=trace.manifest["model"],
        name=str(data.get("name", "data")),
        phase=chosen,
        max_sequences=max_sequences,
        max_tokens=max_tokens,
        max_bytes=max_bytes,
        n_sequences=sum(entry["n_sequences"] for entry in every),
        n_tokens=sum(entry["n_tokens"] for entry in every),
    )
    view["left_out"]["sentence"] = " ".join(filter(None, [view["left_out"]["sentence"], *_beside(trace, chosen)]))
    return view


def token_data_of(
    specs: Sequence[RouterSpec],
    sequences: Sequence[TokenSequence],
    *,
    model: Facts,
    name: str,
    phase: str = "prefill",
    max_sequences: int = MAX_SEQUENCES,
    max_tokens: int = MAX_TOKENS,
    max_bytes: int = MAX_BYTES,
    n_sequences: int | None = None,
    n_tokens: int | None = None,
) -> Json:
    """The token view of sequences in memory, as JSON has it.

    specs: of the routers, in running order. n_sequences, n_tokens: measured, where that is more than is given here.
    max_bytes: of the arrays, as base64. Float16 holds weights, entropies and margins to 0.05%, or 3e-8 where that is
    more. Raises `TraceError` where the limits leave no token.
    """
    per_token = sum(_bytes_of_token(spec) for spec in specs)
    room = min(max_tokens, int(max_bytes / per_token))
    if max_sequences < 1 or room < 1:
        raise TraceError(
            f"A token view of {count(max_sequences, 'sequence')}, {count(max_tokens, 'token')} and {max_bytes:,} bytes "
            f"shows nothing ({per_token:.0f} bytes a token): allow more."
        )
    every_sequence = len(sequences) if n_sequences is None else n_sequences
    every_token = sum(s.total or len(s.texts) for s in sequences) if n_tokens is None else n_tokens
    kept = _within(sequences[:max_sequences], room)
    texts, occurs, ids = _vocabulary(kept)
    return {
        "version": 2,
        "model": model_name(model),
        "data": name,
        "phase": phase,
        "units": UNITS,
        "colours": as_json(),
        "routers": [_router(spec, kept, number) for number, spec in enumerate(specs)],
        "texts": texts,
        "occurs": occurs,
        "tokens": _base64(ids.astype("<u4")),
        "sequences": [_sequence(sequence) for sequence in kept],
        "left_out": {
            "sequences": every_sequence - len(kept),
            "tokens": every_token - len(ids),
            "sentence": _left_out((len(kept), len(ids)), (every_sequence, every_token)),
        },
    }


def _vocabulary(sequences: Sequence[TokenSequence]) -> tuple[list[str], list[int], HostArray]:
    """(texts, how often each stands for a whole token, [T] which text each token has)."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(_short(text), len(numbers)) for s in sequences for text in s.texts])
    whole = np.concatenate([~np.isin(np.arange(len(s.texts)), s.continued) for s in sequences])
    return list(numbers), np.bincount(ids[whole], minlength=len(numbers)).tolist(), ids


def _within(sequences: Sequence[TokenSequence], room: int) -> list[TokenSequence]:
    """Sequences that have tokens, cut where there is no more ``room``; raises `TraceError` for none."""
    kept: list[TokenSequence] = []
    for sequence in sequences:
        if room > 0 and len(sequence.texts):
            kept.append(sequence.first(room))
            room -= len(kept[-1].texts)
    if not kept:
        raise TraceError("There is no token to show: give a text of one token or more.")
    return kept


def token_page(data: Facts, title: str = "Tokens and their experts") -> str:
    """A page of its own with the token view: one file, no network, light and dark."""
    script, style = assets(*SCRIPTS) + _START, _STYLE + assets(*STYLES)
    return _PAGE.format(
        title=html.escape(title),
        digest=_digest(script),
        style_digest=_digest(style),
        style=style,
        data=script_json(data),
        script=script,
    )


def assets(*names: str) -> str:
    """Files of the page's assets, one after the other: `SCRIPTS`, `STYLES`."""
    folder = files(__package__) / "page" / "assets"
    return "".join((folder / name).read_text(encoding="utf-8") for name in names)


def script_json(data: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or a line of it."""
    text = json.dumps(data, allow_nan=False)  # ASCII only, so that U+2028 and lone surrogates are escaped
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _bytes_of_token(spec: RouterSpec) -> float:
    """Bytes of one token at one router as base64: K experts, K weights, entropy and margin."""
    return 4 / 3 * (spec.top_k * (_integer(spec).itemsize + 2) + 4)


def _integer(spec: RouterSpec) -> np.dtype[Any]:
    return np.dtype("u1" if spec.n_experts <= 256 else "<u2")


def _router(spec: RouterSpec, sequences: Sequence[TokenSequence], number: int) -> Json:
    """What one router chose, and over all sequences how many tokens chose each expert, and how many first."""
    choices = [sequence.choices[number] for sequence in sequences]

    def joined(name: str) -> HostArray:
        return np.concatenate([getattr(c, name) for c in choices])

    chosen, first = choice_counts(joined("experts"), spec.n_experts)
    changed = [_changed(sequences, sequence, number) for sequence in sequences]
    paired = any(sequence.against is not None for sequence in sequences)
    return {
        "layer": spec.layer,
        "moe_layer": spec.moe_layer,
        "router": spec.router,
        "n_experts": spec.n_experts,
        "top_k": spec.top_k,
        "distribution": spec.distribution,
        "max_entropy": math.log(spec.n_experts),
        "bytes": _integer(spec).itemsize,
        "experts": _base64(joined("experts").astype(_integer(spec))),
        **{name: _base64(joined(name).astype("<f2")) for name in ("weights", "entropy", "margin")},
        "chosen": chosen.tolist(),
        "first": first.tolist(),
        "changed": _base64(np.concatenate(changed).astype("<u2")) if paired else None,
    }


def _changed(sequences: Sequence[TokenSequence], sequence: TokenSequence, number: int) -> npt.NDArray[np.int64]:
    """How many experts of each token its counterpart lacks; `UNPAIRED` of one that has none."""
    changed = np.full(len(sequence.texts), UNPAIRED)
    if sequence.against is not None:
        ours, theirs = (one.choices[number].experts for one in (sequence, sequences[sequence.against]))
        both = min(len(ours), len(theirs))
        changed[:both] = changed_choices(ours[:both], theirs[:both])
    return changed


def _sequence(sequence: TokenSequence) -> Json:
    return {
        "name": sequence.name,
        "start": sequence.start,
        "n_tokens": len(sequence.texts),
        "total": sequence.total,
        "continued": list(sequence.continued),
        "against": sequence.against,
        "after": sequence.after,
    }


def _left_out(shown: tuple[int, int], measured: tuple[int, int]) -> str:
    """One sentence; empty where everything is shown."""
    if shown == measured:
        return ""
    (sequences, tokens), (all_sequences, all_tokens) = shown, measured
    return (
        f"Shown: {count(sequences, 'sequence')} of {all_sequences:,}, {count(tokens, 'token')} of {all_tokens:,}; "
        "counts here are of those."
    )


def _beside(trace: Trace, phase: Phase) -> list[str]:
    """What else is to be said of a trace, as sentences."""
    sentences = []
    for other in trace.phases:
        if other != phase and (tokens := sum(entry["n_tokens"] for entry in trace.entries(other))):
            sentences.append(f"{count(tokens, 'token')} of phase {other} not shown: --trace-phase {other} shows those.")
    if not trace.complete:
        sentences.append("The run that writes this trace has not ended: more tokens will follow.")
    return sentences


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def _digest(text: str) -> str:
    """By which a Content-Security-Policy allows an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _base64(array: HostArray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


_START = """
MoebenchTokens.mount(document.getElementById("tokens"), JSON.parse(document.getElementById("data").textContent));
"""

_STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1b1f24; --muted: #59636e; --line: #d1d9e0; --accent: #0b62c4; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #0f1318; --fg: #e6eaef; --muted: #9aa5b1; --line: #343d47; --accent: #6cb2ff; }
}
body { margin: 0; padding: 1rem; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.2rem; margin: 0 0 0.6rem; }
h2 { font-size: 1.05rem; margin: 0 0 0.6rem; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{style_digest}'; \
script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main><h1>{title}</h1><h2>One layer, token by token</h2><div id="tokens"></div></main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
