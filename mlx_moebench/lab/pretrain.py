"""Pretraining a lab model: text in, updates, checkpoints, a log, and a folder that everything else here takes."""

from __future__ import annotations

import json
import math
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx_lm.generate import generate_step
from transformers import PreTrainedTokenizerFast

from ..allocator import keep_freed_memory
from ..checkpoints import shortened
from ..data.training_log import FILE as LOG
from ..environment import environment
from ..errors import TrainingError
from ..files import check_output, write_aside
from ..locks import holding
from ..models import load_checkpoint, select_device
from ..options import Reading, Step, quiet_step
from ..pair.seal import sealed_text
from ..signals import Asked, Stopped, deferring
from ..train.checkpoint import FILE as CHECKPOINT
from ..train.log import TrainingLog, finite
from ..types import Json
from . import keep
from .decoder import Model, sparse_layers
from .domains import DomainBlocks, DomainOrder, check_repeats, evenly, labels_of, pack_domains, read_domains, repeats
from .initial import initialise
from .objective import Objective
from .presets import count_parameters
from .routers import Axes, FixedRouter, router_named
from .settings import FREE_TO_CHANGE, TRAINED_WITH, Pretraining, with_axes
from .steps import Updated, Updater, held_out_ce
from .text import Blocks, Order, load_tokenizer, pack, read_texts, train_tokenizer

REPORT = "lab_report.json"
SAMPLE_TOKENS = 48


@dataclass
class _Run:
    """What the parts of one pretraining share."""

    settings: Pretraining
    folder: Path
    group: mx.distributed.Group
    blocks: Blocks
    tokenizer: PreTrainedTokenizerFast
    model: Model
    optimizer: optim.Optimizer
    log: TrainingLog
    step: Step
    data: list[Json]
    objective: Objective

    @property
    def first(self) -> bool:
        """Whether this rank is the one that writes files."""
        return bool(self.group.rank() == 0)


def pretrain(
    settings: Pretraining,
    folder: str | Path,
    *,
    resume: bool = False,
    device: str = "auto",
    command: str | None = None,
    step: Step = quiet_step,
) -> Json:
    """Train a lab model, from scratch or on from ``start``, into ``folder`` and return the report, which lies there.

    The folder gets config.json, tokenizer and model.safetensors, so that it is a checkpoint for ``load`` and all
    commands; copies of it in ``steps/``, if asked for; ``training_log.jsonl`` with a line for every update;
    ``checkpoint.safetensors``, from which ``resume`` goes on to the weights of a run that was never stopped; and
    ``lab_report.json``. Under ``mlx.launch`` the ranks share every micro-batch, and the first writes.

    Raises MoebenchError subclasses; what was saved before stays.
    """
    settings = settings.resolved()
    if select_device(device) == "cpu":
        keep_freed_memory()
    group, folder = mx.distributed.init(), Path(folder)
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is no folder; name one with --output.")
    for name in ("batch_size", "micro_batch_size"):
        if getattr(settings, name) % group.size():
            raise TrainingError(
                f"{name} is {getattr(settings, name)}, which {group.size()} ranks cannot share evenly; use a multiple "
                f"of {group.size()}."
            )
    with holding(*([folder / LOG] if group.rank() == 0 else [])):
        run, start = _prepared(settings, folder, group, resume, step)
        try:
            _train(run, start)
        except RuntimeError as error:
            if group.size() == 1:
                raise
            raise TrainingError(
                f"Rank {group.rank()} cannot continue without the others ({shortened(error)}); start all ranks again "
                "with --resume."
            ) from error
        finally:
            run.log.close()
        return _report(run, command)


