"""Which sequences the forwards of a running model go through, as whoever runs it announces them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RoutingError
from .forwards import Here, Part, Span
from .hooks import Arrays
from .stats import Cluster, RoutingSums

REQUESTS = 100_000  # of batched generation that are remembered; the oldest ended long ago


class Announced(Arrays, RoutingSums):
    """`RoutingSums` that are told what the forwards of a thread are; see `recorder.Recorder`, which hears them."""

    most: int | None = None
    """Sequences that are kept apart; more of those without an id share a row, so that a server does not grow."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._here = Here()
        self._rows_lock = threading.Lock()
        self._requests: dict[Hashable, Cluster] = {}
        self._next_row = 0  # above every row used, so that rows without an id are sequences of their own

    @contextmanager
    def batch(
        self,
        mask: npt.ArrayLike | None = None,
        ids: Sequence[int | Cluster] | None = None,
        prompt_lengths: Sequence[int] | None = None,
        part: Part | None = None,
    ) -> Iterator[None]:
        """Describe the forward passes inside, which together go through the same B sequences from their start.

        mask: [B, S] True where a position counts. ids: of the B sequences, each the row in the data set, or (sha256 of
        the data set, row); rows that share an id are one sequence. prompt_lengths: [B] tokens of each prompt; later
        positions are phase decode, however the forwards are cut. None means that all are prompt. Other statistics that
        are attached to the same model take mask and prompt_lengths over, unless they are inside a ``batch`` themselves.
        part: the routers that run, where the forward inside is a part of one that is run layer by layer.
        """
        self._sync()
        with self.within(span := self.describe(mask, ids, prompt_lengths)):
            span.part = part
            whole = False
            try:
                yield
                whole = True
            finally:
                if not whole:  # what an error or Ctrl-C cut short does not count
                    self._forget(span)
        self._sync()

    def describe(
        self,
        mask: npt.ArrayLike | None = None,
        ids: Sequence[int | Cluster] | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> Span:
        """Sequences that several ``within`` blocks go through piece by piece; arguments as for ``batch``."""
        lengths = None if prompt_lengths is None else np.asarray(prompt_lengths, dtype=np.int64)
        allowed = None if mask is None else np.asarray(mask, dtype=bool)
        span = Span(self._clusters_of(ids), allowed, lengths)
        for one in (getattr(sink, "__self__", None) for sink in self.sinks()):
            if isinstance(one, Announced) and one is not self:
                span.elsewhere.append((one, Span([], allowed, lengths)))
        return span

    @contextmanager
    def within(self, span: Span) -> Iterator[None]:
        """The forward passes that this thread runs inside go on with ``span``; afterwards what was before holds."""
        before, self._here.announced = self._here.announced, span
        try:
            with ExitStack() as stack:
                for other, same in span.elsewhere:
                    if not other.described:
                        stack.enter_context(other.within(same))
                yield
        finally:
            self._here.announced = before

    @property
    def described(self) -> bool:
        """Whether the forward passes to come were announced, by `batch` or `within`."""
        return self._here.announced is not None

    def name_requests(self, names: Mapping[Hashable, int | Cluster]) -> None:
        """Say which sequences the requests of batched generation are, by the keys of `Rows`."""
        self._requests |= dict(zip(names, self._clusters_of(list(names.values())), strict=True))

    def _forget(self, span: Span) -> None:
        """Leave out every forward of ``span`` that is not added yet."""

    def _clusters_of(self, ids: Sequence[int | Cluster] | None) -> list[Cluster]:
        if ids is None:
            return []
        if len(self.sources) != 1 and not all(isinstance(i, tuple) for i in ids):
            raise RoutingError("With several data sources an id is a pair (sha256 of the data set, row).")
        only = next(iter(self.sources))
        clusters = [i if isinstance(i, tuple) else (only, int(i)) for i in ids]
        with self._rows_lock:
            self._next_row = max(self._next_row, *(row + 1 for _, row in clusters))
        return clusters

    def _new_clusters(self, count: int) -> list[Cluster]:
        with self._rows_lock:
            first, self._next_row = self._next_row, self._next_row + count
        rows = (row if self.most is None else row % self.most for row in range(first, first + count))
        return [(next(iter(self.sources)), row) for row in rows]

    def _request_clusters(self, keys: Sequence[Hashable]) -> list[Cluster]:
        new = [key for key in keys if key not in self._requests]
        self._requests |= dict(zip(new, self._new_clusters(len(new)), strict=True))
        clusters = [self._requests[key] for key in keys]
        while len(self._requests) > REQUESTS:
            del self._requests[next(iter(self._requests))]
        return clusters
