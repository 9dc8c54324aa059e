"""One training: LoRA through mlx-lm's trainer, with routing measured before it, at every step, and after it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.callbacks import TrainingCallback, get_reporting_callbacks
from mlx_lm.tuner.trainer import TrainingArgs, default_loss, evaluate, train

from ..analysis import analyze
from ..environment import environment
from ..errors import TrainingError
from ..instrument import config_of, routers_of
from ..models import Checkpoint, load_checkpoint, read_adapter, select_device
from ..models.adapters import WEIGHTS
from ..routing.record import RouterSpec
from ..routing.storage import pair_paths, read_report, write_aside
from . import checkpoint as kept
from .config import TrainingConfig
from .data import Tokens, TrainingOrder, bundled_folder, check_sizes, in_order, load_tokens
from .log import FILE as LOG
from .log import PATIENCE, TrainingLog, log_entry, never_fired, summarise
from .lora import add_lora, lora_keys
from .objective import Objective

Step = Callable[[str, int, int], None]
REPORT = "training_report.json"
BEFORE, AFTER = "routing_before.json", "routing_after.json"
UNUSED = f".unused.{WEIGHTS}"
"""What mlx-lm's trainer writes at its end, in place; the same weights are saved whole before."""

_FREE_TO_CHANGE = (
    "adapter_path", "iters", "steps_per_report", "steps_per_eval", "val_batches", "save_every", "test", "test_batches",
    "report_to", "project_name", "clear_cache_threshold", "resume_adapter_file",
)  # fmt: skip
"""Settings that a run may be resumed with other values of, because the weights do not depend on them."""


