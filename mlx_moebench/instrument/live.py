"""`RoutingStats` that fill while an MLX model runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..environment import environment
from ..pair.stats import RecordedStats
from ..routing.record import Array, Mask, Routing
from ..routing.recorder import TokenSink
from ..types import Facts
from .caches import is_batched
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
        self._capture = Capture(model, self.record)

    def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
        return self._capture.routing(number, logits, indices, mask)

    def evaluate(self, arrays: Sequence[Array]) -> bool:
        if is_traced(*arrays):
            warnings.warn(
                "A forward pass inside mx.compile or mx.vmap was not recorded: run the model outside it to measure.",
                RuntimeWarning,
                stacklevel=4,
            )
            return False
        mx.eval(*arrays)
        return True

    def cache(self) -> object:
        return self._capture.cache(0)

    def unrecorded(self) -> str | None:
        if self.cache() is None and (name := self._capture.unknown_cache(0)) is not None:
            return (
                f"The model was given a KV cache ({name}) that is not one of mlx-lm's, and is not recorded: say what "
                "runs, with stats.batch(prompt_lengths=...)."
            )
        if is_batched(self.cache()):
            return (
                "Batched generation pads and reorders its rows and is not recorded: use mlx_moebench.stream_generate."
            )
        return None

    def sinks(self) -> Sequence[object]:
        return self._capture.sinks

    def release(self) -> None:
        self._capture.close()


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
