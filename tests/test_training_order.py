"""The order of a training's batches: stock mlx-lm's, bit for bit against `mlx_lm.lora.run`, and the one by length."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_lm import lora  # noqa: E402

from mlx_moebench.errors import TrainingError  # noqa: E402
from mlx_moebench.train import train_adapter, training_config  # noqa: E402
from mlx_moebench.train.data import Tokens  # noqa: E402
from mlx_moebench.train.order import TrainingOrder, Validations, epochs_by_length, stock_epochs  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")

TEMPLATE = (
    "{% if tools %}{{ tools | length }} tools {% endif %}{% for m in messages %}{{ m['role'] }} {{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
WORDS = "a router sends every token to the experts that score it highest".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny OLMoE in float32, since stock mlx-lm runs experts on a CPU in nothing else, with a chat template."""
    folder = tmp_path_factory.mktemp("stock") / "tiny"
    shutil.copytree(tiny_checkpoint, folder)
    stored: Any = mx.load(str(folder / "model.safetensors"))
    wide = {name: value.astype(mx.float32) for name, value in stored.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), wide, {"format": "mlx"})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": TEMPLATE}))
    return folder


def rows_of(kind: str, n: int, seed: int) -> list[dict[str, Any]]:
    """Rows of unequal length, in no order of it; some of ``tools`` with a field more than the others."""
    rng = np.random.default_rng(seed)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(2, most)))

    rows: list[dict[str, Any]] = []
    for number in range(n):
        if kind == "text":
            rows.append({"text": text(40)})
        elif kind == "completions":
            rows.append({"prompt": text(9), "completion": text(30)})
        else:
            messages = [{"role": "user", "content": text(9)}, {"role": "assistant", "content": text(30)}]
            tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
            rows.append({"messages": messages} | ({"tools": tools} if kind == "tools" and number % 3 == 0 else {}))
    return rows


def write(folder: Path, kind: str, train: int = 11, valid: int = 7) -> Path:
    folder.mkdir()
    for seed, (name, n) in enumerate((("train", train), ("valid", valid))):
        lines = "".join(json.dumps(row) + "\n" for row in rows_of(kind, n, seed))
        (folder / f"{name}.jsonl").write_text(lines)
    return folder


def adapters(folder: str) -> dict[str, Any]:
    loaded: Any = mx.load(f"{folder}/adapters.safetensors")
    return {name: np.array(value) for name, value in loaded.items()}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert max(np.abs(value).max() for name, value in ours.items() if name.endswith("lora_b")) > 1e-3


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("text", {}),
        ("text", {"lora_parameters": {"rank": 2, "scale": 4.0, "dropout": 0.2}, "seed": 5}),
        pytest.param("text", {"grad_accumulation_steps": 2, "max_seq_length": 33}, marks=pytest.mark.slow),
        pytest.param("chat", {"val_batches": 0}, marks=pytest.mark.slow),
        ("chat", {"mask_prompt": True, "val_batches": -1}),
        ("tools", {"batch_size": 2}),
        pytest.param("completions", {"optimizer": "adamw", "steps_per_eval": 2}, marks=pytest.mark.slow),
        pytest.param("completions", {"mask_prompt": True, "num_layers": 2}, marks=pytest.mark.slow),
    ],
    ids=["text", "dropout", "accumulated", "chat", "chat masked", "tools", "completions", "completions masked"],
)
def test_weight_zero_gives_the_adapter_of_stock_mlx_lm(
    checkpoint: Path, tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """Over several epochs and validations, from the folder of texts to the file of weights.

    A loss adds the gates of earlier blocks to LoRA; stock mlx-lm then gets the layers that adapter_config.json names.
    """
    given = {
        "model": str(checkpoint), "data": str(write(tmp_path / "data", kind)), "iters": 8, "batch_size": 3,
        "learning_rate": 1e-2, "steps_per_eval": 3, "save_every": 8, "num_layers": 3, "seed": 1, **changes,
    }  # fmt: skip
    loss = {"routing_loss": {"name": "entropy_floor", "weight": 0, "floor": {"fraction": 0.9}}, "routing_samples": 2}
    train_adapter(training_config(given | loss | {"adapter_path": str(tmp_path / "ours")}), device="cpu")
    theirs = {**lora.CONFIG_DEFAULTS, **given, "adapter_path": str(tmp_path / "theirs"), "train": True}
    if given["num_layers"] < 3:
        theirs["lora_parameters"] = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())[
            "lora_parameters"
        ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lora.run(SimpleNamespace(**theirs))
    assert_same(adapters(str(tmp_path / "ours")), adapters(str(tmp_path / "theirs")))


@pytest.mark.parametrize("by_length", [False, True])
def test_resuming_goes_on_in_the_same_order(by_length: bool) -> None:
    rng = np.random.default_rng(0)
    tokens = Tokens([([n] * int(rng.integers(2, 30)), 0) for n in range(1, 12)], [1] * 11, 64)
    config = training_config({"batch_size": 3, "seed": 3, "steps_per_eval": 4, "sort_by_length": by_length})

    def firsts(start: int, n: int) -> list[list[int]]:
        batches = TrainingOrder(config, 9, start)(tokens, 3, 64, loop=True)
        return [batch[:, 0].tolist() for batch, _ in islice(batches, n)]

    whole = firsts(0, 20)
    for start in (1, 3, 7, 11):
        assert firsts(start, 20 - start) == whole[start:]


def test_batches_by_length_leave_out_all_in_turn_and_pad_least() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 100, 14).tolist()
    idle: Counter[int] = Counter()
    seen = []
    for epoch in islice(epochs_by_length(lengths, 4, 7), 7):
        rows = [row for batch in epoch for row in batch]
        assert len(rows) == len(set(rows)) == 12
        idle.update(set(range(14)) - set(rows))
        batches = sorted(epoch, key=lambda batch: lengths[batch[0]])
        flat = [lengths[row] for batch in batches for row in batch]
        assert flat == sorted(flat)
        seen.append(epoch)
    assert set(idle.values()) == {1}
    assert len(idle) == 14
    assert list(islice(epochs_by_length(lengths, 4, 7), 7)) == seen
    assert next(epochs_by_length(lengths, 4, 8)) != seen[0]