@dataclass
class _Run:
    """What the parts of one training share."""

    config: TrainingConfig
    checkpoint: Checkpoint
    data: dict[str, Tokens]
    specs: tuple[RouterSpec, ...]
    folder: Path
    group: Any
    step: Step
    facts: dict[str, Any]

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files."""
        return bool(self.group.rank() == 0)


def train_adapter(
    config: TrainingConfig,
    *,
    resume: bool = False,
    device: str = "auto",
    command: str | None = None,
    step: Step = lambda what, done, total: None,
) -> dict[str, Any]:
    """Train as ``config`` says and return the training report, which also lies in the adapter's folder.

    The folder gets ``adapters.safetensors`` and ``adapter_config.json``, which stock mlx-lm loads; the checkpoint that
    ``resume`` goes on from to the weights of an uninterrupted run; ``training_log.jsonl``; and the stats pairs
    ``routing_before`` and ``routing_after``. Under ``mlx.launch`` the ranks share every batch, and the first writes.

    Raises MoebenchError subclasses; what was saved before stays.
    """
    select_device(device)
    group = mx.distributed.init()
    folder = Path(config["adapter_path"]).expanduser()
    before = _check_folder(folder, resume)
    start = 0 if before is None else before["iteration"]
    if mx.distributed.all_sum(mx.array(start), stream=mx.cpu).item() != start * group.size():
        raise TrainingError(f"The ranks do not find the same checkpoint in {folder}: copy it to every machine.")
    step("loading the model", 0, 0)
    checkpoint = load_checkpoint(
        config["model"],
        dtype=config["dtype"],
        bits=config["bits"],
        router_bits=config["router_bits"],
        trust_remote_code=config["trust_remote_code"],
    )
    config = _resolved(config, checkpoint.model, folder)
    specs = tuple(routers_of(checkpoint.model))
    regularised = config.routing_loss.routers(specs)
    for number in regularised:
        config.routing_loss.floor_nats(specs[number].n_experts)
    if sentence := config.routing_loss.never_fires(specs):
        warnings.warn(sentence, UserWarning, stacklevel=2)
    data = load_tokens(config, checkpoint.tokenizer, step)
    check_sizes(config, data, config_of(checkpoint.model), group.size())
    facts = {"settings": config.values, "fingerprint": checkpoint.fingerprint, "data_sha256": data["train"].sha256}
    run = _Run(config, checkpoint, data, specs, folder, group, step, facts)
    if before is not None:
        _check_same(before, run)
    _measure(run, BEFORE, checkpoint)
    _prepare(run, [specs[n] for n in regularised])
    log = _train(run, start)
    _measure(run, AFTER, replace(checkpoint, adapter=_adapter_facts(run)))
    return _report(run, log, command)


def _check_folder(folder: Path, resume: bool) -> dict[str, Any] | None:
    """The facts of the checkpoint to go on from, or None to start."""
    if folder.is_file():
        raise TrainingError(f"{folder} is a file; name a folder with --adapter-path.")
    if not resume:
        if (folder / WEIGHTS).exists() or (folder / kept.FILE).exists():
            raise TrainingError(
                f"{folder} holds a training already: go on with --resume, or choose another --adapter-path."
            )
        return None
    return kept.read_facts(folder)


def _resolved(config: TrainingConfig, model: nn.Module, folder: Path) -> TrainingConfig:
    """``config`` with what depends on the model filled in, and the bundled prompts where no data is named."""
    values = dict(config.values)
    blocks = len(model.layers)
    if values["num_layers"] is None:
        values["num_layers"] = min(16, blocks)  # mlx-lm's default
    elif values["num_layers"] > blocks:
        raise TrainingError(f"num_layers is {values['num_layers']}, but the model has only {blocks} layers.")
    if values["data"] is None and not values.get("hf_dataset"):
        values["data"] = str(bundled_folder(folder / "data"))
    return replace(config, values=values)


def _check_same(before: dict[str, Any], run: _Run) -> None:
    """Raise TrainingError where the run to go on with is another one."""
    old, new = before["settings"], json.loads(json.dumps(run.config.values))
    for key in sorted(old.keys() | new.keys() - set(_FREE_TO_CHANGE)):
        if key not in _FREE_TO_CHANGE and key != "lora_parameters" and old.get(key) != new.get(key):
            raise TrainingError(
                f"{run.folder} was trained with {key} = {old.get(key)!r}, not {new.get(key)!r}; resume with the "
                "settings it was started with, or choose another --adapter-path."
            )
    for key, what in (("fingerprint", "another model"), ("data_sha256", "other training text")):
        if before[key] != run.facts[key]:
            raise TrainingError(f"{run.folder} was trained on {what}; choose another --adapter-path.")
    if before["iteration"] > run.config["iters"]:
        raise TrainingError(
            f"{run.folder} has run {before['iteration']} steps, more than iters = {run.config['iters']}."
        )


def _prepare(run: _Run, routers: list[RouterSpec]) -> None:
    """Freeze the model, put adapters on what is trained, and write the config from which stock mlx-lm loads them."""
    config, model = run.config, run.checkpoint.model
    mx.random.seed(config["seed"])
    model.freeze()
    values = dict(config.values)
    if config["fine_tune_type"] == "full":
        for block in model.layers[-max(config["num_layers"], 0) :]:
            block.unfreeze()
        values["lora_parameters"] = None
    else:
        parameters = dict(config["lora_parameters"])
        parameters["keys"] = lora_keys(model, config["num_layers"], parameters.get("keys"), routers)
        values["lora_parameters"] = parameters
        add_lora(model, config["num_layers"], parameters, config["fine_tune_type"] == "dora")
    if config["resume_adapter_file"]:
        _start_from(model, Path(config["resume_adapter_file"]))
    mx.eval(model.parameters())
    if run.first:
        kept.write_adapter_config(run.folder, values)


def _start_from(model: nn.Module, path: Path) -> None:
    """Load adapter weights that must fit; mlx-lm would leave out those that do not without a word."""
    weights = kept.load_arrays(path)
    expected = {name: tuple(value.shape) for name, value in tree_flatten(model.trainable_parameters())}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if wrong := sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name)):
        raise TrainingError(
            f"resume_adapter_file {path} is the adapter of another model or of other LoRA settings: {wrong[0]} has "
            f"shape {given.get(wrong[0])} there and {expected.get(wrong[0])} here ({len(wrong)} differ)."
        )
    model.load_weights(list(weights.items()), strict=False)


def _train(run: _Run, start: int) -> TrainingLog:
    """Run mlx-lm's trainer from step ``start`` to the end; the log of all steps."""
    config, model = run.config, run.checkpoint.model
    optimizer = config.optimizer()
    with Objective(model, config.routing_loss, run.group) as objective:
        optimizer.init(model.trainable_parameters())
        if start:
            kept.restore_checkpoint(run.folder, model, optimizer)
        log = TrainingLog(run.folder / LOG if run.first else Path(os.devnull), start)
        watcher = _Watcher(run, objective, optimizer, log, start)
        if not start:
            watcher.validate(0)
        arguments = TrainingArgs(
            batch_size=config["batch_size"],
            iters=config["iters"] - start,
            steps_per_report=1,
            steps_per_save=config["iters"] + 1,  # the watcher saves, whole files at steps that can be resumed
            max_seq_length=config["max_seq_length"],
            adapter_file=run.folder / UNUSED,
            grad_checkpoint=config["grad_checkpoint"],
            grad_accumulation_steps=config["grad_accumulation_steps"],
            clear_cache_threshold=config["clear_cache_threshold"],
        )
        try:
            with _compiling_where_it_helps(), _checkpointing_undone(model), watcher.stopping_gently(), _silent():
                if arguments.iters:
                    train(
                        model,
                        optimizer,
                        run.data["train"],
                        args=arguments,
                        loss=objective,
                        iterate_batches=TrainingOrder(config["seed"], start),
                        training_callback=watcher,
                    )
        finally:
            log.close()
            (run.folder / UNUSED).unlink(missing_ok=True)
    model.eval()
    return log


