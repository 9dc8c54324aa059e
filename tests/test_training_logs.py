"""Routing in the logs of a training: transformers' Trainer, and an MLX loop; the figures are those of a measurement."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny

from mlx_moebench.errors import MoebenchError, UnsupportedModelError
from mlx_moebench.routing.window import LOGGED

ROWS = [[5, 17, 250, 3, 88, 41, 9], [30, 2, 2, 76, 130, 4, 12], [8, 9, 10], [11, 12, 13, 14, 15], [1, 2], [3, 4, 5, 6]]


def expected(stats: Any) -> dict[str, float]:
    """The figures of a measurement, from its table."""
    table = stats.to_dataframe()
    figures = {f"routing/{name}": float(table[name].mean()) for name in LOGGED}
    for _, row in table.iterrows():
        figures |= {f"routing/layer.{row.layer}/{name}": float(row[name]) for name in LOGGED}
    return figures


def routing(logs: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in logs.items() if key.startswith("routing/")}


# -- transformers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path, one_torch_thread: None) -> Any:
    from transformers_models import random_transformers

    return random_transformers(tmp_path / "model", "mixtral")


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Right-padded, without a loss on the padding."""
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def trainer_of(model: Any, folder: Path, callbacks: list[Any], **arguments: Any) -> Any:
    """Two rows a step, in order, with weights that stay what they are."""
    from transformers import Trainer, TrainingArguments

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            from torch.utils.data import SequentialSampler

            return SequentialSampler(self.train_dataset)

    settings: dict[str, Any] = {
        "learning_rate": 0.0, "logging_steps": 1, "max_steps": 3, "per_device_train_batch_size": 2, "report_to": "none",
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False,
    }  # fmt: skip
    rows = [{"input_ids": row} for row in ROWS]
    made = TrainingArguments(output_dir=str(folder), **settings | arguments)
    return InOrder(model, made, train_dataset=rows, eval_dataset=rows, data_collator=collate, callbacks=callbacks)


