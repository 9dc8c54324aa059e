"""`RoutingStats` that fill while a model runs."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..environment import environment
from ..errors import RoutingError
from ..routing.record import Array, Phase, router_warnings
from ..routing.stats import Cluster, RoutingStats
from ..routing.sums import Sums
from ..routing.tally import Tally, tally, transition_counts
from ..routing.tokens import TOKEN_SCALARS, TokenBlock, TokenRouting, token_routing
from .capture import Capture, config_of, is_traced, routers_of

LIVE = "live"
"""The data set name of rows that came without a name."""
TokenSink = Callable[[TokenBlock], None]
"""Called for each router and phase of a forward, in running order, once the forward counts."""
QUEUE = 32  # forwards whose tallies wait together; evaluating each at once would stop a generation's pipelining


@dataclass
class Span:
    """The sequences that a series of forward passes goes through, piece by piece."""

    clusters: list[Cluster]
    mask: Array | None
    prompt_lengths: Array | None
    cache: Callable[[], Any] = lambda: None  # of a bare generation: a weak reference to its KV cache
    position: int = 0
    # By phase and router: `selected` at the last position, so that adjacent tokens count across pieces.
    last: dict[tuple[Phase, int], Array] = field(default_factory=dict)


class _Piece(NamedTuple):
    """One router's tally of one forward pass, not evaluated yet."""

    phase: Phase
    number: int
    clusters: list[Cluster]
    tally: Tally
    moves: Array | None
    start: int
    mask: Array
    tokens: TokenRouting | None

    def arrays(self) -> list[Array]:
        """Everything to evaluate before it is read on the host."""
        tokens = [] if self.tokens is None else [self.mask, *self.tokens.arrays()]
        return [*self.tally.arrays(), *tokens, *([] if self.moves is None else [self.moves])]

    def block(self, sums: Sums) -> TokenBlock:
        """Its tokens on the host."""
        assert self.tokens is not None
        experts, p, weights = (np.asarray(a) for a in (self.tokens.experts, self.tokens.p, self.tokens.weights))
        scalars = {name: np.asarray(getattr(self.tokens, name)) for name in TOKEN_SCALARS}
        mask = np.asarray(self.mask)
        return TokenBlock(self.phase, self.number, self.start, mask, experts, p, weights, scalars, sums)


@dataclass
class _Forward:
    """One forward pass while it runs: what counts in which phase, and what its routers gave so far."""

    span: Span
    masks: dict[Phase, Array]
    start: int = 0
    pieces: list[_Piece] = field(default_factory=list)
    routers: int = 0


