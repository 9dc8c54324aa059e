"""What runs while a `Recorder` listens: the sequences that forwards go through, and one forward at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from ..errors import RoutingError
from ..types import HostArray
from .record import Array, Mask, Phase
from .sums import Sums
from .tally import Tally
from .tokens import TOKEN_SCALARS, TokenBlock, TokenRouting

if TYPE_CHECKING:
    from .announced import Announced
    from .stats import Cluster

ToDevice = Callable[[HostArray, Array], Array]
"""``device(array, other)``: an array of the host beside another, see `Recorder.device`."""

DRAFT = 64
"""Positions of a forward up to which some may be taken back later, as speculative decoding does."""


class Cached(NamedTuple):
    """The KV cache that a forward was given.

    continues: whether it is the cache of an earlier forward, after which ``position`` positions were in it.
    start: positions that it holds now; None where it does not say. watch: is told by it of every later number of
    positions that is left when some are taken back, until what it returns is called.
    """

    continues: Callable[[Cached, int], bool]
    start: int | None = None
    watch: Callable[[Callable[[int], None]], Callable[[], None]] | None = None


@dataclass
class Part:
    """Some routers of a forward that is run layer by layer.

    routers: their numbers. before: [B, S, K] what the router before them chose, None where there is none; after: the
    same of the last of them, once the forward was heard.
    """

    routers: range
    before: Array | None = None
    after: Array | None = None


@dataclass
class Span:
    """The sequences that a series of forward passes goes through, piece by piece.

    last: by phase and router `selected` at the last position, so that adjacent tokens count across pieces; keys says
    which sequence each of its rows is. elsewhere: the same sequences in other statistics of the same model.
    base: positions in the cache before the first of these forwards. cached: the cache of a generation that nobody
    announced. part: the routers that run, where that is not all of them.
    """

    clusters: list[Cluster]
    mask: Mask | None = None
    prompt_lengths: npt.NDArray[np.int64] | None = None
    position: int = 0
    last: dict[tuple[Phase, int], Array] = field(default_factory=dict)
    keys: dict[tuple[Phase, int], tuple[Hashable, ...]] = field(default_factory=dict)
    elsewhere: list[tuple[Announced, Span]] = field(default_factory=list)
    base: int | None = None
    cached: Cached | None = None
    part: Part | None = None

    def check(self, rows: int, length: int) -> None:
        """Raises `RoutingError` where it does not fit a forward pass of so many rows and positions."""
        if len(self.clusters) != rows:
            raise RoutingError(f"{len(self.clusters)} ids were given for a batch of {rows} rows.")
        if self.mask is not None and self.mask.shape != (rows, length):
            raise RoutingError(f"The mask has shape {self.mask.shape}, but the model was given {(rows, length)}.")
        if self.prompt_lengths is not None and self.prompt_lengths.shape != (rows,):
            raise RoutingError(f"{self.prompt_lengths.size} prompt lengths were given for a batch of {rows} rows.")

    def starting(self, length: int, cached: Cached | None) -> int:
        """The position, from the start of these sequences, of a forward of ``length`` that starts now."""
        held = None if cached is None else cached.start
        if held is not None:
            self.base = held - self.position if self.base is None else self.base
            self.position = held - self.base
        start, self.position = self.position, self.position + length
        return start

    def goes_on_with(self, cached: Cached) -> bool:
        """Whether a cache is the one that these sequences have."""
        return self.cached is not None and cached.continues(self.cached, (self.base or 0) + self.position)

    def restart(self) -> None:
        """The next forward is one of its own."""
        self.position, self.base, self.last, self.keys = 0, None, {}, {}

    def masks(self, counts: Mask, start: int) -> dict[Phase, Mask]:
        """``counts`` [B, S] by the phase of each position, the first of which is ``start``."""
        if self.prompt_lengths is None:
            return {"prefill": counts}
        return by_phase(counts, self.prompt_lengths, start)


@dataclass(frozen=True)
class Rows:
    """The rows of one forward of batched generation, as the generator that runs it knows them.

    keys: one for each of B requests. counts: [B, S] True where a position is a token. generated: [B] whether the
    tokens of a row were generated, not given.
    """

    keys: tuple[Hashable, ...]
    counts: Mask
    generated: Mask

    def masks(self) -> dict[Phase, Mask]:
        """``counts`` by phase; phases without any are absent."""
        parts: dict[Phase, Mask] = {
            "prefill": self.counts & ~self.generated[:, None],
            "decode": self.counts & self.generated[:, None],
        }
        return {phase: mask for phase, mask in parts.items() if mask.any()}


def by_phase(counts: Mask, prompt_lengths: npt.NDArray[np.int64], start: int) -> dict[Phase, Mask]:
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


class Piece(NamedTuple):
    """One router's tally of one forward pass."""

    phase: Phase
    number: int
    tally: Tally
    moves: Array | None
    tokens: TokenRouting | None

    def arrays(self) -> list[Array]:
        """Everything that is read on the host."""
        tokens = [] if self.tokens is None else self.tokens.arrays()
        return [*self.tally.arrays(), *tokens, *([] if self.moves is None else [self.moves])]

    def light(self) -> Piece:
        """Without ``selected``, which is of size tokens x R and was needed for the moves alone."""
        return self._replace(tally=replace(self.tally, selected=None))

    def block(self, forward: Forward, sums: Sums, host: Callable[[Array], HostArray]) -> TokenBlock:
        """Its tokens on the host."""
        assert self.tokens is not None
        experts, p, weights = (host(a) for a in (self.tokens.experts, self.tokens.p, self.tokens.weights))
        scalars = {name: host(getattr(self.tokens, name)) for name in TOKEN_SCALARS}
        mask = forward.masks[self.phase]
        return TokenBlock(
            self.phase, self.number, forward.start, mask, experts, p, weights, scalars, sums, tuple(forward.clusters)
        )


