"""`RoutingStats`: the sums of a measurement with their report and their files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..options import Plan
from ..routing.record import Phase
from ..routing.recorder import Recorder
from ..routing.stats import RoutingSums, merged, split_by_domain
from ..types import Json
from .report import build_report
from .storage import load_pair, save_pair


class RoutingStats(RoutingSums):
    """Sufficient statistics of all routers of one model over sequences of one phase.

    Merging is associative and free of order; every metric and interval is recomputed from the sums.

    specs: the routers, in the order they run. tau in (0, 1) and collapse_on (see `options.Flag`) define `collapsed`.
    model, environment: provenance. sources: {sha256: facts about that data set}.
    """

    def report(self, plan: Plan | None = None) -> Json:
        """The JSON report: provenance, every router with metrics and intervals, and the summary."""
        return build_report(self, plan)

    def save(self, path: str | Path, plan: Plan | None = None) -> tuple[Path, Path]:
        """Write the stats pair STEM.json (report) and STEM.safetensors (sums); returns both paths."""
        return save_pair(self, Path(path), plan)

    @staticmethod
    def load(path: str | Path) -> RoutingStats:
        """Read a stats pair by either name; needs the .safetensors half, which alone holds the sums.

        For a report without its sums use `pair.storage.read_report`.
        """
        return load_pair(RoutingStats, Path(path))

    @staticmethod
    def merge(parts: Sequence[RoutingSums]) -> RoutingStats:
        """One `RoutingStats` of several, in any order. Nothing is added if a sequence occurs in two of them.

        Raises `StatsError` when the parts differ in model, routers, phase, or in how the same data was read.
        """
        return merged(RoutingStats, parts)

    def by_domain(self) -> dict[str, RoutingStats]:
        """The statistics of each domain, by name, sorted. Pairs and transitions are not kept apart: they stay here."""
        return split_by_domain(RoutingStats, self)


class RecordedStats(Recorder, RoutingStats):
    """`RoutingStats` that fill while a model runs; a backend says how, see `Recorder`."""

    kind = RoutingStats

    def phase_stats(self, phase: Phase) -> RoutingStats:
        """What was measured in one phase, apart from the others. Statistics of two phases are never mixed."""
        stats = super().phase_stats(phase)
        assert isinstance(stats, RoutingStats)  # this is one, and the others are of ``kind``
        return stats