class LiveRoutingStats(RoutingStats):
    """Statistics of a tapped model: those of prompts (phase prefill) here, the others in `phase_stats`.

    A row of a batch is one sequence of which every position counts as prompt, unless ``batch`` says otherwise.
    A forward with a KV cache that no ``batch`` describes is part of a generation whose prompt is unknown: its phase is
    ``unsplit``. Reading the statistics evaluates what is still pending.

    tokens: is given every token that counts; None measures sums only.
    """

    def __init__(
        self,
        model: nn.Module,
        /,
        *,
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        tokens: TokenSink | None = None,
        **settings: Any,
    ) -> None:
        sources = sources or {LIVE: {"name": LIVE}}
        super().__init__(routers_of(model), sources=sources, **settings)
        others: tuple[Phase, ...] = ("decode", "unsplit")
        self._others = {p: RoutingStats(self.specs, phase=p, sources=sources, **settings) for p in others}
        self._tokens = tokens
        self._announced: Span | None = None
        self._bare: Span | None = None
        self._forward: _Forward | None = None
        self._queue: list[_Piece] = []
        self._next_row = 0  # above every row used, so that rows without an id are sequences of their own
        self._capture = Capture(model, self._record)

    def phase_stats(self, phase: Phase) -> RoutingStats:
        """What was measured in one phase, apart from the others. Statistics of two phases are never mixed."""
        self._sync()
        return self if phase == "prefill" else self._others[phase]

    @contextmanager
    def batch(
        self,
        mask: npt.ArrayLike | None = None,
        ids: Sequence[int | Cluster] | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> Iterator[None]:
        """Describe the forward passes inside, which together go through the same B sequences from their start.

        mask: [B, S] True where a position counts. ids: of the B sequences, each the row in the data set, or (sha256 of
        the data set, row); rows that share an id are one sequence. prompt_lengths: [B] tokens of each prompt; later
        positions are phase decode, however the forwards are cut. None means that all are prompt.
        """
        self._sync()
        with self.within(self.describe(mask, ids, prompt_lengths)):
            whole = False
            try:
                yield
                whole = True
            finally:
                if not whole:  # what an error or Ctrl-C cut short does not count
                    self._forward, self._queue = None, []
        self._sync()

    def describe(
        self,
        mask: npt.ArrayLike | None = None,
        ids: Sequence[int | Cluster] | None = None,
        prompt_lengths: Sequence[int] | None = None,
    ) -> Span:
        """Sequences that several ``within`` blocks go through piece by piece; arguments as for ``batch``."""
        lengths = None if prompt_lengths is None else mx.array(np.asarray(prompt_lengths, dtype=np.int32))
        allowed = None if mask is None else mx.array(np.asarray(mask, dtype=bool))
        return Span(self._clusters_of(ids), allowed, lengths)

    @contextmanager
    def within(self, span: Span) -> Iterator[None]:
        """The forward passes inside go on with ``span``; what was announced before holds again afterwards."""
        before, self._announced = self._announced, span
        try:
            yield
        finally:
            self._end()
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

    def _clusters_of(self, ids: Sequence[int | Cluster] | None) -> list[Cluster]:
        if ids is None:
            return []
        if len(self.sources) != 1 and not all(isinstance(i, tuple) for i in ids):
            raise RoutingError("With several data sources an id is a pair (sha256 of the data set, row).")
        only = next(iter(self.sources))
        clusters = [i if isinstance(i, tuple) else (only, int(i)) for i in ids]
        self._next_row = max(self._next_row, *(row + 1 for _, row in clusters))
        return clusters

    def _record(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        if number == 0 or self._forward is None:
            self._forward = self._begin(shape)
        forward, span = self._forward, self._forward.span
        for phase, mask in forward.masks.items():
            routing = self._capture.routing(number, logits, indices, mask)
            result = tally(routing, span.last.get((phase, number)))
            previous = next((p for p in forward.pieces if (p.phase, p.number) == (phase, number - 1)), None)
            moves = transition_counts(previous.tally.selected, result.selected) if previous else None
            tokens = None if self._tokens is None else token_routing(routing)
            forward.pieces.append(
                _Piece(phase, number, span.clusters, result, moves, forward.start, routing.mask, tokens)
            )
            span.last[phase, number] = result.selected[:, -1]
        forward.routers += 1

    def _begin(self, shape: tuple[int, ...]) -> _Forward:
        """A new forward of ``shape`` (B, S) starts at its first router."""
        self._end()
        if len(shape) != 2:
            raise RoutingError(f"A forward pass should see hidden states [B, S, D], but the first block saw {shape}.")
        rows, length = shape
        if self._announced is None and hasattr(self._capture.cache(0), "left_padding"):
            warnings.warn(
                "Batched generation pads and reorders its rows and is not recorded: use mlx_moebench.stream_generate.",
                RuntimeWarning,
                stacklevel=2,
            )
            return _Forward(Span([], None, None), {})
        span, unknown = self._span(rows)
        if not span.clusters:
            span.clusters = [(next(iter(self.sources)), self._next_row + row) for row in range(rows)]
            self._next_row += rows
        if len(span.clusters) != rows:
            raise RoutingError(f"{len(span.clusters)} ids were given for a batch of {rows} rows.")
        if span.mask is not None and tuple(span.mask.shape) != tuple(shape):
            raise RoutingError(f"The mask has shape {tuple(span.mask.shape)}, but the model was given {tuple(shape)}.")
        counts = mx.ones(shape, dtype=mx.bool_) if span.mask is None else span.mask
        start, span.position = span.position, span.position + length
        if unknown:
            return _Forward(span, {"unsplit": counts}, start)
        if span.prompt_lengths is None:
            return _Forward(span, {"prefill": counts}, start)
        if span.prompt_lengths.shape != (rows,):
            raise RoutingError(f"{span.prompt_lengths.size} prompt lengths were given for a batch of {rows} rows.")
        # Phase comes from position: mlx-lm feeds a prompt in chunks, and its last token alone.
        prompt = mx.arange(start, start + length)[None] < span.prompt_lengths[:, None]
        masks: dict[Phase, Array] = {"prefill": counts & prompt, "decode": counts & ~prompt}
        longest, shortest = span.prompt_lengths.max().item(), span.prompt_lengths.min().item()
        if start + length <= shortest:
            del masks["decode"]
        elif start >= longest:
            del masks["prefill"]
        return _Forward(span, masks, start)

    def _span(self, rows: int) -> tuple[Span, bool]:
        """The sequences that a starting forward belongs to, and whether their prompt is unknown."""
        if self._announced is not None:
            if self._announced.prompt_lengths is None:
                self._announced.position, self._announced.last = 0, {}  # a forward without prompt lengths is whole
            return self._announced, False
        cache = self._capture.cache(0)
        if cache is None:
            return Span([], None, None), False
        if self._bare is None or self._bare.cache() is not cache or len(self._bare.clusters) != rows:
            self._bare = Span([], None, None, weakref.ref(cache))
        return self._bare, True

    def _end(self) -> None:
        """The running forward is over: queue it if it reached every router, else drop it, in every phase."""
        forward, self._forward = self._forward, None
        if forward is not None and forward.routers == len(self.specs):
            self._queue += forward.pieces
            if len(self._queue) >= QUEUE * len(self.specs):
                self._flush()

    def _sync(self) -> None:
        self._end()
        self._flush()

    def _flush(self) -> None:
        queue, self._queue = self._queue, []
        arrays = [array for p in queue for array in p.arrays()]
        if not arrays:
            return
        if is_traced(*arrays):
            warnings.warn(
                "A forward pass inside mx.compile or mx.vmap was not recorded: run the model outside it to measure.",
                RuntimeWarning,
                stacklevel=3,
            )
            return
        mx.eval(*arrays)
        # All are checked before any is added: a forward counts whole or not at all.
        checked = [self.checked(p.number, p.clusters, p.tally) for p in queue]
        for piece, sums in zip(queue, checked, strict=True):
            into = self if piece.phase == "prefill" else self._others[piece.phase]
            into.add_sums(piece.number, piece.clusters, sums, np.asarray(piece.tally.pairs))
            if piece.moves is not None:
                into.add_transition(piece.number - 1, piece.moves)
            if self._tokens is not None:
                self._tokens(piece.block(sums))


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
