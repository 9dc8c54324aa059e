"""The reports of the single domains of a run: made when they are looked at, since a run may have a thousand of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..options import Plan
from ..pair.stats import RoutingStats
from ..types import Json

MOST_SHOWN = 40
"""Domains of a run up to which each one is shown by itself on a page; tables and CSV have all."""


class DomainReports(Mapping[str, Json]):
    """{name of a domain: its report}, in the order of ``parts``; those that are not ``known`` are made of its sums."""

    def __init__(self, parts: Mapping[str, RoutingStats], known: Mapping[str, Json], plan: Plan) -> None:
        self._parts, self._made, self._plan = parts, dict(known), plan

    def __getitem__(self, name: str) -> Json:
        part = self._parts[name]
        if name not in self._made:
            self._made[name] = part.report(self._plan)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
