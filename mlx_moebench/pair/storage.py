"""Stats pairs on disk: STEM.json, the report, and STEM.safetensors, the sums from which it can be made again.

Both are written aside, then renamed, sums first: a full disk
leaves the old pair, a kill old or new files, never half of one, and the sums alone are enough to go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np

from ..errors import MoebenchError, StatsError
from ..files import header_of, metadata_of, probe_folder, write_aside
from ..options import Plan
from ..routing.parts import completeness
from ..routing.record import Phase, RouterSpec
from ..routing.stats import Cluster, Kind, RoutingSums, recorded
from ..routing.sums import FIELDS, Sums
from ..routing.tally import SCALARS
from ..types import Facts, HostArray, Json
from .format import checked
from .report import build_report

SUMS_VERSION = "1"
"""Of the layout of the sums; that of the report is `report.SCHEMA_VERSION`."""

READABLE = ("1", "2", "3")
"""Versions of the report; see `report.SCHEMA_VERSION`."""

FORMAT = "mlx_moebench.routing_stats"
"""The key in the file's metadata under which everything but the arrays stands, as JSON."""


def pair_paths(path: Path) -> tuple[Path, Path]:
    """(STEM.json, STEM.safetensors) for either name, or for the stem alone; raises `StatsError` for no file name."""
    stem = path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
    if not stem.name or stem.name == "..":
        raise StatsError(f"Cannot write statistics to {str(path)!r}: name a file, such as out.json.")
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".safetensors")


OF_OTHERS = {
    *(".txt", ".csv", ".tsv", ".md", ".html", ".htm", ".png", ".svg", ".pdf", ".yaml", ".yml"),
    *(".jsonl", ".parquet", ".npz", ".gz", ".zip"),
}
"""Suffixes that promise another format; any other, as of ``run-0.5``, belongs to the name."""


def check_name(path: Path) -> None:
    """Raise `StatsError` where the name of a stats pair promises another format."""
    if path.suffix.lower() in OF_OTHERS:
        raise StatsError(
            f"Statistics are written as NAME.json and NAME.safetensors, not as {path.suffix}: name {path.stem}.json."
        )


def decode_output(output: str | Path) -> Path:
    """Where the pair of the generated tokens lies, beside that of the prompts: OUT.decode.json for OUT.json."""
    report_path, _ = pair_paths(Path(output))
    return report_path.with_name(f"{report_path.stem}.decode.json")


def check_writable(path: Path) -> None:
    """Raise `StatsError` if a stats pair cannot be written there, or would replace a file that is none.

    Asked before measuring, so that nothing measured is lost. Makes no folder.
    """
    report_path, sums_path = pair_paths(path)
    check_name(path)
    for place in (path, report_path, sums_path):
        if place.is_dir():
            raise StatsError(f"Cannot write {place}: it is a folder; name a file in it.")
    probe_folder(report_path)
    if sums_path.exists() and FORMAT not in metadata_of(sums_path):
        raise StatsError(f"{sums_path} exists and holds no routing statistics: choose another --output.")
    if report_path.exists():
        try:
            read_report(report_path, verify=False)
        except StatsError as error:
            raise StatsError(f"{report_path} exists and is not a routing report: choose another --output.") from error


def save_pair(stats: RoutingSums, path: Path, plan: Plan | None = None) -> tuple[Path, Path]:
    """Write both halves of the pair; raises `StatsError` and keeps the old files when the disk refuses."""
    save_pairs([(stats, path)], plan)
    return pair_paths(path)


def save_pairs(pairs: Iterable[tuple[RoutingSums, Path]], plan: Plan | None = None) -> list[Json]:
    """Write several pairs together, as `save_pair` writes one; returns their reports."""
    made = [pair_contents(stats, path, plan) for stats, path in pairs]
    write_aside({path: blob for files, _ in made for path, blob in files.items()})
    return [report for _, report in made]


def pair_contents(stats: RoutingSums, path: Path, plan: Plan | None = None) -> tuple[dict[Path, bytes], Json]:
    """(what the files of a pair hold, sums first; the report): for `write_aside` of several files together."""
    check_name(path)
    report_path, sums_path = pair_paths(path)
    blob = sums_blob(stats)
    report = build_report(stats, plan) | {"sums_sha256": hashlib.sha256(blob).hexdigest()}
    return {sums_path: blob, report_path: report_text(report).encode()}, report


