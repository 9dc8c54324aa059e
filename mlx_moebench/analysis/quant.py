"""What quantising does to routing: one model as stored against arms of the same weights quantised, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..checkpoints import find
from ..data import Dataset, reusable
from ..errors import MoebenchError
from ..measure.backends import Backend, backend_named, check_alone
from ..measure.run import measure
from ..options import Choices, Flag, Loading, Options, Plan, Reading, Step, Tell, quiet_step, quiet_tell, takes
from ..pair import compare
from ..pair.report import data_section
from ..pair.stats import RoutingStats
from ..routing.comparison.choices import MEASURES, by_cluster, kept_by_margin, measured, share_of_loss
from ..routing.comparison.differences import ROUNDING
from ..routing.comparison.lattice import POWER
from ..routing.comparison.resampling import LOADS
from ..routing.intervals.ranks import BINS
from ..routing.metrics import METRICS
from ..routing.record import RouterSpec
from ..routing.repeats import text_units
from ..routing.sums import Floats
from ..types import Json
from .arms import Arm, arms_named
from .kept_arms import KeptArms
from .lockstep import Beside, Drift, Pairing

SCHEMA_VERSION = "1"
EXACT = list(MEASURES).index("exact_set_rate")


@takes(Loading, Reading, Flag, without=("backend", "bits", "router_bits", "routers_from"))
def quant_drift(
    model: Any = None,
    arms: Sequence[str] = ("stored/8", "4/8", "4/4"),
    dataset: Dataset = "math",
    *,
    output_dir: str | Path | None = None,
    step: Step = quiet_step,
    tell: Tell = quiet_tell,
    **choices: Unpack[Choices],
) -> Json:
    """How each router of ``model`` chooses when its weights are quantised, beside how it chooses as stored.

    arms: WEIGHTS/ROUTERS in bits, such as ``4/8``, or ``stored/4`` for the routers alone; see `arms.Arm`. Reference and
    arm run the same batches, so every number is paired: of each router and over all of one kind, the sets kept, experts
    shared, first choices that flip, KL divergence, sets kept by the reference's selection margin, and the change of
    every metric, with intervals over sequences. ``separations`` says which share of the lost sets the routers' own
    quantisation causes, where the arms tell. output_dir: keep each arm here when it is done; the same call goes on from
    there. The other keywords are those of `analyze` for a run without output.

    Two models are in memory at a time, or where that is too much (``stream``) one layer of each; then the reference is
    read once more for every arm. Returns the report as JSON has it (schema/quant_drift.schema.json). Raises what
    `analyze` raises, and `MoebenchError` for what is no arm.
    """
    options = Options.of(choices)
    return drift_report(model, dataset, arms_named(list(arms)), options, output_dir=output_dir, step=step, tell=tell)


@dataclass(frozen=True)
class Against:
    """One arm that was run beside the reference."""

    arm: Arm
    reference: RoutingStats
    stats: RoutingStats
    drift: Drift


def drift_report(
    model: str | Path | None,
    dataset: Dataset,
    arms: Sequence[Arm],
    options: Options,
    *,
    output_dir: str | Path | None = None,
    step: Step = quiet_step,
    tell: Tell = quiet_tell,
) -> Json:
    """`quant_drift` with its arms and options made."""
    if not arms:
        raise MoebenchError("Name an arm to compare with the model as it is stored, such as 4/8.")
    if options.plan.method == "layer":
        raise MoebenchError("Layers have nothing to resample here: choose bca or percentile.")
    if options.loading.backend != "mlx":
        raise MoebenchError("Arms are quantised as MLX does it; leave out the backend torch.")
    runner = backend_named("mlx")
    check_alone(runner, "Arms are compared token by token")
    find(model, None, options.loading.trust_remote_code, unquantised=True)  # before anything is loaded
    dataset = reusable(dataset)
    runner.select_device(options.loading.device)
    kept = None if output_dir is None else KeptArms(Path(output_dir), model, dataset, options)
    every: list[Against] = []
    models = _Models(runner, model, options.loading, step, tell)
    for number, arm in enumerate(arms):
        step("arms", number, len(arms))
        if kept is not None and (found := kept.find(arm)) is not None:
            every.append(Against(arm, *found))
            continue
        every.append(side_by_side(arm, *models.beside(arm), dataset, options, _told(step, arm)))
        if kept is not None:
            kept.keep(arm, every[-1].reference, every[-1].stats, every[-1].drift)
        runner.forget()
    step("computing the intervals", 0, 0)
    return report_of(every, options)


def _told(step: Step, arm: Arm) -> Step:
    def named(what: str, done: int, total: int) -> None:
        step(f"{arm.name}: {what}", done, total)

    return named


class _Models:
    """The reference, which stays while it is in memory, and the arms; streamed where not both fit."""

    def __init__(self, runner: Backend, model: str | Path | None, loading: Loading, step: Step, tell: Tell) -> None:
        self._runner, self._model, self._loading, self._step, self._tell = runner, model, loading, step, tell
        self._reference: Any = None

    def beside(self, arm: Arm) -> tuple[Any, Any]:
        """The reference and an arm; both in memory, or the layers of both to be read one by one."""
        if self._reference is None:
            self._step("loading the model", 0, 0)
            self._reference = self._open(self._loading)
        reference = self._reference
        _told(self._step, arm)("quantising", 0, 0)
        quantised = self._open(arm.of(self._loading))
        streamed = [one.layers is not None for one in (reference, quantised)]
        if any(streamed):
            self._reference = None  # a streamed model is spent after one arm
            self._loading = replace(self._loading, stream="on")
        if any(streamed) and not all(streamed):
            del reference, quantised
            self._runner.forget()
            return self.beside(arm)
        return reference, quantised

    def _open(self, loading: Loading) -> Any:
        return self._runner.open(self._model, loading, self._step, self._tell)


def side_by_side(
    arm: Arm, reference: Any, quantised: Any, dataset: Dataset, options: Options, step: Step = quiet_step
) -> Against:
    """Two checkpoints of one form on the same batches; the first is the reference."""
    runner: Any = Beside(backend_named("mlx"), quantised)
    watch = Pairing(runner)
    if getattr(reference, "layers", None) is not None:
        reference = runner.by_layer(reference)
    # The reference is loaded: what is asked of loading was done.
    plain = replace(
        options, loading=Loading(device=options.loading.device, stream_memory=options.loading.stream_memory)
    )
    try:
        stats = measure(reference, dataset, plain, runner=runner, watch=watch, step=step).stats["prefill"]
    finally:
        if runner.own is not None:
            runner.own.close()
    own = runner.statistics()
    return Against(arm, stats, own, watch.drift(stats, own))


class Tables:
    """The sums of one arm by unit of resampling, in the order of the units; N units of G routers' tokens.

    tokens [N]; strata [N]; own, same_input [L, N, 4]; unit [T] of every token.
    """

    def __init__(self, against: Against) -> None:
        stats, drift = against.reference, against.drift
        units = text_units(stats)
        numbers = {row: int(units.labels[place]) for place, (_, row) in enumerate(stats.clusters)}
        labels = np.array([numbers[row] for row in drift.rows.tolist()], dtype=np.intp)
        n = len(units.first)
        self.strata = units.strata(stats.strata)
        self.tokens = np.bincount(labels, weights=drift.lengths, minlength=n)
        self.own, self.same_input = (self._grouped(x, labels, n) for x in (drift.sums, drift.same_input))
        self.unit = np.repeat(labels, drift.lengths)

    @staticmethod
    def _grouped(sums: Floats, labels: Any, n: int) -> Floats:
        return np.stack([by_cluster(of_router, labels, n) for of_router in sums])

    @cached_property
    def lost(self) -> Floats:
        """[L, N] tokens that did not keep their set."""
        return self.tokens - self.own[:, :, EXACT]


def report_of(every: Sequence[Against], options: Options) -> Json:
    """The report of arms against one reference."""
    plan, first = options.plan, every[0].reference
    tables = [Tables(one) for one in every]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "quant_drift",
        "model": first.model,
        "data": data_section(first),
        "environment": first.environment,
        "settings": {
            "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
            "bins": BINS,
            "rounding": ROUNDING,
            "power": POWER,
        },
        "measures": {name: {"what": what, "unit": unit} for name, (what, unit) in MEASURES.items()},
        "units": {name: m.unit for name, m in METRICS.items()} | LOADS,
        "arms": [_arm(one, table, plan) for one, table in zip(every, tables, strict=True)],
        "separations": separations(first.specs, {one.arm: t for one, t in zip(every, tables, strict=True)}, plan),
    }


def _identity(spec: RouterSpec) -> Json:
    return {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k")}


def _numbers_of(specs: Sequence[RouterSpec]) -> dict[str, list[int]]:
    """The routers of each kind, by number."""
    kinds = dict.fromkeys(spec.router for spec in specs)
    return {kind: [n for n, spec in enumerate(specs) if spec.router == kind] for kind in kinds}


def _arm(against: Against, table: Tables, plan: Plan) -> Json:
    comparison = compare(against.reference, against.stats, plan=plan).to_dict()
    specs, drift = against.reference.specs, against.drift
    known = {f"B: {warning}" for warning in against.stats.model.get("warnings", ())}  # the arm's name says its bits
    exact, margin = drift.exact.astype(np.float64), drift.margin.astype(np.float64)
    routers: list[Json] = []
    for number, (spec, changes) in enumerate(zip(specs, comparison["routers"], strict=True)):
        tenths = kept_by_margin(margin[number], exact[number], table.unit, table.strata, plan)
        routers.append(
            _identity(spec)
            | {"n_tokens": int(table.tokens.sum()), "chance": spec.top_k / spec.n_experts}
            | _measures(table, [number], plan)
            | {"by_margin": [tenth.to_dict() for tenth in tenths]}
            | {key: changes[key] for key in ("effects", "load")}
        )
    overall = {}
    for kind, numbers in _numbers_of(specs).items():
        # Of all its routers together: a token is there once for each, and drawn with its sequence.
        pooled = [x[numbers].ravel() for x in (margin, exact)]
        tenths = kept_by_margin(pooled[0], pooled[1], np.tile(table.unit, len(numbers)), table.strata, plan)
        overall[kind] = _measures(table, numbers, plan) | {
            "by_margin": [tenth.to_dict() for tenth in tenths],
            "effects": comparison["overall"][kind],
        }
    return {
        "arm": against.arm.name,
        "bits": against.arm.bits,
        "router_bits": against.arm.router_bits,
        "model": against.stats.model,
        "notes": [note for note in comparison["notes"] if note not in known],
        "routers": routers,
        "overall": overall,
    }


def _measures(table: Tables, numbers: list[int], plan: Plan) -> Json:
    """Of one router, or of the mean over several."""
    sums = {"own": table.own, "same_input": table.same_input}
    estimates = {
        where: measured(of[numbers].mean(axis=0), table.tokens, table.strata, plan) for where, of in sums.items()
    }
    return {where: {name: one.to_dict() for name, one in of.items()} for where, of in estimates.items()}


def separations(specs: Sequence[RouterSpec], tables: Mapping[Arm, Tables], plan: Plan) -> list[Json]:
    """What the routers' own quantisation causes, of every arm beside one of the same weights and finer routers.

    Of the sets that arm ``low`` loses, ``last`` is the share that ``high``, the same weights with finer routers, keeps:
    what the routers add when all else is quantised already. ``first`` is what ``alone``, the same routers with all else
    as stored, loses, over what ``low`` loses: what they would do by themselves. The two differ where a set is lost
    either way. See `choices.share_of_loss`; intervals are paired, over sequences.
    """
    found = []
    for low in tables:
        for high in tables:
            if low.bits is None or high.bits != low.bits or _precision(high) <= _precision(low):
                continue
            alone = Arm(None, low.router_bits)
            three = [tables[low], tables[high], tables.get(alone)]
            found.append(
                {
                    "low": low.name,
                    "high": high.name,
                    "alone": alone.name if alone in tables else None,
                    "routers": [_identity(s) | _separated(three, [n], plan) for n, s in enumerate(specs)],
                    "overall": {kind: _separated(three, ns, plan) for kind, ns in _numbers_of(specs).items()},
                }
            )
    return found


def _precision(arm: Arm) -> int:
    return arm.router_bits or 32


def _separated(three: Sequence[Tables | None], numbers: list[int], plan: Plan) -> Json:
    low, high, alone = (None if table is None else table.lost[numbers].mean(axis=0) for table in three)
    of = three[0]
    assert of is not None
    assert low is not None
    assert high is not None
    last = share_of_loss(low, high, of.tokens, of.strata, plan)
    # What alone loses is low's loss without the rest.
    first = None if alone is None else share_of_loss(low, low - alone, of.tokens, of.strata, plan)
    return {"last": last.to_dict(), "first": None if first is None else first.to_dict()}
