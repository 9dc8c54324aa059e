"""The layer x expert load heatmap."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StatsError
from ..routing.storage import probe_folder, write_aside
from .table import model_name

FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Raise `StatsError` if ``path`` is not a .png or .svg in a folder that can be written."""
    if path.suffix.lower() not in FORMATS:
        raise StatsError(f"A plot ends in .png or .svg, got {path.name!r}.")
    if path.is_dir():
        raise StatsError(f"Cannot write {path}: it is a folder.")
    probe_folder(path)


def load_matrix(routers: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """E f_i of each router, [routers, largest E]; NaN where a router has fewer experts."""
    matrix = np.full((len(routers), max(r["n_experts"] for r in routers)), np.nan)
    for row, r in zip(matrix, routers, strict=True):
        counts = np.array(r["selection_counts"], dtype=float)
        if counts.sum() > 0:
            row[: len(counts)] = len(counts) * counts / counts.sum()
    return matrix


def plot_load(report: dict[str, Any], path: Path) -> None:
    """Draw each kind of router as one panel; white is an even load, red is more, blue is less.

    Beside each row: the busiest expert's token share with its band, marked when it exceeds tau.
    """
    import matplotlib as mpl
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(r["router"] for r in report["routers"]))
    panels = {kind: [r for r in report["routers"] if r["router"] == kind] for kind in kinds}
    matrices = {kind: load_matrix(rows) for kind, rows in panels.items()}
    most = max(2.0, *(float(np.nanmax(m, initial=1.0)) for m in matrices.values()))
    heights = [len(rows) for rows in panels.values()]
    experts = max(m.shape[1] for m in matrices.values())
    width = min(16.0, max(7.0, 3.4 + 0.22 * experts))
    with mpl.rc_context({"svg.hashsalt": "mlx-moebench", "font.size": 9}):
        figure = Figure(figsize=(width, 1.7 + sum(max(0.26 * h, 1.2) for h in heights)), layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        norm = TwoSlopeNorm(vmin=0.0, vcenter=1.0, vmax=most)
        for axis, (kind, rows) in zip(axes, panels.items(), strict=True):
            image = axis.imshow(matrices[kind], cmap="RdBu_r", norm=norm, aspect="auto", interpolation="nearest")
            axis.set_yticks(range(len(rows)), [str(r["layer"]) for r in rows])
            axis.set_ylabel("layer" if len(panels) == 1 else f"layer ({kind} router)")
            right = axis.secondary_yaxis("right")
            right.set_yticks(range(len(rows)), [_share(r) for r in rows])
            right.tick_params(length=0, labelsize=8)
            flagged = f", * above {report['settings']['tau']:g}" if any(r["collapsed"] for r in rows) else ""
            right.set_ylabel(f"busiest, share of tokens{flagged}", fontsize=8)
            axis.set_facecolor("0.85")  # shows where a router has no such expert
        axes[-1].set_xlabel("expert")
        bar = figure.colorbar(image, ax=list(axes), location="bottom", shrink=0.6, aspect=40, pad=0.02)
        bar.set_label("load, multiple of the even share (1 = even)")
        ticks = np.unique(np.concatenate([[0, 0.5, 1], np.linspace(1, most, 4)[1:].round(1)]))
        bar.set_ticks([float(t) for t in ticks if t <= most])
        figure.suptitle(_title(report), fontsize=10)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
        picture = io.BytesIO()
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as boxes; that is no reason to talk of fonts.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(picture, format=path.suffix[1:].lower(), dpi=160, metadata=metadata)
    write_aside({path: picture.getvalue()})


def _share(router: dict[str, Any]) -> str:
    text = f"{router['top_share_token']:.2f}"
    ci = router["ci"].get("top_share_token", {})
    if ci.get("low") is not None:
        text += f" [{ci['low']:.2f}, {ci['high']:.2f}]"
    return text + (" *" if router["collapsed"] else "")


def _title(report: dict[str, Any]) -> str:
    model, data = report["model"], report["data"]
    counted = f"{data['n_sequences']:,} sequences, {data['n_tokens']:,} tokens, {data['phase']}"
    title = f"{model_name(model)} on {data['name']}: {counted}"
    return title.replace("$", r"\$")  # matplotlib would read a formula
