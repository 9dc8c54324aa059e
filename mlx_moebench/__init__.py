"""Measure how sparse Mixture-of-Experts language models route.

What it offers, but for the errors, is imported when first used: importing the package needs neither MLX nor torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .errors import (
    DataError,
    EvaluationError,
    InUseError,
    MissingExtraError,
    ModelLoadError,
    MoebenchError,
    RenamedError,
    RoutingError,
    StatsError,
    TraceError,
    TrainingError,
    UnsupportedModelError,
)

__version__ = version("mlx-moebench")

if TYPE_CHECKING:
    from .analysis.profile import profile
    from .instrument import attach, batch_generate, detach, stream_generate
    from .measure import analyze
    from .models import load
    from .pair import Comparison, RoutingStats, compare

_HOME = {
    "Comparison": ".pair",
    "RoutingStats": ".pair",
    "analyze": ".measure",
    "attach": ".instrument",
    "compare": ".pair",
    "detach": ".instrument",
    "load": ".models",
    "profile": ".analysis",
    "batch_generate": ".instrument",
    "stream_generate": ".instrument",
}

__all__ = [
    "Comparison",
    "DataError",
    "EvaluationError",
    "InUseError",
    "MissingExtraError",
    "ModelLoadError",
    "MoebenchError",
    "RenamedError",
    "RoutingError",
    "RoutingStats",
    "StatsError",
    "TraceError",
    "TrainingError",
    "UnsupportedModelError",
    "__version__",
    "analyze",
    "attach",
    "batch_generate",
    "compare",
    "detach",
    "load",
    "profile",
    "stream_generate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