def _prepared(
    settings: Pretraining, folder: Path, group: mx.distributed.Group, resume: bool, step: Step
) -> tuple[_Run, int]:
    """The run, and the update that it begins with."""
    before = keep.read_facts(folder) if resume else None
    if not resume and ((folder / CHECKPOINT).exists() or (folder / "config.json").exists()):
        raise TrainingError(f"{folder} holds a model already: continue with --resume, or choose another --output.")
    if group.rank() == 0:
        check_output(folder / REPORT, ".json", "report of lab train", ("parameters", "settings"))
    start = 0 if before is None else before["iteration"]
    if mx.distributed.all_sum(mx.array(start), stream=mx.cpu).item() != start * group.size():
        raise TrainingError(f"The ranks do not find the same checkpoint in {folder}: copy it to every machine.")
    reading = Reading(text_field=settings.text_field, max_samples=settings.max_samples, split_on=settings.split_on)
    step("reading the text", 0, 0)
    labelled = read_domains(settings.domains, reading) if settings.domains else {}
    corpora = list(labelled.values()) or read_texts(settings.data, reading)
    trained = settings.vocab_size is not None
    if before is not None or settings.start is not None:
        tokenizer = load_tokenizer(folder if before is not None else settings.start)
    else:
        step("training the tokenizer" if trained else "loading the tokenizer", 0, 0)
        tokenizer = (
            train_tokenizer(corpora, settings.vocab_size) if settings.vocab_size else load_tokenizer(settings.tokenizer)
        )
    assert settings.seq_length is not None
    if labelled:
        assert settings.batch_size is not None
        assert settings.steps is not None
        of = pack_domains(labelled, tokenizer, settings.seq_length, settings.held_out, step)
        blocks: Blocks = of
        check_repeats(of, settings.batch_size, settings.steps, settings.most_repeats)
    else:
        blocks = pack(corpora, tokenizer, settings.seq_length, settings.held_out, step)
    if before is not None:
        _check_same(before, settings, blocks, folder)
    mx.random.seed(settings.seed)  # of expert dropout
    model = _model(settings, len(tokenizer), folder if before is not None else settings.start)
    model.train()
    optimizer = optim.AdamW(settings.learning_rate, weight_decay=settings.weight_decay, bias_correction=True)
    optimizer.init(model.trainable_parameters())
    window: dict[str, mx.array] = {}
    if before is not None:
        window = keep.restore_checkpoint(folder, model, optimizer)
    mx.eval(model.parameters())
    data = [{"name": corpus.name, "sha256": corpus.sha256, "documents": len(corpus.documents)} for corpus in corpora]
    log = TrainingLog(folder / LOG if group.rank() == 0 else None, start or None)
    objective = Objective(model, settings.z_weight, group)
    objective.restore(window)
    return _Run(settings, folder, group, blocks, tokenizer, model, optimizer, log, step, data, objective), start


def _model(settings: Pretraining, vocab_size: int, place: str | Path | None) -> Model:
    """The model to train: a new one, or with ``start`` that of the folder ``place``."""
    if settings.start is None:
        args = settings.model_args(vocab_size)
        model = Model(args)
        initialise(model, args, settings.seed, settings.router_std)
        return model
    going_on: Any = load_checkpoint(place, dtype="float32").model
    if not isinstance(going_on.args, Axes):
        raise TrainingError(
            f"{place} is no model of the lab; give one of lab train or lab upcycle, or fine-tune it by train."
        )
    changed = with_axes(going_on.args, settings.axes, among=TRAINED_WITH)
    for name in settings.axes:
        setattr(going_on.args, name, getattr(changed, name))  # which its mixtures share
    if settings.freeze:
        going_on.freeze()
        for layer in sparse_layers(going_on):
            layer.mlp.unfreeze()
            layer.mlp.freeze(keys="selection_bias", recurse=False)
    return going_on  # type: ignore[no-any-return]


def _check_same(before: Json, settings: Pretraining, blocks: Blocks, folder: Path) -> None:
    """Raise TrainingError where the run to go on with is another one."""
    old, new = before["lab"], json.loads(json.dumps(settings.to_dict()))
    for key in sorted(old.keys() | new.keys() - set(FREE_TO_CHANGE)):
        if key not in FREE_TO_CHANGE and old.get(key) != new.get(key):
            raise TrainingError(
                f"{folder} was trained with {key} = {old.get(key)!r}, not {new.get(key)!r}; resume with the settings "
                "it was started with, or choose another --output."
            )
    if before["data_sha256"] != blocks.sha256:
        raise TrainingError(
            f"The text or its tokens changed since {folder} was started; put it back, or choose another --output."
        )


