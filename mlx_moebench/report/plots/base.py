"""What all pictures share: how a kind is declared, the style, names that are safe to draw, and the bytes of a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StatsError
from ...routing.storage import probe_folder, write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inputs import Inputs

FORMATS = (".png", ".svg", ".pdf")
WIDTH = 7.0
"""Inches: the text width of a paper with one column."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": None,
    "figure.titlesize": 9,
    "grid.color": "0.88",
    "grid.linewidth": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # text stays text; journals refuse Type 3
    "svg.hashsalt": "mlx-moebench",
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999933")
"""Okabe and Ito's, told apart by colour-blind readers; lines also differ by `MARKERS`."""
MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Plot:
    """One kind of picture.

    needs: the inputs it is drawn from, in words. draw: raises `StatsError` where they are not among those given.
    """

    name: str
    summary: str
    needs: str
    draw: Callable[[Inputs], Figure]


def check_plot(path: Path) -> None:
    """Raise `StatsError` if ``path`` is not a .png, .svg or .pdf in a folder that can be written."""
    if path.suffix.lower() not in FORMATS:
        raise StatsError(f"A plot ends in .png, .svg or .pdf, got {path.name!r}.")
    if path.is_dir():
        raise StatsError(f"Cannot write {path}: it is a folder.")
    probe_folder(path)


def write_picture(path: Path, draw: Callable[[], Figure]) -> None:
    """Draw in the common style and write as the suffix of ``path`` says; the same input gives the same bytes."""
    import matplotlib as mpl

    kind = path.suffix.lower()
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[kind]
    options: dict[str, Any] = {"pil_kwargs": {"optimize": True}} if kind == ".png" else {}
    content = io.BytesIO()
    with mpl.rc_context(style()):
        draw().savefig(content, format=kind[1:], dpi=200, metadata=metadata, **options)
    write_aside({path: content.getvalue()})


def style() -> dict[str, Any]:
    """`STYLE` as matplotlib's settings."""
    from cycler import cycler

    return STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}


def plain(text: object, limit: int = 60) -> str:
    r"""A name as it can be drawn: what the font has no letter for as ``\u4e2d``, a long one shortened in its middle."""
    letters = _letters()
    shown = "".join(c if c.isprintable() and ord(c) in letters else _escaped(c) for c in str(text))
    if len(shown) <= limit:
        return shown
    return f"{shown[: limit // 2]}…{shown[-(limit - limit // 2 - 1) :]}"


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 126 else repr(character)[1:-1]


@cache
def _letters() -> frozenset[int]:
    """The characters of the font that all pictures are drawn in."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(STYLE["font.family"])).get_charmap())


def layer_ticks(axis: Any, layers: Sequence[int], most: int = 24) -> None:
    """Layers along the x axis, every so many of them where there are more than ``most``."""
    known = sorted(set(layers))
    step = -(-len(known) // most)
    axis.set_xticks(known[::step])
    axis.set_xlabel("layer")
