"""Two models of one form on the same batches: what their routers choose, each by itself and on the same hidden states.

The reference runs a batch, and beside each of its layers the arm's layer of the same place sees the same input; what
comes out of that is dropped. So the arm's routers are heard where nothing but their own layer differs. Then the arm
runs the batch by itself. Both models are in memory, or of both one layer at a time; of tokens only margins and kept
sets are.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..data import Batch
from ..errors import RoutingError
from ..measure.backends import Backend
from ..measure.streaming import Layers, routers_of
from ..pair.stats import RecordedStats, RoutingStats
from ..routing.comparison.choices import Choices, by_cluster, exact_set, kl_divergence, routing_overlap, top1_flip
from ..routing.forwards import Part
from ..routing.record import Array, Mask, Routing
from ..routing.recorder import Recorder
from ..routing.sums import Floats
from ..routing.tally import log_distribution, selection_margin_of, selection_matrix
from ..routing.tokens import TokenBlock, ranked
from ..types import HostArray, Json


@dataclass(frozen=True, eq=False)
class Drift:
    """What an arm of L routers chose beside its reference.

    rows, lengths: [S] row and tokens of every sequence that ran. sums, same_input: [L, S, 4] sums over its tokens of
    `choices.MEASURES`, of the arm's own forward, and of its layers on the reference's hidden states.
    margin [L, T] float32 and exact [L, T] bool: of every token, the reference's selection margin, and whether it kept
    its set; tokens in the order of the sequences.
    """

    rows: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    sums: npt.NDArray[np.float64]
    same_input: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float32]
    exact: npt.NDArray[np.bool_]


class Beside:
    """A `Backend` that runs ``arm``, a checkpoint of its own, beside the reference that it is given."""

    def __init__(self, inner: Backend, arm: Any) -> None:
        self._inner, self._arm = inner, arm
        self.reference: Any = None
        self.own: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recorder(self, model: Any, /, **settings: Any) -> RecordedStats:
        """Statistics of the reference; those of the arm are made with them."""
        kind = _keeping(self._inner.recorder)
        self.reference = kind(model, **settings)
        with ExitStack() as undo:  # whatever ends it, Ctrl-C too
            undo.callback(self.reference.close)
            self.own = kind(self._arm.model, **settings | {"model": self._inner.facts(self._arm), "tokens": None})
            undo.pop_all()
        reference: RecordedStats = self.reference
        return reference

    def forward(self, checkpoint: Any, batch: Batch, logits: bool) -> Array | None:
        """Both models, and the arm's layers on the reference's hidden states."""
        with self.own.aside(batch.mask), _layers_beside(checkpoint.model.layers, self._arm.model.layers):
            out = self._inner.forward(checkpoint, batch, logits)
        with self.own.batch(mask=batch.mask, ids=batch.rows):
            self._inner.forward(self._arm, batch, False)
        return out

    def by_layer(self, reference: Any) -> Any:
        """The reference, a checkpoint whose layers are read one by one, with those of the arm beside them."""
        return replace(reference, layers=LayersBeside(self, reference.layers, self._arm.layers))

    def statistics(self) -> RoutingStats:
        """Those of the arm, of the same sequences as the reference's."""
        self.own.texts |= self.reference.texts
        self.own.sources = self.reference.sources
        return RoutingStats.merge([self.own])