def _train(run: _Run, start: int) -> None:
    """Updates from ``start`` to the end, with what is logged, saved and shown in between."""
    settings, blocks = run.settings, run.blocks
    assert settings.batch_size is not None
    assert settings.micro_batch_size is not None
    assert settings.steps is not None
    assert settings.clip is not None
    assert settings.data_seed is not None
    order = _order(run)
    update = Updater(run.model, run.objective, run.optimizer, settings.clip, settings.micro_batch_size, run.group)
    speeds: list[float] = []
    try:
        if not start:
            _evaluate(run, 0)
            _save(run, 0)
            _snapshot(run, 0)
        with deferring() if run.group.size() == 1 else _deaf() as asked:
            for done in range(start, settings.steps):
                began = time.perf_counter()
                rate = settings.learning_rate_at(done)
                batch = order.batch(done * settings.batch_size, settings.batch_size)
                updated = update(blocks.rows(batch), rate, labels_of(blocks, batch))
                speeds.append(updated.tokens / (time.perf_counter() - began))
                _after(run, done + 1, updated, rate, speeds[-1])
                run.step(_progress(run, updated, done + 1, speeds), done + 1, settings.steps)
                if asked.number is not None:
                    _save(run, done + 1)
                    raise Stopped(f"Stopped after step {done + 1}, which is saved; --resume continues.", asked.number)
    finally:
        run.objective.close()
    run.model.eval()


def _order(run: _Run) -> Order | DomainOrder:
    settings, blocks = run.settings, run.blocks
    assert settings.data_seed is not None
    assert settings.batch_size is not None
    if isinstance(blocks, DomainBlocks):
        return DomainOrder(blocks, settings.data_seed, settings.batch_size)
    return Order(blocks.train, settings.data_seed)


class _deaf:  # noqa: N801
    """With several ranks a signal ends the process at once: the others would wait for the one that was stopped."""

    def __enter__(self) -> Asked:
        return Asked()

    def __exit__(self, *_: object) -> None:
        return None


def _progress(run: _Run, updated: Updated, done: int, speeds: list[float]) -> str:
    speed = statistics.median(speeds[-20:])
    left = (run.settings.steps or 0) - done
    seconds = left * updated.tokens / speed
    clock = f"{int(seconds // 60)}:{int(seconds % 60):02d}"
    return f"training {run.model.args.router}: CE {updated.ce:.3f}, {speed:,.0f} tokens/s, {clock} left"


def _after(run: _Run, step: int, updated: Updated, rate: float, speed: float) -> None:
    """What follows an update: its line in the log, and now and then a validation, a checkpoint, a copy."""
    settings, last = run.settings, step == run.settings.steps
    if not math.isfinite(updated.ce) or not math.isfinite(updated.norm):
        raise TrainingError(
            f"The loss or its gradient is not finite at step {step}; what was saved before is kept in {run.folder}: "
            "try a smaller --learning-rate."
        )
    run.log.add(log_entry(step, updated, rate, speed))
    if last or (settings.eval_every and step % settings.eval_every == 0):
        _evaluate(run, step)
    # The copy first: a run that ends between the two makes it again.
    if settings.snapshot_every and step % settings.snapshot_every == 0:
        _snapshot(run, step)
    if last or step % settings.save_every == 0:
        _save(run, step)


def log_entry(step: int, updated: Updated, rate: float, speed: float) -> Json:
    """The line of one update, with the keys of `train.log.log_entry` and those of the lab.

    ce: nats a token, of the text alone. routing_loss, z_loss: means over routers, before their coefficients;
    routing_loss_sum: what the coefficient is multiplied with. Of each router, on the batch: entropies in nats,
    dead experts, max_violation = R max f - 1, load_cv. Columns that are no experts count as the others do.
    """
    n, balance = max(updated.tokens, 1), updated.balance
    counts, mean_p = updated.counts, updated.p / n
    load = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    columns = max(counts.shape[-1], 1)
    return {
        "step": step,
        "ce": updated.ce,
        "routing_loss": float(balance.mean()) if balance.size else 0.0,
        "routing_loss_sum": float(balance.sum()),
        "z_loss": float(updated.z.mean()) if updated.z.size else 0.0,
        "learning_rate": rate,
        "grad_norm": updated.norm,
        "tokens": updated.tokens,
        "tokens_per_second": speed,
        "peak_memory_gb": mx.get_peak_memory() / 1e9,
        "token_entropy": (updated.entropy / n).reshape(-1).tolist(),
        "marginal_entropy": _entropy(mean_p),
        "load_entropy": _entropy(load),
        "dead_experts": (counts == 0).sum(axis=-1).astype(float).tolist(),
        "top_load_ratio": (columns * load.max(axis=-1, initial=0)).tolist(),
        "max_violation": (columns * load.max(axis=-1, initial=0) - 1).tolist(),
        "load_cv": (columns * load.std(axis=-1)).tolist() if load.size else [],
    }


