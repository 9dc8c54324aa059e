"""The routing of a training with transformers' Trainer, in the trainer's own logs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from mlx_moebench.errors import MoebenchError, UnsupportedModelError
from mlx_moebench.routing.sums import Floats
from mlx_moebench.routing.window import Window
from mlx_moebench.types import Network

from .capture import locate, transformers_model
from .live import TorchRoutingStats


class RoutingCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not followed
    """Logs `Window.figures` of the training steps since the last log, over all ranks, where the trainer logs its loss::

        trainer = Trainer(model, arguments, train_dataset=rows)  # or one of TRL
        RoutingCallback(model).add_to(trainer)
        trainer.train()

    Counted are the forward passes of a step that have gradients, without padding: neither evaluation nor generation,
    nor what gradient checkpointing runs again. every: measure every n-th step only; others cost nothing.

    Raises UnsupportedModelError where no family serves the model.
    """

    def __init__(self, model: Network, every: int = 1) -> None:
        if every < 1:
            raise MoebenchError(f"every is a number of steps, 1 or more, got {every}.")
        self._model, self._every = model, every
        self._window = Window([router.spec for router in locate(model)])
        self._stats: TorchRoutingStats | None = None
        self._open = ExitStack()

    def add_to(self, trainer: Any) -> Self:
        """Put it before the callbacks that report: each reads the logs in its turn, so that those of
        ``Trainer(callbacks=[...])``, which come last, are not in TensorBoard or W&B, only in the log history."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.n_gpu > 1:
            raise UnsupportedModelError(
                f"One process trains on {args.n_gpu} GPUs with DataParallel, of which hooks cannot tell one forward "
                "from another: start it with torchrun or accelerate, a process for each GPU."
            )
        self._window.empty()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop()
        if state.global_step % self._every:
            return
        self._stats = self._open.enter_context(TorchRoutingStats(self._model))
        model = transformers_model(self._model)
        for handle in (
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ):
            self._open.callback(handle.remove)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._stats is not None:
            self._window.add(self._stats)
        self._stop()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs or not self._window.steps:
            return  # an evaluation, or the summary at the end
        figures = self._window.figures(self._of_all_ranks(self._window.sums))
        if not figures:
            warnings.warn(
                f"No routing was heard in {self._window.steps} steps: the model that is trained is another object than "
                "the one of RoutingCallback, or compiled.",
                RuntimeWarning,
                stacklevel=2,
            )
        self._window.empty()
        logs.update(figures)
        state.log_history[-1].update(figures)

    def _stop(self) -> None:
        self._stats = None
        self._open.close()

    def _begin(self, model: torch.nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Say which positions of a forward count: none without gradients, no padding."""
        assert self._stats is not None
        mask, given = kwargs.get("attention_mask"), [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        ids = next((one for one in given if isinstance(one, torch.Tensor)), None)
        counts = None
        if not torch.is_grad_enabled():
            counts = None if ids is None else torch.zeros(ids.shape[:2], dtype=torch.bool)
        elif isinstance(mask, torch.Tensor) and ids is not None and mask.shape == ids.shape[:2]:
            counts = mask.bool().cpu()
        self._forward = self._stats.within(self._stats.describe(None if counts is None else counts.numpy()))
        self._forward.__enter__()

    def _end(self, model: torch.nn.Module, args: object, output: object) -> None:
        self._forward.__exit__(None, None, None)

    def _of_all_ranks(self, sums: Floats) -> Floats:
        if not (dist.is_available() and dist.is_initialized()):
            return sums
        device = "cpu" if "gloo" in dist.get_backend() else next(transformers_model(self._model).parameters()).device
        total = torch.as_tensor(sums, dtype=torch.float64, device=device).clone()
        dist.all_reduce(total)
        everywhere: Floats = total.cpu().numpy()
        return everywhere
