"""`RoutingStats` that fill while a transformers model runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mlx_moebench.pair.model import object_section
from mlx_moebench.pair.stats import RecordedStats
from mlx_moebench.routing.forwards import Cached
from mlx_moebench.routing.record import Array, Mask, Routing
from mlx_moebench.routing.recorder import TokenSink
from mlx_moebench.types import Facts, HostArray, Json, Network

from .caches import same_object
from .capture import Capture, check_rule, config_of, dtype_of, locate, transformers_model
from .environment import environment


class TorchRoutingStats(RecordedStats):
    """Statistics of a hooked transformers model; see `Recorder`. The tally runs where a router's logits are."""

    def __init__(
        self,
        model: Network,
        /,
        *,
        sources: Mapping[str, Facts] | None = None,
        tokens: TokenSink | None = None,
        **settings: Any,
    ) -> None:
        routers = locate(model)
        super().__init__([router.spec for router in routers], sources=sources, tokens=tokens, **settings)
        self._config = config_of(model)
        self._routers = routers
        self._proven: set[int] = set()
        self._capture = Capture(model, self._hear, self)

    def _hear(
        self, number: int, logits: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor, shape: tuple[int, ...]
    ) -> None:
        if number not in self._proven:  # once is enough: the rule is the same for every batch
            expected = self._routers[number].given(logits.detach(), indices, self._config)
            check_rule(self.specs[number], expected, weights.detach())
            self._proven.add(number)
        if number == 0 and not self.described:
            self._warn()
        self.record(number, logits.detach(), indices.detach(), shape)

    def _warn(self) -> None:
        """What nobody described, and would be counted as something else than it is."""
        if self._capture.padded:
            warnings.warn(
                "The attention mask leaves out positions that are nevertheless counted: say which count, "
                "with stats.batch(mask=attention_mask).",
                RuntimeWarning,
                stacklevel=2,
            )
        if self._capture.repeated:
            warnings.warn(
                "Rows that start alike, as beams and samples of one prompt do, count as sequences of their own, also "
                "those that are dropped later: generate one row for each prompt.",
                RuntimeWarning,
                stacklevel=2,
            )

    def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
        z, chosen = (array.reshape(*mask.shape, -1) for array in (logits, indices))
        return self._routers[number].routing(z, chosen, self._config, torch.as_tensor(mask, device=z.device))

    def host(self, array: Array) -> HostArray:
        return array.cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)

    def near(self, array: Array, other: Array) -> Array:
        return array.to(other.device)

    def device(self, array: HostArray, other: Array) -> Array:
        return torch.as_tensor(array, dtype=other.dtype, device=other.device)

    def cached(self) -> Cached | None:
        cache = self._capture.cache
        return None if cache is None else same_object(cache)

    def unrecorded(self) -> str | None:
        if self._capture.cache is None and (name := self._capture.unknown_cache) is not None:
            return (
                f"The model was given a KV cache ({name}) that is not one of transformers', and is not recorded: say "
                "what runs, with stats.batch(prompt_lengths=...)."
            )
        return None

    def sinks(self) -> Sequence[object]:
        return self._capture.sinks

    def release(self) -> None:
        self._capture.close()


def attach(model: Network, tau: float = 0.40, collapse_on: str = "top_share_token") -> TorchRoutingStats:
    """Hook every router of a transformers model and return statistics that fill as it runs.

    Outputs stay the same. Forwards of the whole model count, also inside a wrapper such as PEFT's; blocks that run
    alone do not. Several may be attached at once: each counts every token that runs until it is closed. Usable as a
    context manager, which takes the hooks off at its end::

        with torch_fallback.attach(model) as stats:
            model(ids)  # ids [B, S]: B sequences
        print(stats.to_dataframe())

    tau: share in (0, 1) above which a router is flagged. Raises `UnsupportedModelError` and leaves the model
    untouched if a router that its family declares is missing, or the model is compiled or inside DataParallel.
    """
    return TorchRoutingStats(
        model, tau=tau, collapse_on=collapse_on, model=model_facts(model), environment=environment()
    )


def model_facts(model: Network) -> Json:
    """What a report says of a model of which only the object is at hand."""
    inner, config = transformers_model(model), config_of(model)
    return object_section(
        inner,
        [router.spec for router in locate(model)],
        model_type=config["model_type"],
        backend="torch",
        dtype=dtype_of(inner),
        place=str(config.get("_name_or_path") or ""),
        revision=getattr(inner.config, "_commit_hash", None),
    )