class LayersBeside:
    """`streaming.Layers` of a reference and an arm of the same files: one layer of each is in memory.

    What a layer made is (of the reference, of the arm, what the arm's last router so far chose).
    """

    def __init__(self, runner: Beside, reference: Layers, arm: Layers) -> None:
        self._runner, self._reference, self._arm = runner, reference, arm
        self.count = reference.count

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for layers in (self._reference, self._arm):
                stack.enter_context(layers)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def bytes_of(self, layer: int) -> int:
        """Bytes that a layer takes in the files, which both models read."""
        return self._reference.bytes_of(layer)

    def read(self, layer: int) -> None:
        """Have the parameters of a layer of both in memory."""
        self._reference.read(layer)
        self._arm.read(layer)

    def ahead(self, layer: int) -> None:
        """Begin to read the bytes of a layer, which the arm reads from the same pages."""
        self._reference.ahead(layer)

    def drop(self, layer: int) -> None:
        """Let go of a layer of both."""
        self._reference.drop(layer)
        self._arm.drop(layer)

    def run(self, batch: Batch, layer: int, before: Any) -> Any:
        """Both layers on what their own models made, and the arm's on what the reference made."""
        given, own_given, chosen = (None, None, None) if before is None else before
        own = self._runner.own
        out = self._reference.run(batch, layer, given)
        if numbers := routers_of(own, layer):
            with own.aside(batch.mask):
                self._arm.hear(batch, layer, given)
        part = Part(numbers, chosen)
        with own.batch(mask=batch.mask, ids=batch.rows, part=part):
            own_out = self._arm.run(batch, layer, own_given)
        return out, own_out, part.after if numbers else chosen

    def hear(self, batch: Batch, layer: int, before: Any) -> None:
        """As `run`, which needs both outputs anyway."""
        self.run(batch, layer, before)

    def evaluate(self, state: Any) -> int:
        """Compute a state; returns its bytes."""
        return self._reference.evaluate(state)

    def packed(self, state: Any) -> tuple[dict[str, HostArray], Json]:
        """A state as arrays of the host."""
        return self._reference.packed(state)

    def unpacked(self, arrays: Mapping[str, HostArray], facts: Json) -> Any:
        """The state that `packed` was given."""
        return self._reference.unpacked(arrays, facts)


