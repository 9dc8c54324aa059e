"""Pretraining in the lab: weights of micro-batches, resuming, ranks, biases, data order, settings, the command."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from make_lab_golden import GOLDEN, SHORT, first_losses  # noqa: E402

from mlx_moebench import analyze, load  # noqa: E402
from mlx_moebench.cli import main  # noqa: E402
from mlx_moebench.data.training_log import FILE as LOG  # noqa: E402
from mlx_moebench.data.training_log import read_log  # noqa: E402
from mlx_moebench.errors import DataError, MoebenchError, TrainingError  # noqa: E402
from mlx_moebench.lab.decoder import Model  # noqa: E402
from mlx_moebench.lab.initial import initialise  # noqa: E402
from mlx_moebench.lab.objective import Objective  # noqa: E402
from mlx_moebench.lab.presets import Preset, model_args  # noqa: E402
from mlx_moebench.lab.pretrain import REPORT, pretrain  # noqa: E402
from mlx_moebench.lab.routers import router_names  # noqa: E402
from mlx_moebench.lab.settings import Pretraining  # noqa: E402
from mlx_moebench.lab.steps import Updater  # noqa: E402
from mlx_moebench.lab.text import Blocks, Order  # noqa: E402

import mlx.optimizers as optim  # isort: skip  # noqa: E402
from mlx.utils import tree_flatten  # isort: skip  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")

SMALL = Preset(2, 16, 2, 8, 8, 4, 6, 1, 50, 12, 4, 2, 3, 0, 1.0, 1e-3)


def small(name: str, **axes: Any) -> Model:
    args = replace(model_args(SMALL, name), **axes)
    model = Model(args)
    initialise(model, args, 0)
    model.train()
    mx.eval(model.parameters())
    return model


def updater(model: Model, micro_batch_size: int, optimizer: Any = None, z_weight: float = 0.0) -> Updater:
    group = mx.distributed.init()
    optimizer = optim.SGD(0.5) if optimizer is None else optimizer
    return Updater(model, Objective(model, z_weight, group), optimizer, 1e9, micro_batch_size, group)


def weights(folder: Path) -> dict[str, Any]:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    return dict(arrays)


ROWS = np.random.default_rng(0).integers(0, 50, (5, 13)).astype(np.int32)


# -- one update --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
def test_unequal_micro_batches_are_one_batch(size: int) -> None:
    """5 rows in micro-batches of 2, 2 and 1, or 3 and 2: a mean of their means would weigh the last row too much."""
    whole, parts = small("smoe"), small("smoe")
    said = [updater(model, n, z_weight=0.01)(ROWS, 0.5) for model, n in ((whole, 5), (parts, size))]
    for (name, a), (_, b) in zip(tree_flatten(whole.parameters()), tree_flatten(parts.parameters()), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6, err_msg=name)
    assert said[0].ce == pytest.approx(said[1].ce, rel=1e-6)
    assert said[0].norm == pytest.approx(said[1].norm, rel=1e-5)
    np.testing.assert_allclose(said[0].balance, said[1].balance, rtol=1e-5)
    np.testing.assert_array_equal(said[0].counts, said[1].counts)
    assert said[0].counts.sum() == 2 * 5 * 12 * 4
    moved = small("smoe")
    changes = zip(tree_flatten(moved.parameters()), tree_flatten(whole.parameters()), strict=True)
    assert max(float(mx.abs(a - b).max()) for (_, a), (_, b) in changes) > 1e-3


def test_a_bias_moves_once_per_update_by_the_choices_of_the_whole_batch() -> None:
    model = small("shared_v3")
    said = updater(model, 2)(ROWS, 0.0)
    for layer, counts in zip(model.layers, said.counts, strict=True):
        expected = 1e-3 * np.sign(counts.mean() - counts)
        np.testing.assert_allclose(layer.mlp.selection_bias, expected, atol=1e-9)
        assert {-1, 1} <= set(np.sign(expected))
    model.eval()
    before = [np.array(layer.mlp.selection_bias) for layer in model.layers]
    mx.eval(model(mx.array(ROWS)))
    for layer, bias in zip(model.layers, before, strict=True):
        np.testing.assert_array_equal(layer.mlp.selection_bias, bias)


def test_a_bias_evens_the_load_without_a_loss() -> None:
    """One expert is pushed by its gate; the bias, moved far enough, takes its tokens away."""
    model = small("shared_v3", bias_update=0.02)
    for layer in model.layers:
        layer.mlp.gate.weight = layer.mlp.gate.weight * 8
    update = updater(model, 5, optim.SGD(0.0))
    spread = [update(ROWS, 0.0).counts.std(axis=-1).sum() for _ in range(40)]
    assert np.mean(spread[-10:]) < 0.75 * spread[0]


def test_weight_decay_is_on_everything_but_the_bias() -> None:
    """With a rate of 1 and no gradient left by clipping, AdamW takes 1% off every weight that is trained."""
    model = small("shared_v3")
    before = dict(tree_flatten(model.parameters()))
    optimizer = optim.AdamW(1.0, weight_decay=0.01, bias_correction=True)
    optimizer.init(model.trainable_parameters())
    optimizer.update(model, dict_of_zeros(model))
    after = dict(tree_flatten(model.parameters()))
    for name, value in before.items():
        factor = 1.0 if name.endswith("selection_bias") else 0.99
        np.testing.assert_allclose(after[name], np.array(value) * factor, atol=1e-7, err_msg=name)


def dict_of_zeros(model: Model) -> Any:
    from mlx.utils import tree_map

    return tree_map(mx.zeros_like, model.trainable_parameters())


@pytest.mark.parametrize("balance", ["switch", "sequence", "global", "hetero", "entropy", "none"])
def test_every_balance_trains(balance: str) -> None:
    model = small("smoe", balance=balance, balance_weight=1.0)
    for layer in model.layers:
        layer.mlp.gate.weight = layer.mlp.gate.weight * 4
    update = updater(model, 2)
    first = update(ROWS, 0.3)
    for _ in range(12):
        last = update(ROWS, 0.3)
    if balance == "none":
        assert not last.balance.any()
    else:
        assert last.balance.sum() < first.balance.sum()


def test_global_balance_counts_the_micro_batches_before_it() -> None:
    """The load of the second micro-batch is that of both, so its loss is not the switch loss on it."""
    models = {name: small("smoe", balance=name, balance_weight=1.0) for name in ("global", "switch")}
    rows = ROWS[:4]
    one = {name: updater(model, 4)(rows, 0.0).balance for name, model in models.items()}
    two = {name: updater(model, 2)(rows, 0.0).balance for name, model in models.items()}
    np.testing.assert_allclose(one["global"], one["switch"], rtol=1e-6)
    assert (np.abs(two["global"] - two["switch"]) > 1e-5).all()


# -- text --------------------------------------------------------------------------------------------------------------


def test_blocks_and_their_order() -> None:
    blocks = Blocks(np.arange(101, dtype=np.int32), 10, 5)
    assert blocks.n_blocks == 10
    assert (blocks.valid.tolist(), len(blocks.train)) == ([0, 5], 8)
    assert blocks.rows(np.array([0, 3]))[:, [0, -1]].tolist() == [[0, 10], [30, 40]]
    order = Order(blocks.train, seed=1)
    epoch = order.batch(0, 8)
    assert sorted(epoch) == blocks.train.tolist()
    assert epoch.tolist() != blocks.train.tolist()
    later = order.batch(8, 8)
    assert sorted(later) == sorted(epoch)
    assert later.tolist() != epoch.tolist()
    again = Order(blocks.train, seed=1)
    assert np.concatenate([again.batch(start, 3) for start in range(0, 15, 3)]).tolist() == [*epoch, *later][:15]
    assert Order(blocks.train, seed=2).batch(0, 8).tolist() != epoch.tolist()


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_that_everything_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SHORT.items()]
    main(["lab", "train", *options, "--router", "moepp", "--steps", "4", "--snapshot-every=2", "-o", str(folder)])
    out = capsys.readouterr().out
    assert "Tokens trained on" in out
    log, report = read_log(folder / LOG), json.loads((folder / REPORT).read_text())
    assert [entry["step"] for entry in log if "ce" in entry] == [1, 2, 3, 4]
    assert report["tokens_trained"] == 4 * 4 * 16
    assert report["ce"]["validation"] == [entry for entry in log if "val_ce" in entry][-1]["val_ce"]
    model, tokenizer = load(folder)
    assert tokenizer.decode(tokenizer.encode("two trains")) == "two trains"
    snapshots = sorted((folder / "steps").iterdir())
    assert [path.name for path in snapshots] == ["step-0000000", "step-0000002", "step-0000004"]
    last: dict[str, Any] = weights(snapshots[-1])
    assert all(mx.array_equal(value, last[name]) for name, value in tree_flatten(model.parameters()))
    stats = analyze(folder, "math", max_samples=3, max_length=16)
    assert stats.specs[0].kinds == ("ffn",) * 18 + ("constant",) * 2 + ("copy", "zero")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["lab", "train", *options, "--steps", "4", "-o", str(folder)])
    assert "continue with --resume" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["lab", "train", *options, "--router", "smoe", "--steps", "4", "-o", str(folder), "--resume"])
    assert "was trained with router = 'moepp', not 'smoe'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.nightly
def test_the_first_commands_of_the_page_run_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, with trainings of one small update: what they name must be there and fit."""
    page = (Path(__file__).parents[1] / "docs" / "lab.md").read_text(encoding="utf-8")
    lines = page.split("```")[1].strip().splitlines()
    monkeypatch.chdir(tmp_path)
    for line in lines:
        words = shlex.split(line)[1:]
        if words[:2] == ["lab", "train"]:
            words += ["--steps", "1", "--batch-size", "2", "--snapshot-every", "1", "--eval-batches", "1"]
        main([*words, *([] if words[0] == "report" else ["--quiet"])])
    assert len(lines) == 7
    assert (tmp_path / "runs" / "v3.html").is_file()


