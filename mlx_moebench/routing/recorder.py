"""`RoutingSums` that fill while a model runs, whatever library runs it."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from ..errors import RoutingError, StatsError, did_you_mean
from ..types import Facts, HostArray
from .record import LIVE, Array, Mask, Phase, RouterSpec, Routing
from .stats import Cluster, RoutingSums
from .sums import Sums
from .tally import Tally, tally, transition_counts
from .tokens import TOKEN_SCALARS, TokenBlock, TokenRouting, token_routing

TokenSink = Callable[[TokenBlock], None]
"""Called for each router and phase of a forward, in running order, once the forward counts."""
QUEUE = 32  # forwards whose tallies wait together; evaluating each at once would stop a generation's pipelining


@dataclass
class Span:
    """The sequences that a series of forward passes goes through, piece by piece."""

    clusters: list[Cluster]
    mask: Mask | None
    prompt_lengths: npt.NDArray[np.int64] | None
    cache: Callable[[], object] = lambda: None  # of a bare generation: a weak reference to its KV cache
    position: int = 0
    # By phase and router: `selected` at the last position, so that adjacent tokens count across pieces.
    last: dict[tuple[Phase, int], Array] = field(default_factory=dict)
    # The same sequences in other statistics of the same model.
    elsewhere: list[tuple[Recorder, Span]] = field(default_factory=list)

    def check(self, rows: int, length: int) -> None:
        """Raises `RoutingError` where it does not fit a forward pass of so many rows and positions."""
        if len(self.clusters) != rows:
            raise RoutingError(f"{len(self.clusters)} ids were given for a batch of {rows} rows.")
        if self.mask is not None and self.mask.shape != (rows, length):
            raise RoutingError(f"The mask has shape {self.mask.shape}, but the model was given {(rows, length)}.")
        if self.prompt_lengths is not None and self.prompt_lengths.shape != (rows,):
            raise RoutingError(f"{self.prompt_lengths.size} prompt lengths were given for a batch of {rows} rows.")


def _by_phase(counts: Mask, prompt_lengths: npt.NDArray[np.int64], start: int) -> dict[Phase, Mask]:
    """``counts`` [B, S] by the phase of each position, the first of which is ``start``; phases without any are absent.

    Phase comes from position: mlx-lm feeds a prompt in chunks, and its last token alone.
    """
    end = start + counts.shape[1]
    prompt = np.arange(start, end)[None] < prompt_lengths[:, None]
    masks: dict[Phase, Mask] = {}
    if start < prompt_lengths.max():
        masks["prefill"] = counts & prompt
    if end > prompt_lengths.min():
        masks["decode"] = counts & ~prompt
    return masks


class _Piece(NamedTuple):
    """One router's tally of one forward pass, not evaluated yet."""

    phase: Phase
    number: int
    clusters: list[Cluster]
    tally: Tally
    moves: Array | None
    start: int
    mask: Mask
    tokens: TokenRouting | None

    def arrays(self) -> list[Array]:
        """Everything to evaluate before it is read on the host."""
        tokens = [] if self.tokens is None else self.tokens.arrays()
        return [*self.tally.arrays(), *tokens, *([] if self.moves is None else [self.moves])]

    def block(self, sums: Sums, host: Callable[[Array], HostArray]) -> TokenBlock:
        """Its tokens on the host."""
        assert self.tokens is not None
        experts, p, weights = (host(a) for a in (self.tokens.experts, self.tokens.p, self.tokens.weights))
        scalars = {name: host(getattr(self.tokens, name)) for name in TOKEN_SCALARS}
        return TokenBlock(self.phase, self.number, self.start, self.mask, experts, p, weights, scalars, sums)


@dataclass
class _Forward:
    """One forward pass while it runs: what counts in which phase, and what its routers gave so far."""

    span: Span
    masks: dict[Phase, Mask]
    start: int = 0
    pieces: list[_Piece] = field(default_factory=list)
    routers: int = 0


