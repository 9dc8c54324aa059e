"""Statistics of a server on disk: every few seconds, when a model goes, and at the end."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import get_args

from ..errors import MoebenchError
from ..options import Plan
from ..pair.storage import pair_paths, save_pairs
from ..routing.record import Phase
from .models import Served, ServedModels

QUICK = Plan(resamples=200)
"""Of the reports that are written while the server runs."""

PHASES: tuple[Phase, ...] = get_args(Phase)

SHARE = 20
"""The time between two saves is at least this many times what the last one took."""


class Keeper(threading.Thread):
    """Looks at the current model now and then, and saves what is new. ``failure`` is why the last save failed."""

    def __init__(self, models: ServedModels) -> None:
        super().__init__(name="moebench-keeper", daemon=True)
        self._models, self._every = models, models.settings.save_every
        self._ended = threading.Event()
        self.failure: str | None = None

    def run(self) -> None:
        due = time.monotonic() + self._every
        while not self._ended.is_set():
            current = self._models.current
            self._models.changed.wait(0.2 if current is None else current.window.period)
            if (current := self._models.current) is not None:
                current.look()
            if time.monotonic() >= due or self._models.changed.is_set():
                self._models.changed.clear()
                began = time.monotonic()
                self.save()
                took = time.monotonic() - began
                due = began + took + max(self._every, SHARE * took)

    def save(self, plan: Plan = QUICK) -> None:
        """Save every model of which something is not in its files."""
        for served in list(self._models.every.values()):
            try:
                if save(served, plan):
                    self.failure = None
            except MoebenchError as error:
                if str(error) != self.failure:
                    logging.error("Not saved: %s", error)
                self.failure = str(error)

    def end(self) -> None:
        """Stop, and save all once more: first as quickly as may be, then with the intervals of a finished report."""
        self._ended.set()
        self._models.changed.set()
        self.join()
        self.save()
        self.save(Plan())


def save(served: Served, plan: Plan) -> bool:
    """Write the pairs of a model, one for each phase that has tokens; False where the files hold all already."""
    if served.stats is None:
        return False
    with served.saving:
        with served.stats.holding():
            every = {phase: served.stats.phase_stats(phase) for phase in PHASES}
        parts = {phase: part for phase, part in every.items() if part.clusters}
        tokens = {phase: part.n_tokens for phase, part in parts.items()}
        if not parts or (tokens | {"resamples": plan.resamples}) == served.saved:
            return False
        pairs = [(part, phase_output(served.output, phase)) for phase, part in parts.items()]
        save_pairs(pairs, plan)
        served.saved, served.saved_at = tokens | {"resamples": plan.resamples}, time.time()
        served.files = [path.name for _, output in pairs for path in pair_paths(output)]
        return True


def phase_output(output: Path, phase: Phase) -> Path:
    """OUT.json for prompts, OUT.decode.json beside it, and OUT.unsplit.json for what nobody said the prompt of."""
    return output if phase == "prefill" else output.with_name(f"{output.stem}.{phase}.json")
