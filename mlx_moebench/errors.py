"""Errors a user can act on. Each message is one sentence that says what is wrong and what to do.

The command line prints the message and exits with status 1; anything else that reaches the top is a bug.
"""

import re
from typing import Any


class MoebenchError(Exception):
    """Base of every error this package raises on purpose."""


class UnsupportedModelError(MoebenchError):
    """The model has no router, a router that no family describes, or not every router it should have."""


class ModelLoadError(MoebenchError):
    """A model folder or hub id that cannot be loaded: missing, incomplete, truncated, not safetensors."""


class DataError(MoebenchError):
    """A data set that cannot be read, is empty, or lacks the field asked for."""


class RoutingError(MoebenchError):
    """What a router reported cannot be counted: non-finite logits, wrong shapes, a broken invariant."""


class StatsError(MoebenchError):
    """A stats pair that cannot be read, written or merged."""


class InUseError(MoebenchError):
    """An output that another process is writing."""


class TrainingError(MoebenchError):
    """A training that cannot start, go on or be resumed: unknown settings, a floor out of reach, a loss that is NaN."""


class EvaluationError(MoebenchError):
    """Answers that cannot be scored or compared: no such task, no finite log-likelihood, other questions."""


class TraceError(MoebenchError):
    """A trace that cannot be read, written or gone on with."""


NO_MLX = (
    'MLX is not installed: pip install "mlx-moebench[cpu]" on Linux ([cuda12] or [cuda13] with a GPU); of the '
    "commands that load a model only train needs it: the others run with --backend torch."
)


class MissingExtraError(MoebenchError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f'{purpose} needs an optional dependency: pip install "mlx-moebench[{extra}]"')


class RenamedError(MoebenchError):
    """A name inside another library is not there: its installed version is none that this package knows."""

    def __init__(self, library: str, name: str, purpose: str) -> None:
        from .environment import package_version

        super().__init__(
            f"{library} {package_version(library) or ''} has no {name}, which {purpose}: update mlx-moebench, or "
            f"install another version of {library}."
        )


def needed(owner: Any, name: str, library: str, purpose: str) -> Any:
    """``owner.name``, a name inside another library; raises RenamedError where it is not there."""
    try:
        return getattr(owner, name)
    except AttributeError as error:
        kind = getattr(owner, "__name__", type(owner).__name__)
        raise RenamedError(library, f"{kind}.{name}", purpose) from error


def renamed(error: ImportError) -> RenamedError | None:
    """What to say of an import from an installed library that has no such module or name; None for other errors."""
    module = error.name or ""
    name = re.search(r"cannot import name '(\w+)'", str(error))
    ours = module.split(".")[0] in ("", "mlx_moebench", "torch_fallback")
    if ours or missing_package(error) or not (name or isinstance(error, ModuleNotFoundError)):
        return None
    return RenamedError(module.split(".")[0], f"{module}.{name[1]}" if name else module, "this package imports")


def missing_package(error: ImportError) -> str | None:
    """The package that is not installed; None where it is, and lacks a module or a name that is imported from it."""
    name = error.name or ""
    return name if isinstance(error, ModuleNotFoundError) and ("." not in name or name == "mlx.core") else None


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint for a wrong name: `` Did you mean 'gini'?`` or the list of what exists."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known)}."
