"""`RoutingStats`: the sums of a measurement with their report and their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import Plan
from ..routing.merging import merged, split_by_domain
from ..routing.record import Phase
from ..routing.recorder import Recorder
from ..routing.stats import RoutingSums
from ..types import Json, Picture
from .report import build_report, interval_rows
from .storage import load_pair, save_pair

if TYPE_CHECKING:
    import pandas as pd

SHOWN_BY = "mlx_moebench.show.notebook"
"""What draws statistics, loaded when they are looked at: ``show/`` is made of this, so it is named, as backends are."""


class RoutingStats(RoutingSums):
    """Sufficient statistics of all routers of one model over sequences of one phase.

    Merging is associative and free of order; every metric and interval is recomputed from the sums.

    specs: the routers, in the order they run. tau in (0, 1) and collapse_on (see `options.Flag`) define `collapsed`.
    model, environment: provenance. sources: {sha256: facts about that data set}.
    """

    def report(self, plan: Plan | None = None) -> Json:
        """The JSON report: provenance, every router with metrics and intervals, and the summary."""
        return build_report(self, plan)

    def to_dataframe(self, intervals: bool = False, plan: Plan | None = None) -> pd.DataFrame:
        """One row per router, every metric a column: plug-in values, see `RoutingSums.to_dataframe`.

        With ``intervals``, or a ``plan`` for them, it is long, one row per router and metric, with the numbers of
        `report`: layer, moe_layer, router, metric, unit, value, low, high, plugin, method, reason. value is corrected
        where plug-in values are biased; reason says why a value or its interval is missing. On one domain ``collapsed``
        is a metric, too: 1, 0 or, where it is null, NaN.
        """
        if not intervals and plan is None:
            return super().to_dataframe()
        import pandas as pd

        numbers = ("value", "low", "high", "plugin")
        columns = ["layer", "moe_layer", "router", "metric", "unit", *numbers, "method", "reason"]
        return pd.DataFrame(interval_rows(self.report(plan)), columns=columns).astype(dict.fromkeys(numbers, float))

    def plot(
        self,
        kind: str = "load",
        path: str | Path | None = None,
        *,
        plan: Plan | None = None,
        layers: Sequence[int] | None = None,
    ) -> Picture:
        """A picture of these statistics, which a notebook shows; also written to ``path``: .png, .svg or .pdf.

        kind: as for ``mlx-moebench plot``: load, entropy, shares, coactivation, dead, and of several domains also
        domains and specialisation. layers: those to draw, of kinds that draw a few. Raises `StatsError` for another
        kind, and for one that is drawn from something else.
        """
        made: Picture = import_module(SHOWN_BY).plot(self, kind, path, plan or Plan(), layers)
        return made

    def _repr_html_(self) -> str:
        return str(import_module(SHOWN_BY).html(self))

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
    def merge(parts: Iterable[RoutingSums]) -> RoutingStats:
        """One `RoutingStats` of several, in any order. There is none if a sequence occurs in two of them.

        parts: an iterator may load them one by one, so that no more than one is held beside the result.
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
        """What was measured in one phase, apart from the others. Statistics of two phases are never mixed.

        Where another thread runs the model it is a copy, of whole forwards.
        """
        stats = super().phase_stats(phase)
        assert isinstance(stats, RoutingStats)  # this is one, and the others are of ``kind``
        return stats

    def filling(self, phase: Phase) -> RoutingStats:
        """The statistics of a phase that go on filling, for whoever runs the model in this thread alone."""
        stats = super().filling(phase)
        assert isinstance(stats, RoutingStats)
        return stats

    # What takes more than one look is done on something that holds still meanwhile.

    def report(self, plan: Plan | None = None) -> Json:
        with self.holding():
            if (still := self.still()) is self:
                return super().report(plan)
        return build_report(still, plan)

    def to_dataframe(self, intervals: bool = False, plan: Plan | None = None) -> pd.DataFrame:
        with self.holding():
            if (still := self.still()) is self:
                return super().to_dataframe(intervals, plan)
        assert isinstance(still, RoutingStats)
        return still.to_dataframe(intervals, plan)

    def save(self, path: str | Path, plan: Plan | None = None) -> tuple[Path, Path]:
        with self.holding():
            if (still := self.still()) is self:
                return super().save(path, plan)
        return save_pair(still, Path(path), plan)

    def by_domain(self) -> dict[str, RoutingStats]:
        with self.holding():
            return split_by_domain(RoutingStats, self)
