"""How every table of a terminal looks."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def plain_table(title: str | None = None, *, gap: int = 2, **options: Any) -> Table:
    """Columns ``gap`` apart without lines, bold heads, a bold title at the left."""
    return Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, gap, 0, 0),
        title=title,
        title_justify="left",
        title_style="bold",
        **options,
    )