def test_a_dense_baseline_trains_and_is_refused_where_routers_are_wanted(tmp_path: Path) -> None:
    report = pretrain(Pretraining(router="dense", steps=2, **SHORT), tmp_path / "dense", device="cpu")
    assert report["parameters"]["router"] == 0
    with pytest.raises(MoebenchError, match="is dense"):
        load(tmp_path / "dense")


def test_learning_is_seen(tmp_path: Path) -> None:
    report = pretrain(Pretraining(steps=20, **SHORT), tmp_path / "run", device="cpu")
    log = [entry for entry in read_log(tmp_path / "run" / LOG) if "ce" in entry]
    assert log[-1]["ce"] < log[0]["ce"] - 0.3
    assert report["ce"]["validation"] < np.log(300)


def test_stopped_and_resumed_is_never_stopped(tmp_path: Path) -> None:
    """In one process: the first part ends by a signal after a step, the second goes on; dropout is on (sigma)."""
    settings = Pretraining(router="sigma", steps=6, **SHORT)
    pretrain(settings, tmp_path / "whole", device="cpu")

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training sigma") and done == 3:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, tmp_path / "parts", device="cpu", step=stop)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len([e for e in read_log(tmp_path / "parts" / LOG) if "ce" in e]) < 6
    pretrain(settings, tmp_path / "parts", device="cpu", resume=True)
    same(tmp_path / "whole", tmp_path / "parts")


