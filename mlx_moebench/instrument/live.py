"""`RoutingStats` that fill while a model runs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..environment import environment
from ..errors import RoutingError
from ..routing.record import Array, router_warnings
from ..routing.stats import Cluster, RoutingStats
from ..routing.tally import Tally, tally, transition_counts
from .capture import Capture, config_of, is_traced, routers_of

LIVE = "live"
"""The data set name of rows that came without a name."""


class LiveRoutingStats(RoutingStats):
    """Statistics of a tapped model. Reading them evaluates what is still pending.

    A row of a batch is one sequence of which every position counts, unless ``batch`` says otherwise.
    """

    def __init__(
        self, model: nn.Module, /, *, sources: Mapping[str, Mapping[str, Any]] | None = None, **settings: Any
    ) -> None:
        sources = sources or {LIVE: {"name": LIVE}}
        super().__init__(routers_of(model), sources=sources, **settings)
        self._pending: list[tuple[int, list[Cluster], Tally, Array | None]] = []
        self._previous: tuple[int, Array] | None = None
        self._announced: tuple[Array | None, list[Cluster] | None] = (None, None)
        self._current: tuple[Array, list[Cluster]] | None = None
        self._next_row = 0  # above every row used, so that rows without an id are sequences of their own
        self._capture = Capture(model, self._record)

    @contextmanager
    def batch(self, mask: npt.ArrayLike | None = None, ids: Sequence[int | Cluster] | None = None) -> Iterator[None]:
        """Describe the forward passes inside: mask [B, S] True where a position counts, ids of the B sequences.

        An id is the row in the data set, or (sha256 of the data set, row). Rows that share an id are one sequence.
        """
        if ids is not None and len(self.sources) != 1 and not all(isinstance(i, tuple) for i in ids):
            raise RoutingError("With several data sources an id is a pair (sha256 of the data set, row).")
        only = next(iter(self.sources))
        before = self._announced
        clusters = None if ids is None else [i if isinstance(i, tuple) else (only, int(i)) for i in ids]
        self._sync()
        self._announced = (None if mask is None else mx.array(np.asarray(mask, dtype=bool)), clusters)
        try:
            yield
            self._sync()
        finally:
            self._pending.clear()
            self._announced = before

    def close(self) -> None:
        """Take the taps off; what was measured stays."""
        self._sync()
        self._capture.close()

    def __enter__(self) -> LiveRoutingStats:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        if number == 0 or self._current is None:
            self._begin(shape)
        assert self._current is not None
        mask, clusters = self._current
        result = tally(self._capture.routing(number, logits, indices, mask))
        follows = self._previous is not None and self._previous[0] == number - 1
        moves = transition_counts(self._previous[1], result.selected) if self._previous and follows else None
        self._previous = (number, result.selected)
        self._pending.append((number, clusters, result, moves))

    def _begin(self, shape: tuple[int, ...]) -> None:
        """A new forward of ``shape`` (B, S) starts at its first router."""
        self._sync()
        if len(shape) != 2:
            raise RoutingError(f"A forward pass should see hidden states [B, S, D], but the first block saw {shape}.")
        mask, clusters = self._announced
        if mask is not None and tuple(mask.shape) != tuple(shape):
            raise RoutingError(f"The mask has shape {tuple(mask.shape)}, but the model was given {tuple(shape)}.")
        if clusters is not None and len(clusters) != shape[0]:
            raise RoutingError(f"{len(clusters)} ids were given for a batch of {shape[0]} rows.")
        if clusters is None:
            source = next(iter(self.sources))
            clusters = [(source, self._next_row + row) for row in range(shape[0])]
        self._next_row = max(self._next_row, *(row + 1 for _, row in clusters))
        self._current = (mx.ones(shape, dtype=mx.bool_) if mask is None else mask, clusters)

    def _sync(self) -> None:
        pending, self._pending = self._pending, []
        self._previous = None
        self._current = None
        if {number for number, *_ in pending} != set(range(len(self.specs))):
            return  # nothing ran, or a forward that broke off in the middle, which does not count
        arrays = [array for _, _, result, moves in pending for array in (*result.arrays(), moves) if array is not None]
        if is_traced(*arrays):
            warnings.warn(
                "A forward pass inside mx.compile or mx.vmap was not recorded: run the model outside it to measure.",
                RuntimeWarning,
                stacklevel=3,
            )
            return
        mx.eval(*arrays)
        # All are checked before any is added: a forward counts whole or not at all.
        checked = [self.checked(number, clusters, result) for number, clusters, result, _ in pending]
        for (number, clusters, result, moves), sums in zip(pending, checked, strict=True):
            self.add_sums(number, clusters, sums, np.asarray(result.pairs))
            if moves is not None:
                self.add_transition(number - 1, moves)


def attach(model: nn.Module, tau: float = 0.40, collapse_on: str = "top_share_token") -> LiveRoutingStats:
    """Tap every router of an mlx-lm model and return statistics that fill as it runs.

    Outputs stay bit-identical. A second ``attach`` replaces the first, whose statistics keep what they have.
    Usable as a context manager, which detaches at its end::

        with attach(model) as stats:
            model(ids)  # ids [B, S]: B sequences
        print(stats.to_dataframe())

    tau: share in (0, 1) above which a router is flagged. Raises `UnsupportedModelError` and leaves the model
    untouched if a router that its family declares is missing.
    """
    return LiveRoutingStats(
        model, tau=tau, collapse_on=collapse_on, model=model_facts(model), environment=environment()
    )


def model_facts(model: nn.Module) -> dict[str, Any]:
    """What a report says of a model of which only the object is known."""
    routers = routers_of(model)
    model_type = config_of(model)["model_type"]
    return {
        "id": model_type,
        "revision": None,
        "model_type": model_type,
        "dtype": None,
        "weight_bits": None,
        "router_bits": min(spec.router_bits for spec in routers if spec.router_bits is not None),
        "backend": "mlx",
        "warnings": router_warnings(routers),
    }
