"""All batches through one layer before the next layer is read: a model of any size in the memory of one layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..data import Batch
from ..errors import MoebenchError
from ..memory import check_room, free_memory
from ..options import Loading, Saving, Step
from ..pair.stats import RecordedStats
from ..routing.forwards import Part
from ..routing.stats import RoutingSums
from ..signals import check
from .keep import is_streamed, unfinished
from .keep_layers import LayerKeeper
from .states import Packer, States
from .watch import Watch

EMBEDDINGS = -1
"""The layer before the first."""

PART_OF_FREE = 4
"""Hidden states may take one part of so many of the memory that is free."""


class Layers(Packer, Protocol):
    """A model of which one layer is in memory; a context manager while it runs. count: its layers.

    Layer -1 is what comes before the first one: the embeddings.
    """

    count: int

    def __enter__(self) -> Any: ...

    def __exit__(self, *error: Any) -> None: ...

    def bytes_of(self, layer: int) -> int:
        """Bytes that a layer takes in the files."""

    def read(self, layer: int) -> None:
        """Have the parameters of a layer in memory."""

    def ahead(self, layer: int) -> None:
        """Begin to read the bytes of a layer that is needed next."""

    def drop(self, layer: int) -> None:
        """Let go of a layer."""

    def run(self, batch: Batch, layer: int, before: Any) -> Any:
        """What a layer makes of a batch and of what the layer before it made, None for -1; not evaluated."""

    def hear(self, batch: Batch, layer: int, before: Any) -> None:
        """As `run`, for what the routers say alone."""

    def evaluate(self, state: Any) -> int:
        """Compute a state; returns its bytes."""


def stream_of(loading: Loading, saving: Saving, whole: str | None) -> str:
    """``on``, ``off`` or ``auto`` as it is meant for a run.

    whole: why the model must be in memory for it as a whole, if it must. Raises `MoebenchError` where that contradicts
    ``on``, and where a run that did not finish goes on the other way.
    """
    if whole is not None:
        if loading.stream == "on":
            raise MoebenchError(f"{whole}, and --stream on reads its layers one by one; leave one of them out.")
        return "off"
    if not saving.resume or saving.output is None:
        return loading.stream
    output = Path(saving.output)
    begun = "on" if is_streamed(output) else "off" if unfinished(output) is not None else None
    if begun is None or loading.stream in ("auto", begun):
        return begun or loading.stream
    raise MoebenchError(
        f"The run that {output} is the output of began with --stream {begun}; go on with the same, or delete what it "
        "left to start again."
    )


@dataclass(eq=False)
class Run:
    """One data set on its way through the layers.

    planned: makes its batches anew for every layer. keeper: knows which layers it has been through. watch: sees every
    batch once for each layer with routers.
    """

    stats: RecordedStats
    planned: Callable[[], Iterable[Batch]]
    keeper: LayerKeeper
    step: Step
    watch: Watch | None = None

    @property
    def positions(self) -> int:
        """Positions of all its batches, padding included, which has hidden states, too."""
        return sum(batch.mask.size for batch in self.planned())


def run_layers(layers: Layers, runs: Sequence[Run], limit: int | None, step: Step) -> None:
    """Take all data sets through every layer up to that of the last router, and count what the routers say.

    limit: bytes of hidden states that stay in memory, of all together. A layer is read once, and not where every
    keeper has it already; a data set that was through it is not run again.
    """
    limit = free_memory() // PART_OF_FREE if limit is None else limit
    first, last = min(run.keeper.done for run in runs), runs[0].stats.specs[-1].layer
    kept = [(run, _states(layers, run.keeper, limit // len(runs))) for run in runs]
    clock = _Clock(layers, first, last)
    with ExitStack() as stack:
        for run in runs:
            stack.enter_context(run.keeper.telling())
        stack.enter_context(layers)
        if first:
            layers.drop(EMBEDDINGS)
        for layer in range(first or EMBEDDINGS, last + 1):
            step(f"reading {clock.at(layer)}", 0, 0)
            if layer < last:  # of the last one MLX reads what the routers need, when they need it
                layers.read(layer)
                layers.ahead(layer + 1)
            todo = [(run, states) for run, states in kept if run.keeper.done == max(layer, 0)]
            if layer == EMBEDDINGS:
                todo[0][1].expect(sum(run.positions for run, _ in todo), limit)
            for run, states in todo:
                with _alone(run, runs):
                    _run_layer(layers, run, states, layer, last, clock.at(layer))
                if layer != EMBEDDINGS:
                    run.keeper.keep(layer)
                    states.forget(layer - 1)
            layers.drop(layer)


def _states(layers: Layers, keeper: LayerKeeper, limit: int) -> States:
    return States(layers, keeper.folder, limit, kept=keeper.kept, run=keeper.run)


@contextmanager
def _alone(run: Run, runs: Sequence[Run]) -> Iterator[None]:
    """Of all statistics that are attached to the model, let those of one data set hear it."""
    others = [other.stats for other in runs if other is not run]
    for stats in others:
        stats.resting = True
    try:
        yield
    finally:
        for stats in others:
            stats.resting = False


def _run_layer(layers: Layers, run: Run, states: States, layer: int, last: int, where: str) -> None:
    """One layer, all batches. A state is (what the layer made, what the last router so far chose)."""
    stats = run.stats
    numbers, batches = routers_of(stats, layer), _count(stats)
    for number, batch in enumerate(run.planned()):
        run.step(f"{where}, batches", number, batches)
        check()
        check_room()
        before, chosen = (None, None) if layer == EMBEDDINGS else states.take(layer - 1, number)
        part = Part(numbers, chosen)
        with stats.batch(mask=batch.mask, ids=batch.rows, part=part):
            after = layers.run(batch, layer, before)
            if layer < last:
                state = (after, part.after if numbers else chosen)
                size = layers.evaluate(state)
        if layer < last:
            states.check_disk(size / batch.mask.size)
            states.put(layer, number, state, size)
        if run.watch is not None and numbers:
            run.watch.count(batch, batch.ids, stats, None)


def routers_of(stats: RoutingSums, layer: int) -> range:
    """The numbers of the routers in a layer."""
    numbers = [number for number, spec in enumerate(stats.specs) if spec.layer == layer]
    return range(numbers[0], numbers[-1] + 1) if numbers else range(0)


def _count(stats: RoutingSums) -> int:
    ((_, facts),) = stats.sources.items()
    return int(facts["parts"][0]["batches"])


class _Clock:
    """Says how far a run is, and how long it may still take by the layers that it did."""

    def __init__(self, layers: Layers, first: int, last: int) -> None:
        self._sizes = [layers.bytes_of(layer) for layer in range(last + 1)]
        self._first, self._last = first, last
        self._began = time.monotonic()

    def at(self, layer: int) -> str:
        """Where a run is that has reached ``layer``."""
        if layer == EMBEDDINGS:
            return "the embeddings"
        done, read = layer - self._first, sum(self._sizes[self._first : layer])
        left = (time.monotonic() - self._began) / done * (self._last + 1 - layer) if done else None
        time_left = "" if left is None else f", about {_spoken(left)} left"
        whole = sum(self._sizes[self._first :])
        return f"layer {layer + 1} of {self._last + 1}, {read / 1e9:.1f} of {whole / 1e9:.1f} GB read{time_left}"


def _spoken(seconds: float) -> str:
    """
    >>> _spoken(40), _spoken(400), _spoken(40_000)
    ('40 s', '7 min', '11.1 h')
    """
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
