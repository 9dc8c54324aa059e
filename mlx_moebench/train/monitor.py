"""The routing of a training loop of one's own, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..instrument import LiveRoutingStats, routers_of
from ..measure.on_mlx import of_all_ranks
from ..routing.window import Window


class RoutingMonitor:
    """Measures the routers of ``model`` in the steps of a training, and gives figures to log::

        monitor = RoutingMonitor(model)
        for number, (batch, lengths) in enumerate(batches, 1):
            with monitor.step():
                (loss, tokens), gradients = loss_and_gradients(model, batch, lengths)
            optimizer.update(model, gradients)
            mx.eval(model.parameters(), optimizer.state)
            if number % 10 == 0:
                log(number, monitor.figures())

    A step is not measured inside ``mx.compile``, of which a warning speaks. Gradient checkpointing counts once.
    Raises UnsupportedModelError where no family serves the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._window = Window(routers_of(model))

    @contextmanager
    def step(self, mask: npt.ArrayLike | None = None) -> Iterator[None]:
        """Count the forward passes inside. mask: [B, S] True where a position of their inputs counts; None for all."""
        with LiveRoutingStats(self._model) as stats:
            with nullcontext() if mask is None else stats.within(stats.describe(mask)):
                yield
            self._window.add(stats)

    def figures(self) -> dict[str, float]:
        """The figures of the steps since the last call, over the tokens of all ranks: see `Window.figures`.

        Every rank must call it.
        """
        sums = self._window.sums
        if mx.distributed.init().size() > 1:
            sums = np.sum([np.frombuffer(part) for part in of_all_ranks(sums.tobytes())], axis=0)
        figures = self._window.figures(sums)
        self._window.empty()
        return figures
