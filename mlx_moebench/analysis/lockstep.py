"""Two models of one form on the same batches: what their routers choose, each by itself and on the same hidden states.

The reference runs a batch, and beside each of its layers the arm's layer of the same place sees the same input; what
comes out of that is dropped. So the arm's routers are heard where nothing but their own layer differs. Then the arm
runs the batch by itself. Both models are in memory; of tokens only margins and kept sets are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Batch
from ..errors import RoutingError
from ..measure.backends import Backend
from ..pair.stats import RecordedStats, RoutingStats
from ..routing.comparison.choices import Choices, by_cluster, exact_set, kl_divergence, routing_overlap, top1_flip
from ..routing.record import Array, Mask, Routing
from ..routing.recorder import Recorder
from ..routing.sums import Floats
from ..routing.tally import log_distribution, selection_margin_of, selection_matrix
from ..routing.tokens import TokenBlock, ranked
from ..types import HostArray


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

    def statistics(self) -> RoutingStats:
        """Those of the arm, of the same sequences as the reference's."""
        self.own.texts |= self.reference.texts
        self.own.sources = self.reference.sources
        return RoutingStats.merge([self.own])


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
    """A `Watch` that compares, batch by batch, what the reference and the arm of a `Beside` chose."""

    runner: Beside
    logits: bool = False
    rows: list[HostArray] = field(default_factory=list)
    lengths: list[HostArray] = field(default_factory=list)
    sums: list[HostArray] = field(default_factory=list)
    same_input: list[HostArray] = field(default_factory=list)
    margin: list[HostArray] = field(default_factory=list)
    exact: list[HostArray] = field(default_factory=list)
    counts: dict[tuple[str, int], HostArray] = field(default_factory=dict)

    def begin(self, tokenizer: Any) -> None:
        """Texts are not needed."""

    def record(self, block: TokenBlock) -> None:
        """Records are compared whole, once both models have run."""

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """Compare the routers of a batch."""
        row = np.nonzero(batch.mask)[0]
        self.rows.append(np.asarray(batch.rows, dtype=np.int64))
        self.lengths.append(batch.mask.sum(axis=1))
        a, b, c = self.runner.reference.kept, self.runner.own.kept, self.runner.own.beside
        if not a.keys() == b.keys() == c.keys():
            raise RoutingError("The layers of these two models cannot be run side by side: their routers differ.")
        reference = [_Said(a[number], batch.mask, stats) for number in sorted(a)]
        own, beside = ([_Said(of[number], batch.mask, stats) for number in sorted(a)] for of in (b, c))
        for who, said in (("reference", reference), ("arm", own)):
            for number, one in enumerate(said):
                self.counts[who, number] = self.counts.get((who, number), 0) + one.counts
        pairs = [[x.beside(y) for x, y in zip(reference, others, strict=True)] for others in (own, beside)]
        tables = [np.stack([by_cluster(one.table, row, len(batch.rows)) for one in those]) for those in pairs]
        self.sums.append(tables[0])
        self.same_input.append(tables[1])
        self.margin.append(np.stack([one.margin for one in pairs[0]]).astype(np.float32))
        self.exact.append(np.stack([one.exact for one in pairs[0]]).astype(np.bool_))

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
            np.concatenate(self.sums, axis=1),
            np.concatenate(self.same_input, axis=1),
            np.concatenate(self.margin, axis=1),
            np.concatenate(self.exact, axis=1),
        )


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