@cache
def _keeping(base: Any) -> Any:
    """Statistics of the kind ``base`` that keep the records of the last batch."""

    class Keeping(base):  # type: ignore[misc]
        def __init__(self, model: Any, /, **settings: Any) -> None:
            self.kept: dict[int, Routing] = {}
            self.beside: dict[int, Routing] = {}
            self._aside: Mask | None = None
            super().__init__(model, **settings)

        @contextmanager
        def aside(self, mask: Mask) -> Iterator[None]:
            """What runs inside is kept, and not counted."""
            self._aside, self.beside = mask, {}
            try:
                yield
                self.evaluate([array for r in self.beside.values() for array in (r.logits, r.indices)])
            finally:
                self._aside = None

        def begin(self) -> None:
            self.kept = {}
            if self._aside is None:
                super().begin()

        def end(self, failed: bool = False) -> None:
            if self._aside is None:
                super().end(failed)

        def record(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
            if self._aside is None:
                super().record(number, logits, indices, shape)
            else:
                self.beside[number] = super().routing_of(number, logits, indices, self._aside)

        def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
            record: Routing = super().routing_of(number, logits, indices, mask)
            self.kept[number] = record
            return record

    return Keeping


@contextmanager
def _layers_beside(layers: Sequence[Any], others: Sequence[Any]) -> Iterator[None]:
    """Each of ``others`` is called with whatever the layer of its place gets, and its result dropped.

    By class, as taps are put on: modules stay the same objects in the same places.
    """
    classes = [type(layer) for layer in layers]
    try:
        for layer, other in zip(layers, others, strict=True):
            layer.__class__ = _with_other(type(layer), other)
        yield
    finally:
        for layer, kind in zip(layers, classes, strict=False):
            layer.__class__ = kind


def _with_other(kind: Any, other: Any) -> Any:
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        # Some layers add to a list or a cache that they are given: this one must find them as they were.
        other(*map(_apart, args), **{name: _apart(value) for name, value in kwargs.items()})
        return kind.__call__(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": __call__})


def _apart(value: Any) -> Any:
    """What a layer may change without another one noticing; arrays and modules it does not change."""
    plain = value is None or isinstance(value, str | int | float) or hasattr(value, "dtype") or callable(value)
    return value if plain else copy.deepcopy(value)


@dataclass
class Pairing:
    """A `Watch` that compares, batch by batch, what the reference and the arm of a `Beside` chose: all routers at once,
    or those of one layer after the other. By router and batch it keeps what `Drift` has."""

    runner: Beside
    logits: bool = False
    rows: list[HostArray] = field(default_factory=list)
    lengths: list[HostArray] = field(default_factory=list)
    sums: dict[int, list[HostArray]] = field(default_factory=lambda: defaultdict(list))
    same_input: dict[int, list[HostArray]] = field(default_factory=lambda: defaultdict(list))
    margin: dict[int, list[HostArray]] = field(default_factory=lambda: defaultdict(list))
    exact: dict[int, list[HostArray]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[tuple[str, int], HostArray] = field(default_factory=dict)

    def begin(self, tokenizer: Any) -> None:
        """Texts are not needed."""

    def record(self, block: TokenBlock) -> None:
        """Records are compared whole, once both models have run."""

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """Compare the routers that were heard of a batch."""
        row = np.nonzero(batch.mask)[0]
        a, b, c = self.runner.reference.kept, self.runner.own.kept, self.runner.own.beside
        if not a.keys() == b.keys() == c.keys():
            raise RoutingError("The layers of these two models cannot be run side by side: their routers differ.")
        if 0 in a:
            self.rows.append(np.asarray(batch.rows, dtype=np.int64))
            self.lengths.append(batch.mask.sum(axis=1))
        for number in sorted(a):
            reference, own, beside = (_Said(of[number], batch.mask, stats) for of in (a, b, c))
            for who, said in (("reference", reference), ("arm", own)):
                self.counts[who, number] = self.counts.get((who, number), 0) + said.counts
            choices = reference.beside(own)
            self.sums[number].append(by_cluster(choices.table, row, len(batch.rows)))
            self.same_input[number].append(by_cluster(reference.beside(beside).table, row, len(batch.rows)))
            self.margin[number].append(choices.margin.astype(np.float32))
            self.exact[number].append(choices.exact.astype(np.bool_))

    def drift(self, reference: RoutingStats, arm: RoutingStats) -> Drift:
        """Everything; raises `RoutingError` unless what was compared is what was counted, on both sides."""
        for who, stats in (("reference", reference), ("arm", arm)):
            stats.check()  # selections are tokens x K
            for number, spec in enumerate(stats.specs):
                if not np.array_equal(self.counts[who, number], stats.totals(number).counts):
                    raise RoutingError(f"{spec.name}: the choices compared are not those that the {who} counted.")
        return Drift(
            np.concatenate(self.rows),
            np.concatenate(self.lengths).astype(np.int64),
            *(_by_router(of) for of in (self.sums, self.same_input, self.margin, self.exact)),
        )


def _by_router(batches: Mapping[int, list[HostArray]]) -> HostArray:
    """[L, ...] of the batches of each router."""
    return np.stack([np.concatenate(batches[number]) for number in sorted(batches)])


class _Said:
    """What one router said of the T tokens of a batch, on the host; the first of its experts is the top-1."""

    def __init__(self, routing: Routing, mask: Mask, stats: Recorder) -> None:
        z, indices = (stats.host(array)[mask] for array in (routing.logits, routing.indices))
        self.log_p: Floats
        self.log_p, p, _ = log_distribution(z.astype(np.float64), routing.distribution)
        indices = indices.astype(np.int64)
        (self.experts,) = ranked(indices, np.take_along_axis(p, indices, axis=-1))
        self.counts = np.bincount(indices.ravel(), minlength=z.shape[-1])
        scores = p if routing.selection is None else stats.host(routing.selection)[mask]
        self.margin: Floats = selection_margin_of(scores, selection_matrix(indices, z.shape[-1]))

    def beside(self, other: _Said) -> Choices:
        """This, the reference, beside another run of the same tokens."""
        experts = self.experts, other.experts
        kl = kl_divergence(self.log_p, other.log_p)
        return Choices(routing_overlap(*experts), exact_set(*experts), top1_flip(*experts), kl, self.margin)


def arrays_of(drift: Drift) -> dict[str, HostArray]:
    """By name, as a file keeps them."""
    return {name: np.ascontiguousarray(getattr(drift, name)) for name in Drift.__dataclass_fields__}