class Recorder(RoutingSums):
    """Statistics of a running model: those of prompts (phase prefill) here, the others in `phase_stats`.

    A row of a batch is one sequence of which every position counts as prompt, unless ``batch`` says otherwise.
    A forward with a KV cache that no ``batch`` describes is part of a generation whose prompt is unknown: its phase is
    ``unsplit``. Reading the statistics evaluates what is still pending.

    A backend gives `record` what each router said, and says in `routing_of`, `evaluate`, `host`, `near` and `cache` how
    its arrays are handled. tokens: is given every token that counts; None measures sums only.
    """

    kind: type[RoutingSums] = RoutingSums
    """What the statistics of the other phases are."""

    def __init__(
        self,
        specs: Sequence[RouterSpec],
        *,
        sources: Mapping[str, Facts] | None = None,
        tokens: TokenSink | None = None,
        **settings: Any,
    ) -> None:
        sources = sources or {LIVE: {"name": LIVE}}
        super().__init__(specs, sources=sources, **settings)
        others: tuple[Phase, ...] = ("decode", "unsplit")
        self._others = {p: self.kind(self.specs, phase=p, sources=sources, **settings) for p in others}
        self._tokens = tokens
        self._announced: Span | None = None
        self._bare: Span | None = None
        self._forward: _Forward | None = None
        self._queue: list[_Piece] = []
        self._next_row = 0  # above every row used, so that rows without an id are sequences of their own

    def __repr__(self) -> str:
        if self._forward is None or self._forward.routers == len(self.specs):  # a look in the middle ends no forward
            self._sync()
        return super().__repr__()

    # -- what a backend says of its arrays -----------------------------------------------------------------------

    def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
        """The record of router ``number``, on the device that holds the logits; mask [B, S]."""
        raise NotImplementedError

    def evaluate(self, arrays: Sequence[Array]) -> bool:
        """Compute what is pending; False where the arrays are placeholders of a traced function."""
        return True

    def host(self, array: Array) -> HostArray:
        """An array in the host's memory."""
        return np.asarray(array)

    def near(self, array: Array, other: Array) -> Array:
        """``array`` on the device of ``other``."""
        return array

    def cache(self) -> object:
        """The KV cache that the running forward was called with; None without one."""
        return None

    def unrecorded(self) -> str | None:
        """Why the running forward, which nobody described, cannot be counted; None where it can."""
        return None

    def sinks(self) -> Sequence[object]:
        """What else is told by the model, methods of other recorders among them."""
        return ()

    def release(self) -> None:
        """Let go of the model."""

    # -- sequences -----------------------------------------------------------------------------------------------

    def phase_stats(self, phase: Phase) -> RoutingSums:
        """What was measured in one phase, apart from the others. Statistics of two phases are never mixed.

        Raises `StatsError` for a phase that there is not.
        """
        stats = self if phase == "prefill" else self._others.get(phase)
        if stats is None:
            raise StatsError(f"There is no phase {phase!r}.{did_you_mean(phase, ['prefill', *self._others])}")
        self._sync()
        return stats

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
        positions are phase decode, however the forwards are cut. None means that all are prompt. Other statistics that
        are attached to the same model take mask and prompt_lengths over, unless they are inside a ``batch`` themselves.
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
        lengths = None if prompt_lengths is None else np.asarray(prompt_lengths, dtype=np.int64)
        allowed = None if mask is None else np.asarray(mask, dtype=bool)
        span = Span(self._clusters_of(ids), allowed, lengths)
        for one in (getattr(sink, "__self__", None) for sink in self.sinks()):
            if isinstance(one, Recorder) and one is not self:
                span.elsewhere.append((one, Span([], allowed, lengths)))
        return span

    @contextmanager
    def within(self, span: Span) -> Iterator[None]:
        """The forward passes inside go on with ``span``; what was announced before holds again afterwards."""
        before, self._announced = self._announced, span
        try:
            with ExitStack() as stack:
                for other, same in span.elsewhere:
                    if not other.described:
                        stack.enter_context(other.within(same))
                yield
        finally:
            self._end()
            self._announced = before

    @property
    def described(self) -> bool:
        """Whether the forward passes to come were announced, by `batch` or `within`."""
        return self._announced is not None

    def close(self) -> None:
        """Take the taps off; what was measured stays."""
        self._sync()
        self.release()

    def __enter__(self) -> Self:
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

    def record(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        """What router ``number`` said: logits [..., R], indices [..., K]; ``shape`` (B, S) of the hidden states."""
        if number == 0 or self._forward is None:
            self._forward = self._begin(shape)
        forward, span = self._forward, self._forward.span
        for phase, mask in forward.masks.items():
            routing = self.routing_of(number, logits, indices, mask)
            result = tally(routing, span.last.get((phase, number)))
            previous = next((p for p in forward.pieces if (p.phase, p.number) == (phase, number - 1)), None)
            moves = None
            if previous is not None:
                moves = transition_counts(self.near(previous.tally.selected, result.selected), result.selected)
            tokens = None if self._tokens is None else token_routing(routing)
            forward.pieces.append(_Piece(phase, number, span.clusters, result, moves, forward.start, mask, tokens))
            span.last[phase, number] = result.selected[:, -1]
        forward.routers += 1

    def _begin(self, shape: tuple[int, ...]) -> _Forward:
        """A new forward of ``shape`` (B, S) starts at its first router."""
        self._end()
        if len(shape) != 2:
            raise RoutingError(f"A forward pass should see hidden states [B, S, D], but the first block saw {shape}.")
        if self._announced is None and (why := self.unrecorded()) is not None:
            warnings.warn(why, RuntimeWarning, stacklevel=2)
            return _Forward(Span([], None, None), {})
        rows, length = shape
        span, unknown = self._span(rows)
        if not span.clusters:
            span.clusters = [(next(iter(self.sources)), self._next_row + row) for row in range(rows)]
            self._next_row += rows
        span.check(rows, length)
        counts = np.ones(shape, dtype=bool) if span.mask is None else span.mask
        start, span.position = span.position, span.position + length
        if unknown:
            return _Forward(span, {"unsplit": counts}, start)
        if span.prompt_lengths is None:
            return _Forward(span, {"prefill": counts}, start)
        return _Forward(span, _by_phase(counts, span.prompt_lengths, start), start)

    def _span(self, rows: int) -> tuple[Span, bool]:
        """The sequences that a starting forward belongs to, and whether their prompt is unknown."""
        if self._announced is not None:
            if self._announced.prompt_lengths is None:
                self._announced.position, self._announced.last = 0, {}  # a forward without prompt lengths is whole
            return self._announced, False
        cache = self.cache()
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
        if not self.evaluate(arrays):
            return
        # All are checked before any is added: a forward counts whole or not at all.
        checked = [self.checked(p.number, p.clusters, p.tally.on_host(self.host)) for p in queue]
        for piece, sums in zip(queue, checked, strict=True):
            into = self if piece.phase == "prefill" else self._others[piece.phase]
            into.add_sums(piece.number, piece.clusters, sums, self.host(piece.tally.pairs))
            if piece.moves is not None:
                into.add_transition(piece.number - 1, self.host(piece.moves))
            if self._tokens is not None:
                self._tokens(piece.block(sums, self.host))
