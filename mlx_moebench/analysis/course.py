"""The course of the routers over a series of checkpoints: sums of what they have in common, and the report of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import MoebenchError
from ..options import Options, Plan
from ..pair import compare
from ..pair.report import build_report, data_section
from ..pair.stats import RoutingStats
from ..routing.comparison.choices import Estimate
from ..routing.comparison.dynamics import (
    CHANGE,
    KEPT,
    SATURATION,
    coactivation_stability,
    depth_slope,
    depth_trend,
    difference_of,
    expected_overlap,
    in_common,
    shares,
    single,
)
from ..routing.metrics import METRICS
from ..routing.record import RouterSpec
from ..routing.repeats import text_units
from ..routing.sums import Floats
from ..types import HostArray, Json
from .checkpoints import Stage

SCHEMA_VERSION = "1"
KIND = "dynamics"
FOLLOWED = (
    *("eae", "ewa", "mean_entropy", "margin_prob", "margin_weight", "selection_margin"),
    *("max_violation", "cv", "n_eff", "dead_experts"),
)
"""Metrics of each checkpoint."""

MARGINS = ("margin_prob", "margin_weight")
"""Those of which the trend by depth is tested."""

NO_INTERVAL = "pairs of experts are counted over all sequences together, so that there is none to resample"
WEIGHTS = "weights are what they are: nothing was sampled"


@dataclass(frozen=True)
class Chosen:
    """What a checkpoint chose of every token.

    stats: its sums. experts: of each router [T, K], in descending order of p, the first being the top-1; tokens in the
    order of ``rows`` [S] and ``lengths`` [S] of the sequences as they ran. similarity: of the experts' weights, [L].
    """

    stats: RoutingStats
    experts: tuple[HostArray, ...]
    rows: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    similarity: Floats


class Course:
    """What is kept of each checkpoint beside its own statistics: sums over units of resampling, [N, 3] a router."""

    def __init__(self, series: Sequence[Stage], last: Chosen, plan: Plan) -> None:
        self._series, self._last, self._plan = series, last, plan
        stats = last.stats
        units = text_units(stats)
        numbers = {row: int(units.labels[place]) for place, (_, row) in enumerate(stats.clusters)}
        labels = np.array([numbers[row] for row in last.rows.tolist()], dtype=np.intp)
        self._unit = np.repeat(labels, last.lengths)
        self._units, self._n = units, len(units.first)
        self.strata = units.strata(stats.strata)
        self.tokens = np.bincount(self._unit, minlength=self._n).astype(np.float64)
        self.specs: tuple[RouterSpec, ...] = stats.specs
        c, routers = len(series), len(self.specs)
        self.saturation = np.zeros((c, routers, self._n, len(KEPT)))
        self.kept = np.zeros((c, routers, self._n, len(KEPT)))
        self.stability, self.coactivation_saturation = np.full((c, routers), np.nan), np.full((c, routers), np.nan)
        self.expected = np.full((c, routers, 2), np.nan)
        self.similarity = np.full((c, routers), np.nan)
        self.margins = np.zeros((c, len(MARGINS), routers, self._n))
        self.reports: list[Json] = []
        self.first: RoutingStats | None = None

    def add(self, number: int, now: Chosen, before: Chosen | None) -> None:
        """Compare a checkpoint; they are added in order."""
        self._check(number, now)
        self.first = self.first or now.stats
        self.similarity[number] = now.similarity
        for router, spec in enumerate(self.specs):
            own, final = now.experts[router], self._last.experts[router]
            self.saturation[number, router] = in_common(own, final, self._unit, self._n)
            sums, of_last = now.stats.totals(router), self._last.stats.totals(router)
            pairs, tokens = now.stats.pairs(router), int(sums.n_tokens)
            self.coactivation_saturation[number, router] = coactivation_stability(
                pairs, self._last.stats.pairs(router), tokens
            )
            self.expected[number, router, 0] = expected_overlap(sums.load, of_last.load, spec.top_k)
            if before is not None:
                self.kept[number, router] = in_common(own, before.experts[router], self._unit, self._n)
                self.stability[number, router] = coactivation_stability(pairs, before.stats.pairs(router), tokens)
                load = before.stats.totals(router).load
                self.expected[number, router, 1] = expected_overlap(sums.load, load, spec.top_k)
            of_units = self._units.sums(now.stats.sums(router))
            for place, name in enumerate(MARGINS):
                known = bool(np.isfinite(METRICS[name].values(sums)))
                self.margins[number, place, router] = of_units.scalar(name) if known else np.nan
        self.reports.append(build_report(now.stats, self._plan))

    def _check(self, number: int, now: Chosen) -> None:
        """Raise MoebenchError unless a checkpoint has the routers and saw the tokens of the last one."""
        names = [self._series[place].name for place in (number, -1)]
        routers = [[(s.name, s.n_experts, s.top_k) for s in one.stats.specs] for one in (now, self._last)]
        if routers[0] != routers[1]:
            raise MoebenchError(
                f"{names[0]} and {names[1]} have different routers (layers, experts or active experts): only the "
                "checkpoints of one training can be followed."
            )
        same = now.stats.texts == self._last.stats.texts
        if not (same and np.array_equal(now.rows, self._last.rows) and np.array_equal(now.lengths, self._last.lengths)):
            raise MoebenchError(
                f"{names[0]} and {names[1]} have different tokenizers: the same texts give them other tokens, which "
                "cannot be followed one by one."
            )

    # -- the report ------------------------------------------------------------------------------------------------

    def report(self, options: Options) -> Json:
        """Everything, as JSON has it."""
        plan, stats = self._plan, self._last.stats
        kinds = {
            kind: [n for n, spec in enumerate(self.specs) if spec.router == kind]
            for kind in dict.fromkeys(spec.router for spec in self.specs)
        }
        overall = {kind: [self._over(number, kind, places) for number in self._all] for kind, places in kinds.items()}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": KIND,
            "model": stats.model,
            "data": data_section(stats),
            "environment": stats.environment
            | ({} if options.saving.command is None else {"command": options.saving.command}),
            "settings": {
                "batch_size": options.reading.batch_size,
                "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
            },
            "checkpoints": [
                {"name": stage.name, "step": stage.step, "fingerprint": report["model"].get("fingerprint")}
                for stage, report in zip(self._series, self.reports, strict=True)
            ],
            "routers": [self._router(router) for router in range(len(self.specs))],
            "overall": overall,
            "depth": {kind: [self._depth(number, places) for number in self._all] for kind, places in kinds.items()},
            "trends": {kind: self._trends(kind, places) for kind, places in kinds.items()},
        }

    @property
    def _all(self) -> range:
        return range(len(self._series))

    def _router(self, router: int) -> Json:
        spec = self.specs[router]
        identity = {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k")}
        chance = {"top_k": spec.top_k / spec.n_experts, "top_1": 1 / spec.n_experts}
        return identity | {"chance": chance, "checkpoints": [self._at(number, router) for number in self._all]}

    def _at(self, number: int, router: int) -> Json:
        """One router of one checkpoint."""
        report = self.reports[number]["routers"][router]
        metrics = {name: {"value": report[name], **report["ci"][name]} for name in FOLLOWED}
        return {
            **self._moved(number, [router]),
            "expected_saturation": float(self.expected[number, router, 0]),
            "expected_kept": _number(self.expected[number, router, 1]),
            "metrics": metrics,
            "selection_counts": report["selection_counts"],
        }

    def _over(self, number: int, kind: str, places: Sequence[int]) -> Json:
        """The mean over the routers of a kind."""
        summary = self.reports[number]["summary_by_router"][kind]
        expected = np.mean(self.expected[number, places], axis=0)
        metrics = {}
        for name in FOLLOWED:
            entry = summary[f"peak_{name}"] if f"peak_{name}" in summary else summary[name]
            metrics[name] = {key: value for key, value in entry.items() if key not in ("level", "over")}
        return {
            **self._moved(number, places),
            "expected_saturation": float(expected[0]),
            "expected_kept": _number(expected[1]),
            "metrics": metrics,
        }

    def _moved(self, number: int, places: Sequence[int]) -> Json:
        """What a checkpoint has in common with the last one and with the one before; a mean over several routers."""
        entries: Json = dict(
            zip((SATURATION[k] for k in KEPT), self._estimates(self.saturation, number, places), strict=True)
        )
        if number:
            changed = self._estimates(self.kept, number, places, changed=True)
        else:
            changed = [single(np.nan, "there is no checkpoint before the first")] * len(KEPT)
        entries |= dict(zip((CHANGE[k] for k in KEPT), changed, strict=True))
        entries["coactivation_stability"] = single(_mean(self.stability[number, places]), NO_INTERVAL)
        entries["coactivation_saturation"] = single(_mean(self.coactivation_saturation[number, places]), NO_INTERVAL)
        entries["output_weight_similarity"] = single(_mean(self.similarity[number, places]), WEIGHTS)
        return {name: one.to_dict() for name, one in entries.items()}

    def _estimates(self, of: Floats, number: int, places: Sequence[int], changed: bool = False) -> list[Estimate]:
        return shares(of[number, places].mean(axis=0), self.tokens, self.strata, self._plan, changed)

    def _depth(self, number: int, places: Sequence[int]) -> Json:
        """Whether margins grow with depth."""
        depths = [self.specs[place].layer for place in places]
        entry: Json = {}
        for place, name in enumerate(MARGINS):
            sums = self.margins[number, place][places]
            tau, p = depth_trend(sums.sum(axis=1) / self.tokens.sum(), depths)
            slope = depth_slope(sums, self.tokens, depths, self.strata, self._plan)
            entry[name] = {"slope": slope.to_dict(), "tau": _number(tau), "p": _number(p)}
        return entry

    def _trends(self, kind: str, places: Sequence[int]) -> Json:
        """From the first to the last: of metrics by `compare`; of saturation to the last but one, of change rates from
        the second."""
        trends: Json = {}
        last = len(self._series) - 1
        for names, of, ends, sign in (
            (SATURATION, self.saturation, (0, last - 1), 1),
            (CHANGE, self.kept, (1, last), -1),
        ):
            if ends[0] >= ends[1]:
                continue
            for column, name in names.items():
                sums = [of[number, places].mean(axis=0)[:, KEPT.index(column)] for number in ends]
                change = difference_of(sign * sums[1], sign * sums[0], self.tokens, self.strata, self._plan)
                trends[name] = {"first": ends[0], "last": ends[1], **change.to_dict()}
        assert self.first is not None
        effects = compare(self.first, self._last.stats, plan=self._plan).to_dict()["overall"][kind]
        for name in FOLLOWED:
            effect = effects.get(name) or effects.get(f"peak_{name}")
            if effect is not None:
                ends_of = {key: effect[key] for key in ("low", "high", "method", "reason") if key in effect}
                trends[name] = {"first": 0, "last": last, "value": effect["effect"], **ends_of}
        return trends


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
