"""mlx-lm's generation thread, which saves before it ends, and goes on after a request that it cannot run."""

from __future__ import annotations

import threading
from queue import Queue
from typing import Any
from weakref import WeakSet

from mlx_lm import server
from mlx_lm.models.cache import LRUPromptCache

from ..errors import MoebenchError, needed
from .keep import Keeper
from .provider import TappedProvider
from .requests import check_tokens


class Generator(server.ResponseGenerator):
    """Saves before it waits for the request that runs, which may be long."""

    def __init__(
        self, provider: TappedProvider, prompt_cache: LRUPromptCache, keeper: Keeper, stopping: threading.Event
    ) -> None:
        self._keeper, self._stopping = keeper, stopping
        self._taken: WeakSet[Queue[Any]] = WeakSet()
        super().__init__(provider, prompt_cache)

    def stop_and_join(self) -> None:
        """Save, and wait for the end."""
        self._stopping.set()
        self._keeper.save()
        super().stop_and_join()

    def _run_generate(self) -> None:
        """Begin anew where a request ended the loop, which would else answer nobody from then on."""
        super()._run_generate()
        while self._failed() and not self._stop and self.model_provider.model is not None:
            for answers in list(self._taken):  # those that wait in line are run yet
                answers.put(MoebenchError("It failed, or ran together with a request that did; the log says how."))
            self._taken.clear()
            self._generation_failed = False
            super()._run_generate()

    def _failed(self) -> bool:
        return bool(needed(self, "_generation_failed", "mlx_lm", "says that a request could not be run"))

    def _next_request(self, timeout: float | None = None) -> Any:
        taken = super()._next_request(timeout)
        if taken is not None:
            self._taken.add(taken[0])
        return taken

    def _tokenize(self, tokenizer: Any, request: Any, args: Any) -> Any:
        made = super()._tokenize(tokenizer, request, args)
        rows = getattr(getattr(self.model_provider.model, "args", None), "vocab_size", None)
        known = len(tokenizer.vocab)
        check_tokens(args.logits.logit_bias, args.sampling.top_k, made[0], known if rows is None else min(rows, known))
        return made
