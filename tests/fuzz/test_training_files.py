"""What a training reads and leaves: the YAML of train, its settings, and the log that report and plot read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_inputs import training_folder

pytest.importorskip("mlx.core", reason="needs MLX")

import yaml

from mlx_moebench.cli.report import readable
from mlx_moebench.data.training_log import FILE, read_log
from mlx_moebench.show.export import to_csv, to_markdown
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page.data import page_data
from mlx_moebench.show.plots import get_plot
from mlx_moebench.show.tables.training import ROWS
from mlx_moebench.train import training_config
from mlx_moebench.train.config import parse_value, read_config

from .mutations import changed_bytes, changed_json, json_bytes
from .outcomes import ACCEPTED, reading

SETTINGS: dict[str, Any] = {
    "model": "x",
    "data": "math",
    "iters": 100,
    "batch_size": 4,
    "seed": 3,
    "learning_rate": 1e-4,
    "fine_tune_type": "lora",
    "optimizer": "adamw",
    "optimizer_config": {"adamw": {"betas": [0.9, 0.98], "eps": 1e-6}},
    "lr_schedule": {"name": "cosine_decay", "warmup": 10, "warmup_init": 1e-7, "arguments": [1e-4, 100, 1e-7]},
    "lora_parameters": {"rank": 8, "scale": 20.0, "dropout": 0.0, "keys": ["mlp.gate"]},
    "routing_loss": {"name": "entropy_floor", "weight": 0.1, "signal": "load", "floor": {"fraction": 0.9}},
    "num_layers": -1,
    "grad_accumulation_steps": 2,
    "hf_dataset": [{"path": "a/b"}],
    "report_to": None,
    "mask_prompt": False,
}


def test_yaml(tmp_path: Path, tried: Callable[..., None]) -> None:
    """Its bytes, and a single value as the command line has it."""
    path = tmp_path / "x.yaml"

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        reading(lambda: parse_value(blob[:40].decode("utf-8", "replace")))
        return reading(lambda: training_config(read_config(path)))

    tried(changed_bytes(yaml.safe_dump(SETTINGS).encode()), check, 1 / 2)


def test_settings(tried: Callable[..., None]) -> None:
    """What YAML can hold in the place of a setting."""
    training_config(SETTINGS)

    def check(settings: Any) -> str:
        return reading(lambda: training_config(settings))

    tried(changed_json(SETTINGS).filter(lambda made: isinstance(made, dict)), check, 1 / 2)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The folder of a training with a report, and a short log."""
    folder = training_folder(tmp_path / "x", steps=4, routers=2)
    for name in ("routing_before", "routing_after"):
        for suffix in (".json", ".safetensors"):
            (folder / name).with_suffix(suffix).unlink()
    place = folder / "training_report.json"
    entry = {"value": 1.5, "low": 1.0, "high": 2.0, "method": "BCa bootstrap over sequences", "level": 0.95}
    whole = json.loads(place.read_text()) | {
        "tokens_trained": 400,
        "left_out": 1,
        "data": {"train": {"sequences": 9, "tokens": 400, "truncated": 0}},
        "ce": {"unit": "nats per token", "validation_before": 4.0, "validation_after": 3.7, "test_after": None},
        "routing_before": {key: entry for key, _ in ROWS},
        "routing_after": {key: entry for key, _ in ROWS},
    }
    place.write_text(json.dumps(whole))
    assert shown(folder) == ACCEPTED
    return folder


def shown(folder: Path) -> str:
    """In Markdown and in a page, as report does it."""

    def show() -> None:
        with readable():
            inputs = read_inputs([folder])
            to_markdown(inputs)
            to_csv(inputs)
            page_data(inputs)

    return reading(show)


def test_bytes_of_a_log(training: Path, tried: Callable[..., None]) -> None:
    log = training / FILE

    def check(blob: bytes) -> str:
        log.write_bytes(blob)
        reading(lambda: read_log(log))
        return shown(training)

    tried(changed_bytes(log.read_bytes()), check, 1 / 3)


def test_lines_of_a_log(training: Path, tried: Callable[..., None]) -> None:
    log = training / FILE

    def check(entries: list[Any]) -> str:
        log.write_bytes(b"\n".join(map(json_bytes, entries)))
        return shown(training)

    tried(changed_json(read_log(log)).filter(lambda made: isinstance(made, list)), check, 1 / 3)


def test_a_report_of_a_training(training: Path, tried: Callable[..., None]) -> None:
    place = training / "training_report.json"

    def check(blob: bytes) -> str:
        place.write_bytes(blob)
        return shown(training)

    report = json.loads(place.read_text())
    tried(changed_bytes(place.read_bytes()) | changed_json(report).map(json_bytes), check, 1 / 3)


def test_what_is_drawn(training: Path, tried: Callable[..., None]) -> None:
    """A picture takes a tenth of a second, so that fewer are tried."""
    import matplotlib.pyplot as plt

    log = training / FILE

    def draw() -> None:
        with readable():
            get_plot("training").draw(read_inputs([training])).savefig(io.BytesIO(), format="svg")

    def check(entries: list[Any]) -> str:
        log.write_bytes(b"\n".join(map(json_bytes, entries)))
        try:
            return reading(draw)
        finally:
            plt.close("all")

    entries = read_log(log)
    assert check(entries) == ACCEPTED
    tried(changed_json(entries).filter(lambda made: isinstance(made, list)), check, 1 / 100)
