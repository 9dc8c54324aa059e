"""`RoutingStats` that fill while an MLX model runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..environment import environment
from ..pair.stats import RecordedStats
from ..routing.forwards import Cached, Rows
from ..routing.record import Array, Mask, Routing
from ..routing.recorder import TokenSink
from ..types import Facts, HostArray
from . import batches, caches
from .batches import rows_of
from .caches import cached, is_batched, is_speculative
from .capture import Capture, is_traced, routers_of
from .facts import model_facts


class LiveRoutingStats(RecordedStats):
    """Statistics of a tapped MLX model; see `Recorder`."""

    def __init__(
        self,
        model: nn.Module,
        /,
        *,
        sources: Mapping[str, Facts] | None = None,
        tokens: TokenSink | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(routers_of(model), sources=sources, tokens=tokens, **settings)
        self._model: nn.Module | None = model
        self._changes = 0
        batches.follow()
        caches.follow()
        self._capture = Capture(model, self.record, self)

    def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
        return self._capture.routing(number, logits, indices, mask)

    def begin(self) -> None:
        if self._capture.changes != self._changes:
            self._changes = self._capture.changes
            self._respecify()
        super().begin()

    def evaluate(self, arrays: Sequence[Array]) -> bool:
        # Started here, where the streams are that they are computed on; whoever reads them waits.
        return not is_traced(*arrays)

    def own(self, array: Array) -> Array:
        # The model goes on with what it gave, and two threads may not look at one array that is still computed.
        return mx.stop_gradient(array)

    def device(self, array: HostArray, other: Array) -> Array:
        return mx.array(array)

    def cached(self) -> Cached | None:
        return cached(self._capture.caches)

    def rows(self, shape: tuple[int, ...]) -> Rows | None:
        return rows_of(shape, id(self))

    def drafting(self) -> bool:
        return is_speculative()

    def unrecorded(self) -> str | None:
        caches = self._capture.caches
        if caches is None and (name := self._capture.unknown_cache) is not None:
            return (
                f"The model was given a KV cache ({name}) that is not one of mlx-lm's, and is not recorded: say what "
                "runs, with stats.batch(prompt_lengths=...)."
            )
        if is_batched(caches):
            return (
                "A forward with rows of several prompts, padded and reordered by a cache that no generator of mlx-lm "
                "runs, is not recorded: use mlx_moebench.batch_generate, or say what runs, with stats.batch(...)."
            )
        return None

    def sinks(self) -> Sequence[object]:
        return self._capture.sinks

    def release(self) -> None:
        self._capture.close()
        self._model = None

    def _respecify(self) -> None:
        """Take over the bits of routers that were quantised after they were tapped."""
        assert self._model is not None
        self._sync()
        if self.n_tokens or any(stats.n_tokens for stats in self._others.values()):
            warnings.warn(
                "The routers were converted after tokens had been counted, so these statistics hold both: attach "
                "again for numbers of the converted model alone.",
                RuntimeWarning,
                stacklevel=4,
            )
        for stats in (self, *self._others.values()):
            stats.specs = tuple(routers_of(self._model))


def attach(model: nn.Module, tau: float = 0.40, collapse_on: str = "top_share_token") -> LiveRoutingStats:
    """Tap every router of an mlx-lm model and return statistics that fill as it runs.

    Outputs stay bit-identical. Usable as a context manager, which detaches at its end. Several may be attached at once,
    also one inside another: each counts every token that runs until it is closed, and what ``batch`` says to one of
    masks and prompts holds for all.

    Parameters
    ----------
    model
        The model; mlx-lm's own object, of a supported family.
    tau
        Share in (0, 1) above which a router is flagged as collapsed.
    collapse_on
        The share that is held against tau: ``top_share_token``, ``top_share_selection`` or ``top_share_top1``.

    Returns
    -------
    LiveRoutingStats
        `RoutingStats` that know every token run so far.

    Raises
    ------
    UnsupportedModelError
        If a router that its family declares is missing; the model is left untouched.

    Examples
    --------
    >>> import mlx.core as mx
    >>> import mlx_moebench
    >>> model, tokenizer = mlx_moebench.load()  # the embedded model
    >>> with mlx_moebench.attach(model) as stats:
    ...     logits = model(mx.array([[1, 2, 3], [4, 5, 6]]))  # [B, S]: 2 sequences of 3 tokens
    >>> stats.n_tokens, len(stats.to_dataframe())
    (6, 6)
    """
    return LiveRoutingStats(
        model, tau=tau, collapse_on=collapse_on, model=model_facts(model), environment=environment()
    )
