"""Routing that another program recorded, as statistics. One file per format, each with an ``IMPORTER``.

Folders are listed: a new file here is a new ``mlx-moebench import NAME``. Its ``read`` takes the files and, as keyword
arguments, options of `cli.import_`; those without a default are required on the command line, too.
"""

from __future__ import annotations

import pkgutil
import re
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
    """(NAME, rest) of ``NAME=rest``, or (None, argument): a NAME has letters, digits, ``.``, ``_`` and ``-`` only."""
    match = re.fullmatch(r"([\w.-]+)=(.+)", argument)
    return (match[1], match[2]) if match else (None, argument)


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
