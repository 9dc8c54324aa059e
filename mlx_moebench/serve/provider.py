"""mlx-lm's model provider, which taps what it has loaded, in the thread that loads and runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mlx_lm.server import ModelProvider

from ..checkpoints import shortened
from ..errors import ModelLoadError, MoebenchError
from .models import ServedModels, make_runnable


class TappedProvider(ModelProvider):
    """failed: is told once why the model of the command line cannot be served."""

    def __init__(
        self, arguments: argparse.Namespace, served: ServedModels, failed: Callable[[MoebenchError], None]
    ) -> None:
        super().__init__(arguments)
        self.served, self._failed = served, failed

    def load_default(self) -> None:
        try:
            super().load_default()
        except (ValueError, TypeError, KeyError, RuntimeError, ImportError, OSError) as error:
            self._failed(ModelLoadError(f"{self.cli_args.model} cannot be loaded ({shortened(error)})."))

    def load(self, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load(*args, **kwargs)
        current = self.served.current
        if current is None or current.key != self.model_key:
            for model in (self.model, self.draft_model):
                if model is not None:
                    make_runnable(model)
            self.served.open(self.model_key, self.model)
        return loaded

    def reset(self) -> None:
        self.served.close()
        super().reset()
