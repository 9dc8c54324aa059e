"""How every table of a terminal looks."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import measure_renderables
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from ...printable import one_line, printable
from ...types import Facts
from ..numbers import percent


class Terminal(Console):
    """A console on which text is text: no markup, no emoji, no escape but those of our own styles.

    Where stdout is guarded it writes below the guard, which would not know our colours from those in a name.
    """

    def __init__(self, *, stderr: bool = False, highlight: bool = True) -> None:
        super().__init__(stderr=stderr, highlight=highlight, markup=False, emoji=False)

    @property
    def file(self) -> IO[str]:
        """The stream of the process itself."""
        stream: Any = super().file
        while (below := getattr(stream, "unguarded", None) or getattr(stream, "rich_proxied_file", None)) is not None:
            stream = below
        found: IO[str] = stream
        return found

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, of text made one printable line: a line end in a name begins none."""
        return super().render_str(one_line(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does; of a `Text` that is not printable the printable one, in its style."""
        if isinstance(renderable, Text) and (shown := printable(renderable.plain)) != renderable.plain:
            renderable = Text(
                shown, renderable.style, justify=renderable.justify, overflow=renderable.overflow, end=renderable.end
            )
        return super().render(renderable, options)


def sentences(lines: Iterable[str], style: str = "") -> Text:
    """Text of a line for each of ``lines``: a line end inside, as in a name, begins none."""
    return Text("\n".join(map(one_line, lines)), style)


def plain_table(title: str | None = None, *, gap: int = 2, **options: Any) -> Table:
    """Columns ``gap`` apart without lines, bold heads, a bold title at the left; whole at any width."""
    return _Whole(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, gap, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
        **options,
    )


class _Whole(Table):
    """Where the columns are too many for the terminal, the others follow below, each time after the first column.

    Rich would leave columns out, and cut words that a reader needs whole.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        gap = self.padding[1]
        ranges = [
            measure_renderables(console, options, [*([column.header] if self.show_header else []), *column.cells])
            for column in self.columns
        ]
        least = [
            one.maximum if column.no_wrap or _of_numbers(column) else one.minimum
            for column, one in zip(self.columns, ranges, strict=True)
        ]
        most = [one.maximum for one in ranges]
        room = options.max_width
        if sum(most) + gap * (len(most) - 1) <= room:
            yield from super().__rich_console__(console, options)
            return
        for number, chosen in enumerate(_strips(least, room, gap)):
            part = copy.copy(self)
            part.title = None if number else self.title
            widths = _widths([least[i] for i in chosen], [most[i] for i in chosen], room - gap * (len(chosen) - 1))
            part.columns = [
                _fixed(self.columns[i], place, width)
                for place, (i, width) in enumerate(zip(chosen, widths, strict=True))
            ]
            yield from Table.__rich_console__(part, console, options)


def _of_numbers(column: Column) -> bool:
    """Whether all its cells are numbers, with or without intervals, which lose their meaning when they are broken."""
    return all(not any(c.isalpha() for c in cell) for cell in column.cells if isinstance(cell, str))


def _strips(least: Sequence[int], room: int, gap: int) -> list[list[int]]:
    """The columns of each strip, by number: the first, and as many others as fit."""
    strips = [[0]]
    for column in range(1, len(least)):
        chosen = [*strips[-1], column]
        if sum(least[i] for i in chosen) + gap * (len(chosen) - 1) <= room or len(chosen) < 3:
            strips[-1] = chosen
        else:
            strips.append([0, column])
    return strips


def _widths(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """From ``least`` towards ``most``, those that lack little first; below ``least`` only where all else fails."""
    widths = list(least)
    while sum(widths) > room and max(widths) > 1:
        widths[widths.index(max(widths))] -= 1
    order = sorted(range(len(widths)), key=lambda i: most[i] - widths[i])
    for served, i in enumerate(order):
        spare = (room - sum(widths)) // (len(order) - served)
        widths[i] += max(0, min(most[i] - widths[i], spare))
    return widths


def _fixed(column: Column, place: int, width: int) -> Column:
    """A copy in another place, of that width, whose words are folded rather than cut."""
    fixed = copy.copy(column)
    fixed._index, fixed.width, fixed.overflow, fixed.no_wrap = place, width, "fold", False
    return fixed


def router_table(routers: Sequence[Facts], title: str | None = None) -> tuple[Table, list[list[str]]]:
    """A table whose first columns say which router a row is of, and those cells for each of ``routers``: its layer, and
    its kind where there are several."""
    several = len({router["router"] for router in routers}) > 1
    table = plain_table(title)
    table.add_column("layer", justify="right")
    if several:
        table.add_column("router")
    return table, [[str(router["layer"]), *([router["router"]] if several else [])] for router in routers]


def answered(lines: Iterable[str]) -> Text:
    """The answer in words, below a table: bold, after an empty line."""
    return Text("\n") + sentences(lines, "bold")


def interval_notes(note: str, entries: Iterable[Facts], ci: Facts, over: str = "sequences") -> Text:
    """``note`` in dim lines, and what the intervals of ``entries`` are, or why some have none."""
    every = list(entries)
    if any(one.get("low") is not None for one in every):
        note += f"\n[low, high]: {percent(ci['level'])} bootstrap over {over}, {ci['resamples']:,} resamples."
    reasons = dict.fromkeys(str(one["reason"]) for one in every if one.get("reason"))
    note += "".join(f"\nNo interval: {one_line(reason)}." for reason in reasons)
    return Text(note, style="dim")