def test_stock_leaves_out_the_last_rows_and_those_with_most_fields() -> None:
    drawn = Validations(0, 0)
    for epoch in islice(stock_epochs([1] * 11, 4, 0, drawn), 3):
        assert sorted(epoch) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    (epoch,) = islice(stock_epochs([2, 1, 1, 2, 1], 2, 0, drawn), 1)
    assert sorted(epoch) == [[1, 2], [4, 0]]


def test_seeds_that_numpy_refuses_train(checkpoint: Path, tmp_path: Path) -> None:
    """mlx-lm takes seeds below 2^32; ours go on to 2^64."""
    for by_length in (False, True):
        given = {"model": str(checkpoint), "data": None, "iters": 1, "batch_size": 2, "seed": 2**33, "val_batches": 0}
        given |= {"adapter_path": str(tmp_path / str(by_length)), "sort_by_length": by_length, "routing_samples": 2}
        report = train_adapter(training_config(given), device="cpu")
        assert report["tokens_trained"] > 0


def test_what_the_order_depends_on_cannot_change_on_the_way(checkpoint: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "data", "text")
    common = {"model": str(checkpoint), "data": str(data), "batch_size": 3, "routing_samples": 2, "save_every": 2}
    given = common | {"iters": 2, "adapter_path": str(tmp_path / "stock"), "steps_per_eval": 2}
    report = train_adapter(training_config(given), device="cpu")
    assert report["left_out"] == 2
    for key, value in (("steps_per_eval", 3), ("val_batches", 0)):
        with pytest.raises(TrainingError, match=f"trained with {key} = .*--sort-by-length"):
            train_adapter(training_config(given | {"iters": 4, key: value}), device="cpu", resume=True)
    with pytest.raises(TrainingError, match="sort_by_length = False, not True"):
        train_adapter(training_config(given | {"iters": 4, "sort_by_length": True}), device="cpu", resume=True)
    train_adapter(training_config(given | {"iters": 4, "val_batches": 1}), device="cpu", resume=True)
    free = common | {"iters": 2, "adapter_path": str(tmp_path / "free"), "sort_by_length": True, "steps_per_eval": 2}
    train_adapter(training_config(free), device="cpu")
    train_adapter(training_config(free | {"iters": 4, "steps_per_eval": 3}), device="cpu", resume=True)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[dict[str, Any]], str]:
    """What the command prints of a training with these settings."""

    def run(settings: dict[str, Any]) -> str:
        from mlx_moebench.cli import main

        options = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
        main(["train", "--quiet", "--device", "cpu", *options])
        return capsys.readouterr().out

    return run


def test_the_table_says_what_is_left_out(checkpoint: Path, tmp_path: Path, said: Callable[..., str]) -> None:
    data = write(tmp_path / "data", "text")
    given = {"model": str(checkpoint), "data": str(data), "batch_size": 4, "iters": 1, "routing_samples": 2}
    always = said(given | {"adapter_path": str(tmp_path / "a")})
    assert "3 of 11 texts filled no batch in each epoch, the same each time, as in mlx-lm." in " ".join(always.split())
    turns = said(given | {"adapter_path": str(tmp_path / "b"), "sort_by_length": True})
    assert "3 of 11 texts filled no batch in each epoch." in " ".join(turns.split())
