"""Stats pairs on disk: STEM.json, the report, and STEM.safetensors, the sums from which it can be made again.

Both are written aside, then renamed, sums first: a full disk
leaves the old pair, a kill old or new files, never half of one, and the sums alone are enough to go on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..errors import MoebenchError, StatsError
from ..files import check_ours, header_of, is_ours, metadata_of, read_bytes, write_aside
from ..locks import holding
from ..options import Plan
from ..routing.parts import completeness
from ..routing.record import Dropped, RouterSpec
from ..routing.stats import Cluster, Kind, RoutingSums, recorded
from ..routing.sums import FIELDS, Sums
from ..routing.tally import SCALARS
from ..types import HostArray, Json
from .format import checked
from .invariants import check_facts, check_specs, check_sums, check_transition, expect
from .report import SCHEMA_VERSION, build_report
from .seal import SEAL, check_json_seal, read_json, sealed_text, strict_json, sums_seal, warn_unsealed

SUMS_VERSION = "2"
"""Of the layout of the sums; that of the report is `report.SCHEMA_VERSION`. Version 1 had no seal."""

READABLE = ("1", "2", "3", "4")
"""Versions of the report; see `report.SCHEMA_VERSION`."""

UNSEALED = "1"
"""The version of sums without a seal."""

RESTORE = "Measure again, or take it from a copy."
"""What to do about sums that were changed."""

CLUSTERS = ("row", "source", "text")
"""Of every sequence: its row, the number of its source, and the hash of its text, which earlier versions lack."""

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
    if path.is_dir():
        raise StatsError(f"Cannot write {path}: it is a folder; name a file in it.")
    check_ours(sums_path, "routing statistics", lambda: FORMAT in metadata_of(sums_path))
    check_ours(report_path, "routing report", lambda: is_ours(report_path, ("routers", "summary", "data", "model")))


def save_pair(stats: RoutingSums, path: Path, plan: Plan | None = None) -> tuple[Path, Path]:
    """Write both halves of the pair; raises `StatsError` and keeps the old files when the disk refuses."""
    save_pairs([(stats, path)], plan)
    return pair_paths(path)


def save_pairs(pairs: Iterable[tuple[RoutingSums, Path]], plan: Plan | None = None) -> list[Json]:
    """Write several pairs together, as `save_pair` writes one; returns their reports."""
    pairs = list(pairs)
    with holding(*(half for _, path in pairs for half in pair_paths(path)), brief=True):
        for _, path in pairs:
            check_writable(path)
        made = [pair_contents(stats, path, plan) for stats, path in pairs]
        write_aside({path: blob for files, _ in made for path, blob in files.items()})
    return [report for _, report in made]


def pair_contents(stats: RoutingSums, path: Path, plan: Plan | None = None) -> tuple[dict[Path, bytes], Json]:
    """(what the files of a pair hold, sums first; the report): for `write_aside` of several files together."""
    check_name(path)
    report_path, sums_path = pair_paths(path)
    blob = sums_blob(stats)
    report = build_report(stats, plan) | {"sums_sha256": hashlib.sha256(blob).hexdigest()}
    return {sums_path: blob, report_path: sealed_text(report).encode()}, report


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
        tensors[f"{spec.name}.pairs"] = stats.pairs(number) * stats.pairs_known(number)
        if number + 1 < len(stats.specs):
            known = stats.transitions_known(number)
            tensors[f"{spec.name}.transition"] = stats.transition_counts(number) * known
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
    if stats.dropped:
        facts["dropped"] = stats.dropped
    # One entry: safetensors writes several in an order that changes from run to run, and equal sums give equal bytes.
    text = json.dumps(facts, sort_keys=True)
    text = json.dumps(facts | {SEAL: sums_seal(json.loads(text), tensors)}, sort_keys=True)
    blob: bytes = save(tensors, metadata={FORMAT: text})
    return blob


def load_pair(kind: type[Kind], path: Path) -> Kind:
    """The statistics whose sums lie beside ``path``; raises `StatsError` when they are missing, changed or broken.

    Where ``path`` is not that of the sums, the report beside them must not have been changed either.
    """
    report_path, sums_path = pair_paths(path)
    if path.suffix != sums_path.suffix and report_path.exists() and sums_path.exists():
        _sealed_report(report_path)
    if not sums_path.exists():
        if report_path.exists():
            raise StatsError(
                f"{sums_path.name} is not beside {report_path}: a report without its sums "
                "has values but cannot be merged or resampled."
            )
        raise StatsError(f"No stats pair at {path}: neither {report_path.name} nor {sums_path.name} exists.")
    try:
        blob = read_bytes(sums_path)
        stats = stats_of_blob(kind, blob, str(sums_path))
    except OSError as error:
        raise StatsError(f"Cannot read {sums_path}: {error.strerror or error}.") from error
    if SEAL not in strict_json(header_of(blob).metadata[FORMAT]):
        _check_unsealed(sums_path, report_path)
    return stats


def _check_unsealed(sums_path: Path, report_path: Path) -> None:
    """Of sums without a seal, a report beside them tells of a change; nothing else does, and that is said."""
    known = report_path.exists() and _sealed_report(report_path).get("sums_sha256")
    if known and known != _sha256(sums_path):
        raise StatsError(f"{sums_path} or {report_path.name} was changed after both were written. {RESTORE}")
    warn_unsealed(str(sums_path))


def _sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def stats_of_blob(kind: type[Kind], blob: bytes, name: str) -> Kind:
    """What `sums_blob` was made of; raises `StatsError`, which calls it ``name``, where it is anything else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors, metadata = load(blob), header_of(blob).metadata
        if FORMAT in metadata:
            facts = strict_json(metadata[FORMAT])
            _check_seal(facts, tensors, name)
            return restore(kind, tensors, facts)
    except _ChangedError:
        raise
    except (SafetensorError, MoebenchError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise StatsError(f"{name} is damaged or from another version ({str(error).rstrip('.')}).") from error
    raise StatsError(f"{name} is a safetensors file, but not routing statistics.")


def read_report(path: Path, verify: bool = True) -> Json:
    """The JSON report at either name of a pair. Without its sums beside it, intervals become null with the reason.

    Raises `StatsError` when it is no report, and with ``verify`` when the sums beside it are those of another run.
    """
    report_path, sums_path = pair_paths(path)
    report = _report_of(report_path)
    if verify and SEAL not in report:
        warn_unsealed(str(report_path))
    _drop_verdicts(report)
    if not sums_path.exists():
        _drop_intervals(report, f"{sums_path.name} with the sums is missing")
    elif verify and report.get("sums_sha256") != _sha256(sums_path):
        raise StatsError(f"{report_path} is not the report of the {sums_path.name} beside it. {_way_out(report_path)}")
    return report


def _report_of(report_path: Path) -> Json:
    report = _sealed_report(report_path)
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


def _sealed_report(report_path: Path) -> Json:
    """The report as it was written; raises `StatsError` for anything else."""
    report: Json = read_json(report_path)
    if not isinstance(report, dict) or not {"routers", "summary", "data", "model"} <= report.keys():
        raise StatsError(f"{report_path} is JSON, but not a routing report.")
    try:
        check_json_seal(report, str(report_path), required=report.get("schema_version") == SCHEMA_VERSION)
    except StatsError as error:
        raise StatsError(f"{error} {_way_out(report_path)}") from None
    return report


def _way_out(report_path: Path) -> str:
    """What helps where a report was changed, or is of other sums than those beside it."""
    _, sums_path = pair_paths(report_path)
    if not sums_path.exists():
        return RESTORE
    try:
        load_pair(RoutingSums, sums_path)
    except StatsError:
        return f"{sums_path.name} beside it cannot be trusted either. {RESTORE}"
    return (
        f"The sums in {sums_path.name} are as they were measured: `mlx-moebench merge {sums_path.name} -o NEW.json` "
        "makes their report."
    )


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


class _ChangedError(StatsError):
    """A seal that does not fit."""


def _check_seal(facts: Json, tensors: Mapping[str, HostArray], name: str) -> None:
    """Raise `StatsError` unless the sums are as they were written, or of the version that had no seals."""
    version = facts["schema_version"]
    if (SEAL in facts or version == SUMS_VERSION) and facts.get(SEAL) != sums_seal(facts, tensors):
        raise _ChangedError(f"{name} is damaged, or was changed after it was written: its seal does not fit. {RESTORE}")
    expect(version in (UNSEALED, SUMS_VERSION), f"schema version {version}, this is {SUMS_VERSION}")


def restore(kind: type[Kind], tensors: Mapping[str, HostArray], facts: Json) -> Kind:
    """Statistics from the arrays and facts of a file, refusing what no measurement can have written."""
    checked("sums", facts)
    specs = [spec_of_json(fields) for fields in facts["specs"]]
    check_specs(specs)
    for spec in specs:  # before anything is made that is as large as the facts say
        shape = tensors[f"{spec.name}.counts"].shape
        expect(shape[1:] == (spec.n_experts,), f"{spec.name}.counts has shape {shape}, with {spec.n_experts} experts")
    kept = {key: facts[key] for key in ("phase", "tau", "collapse_on", "model", "sources", "environment")}
    stats = kind(specs, **kept)
    stats.dropped = {str(why): Dropped(*map(int, lost)) for why, lost in facts.get("dropped", {}).items()}
    for source in stats.sources.values():
        completeness(source)  # raises where facts are missing
    clusters, stats.texts = _clusters(tensors, facts["sha256"])
    check_facts(stats.sources, clusters)
    # Columns are found by name, so that a file written before a scalar was added still reads, with NaN for it.
    named = len(facts["scalars"])
    expect(len(set(facts["scalars"])) == named, "some of its scalars have no numbers of their own")
    columns = [facts["scalars"].index(name) if name in facts["scalars"] else -1 for name in SCALARS]
    for number, spec in enumerate(specs):
        scalars = tensors[f"{spec.name}.scalars"]
        expect(scalars.shape[1:] == (named,), "some of its scalars have no numbers of their own")
        expect(scalars.dtype.kind == "f", f"{spec.name}.scalars is of {scalars.dtype}")
        sums, pairs = _router_sums(spec, tensors, columns, len(clusters)), tensors[f"{spec.name}.pairs"]
        check_sums(spec, sums, pairs, len(clusters))
        stats.add_sums(number, clusters, sums, pairs)
    counts = [tensors[f"{spec.name}.counts"].sum(axis=0) for spec in specs]
    for number, (spec, after) in enumerate(pairwise(specs)):
        moves = tensors[f"{spec.name}.transition"]
        check_transition(spec, after, moves, (counts[number], counts[number + 1]))
        stats.add_transition(number, moves)
    stats.check()
    return stats


def _clusters(tensors: Mapping[str, HostArray], shas: Sequence[str]) -> tuple[list[Cluster], dict[Cluster, int]]:
    """(the sequences, the hash of each one's text); files of earlier versions do not say which texts are the same."""
    for name in CLUSTERS:
        array = tensors.get(f"clusters.{name}", tensors["clusters.row"])
        expect(array.ndim == 1 and array.dtype.kind == "i", f"clusters.{name} is {array.dtype} {list(array.shape)}")
    sources, rows = tensors["clusters.source"], tensors["clusters.row"]
    expect(bool(np.all((sources >= 0) & (sources < len(shas)))), "a sequence has no source")
    clusters = [(shas[source], int(row)) for source, row in zip(sources, rows, strict=True)]
    expect(len(set(clusters)) == len(clusters), "a sequence is there twice")
    texts = tensors.get("clusters.text", np.zeros(len(clusters), dtype=np.int64)).tolist()
    return clusters, {cluster: text for cluster, text in zip(clusters, texts, strict=True) if text}


def _router_sums(spec: RouterSpec, tensors: Mapping[str, HostArray], columns: list[int], clusters: int) -> Sums:
    """The sums of one router. columns: where each of `SCALARS` stands in the file, -1 for one that it lacks."""
    arrays = {name: tensors[f"{spec.name}.{name}"] for name in FIELDS}
    padded = np.concatenate([arrays["scalars"], np.full((clusters, 1), np.nan)], axis=1)
    arrays["scalars"] = padded[:, columns]
    return Sums(spec.n_experts, spec.top_k, spec.distribution, **arrays)


def spec_of_json(fields: Json) -> RouterSpec:
    """JSON has no tuples: lists become them again."""
    typed: Json = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    return RouterSpec(**typed)
