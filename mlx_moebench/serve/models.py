"""The models that a server had, one at a time, and what each of them did."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..checkpoints import read_adapter
from ..checkpoints.hub import NANO_NAME
from ..checkpoints.located import NANO
from ..errors import MoebenchError, UnsupportedModelError
from ..files import plain_name
from ..instrument.capture import experts_of
from ..pair.model import named, remember
from ..pair.storage import pair_paths
from ..types import Json
from .settings import ServeSettings
from .stats import ServedStats
from .window import Totals, Window, totals_of


@dataclass
class Served:
    """One model (with its adapter and draft model) of a server.

    stats: None where its routing is not recorded, and why. output: its stats pair. saved: the tokens of each phase in
    the files that were written last, when, and their names. highest: of sums that only grow, by phase and router.
    """

    key: Hashable
    name: str
    stats: ServedStats | None
    why: str | None
    output: Path
    window: Window
    saved: dict[str, int] = field(default_factory=dict)
    saved_at: float | None = None
    files: list[str] = field(default_factory=list)
    highest: dict[tuple[str, int], float] = field(default_factory=dict)
    saving: threading.Lock = field(default_factory=threading.Lock)

    def totals(self) -> Totals:
        """Of all routers, by phase; none where nothing is recorded."""
        return {} if self.stats is None else totals_of(self.stats)

    def look(self) -> Totals:
        """`totals`, remembered for the window."""
        totals = self.totals()
        self.window.note(totals)
        return totals


class ServedModels:
    """Every model that was served, each with statistics of its own; a model that comes back goes on with its own."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings, self.began = settings, time.time()
        self.current: Served | None = None
        self.every: dict[Hashable, Served] = {}
        self.changed = threading.Event()
        """Set when a model has gone, whose statistics should be saved."""

    def open(self, key: tuple[Any, ...], model: nn.Module) -> None:
        """``model`` is served from now on; key: its folder or hub id, its adapter and its draft model."""
        before = self.every.get(key)
        stats, why = self._tapped(key, model)
        served = before
        if served is None or not _same(served.stats, stats):
            served = Served(key, _name_of(key), stats, why, self._output(key), Window(self.settings.window))
        elif stats is not None and served.stats is not None:
            stats.take_over(served.stats)
            served.stats = stats
            served.window.begin(served.totals())
        self.every[key] = self.current = served

    def close(self) -> None:
        """The current model goes."""
        served, self.current = self.current, None
        if served is not None and served.stats is not None:
            served.stats.close()
            self.changed.set()

    def _tapped(self, key: tuple[Any, ...], model: nn.Module) -> tuple[ServedStats | None, str | None]:
        place, adapter, _ = key
        adapted = {"adapter": read_adapter(adapter).facts} if adapter else {}
        remember(model, {"revision": None, **_identity(place), **adapted})
        try:
            return ServedStats(model, self.settings.sequences, self.settings.last_tokens), None
        except MoebenchError as error:
            logging.warning("The routing of %s is not recorded: %s", place, error)
            return None, str(error)

    def _output(self, key: tuple[Any, ...]) -> Path:
        """The pair of the first model is what was asked for; those of others have their name in it."""
        path = pair_paths(self.settings.output)[0]
        taken = {one.output for one in self.every.values()}
        if path not in taken:
            return path
        names = [plain_name(_name_of(key))] + [f"{plain_name(_name_of(key))}.{n}" for n in range(2, len(taken) + 100)]
        candidates = (path.with_name(f"{path.stem}.{name}.json") for name in names)
        return next(one for one in candidates if one not in taken and not one.exists())


def make_runnable(model: nn.Module) -> None:
    """On a CPU MLX runs unquantised experts in float32 only, where mlx-lm's server could not answer at all."""
    try:
        every = [module for experts in experts_of(model) for module in experts.modules() if "weight" in module]
    except UnsupportedModelError:
        return
    if mx.default_device() == mx.Device(mx.cpu) and any(
        mx.issubdtype(one.weight.dtype, mx.floating) and one.weight.dtype != mx.float32 for one in every
    ):
        model.set_dtype(mx.float32)
        logging.info("The weights are computed in float32, because MLX on a CPU runs these experts in nothing else.")


def _same(before: ServedStats | None, now: ServedStats | None) -> bool:
    """Whether statistics are of the same routers, as where a model was loaded again unchanged."""
    if before is None or now is None:
        return before is now
    return (before.specs, before.model) == (now.specs, now.model)


def _identity(place: Any) -> Json:
    return {"id": NANO_NAME} if Path(place) == NANO else named(str(place))


def _name_of(key: tuple[Any, ...]) -> str:
    place, adapter, _ = key
    name = str(_identity(place).get("id", place))
    return f"{name}+{Path(adapter).name}" if adapter else name
