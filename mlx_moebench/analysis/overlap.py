"""How many of a token's experts two traced runs of the same tokens have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.trace import Shard, Trace
from ..errors import TraceError
from ..options import Plan
from ..routing.comparison.choices import MEASURES as PAIRED
from ..routing.comparison.choices import SHARES, by_cluster
from ..routing.intervals.bootstrap import Interval
from ..routing.intervals.ratios import rate_intervals
from ..routing.record import RouterSpec
from ..routing.repeats import Units, text_hash, units_of
from ..types import HostArray, Json

MEASURES = {name: PAIRED[name][0] for name in SHARES}
"""What is measured of each router, each in [0, 1]; chance of `routing_overlap` under even routing is K/E."""


def selection_overlap(a: str | Path, b: str | Path, plan: Plan | None = None) -> Json:
    """`MEASURES` of every router between two traces (phase prefill), with intervals over sequences.

    Formulas, for the sets A_t and B_t of K experts of token t: mean |A_t n B_t| / K; mean [A_t = B_t]; mean [first of
    A_t != first of B_t]. ``summary`` holds their means over the routers of each kind.

    Raises `TraceError` where the traces are not of the same tokens and routers.
    """
    plan = plan or Plan()
    traces = Trace(a), Trace(b)
    specs = traces[0].specs
    if _routers(traces[0]) != _routers(traces[1]):
        raise TraceError(f"The traces in {a} and {b} are of different routers: only the same ones can be compared.")
    sides = [_whole(trace) for trace in traces]
    if not _same_tokens(*sides):
        raise TraceError(f"The traces in {a} and {b} are not of the same tokens: trace one data set with both.")
    rows, units = _texts(sides[0])
    cluster = units.labels[np.searchsorted(rows, sides[0].arrays["sequence.row"])][sides[0].sequence]
    tokens = np.bincount(cluster, minlength=len(units.first)).astype(np.float64)
    sums = [_sums(spec, sides, cluster, len(tokens)) for spec in specs]
    routers = [
        _facts(spec) | _entries(table, tokens, plan) | {"chance": spec.top_k / spec.n_experts}
        for spec, table in zip(specs, sums, strict=True)
    ]
    kinds = dict.fromkeys(spec.router for spec in specs)
    means = {k: np.mean([t for s, t in zip(specs, sums, strict=True) if s.router == k], axis=0) for k in kinds}
    return {
        "schema_version": "1",
        "a": {"model": traces[0].manifest["model"]},
        "b": {"model": traces[1].manifest["model"]},
        "data": traces[0].manifest["data"],
        "n_tokens": int(tokens.sum()),
        "n_sequences": len(rows),
        "repeated_sequences": units.repeated,
        "measures": MEASURES,
        "routers": routers,
        "summary": {kind: _entries(table, tokens, plan) for kind, table in means.items()},
    }


def _texts(shard: Shard) -> tuple[npt.NDArray[np.int64], Units]:
    """(rows in order, which of them hold the same tokens)."""
    windows: dict[int, list[HostArray]] = {}
    ids = np.split(shard.arrays["token.id"], np.cumsum(shard.lengths)[:-1])
    for number in np.lexsort((shard.arrays["sequence.window"], shard.arrays["sequence.row"])):
        windows.setdefault(int(shard.arrays["sequence.row"][number]), []).append(ids[number])
    return np.array(list(windows), dtype=np.int64), units_of(text_hash(parts) for parts in windows.values())


def _routers(trace: Trace) -> list[tuple[str, int, int]]:
    return [(spec.name, spec.n_experts, spec.top_k) for spec in trace.specs]


def _same_tokens(a: Shard, b: Shard) -> bool:
    names = ("sequence.row", "sequence.window", "sequence.n_tokens", "token.id")
    return all(np.array_equal(a.arrays[name], b.arrays[name]) for name in names)


def _whole(trace: Trace) -> Shard:
    """All shards of the prompts as one."""
    shards = list(trace.shards("prefill"))
    return Shard({name: np.concatenate([shard.arrays[name] for shard in shards]) for name in shards[0].arrays})


def _facts(spec: RouterSpec) -> Json:
    return {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k")}


def _sums(
    spec: RouterSpec, sides: list[Shard], cluster: npt.NDArray[np.int64], clusters: int
) -> npt.NDArray[np.float64]:
    """[N, 3] sums over the tokens of each cluster, columns as `MEASURES`."""
    first, second = (side.arrays[f"{spec.name}.experts"] for side in sides)
    return by_cluster(np.stack([of(first, second) for of in SHARES.values()], axis=1), cluster, clusters)


def _entries(table: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64], plan: Plan) -> Json:
    under = np.repeat(tokens[:, None], table.shape[1], axis=1)
    intervals: list[Interval] = rate_intervals(table, under, np.zeros(len(tokens)), plan)
    values = table.sum(axis=0) / tokens.sum()
    return {n: {"value": float(v), **ci.to_dict()} for n, v, ci in zip(MEASURES, values, intervals, strict=True)}
