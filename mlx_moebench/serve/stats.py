"""Statistics of a model that serves: whatever is wrong with them, the request goes on."""

from __future__ import annotations

import logging
from typing import Any

import mlx.nn as nn

from ..environment import environment
from ..errors import RoutingError
from ..instrument import LiveRoutingStats, model_facts
from ..instrument.capture import routers_of
from ..routing.forwards import Forward, Span
from ..routing.record import Array
from .last_tokens import LastTokens

NO_NUMBERS = "The numbers of a forward were none, and it is not recorded; the log has the first."


class ServedStats(LiveRoutingStats):
    """As `attach` makes them; a forward that cannot be counted is left out and counted in ``dropped``, never raised.

    sequences: that are kept apart, see `Recorder.most`. last_tokens: whose choices are kept, see `LastTokens`. Steps
    are tallied together, and whoever reads has those tallied that have run.
    """

    together = 32

    def __init__(self, model: nn.Module, sequences: int | None = None, last_tokens: int = 0, **settings: Any) -> None:
        self.last = LastTokens(last_tokens, len(routers_of(model))) if last_tokens else None
        super().__init__(model, tokens=self.last, model=model_facts(model), environment=environment(), **settings)
        self.most = sequences

    def say(self, why: str) -> None:
        logging.warning("%s", why)

    def record(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        try:
            super().record(number, logits, indices, shape)
        except RoutingError as error:
            self._here.forward = Forward(Span([]), {}, shape, dropped=str(error))

    def _tally(self, forward: Forward) -> None:
        try:
            super()._tally(forward)
        except RoutingError as error:
            self._drop(str(error), forward.positions)

    def _flush(self) -> None:
        try:
            super()._flush()
        except RoutingError as error:  # the others of the queue are added
            if NO_NUMBERS not in self.dropped:
                logging.warning("%s", error)
            self._drop(NO_NUMBERS, 0)