@dataclass(eq=False)
class Forward:
    """One forward pass: what counts in which phase, and what its routers gave.

    heard: (logits, indices) of each router by its number, kept only until the forward ends, or until it is known
    how many of its positions stay. dropped: why it is not recorded. drafted: whether some of it may yet be taken back.
    """

    span: Span
    masks: dict[Phase, Mask]
    shape: tuple[int, ...]
    start: int = 0
    clusters: list[Cluster] = field(default_factory=list)
    keys: tuple[Hashable, ...] | None = None
    heard: dict[int, tuple[Array, Array]] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    dropped: str | None = None
    cached: Cached | None = None
    unwatch: Callable[[], None] = lambda: None
    drafted: bool = False

    @property
    def positions(self) -> int:
        """Rows x positions, valid or not."""
        return int(np.prod(self.shape))

    def arrays(self) -> list[Array]:
        """Everything to evaluate before another thread may read it."""
        of_pieces = [array for piece in self.pieces for array in piece.arrays()]
        return [*of_pieces, *(array for pair in self.heard.values() for array in pair)]

    @property
    def is_step(self) -> bool:
        """Whether it is one position of every row, all of one phase and all counting, as where tokens are generated."""
        return self.shape[1] == 1 and len(self.masks) == 1 and all(mask.all() for mask in self.masks.values())

    def follows(self, other: Forward) -> bool:
        """Whether both are steps of the same rows in one phase, and this is the next one."""
        alike = self.span is other.span and self.keys == other.keys and self.clusters == other.clusters
        return alike and self.is_step and other.is_step and self.masks.keys() == other.masks.keys()

    def keep(self, positions: int) -> None:
        """Count no position from that one on, for they were taken back."""
        self.drafted = False
        for mask in self.masks.values():
            mask[:, max(positions, 0) :] = False


class Here(threading.local):
    """What one thread is in the middle of.

    announced: the sequences that forwards go through, by `batch` and `within`. bare: the generation that nobody
    announced. batched: the requests of batched generation. running: whether a forward of the whole model runs.
    cached: what it was given.
    """

    announced: Span | None = None
    bare: Span | None = None
    running: bool = False
    cached: Cached | None = None
    forward: Forward | None = None

    def __init__(self) -> None:  # once in every thread
        self.batched = Span([])


def joined(steps: Sequence[Forward]) -> Forward:
    """Steps of the same rows, one after the other, as one forward of several positions."""
    first, shape = steps[0], (steps[0].shape[0], len(steps))
    xp = array_namespace(*next(iter(first.heard.values())))

    def whole(router: int, part: int) -> Array:
        each = [step.heard[router][part] for step in steps]
        return xp.concat([xp.reshape(array, (shape[0], 1, array.shape[-1])) for array in each], axis=1)

    heard = {router: (whole(router, 0), whole(router, 1)) for router in first.heard}
    masks = {phase: np.ones(shape, dtype=bool) for phase in first.masks}
    return replace(first, masks=masks, shape=shape, heard=heard)


def aligned(last: Array, before: Sequence[Hashable], now: Sequence[Hashable], device: ToDevice) -> Array:
    """``last`` [B, R], whose rows were ``before``, with the rows ``now``; zeros for those that are new."""
    if tuple(before) == tuple(now):
        return last
    places = {key: row for row, key in enumerate(before)}
    chosen = np.zeros((len(now), len(before)), dtype=np.float32)
    for row, key in enumerate(now):
        if key in places:
            chosen[row, places[key]] = 1
    return device(chosen, last) @ last


def last_valid(selected: Array, mask: Mask, before: Array | None, device: ToDevice) -> Array:
    """[B, R] of ``selected`` [B, S, R] at the last position of each row that counts; of a row without one, what was
    before."""
    if mask[:, -1].all():
        return selected[:, -1]
    rows, length = mask.shape
    has = np.asarray(mask.any(axis=1))
    picked = np.zeros((rows, 1, length), dtype=np.float32)
    picked[np.arange(rows), 0, length - 1 - mask[:, ::-1].argmax(axis=1)] = has
    last = (device(picked, selected) @ selected)[:, 0]
    return last if before is None else last + device(~has[:, None], before) * before
