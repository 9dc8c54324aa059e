"""Stats pairs on disk: STEM.json, the report, and STEM.safetensors, the sums from which it can be made again.

The only module of this package that touches files. Both are written aside, then renamed, sums first: a full disk
leaves the old pair, a kill old or new files, never half of one, and the sums alone are enough to go on.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StatsError
from .record import RouterSpec
from .report import SCHEMA_VERSION
from .stats import RoutingStats
from .sums import FIELDS, Sums
from .tally import SCALARS
from .uncertainty import Plan

FORMAT = "mlx_moebench.routing_stats"
"""The key in the file's metadata under which everything but the arrays stands, as JSON."""


def pair_paths(path: Path) -> tuple[Path, Path]:
    """(STEM.json, STEM.safetensors) for either name, or for the stem alone."""
    stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".safetensors")


def check_writable(path: Path) -> None:
    """Raise `StatsError` if a stats pair cannot be written there: asked before measuring, not after."""
    report, _ = pair_paths(path)
    probe = report.with_name(f".{report.name}.{os.getpid()}.probe")
    try:
        if report.is_dir() or path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; name a file in it")
        report.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StatsError(f"Cannot write {report}: {error.strerror or error}.") from error


def save_pair(stats: RoutingStats, path: Path, plan: Plan | None = None) -> tuple[Path, Path]:
    """Write both halves of the pair; raises `StatsError` and keeps the old files when the disk refuses."""
    from safetensors.numpy import save

    report_path, sums_path = pair_paths(path)
    stats.check()
    shas = sorted({sha for sha, _ in stats.clusters})
    tensors: dict[str, Any] = {
        "clusters.row": np.array([row for _, row in stats.clusters], dtype=np.int64),
        "clusters.source": np.array([shas.index(sha) for sha, _ in stats.clusters], dtype=np.int64),
    }
    for number, spec in enumerate(stats.specs):
        sums = stats.sums(number)
        tensors |= {f"{spec.name}.{name}": np.ascontiguousarray(getattr(sums, name)) for name in FIELDS}
        tensors[f"{spec.name}.pairs"] = stats.pairs(number)
        if number + 1 < len(stats.specs):
            tensors[f"{spec.name}.transition"] = stats.transition_counts(number)
    facts = {
        "schema_version": SCHEMA_VERSION,
        "specs": [asdict(spec) for spec in stats.specs],
        "scalars": list(SCALARS),
        "sha256": shas,
        "phase": stats.phase,
        "tau": stats.tau,
        "collapse_on": stats.collapse_on,
        "model": stats.model,
        "sources": stats.sources,
        "environment": stats.environment,
    }
    # One entry: safetensors writes several in an order that changes from run to run, and equal sums give equal bytes.
    blob = save(tensors, metadata={FORMAT: json.dumps(facts, sort_keys=True)})
    text = json.dumps(stats.report(plan), indent=1, allow_nan=False) + "\n"
    _write_aside({sums_path: blob, report_path: text.encode()})
    return report_path, sums_path


def load_pair(path: Path) -> RoutingStats:
    """The `RoutingStats` whose sums lie beside ``path``; raises `StatsError` when they are missing or broken."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    report_path, sums_path = pair_paths(path)
    if not sums_path.exists():
        if report_path.exists():
            raise StatsError(
                f"{sums_path.name} is not beside {report_path}: a report without its sums "
                "has values but cannot be merged or resampled."
            )
        raise StatsError(f"No stats pair at {path}: neither {report_path.name} nor {sums_path.name} exists.")
    try:
        blob = sums_path.read_bytes()
        tensors, metadata = load(blob), _metadata(blob)
        if FORMAT not in metadata:
            raise StatsError(f"{sums_path} is a safetensors file, but not routing statistics.")
        return _restore(tensors, json.loads(metadata[FORMAT]))
    except OSError as error:
        raise StatsError(f"Cannot read {sums_path}: {error.strerror or error}.") from error
    except (SafetensorError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise StatsError(f"{sums_path} is damaged or from another version: {error}.") from error


def read_report(path: Path) -> dict[str, Any]:
    """The JSON report at either name of a pair. Without its sums beside it, intervals become null with the reason."""
    report_path, sums_path = pair_paths(path)
    try:
        report: dict[str, Any] = json.loads(report_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StatsError(f"Cannot read {report_path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise StatsError(f"{report_path} is not JSON: {error}.") from error
    if not isinstance(report, dict) or "routers" not in report or "summary" not in report:
        raise StatsError(f"{report_path} is JSON, but not a routing report.")
    if not sums_path.exists():
        gone = {"low": None, "high": None, "reason": f"{sums_path.name} with the sums is missing"}
        for router in report["routers"]:
            router["ci"] = {name: dict(gone) for name in router.get("ci", {})}
        for summary in (report["summary"], *report.get("summary_by_router", {}).values()):
            for entry in summary.values():
                entry.update(gone)
    return report


def _restore(tensors: Mapping[str, npt.NDArray[Any]], facts: dict[str, Any]) -> RoutingStats:
    specs = [_spec(fields) for fields in facts["specs"]]
    kept = {key: facts[key] for key in ("phase", "tau", "collapse_on", "model", "sources", "environment")}
    stats = RoutingStats(specs, **kept)
    places = zip(tensors["clusters.source"], tensors["clusters.row"], strict=True)
    clusters = [(facts["sha256"][source], int(row)) for source, row in places]
    # Columns are found by name, so that a file written before a scalar was added still reads, with NaN for it.
    known = [facts["scalars"].index(name) if name in facts["scalars"] else -1 for name in SCALARS]
    for number, spec in enumerate(specs):
        arrays = {name: tensors[f"{spec.name}.{name}"] for name in FIELDS}
        padded = np.concatenate([arrays["scalars"], np.full((len(clusters), 1), np.nan)], axis=1)
        arrays["scalars"] = padded[:, known]
        sums = Sums(spec.n_experts, spec.top_k, spec.distribution, **arrays)
        stats.add_sums(number, clusters, sums, tensors[f"{spec.name}.pairs"])
        if number + 1 < len(specs):
            stats.add_transition(number, tensors[f"{spec.name}.transition"])
    return stats


def _spec(fields: dict[str, Any]) -> RouterSpec:
    """JSON has no tuples: lists become them again."""
    typed: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return RouterSpec(**typed)


def _metadata(blob: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", blob[:8])
    metadata: dict[str, str] = json.loads(blob[8 : 8 + length]).get("__metadata__", {})
    return metadata


def _write_aside(contents: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, and only when all are written rename them in order."""
    asides = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, aside in asides.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(contents[path])
        for path, aside in asides.items():
            aside.replace(path)
    except OSError as error:
        for aside in asides.values():
            aside.unlink(missing_ok=True)
        raise StatsError(f"Cannot write {path}: {error.strerror or error}.") from error
