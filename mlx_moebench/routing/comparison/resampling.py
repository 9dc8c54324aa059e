"""Two sides drawn again and again: what `differences` makes intervals and p-values of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...options import Plan
from ...types import HostArray
from ..intervals.bootstrap import SCALAR, blocks, extremes, joined, resample_weights
from ..intervals.effective import pooled
from ..intervals.halves import Halves, random_halves
from ..metrics.registry import Metric
from ..sums import Floats, Numbers, Sums, divergence
from .maxima import maxima


@dataclass(frozen=True)
class Samples:
    """The sequences of each side, in the order of the first axis of its sums, by the data set that they are of.

    paired: both sides have the same sequences in the same order. copies: how many sequences each one is the sum of, on
    either side; by default one.
    """

    strata_a: Sequence[str]
    strata_b: Sequence[str]
    paired: bool
    copies: tuple[HostArray, HostArray] | tuple[None, None] = (None, None)

    def too_few(self, tokens_a: Numbers, tokens_b: Numbers) -> str | None:
        """Why there are no intervals, from the tokens of each sequence [N]; None where there are some."""
        sides = zip("AB", (tokens_a, tokens_b), (self.strata_a, self.strata_b), self.copies, strict=True)
        for name, tokens, strata, copies in sides:
            reason = pooled(tokens, strata, copies).reason
            if reason is not None:
                return reason if self.paired else f"{name}: {reason}"
        return None

    def draws(self, plan: Plan) -> Draws:
        """The resamples of a plan."""
        of_a = resample_weights(self.strata_a, plan.resamples, plan.seed)
        of_b = of_a if self.paired else resample_weights(self.strata_b, plan.resamples, (plan.seed, 1))
        return Draws(self.paired, of_a, of_b)

    def halves(self, plan: Plan) -> tuple[Halves, Halves]:
        """Random halves of each side's sequences; the same of both when paired."""
        of_a = random_halves(self.strata_a, plan.resamples, plan.seed)
        return of_a, of_a if self.paired else random_halves(self.strata_b, plan.resamples, (plan.seed, 1))


@dataclass(frozen=True)
class Draws:
    """How often each sequence of A and of B is drawn, a [B, N_A] and b [B, N_B]; the same when paired."""

    paired: bool
    a: Floats
    b: Floats


class Drawn:
    """One router on both sides: estimates, leave-one-outs, and values of B resamples.

    ``point`` {metric: (a, b)}. ``sides`` {metric: [2, B]} are the resampled values, ``jack`` {metric: [N]} the
    leave-one-outs of b - a, of all metrics but maxima; ``maxima`` has those. Where both have the same E,
    ``share_change`` [2, B] are the largest deviations upwards and downwards of the change of any expert's token share.
    """

    def __init__(
        self,
        a: Sums,
        b: Sums,
        draws: Draws,
        metrics: Sequence[Metric],
        widen: float,
        level: float,
    ) -> None:
        self.total, self.widen = (a.total(), b.total()), widen
        self.point = {m.name: (float(m.values(self.total[0])), float(m.values(self.total[1]))) for m in metrics}
        scalar = [m for m in metrics if m.interval in SCALAR]
        of_a, of_b = a.leave_one_out(), b.leave_one_out()
        self.jack = {m.name: _left_out(m.values(of_a), m.values(of_b), draws.paired) for m in scalar}
        banded = [m for m in metrics if m.interval == "maximum" and all(map(math.isfinite, self.point[m.name]))]
        again = _draw_again(a, b, draws, scalar, banded)
        self.sides, self.share_change = again.values, again.share_change
        # Candidates are chosen at a fifth of the error that the interval itself may have.
        strict = 1 - (1 - level) / 5
        self.maxima = {
            name: maxima(*theta, *shares, paired=draws.paired, widen=widen, level=strict)
            for name, (theta, shares) in again.shares.items()
        }

    def boot(self, name: str) -> Floats:
        """[B] resampled values of b - a, of all metrics but maxima."""
        return np.asarray(self.sides[name][1] - self.sides[name][0])


class _Again(NamedTuple):
    """What B resamples give.

    values: {metric: [2, B]} of both sides. shares: {maximum: (([R], [R']), ([B, R], [B, R']))} the shares of both
    sides, and those of the resamples. share_change: see `Drawn`.
    """

    values: dict[str, Floats]
    shares: dict[str, tuple[tuple[Floats, Floats], tuple[Floats, Floats]]]
    share_change: Floats | None


def _draw_again(a: Sums, b: Sums, draws: Draws, scalar: Sequence[Metric], banded: Sequence[Metric]) -> _Again:
    values: dict[str, list[Floats]] = {m.name: [] for m in scalar}
    shares_a: dict[str, list[Floats]] = {m.name: [] for m in banded}
    shares_b: dict[str, list[Floats]] = {m.name: [] for m in banded}
    changes: list[Floats] = []
    total_a, total_b = a.total(), b.total()
    change = share_change(total_a, total_b) if a.n_experts == b.n_experts else None
    for rows in blocks(len(draws.a), max(a.n_experts, b.n_experts)):
        drawn_a, drawn_b = a.weighted(draws.a[rows]), b.weighted(draws.b[rows])
        for m in scalar:
            values[m.name].append(np.array([m.values(drawn_a), m.values(drawn_b)]))
        for m in banded:
            shares_a[m.name].append(m.function(drawn_a))
            shares_b[m.name].append(m.function(drawn_b))
        if change is not None:
            changes.append(extremes(share_change(drawn_a, drawn_b) - change))
    shares = {
        m.name: (
            (m.function(total_a), m.function(total_b)),
            (np.concatenate(shares_a[m.name]), np.concatenate(shares_b[m.name])),
        )
        for m in banded
    }
    return _Again(joined(values), shares, np.concatenate(changes, axis=-1) if changes else None)


def _left_out(a: Floats, b: Floats, paired: bool) -> Floats:
    """Leave-one-outs of b - a; unpaired, those of either side about its own mean, since the other stays whole."""
    return b - a if paired else np.concatenate([a.mean() - a, b - b.mean()])


def share_change(a: Sums, b: Sums) -> Floats:
    """Token share of every expert at B minus at A, [..., R]."""
    return b.load * b.top_k - a.load * a.top_k


LOADS = {"load_l1": "share of selections", "load_jsd": "nats"}
"""How far two loads lie apart, with the unit: metrics of two sides, 0 when they are equal and never below."""


def load_distances(f: Floats, g: Floats) -> dict[str, Floats]:
    """`LOADS` between loads f and g [..., R], each [...].

    Formula: load_l1 = sum_i |g_i - f_i|; load_jsd = H((f + g) / 2) - (H(f) + H(g)) / 2.
    Unit: share of selections, of those that moved and of those that left, hence twice what moved; nats.
    Range: [0, 2]; [0, ln 2].
    Null: no token. In finite samples they are above 0 also when nothing differs: see `distances`.
    Source: total variation distance, times 2; Jensen-Shannon divergence (Lin 1991).
    """
    return {"load_l1": np.abs(g - f).sum(axis=-1), "load_jsd": divergence(f, g)}
