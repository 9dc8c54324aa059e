"""The two sides of a comparison, from statistics or from stats pairs on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import StatsError
from ..routing.comparison.comparability import Side
from ..routing.comparison.effects import Point
from ..routing.metrics import METRICS
from ..routing.record import RouterSpec
from ..routing.stats import RoutingSums
from ..types import Facts
from .report import data_section
from .storage import load_pair, pair_paths, read_report


def side_of(source: RoutingSums | str | Path, name: str) -> Side:
    """A side from statistics or from a pair's path; of a report without its sums, the values it has.

    Raises `StatsError` where there is no pair or no report.
    """
    if isinstance(source, RoutingSums):
        return _of_stats(source, name)
    report_path, sums_path = pair_paths(Path(source))
    if sums_path.exists() or not report_path.exists():
        return _of_stats(load_pair(RoutingSums, Path(source)), str(report_path))
    return _of_report(read_report(report_path), report_path, sums_path)


def _of_stats(stats: RoutingSums, name: str) -> Side:
    if not stats.clusters:
        raise StatsError(f"{name} holds no sequence: there is nothing to compare.")
    stats.check()
    points, flags = [], []
    for number, spec in enumerate(stats.specs):
        values = stats.values(number)
        points.append(Point(values, stats.totals(number).load, spec.top_k))
        flags.append(None if stats.several_domains else stats.flag(number, values)[0])
    return Side(
        name,
        stats.specs,
        stats.phase,
        (stats.collapse_on, stats.tau),
        stats.model,
        data_section(stats),
        stats.environment,
        stats.sources,
        points,
        flags,
        stats,
    )


def _of_report(report: Facts, report_path: Path, sums_path: Path) -> Side:
    try:
        identity = ("layer", "moe_layer", "router", "n_experts", "top_k", "distribution", "router_bits")
        specs = tuple(RouterSpec(**{key: router[key] for key in identity}) for router in report["routers"])
        points, flags = [], []
        for router, spec in zip(report["routers"], specs, strict=True):
            values = {name: _plugin(router, name) for name in METRICS if name in router}
            counts = np.array(router["selection_counts"], dtype=np.float64)
            points.append(Point(values, counts / counts.sum() if counts.sum() else counts * np.nan, spec.top_k))
            flags.append(router.get("collapsed"))
        data, settings = report["data"], report["settings"]
        return Side(
            str(report_path),
            specs,
            data["phase"],
            (settings["collapse_on"], settings["tau"]),
            report["model"],
            data,
            report["environment"],
            {source["sha256"]: source for source in data.get("sources", [data])},
            points,
            flags,
            missing=f"{sums_path.name} with the sums per sequence is not beside {report_path.name}",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StatsError(f"{report_path} is damaged or from another version ({error}).") from error


def _plugin(router: Facts, name: str) -> float:
    """A metric as the sample gives it: sides are compared before anything is corrected."""
    value = router["ci"].get(name, {}).get("plugin", router[name])
    return np.nan if value is None else float(value)
