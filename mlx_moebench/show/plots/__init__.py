"""Pictures for papers, one small file per kind, found by listing this folder. Needs no MLX.

A new kind is one file here that defines ``PLOT`` and one row in ``tests/test_plots.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ...errors import StatsError, did_you_mean
from .base import Plot, check_plot, write_picture

__all__ = ["Plot", "check_plot", "get_plot", "plots", "write_picture"]


@cache
def plots() -> dict[str, Plot]:
    """Every kind of picture by name, sorted."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    names = sorted(name for name in files if name != "base" and not name.startswith("_"))
    every = [importlib.import_module(f"{__name__}.{name}").PLOT for name in names]
    return {plot.name: plot for plot in every}


def get_plot(name: str) -> Plot:
    """The kind of that name; a wrong name raises `StatsError` with the nearest right one."""
    if name not in plots():
        raise StatsError(f"There is no picture of kind {name!r}.{did_you_mean(name, list(plots()))}")
    return plots()[name]