class _Watcher(TrainingCallback):  # type: ignore[misc]  # mlx-lm has no types
    """Called by the trainer after every step: logs, validates, saves, stops on NaN and on Ctrl-C."""

    def __init__(self, run: _Run, objective: Objective, optimizer: Any, log: TrainingLog, start: int) -> None:
        self._run, self._objective, self._optimizer, self._log = run, objective, optimizer, log
        self._start, self._silent_steps, self._warned, self._stop = start, 0, False, False
        config = run.config
        report_to = config["report_to"] if run.first else None
        self._others = get_reporting_callbacks(
            report_to, project_name=config["project_name"], log_dir=str(run.folder), config=config.values
        )

    def on_train_loss_report(self, info: dict[str, Any]) -> None:
        config, step = self._run.config, self._start + info["iteration"]
        figures = self._objective.measured()
        entry = log_entry(step, figures, info, self._objective.on)
        if not math.isfinite(entry["ce"]) or not math.isfinite(entry["routing_loss"]):
            what = "cross-entropy" if not math.isfinite(entry["ce"]) else "routing loss"
            raise TrainingError(f"The {what} is not finite at step {step}; {self._last_good()}")
        self._log.add(entry)
        self._tell(step, entry)
        if self._others and step % config["steps_per_report"] == 0:
            numbers = {key: value for key, value in entry.items() if isinstance(value, int | float)}
            self._others.on_train_loss_report(info | numbers | {"iteration": step})
        last = step == config["iters"]
        if step % config["steps_per_eval"] == 0 or last:
            self.validate(step)
        stop = self._stop and step % config["grad_accumulation_steps"] == 0
        if step % config["save_every"] == 0 or last or stop:
            self._save(step)
        if stop and not last:
            raise KeyboardInterrupt(f"Stopped after step {step}, which is saved; --resume goes on from it.")

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
        """The first Ctrl-C lets the step finish and saves it, a second one stops at once.

        With several ranks it stops at once, since the others would wait for the one that was stopped.
        """
        if self._run.group.size() > 1 or threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _tell(self, step: int, entry: dict[str, Any]) -> None:
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

    def _save(self, step: int) -> None:
        run = self._run
        if not run.first:
            return
        try:
            kept.save_adapter(run.folder, run.checkpoint.model, step)
        except TrainingError as error:
            if "not finite" not in str(error):
                raise
            raise TrainingError(f"{error}; {self._last_good()}") from None
        kept.save_checkpoint(run.folder, run.checkpoint.model, self._optimizer, run.facts | {"iteration": step})

    def _last_good(self) -> str:
        facts = kept.read_facts(self._run.folder)
        advice = "try a smaller learning rate"
        if facts is None:
            return f"nothing was saved yet; {advice}."
        return f"the adapter of step {facts['iteration']} is kept in {self._run.folder}; {advice}."


