"""Several statistics as one, and one as several: what may be put together, and what a data set was read as."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import StatsError
from ..types import Facts
from .parts import join
from .stats import Kind, RoutingSums

_IDENTITY = ("id", "revision", "model_type", "backend", "dtype", "weight_bits", "router_bits", "adapter", "fingerprint")
_READING = ("max_length", "unit", "long", "max_samples", "bos", "field", "template", "generation")


def merged(kind: type[Kind], parts: Iterable[RoutingSums]) -> Kind:
    """Several in one of ``kind``, in any order. There is none if a sequence occurs in two of them.

    parts: may be made one by one, each when it is asked for: none is held once its sums are added.
    Raises `StatsError` when the parts differ in model, routers, phase, or in how the same data was read.
    """
    whole: Kind | None = None
    for part in parts:
        if whole is None:
            whole = kind(part.specs, **part.facts() | {"sources": {}})
        _check_mergeable(whole, part)
        for sha, facts in part.sources.items():
            whole.sources[sha] = join(whole.sources[sha], facts) if sha in whole.sources else dict(facts)
        whole.include(part)
        del part  # before the next is made
    if whole is None:
        raise StatsError("There is nothing to merge.")
    return whole


def split_by_domain(kind: type[Kind], stats: RoutingSums) -> dict[str, Kind]:
    """The statistics of each domain, by name, sorted. Pairs and transitions are not kept apart: they stay behind."""
    strata, clusters = stats.strata, stats.clusters
    every = [stats.sums(number) for number in range(len(stats.specs))]
    by_name: dict[str, list[int]] = {}
    for row, stratum in enumerate(strata):
        by_name.setdefault(stratum, []).append(row)
    domains = {}
    for name, rows in sorted(by_name.items()):
        of_domain = [clusters[row] for row in rows]
        sources = {sha: stats.sources[sha] for sha in sorted({sha for sha, _ in of_domain}) if sha in stats.sources}
        domains[name] = part = kind(stats.specs, **stats.facts() | {"sources": sources})
        part.texts = {cluster: stats.texts[cluster] for cluster in of_domain if cluster in stats.texts}
        for number, sums in enumerate(every):
            part.add_sums(number, of_domain, sums.take(rows), np.zeros_like(stats.pairs(number)))
    return domains


def read_as(source: Facts, key: str) -> Any:
    """A fact of how a source was read; older files do not say what a document was, which their format decided."""
    before = {"unit": ("row", "blank"), "long": ("truncate", "windows")}
    if key in before and key not in source:
        return before[key][source.get("format") == "txt"]
    return source.get(key)


def _check_mergeable(a: RoutingSums, b: RoutingSums) -> None:
    _check_same_measurement(a, b)
    _check_same_reading(a, b)
    twice = a._rows.keys() & b._rows.keys()
    if twice:
        sha, row = min(twice)
        name = b.sources.get(sha, {}).get("name", sha[:12])
        raise StatsError(
            f"Row {row} of {name} ({len(twice)} rows in all) is in two of the statistics to merge "
            "and would count twice."
        )


def _check_same_measurement(a: RoutingSums, b: RoutingSums) -> None:
    other = [key for key in _IDENTITY if a.model.get(key) != b.model.get(key)]
    of_a, of_b = (", ".join(f"{key} {side.model.get(key)}" for key in other) for side in (a, b))
    compared: tuple[tuple[str, object, object], ...] = (
        ("models", of_a, of_b),
        ("routers", [asdict(s) for s in a.specs], [asdict(s) for s in b.specs]),
        ("phases", a.phase, b.phase),
        ("values of tau", (a.tau, a.collapse_on), (b.tau, b.collapse_on)),
    )
    for what, x, y in compared:
        if x != y:
            raise StatsError(f"These statistics cannot be merged, their {what} differ: {_brief(x)} and {_brief(y)}.")


def _check_same_reading(a: RoutingSums, b: RoutingSums) -> None:
    for sha in a.sources.keys() & b.sources.keys():
        for key in _READING:
            x, y = read_as(a.sources[sha], key), read_as(b.sources[sha], key)
            if x != y:
                raise StatsError(
                    f"These statistics cannot be merged: the same data was read with {key} {x!r} and {y!r}."
                )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
