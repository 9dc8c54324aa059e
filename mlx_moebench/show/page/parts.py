"""What a page is made of: sections, and in them figures, tables and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...types import Json
from ..figures import Chart, Heat


@dataclass(frozen=True)
class Choice:
    """A list to choose from. name: what is chosen; ``order``, ``measure`` and ``line`` are about one drawing."""

    name: str
    words: str
    options: tuple[tuple[str, str], ...]
    value: str = ""


@dataclass(frozen=True)
class Nothing:
    """What stands where there is nothing to draw: the reason."""

    title: str
    label: str
    caption: str
    reason: str


@dataclass(frozen=True)
class Sketch:
    """A picture with a script of its own, that of ``kind`` in the page's ``MB.sketches``. data: what that draws."""

    kind: str
    title: str
    label: str
    caption: str
    data: Json


Drawing = Chart | Heat | Nothing | Sketch


@dataclass(frozen=True)
class Figure:
    """Drawings by the value of the choice that is called ``by``; the only one has the key ``""``."""

    drawings: Mapping[str, Drawing]
    by: str = ""
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Table:
    """Words in rows. heading: above it. folded: what opens it, where it is closed at first. long: may be scrolled."""

    label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    heading: str = ""
    note: str = ""
    folded: str = ""
    long: bool = False


@dataclass(frozen=True)
class Widget:
    """What a script of its own builds, that of ``name`` in the page's ``MB.widgets``, out of ``data``."""

    name: str
    data: Json


Part = Figure | Table | Widget | str | tuple[Figure, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; parts in a tuple stand side by side. choices: of all its figures."""

    id: str
    heading: str
    parts: tuple[Part, ...]
    choices: tuple[Choice, ...] = ()
