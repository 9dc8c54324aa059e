"""Two local ranks: the same loss and weights as one process with the whole batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_moebench.train import LOG, read_log, train_adapter, training_config  # noqa: E402

pytestmark = [pytest.mark.usefixtures("cpu"), pytest.mark.slow]


def launch_command(config: Path, ranks: int, *options: str) -> list[str]:
    launcher = Path(sys.executable).with_name("mlx.launch")
    command = [str(launcher), "-n", str(ranks), "--backend", "ring", "--starting-port", str(free_port()), "--"]
    command += [
        sys.executable,
        "-m",
        "mlx_moebench",
        "train",
        "-c",
        str(config),
        "--quiet",
        "--device",
        "cpu",
        *options,
    ]
    return command


def launch(config: Path, ranks: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = launch_command(config, ranks, *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Texts of unequal length, so that a mean of the ranks' means is not the mean over tokens."""
    rng = np.random.default_rng(0)
    for name in ("train", "valid"):
        rows = [" ".join(rng.choice(["router", "sends", "token", "experts"], rng.integers(4, 14))) for _ in range(16)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize(
    "loss",
    [
        {"name": "entropy_floor", "signal": "marginal", "scope": "batch"},
        {"name": "entropy_floor", "signal": "load", "scope": "window", "window": 3},
        *(
            pytest.param(loss, marks=pytest.mark.nightly)
            for loss in (
                {"name": "entropy_floor", "signal": "marginal", "scope": "sequence"},
                {"name": "switch"},
                {"name": "global", "window": 3},
            )
        ),
        {"name": "z"},
    ],
    ids=["batch", "window", "sequence", "switch", "global", "z"],
)
def test_two_ranks_reach_the_loss_and_weights_of_one_process(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path, loss: dict[str, Any]
) -> None:
    floor = {"floor": {"fraction": 1.0}} if loss["name"] == "entropy_floor" else {}
    settings = {
        "model": str(tiny_checkpoint),
        "data": str(texts),
        "iters": 4,
        "save_every": 4,
        "steps_per_eval": 4,
        "batch_size": 4,
        "learning_rate": 0.1,
        "optimizer": "sgd",  # Adam would hide a factor that is missing from a gradient
        "lora_parameters": {"rank": 2, "scale": 4.0, "dropout": 0.0, "keys": ["mlp.gate"]},
        "routing_loss": loss | floor | {"weight": 0.003 if loss["name"] == "z" else 3.0},
    }
    one = settings | {"adapter_path": str(tmp_path / "one")}
    train_adapter(training_config(one), device="cpu")
    config = tmp_path / "two.json"
    config.write_text(json.dumps(settings | {"adapter_path": str(tmp_path / "two")}))
    done = launch(config, 2)
    assert (tmp_path / "two" / "adapters.safetensors").exists(), done.stdout + done.stderr
    logs = [read_log(tmp_path / name / LOG) for name in ("one", "two")]
    for a, b in zip(*logs, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"tokens_per_second", "peak_memory_gb"}:
            np.testing.assert_allclose(a[key], b[key], rtol=2e-4, atol=2e-5, err_msg=f"{key} at step {a['step']}")
    weights: list[Any] = [mx.load(str(tmp_path / name / "adapters.safetensors")) for name in ("one", "two")]
    moved = 0.0
    for name, value in weights[0].items():
        np.testing.assert_allclose(np.array(value), np.array(weights[1][name]), rtol=1e-4, atol=2e-5, err_msg=name)
        moved = max(moved, float(mx.abs(value).max()) if name.endswith("lora_b") else 0.0)
    assert moved > 1e-3


def test_a_batch_that_two_ranks_cannot_share_is_one_clear_sentence(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    config = tmp_path / "odd.json"
    settings = {"model": str(tiny_checkpoint), "data": str(texts), "batch_size": 3, "iters": 1, "save_every": 1}
    config.write_text(json.dumps(settings | {"adapter_path": str(tmp_path / "odd")}))
    done = launch(config, 2)
    assert "2 ranks cannot share evenly" in done.stdout + done.stderr


def test_a_rank_that_dies_ends_the_others_and_resume_goes_on(
    tiny_checkpoint: Path, texts: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ranks"
    settings = {"model": str(tiny_checkpoint), "data": str(texts), "batch_size": 2, "iters": 4000, "save_every": 5}
    settings |= {"max_seq_length": 24, "val_batches": 1, "steps_per_eval": 4000, "adapter_path": str(folder)}
    config = tmp_path / "ranks.json"
    config.write_text(json.dumps(settings))
    launcher = subprocess.Popen(
        launch_command(config, 2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (folder / "0000005_adapters.safetensors").exists():
        assert launcher.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = subprocess.run(["pgrep", "-f", str(config)], capture_output=True, text=True, check=True).stdout.split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in found}
    ranks = [pid for pid, command in commands.items() if command[1:4] == [b"-m", b"mlx_moebench", b"train"]]
    os.kill(int(ranks[-1]), signal.SIGKILL)
    said = launcher.communicate(timeout=120)[0]
    assert "start all ranks again with --resume" in said or "exited with code -9" in said
    reached = max(int(path.name[:7]) for path in folder.glob("0*_adapters.safetensors"))
    config.write_text(json.dumps(settings | {"iters": reached + 2}))
    done = launch(config, 2, "--resume")
    steps = [entry["step"] for entry in read_log(folder / LOG) if "ce" in entry]
    assert steps == list(range(1, reached + 3)), done.stdout + done.stderr
