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
from ..colours import ALL, DOMAINS
from ..names import model_name, sizes, unit_of_text
from ..numbers import count, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..figures import Style
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
    "hatch.linewidth": 0.35,
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
HEIGHT = 9.0
"""Inches: the text height of a page; what does not fit goes on the next one."""

MARKERS = "osD^vPX*"
DASHED = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Lines differ by these where their colours begin anew."""

MOST_NAMED = 24
"""Lines that a legend names at most."""


@dataclass(frozen=True)
class Plot:
    """One kind of picture.

    needs: the inputs it is drawn from, in words. draw: ``draw(inputs)``, or ``draw(inputs, layers)``; raises
    `StatsError` where the inputs lack it. options: those that mean something to it, ``layers`` to draw and what a
    comparison is to ``allow``; ``span``: only the routers of these layers, (first, last); ``card``: which expert, named
    as its card on a page; ``sequence``: which one of a trace; ``order`` and ``flagged``: as for `arranged`. pages: all
    pages with the same arguments, of a picture that may have several; ``draw`` returns the first.
    """

    name: str
    summary: str
    needs: str
    draw: Callable[..., Figure]
    options: tuple[Literal["layers", "allow", "span", "card", "sequence", "order", "flagged"], ...] = ()
    pages: Callable[..., list[Figure]] | None = None

    def every(self, *arguments: Any, **options: Any) -> list[Figure]:
        """All pages."""
        return self.pages(*arguments, **options) if self.pages else [self.draw(*arguments, **options)]


Span = tuple[int, int]
"""The first and the last layer that are drawn."""


def within(report: Facts, span: Span | None) -> Json:
    """A report or profile with the routers of these layers alone; raises `StatsError` where there are none."""
    if span is None:
        return dict(report)
    routers = [router for router in report["routers"] if span[0] <= router["layer"] <= span[1]]
    if not routers:
        have = sorted({router["layer"] for router in report["routers"]})
        raise StatsError(f"No router is in layers {span[0]} to {span[1]}: they are in layers {have[0]} to {have[-1]}.")
    return {**report, "routers": routers}


def views(inputs: Inputs, kind: str, span: Span | None = None) -> list[View]:
    """Each domain of each run, named by what tells them apart; raises `StatsError` for none."""
    if not inputs.runs:
        raise StatsError(f"There is nothing to draw {kind} from: give a stats pair, or the folder of a profile.")
    several = len(inputs.runs) > 1
    every = []
    for run in inputs.runs:
        every += [run.view(d, f"{run.name}: {d}" if several else d) for d in run.domains] or [run.view()]
    if span is None:
        return every
    # The sums are those of all routers.
    return [view._replace(report=within(view.report, span), stats=None) for view in every]


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


def write_picture(
    path: Path, draw: Callable[[], Figure | Sequence[Figure]], title: str | None = None, page: int | None = None
) -> list[Path]:
    """Write what ``draw`` returns as the suffix of ``path`` says, and return what was written.

    A PDF holds all pages; of another format each of several is a file, ``load-1.png``. page: only that one, from 1.
    Raises `StatsError` where a page would replace what this package did not draw.
    """
    contents = pictures(path.suffix.lower(), draw, title, page)
    paths = [path] if len(contents) == 1 else [path.with_stem(f"{path.stem}-{n + 1}") for n in range(len(contents))]
    for place in paths:
        check_plot(place)
    write_aside(dict(zip(paths, contents, strict=True)))
    return paths


def picture(kind: str, draw: Callable[[], Figure | Sequence[Figure]], title: str | None = None) -> bytes:
    """The first page, of a PDF all of them, as `pictures` makes it."""
    return pictures(kind, draw, title)[0]


def pictures(
    kind: str, draw: Callable[[], Figure | Sequence[Figure]], title: str | None = None, page: int | None = None
) -> list[bytes]:
    """Files of a ``kind``, .png, .svg or .pdf, in the common style; the same input gives the same bytes.

    title: instead of that of the figures; empty for none. page: only that one; raises `StatsError` where there is none.
    """
    import matplotlib as mpl
    from cycler import cycler

    style: Any = STYLE | {"axes.prop_cycle": cycler(color=DOMAINS)}
    with mpl.rc_context():
        mpl.rcdefaults()  # not the settings of the user's own plots
        mpl.rcParams.update(style)
        drawn = draw()
        figures = list(drawn) if isinstance(drawn, Sequence) else [drawn]
        if page is not None and not 1 <= page <= len(figures):
            raise StatsError(f"There is no page {page}: this picture has {count(len(figures), 'page')}.")
        figures = figures if page is None else figures[page - 1 : page]
        for figure in figures if title is not None else ():
            figure.suptitle(lines(plain(title, 400)))
        for figure in figures:
            _settle(figure)
        return [_pdf(figures)] if kind == ".pdf" else [_image(kind, figure) for figure in figures]


def _settle(figure: Figure) -> None:
    """Lay a figure out once, for good, and round where its axes are.

    The solver of constrained layouts goes by the addresses of its constraints: the last digits differ from one time to
    the next, and with them the names of clip paths in an SVG.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        left, bottom, width, height = (round(float(part), 6) for part in axis.get_position().bounds)
        axis.set_position((left, bottom, width, height))


