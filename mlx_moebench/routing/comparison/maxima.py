"""The difference of two maxima: of the busiest expert's share at B and at A, which need not be one expert's.

Which expert is busiest is not known, only which ones may be: the candidates, whose simultaneous band reaches up to
where the band of the busiest begins. Only they can move the maximum (the selection step of intersection bounds,
Chernozhukov, Lee and Rosen 2013).

``apart``: the error of the difference is at most that of B's candidates less that of A's, largest against smallest
    in every resample; its quantiles give the interval. With one candidate a side it is the plain interval of the
    difference of two shares.
``together``: sequences are paired and more than one expert may be busiest. Errors that both sides share move neither
    maximum against the other only where the same expert is busiest, so the interval is the range of the difference
    while three bands hold: A's shares, B's shares, and B - A (`maxima_range`). The levels of the bands are balanced so
    that all hold together with the level asked for (Beran 1988). Equal sides have no width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..intervals.bootstrap import extremes
from ..record import Mask
from ..sums import Floats


@dataclass(frozen=True)
class Maxima:
    """What the interval of max_i B_i - max_i A_i is made of.

    a, b: the shares, [R] and [R']. candidate_a, candidate_b: which experts may be the busiest of A, of B.
    slack_a, slack_b: (u, v) of the bands that chose them: [share - u, share + v].
    deviations [6, B]: the largest ones upwards and downwards of A's candidates, of B's, and of B - A over either's.
    together: see above.
    """

    a: Floats
    b: Floats
    candidate_a: Mask
    candidate_b: Mask
    slack_a: tuple[float, float]
    slack_b: tuple[float, float]
    deviations: Floats
    together: bool

    @property
    def point(self) -> float:
        """The estimated difference."""
        return float(self.b.max() - self.a.max())

    @property
    def free(self) -> Floats:
        """[2, B] deviations of the difference upwards and downwards when both sides may be off as they like."""
        above_a, below_a, above_b, below_b = self.deviations[:4]
        return np.array([above_b + below_a, below_b + above_a])

    def ends(self, widen: float, level: float) -> tuple[float, float]:
        """The interval at this level."""
        if self.together:
            return self.range(widen * self._bands.margins(level))
        return _ends(self.point, self.free, widen, level)

    @cached_property
    def _bands(self) -> Bands:
        return Bands(self.deviations)

    def range(self, margins: npt.ArrayLike) -> tuple[float, float]:
        """`maxima_range` over the candidates."""
        return maxima_range(self.a, self.b, margins, self.candidate_a, self.candidate_b)


def maxima(
    a: Floats, b: Floats, drawn_a: Floats, drawn_b: Floats, *, paired: bool, widen: float, level: float
) -> Maxima:
    """From shares a [R], b [R'] and their resampled values [B, R], [B, R']. level: of the candidates' bands."""
    errors = drawn_a - a, drawn_b - b
    of_a, slack_a = _candidates(a, errors[0], widen, level)
    of_b, slack_b = _candidates(b, errors[1], widen, level)
    deviations = [extremes(errors[0][:, of_a]), extremes(errors[1][:, of_b])]
    same = len(a) == len(b)  # else no expert of A is one of B, and their difference is not bounded
    apart = (errors[1] - errors[0])[:, of_a | of_b] if same else None
    deviations.append(np.full_like(deviations[0], math.inf) if apart is None else extremes(apart))
    together = paired and same and max(int(of_a.sum()), int(of_b.sum())) > 1
    return Maxima(a, b, of_a, of_b, slack_a, slack_b, np.concatenate(deviations), together)


def _candidates(theta: Floats, errors: Floats, widen: float, level: float) -> tuple[Mask, tuple[float, float]]:
    u, v = (widen * float(np.quantile(side, (1 + level) / 2)) for side in extremes(errors))
    return theta + v >= theta.max() - u, (u, v)


def peak(routers: Sequence[Maxima], paired: bool) -> Maxima:
    """The maximum over the experts of several routers: candidates are those that may be the busiest of all."""
    a, of_a = _of_all([(r.a, r.candidate_a, r.slack_a) for r in routers])
    b, of_b = _of_all([(r.b, r.candidate_b, r.slack_b) for r in routers])
    concerned = [r for r, x, y in zip(routers, of_a, of_b, strict=True) if x.any() or y.any()]
    mask_a, mask_b = np.concatenate(of_a), np.concatenate(of_b)
    several = max(int(mask_a.sum()), int(mask_b.sum())) > 1 or any(r.together for r in concerned)
    deviations = np.max([r.deviations for r in concerned], axis=0)
    nothing = (0.0, 0.0)
    return Maxima(a, b, mask_a, mask_b, nothing, nothing, deviations, paired and len(a) == len(b) and several)


def _of_all(routers: Sequence[tuple[Floats, Mask, tuple[float, float]]]) -> tuple[Floats, list[Mask]]:
    """From (shares, candidates, slack) of each router: all shares, and which of each may be the busiest of all."""
    least = max(shares.max() - u for shares, _, (u, _) in routers)
    masks = [mask & (shares + v >= least) for shares, mask, (_, v) in routers]
    return np.concatenate([shares for shares, _, _ in routers]), masks


class MeanOfMaxima:
    """The difference of the maxima of each router, averaged over routers."""

    def __init__(self, routers: Sequence[Maxima]) -> None:
        self._routers = routers
        self._point = float(np.mean([r.point for r in routers]))
        self._free = None if any(r.together for r in routers) else np.mean([r.free for r in routers], axis=0)
        self._bands = Bands(np.concatenate([r.deviations for r in routers])) if self._free is None else None

    def ends(self, widen: float, level: float) -> tuple[float, float]:
        """The interval at this level."""
        if self._free is not None:
            return _ends(self._point, self._free, widen, level)
        assert self._bands is not None
        margins = widen * self._bands.margins(level).reshape(-1, 6)
        low, high = np.mean([r.range(six) for r, six in zip(self._routers, margins, strict=True)], axis=0).tolist()
        return low, high


class Bands:
    """Margins that S deviations [S, B] keep jointly, each exceeded about as often as the others."""

    def __init__(self, deviations: Floats) -> None:
        self._ordered = np.sort(deviations, axis=1)
        rank = [np.searchsorted(row, x) for row, x in zip(self._ordered, deviations, strict=True)]
        self._worst = np.sort(np.max(rank, axis=0))

    def margins(self, level: float) -> Floats:
        """[S] margins that hold together in this share of the resamples."""
        last = len(self._worst) - 1
        return np.asarray(self._ordered[:, self._worst[math.ceil(level * last)]])


def _ends(point: float, deviations: Floats, widen: float, level: float) -> tuple[float, float]:
    """point - u and point + v, the quantiles of deviations [2, B] upwards and downwards."""
    u, v = (widen * float(np.quantile(side, (1 + level) / 2)) for side in deviations)
    return point - u, point + v


def maxima_range(
    a: Floats, b: Floats, margins: npt.ArrayLike, candidate_a: Mask | None = None, candidate_b: Mask | None = None
) -> tuple[float, float]:
    """Smallest and largest value of max_i B_i - max_i A_i while A, B and B - A stay in bands around a, b and b - a.

    a, b [R]; margins (u, v) of each band: A in [a - u_A, a + v_A], B alike, and B - A in [b - a - u_D, b - a + v_D].
    Only candidates (all, unless given) can have the maximum and are held by the bands of A and of B.
    Where the bands of A and B have no width, or a = b and that of B - A has none, the range has none either.

    >>> margins = [0.1, 0.1, 0.1, 0.1, 0.02, 0.02]
    >>> [round(x, 6) for x in maxima_range(np.array([0.5, 0.3]), np.array([0.6, 0.3]), margins)]
    [0.08, 0.12]
    """
    u_a, v_a, u_b, v_b, u_d, v_d = np.asarray(margins, dtype=np.float64)
    of_a = np.ones(len(a), dtype=bool) if candidate_a is None else candidate_a
    of_b = np.ones(len(b), dtype=bool) if candidate_b is None else candidate_b
    low_a, high_a = np.where(of_a, a - u_a, -math.inf), np.where(of_a, a + v_a, math.inf)
    low_b, high_b = np.where(of_b, b - u_b, -math.inf), np.where(of_b, b + v_b, math.inf)
    low_d, high_d = b - a - u_d, b - a + v_d
    low_a, high_a, low_b, high_b = (  # what each band says through the others
        np.maximum(low_a, low_b - high_d),
        np.minimum(high_a, high_b - low_d),
        np.maximum(low_b, low_a + low_d),
        np.minimum(high_b, high_a + high_d),
    )
    top_a, top_b = np.where(of_a, high_a, -math.inf), np.where(of_b, high_b, -math.inf)
    high = _largest(low_a, high_a, top_b, high_d)
    low = 0.0 - _largest(low_b, high_b, top_a, -low_d)  # and not -0.0
    return low, high


def _largest(low_a: Floats, high_a: Floats, high_b: Floats, high_d: Floats) -> float:
    """The largest max B - max A. If B peaks at j, A_j is best just as high as A's other experts must be."""
    top = int(low_a.argmax())
    others = np.full(len(low_a), low_a[top])
    others[top] = np.delete(low_a, top).max(initial=-math.inf)
    a_j = np.clip(others, low_a, high_a)
    return float((np.minimum(high_b, a_j + high_d) - np.maximum(others, a_j)).max())
