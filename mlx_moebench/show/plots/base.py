"""What all pictures share: how a kind is declared, the style, names that are safe to draw, and the bytes of a file."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unicodedata import bidirectional

from ...errors import StatsError
from ...files import check_output, write_aside
from ...types import Facts, Json
from ..names import model_name, sizes, unit_of_text
from ..numbers import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..inputs import Inputs, View

FORMATS = (".png", ".svg", ".pdf")
WIDTH = 7.0
"""Inches: the text width of a paper with one column."""

STYLE: Json = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
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

    needs: the inputs it is drawn from, in words. draw: ``draw(inputs)``, or ``draw(inputs, layers)``; raises
    `StatsError` where the inputs lack it. options: those that mean something to it, ``layers`` to draw and what a
    comparison is to ``allow``; ``span``: only the routers of these layers, (first, last); ``card``: which expert, named
    as its card on a page; ``sequence``: which one of a trace.
    """

    name: str
    summary: str
    needs: str
    draw: Callable[..., Figure]
    options: tuple[Literal["layers", "allow", "span", "card", "sequence"], ...] = ()


def views(inputs: Inputs, kind: str) -> list[View]:
    """Each domain of each run, named by what tells them apart; raises `StatsError` for none."""
    if not inputs.runs:
        raise StatsError(f"There is nothing to draw {kind} from: give a stats pair, or the folder of a profile.")
    several = len(inputs.runs) > 1
    every = []
    for run in inputs.runs:
        every += [run.view(d, f"{run.name}: {d}" if several else d) for d in run.domains] or [run.view()]
    return every


def heading(views: Sequence[View], *below: str) -> str:
    """Model, data and sizes of one view; of several their models, and that n counts sequences. Then what is said."""
    if len(views) == 1:
        data, name = views[0].report["data"], model_name(views[0].report["model"])
        return lines(f"{plain(name)} on {plain(data['name'], 40)}: {sizes(views[0].report)}", *below)
    models = dict.fromkeys(plain(model_name(one.report["model"])) for one in views)
    data = {plain(one.report["data"]["name"], 40) for one in views}
    on = f" on {data.pop()}" if len(data) == 1 else ""
    phases = dict.fromkeys(str(one.report["data"]["phase"]) for one in views)
    counted = dict.fromkeys(f"{unit_of_text(one.report['model'])}s" for one in views)
    return lines(f"{', '.join(models)}{on}, {', '.join(phases)} (n: {', '.join(counted)})", *below)


def lines(*texts: str) -> str:
    """Each text on a line of its own, or on several where it is wider than a figure."""
    return "\n".join(part for text in texts for part in textwrap.wrap(text, 96, break_on_hyphens=False))


def intervals_of(views: Iterable[View], metrics: Iterable[str], shown_as: str) -> str:
    """``bands: 95% intervals over sequences`` where that is how they are shown, or why there are none."""
    names = tuple(metrics)
    every = dict.fromkeys(_intervals(one.report, names) for one in views)
    return "; ".join(text if text.startswith("no ") else f"{shown_as}: {text}" for text in every)


def _intervals(report: Facts, metrics: Sequence[str]) -> str:
    entries = [router["ci"].get(metric, {}) for metric in metrics for router in report["routers"]]
    if all(entry.get("low") is None for entry in entries):
        return f"no intervals: {next((e['reason'] for e in reversed(entries) if e.get('reason')), 'not computed')}"
    ci = report["settings"]["ci"]
    return f"{percent(ci['level'])} intervals over {'layers' if ci['method'] == 'layer' else 'sequences'}"


def check_plot(path: Path) -> None:
    """Raise `StatsError` if ``path`` is not a .png, .svg or .pdf in a folder that can be written."""
    if path.suffix.lower() not in FORMATS:
        raise StatsError(f"A plot ends in .png, .svg or .pdf, got {path.name!r}.")
    check_output(path, FORMATS, "plot")


def write_picture(path: Path, draw: Callable[[], Figure], title: str | None = None) -> None:
    """Write a `picture` as the suffix of ``path`` says."""
    write_aside({path: picture(path.suffix.lower(), draw, title)})


def picture(kind: str, draw: Callable[[], Figure], title: str | None = None) -> bytes:
    """A file of a ``kind``, .png, .svg or .pdf, in the common style; the same input gives the same bytes.

    title: instead of that of the figure; empty for none.
    """
    import matplotlib as mpl
    from cycler import cycler

    made = "made by mlx-moebench"  # by which `files.MARKS` knows it
    every: Json = {".svg": {"Date": None, "Creator": made}, ".pdf": {"CreationDate": None, "Creator": made}}
    metadata = every.get(kind, {"Software": made})
    options: Json = {"pil_kwargs": {"optimize": True}} if kind == ".png" else {}
    style: Any = STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}
    content = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # not the settings of the user's own plots
        mpl.rcParams.update(style)
        figure = draw()
        if title is not None:
            figure.suptitle(lines(plain(title, 400)))
        figure.savefig(content, format=kind[1:], dpi=200, metadata=metadata, **options)
    return content.getvalue()


def plain(text: object, limit: int = 60) -> str:
    r"""A name as it can be drawn: what the font has no letter for as ``\u4e2d``, a long one shortened in its middle."""
    letters = _letters()
    shown = "".join(c if c.isprintable() and ord(c) in letters else _escaped(c) for c in str(text))
    if len(shown) > limit:
        shown = f"{shown[: limit // 2]}…{shown[-(limit - limit // 2 - 1) :]}"
    # Between marks of left-to-right text, letters that run the other way turn nothing round but themselves.
    return f"\u200e{shown}\u200e" if any(bidirectional(c) in ("R", "AL") for c in shown) else shown


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 126 else repr(character)[1:-1]


@cache
def _letters() -> frozenset[int]:
    """The characters of the font that all pictures are drawn in."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(STYLE["font.family"])).get_charmap())


def marker_of(number: int) -> str:
    """The marker of a line: where colours begin anew, each meets another marker."""
    return MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def legend(figure: Figure, axes: Iterable[Any], views: Sequence[View]) -> None:
    """Under the panels, which line is which of several views: the lines of ``axes`` labelled by their number."""
    if len(views) < 2:
        return
    columns, room = (3, 24) if max(len(view.name) for view in views) <= 24 else (2, 42)
    handles: dict[int, Any] = {}
    for axis in axes:
        for line, number in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(int(number), line)
    order = sorted(handles)
    names = [plain(views[number].name, room) + views[number].size for number in order]
    figure.legend([handles[number] for number in order], names, loc="outside lower center", ncols=columns)


def layer_ticks(axis: Any, layers: Iterable[float], most: int = 8) -> None:
    """Layers along the x axis, named every so many of them where there are more than ``most``."""
    known = sorted(set(layers))
    axis.set_xticks(known[:: -(-len(known) // most)])
    axis.set_xlabel("layer")