MADE = "made by mlx-moebench"
"""By which `files.MARKS` knows what was written here."""


def _pdf(figures: Iterable[Figure]) -> bytes:
    from matplotlib.backends.backend_pdf import PdfPages

    content = io.BytesIO()
    with PdfPages(content, metadata={"CreationDate": None, "Creator": MADE}) as pages:
        for figure in figures:
            pages.savefig(figure)
    return content.getvalue()


def _image(kind: str, figure: Figure) -> bytes:
    content = io.BytesIO()
    metadata: Json = {"Date": None, "Creator": MADE} if kind == ".svg" else {"Software": MADE}
    options: Json = {"pil_kwargs": {"optimize": True}} if kind == ".png" else {}
    figure.savefig(content, format=kind[1:], dpi=200, metadata=metadata, **options)
    return content.getvalue()


def headed(figures: Sequence[Figure], *texts: str) -> list[Figure]:
    """The pages of a picture under its heading, numbered where there are several."""
    each = [line for text in texts for line in text.splitlines()]
    for number, figure in enumerate(figures):
        figure.suptitle(lines(*each, *([f"page {number + 1} of {len(figures)}"] if len(figures) > 1 else [])))
    return list(figures)


def plain(text: object, limit: int = 60) -> str:
    r"""A name as it can be drawn: what the font has no letter for as ``\u4e2d``, a long one shortened in its middle."""
    letters = _letters()
    shown = "".join(c if c.isprintable() and ord(c) in letters else _escaped(c) for c in str(text))
    if len(shown) > limit:
        shown = f"{shown[: limit // 2]}…{shown[-(limit - limit // 2 - 1) :]}"
    # Between marks of left-to-right text, letters that run the other way turn nothing round but themselves.
    return f"\u200e{shown}\u200e" if any(bidirectional(c) in ("R", "AL") for c in shown) else shown


def visible(text: str, limit: int = 60) -> str:
    """A token as it can be drawn, its spaces seen."""
    return plain(text.replace(" ", "\u2423"), limit) or "''"


def _escaped(character: str) -> str:
    return character.encode("ascii", "backslashreplace").decode() if ord(character) > 126 else repr(character)[1:-1]


@cache
def _letters() -> frozenset[int]:
    """The characters of the font that all pictures are drawn in."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(STYLE["font.family"])).get_charmap())


def look(style: Style, *, marked: bool = True) -> Json:
    """A line's style as matplotlib's keywords."""
    colour = ALL if style.hue is None else DOMAINS[style.hue]
    return {"color": colour, "ls": DASHED[style.dash], "marker": MARKERS[style.marker] if marked else None}


def colour_of(number: int) -> str:
    """The colour of the line of that number in a chart, of lines that are no domains."""
    return DOMAINS[number % len(DOMAINS)]


def tick(axis: Any, *, whole: bool = False) -> None:
    """Two ticks or more on an x or a y axis, at 1, 2 or 5 times a power of ten, or at ``whole`` numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=whole, min_n_ticks=2))


def paged(panels: Sequence[Any], on_a_page: int) -> list[Sequence[Any]]:
    """The panels of each page, about as many on each."""
    pages = max(1, -(-len(panels) // on_a_page))
    each = -(-len(panels) // pages)
    return [panels[start : start + each] for start in range(0, len(panels), each)]


def legend(figure: Figure, axes: Iterable[Any], views: Sequence[View]) -> None:
    """Under the panels, which line is which of several views: the lines of ``axes`` labelled by their number."""
    if len(views) < 2:
        return
    columns, room = (3, 24) if max(len(view.name) for view in views) <= 24 else (2, 42)
    handles: dict[int, Any] = {}
    for axis in axes:
        for line, number in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(int(number), line)
    order = sorted(handles)[:MOST_NAMED]
    names = [plain(views[number].name, room) + views[number].size for number in order]
    if left := len(handles) - len(order):
        order, names = [*order, order[-1]], [*names, f"and {left:,} more"]
    figure.legend([handles[number] for number in order], names, loc="outside lower center", ncols=columns)


def layer_ticks(axis: Any, layers: Iterable[float], most: int = 8) -> None:
    """Layers along the x axis, named every so many of them where there are more than ``most``."""
    known = sorted(set(layers))
    axis.set_xticks(known[:: -(-len(known) // most)])
    axis.set_xlabel("layer")
