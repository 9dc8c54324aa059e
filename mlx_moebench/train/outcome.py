"""What a training changed: routing before and after it, and the report."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from ..data.files import read_rows
from ..environment import environment
from ..errors import DataError, StatsError
from ..files import write_aside
from ..measure.on_mlx import MLX
from ..measure.run import measure
from ..models import Checkpoint
from ..options import Loading, Options, Reading, Saving
from ..pair.seal import sealed_text
from ..pair.storage import pair_paths, read_report
from ..types import Json
from .config import TrainingConfig
from .data import text_field
from .log import TrainingLog, finite, summarise
from .watch import Training, held_out_ce

REPORT = "training_report.json"
BEFORE, AFTER = "routing_before.json", "routing_after.json"


def measure_routing(run: Training, name: str, checkpoint: Checkpoint, resume: bool = False) -> None:
    """Write the stats pair ``name`` of the model as it is; resume: go on from what an interrupted run measured.

    Raises MoebenchError subclasses, among them StatsError where the pair to go on from is of something else.
    """
    if not run.first:
        return
    config = run.config
    dataset, field = _held_out(config) if config["routing_data"] is None else (config["routing_data"], None)
    measure(
        checkpoint,
        dataset,
        Options(
            Loading(device="gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"),
            Reading(field, max_samples=config["routing_samples"], max_length=config["max_length"]),
            saving=Saving(run.folder / name, resume),
        ),
        runner=MLX(alone=True),
        step=lambda what, done, total: run.step(
            f"routing {Path(name).stem.rpartition('_')[2]} training: {what}", done, total
        ),
    )


def has_report(path: Path) -> bool:
    """Whether a whole stats pair lies at ``path``."""
    try:
        return pair_paths(path)[1].exists() and bool(read_report(path))
    except StatsError:
        return False


def _held_out(config: TrainingConfig) -> tuple[str | Path, str | None]:
    """What routing is measured on where nothing is named, and its field: the validation file, else the training file.

    Bundled prompts for a hub data set.
    """
    if config.values.get("hf_dataset") or not (folder := Path(config["data"])).is_dir():
        return "general", None
    for name in ("valid", "train"):
        if (path := folder / f"{name}.jsonl").is_file() and (row := next(iter(read_rows(path)), None)) is not None:
            return path, text_field(config, row.values)
    raise DataError(f"{folder} has no text to measure the routing on; name some with --routing-data.")


def training_report(run: Training, log: TrainingLog, command: str | None) -> Json:
    """What came of it, written to ``training_report.json`` by the first rank."""
    config = run.config
    loss = None if config["routing_loss"] is None else config.routing_loss
    report = {
        "model": run.checkpoint.name,
        "settings": config.values,
        "ranks": run.group.size(),
        "data": {
            name: {"sequences": len(split), "tokens": split.n_tokens, "truncated": split.truncated}
            for name, split in run.data.items()
        },
        "left_out": len(run.data["train"]) % config["batch_size"],
        "tokens_trained": sum(entry["tokens"] for entry in log.entries if "ce" in entry),
        "ce": _ce(run, [entry for entry in log.entries if "val_ce" in entry]),
        "routing_loss": summarise(log.entries, loss, run.specs, config["iters"]),
        "environment": environment() | ({} if command is None else {"command": command}),
    }
    if not run.first:
        return report
    for when, name in (("before", BEFORE), ("after", AFTER)):
        summary = read_report(run.folder / name)["summary"]
        keys = ("load_entropy", "n_eff", "dead_experts", "mean_entropy", "marginal_entropy", "peak_top_share_token")
        report[f"routing_{when}"] = {key: summary[key] for key in keys}
    write_aside({run.folder / REPORT: sealed_text(report).encode()})
    return report


def _ce(run: Training, validation: list[Json]) -> Json:
    """Cross-entropy on held-out text, from the lines of the log that have one."""
    before = validation[0]["val_ce"] if validation and validation[0]["step"] == 0 else None
    after = validation[-1]["val_ce"] if validation else None
    test = finite(held_out_ce(run, "test", run.config["test_batches"])) if run.config["test"] else None
    return {"unit": "nats per token", "validation_before": before, "validation_after": after, "test_after": test}
