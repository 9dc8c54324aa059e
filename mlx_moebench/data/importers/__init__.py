"""Routing that another program recorded, as statistics. One file per format, each with an ``IMPORTER``.

Folders are listed: a new file here is a new ``mlx-moebench import NAME``. Its ``read`` takes the files and, as keyword
arguments, options of `cli.import_`; those without a default are required on the command line, too.
"""

from __future__ import annotations

import os
import pkgutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from ...errors import DataError, did_you_mean
from ...pair.stats import RoutingStats
from ._arrays import check_readable


@dataclass(frozen=True)
class Importer:
    """A format that can be imported.

    read: (files, **options) -> statistics. summary: what the files are, one line. example: arguments that import some.
    sequences: whether it knows the sequences that tokens belong to, so that there is something to resample.
    """

    read: Callable[..., RoutingStats]
    summary: str
    example: str
    sequences: bool


@dataclass(frozen=True)
class NamedFile:
    """A file and the domain that it is about."""

    name: str
    path: Path


def formats() -> list[str]:
    """Names of the formats that can be imported, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def importer(name: str) -> Importer:
    """The importer of a format; raises `DataError` for a wrong name, with the nearest right one."""
    if name not in (known := formats()):
        raise DataError(f"There is no format {name!r} to import.{did_you_mean(name, known)}")
    chosen: Importer = import_module(f".{name}", __name__).IMPORTER
    return chosen


def split_name(argument: str) -> tuple[str | None, str]:
    """(NAME, rest) of ``NAME=rest``, or (None, argument) where there is no name, or the whole is a path that exists.

    A NAME is any line of text, spaces and accents too. Of several ``=`` the first is meant after which a path stands
    that exists, else the first; a ``/`` before that one makes all of it a path. Raises `DataError` for a name or a rest
    that is empty, and for a name with control characters, such as a line end.
    """
    if "=" not in argument or _exists(argument):
        return None, argument
    pieces = argument.split("=")
    splits = [("=".join(pieces[:n]), "=".join(pieces[n:])) for n in range(1, len(pieces))]
    there = next((one for one in splits if _exists(one[1])), None)
    if there is None and ("/" in pieces[0] or os.sep in pieces[0]):
        return None, argument
    name, rest = there or splits[0]
    name = name.strip()
    if not name or not rest:
        raise DataError(f"{argument!r} has nothing {'after' if name else 'before'} its =: give NAME=PATH, or a PATH.")
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in name):
        raise DataError(f"The name {name!r} holds control characters: a name is one line of text.")
    return name, rest


def _exists(text: str) -> bool:
    """Whether a path is there: a file or folder, ``FILE@FIELD`` of a file, or a stats pair without its suffix."""
    try:
        return any(
            Path(one).expanduser().exists() for one in (text, text.rpartition("@")[0], f"{text}.json") if one.strip()
        )
    except (OSError, RuntimeError, ValueError):  # too long, the home of nobody, a null character
        return False


def named_files(arguments: Sequence[str], one_domain: bool = False) -> list[NamedFile]:
    """Files (or folders) given as PATH, of which the stem is the domain, or as NAME=PATH.

    Raises `DataError` for a domain that occurs twice, unless they are all parts of one, and for what is not there, or
    neither a file nor a folder.
    """
    files: list[NamedFile] = []
    for argument in arguments:
        name, rest = split_name(argument)
        file = NamedFile(name or Path(rest).stem, Path(rest))
        check_readable(file.path)
        if not one_domain and any(file.name == other.name for other in files):
            raise DataError(f"Two files are about the domain {file.name!r}: tell them apart as NAME=FILE.")
        files.append(file)
    return files