def logger() -> Any:
    """A callback that keeps what it is told, as those of TensorBoard and W&B write it."""
    from transformers import TrainerCallback

    class Keeps(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.told: list[dict[str, Any]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.told.append(dict(logs))

    return Keeps()


def measured(model: Any, rows: list[list[int]]) -> dict[str, float]:
    import torch

    import torch_fallback

    with torch_fallback.attach(model) as stats, torch.no_grad():
        for row in rows:
            model(torch.tensor([row]))
    return expected(stats)


@pytest.mark.extra
@pytest.mark.parametrize("change", [
    {}, {"gradient_checkpointing": True}, {"logging_steps": 3}, {"gradient_accumulation_steps": 3, "max_steps": 1},
    {"eval_strategy": "steps", "eval_steps": 1},
], ids=lambda change: next(iter(change), "plain"))  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_trainer_logs_what_a_measurement_of_its_batches_gives(
    trained: Any, tmp_path: Path, change: dict[str, Any]
) -> None:
    from torch_fallback import RoutingCallback

    keeps = logger()
    trainer = trainer_of(trained, tmp_path, [keeps], **change)
    RoutingCallback(trained).add_to(trainer)
    trainer.train()
    told = [logs for logs in keeps.told if "loss" in logs]
    together = len(told) == 1
    batches = [ROWS] if together else [ROWS[:2], ROWS[2:4], ROWS[4:]]
    trained.eval()
    assert len(told) == len(batches)
    for logs, rows in zip(told, batches, strict=True):
        assert routing(logs) == pytest.approx(measured(trained, rows), rel=1e-5, abs=1e-6)
    assert [routing(logs) for logs in trainer.state.log_history if "loss" in logs] == [routing(logs) for logs in told]
    assert not any(routing(logs) for logs in keeps.told if "loss" not in logs)
    assert not trained._forward_pre_hooks


@pytest.mark.extra
def test_every_second_step_and_a_callback_that_comes_last(trained: Any, tmp_path: Path) -> None:
    from torch_fallback import RoutingCallback

    keeps = logger()
    trainer = trainer_of(trained, tmp_path, [keeps, RoutingCallback(trained, every=2)])
    trainer.train()
    assert not any(routing(logs) for logs in keeps.told)  # it was told before
    history = [routing(logs) for logs in trainer.state.log_history if "loss" in logs]
    trained.eval()
    assert [bool(logs) for logs in history] == [True, False, True]
    assert history[2] == pytest.approx(measured(trained, ROWS[4:]), rel=1e-5, abs=1e-6)


@pytest.mark.extra
def test_what_cannot_be_logged_is_said(trained: Any, tmp_path: Path) -> None:
    import torch

    from torch_fallback import RoutingCallback

    with pytest.raises(MoebenchError, match="1 or more"):
        RoutingCallback(trained, every=0)
    with pytest.raises(UnsupportedModelError):
        RoutingCallback(torch.nn.Linear(2, 2))
    from transformers_models import random_transformers

    other = random_transformers(tmp_path / "other", "mixtral")
    trainer = trainer_of(other, tmp_path, [], max_steps=1)
    RoutingCallback(trained).add_to(trainer)
    with pytest.warns(RuntimeWarning, match="No routing was heard in 1 steps"):
        trainer.train()


RANKS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, torch, torch.distributed as dist
from pathlib import Path
from mlx_moebench.routing.window import Window
from test_training_logs import ROWS, measured, routing, trainer_of
from transformers_models import random_transformers
from torch_fallback import RoutingCallback
import os
folder = Path(sys.argv[2]) / os.environ["RANK"]
model = random_transformers(folder / "model", "mixtral")
trainer = trainer_of(model, folder, [], per_device_train_batch_size=1, ddp_backend="gloo")
RoutingCallback(model).add_to(trainer)
trainer.train()
history = [routing(logs) for logs in trainer.state.log_history if "loss" in logs]
model.eval()
same = [measured(model, ROWS[2 * n : 2 * n + 2]) for n in range(3)]
for a, b in zip(history, same, strict=True):
    assert a.keys() == b.keys() and all(abs(a[k] - b[k]) < 1e-5 * max(1, abs(b[k])) for k in b), (a, b)
# One write, which the other rank's cannot come into the middle of.
os.write(1, f"equal {dist.get_world_size()}\\n".encode())
"""


@pytest.mark.extra
@pytest.mark.slow
def test_ranks_log_the_figures_of_all_of_them(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "run.py").write_text(RANKS)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", str(tmp_path / "run.py"), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300)
    assert done.stdout.count("equal 2") == 2, done.stdout + done.stderr


# -- MLX -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> Any:
    """(model, step(ids)): an MLX training step with weights that stay what they are."""
    mx = pytest.importorskip("mlx.core", reason="needs MLX")
    request.getfixturevalue("cpu")
    import mlx.nn as nn
    import mlx.optimizers as optim

    model, optimizer = build_tiny(), optim.SGD(learning_rate=0.0)

    def loss(model: Any, ids: Any) -> Any:
        return nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:]).mean()

    def step(rows: list[list[int]]) -> None:
        value, gradients = nn.value_and_grad(model, loss)(model, mx.array(rows))
        optimizer.update(model, gradients)
        mx.eval(value, model.parameters(), optimizer.state)

    return model, step


def test_a_loop_logs_what_a_measurement_of_its_batches_gives(loop: Any) -> None:
    import mlx.core as mx

    from mlx_moebench.instrument import attach
    from mlx_moebench.train import RoutingMonitor

    model, step = loop
    monitor = RoutingMonitor(model)
    for rows in (ROWS[:2], [ROWS[3], ROWS[3][::-1]]):
        with monitor.step():
            step(rows)
        model(mx.array([ROWS[4]]))  # between steps: not the training's
    with attach(model) as stats:
        for row in (*ROWS[:2], ROWS[3], ROWS[3][::-1]):
            model(mx.array([row[:-1]]))
    assert monitor.figures() == pytest.approx(expected(stats), rel=1e-5, abs=1e-6)
    assert monitor.figures() == {}
    assert not any(type(module).__name__.endswith("Tapped") for module in model.modules())


def test_padding_of_a_loop_does_not_count(loop: Any) -> None:
    from mlx_moebench.train import RoutingMonitor

    model, step = loop
    monitor = RoutingMonitor(model)
    rows = [ROWS[0], [*ROWS[3], 0, 0]]
    with monitor.step(mask=np.arange(6)[None] < np.array([[6], [4]])):
        step(rows)
    padded = monitor.figures()
    for row in (ROWS[0], ROWS[3]):
        with monitor.step():
            step([row])
    assert padded == pytest.approx(monitor.figures(), rel=1e-5, abs=1e-6)


def test_a_step_that_is_no_number_is_left_out_with_a_warning(loop: Any) -> None:
    from mlx_moebench.train import RoutingMonitor

    model, step = loop
    monitor = RoutingMonitor(model)
    with monitor.step():
        step(ROWS[:2])
    before, gate = monitor._window.sums.copy(), model.layers[1].mlp.gate
    kept, gate.weight = gate.weight, gate.weight * float("nan")
    with pytest.warns(RuntimeWarning, match="non-finite"), monitor.step():
        step(ROWS[:2])
    gate.weight = kept
    np.testing.assert_array_equal(monitor._window.sums, before)


def test_two_routers_of_a_layer_have_names_of_their_own(request: pytest.FixtureRequest) -> None:
    mx = pytest.importorskip("mlx.core", reason="needs MLX")
    request.getfixturevalue("cpu")
    from mlx_moebench.train import RoutingMonitor

    model = build_tiny(model_type="jetmoe")
    monitor = RoutingMonitor(model)
    with monitor.step():
        model(mx.array(ROWS[:2]))
    keys = monitor.figures()
    assert {"routing/layer.0.attention/dead_experts", "routing/layer.0.mlp/dead_experts"} <= set(keys)
    assert len(keys) == len(LOGGED) * (1 + len(monitor._window.specs))


OF_RANKS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from conftest import build_tiny
import mlx.core as mx
from mlx_moebench.models import select_device
from mlx_moebench.train import RoutingMonitor
from test_training_logs import ROWS
select_device("cpu")
group, model = mx.distributed.init(), build_tiny()
monitor = RoutingMonitor(model)
with monitor.step():
    mx.eval(model(mx.array([ROWS[group.rank()]])))
together = monitor.figures()
alone = RoutingMonitor(model)
with alone.step():
    mx.eval(model(mx.array(ROWS[:2])))
alone._window.sums /= group.size()  # it sums over the ranks, which all measured both
same = alone.figures()
assert together.keys() == same.keys() and all(abs(together[k] - same[k]) < 1e-5 for k in same), (together, same)
os.write(1, f"equal {group.size()}\\n".encode())
"""


@pytest.mark.slow
def test_ranks_of_a_loop_give_the_figures_of_all_of_them(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs MLX")
    from test_mlx_ranks import launch

    (tmp_path / "run.py").write_text(OF_RANKS)
    done = launch(tmp_path, str(tmp_path / "run.py"), str(Path(__file__).parent))
    assert done.stdout.count("equal 2") == 2, done.stdout + done.stderr
