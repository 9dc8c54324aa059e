"""The same capture on transformers models in PyTorch, on CUDA, Apple's GPU or a CPU. Needs no MLX."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlx_moebench.errors import MissingExtraError, missing_package, renamed

if TYPE_CHECKING:
    from .live import attach
    from .loading import load, load_checkpoint
    from .training import RoutingCallback

_HOME = {"RoutingCallback": ".training", "attach": ".live", "load": ".loading", "load_checkpoint": ".loading"}

__all__ = ["RoutingCallback", "attach", "load", "load_checkpoint"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOME[name], __name__), name)
    except ImportError as error:
        if (other := renamed(error)) is not None:
            raise other from error
        if missing_package(error) not in ("torch", "transformers"):
            raise
        raise MissingExtraError("The backend torch", "torch") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
