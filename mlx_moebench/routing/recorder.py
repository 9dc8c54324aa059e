"""`RoutingSums` that fill while a model runs, whatever library runs it, in whatever thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ..errors import RoutingError, StatsError, did_you_mean
from ..types import Facts
from .announced import Announced
from .forwards import DRAFT, Cached, Forward, Part, Piece, Span, aligned, joined, last_valid
from .record import LIVE, Array, Dropped, Mask, Phase, RouterSpec
from .stats import RoutingSums
from .sums import Sums
from .tally import selected_of, selection_matrix, tally, transition_counts
from .tokens import TokenBlock, token_routing

TokenSink = Callable[[TokenBlock], None]
"""Called for each router and phase of a forward, in running order, once the forward counts."""
TRACED = "A forward pass inside mx.compile or mx.vmap was not recorded: run the model outside it to measure."
UNHEARD = (
    "A forward pass was not recorded, because no router was heard, as where layers were compiled before: attach "
    "first, or run them uncompiled."
)
OUT_OF_TURN = "A forward pass was not recorded, because a router ran out of its turn, as where one layer is used twice."
QUEUE = 32  # forwards whose tallies wait together to be read


class Recorder(Announced):
    """Statistics of a running model: those of prompts (phase prefill) here, the others in `phase_stats`.

    A row of a batch is one sequence of which every position counts as prompt, unless ``batch`` says otherwise.
    A forward with a KV cache that no ``batch`` describes is part of a generation whose prompt is unknown: its phase is
    ``unsplit``. Only forwards of the whole model count: a block that runs once more on the way back of gradient
    checkpointing does not.

    Any thread may run the model and any may read. What a thread announces holds for the forwards that it runs.

    A backend gives `begin`, `record` and `end` what each forward and router said, and says in `routing_of`,
    `evaluate`, `host`, `near`, `device` and `cached` how its arrays are handled. tokens: is given every token that
    counts; None measures sums only.
    """

    kind: type[RoutingSums] = RoutingSums
    """What the statistics of the other phases are."""

    together: int = 1
    """Forwards of one position whose tallies are made in one, where their rows are the same: what generates token by
    token is slowed by how many things are computed, not by how large they are. Sums round otherwise then."""

    resting: bool = False
    """Whether forwards are not heard: those of other data, which the same model runs in turn."""

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
        self._lock = threading.RLock()  # of the sums; whoever runs the model never waits for it
        self._held = 0
        self._steps: deque[Forward] = deque()  # heard, not tallied; those that follow wait for their turn
        self._queue: deque[Forward] = deque()
        self._waiting: dict[int, Forward] = {}  # by thread: of which some positions may be taken back
        self._settling = threading.Lock()  # its thread may run the next one, which goes on with the same arrays
        self._busy: set[int] = set()  # threads in the middle of a forward
        self._threads: set[int] = set()  # that ran the model
        for one in self._others.values():
            one.dropped = self.dropped  # of no phase, since nobody knows of which

    def __repr__(self) -> str:
        if not self._here.running:  # a look in the middle ends no forward
            self._sync()
        return super().__repr__()

    # -- sequences -----------------------------------------------------------------------------------------------

    def phase_stats(self, phase: Phase) -> RoutingSums:
        """What was measured in one phase, apart from the others. Statistics of two phases are never mixed.

        Raises `StatsError` for a phase that there is not.
        """
        return self._still(self.filling(phase))

    def filling(self, phase: Phase) -> RoutingSums:
        """The statistics of a phase that go on filling, for whoever runs the model in this thread alone."""
        stats = self if phase == "prefill" else self._others.get(phase)
        if stats is None:
            raise StatsError(f"There is no phase {phase!r}.{did_you_mean(phase, ['prefill', *self._others])}")
        return stats

    def still(self) -> RoutingSums:
        """These statistics, or where another thread runs the model a copy of them that does not change."""
        return self._still(self)

    def _still(self, stats: RoutingSums) -> RoutingSums:
        with self.holding():
            if self._threads <= {threading.get_ident()}:  # none yet, or this one alone
                return stats
            copied = self.kind(stats.specs, **stats.facts())
            copied.include(stats)
            return copied

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Nothing is added while it lasts; what is known to be whole is added first."""
        with self._lock:
            self._sync()
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    @contextmanager
    def looking(self) -> Iterator[dict[Phase, RoutingSums]]:
        """The statistics of every phase, uncopied: they hold still while it lasts."""
        with self.holding():
            yield {"prefill": self, **self._others}

    def take_over(self, earlier: Recorder) -> None:
        """Begin with all that was measured of the same routers before; sequences to come are others."""
        with earlier.looking() as before, self.holding():
            for phase, stats in {"prefill": self, **self._others}.items():
                stats.include(before[phase])
        self._next_row = max(self._next_row, earlier._next_row)

    def sums(self, router: int) -> Sums:
        with self._lock:
            return super().sums(router)

    def pairs(self, router: int) -> npt.NDArray[np.int64]:
        with self._lock:
            return super().pairs(router).copy()

    def transition_counts(self, router: int) -> npt.NDArray[np.int64]:
        with self._lock:
            return super().transition_counts(router).copy()

    def close(self) -> None:
        """Take the taps off; what was measured stays."""
        self._sync(last=True)
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self, span: Span) -> None:
        self._here.forward = None
        self._waiting.pop(threading.get_ident(), None)
        for waiting in (self._steps, self._queue):
            for forward in [one for one in waiting if one.span is span]:
                waiting.remove(forward)

    # -- one forward ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A forward of the whole model starts in this thread."""
        if self.resting:
            return
        here = self._here
        here.running, here.forward = True, None
        here.cached = cached = self.cached()  # now: its layers add to it before the first router is heard
        self._settle(threading.get_ident(), None if cached is None else cached.start)
        self._busy.add(threading.get_ident())
        self._threads.add(threading.get_ident())

    def record(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        """What router ``number`` said: logits [..., R], indices [..., K]; ``shape`` (B, S) of the hidden states."""
        here = self._here
        if not here.running:
            return
        if here.forward is None:
            here.forward = self._begin(shape)
        forward = here.forward
        if forward.heard and number <= max(forward.heard):
            forward.dropped = forward.dropped or OUT_OF_TURN
        forward.heard[number] = (logits, indices)

    def end(self, failed: bool = False) -> None:
        """The forward of this thread is over; one that failed does not count, which its error says."""
        if self.resting:
            return
        here = self._here
        forward, here.forward, here.running = here.forward, None, False
        self._busy.discard(threading.get_ident())
        if failed or (forward is None and self._has_none(here.announced)):
            return
        if forward is None:
            self._drop(UNHEARD, 0)
            return
        if forward.dropped is None and len(forward.heard) != len(self._expected(forward)):
            forward.dropped = self._incomplete(forward)
        if forward.dropped is not None:
            self._drop(forward.dropped, forward.positions)
            return
        cached = forward.cached
        if cached is not None and cached.watch is not None and 1 < forward.shape[1] <= DRAFT:
            self._wait(forward, cached.watch)
        else:
            self._finish(forward)

    def _begin(self, shape: tuple[int, ...]) -> Forward:
        """A forward of ``shape`` (B, S) has reached its first router."""
        if len(shape) != 2:
            raise RoutingError(f"A forward pass should see hidden states [B, S, D], but the first block saw {shape}.")
        span, cached = self._here.announced, self._here.cached
        if span is not None:
            if span.prompt_lengths is None:
                span.restart()  # without prompt lengths every forward is whole
            return self._of_span(span, shape, cached)
        if (rows := self.rows(shape)) is not None:
            clusters = self._request_clusters(rows.keys)
            return Forward(self._here.batched, rows.masks(), shape, 0, clusters, rows.keys)
        if (why := self.unrecorded()) is not None:
            return Forward(Span([]), {}, shape, dropped=why)
        if cached is None:
            return self._of_span(Span([]), shape, None)
        bare = self._here.bare
        if bare is None or len(bare.clusters) != shape[0] or not bare.goes_on_with(cached):
            self._here.bare = bare = Span([])
        bare.cached = cached
        forward = self._of_span(bare, shape, cached)
        forward.masks = {"unsplit": forward.masks["prefill"]}
        return forward

    def _of_span(self, span: Span, shape: tuple[int, ...], cached: Cached | None) -> Forward:
        rows, length = shape
        if not span.clusters:
            span.clusters = self._new_clusters(rows)
        span.check(rows, length)
        counts = np.ones(shape, dtype=bool) if span.mask is None else span.mask.copy()
        start = span.starting(length, cached)
        return Forward(span, span.masks(counts, start), shape, start, span.clusters, cached=cached)

    def _expected(self, forward: Forward) -> range:
        """The routers that should be heard."""
        return range(len(self.specs)) if forward.span.part is None else forward.span.part.routers

    @staticmethod
    def _has_none(span: Span | None) -> bool:
        """Whether the forward is a part of one in which no router runs, as that of a dense layer."""
        return span is not None and span.part is not None and not span.part.routers

    def _incomplete(self, forward: Forward) -> str:
        silent = [self.specs[number] for number in self._expected(forward) if number not in forward.heard]
        names = " and ".join(spec.name for spec in silent[:2])
        more = f" and {len(silent) - 2} others" if len(silent) > 2 else ""
        of_images = any(spec.router == "vision" for spec in silent)
        advice = ": without an image, give a model that has routers for images token_type_ids of 0" if of_images else ""
        return f"{names}{more} did not run, so this forward pass is not recorded{advice}."

    # -- what is taken back --------------------------------------------------------------------------------------

    def _wait(self, forward: Forward, watch: Callable[[Callable[[int], None]], Callable[[], None]]) -> None:
        """Keep what was heard until it is known how much of it stays: speculative decoding takes back what it drafted
        in vain."""
        if not self.evaluate(forward.arrays()):
            self._drop(TRACED, forward.positions)
            return
        held = (forward.cached.start or 0) if forward.cached else 0
        forward.drafted = self.drafting()
        forward.unwatch = watch(lambda left: forward.keep(left - held))
        self._waiting[threading.get_ident()] = forward

    def _settle(self, thread: int, held: int | None = None) -> None:
        """Count what waits in a thread; ``held`` positions are in the cache now, where that is known."""
        with self._settling:
            forward = self._waiting.pop(thread, None)
            if forward is None:
                return
            forward.unwatch()
            before = forward.cached.start if forward.cached else None
            if held is not None and before is not None and held >= before:
                forward.keep(held - before)
            self._finish(forward)
            if thread != threading.get_ident():
                # MLX crashes where two threads evaluate the same arrays: they are done before that thread sees them.
                for array in forward.span.last.values():
                    self.host(array)

    # -- adding --------------------------------------------------------------------------------------------------

    def _finish(self, forward: Forward) -> None:
        """Tally a forward whose positions are known, now or with others."""
        if self.together == 1:
            self._tally(forward)
            if len(self._queue) >= QUEUE:
                self._unless_read(self._flush)
            return
        forward.heard = {number: (self.own(z), self.own(i)) for number, (z, i) in forward.heard.items()}
        if not self.evaluate(forward.arrays()):
            self._drop(TRACED, forward.positions)
            return
        self._steps.append(forward)
        if len(self._steps) >= self.together or not forward.is_step:
            self._unless_read(self._tally_steps)

    def _unless_read(self, work: Callable[[], None]) -> None:
        """Do it, unless someone reads, who then does it."""
        if self._lock.acquire(blocking=False):
            try:
                if not self._held:
                    work()
            finally:
                self._lock.release()

    def _tally_steps(self) -> None:
        """Tally what was heard, in order. Only under the lock, because what comes next goes on with it."""
        while self._steps:
            every = [self._steps.popleft()]
            while len(every) < self.together and self._steps and self._steps[0].follows(every[-1]):
                every.append(self._steps.popleft())
            self._tally(every[0] if len(every) == 1 else joined(every))
        if len(self._queue) >= QUEUE:
            self._flush()

    def _tally(self, forward: Forward) -> None:
        """Tally a forward, and queue it to be added."""
        part = forward.span.part
        for phase, mask in forward.masks.items():
            previous = None if part is None else self._chosen_before(forward, part, mask)
            for number, (logits, indices) in forward.heard.items():
                routing = self.routing_of(number, logits, indices, mask)
                result = tally(routing, self._before(forward, phase, number))
                moves = None
                if previous is not None:
                    moves = transition_counts(self.near(previous, result.selected), result.selected)
                previous = result.selected
                tokens = None if self._tokens is None else token_routing(routing)
                forward.pieces.append(Piece(phase, number, result, moves, tokens))
                self._remember(forward, phase, number, result.selected, mask)
        if part is not None:
            part.after = next(reversed(forward.heard.values()))[1]
        forward.heard = {}
        if not self.evaluate([*forward.arrays(), *forward.span.last.values()]):
            self._drop(TRACED, forward.positions)
            return
        forward.pieces = [piece.light() for piece in forward.pieces]
        self._queue.append(forward)

    def _chosen_before(self, forward: Forward, part: Part, mask: Mask) -> Array | None:
        """``Tally.selected`` of the router before those of a part."""
        if part.before is None:
            return None
        indices = part.before.reshape(*mask.shape, -1)  # some blocks flatten a batch
        chosen = selection_matrix(indices, self.specs[part.routers.start - 1].n_experts)
        return selected_of(chosen, self.device(mask, chosen))

    def _before(self, forward: Forward, phase: Phase, number: int) -> Array | None:
        """[B, R] ``selected`` of the position before the first of this forward, where it goes on with something."""
        last = forward.span.last.get((phase, number))
        if last is None or forward.keys is None:
            return last
        return aligned(last, forward.span.keys[phase, number], forward.keys, self.device)

    def _remember(self, forward: Forward, phase: Phase, number: int, selected: Array, mask: Mask) -> None:
        span = forward.span
        if forward.keys is None and span.prompt_lengths is None and span.cached is None:
            return  # a forward of its own
        before = self._before(forward, phase, number)
        span.last[phase, number] = last_valid(selected, mask, before, self.device)
        span.keys[phase, number] = forward.keys or ()

    def _drop(self, why: str, positions: int) -> None:
        """Count a forward that is not recorded, and say so the first time."""
        if why not in self.dropped:
            self.say(why)
        self._lose(why, Dropped(1, positions))

    def _sync(self, last: bool = False) -> None:
        """Add all that is known to be whole. What another thread is in the middle of comes later, and so does a draft
        of which nothing was taken back yet, unless this is the ``last`` time."""
        with self._lock:
            if self._held:
                return
            for thread, forward in list(self._waiting.items()):
                if thread not in self._busy and (last or not forward.drafted):
                    self._settle(thread)
            self._tally_steps()
            self._flush()

    def _flush(self) -> None:
        """Add every forward in the queue; one whose numbers are none is left out, and raises after the others."""
        wrong: list[RoutingError] = []
        while self._queue:
            forward = self._queue.popleft()
            try:
                # All are checked before any is added: a forward counts whole or not at all.
                checked = [self.checked(p.number, forward.clusters, p.tally.on_host(self.host)) for p in forward.pieces]
            except RoutingError as error:
                wrong.append(error)
                continue
            for piece, sums in zip(forward.pieces, checked, strict=True):
                into = self if piece.phase == "prefill" else self._others[piece.phase]
                into.add_sums(piece.number, forward.clusters, sums, self.host(piece.tally.pairs))
                if piece.moves is not None:
                    into.add_transition(piece.number - 1, self.host(piece.moves))
                if self._tokens is not None:
                    self._tokens(piece.block(forward, sums, self.host))
        if wrong:
            raise wrong[0]