def _entropy(shares: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> list[float]:
    """H of each row, nats."""
    logs = np.log(np.where(shares > 0, shares, 1))
    return [float(h) for h in -(shares * logs).sum(axis=-1)]


def _evaluate(run: _Run, step: int) -> None:
    """Log the cross-entropy of held-out blocks, and a text that the model writes on."""
    settings = run.settings
    assert settings.micro_batch_size is not None
    run.step("validating", 0, 0)
    blocks = evenly(run.blocks, settings.eval_batches * settings.micro_batch_size)
    labels = labels_of(run.blocks, blocks)
    ce = held_out_ce(run.model, run.blocks.rows(blocks), settings.micro_batch_size, labels)
    run.log.add({"step": step, "val_ce": ce, "sample": _sample(run) if run.first else ""})


def _sample(run: _Run) -> str:
    """The beginning of a held-out block, and behind `` | `` what the model goes on with, always its first choice."""
    if isinstance(router_named(run.model.args.router) if run.model.args.num_experts else None, FixedRouter):
        return ""  # such a router is told about a text and does not go on with it
    beginning = run.blocks.rows(run.blocks.valid[:1])[0, : min(16, run.blocks.length)]
    run.model.eval()
    steps = generate_step(mx.array(beginning), run.model, max_tokens=SAMPLE_TOKENS)
    written = [int(token) for token, _ in steps]
    run.model.train()
    return f"{run.tokenizer.decode(beginning)} | {run.tokenizer.decode(written)}"


def _save(run: _Run, step: int) -> None:
    if not run.first:
        return
    keep.save_model(run.folder, run.model, run.tokenizer)
    # The checkpoint last: what it stands for is there when it is.
    facts = {"lab": run.settings.to_dict(), "data_sha256": run.blocks.sha256, "iteration": step}
    keep.save_checkpoint(run.folder, run.model, run.optimizer, facts, run.objective.state())


def _snapshot(run: _Run, step: int) -> None:
    if run.first and run.settings.snapshot_every:
        keep.save_model(keep.snapshot_folder(run.folder, step), run.model, run.tokenizer)


def _of_domains(run: _Run) -> Json:
    """What there is of every domain, and how often it was seen."""
    settings, blocks = run.settings, run.blocks
    if not isinstance(blocks, DomainBlocks):
        return {}
    assert settings.batch_size is not None
    assert settings.steps is not None
    of = repeats(blocks, settings.batch_size, settings.steps)
    return {"domains": {name: one._asdict() for name, one in of.items()}}


def _report(run: _Run, command: str | None) -> Json:
    """What came of it, written to ``lab_report.json`` by the first rank."""
    settings = run.settings
    steps = [entry for entry in run.log.entries if "ce" in entry]
    valid = [entry for entry in run.log.entries if "val_ce" in entry]
    speeds = [entry["tokens_per_second"] for entry in steps]
    report: Json = {
        "model": str(run.folder),
        "settings": settings.to_dict(),
        "config": asdict(run.model.args),
        "parameters": count_parameters(run.model)._asdict(),
        "ranks": run.group.size(),
        "data": {
            "sets": run.data,
            "tokens": len(run.blocks.ids),
            "blocks": {"train": len(run.blocks.train), "valid": len(run.blocks.valid)},
            "sha256": run.blocks.sha256,
            **_of_domains(run),
        },
        "tokens_trained": sum(entry["tokens"] for entry in steps),
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "seconds": sum(entry["tokens"] / entry["tokens_per_second"] for entry in steps),
        "peak_memory_gb": max((entry["peak_memory_gb"] for entry in steps), default=None),
        "ce": {
            "unit": "nats per token",
            "train": steps[-1]["ce"] if steps else None,
            "validation": valid[-1]["val_ce"] if valid else None,
        },
        "perplexity": math.exp(min(valid[-1]["val_ce"], 700)) if valid else None,
        "sample": valid[-1].get("sample") if valid else None,
        "environment": environment(),
        "command": command,
    }
    report = finite(report)
    if run.first:
        write_aside({run.folder / REPORT: sealed_text(report).encode()})
    return report