def same(one: Path, other: Path) -> None:
    """The weights bit for bit, and the losses of every step."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(mx.array_equal(value, b[name]) for name, value in a.items())
    logs = [[(e["step"], e["ce"]) for e in read_log(folder / LOG) if "ce" in e] for folder in (one, other)]
    assert logs[0] == logs[1]


def command(folder: Path, *options: str) -> list[str]:
    short = [f"--{key.replace('_', '-')}={value}" for key, value in SHORT.items()]
    return ["lab", "train", *short, "--quiet", "--device", "cpu", "-o", str(folder), *options]


@pytest.mark.slow
@pytest.mark.parametrize("router", ["shared_v3", "sigma"])
def test_killed_and_resumed_is_never_killed(router: str, tmp_path: Path) -> None:
    """kill -9 of a real process, a few steps after a checkpoint; the bias and the dropout go on as they were."""
    options = ["--router", router, "--steps", "40", "--save-every", "3"]
    main(command(tmp_path / "whole", *options))
    killed = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "mlx_moebench", *command(killed, *options)])
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        log = killed / LOG
        if log.exists() and sum('"ce"' in line for line in log.read_text().splitlines()) >= 5:
            break
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    steps = len([e for e in read_log(killed / LOG) if "ce" in e])
    assert 5 <= steps < 40
    main(command(killed, *options, "--resume"))
    same(tmp_path / "whole", killed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=() if name in ("sequence", "bias") else pytest.mark.nightly)
        for name, options in {
            "sequence": ("--router", "smoe"),
            "switch": ("--router", "smoe", "--balance", "switch", "--balance-weight", "1", "--z-weight", "0.01"),
            "global": ("--router", "smoe", "--balance", "global", "--balance-weight", "1"),
            "bias": ("--router", "shared_v3"),
            "ternary": ("--router", "tc_moe", "--balance-weight", "1", "--set", "reward=1.0"),
            "hetero": ("--router", "moepp", "--balance-weight", "1"),
            "entropy": ("--router", "sigma", "--set", "expert_dropout=0.0", "--balance-weight", "1"),
        }.items()
    ],
)
def test_two_ranks_are_one(options: tuple[str, ...], tmp_path: Path) -> None:
    options = ("--steps", "4", *options)
    main(command(tmp_path / "one", *options))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    launcher = Path(sys.executable).with_name("mlx.launch")
    ranks = [str(launcher), "-n", "2", "--backend", "ring", "--starting-port", str(port), "--", sys.executable]
    line = [*ranks, "-m", "mlx_moebench", *command(tmp_path / "two", *options)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)
    assert (tmp_path / "two" / REPORT).exists(), done.stdout + done.stderr
    logs = [[e for e in read_log(tmp_path / name / LOG) if "ce" in e] for name in ("one", "two")]
    for a, b in zip(*logs, strict=True):
        for key in ("ce", "routing_loss", "z_loss", "grad_norm", "load_entropy", "token_entropy", "tokens"):
            np.testing.assert_allclose(a[key], b[key], rtol=3e-4, atol=2e-5, err_msg=f"{key} at step {a['step']}")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], atol=2e-4, err_msg=name)


def test_what_ranks_cannot_share_is_one_clear_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Three:
        def size(self) -> int:
            return 3

        def rank(self) -> int:
            return 0

    monkeypatch.setattr(mx.distributed, "init", Three)
    with pytest.raises(TrainingError, match="batch_size is 4, which 3 ranks cannot share evenly"):
        pretrain(Pretraining(steps=1, **SHORT), tmp_path / "run", device="cpu")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"router": "smoo"}, "There is no router 'smoo'.*smoe"),
    ({"preset": "huge"}, "There is no preset 'huge'"),
    ({"spec": "papr"}, "spec is 'papr'"),
    ({"combine": "half"}, "combine = half is for routers with shared experts"),
    ({"axes": {"norm": True}}, "A router has no axis 'norm'"),
    ({"axes": {"norm_topk_prob": "no"}}, "norm_topk_prob is 'no'; give a value like True"),
    ({"axes": {"balance": "even"}}, "balance is 'even'"),
    ({"axes": {"balance": "ternary"}}, "The ternary balance is for experts"),
    ({"axes": {"balance_weight": float("nan")}}, "balance_weight is nan; give a number"),
    ({"axes": {"num_experts_per_tok": 100}}, "num_experts_per_tok = 100 of 18 columns"),
    ({"axes": {"num_experts": 0}}, "num_experts = 0"),
    ({"axes": {"n_group": 5, "topk_group": 2}}, "n_group = 5 groups cannot be kept of 18 columns"),
    ({"axes": {"n_group": 3, "topk_group": 4}}, "topk_group = 4 of n_group = 3"),
    ({"axes": {"n_group": 9, "topk_group": 1}}, "for num_experts_per_tok = 4"),
    ({"axes": {"expert_dropout": 1.0}}, "expert_dropout is 1.0"),
    ({"axes": {"scoring_func": "softmx"}}, "scoring_func is 'softmx'. Did you mean 'softmax'"),
    ({"axes": {"special_experts": ["zro"]}}, "special_experts holds 'zro'. Did you mean 'zero'"),
    ({"axes": {"special_experts": ["zero"]}}, "num_special_experts is 0, but special_experts has 1"),
    ({"router": "dense", "axes": {"balance": "switch"}}, "A dense model has no router, and no balance"),
    ({"seed": 2**63}, "seed is 9223372036854775808; give less than"),
    ({"steps": 0}, "steps is 0; give more than 0"),
    ({"seq_length": 1}, "seq_length is 1; give 2 or more"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0"),
    ({"vocab_size": 256}, "bytes alone need 257"),
    ({"vocab_size": 30_000}, "The text gives a vocabulary of"),
    ({"tokenizer": "here"}, "A tokenizer that is given has its own size"),
    ({"tokenizer": "nowhere", "vocab_size": None}, "nowhere is no tokenizer"),
    ({"flops": 2.0}, "flops = 2 is for the dense baseline"),
]


@pytest.mark.parametrize(
    ("change", "sentence"), BAD, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_bad_settings_are_one_clear_sentence(change: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    settings = Pretraining(**({"steps": 1} | SHORT | change))
    with pytest.raises(TrainingError, match=sentence):
        pretrain(settings, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "config.json").exists()


def test_too_little_text_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which is less than two blocks of 16000"):
        pretrain(Pretraining(steps=1, **(SHORT | {"seq_length": 16_000})), tmp_path / "run", device="cpu")


def test_the_rate_falls_in_a_cosine_to_a_tenth() -> None:
    settings = Pretraining(steps=100, warmup=10, learning_rate=1.0, **SHORT).resolved()
    rates = [settings.learning_rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)


def test_a_tokenizer_of_ones_own(tmp_path: Path) -> None:
    """The embedded model's, from its folder: the vocabulary is its own, and so are the ids."""
    from mlx_moebench.models import NANO

    settings = Pretraining(steps=1, **(SHORT | {"vocab_size": None, "tokenizer": str(NANO)}))
    report = pretrain(settings, tmp_path / "run", device="cpu")
    assert report["config"]["vocab_size"] == 4096
    _, theirs = load(None)
    _, ours = load(tmp_path / "run")
    assert ours.encode("two trains") == theirs.encode("two trains")


# -- golden curves -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("router", [*router_names(), "dense"])
def test_the_first_losses_are_those_that_they_were(router: str, tmp_path: Path) -> None:
    """Within what another BLAS changes: a choice that flips early moves later losses in the third digit, no more."""
    expected = json.loads(GOLDEN.read_text())[router]
    losses = first_losses(router, tmp_path / "run")
    assert len(losses) == len(expected) == 50
    np.testing.assert_allclose(losses[:5], expected[:5], rtol=1e-3)
    np.testing.assert_allclose(losses, expected, rtol=2e-2)
    assert np.mean(losses[-10:]) == pytest.approx(np.mean(expected[-10:]), rel=1e-2)
