"""One training: LoRA through mlx-lm's trainer, with routing measured before it, at every step, and after it."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.trainer import TrainingArgs, train

from ..checkpoints import find, shortened
from ..checkpoints.adapters import CONFIG, WEIGHTS
from ..data.training_log import FILE as LOG
from ..data.training_log import is_log
from ..errors import RenamedError, TrainingError, needed
from ..files import check_ours, check_output
from ..instrument import config_of, routers_of
from ..instrument.cpu_path import leave_cpu_path, use_cpu_path
from ..locks import holding
from ..models import load_checkpoint, read_adapter, select_device
from ..models.writers import unlike_stock
from ..options import Step, quiet_step
from ..pair.storage import check_writable
from ..routing.record import RouterSpec
from ..types import Json
from . import checkpoint as kept
from .config import TrainingConfig
from .data import bundled_folder, check_sizes, load_tokens, silent
from .log import TrainingLog
from .lora import add_lora, check_gates, lora_keys, unfreeze
from .objective import Objective
from .order import TrainingOrder, validations
from .outcome import AFTER, BEFORE, REPORT, has_report, measure_routing, training_report
from .settings import RoutingLoss
from .watch import Finished, Training, Watcher

_FREE_TO_CHANGE = (
    "adapter_path", "iters", "steps_per_report", "steps_per_eval", "val_batches", "save_every", "test", "test_batches",
    "report_to", "project_name", "clear_cache_threshold", "resume_adapter_file",
)  # fmt: skip
"""Settings that a run may be resumed with other values of, because the weights do not depend on them."""


def train_adapter(
    config: TrainingConfig,
    *,
    resume: bool = False,
    device: str = "auto",
    command: str | None = None,
    step: Step = quiet_step,
) -> Json:
    """Train as ``config`` says and return the training report, which also lies in the adapter's folder.

    The folder gets ``adapters.safetensors`` and ``adapter_config.json``, which stock mlx-lm loads; the checkpoint that
    ``resume`` goes on from to the weights of an uninterrupted run; ``training_log.jsonl``; and the stats pairs
    ``routing_before`` and ``routing_after``. Under ``mlx.launch`` the ranks share every batch, and the first writes.

    Raises MoebenchError subclasses; what was saved before stays.
    """
    needed(TrainingCallback, "on_train_loss_report", "mlx_lm", "is called after every step")
    select_device(device)
    group = mx.distributed.init()
    folder = Path(config["adapter_path"])
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is no folder; name one with --adapter-path.")
    with holding(*([folder / LOG] if group.rank() == 0 else [])):
        return _train_in(folder, config, group, resume, command, step)


def _train_in(
    folder: Path, config: TrainingConfig, group: mx.distributed.Group, resume: bool, command: str | None, step: Step
) -> Json:
    before = _check_folder(folder, resume)
    if before is None and group.rank() == 0:
        _check_ours(folder)
    start = 0 if before is None else before["iteration"]
    if mx.distributed.all_sum(mx.array(start), stream=mx.cpu).item() != start * group.size():
        raise TrainingError(f"The ranks do not find the same checkpoint in {folder}: copy it to every machine.")
    located = find(config["model"], None, config["trust_remote_code"], unquantised=config["bits"] is not None)
    lora = config["fine_tune_type"] != "full"
    check_gates(located.family, adapters=lora and config["routing_loss"] is not None)
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
    regularised = _regularised(config.routing_loss, specs)
    if sentence := config.routing_loss.never_fires(specs):
        warnings.warn(sentence, UserWarning, stacklevel=2)
    data = load_tokens(config, checkpoint.tokenizer, step)
    check_sizes(config, data, config_of(checkpoint.model), group.size())
    shas = {name: data[name].sha256 for name in ("train", "valid")}
    facts = {"settings": config.values, "fingerprint": checkpoint.fingerprint, "data_sha256": shas}
    run = Training(config, checkpoint, data, specs, folder, group, step, facts)
    if before is not None:
        _check_same(before, run)
    if before is None or not has_report(folder / BEFORE):
        measure_routing(run, BEFORE, checkpoint, resume and before is None)
    # Without a loss nobody asked to train the gates.
    unlike = unlike_stock(located.family, located.config)
    _prepare(run, regularised if config["routing_loss"] is not None else [], unlike)
    leave_cpu_path(checkpoint.model)  # mlx-lm's compiled step, and its gradient, are its own
    log = _train(run, start)
    use_cpu_path(checkpoint.model)
    measure_routing(run, AFTER, replace(checkpoint, adapter=read_adapter(folder).facts if run.first else None))
    return training_report(run, log, command)


def _regularised(loss: RoutingLoss, specs: tuple[RouterSpec, ...]) -> list[RouterSpec]:
    """The routers that the loss is on. Raises TrainingError where one cannot reach the floor."""
    routers = [specs[number] for number in loss.routers(specs)]
    for spec in routers:
        loss.floor_nats(spec.n_experts)
    return routers


def _check_folder(folder: Path, resume: bool) -> Json | None:
    """The facts of the checkpoint to go on from, or None to start."""
    if not resume:
        if (folder / WEIGHTS).exists() or (folder / kept.FILE).exists():
            raise TrainingError(
                f"{folder} holds a training already: continue with --resume, or choose another --adapter-path."
            )
        return None
    facts = kept.read_facts(folder)
    if facts is None and (folder / WEIGHTS).exists():
        raise TrainingError(
            f"{folder} holds an adapter but no {kept.FILE} to continue from; choose another --adapter-path, and "
            f"--resume-adapter-file {folder / WEIGHTS} to start from its weights."
        )
    return facts


def _check_ours(folder: Path) -> None:
    """Raise where a training would replace what none has written; see `files.check_ours`."""
    keys = {CONFIG: ("routing_loss", "routing_data"), REPORT: ("ranks", "routing_loss")}
    for name, names in keys.items():
        check_output(folder / name, ".json", "file of a training", names)
    check_output(folder / "training.png", ".png", "plot")
    check_ours(folder / LOG, "log of a training", lambda: is_log(folder / LOG))
    for name in (BEFORE, AFTER):
        check_writable(folder / name)


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


def _check_same(before: Json, run: Training) -> None:
    """Raise TrainingError where the run to go on with is another one."""
    old, new = before["settings"], json.loads(json.dumps(run.config.values))
    _check_same_order(old, run)
    for key in sorted(old.keys() | new.keys() - set(_FREE_TO_CHANGE)):
        if key not in _FREE_TO_CHANGE and old.get(key) != new.get(key):
            raise TrainingError(
                f"{run.folder} was trained with {key} = {old.get(key)!r}, not {new.get(key)!r}; resume with the "
                "settings it was started with, or choose another --adapter-path."
            )
    if before["fingerprint"] != run.facts["fingerprint"]:
        raise TrainingError(f"{run.folder} was trained on another model; choose another --adapter-path.")
    for name, sha256 in run.facts["data_sha256"].items():
        if before["data_sha256"][name] != sha256:
            raise TrainingError(
                f"The {name} text or its tokens changed since {run.folder} was started; put it back, or choose another "
                "--adapter-path."
            )
    if before["iteration"] > run.config["iters"]:
        raise TrainingError(
            f"{run.folder} has run {before['iteration']} steps, more than iters = {run.config['iters']}."
        )


def _check_same_order(old: Json, run: Training) -> None:
    """Raise TrainingError where the validations that mlx-lm's order of the data depends on are others."""
    if run.config["sort_by_length"]:
        return
    for key in ("val_batches", "steps_per_eval"):
        changed = {**old, key: run.config[key]}
        held_out = len(run.data["valid"])
        if validations(old, held_out) != validations(changed, held_out):
            raise TrainingError(
                f"{run.folder} was trained with {key} = {old[key]!r}, not {run.config[key]!r}, on which the order of "
                "mlx-lm's batches depends: resume with the same, or start with --sort-by-length, whose order does not."
            )