def held_out_ce(run: _Run, split: str, n_batches: int) -> float:
    """Mean cross-entropy per token, nats, by mlx-lm's ``evaluate``."""
    tokens, ranks = run.data[split], run.group.size()
    size = min(run.config["batch_size"], len(tokens) // ranks * ranks)
    if size == 0:
        return math.nan
    with _silent():
        return float(
            evaluate(
                run.checkpoint.model,
                tokens,
                size,
                n_batches,
                max_seq_length=run.config["max_seq_length"],
                loss=default_loss,
                iterate_batches=in_order,
            )
        )


def _measure(run: _Run, name: str, checkpoint: Checkpoint) -> None:
    """Write the stats pair ``name`` of the model as it is; one that is there already is that of this run."""
    output = run.folder / name
    if not run.first or (name == BEFORE and pair_paths(output)[1].exists()):
        return
    config = run.config
    dataset = config["routing_data"] or _held_out(config)
    if name == AFTER:
        for path in pair_paths(output):
            path.unlink(missing_ok=True)
    analyze(
        checkpoint,
        dataset,
        max_samples=config["routing_samples"],
        max_length=config["max_length"],
        device="gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu",
        output=output,
        step=lambda what, done, total: run.step(
            f"routing {Path(name).stem.rpartition('_')[2]} training: {what}", done, total
        ),
    )


def _held_out(config: TrainingConfig) -> str | Path:
    """What routing is measured on where nothing is named: the validation file, or bundled prompts for a hub set."""
    if config.values.get("hf_dataset") or not (folder := Path(str(config["data"])).expanduser()).is_dir():
        return "general"
    return next(path for name in ("valid", "train") if (path := folder / f"{name}.jsonl").is_file())


def _adapter_facts(run: _Run) -> dict[str, Any] | None:
    return read_adapter(run.folder).facts if run.first else None


def _report(run: _Run, log: TrainingLog, command: str | None) -> dict[str, Any]:
    """What came of it, written to ``training_report.json`` by the first rank."""
    config = run.config
    steps = [entry for entry in log.entries if "ce" in entry]
    validation = [entry for entry in log.entries if "val_ce" in entry]
    summary = summarise(log.entries, config.routing_loss, run.specs)
    report = {
        "model": run.checkpoint.name,
        "settings": config.values,
        "ranks": run.group.size(),
        "data": {
            name: {"sequences": len(split), "tokens": split.n_tokens, "truncated": split.truncated}
            for name, split in run.data.items()
        },
        "tokens_trained": sum(entry["tokens"] for entry in steps),
        "ce": {
            "unit": "nats per token",
            "validation_before": validation[0]["val_ce"] if validation else None,
            "validation_after": validation[-1]["val_ce"] if validation else None,
            "test_after": held_out_ce(run, "test", config["test_batches"]) if config["test"] else None,
        },
        "routing_loss": summary,
        "environment": environment() | ({} if command is None else {"command": command}),
    }
    if not run.first:
        return report
    for when, name in (("before", BEFORE), ("after", AFTER)):
        found = read_report(run.folder / name)["summary"]
        keys = ("load_entropy", "n_eff", "dead_experts", "mean_entropy", "marginal_entropy", "peak_top_share_token")
        report[f"routing_{when}"] = {key: found[key] for key in keys}
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    write_aside({run.folder / REPORT: text.encode()})
    return report


@contextlib.contextmanager
def _compiling_where_it_helps() -> Iterator[None]:
    """mlx-lm compiles the step. On a CPU that calls a C++ compiler for ten seconds, and no step gets faster by it."""
    if mx.default_device() != mx.Device(mx.cpu) or os.environ.get("MLX_DISABLE_COMPILE"):
        yield
        return
    mx.disable_compile()
    try:
        yield
    finally:
        mx.enable_compile()


@contextlib.contextmanager
def _checkpointing_undone(model: nn.Module) -> Iterator[None]:
    """mlx-lm's ``grad_checkpoint`` changes the class of the blocks for good; give it back its call."""
    kind = type(model.layers[0])
    call = kind.__call__
    try:
        yield
    finally:
        kind.__call__ = call


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep mlx-lm's own progress off stdout, where results go."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
