"""A model whose routers are made to choose otherwise, on the same batches as it is: losses, predictions, choices."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from ..data import Batch, Dataset
from ..errors import DataError, RoutingError
from ..instrument.interventions import Change, Choice, Said, changing
from ..measure.backends import Backend, backend_named
from ..measure.predictions import log_likelihoods
from ..measure.run import measure
from ..options import Loading, Options, Plan, Saving, Step, quiet_step
from ..pair.stats import RecordedStats, RoutingStats
from ..routing.comparison.choices import Estimate, by_cluster
from ..routing.intervals.ratios import rate_intervals, ratio_intervals
from ..routing.record import Array, Phase, RouterSpec
from ..routing.recorder import Recorder
from ..routing.repeats import text_units
from ..routing.tokens import TokenBlock
from ..types import HostArray, Json

PHASES: tuple[Phase, ...] = ("prefill", "decode", "unsplit")


@dataclass
class Losses:
    """A `Watch` that keeps, for every token with a next one, the loss of that in nats and the token that the model
    finds most likely; [P], sequence after sequence."""

    logits = True
    loss: list[HostArray] = field(default_factory=list)
    best: list[HostArray] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)

    def begin(self, tokenizer: Any) -> None:
        """Texts are not needed."""

    def record(self, block: TokenBlock) -> None:
        """Routers are counted by the statistics."""

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """The losses of a batch."""
        xp = array_namespace(logits)
        for number, row in enumerate(batch.rows):
            length = int(batch.mask[number].sum())
            self.row.append(row)
            self.length.append(max(length - 1, 0))
            if length < 2:
                continue
            z = logits[number, : length - 1]
            tokens = stats.near(xp.asarray(ids[number, 1:length]), z)
            loss = -stats.host(log_likelihoods(z, tokens)[0])
            if bad := int((~np.isfinite(loss)).sum()):
                raise RoutingError(f"The model gave no finite loss for {bad} of {len(loss)} tokens of a sequence.")
            self.loss.append(loss.astype(np.float64))
            self.best.append(stats.host(xp.argmax(z, axis=-1)).astype(np.int64))

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """[P]; raises `DataError` where no sequence has two tokens."""
        if not self.loss:
            raise DataError("No sequence has two tokens, so that there is no next token to predict: give longer texts.")
        return np.concatenate(self.loss)


class SetsKept:
    """A `Backend` whose routers choose as ``change`` says, and that counts which tokens keep their set by it.

    Those would have chosen the same experts on the same hidden state. specs: of the routers as they are changed.
    """

    def __init__(self, inner: Backend, change: Change, specs: Sequence[RouterSpec]) -> None:
        self._inner, self._change, self._specs = inner, change, tuple(specs)
        self.rows: list[int] = []
        self.tokens: list[HostArray] = []
        self.kept: dict[int, list[HostArray]] = {}
        self._now: dict[int, Array] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recorder(self, model: Any, /, **settings: Any) -> RecordedStats:
        """Statistics of the model as it is changed: with another K, selections are tokens times that."""
        made = self._inner.recorder(model, **settings)
        for phase in PHASES:
            made.filling(phase).specs = self._specs
        return made

    def change(self, said: Said) -> Choice | None:
        """`Change`."""
        choice = self._change(said)
        self._now[said.number] = _same_set(said.indices, said.indices if choice is None else choice.indices)
        return choice

    def forward(self, checkpoint: Any, batch: Batch, logits: bool) -> Array | None:
        """Of the backend; what was kept is read at once, so that nothing waits."""
        self._now = {}
        out = self._inner.forward(checkpoint, batch, logits)
        self.rows += batch.rows
        self.tokens.append(batch.mask.sum(axis=1))
        for number, same in self._now.items():
            self.kept.setdefault(number, []).append((np.array(same) & batch.mask).sum(axis=1))
        return out


def _same_set(indices: Array, others: Array) -> Array:
    """[B, S] whether [B, S, K] and [B, S, J] name the same experts."""
    xp = array_namespace(indices)
    if indices.shape != others.shape:
        return indices[..., 0] < 0  # a set of K is none of J
    return xp.all(xp.sort(indices, axis=-1) == xp.sort(others, axis=-1), axis=-1)


@dataclass(frozen=True)
class Run:
    """What a model did on a data set; sets: under a change."""

    stats: RoutingStats
    losses: Losses
    sets: SetsKept | None


def run(
    checkpoint: Any,
    dataset: Dataset,
    options: Options,
    change: Change | None = None,
    specs: Sequence[RouterSpec] = (),
    step: Step = quiet_step,
) -> Run:
    """Run ``checkpoint``, loaded by MLX, with its routers changed to be as ``specs`` say, or as it is."""
    plain = replace(options, loading=Loading(device=options.loading.device), saving=Saving())
    backend, watch = backend_named("mlx"), Losses()
    sets = None if change is None else SetsKept(backend, change, specs)
    runner: Any = sets or backend
    with nullcontext() if sets is None else changing(checkpoint.model, sets.change):
        measured = measure(checkpoint, dataset, plain, runner=runner, watch=watch, step=step)
    return Run(measured.stats["prefill"], watch, sets)


class Paired:
    """The effect of changes against one reference, over the units of resampling of its sequences."""

    def __init__(self, reference: Run, plan: Plan) -> None:
        self.reference, self.plan = reference, plan
        stats, losses = reference.stats, reference.losses
        self._loss, self._best = losses.losses, np.concatenate(losses.best)
        units = text_units(stats)
        self._places = {row: int(units.labels[number]) for number, (_, row) in enumerate(stats.clusters)}
        self._unit = np.repeat(self._units_of(losses.row), losses.length)
        self._strata = units.strata(stats.strata)
        self._tokens = np.bincount(self._unit, minlength=len(self._strata))[:, None].astype(np.float64)

    def loss(self) -> Json:
        """Mean loss of the reference, nats a token."""
        return self._mean(self._loss)

    def effect(self, changed: Run) -> Json:
        """What a change does, with paired intervals, and the ``loss`` of the changed model.

        ``loss_change``: changed minus reference, nats a token. ``agreement``: share of tokens of which both find the
        same next one most likely.
        """
        losses = changed.losses
        if losses.row != self.reference.losses.row or losses.length != self.reference.losses.length:
            raise RoutingError("The changed model did not run the same sequences.")
        same = (np.concatenate(losses.best) == self._best).astype(np.float64)
        return {
            "loss": self._mean(losses.losses),
            "loss_change": self._mean(losses.losses - self._loss),
            "agreement": self._share(self._sums(same, self._unit), self._tokens),
        }

    def loss_sums(self, changed: Run) -> npt.NDArray[np.float64]:
        """[G] the losses of a run, summed over each unit of resampling."""
        return self._sums(changed.losses.losses, self._unit)[:, 0]

    def difference(self, sums: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> Json:
        """Mean loss by ``sums`` [G] minus that by ``others``, nats a token, with its paired interval."""
        apart = sums - others
        (interval,) = ratio_intervals(apart[:, None], self._tokens, self._strata, self.plan)
        return Estimate(float(apart.sum() / self._tokens.sum()), interval).to_dict()

    def sets_kept(self, changed: Run, number: int) -> Json:
        """Share of tokens whose set of experts router ``number`` would have chosen unchanged, on what it got."""
        sets = changed.sets
        assert sets is not None
        unit = self._units_of(sets.rows)
        kept, tokens = (np.concatenate(x).astype(np.float64) for x in (sets.kept[number], sets.tokens))
        return self._share(self._sums(kept, unit), self._sums(tokens, unit))

    def _units_of(self, rows: list[int]) -> npt.NDArray[np.intp]:
        return np.array([self._places[row] for row in rows], dtype=np.intp)

    def _share(self, sums: npt.NDArray[np.float64], tokens: npt.NDArray[np.float64]) -> Json:
        (interval,) = rate_intervals(sums, tokens, self._strata, self.plan)
        return Estimate(float(sums.sum() / tokens.sum()), interval).to_dict()

    def _sums(self, values: npt.NDArray[np.float64], unit: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        return by_cluster(values[:, None], unit, len(self._strata))

    def _mean(self, values: npt.NDArray[np.float64]) -> Json:
        (interval,) = ratio_intervals(self._sums(values, self._unit), self._tokens, self._strata, self.plan)
        return Estimate(float(values.mean()), interval).to_dict()
