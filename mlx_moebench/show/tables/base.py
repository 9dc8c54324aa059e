"""How every table of a terminal looks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import measure_renderables
from rich.table import Column, Table


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
            one.maximum if column.no_wrap else one.minimum for column, one in zip(self.columns, ranges, strict=True)
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
