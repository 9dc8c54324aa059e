"""One file a router, each with a ``ROUTER``; found by listing this folder. A new file here is a new router."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ...errors import TrainingError, did_you_mean
from ._fixed import FIXED, FixedRouter
from .base import Axes, Gate, Router, Sizes, Spec, halved, route

__all__ = [
    "FIXED",
    "Axes",
    "FixedRouter",
    "Gate",
    "Router",
    "Sizes",
    "Spec",
    "halved",
    "route",
    "router_named",
    "router_names",
]


def router_names() -> list[str]:
    """The names of all routers that are trained, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in ("base", "_fixed"))


@cache
def router_named(name: str) -> Router:
    """The router of this name. Raises TrainingError, with those there are, where there is none."""
    if name in FIXED:
        return FIXED[name]
    if name not in router_names():
        raise TrainingError(f"There is no router {name!r}.{did_you_mean(name, router_names())}")
    router: Router = importlib.import_module(f".{name}", __name__).ROUTER
    return router
