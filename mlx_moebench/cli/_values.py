"""What the values of options may be, where click has no type for it."""

from __future__ import annotations

import re
from typing import Any

import click

from ..options import AUTO

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def size_in_bytes(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Click callback: bytes, written as ``500MB`` or ``2 GB`` in decimal units."""
    size = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", value.strip(), re.IGNORECASE)
    if not size:
        raise click.BadParameter(f"{value!r} is not a size: write 500MB or 2GB.", context, parameter)
    return int(float(size[1]) * _UNITS[size[2].upper()])


def size_or_none(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    """Click callback: as `size_in_bytes`, where nothing need be given."""
    return None if value is None else size_in_bytes(context, parameter, value)


class Sequences(click.IntRange):
    """A number of sequences, or ``auto``."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return value if value == AUTO else super().convert(value, parameter, context)
