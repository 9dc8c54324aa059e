"""The log of a training that was killed, at whatever moment, and resumed is that of one that nothing disturbed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_moebench.data.training_log import is_log
from mlx_moebench.train import LOG, train_adapter, training_config

pytestmark = pytest.mark.usefixtures("cpu")

# Kills itself before or after call NUMBER of WHAT, or in the middle of writing its line.
DRIVER = """
import os, signal, sys
from mlx_moebench.train import checkpoint, run
from mlx_moebench.train.log import TrainingLog
from mlx_moebench.cli import main
what, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = TrainingLog if what == "add" else checkpoint
whole, calls = getattr(owner, what), []
class Half:
    def __init__(self, file):
        self.file = file
    def write(self, line):
        self.file.write(line[:len(line) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
def killing(*arguments):
    calls.append(1)
    if len(calls) == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if len(calls) == number and when == "amid":
        arguments[0]._file = Half(arguments[0]._file)
    whole(*arguments)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, what, killing)
main(["train", "-c", sys.argv[4], "--resume", "--quiet", "--device", "cpu"])
"""
CLOCK = ("tokens_per_second", "peak_memory_gb")
"""What depends on the machine's mood."""


@pytest.fixture(scope="module")
def settings(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("train", "valid"):
        rows = [" ".join("a router sends every token"[: 9 + n].split()) for n in range(12)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return {
        "model": str(tiny_checkpoint), "data": str(folder), "iters": 7, "batch_size": 4, "save_every": 3,
        "steps_per_eval": 2, "learning_rate": 1e-2, "max_seq_length": 24, "routing_samples": 1, "max_length": 8,
        "routing_loss": {"name": "switch", "weight": 0.1}, "lora_parameters": {"rank": 2, "dropout": 0.1},
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("undisturbed") / "adapters"
    train_adapter(training_config(settings | {"adapter_path": str(folder)}), device="cpu")
    return lines(folder)


def lines(folder: Path) -> list[str]:
    """The lines of a log, without what a clock says."""
    raw = (folder / LOG).read_text()
    assert raw.endswith("\n")
    entries = [json.loads(line) for line in raw.splitlines()]
    return [json.dumps({key: value for key, value in entry.items() if key not in CLOCK}) for entry in entries]


# Lines: step 0 (validation), 1, 2, 2 (validation), 3, [checkpoint 3], 4, 4 (validation), 5, 6, 6 (validation), ...
QUICK = [("add", "after", 1)]
OTHERS = [
    *(("add", "amid", 6), ("add", "before", 1), ("add", "amid", 12)),
    *(("save_checkpoint", "before", 1), ("save_checkpoint", "after", 3), ("save_adapter", "after", 1)),
]
AT_NIGHT = [
    *(("add", "amid", 1), ("add", "after", 2), ("add", "amid", 2), ("add", "before", 4), ("add", "after", 5)),
    *(("add", "before", 6), ("add", "after", 6), ("add", "after", 11)),
    *(("save_checkpoint", "after", 1), ("save_checkpoint", "before", 3), ("save_adapter", "after", 3)),
]


@pytest.mark.parametrize(
    ("what", "when", "number"),
    [
        *QUICK,
        *(pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS),
        *(pytest.param(*one, marks=(pytest.mark.slow, pytest.mark.nightly)) for one in AT_NIGHT),
    ],
)
def test_after_kill_9_and_resume_the_log_is_the_same(
    settings: dict[str, Any], undisturbed: list[str], tmp_path: Path, what: str, when: str, number: int
) -> None:
    given = settings | {"adapter_path": str(tmp_path / "adapters")}
    (tmp_path / "config.json").write_text(json.dumps(given))  # JSON is YAML
    command = [sys.executable, "-c", DRIVER, what, when, str(number), str(tmp_path / "config.json")]
    killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    train_adapter(training_config(given), device="cpu", resume=True)
    assert lines(tmp_path / "adapters") == undisturbed


def test_starting_again_without_resume_keeps_no_line(
    settings: dict[str, Any], undisturbed: list[str], tmp_path: Path
) -> None:
    """After a kill before the first checkpoint; every step is there once, and every validation."""
    given = settings | {"adapter_path": str(tmp_path / "adapters")}
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / LOG).write_text(undisturbed[0] + "\n" + undisturbed[1] + "\n" + undisturbed[2][:40])
    train_adapter(training_config(given), device="cpu")
    assert lines(tmp_path / "adapters") == undisturbed
    assert [json.loads(line)["step"] for line in undisturbed] == [0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 7]


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        *((text, True) for text in ('{"st', '{"step": 0, "val_c', '{"step": 0}', '{"step": 0}\n{"st')),
        *((text, False) for text in ("{}", '{"stop": 1', "notes", "notes\n" * 2, '{"st\n{"step": 0}\n')),
    ],
)
def test_the_start_of_a_first_line_is_of_a_log(tmp_path: Path, text: str, ours: bool) -> None:
    (tmp_path / LOG).write_text(text)
    assert is_log(tmp_path / LOG) == ours
