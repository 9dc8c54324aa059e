"""The files that a report is made of, read one by one: what each must hold, and what it is refused for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.trace import Trace, read_trace
from ..data.training_log import read_log
from ..errors import StatsError, TrainingError
from ..pair.seal import check_json_seal, read_json
from ..pair.stats import RoutingStats
from ..pair.storage import pair_paths, read_report
from ..types import Json
from .tokens import PHASES

TAKEN = (
    "a stats pair (either file of it), the folder of a profile or its profile.json, a comparison (compare --output), "
    "a report of loss (loss --output), of lab testbed, of quantised arms (compare --quant --output) or of checkpoints "
    "(dynamics --output), or the folder of a training or a trace"
)
"""What an argument may be."""

_ROUTER = ("layer", "moe_layer", "router", "n_experts", "top_k", "n_tokens", "selection_counts", "ci")
"""Without these a router of a report cannot be shown."""


@dataclass
class Pair:
    """A stats pair as it was given, with the name that the user gave it."""

    place: Path
    label: str | None
    report: Json
    stats: RoutingStats | None


def check_there(path: Path) -> None:
    """Raise `StatsError` where neither ``path`` nor a half of a pair of that name exists."""
    try:
        there = path.exists() or any(half.exists() for half in pair_paths(path))
    except (OSError, ValueError) as error:
        raise StatsError(f"{path} is no path ({error}): give {TAKEN}.") from error
    if not there:
        raise StatsError(f"There is no {path}: give {TAKEN}, each as PATH or NAME=PATH.")


def read_pair(path: Path, label: str | None) -> Pair:
    """The pair at either of its names; raises `StatsError` where it lacks what can be shown."""
    report_path, sums_path = pair_paths(path)
    if not report_path.exists() and not sums_path.exists():
        raise StatsError(f"There is no {path}: give {TAKEN}.")
    report = read_report(report_path)
    if not report["routers"]:
        raise StatsError(f"{report_path} holds no router, so that there is nothing to report of it.")
    for router in report["routers"]:
        require(router, _ROUTER, report_path)
        if len(router["selection_counts"]) != router["n_experts"]:
            raise StatsError(
                f"{report_path} is damaged: layer {router['layer']} has {router['n_experts']} experts, and counts of "
                f"{len(router['selection_counts'])}."
            )
    require(report, ("settings", "environment"), report_path)
    require(report["settings"], ("tau", "collapse_on", "ci"), report_path)
    require(report["data"], ("name", "n_sequences", "n_tokens", "phase"), report_path)
    return Pair(report_path, label, report, RoutingStats.load(sums_path) if sums_path.exists() else None)


def pair_of_trace(folder: Path) -> Pair:
    """The statistics of a trace, of the phase that a view of its tokens shows first; raises `TraceError` for none."""
    stats = read_trace(folder, min(Trace(folder).phases, key=PHASES.index, default="prefill"))
    return Pair(folder, None, stats.report(), stats)


def sums_of(pair: Pair) -> RoutingStats:
    """Its sums; raises `StatsError` where only its report is there."""
    if pair.stats is None:
        raise StatsError(f"{pair.place} has no sums beside it, and cannot be put together with others.")
    return pair.stats


def read_sealed(path: Path) -> Any:
    """What a file of JSON holds; raises `StatsError` where it was changed since it was written."""
    content = read_json(path, instead=f"; give {TAKEN}")
    if isinstance(content, dict):
        check_json_seal(content, str(path))
    return content


def training_log(path: Path) -> list[Json]:
    """The lines of a training's log."""
    try:
        return read_log(path)
    except TrainingError as error:
        raise StatsError(str(error)) from error


def require(content: Any, keys: Sequence[str], path: Path) -> None:
    """Raise `StatsError` unless ``content`` has these keys."""
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise StatsError(f"{path} is damaged or from another version: it lacks {', '.join(map(repr, missing))}.")
