"""What is wrong with files of this package: their seals, their sums, and whether a report is that of its sums."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MoebenchError, StatsError
from ..files import metadata_of, read_text
from ..options import Plan, Thresholds
from ..routing.metrics import METRICS
from ..routing.stats import RoutingSums
from ..types import Facts, Json
from .report import SCHEMA_VERSION, build_report
from .seal import SEAL, check_json_seal, read_json
from .storage import FORMAT, load_pair, pair_paths, read_report

CLOSE = 1e-9
"""Relative difference at which two numbers are the same: other processors round sums of floats otherwise."""


@dataclass
class Verdict:
    """What was found of one pair or file. wrong: sentences, none where it is as it was written. notes: what to know."""

    path: Path
    what: str
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sealed(self) -> bool:
        """Whether a change would have been noticed."""
        return not any("unsealed" in note for note in self.notes)

    def to_dict(self) -> Json:
        """For JSON."""
        return {
            "path": str(self.path),
            "what": self.what,
            "good": not self.wrong,
            "sealed": self.sealed,
            "wrong": self.wrong,
            "notes": self.notes,
        }


def verified(path: Path, *, intervals: bool = False) -> list[Verdict]:
    """What is wrong with a stats pair, with another JSON file of this package, or with all of these in a folder.

    intervals: make the whole report again, too, and not only its values. Raises `StatsError` where nothing is there.
    """
    if path.is_dir():
        found = [verdict for file in _files_in(path) for verdict in verified(file, intervals=intervals)]
        if not found:
            raise StatsError(f"{path} holds no file that mlx-moebench wrote.")
        return found
    report_path, sums_path = pair_paths(path)
    if sums_path.exists():
        return [_pair(report_path, sums_path, intervals=intervals)]
    if not path.exists() and not report_path.exists():
        raise StatsError(f"There is no {path}.")
    return [_json(report_path if report_path.exists() else path)]


def _files_in(folder: Path) -> Iterator[Path]:
    """One name of every pair, and every other JSON file with a seal."""
    for path in sorted(folder.rglob("*")):
        report = path.suffix == ".json" and not _is_pair(path.with_suffix(".safetensors")) and _has_seal(path)
        if report or (path.suffix == ".safetensors" and _is_pair(path)):
            yield path


def _is_pair(path: Path) -> bool:
    return path.is_file() and FORMAT in metadata_of(path)


def _has_seal(path: Path) -> bool:
    try:
        return f'"{SEAL}"' in read_text(path)
    except (OSError, ValueError):
        return False


def _pair(report_path: Path, sums_path: Path, *, intervals: bool) -> Verdict:
    verdict = Verdict(report_path if report_path.exists() else sums_path, "stats pair")
    stats = _tried(verdict, lambda: load_pair(RoutingSums, sums_path))
    if stats is not None:
        verdict.what = f"stats pair, {len(stats.specs)} routers, {len(stats.clusters):,} sequences"
    if not report_path.exists():
        verdict.notes.append(f"{report_path.name} is missing; merge makes it from the sums")
        return verdict
    report = _tried(verdict, lambda: read_report(report_path))
    if stats is not None and report is not None:
        verdict.wrong += [f"{report_path}: {what}" for what in _unlike(stats, report)]
        if intervals and not verdict.wrong:
            if report.get("schema_version") != SCHEMA_VERSION:
                verdict.notes.append("its intervals are those of an earlier version, and were not made again")
            else:
                verdict.wrong += [f"{report_path}: {what}" for what in _made_again(stats, report)]
    return verdict


def _json(path: Path) -> Verdict:
    verdict = Verdict(path, "JSON")

    def read() -> Any:
        content = read_json(path)
        if isinstance(content, dict) and {"routers", "summary", "data", "model", "sums_sha256"} <= content.keys():
            verdict.what = "report without its sums"
            return read_report(path)
        if not isinstance(content, dict):
            raise StatsError(f"{path} is no file of mlx-moebench.")
        if not check_json_seal(content, str(path)):
            verdict.notes.append("it is unsealed: whether it was changed cannot be told")
        verdict.what = str(content.get("kind", "report")).replace("_", " ")
        return content

    _tried(verdict, read)
    return verdict


def _tried(verdict: Verdict, read: Any) -> Any:
    """What ``read`` gives; what it refuses, and what it warns of, goes into the verdict."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            result = read()
        except MoebenchError as error:
            result = None
            if str(error) not in verdict.wrong:
                verdict.wrong.append(str(error))
    verdict.notes += [str(one.message) for one in said]
    return result


def _unlike(stats: RoutingSums, report: Facts) -> Iterator[str]:
    """Where the numbers of a report are not those of its sums: counts, and every metric as the sample gives it."""
    if len(report["routers"]) != len(stats.specs):
        yield f"it has {len(report['routers'])} routers, its sums {len(stats.specs)}"
        return
    for number, (spec, router) in enumerate(zip(stats.specs, report["routers"], strict=True)):
        total = stats.totals(number)
        pairs = {
            "n_experts": (router["n_experts"], spec.n_experts),
            "top_k": (router["top_k"], spec.top_k),
            "n_tokens": (router["n_tokens"], int(total.n_tokens)),
            "selection_counts": (router["selection_counts"], [int(count) for count in total.counts]),
        }
        values = stats.values(number)
        for name in METRICS.keys() & router.keys():
            if report.get("schema_version") in ("1", "2"):
                continue  # their rounding was that of other formulas
            plugin = router["ci"].get(name, {}).get("plugin", router[name])
            pairs[name] = (plugin, values[name] if math.isfinite(values[name]) else None)
        yield from (f"{spec.name}: {name} is not that of its sums" for name, (a, b) in pairs.items() if not _same(a, b))


def _made_again(stats: RoutingSums, report: Facts) -> Iterator[str]:
    """Where a report is not the one that its sums give with its own settings."""
    settings = report["settings"]
    thresholds = Thresholds(**settings.get("thresholds", {}))
    again = build_report(stats, Plan(**settings["ci"], thresholds=thresholds))
    first = next(_differences(again, {key: report.get(key) for key in again}, ""), None)
    if first is not None:
        by, here = report["environment"].get("mlx_moebench"), stats.environment.get("mlx_moebench")
        yield f"{first} is not what its sums give ({'this version' if by == here else 'another version'} wrote it)"


def _differences(a: Any, b: Any, place: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _differences(a.get(key), b.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _differences(x, y, f"{place}[{number}]")
    elif not _same(a, b):
        yield place


def _same(a: Any, b: Any) -> bool:
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (a, b))
    return math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) if numbers else bool(a == b)
