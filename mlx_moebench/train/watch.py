"""What happens after each step of mlx-lm's trainer: logging, validating, saving, stopping."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.optimizers as optim
from mlx_lm.tuner.callbacks import TrainingCallback, get_reporting_callbacks
from mlx_lm.tuner.trainer import default_loss, evaluate

from ..errors import TrainingError
from ..models import Checkpoint
from ..options import Step
from ..routing.record import RouterSpec
from ..signals import Asked, Stopped, deferring
from ..types import Json
from . import checkpoint as kept
from .config import TrainingConfig
from .data import Tokens, silent
from .log import PATIENCE, TrainingLog, log_entry, never_fired
from .objective import Objective
from .order import held_out_batches


@dataclass
class Training:
    """What the parts of one training share."""

    config: TrainingConfig
    checkpoint: Checkpoint
    data: dict[str, Tokens]
    specs: tuple[RouterSpec, ...]
    folder: Path
    group: mx.distributed.Group
    step: Step
    facts: Json

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files."""
        return bool(self.group.rank() == 0)


class Finished(Exception):  # noqa: N818
    """The last step is saved. Raised before mlx-lm's trainer writes the adapter once more, in place."""


class Watcher(TrainingCallback):  # type: ignore[misc]  # mlx-lm has no types
    """Called by the trainer after every step: logs, validates, saves, stops on NaN and on signals."""

    def __init__(
        self, run: Training, objective: Objective, optimizer: optim.Optimizer, log: TrainingLog, start: int
    ) -> None:
        self._run, self._objective, self._optimizer, self._log = run, objective, optimizer, log
        self._start, self._silent_steps, self._warned = start, 0, False
        self._asked = Asked()
        config = run.config
        report_to = config["report_to"] if run.first else None
        self._others = get_reporting_callbacks(
            report_to, project_name=config["project_name"], log_dir=str(run.folder), config=config.values
        )

    def on_train_loss_report(self, info: Json) -> None:
        config, step = self._run.config, self._start + info["iteration"]
        entry = log_entry(step, self._objective.measured(), info, self._objective.on)
        self._check_finite(step, entry)
        self._log.add(entry)
        self._tell(step, entry)
        if step % config["steps_per_report"] == 0:
            self._report(step, entry, info)
        last = step == config["iters"]
        if step % config["steps_per_eval"] == 0 or last:
            self.validate(step)
        stop = self._asked.number is not None and step % config["grad_accumulation_steps"] == 0
        if step % config["save_every"] == 0 or last or stop:
            self.save(step)
        if last:
            raise Finished
        if stop:
            number = self._asked.number or 0
            raise Stopped(f"Stopped after step {step}, which is saved; --resume continues from it.", number)

    def _check_finite(self, step: int, entry: Json) -> None:
        for key, what in (("ce", "cross-entropy"), ("routing_loss", "routing loss")):
            if not math.isfinite(entry[key]):
                # At step 1 no weight has changed yet.
                advice = f"check the weights of {self._run.config['model']}." if step == 1 else self._last_good()
                raise TrainingError(f"The {what} is not finite at step {step}; {advice}")

    def validate(self, step: int) -> None:
        """Log the cross-entropy of the validation set, without the routing loss."""
        run, config = self._run, self._run.config
        if not len(run.data["valid"]):
            return
        run.step("validating", 0, 0)
        self._log.add({"step": step, "val_ce": held_out_ce(run, "valid", config["val_batches"])})
        run.checkpoint.model.train()

    @contextlib.contextmanager
    def stopping_gently(self) -> Iterator[None]:
        """The first Ctrl-C, SIGTERM or SIGHUP lets the step finish and saves it, a second one stops at once.

        With several ranks it stops at once, since the others would wait for the one that was stopped.
        """
        if self._run.group.size() > 1:
            yield
            return
        with deferring() as self._asked:
            yield

    def _tell(self, step: int, entry: Json) -> None:
        config = self._run.config
        loss = config.routing_loss
        below = ""
        if loss.name == "entropy_floor":
            below = f", {entry['routers_below_floor']} of {len(self._objective.on)} below the floor"
            self._silent_steps = 0 if entry["routers_below_floor"] else self._silent_steps + 1
            if self._silent_steps == PATIENCE and not self._warned and loss.weight and step == PATIENCE:
                warnings.warn(never_fired(PATIENCE, loss, entry), UserWarning, stacklevel=2)
                self._warned = True
        self._run.step(
            f"training: CE {entry['ce']:.3f}, routing loss {entry['routing_loss']:.3g}{below}", step, config["iters"]
        )

    def _report(self, step: int, entry: Json, info: Json) -> None:
        """Pass the numbers of one step on to the services of ``report_to``."""
        if self._others:
            numbers = {key: value for key, value in entry.items() if isinstance(value, int | float)}
            self._others.on_train_loss_report(info | numbers | {"iteration": step})

    def save(self, step: int) -> None:
        """Write checkpoint and adapter; the ones before stay where a weight is not finite or the disk refuses."""
        run, model = self._run, self._run.checkpoint.model
        if not kept.all_finite(model):  # asked by every rank, which all have the same weights and so all stop
            raise TrainingError(f"The weights are not finite after step {step}; {self._last_good()}")
        if not run.first:
            return
        # The checkpoint first: a run that goes on from it writes the adapter again, should it be killed in between.
        kept.save_checkpoint(run.folder, model, self._optimizer, run.facts | {"iteration": step})
        kept.save_adapter(run.folder, model, step)

    def _last_good(self) -> str:
        facts = kept.read_facts(self._run.folder)
        advice = "try a smaller learning rate"
        if facts is None:
            return f"nothing was saved yet; {advice}."
        return f"the adapter of step {facts['iteration']} is kept in {self._run.folder}; {advice}."


def held_out_ce(run: Training, split: str, n_batches: int) -> float:
    """Mean cross-entropy per token, nats, by mlx-lm's ``evaluate``."""
    tokens, ranks = run.data[split], run.group.size()
    size = min(run.config["batch_size"], len(tokens) // ranks * ranks)
    if size == 0:
        return math.nan
    with silent():
        return float(
            evaluate(
                run.checkpoint.model,
                tokens,
                size,
                n_batches,
                max_seq_length=run.config["max_seq_length"],
                loss=default_loss,
                iterate_batches=held_out_batches(run.config["sort_by_length"]),
            )
        )
