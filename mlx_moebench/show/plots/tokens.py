"""A sentence down, layers across: the first expert of every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import StatsError
from ..colours import OTHER
from ..figures.token_map import TokenMap, token_map
from ..inputs import Inputs
from ..numbers import count
from ..tokens import token_data
from .base import WIDTH, Plot, lines, plain, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 40
"""Tokens that are drawn, from the first on."""

NUMBERED = 1_200
"""Cells up to which all have the number of their expert; of more, those without a colour of their own."""

FAINTEST = 0.22


def draw(inputs: Inputs, sequence: int = 0) -> Figure:
    """One panel of a trace, two side by side of two, what changed outlined."""
    from matplotlib.figure import Figure

    if not 1 <= len(inputs.traces) <= 2:
        raise StatsError("A map of tokens is of one trace, or of two side by side: give a folder of analyze --trace.")
    every = [token_map(token_data(trace), sequence, MOST) for trace in inputs.traces]
    rows = max(len(one.texts) for one in every)
    figure = Figure(figsize=(WIDTH, 1.1 + 0.165 * rows), layout="constrained")
    axes = list(figure.subplots(1, len(every), squeeze=False)[0])
    most = max(float(np.nanmax(np.abs(one.weights), initial=1e-9)) for one in every)
    for number, (axis, one) in enumerate(zip(axes, every, strict=True)):
        other = every[1 - number] if len(every) == 2 else None
        _draw_map(axis, one, every[0].colours if _alike(every) else one.colours, other, most)
        if len(every) > 1:
            axis.set_title(plain(one.model, 30))
    figure.suptitle(_heading(every, most))
    return figure


def _alike(every: Sequence[TokenMap]) -> bool:
    """Whether an expert of one is an expert of the other, so that both have its colour."""
    sizes = [[len(counts) for counts in one.first] for one in every]
    return sizes[0] == sizes[-1] and every[0].layers == every[-1].layers


def _heading(every: Sequence[TokenMap], most: float) -> str:
    first = every[0]
    shown, rest = len(first.texts), f" of {first.total:,}" if len(first.texts) < first.total else ""
    names = " and ".join(dict.fromkeys(plain(one.model, 40) for one in every))
    outlined = "; outlined: the same token, another first expert" if len(every) > 1 else ""
    return lines(
        f"{names} on {plain(first.data, 40)}, {plain(first.name, 30)}: {count(shown, 'token')}{rest}, {first.phase}",
        "colour: first expert, the 8 busiest of a layer, others grey; "
        f"opacity: gate weight, full at {most:.2f}{outlined}; no intervals: single tokens",
    )


def _draw_map(axis: Any, one: TokenMap, colours: list[list[str]], other: TokenMap | None, most: float) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    tokens, layers = one.experts.shape
    image = np.ones((tokens, layers, 4))
    for (t, layer), expert in np.ndenumerate(one.experts):
        strength = min(1.0, abs(float(one.weights[t, layer])) / most) if np.isfinite(one.weights[t, layer]) else 0.0
        image[t, layer] = (*to_rgb(colours[layer][expert]), FAINTEST + (1 - FAINTEST) * strength)
    axis.imshow(image, aspect="auto", interpolation="nearest")
    for (t, layer), expert in np.ndenumerate(one.experts):
        if one.experts.size <= NUMBERED or colours[layer][expert] == OTHER:
            axis.text(layer, t, str(expert), ha="center", va="center", fontsize=5, color=_ink(image[t, layer]))
    if other is not None:
        for t, layer in np.argwhere(one.changed(other)):
            box = (layer - 0.45, t - 0.43)
            axis.add_patch(Rectangle(box, 0.9, 0.86, fill=False, edgecolor="black", linewidth=1.1))
    axis.set_xticks(np.arange(layers + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(tokens + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    step = -(-layers // 24)
    axis.set_xticks(range(0, layers, step), one.layers[::step], rotation=0 if max(map(len, one.layers)) < 4 else 60)
    axis.set_yticks(range(tokens), [visible(text, 14) for text in one.texts], fontsize=6, family="DejaVu Sans Mono")
    axis.xaxis.tick_top()
    axis.xaxis.set_label_position("top")
    axis.set_xlabel("layer")
    axis.set_ylabel(f"token, from {one.start}")


def _ink(cell: Any) -> str:
    """Black or white on a colour over white, whichever can be read."""
    rgb = cell[3] * cell[:3] + (1 - cell[3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if float(linear @ [0.2126, 0.7152, 0.0722]) > 0.179 else "white"


PLOT = Plot(
    "tokens",
    "Token by layer: the first expert of every token of a sentence, two runs side by side.",
    "the folder of a trace (analyze --trace), or of two",
    draw,
    options=("sequence",),
)
