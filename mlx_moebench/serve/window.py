"""What happened lately: totals now, less totals some seconds ago."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from ..routing.record import Phase
from ..routing.recorder import Recorder
from ..routing.sums import FIELDS, Sums

Totals = dict[Phase, list[Sums]]
"""Of every phase that has tokens, the totals of each router."""

SAMPLES = 12
"""Looks per window, so that what is called a window is at most a twelfth longer."""


def totals_of(stats: Recorder) -> Totals:
    """Totals since the beginning; all phases and routers have seen the same forwards."""
    with stats.looking() as phases:
        counted = {phase: part for phase, part in phases.items() if part.clusters}
        return {phase: [part.totals(n) for n in range(len(stats.specs))] for phase, part in counted.items()}


class Window:
    """A sliding window of ``seconds``.

    Of seconds and not of tokens: on a server that idles, a window of tokens would show the traffic of yesterday.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock = seconds, clock
        self._before: deque[tuple[float, Totals]] = deque([(clock(), {})])
        self._lock = Lock()

    @property
    def period(self) -> float:
        """Seconds between two looks."""
        return min(5.0, max(0.2, self.seconds / SAMPLES))

    def begin(self, totals: Totals) -> None:
        """What there is already is not of this window."""
        with self._lock:
            self._before = deque([(self._clock(), totals)])

    def note(self, totals: Totals) -> None:
        """Remember totals as those of now."""
        now = self._clock()
        with self._lock:
            if now - self._before[-1][0] >= self.period:
                self._before.append((now, totals))
            while len(self._before) > 1 and now - self._before[1][0] >= self.seconds:
                self._before.popleft()

    def of(self, totals: Totals) -> tuple[float, Totals]:
        """(seconds, what of ``totals``, those of now, came in them)."""
        now = self._clock()
        with self._lock:
            old = [one for one in self._before if now - one[0] >= self.seconds]
            began, before = old[-1] if old else self._before[0]
        return now - began, {phase: _since(every, before.get(phase)) for phase, every in totals.items()}


def _since(now: list[Sums], before: list[Sums] | None) -> list[Sums]:
    if before is None:
        return now
    return [_less(a, b) for a, b in zip(now, before, strict=True)]


def _less(a: Sums, b: Sums) -> Sums:
    return replace(a, **{name: getattr(a, name) - getattr(b, name) for name in FIELDS})