def _prepare(run: Training, routers: list[RouterSpec], unlike: Json) -> None:
    """Freeze the model, put adapters on what is trained, and write the config from which stock mlx-lm loads them.

    unlike: the ``model_config`` that stock mlx-lm must be given to compute the same.
    """
    config, model = run.config, run.checkpoint.model
    mx.random.seed(config["seed"])
    model.freeze()
    values = config.values | ({"model_config": unlike} if unlike else {})
    if config["fine_tune_type"] == "full":
        unfreeze(model, config["num_layers"], routers)
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
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    if wrong := sorted(name for name in expected.keys() | shapes.keys() if expected.get(name) != shapes.get(name)):
        raise TrainingError(
            f"resume_adapter_file {path} is the adapter of another model or of other LoRA settings: {wrong[0]} has "
            f"shape {shapes.get(wrong[0])} there and {expected.get(wrong[0])} here ({len(wrong)} differ)."
        )
    model.load_weights(list(weights.items()), strict=False)


def _train(run: Training, start: int) -> TrainingLog:
    """Training mlx-lm's trainer from step ``start`` to the end; the log of all steps."""
    config, model = run.config, run.checkpoint.model
    optimizer = config.optimizer()
    with Objective(model, config.routing_loss, run.group) as objective:
        optimizer.init(model.trainable_parameters())
        if start:
            kept.restore_checkpoint(run.folder, model, optimizer)
            if run.first:
                kept.save_adapter(run.folder, model, start)  # a kill may have come between the two files
        log = TrainingLog(run.folder / LOG if run.first else None, start or None)
        watcher = Watcher(run, objective, optimizer, log, start)
        if not start:
            watcher.validate(0)
        arguments = _arguments(config, start)
        try:
            with (
                _not_compiled(),
                _checkpointing_undone(model),
                watcher.stopping_gently(),
                silent(),
                contextlib.suppress(Finished),
            ):
                if arguments.iters:
                    train(
                        model,
                        optimizer,
                        run.data["train"],
                        args=arguments,
                        loss=objective,
                        iterate_batches=TrainingOrder(config, len(run.data["valid"]), start),
                        training_callback=watcher,
                    )
                    raise RenamedError(
                        "mlx_lm", "report of the last step to its training_callback", "saves the adapter"
                    )
        except RuntimeError as error:
            if run.group.size() == 1:
                raise
            raise TrainingError(
                f"Rank {run.group.rank()} cannot continue without the others ({shortened(error)}); start all ranks "
                "again with --resume."
            ) from error
        finally:
            log.close()
    model.eval()
    return log


def _arguments(config: TrainingConfig, start: int) -> TrainingArgs:
    return TrainingArgs(
        batch_size=config["batch_size"],
        iters=config["iters"] - start,
        steps_per_report=1,
        steps_per_save=config["iters"] + 1,  # the watcher saves, whole files at steps that can be resumed
        max_seq_length=config["max_seq_length"],
        grad_checkpoint=config["grad_checkpoint"],
        grad_accumulation_steps=config["grad_accumulation_steps"],
        clear_cache_threshold=config["clear_cache_threshold"],
    )


@contextlib.contextmanager
def _not_compiled() -> Iterator[None]:
    """Keep mlx-lm from compiling the step.

    MLX 0.32.4 cannot compile every step with the figures of an `Objective` in the state (IndexError: _Map_base::at),
    and on a CPU compiling costs ten seconds and speeds up nothing. Where it compiles, the weights are the same.
    """
    if os.environ.get("MLX_DISABLE_COMPILE"):
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
