"""Effects of a comparison, layer by layer, as a picture."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..routing.storage import write_aside
from .comparison import CLEAR, DEFAULT, side_name


def plot_effects(found: dict[str, Any], path: Path, metrics: Sequence[str] = DEFAULT) -> None:
    """Draw one panel per metric and kind of router: B - A of each layer with its interval, filled where q is small.

    ``found``: `Comparison.to_dict`. The line at 0 is no difference.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    kinds = list(found["overall"])
    with mpl.rc_context({"svg.hashsalt": "mlx-moebench", "font.size": 9}):
        layers = max(router["layer"] for router in found["routers"]) + 1
        size = (min(14.0, max(4.2, 1.4 + 0.22 * layers)) * len(kinds), 1.0 + 1.9 * len(metrics))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(metrics), len(kinds), squeeze=False, sharex="col")
        for row, metric in zip(axes, metrics, strict=True):
            for axis, kind in zip(row, kinds, strict=True):
                _panel(axis, [r for r in found["routers"] if r["router"] == kind], metric)
            row[0].set_ylabel(f"{metric}\nB - A, {found['units'][metric]}", fontsize=8)
        for axis, kind in zip(axes[-1], kinds, strict=True):
            axis.set_xlabel("layer" if len(kinds) == 1 else f"layer ({kind} router)")
        figure.suptitle(_title(found), fontsize=9)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        picture = io.BytesIO()
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as boxes; that is no reason to talk of fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(picture, format=path.suffix[1:].lower(), dpi=160, metadata=metadata)
    write_aside({path: picture.getvalue()})


def _panel(axis: Any, routers: list[dict[str, Any]], metric: str) -> None:
    axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    for router in routers:
        e = router["effects"].get(metric)
        if e is None or e["effect"] is None:
            continue
        clear = e.get("q") is not None and e["q"] < CLEAR
        if e["low"] is not None:
            axis.vlines(router["layer"], e["low"], e["high"], color="C0", linewidth=1.4)
        axis.plot(router["layer"], e["effect"], "o", color="C0", markersize=5, mfc="C0" if clear else "white")
    step = math.ceil((max(r["layer"] for r in routers) + 1) / 24)
    axis.set_xticks([r["layer"] for r in routers if r["layer"] % step == 0])
    axis.margins(y=0.12)


def _title(found: dict[str, Any]) -> str:
    ci, paired = found["settings"]["ci"], found["design"]["paired"]
    how = {True: "paired", False: "unpaired", None: "values only"}[paired]
    sides = f"A: {side_name(found['a'])}\nB: {side_name(found['b'])}"
    shown = "" if paired is None else f", {ci['level']:.0%} intervals over sequences; filled: q < {CLEAR}"
    return f"{sides}\n{how}{shown}".replace("$", r"\$")  # matplotlib would read a formula