def report_text(report: Facts) -> str:
    """The JSON half of a pair."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def sums_blob(stats: RoutingSums) -> bytes:
    """The safetensors half of a pair, from which `stats_of_blob` makes the same statistics."""
    from safetensors.numpy import save

    stats.check()
    shas = sorted({sha for sha, _ in stats.clusters})
    tensors: Json = {
        "clusters.row": np.array([row for _, row in stats.clusters], dtype=np.int64),
        "clusters.source": np.array([shas.index(sha) for sha, _ in stats.clusters], dtype=np.int64),
        "clusters.text": np.array([stats.texts.get(cluster, 0) for cluster in stats.clusters], dtype=np.int64),
    }
    for number, spec in enumerate(stats.specs):
        sums = stats.sums(number)
        tensors |= {f"{spec.name}.{name}": np.ascontiguousarray(getattr(sums, name)) for name in FIELDS}
        tensors[f"{spec.name}.top1_counts"] = recorded(sums.top1_counts)
        tensors[f"{spec.name}.pairs"] = stats.pairs(number)
        if number + 1 < len(stats.specs):
            tensors[f"{spec.name}.transition"] = stats.transition_counts(number)
    facts = {
        "schema_version": SUMS_VERSION,
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
    blob: bytes = save(tensors, metadata={FORMAT: json.dumps(facts, sort_keys=True)})
    return blob


def load_pair(kind: type[Kind], path: Path) -> Kind:
    """The statistics whose sums lie beside ``path``; raises `StatsError` when they are missing or broken."""
    report_path, sums_path = pair_paths(path)
    if not sums_path.exists():
        if report_path.exists():
            raise StatsError(
                f"{sums_path.name} is not beside {report_path}: a report without its sums "
                "has values but cannot be merged or resampled."
            )
        raise StatsError(f"No stats pair at {path}: neither {report_path.name} nor {sums_path.name} exists.")
    try:
        return stats_of_blob(kind, sums_path.read_bytes(), str(sums_path))
    except OSError as error:
        raise StatsError(f"Cannot read {sums_path}: {error.strerror or error}.") from error


def stats_of_blob(kind: type[Kind], blob: bytes, name: str) -> Kind:
    """What `sums_blob` was made of; raises `StatsError`, which calls it ``name``, where it is anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors, metadata = load(blob), header_of(blob).metadata
        if FORMAT in metadata:
            return restore(kind, tensors, json.loads(metadata[FORMAT]))
    except (SafetensorError, MoebenchError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StatsError(f"{name} is damaged or from another version ({str(error).rstrip('.')}).") from error
    raise StatsError(f"{name} is a safetensors file, but not routing statistics.")


def read_report(path: Path, verify: bool = True) -> Json:
    """The JSON report at either name of a pair. Without its sums beside it, intervals become null with the reason.

    Raises `StatsError` when it is no report, and with ``verify`` when the sums beside it are those of another run.
    """
    report_path, sums_path = pair_paths(path)
    report = _report_of(report_path)
    _drop_verdicts(report)
    if not sums_path.exists():
        _drop_intervals(report, f"{sums_path.name} with the sums is missing")
    elif verify and report.get("sums_sha256") != hashlib.sha256(sums_path.read_bytes()).hexdigest():
        raise StatsError(
            f"{report_path.name} is not the report of the {sums_path.name} beside it; the sums are what was "
            f"measured, and `mlx-moebench merge {sums_path.name} -o NEW.json` makes their report."
        )
    return report


def _report_of(report_path: Path) -> Json:
    try:
        report: Json = json.loads(report_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StatsError(f"Cannot read {report_path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise StatsError(f"{report_path} is not JSON: {error}.") from error
    if not isinstance(report, dict) or not {"routers", "summary", "data", "model"} <= report.keys():
        raise StatsError(f"{report_path} is JSON, but not a routing report.")
    if (version := report.get("schema_version", READABLE[0])) not in READABLE:
        raise StatsError(
            f"{report_path} has schema version {version}, and this version of mlx_moebench reads "
            f"{', '.join(READABLE)}: measure again, or use the version that wrote it."
        )
    try:
        checked("routing_stats", report)
    except ValueError as error:
        raise StatsError(f"{report_path} is damaged or from another version ({error}).") from error
    return report


def _drop_intervals(report: Json, reason: str) -> None:
    """Every interval of a report becomes null, with the reason; plug-in values stay."""
    gone = {"low": None, "high": None, "reason": reason}
    for router in report["routers"]:
        kept = {name: {k: entry[k] for k in ("plugin",) if k in entry} for name, entry in router.get("ci", {}).items()}
        router["ci"] = {name: gone | plugin for name, plugin in kept.items()}
        if "token_share" in router:
            router["token_share"] = dict(gone)
        if "findings" in router:
            _open_findings(router["findings"], reason)
    if "words_by_router" in report:
        for words in report["words_by_router"].values():
            words |= dict.fromkeys(words, 0) | {"open": sum(words.values())}
    for summary in (report["summary"], *report.get("summary_by_router", {}).values()):
        for entry in summary.values():
            entry.update(gone)


def _open_findings(of_router: Json, reason: str) -> None:
    """No finding is answered without an interval."""
    nothing = {"low": None, "high": None}
    of_router["word"] = "open"
    for finding in of_router["findings"].values():
        finding |= {"answer": "open", "reason": reason} | ({} if "low" not in finding else nothing)
        finding["parts"] = {name: part | nothing for name, part in finding["parts"].items()}
        finding.pop("sequences", None)


def _drop_verdicts(report: Json) -> None:
    """Of versions before 3: their rule gave wrong words, and was withdrawn."""
    report.pop("verdicts_by_router", None)
    for router in report["routers"]:
        router.pop("verdict", None)


def restore(kind: type[Kind], tensors: Mapping[str, HostArray], facts: Json) -> Kind:
    """Statistics from the arrays and facts of a file, refusing what no measurement can have written."""
    if facts["schema_version"] != SUMS_VERSION:
        raise StatsError(f"schema version {facts['schema_version']}, this is {SUMS_VERSION}")
    specs = [spec_of_json(fields) for fields in facts["specs"]]
    kept = {key: facts[key] for key in ("phase", "tau", "collapse_on", "model", "sources", "environment")}
    _expect(bool(specs) and facts["phase"] in get_args(Phase), "no routers, or a phase that does not exist")
    stats = kind(specs, **kept)
    for source in stats.sources.values():
        completeness(source)  # raises where facts are missing
    clusters, stats.texts = _clusters(tensors, facts["sha256"])
    # Columns are found by name, so that a file written before a scalar was added still reads, with NaN for it.
    columns = [facts["scalars"].index(name) if name in facts["scalars"] else -1 for name in SCALARS]
    for number, spec in enumerate(specs):
        sums, pairs = _router_sums(spec, tensors, columns, len(clusters)), tensors[f"{spec.name}.pairs"]
        _check_arrays(spec, sums, pairs, len(clusters))
        stats.add_sums(number, clusters, sums, pairs)
        if number + 1 < len(specs):
            moves = tensors[f"{spec.name}.transition"]
            _expect(moves.shape == (spec.n_experts, specs[number + 1].n_experts), f"{spec.name}: transition shape")
            stats.add_transition(number, moves)
    stats.check()
    return stats


def _clusters(tensors: Mapping[str, HostArray], shas: Sequence[str]) -> tuple[list[Cluster], dict[Cluster, int]]:
    """(the sequences, the hash of each one's text); files of earlier versions do not say which texts are the same."""
    places = zip(tensors["clusters.source"], tensors["clusters.row"], strict=True)
    clusters = [(shas[source], int(row)) for source, row in places if source >= 0]
    _expect(len(set(clusters)) == len(tensors["clusters.row"]), "a sequence twice")
    texts = tensors.get("clusters.text", np.zeros(len(clusters), dtype=np.int64)).tolist()
    return clusters, {cluster: text for cluster, text in zip(clusters, texts, strict=True) if text}


def _router_sums(spec: RouterSpec, tensors: Mapping[str, HostArray], columns: list[int], clusters: int) -> Sums:
    """The sums of one router. columns: where each of `SCALARS` stands in the file, -1 for one that it lacks."""
    arrays = {name: tensors[f"{spec.name}.{name}"] for name in FIELDS}
    padded = np.concatenate([arrays["scalars"], np.full((clusters, 1), np.nan)], axis=1)
    arrays["scalars"] = padded[:, columns]
    return Sums(spec.n_experts, spec.top_k, spec.distribution, **arrays)


def _check_arrays(spec: RouterSpec, sums: Sums, pairs: HostArray, clusters: int) -> None:
    wide = (clusters, spec.n_experts)
    shapes = {"n_tokens": wide[:1], "counts": wide, "top1_counts": wide, "p_sum": wide}
    for name, shape in shapes.items():
        array = getattr(sums, name)
        _expect(array.shape == shape, f"{spec.name}.{name} has shape {array.shape} instead of {shape}")
        _expect(name == "p_sum" or array.dtype.kind == "i", f"{spec.name}.{name} is not of integers")
        unmeasured = name == "p_sum" and bool(np.isnan(array).all())
        _expect(unmeasured or bool(np.all(array >= 0)), f"{spec.name}.{name} has negative or missing sums")
    _expect(pairs.shape == (spec.n_experts, spec.n_experts), f"{spec.name}.pairs has shape {pairs.shape}")
    _expect(not np.isinf(sums.p_sum).any() and not np.isinf(sums.scalars).any(), f"{spec.name} has infinite sums")
    _expect(bool(np.all(sums.top1_counts.sum(axis=1) <= sums.n_tokens)), f"{spec.name} has too many first choices")


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise StatsError(what)


def spec_of_json(fields: Json) -> RouterSpec:
    """JSON has no tuples: lists become them again."""
    typed: Json = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return RouterSpec(**typed)
