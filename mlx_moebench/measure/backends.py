"""What runs a model. Everything else of a measurement is the same, whatever library that is."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..checkpoints import Checkpoint, LoadedModel
from ..checkpoints.size import Part
from ..data import Batch
from ..errors import NO_MLX, MissingExtraError, MoebenchError, did_you_mean, missing_package, renamed
from ..options import Loading, Step, Tell
from ..pair.stats import RecordedStats, RoutingStats
from ..routing.record import Array, Phase
from ..routing.recorder import Recorder
from ..types import Facts, HostArray, Json
from .predictions import Places

HOMES = {"mlx": "mlx_moebench.measure.on_mlx", "torch": "torch_fallback.backend"}
"""Each backend's name, and the module with its ``BACKEND``."""


class Backend(Protocol):
    """Loads models with one library, and runs them with a `Recorder` on their routers.

    A checkpoint, from `load` or by `checkpoint_of` from a model object, has ``model`` and ``tokenizer``.
    name: a key of `HOMES`.
    recorder: statistics that fill while a model object, its first argument, runs; settings as for `Recorder`.
    """

    name: str
    recorder: Callable[..., RecordedStats]

    def select_device(self, name: str) -> str:
        """Run on ``name`` (auto, gpu, cpu, mps, cuda) from now on; returns gpu or cpu."""

    def load(self, model: str | Path | None, loading: Loading, step: Step) -> Checkpoint:
        """A checkpoint, on the device that was selected."""

    def open(self, model: str | Path | None, loading: Loading, step: Step, tell: Tell) -> Checkpoint:
        """As `load`, but where ``loading.stream`` has it so no weight is read: the checkpoint's ``layers`` do that one
        by one, see `streaming.Layers`. ``tell`` is told why."""

    def config(self, model: Any) -> Facts:
        """The settings of a model object, with its model_type."""

    def facts(self, checkpoint: Any) -> Json:
        """The ``model`` section of a report."""

    def parts(self, checkpoint: Any) -> list[Part]:
        """Every parameter of the model by its unpacked shape; nothing is read, and no bytes are counted."""

    def environment(self) -> Json:
        """The ``environment`` section of a report."""

    def forward(self, checkpoint: Any, batch: Batch, logits: bool) -> Array | None:
        """Run a batch once; the logits [B, S, V] of the model's head only if they are asked for."""

    def generate(self, checkpoint: Any, stats: Recorder, batch: Batch, max_tokens: int) -> HostArray:
        """Continue the one prompt of a batch greedily; its ids and those made, [1, S]."""

    def generating(self, checkpoint: Any, stats: Recorder, batch: Batch, max_tokens: int) -> Generator[int, None, None]:
        """The tokens that `generate` makes, one by one, the end of a text included; each has been run when it is given.

        Whoever stops early closes it.
        """

    def new_prefix(self, checkpoint: Any) -> Any:
        """An empty KV cache for what several rows begin with; None for a model whose cache cannot be copied to rows."""

    def extend(self, checkpoint: Any, prefix: Any, ids: Sequence[int]) -> None:
        """Run ``ids`` after what ``prefix`` holds, so that it holds them, too."""

    def bytes_per_token(self, prefix: Any) -> float:
        """What each token in ``prefix`` takes."""

    def log_likelihoods(
        self, checkpoint: Any, ids: HostArray, places: Places, prefix: Any = None
    ) -> tuple[HostArray, HostArray]:
        """`predictions.log_likelihoods` at places of rows ``ids`` [B, S], each of which follows a copy of ``prefix``.

        Padding is on the right, where a causal model does not see it.
        """

    def tokens_after(
        self, checkpoint: Any, ids: Sequence[int], max_tokens: int, temperature: float = 0.0
    ) -> Iterator[int]:
        """The tokens that continue ``ids``, one by one, without that which ends a text; 0 degrees are greedy."""

    def forget(self) -> None:
        """Give memory back of a model that is no longer held."""

    def ranks(self) -> tuple[int, int] | None:
        """(rank, how many) where several processes share a measurement; None for one alone."""

    def gather(self, statistics: Mapping[Phase, RoutingStats]) -> dict[Phase, RoutingStats]:
        """The statistics of all ranks together; every rank must call it."""


def backend_named(name: str) -> Backend:
    """The backend ``mlx`` or ``torch``.

    Raises `MoebenchError` for another name, and with what to install where its library is not there.
    """
    if name not in HOMES:
        raise MoebenchError(f"There is no backend {name!r}.{did_you_mean(name, list(HOMES))}")
    try:
        backend: Backend = import_module(HOMES[name]).BACKEND
    except ImportError as error:
        if (other := renamed(error)) is not None:
            raise other from error
        missing = missing_package(error)
        if missing in ("mlx", "mlx.core", "mlx_lm"):
            raise MoebenchError(NO_MLX) from error
        if missing not in ("torch", "transformers", "accelerate"):
            raise
        raise MissingExtraError("The backend torch", "torch") from error
    return backend


def check_alone(runner: Backend, what: str) -> None:
    """Raise `MoebenchError` where several processes would share what only one can do."""
    if runner.ranks() is not None:
        raise MoebenchError(f"{what} in one process; start it without torchrun or mlx.launch.")


def checkpoint_of(model: Any, tokenizer: Any, backend: str) -> Checkpoint | LoadedModel:
    """A checkpoint of a model object and its tokenizer, or a `Checkpoint` that ``backend`` loaded.

    Raises `MoebenchError` for a checkpoint of another backend, and without a tokenizer.
    """
    if isinstance(model, Checkpoint):
        if model.backend != backend:
            raise MoebenchError(f"This checkpoint was loaded by {model.backend}: measure it with that backend.")
        return model
    if tokenizer is None:
        raise MoebenchError("A model object needs its tokenizer: analyze(model, dataset, tokenizer=tokenizer).")
    return LoadedModel(model, tokenizer)
