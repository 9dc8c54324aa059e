"""`train_adapter`: stock weights without a loss, resumed runs, adapters for stock mlx-lm, guards, bad input."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_moebench.errors import DataError, MoebenchError, TrainingError

mx = pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.models import load_checkpoint  # noqa: E402
from mlx_moebench.train import LOG, read_config, read_log, train_adapter, training_config  # noqa: E402

FLOOR = {"name": "entropy_floor", "weight": 0.5, "signal": "load", "floor": {"fraction": 0.98}}
GATES = {"rank": 2, "scale": 4.0, "dropout": 0.0, "keys": ["mlp.gate"]}

pytestmark = pytest.mark.usefixtures("cpu")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with texts of unequal length, in words that the tiny tokenizer knows."""
    words = "a router sends every token to the experts that score it highest and others idle".split()  # noqa: SIM905
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("texts")
    for name, rows in (("train", 14), ("valid", 12), ("test", 5)):
        lines = [json.dumps({"text": " ".join(rng.choice(words, rng.integers(6, 14)))}) for _ in range(rows)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def settings(tiny_checkpoint: Path, texts: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """``settings(name, **changes)`` of a training of the tiny OLMoE into tmp_path / name."""

    def make(name: str = "adapters", **changes: Any) -> dict[str, Any]:
        base = {
            "model": str(tiny_checkpoint),
            "data": str(texts),
            "adapter_path": str(tmp_path / name),
            "iters": 6,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "save_every": 2,
            "steps_per_eval": 3,
            "max_seq_length": 24,
            "lora_parameters": GATES,
            "routing_loss": FLOOR,
        }
        return {key: value for key, value in (base | changes).items() if value is not None}

    return make


def run(settings: dict[str, Any], **options: Any) -> dict[str, Any]:
    return train_adapter(training_config(settings), device="cpu", **options)


def weights(settings: dict[str, Any]) -> dict[str, Any]:
    loaded: Any = mx.load(str(Path(settings["adapter_path"]) / "adapters.safetensors"))
    return {name: np.array(value) for name, value in loaded.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    assert a
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def test_a_loss_changes_the_weights_and_is_logged_apart_from_the_cross_entropy(settings: Any) -> None:
    control, floor = settings("control", routing_loss=FLOOR | {"weight": 0}), settings("floor")
    run(control)
    report = run(floor)
    assert any((value != weights(floor)[name]).any() for name, value in weights(control).items())
    logs = [read_log(Path(s["adapter_path"]) / LOG) for s in (control, floor)]
    first = [next(entry for entry in log if "ce" in entry) for log in logs]
    assert first[0]["ce"] == first[1]["ce"]  # before the first update the two models are one
    assert first[0]["routing_loss"] == first[1]["routing_loss"] > 0
    assert [e["step"] for e in logs[1] if "val_ce" in e] == [0, 3, 6]
    assert report["ce"]["validation_after"] == [e["val_ce"] for e in logs[1] if "val_ce" in e][-1]
    assert report["routing_loss"]["steps_with_a_router_below_floor"] == 6
    folder = Path(floor["adapter_path"])
    assert {"routing_before.json", "routing_after.json", "training_report.json"} <= {p.name for p in folder.iterdir()}
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_the_log_says_what_the_batch_routed(settings: Any) -> None:
    """Entropies, load and margins of step 1 against the taps' own statistics on the same batch."""
    from mlx_moebench.instrument import attach
    from mlx_moebench.train.data import load_tokens
    from mlx_moebench.train.order import TrainingOrder

    given = settings(iters=1, save_every=1)
    run(given)
    entry = next(e for e in read_log(Path(given["adapter_path"]) / LOG) if "ce" in e)
    config = training_config(given)
    checkpoint = load_checkpoint(given["model"])
    tokens = load_tokens(config, checkpoint.tokenizer, lambda *a: None)["train"]
    batch, lengths = next(iter(TrainingOrder(config, held_out=12)(tokens, 4, 24, loop=True)))
    mask = np.arange(batch.shape[1] - 1)[None] < np.array(lengths)[:, 1:2]
    with attach(checkpoint.model) as stats, stats.batch(mask=mask):
        checkpoint.model(batch[:, :-1])
    frame = stats.to_dataframe()
    for logged, metric in (
        ("token_entropy", "mean_entropy"),
        ("marginal_entropy", "marginal_entropy"),
        ("load_entropy", "load_entropy"),
        ("dead_experts", "dead_experts"),
        ("margin_prob", "margin_prob"),
        ("top_load_ratio", "top_load_ratio"),
    ):
        np.testing.assert_allclose(entry[logged], frame[metric], rtol=1e-4, err_msg=logged)
    assert entry["signal"] == pytest.approx(entry["load_entropy"], rel=1e-5)


def test_adapters_in_stock_mlx_lm_give_the_same_logits(settings: Any) -> None:
    from mlx_lm import load

    given = settings(iters=4, save_every=4)
    run(given)
    ids = mx.array([[5, 17, 3, 44, 9, 120]])
    ours = load_checkpoint(given["model"], adapter_path=given["adapter_path"])
    stock, _ = load(given["model"], adapter_path=given["adapter_path"])
    stock.set_dtype(mx.float32)  # experts run in float32 only on a CPU
    base = load_checkpoint(given["model"]).model(ids)
    np.testing.assert_allclose(np.array(ours.model(ids)), np.array(stock(ids)), atol=1e-5)
    assert not np.allclose(np.array(base), np.array(ours.model(ids)), atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"lora_parameters": GATES | {"dropout": 0.3}, "optimizer": "adamw"},
        {"routing_loss": FLOOR | {"scope": "window", "window": 3}, "grad_accumulation_steps": 2},
        pytest.param({"lr_schedule": {"name": "cosine_decay", "arguments": [1e-2, 6]}}, marks=pytest.mark.slow),
    ],
    ids=["plain", "dropout", "window", "schedule"],
)
def test_a_resumed_run_reaches_the_weights_of_an_uninterrupted_one(
    settings: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = settings("whole", iters=8, **changes), settings("parts", iters=8, **changes)
    run(whole)

    class Killed(Exception):  # noqa: N818
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 5:
            raise Killed

    with pytest.raises(Killed):
        run(parts, step=stop)
    run(parts, resume=True)
    same(weights(whole), weights(parts))
    drop = ("tokens_per_second", "peak_memory_gb")
    logs = [read_log(Path(s["adapter_path"]) / LOG) for s in (whole, parts)]
    a, b = ([{k: v for k, v in e.items() if k not in drop} for e in log] for log in logs)
    assert a == b


@pytest.mark.slow
def test_kill_and_resume_of_a_process_reaches_the_same_weights(settings: Any, tmp_path: Path) -> None:
    whole, parts = settings("whole", iters=40), settings("parts", iters=40)
    run(whole)
    config = tmp_path / "config.json"  # JSON is YAML
    config.write_text(json.dumps(parts), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mlx_moebench",
        "train",
        "-c",
        str(config),
        "--resume",
        "--quiet",
        "--device",
        "cpu",
    ]
    log = Path(parts["adapter_path"]) / LOG
    for kill_after in (3, 17, 29):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if log.exists() and any(e["step"] >= kill_after for e in read_log(log)):
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    same(weights(whole), weights(parts))


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_saves_the_step_and_says_how_to_go_on(settings: Any) -> None:
    given = settings(iters=6, save_every=6)

    def interrupt(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"step 3.*--resume"):
        run(given, step=interrupt)
    run(given, resume=True)
    whole = settings("whole", iters=6, save_every=6)
    run(whole)
    same(weights(whole), weights(given))


@pytest.mark.parametrize("scope", ["sequence", "batch", "window"])
def test_gradient_checkpointing_changes_neither_figures_nor_weights(settings: Any, scope: str) -> None:
    loss = FLOOR | {"scope": scope, "signal": "marginal", "floor": {"fraction": 1.0}}
    # Not Adam, which makes a step of full size out of a gradient that is nearly 0, and so out of its rounding.
    common = {"iters": 3, "routing_loss": loss, "optimizer": "sgd", "learning_rate": 0.1}
    plain, saving = settings("plain", **common), settings("saving", **common, grad_checkpoint=True)
    run(plain)
    run(saving)
    moved = [np.abs(value).max() for name, value in weights(plain).items() if name.endswith("lora_b")]
    assert max(moved) > 1e-3
    for name, value in weights(plain).items():
        np.testing.assert_allclose(weights(saving)[name], value, rtol=1e-3, atol=1e-5)
    logs = [[e for e in read_log(Path(s["adapter_path"]) / LOG) if "ce" in e] for s in (plain, saving)]
    for a, b in zip(*logs, strict=True):
        for key in ("ce", "routing_loss", "load_entropy", "tokens", "dead_experts"):
            np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_leaves_the_class_of_the_blocks_as_it_was(settings: Any) -> None:
    from mlx_lm.models.olmoe import TransformerBlock

    from mlx_moebench.instrument.tap import _layer_class

    before = TransformerBlock.__call__, _layer_class(TransformerBlock).__call__
    run(settings(iters=1, save_every=1, grad_checkpoint=True))
    assert (TransformerBlock.__call__, _layer_class(TransformerBlock).__call__) == before


def test_a_window_of_one_is_the_batch(settings: Any) -> None:
    one, batch = settings("one", routing_loss=FLOOR | {"scope": "window", "window": 1}), settings("batch")
    run(one)
    run(batch)
    same(weights(one), weights(batch))


def test_every_router_gets_lora_also_outside_of_the_last_layers(settings: Any) -> None:
    given = settings(num_layers=1, lora_parameters=GATES | {"keys": ["self_attn.q_proj"]})
    run(given)
    adapted = {name.rpartition(".")[0] for name in weights(given)}
    gates = {f"model.layers.{n}.mlp.gate" for n in range(3)}
    assert adapted == gates | {"model.layers.2.self_attn.q_proj"}
    ids = mx.array([[5, 17, 3]])
    from mlx_lm import load

    stock, _ = load(given["model"], adapter_path=given["adapter_path"])
    stock.set_dtype(mx.float32)
    ours = load_checkpoint(given["model"], adapter_path=given["adapter_path"]).model
    np.testing.assert_allclose(np.array(ours(ids)), np.array(stock(ids)), atol=1e-5)


def test_a_loss_on_some_layers_leaves_the_other_gates_alone(settings: Any) -> None:
    given = settings(routing_loss=FLOOR | {"layers": [1]}, lora_parameters=GATES | {"keys": ["self_attn.q_proj"]})
    run(given)
    assert {name for name in weights(given) if "gate" in name} == {f"model.layers.1.mlp.gate.lora_{x}" for x in "ab"}


@pytest.mark.parametrize("name", ["switch", "sequence", "global", "z"])
def test_the_other_losses_train_and_fall(settings: Any, name: str) -> None:
    given = settings(iters=16, save_every=16, routing_loss={"name": name, "weight": 30.0}, learning_rate=3e-3)
    run(given)
    values = [e["routing_loss"] for e in read_log(Path(given["adapter_path"]) / LOG) if "ce" in e]
    assert sum(values[-3:]) < sum(values[:3])


def test_a_floor_that_never_fires_warns_and_says_so_in_the_report(settings: Any) -> None:
    published = {"name": "entropy_floor", "weight": 0.5, "signal": "token", "floor": {"nats": 0.01}}
    report = run(settings(routing_loss=published))
    assert report["routing_loss"]["steps_with_a_router_below_floor"] == 0
    assert "never fired in 6 steps" in report["routing_loss"]["warnings"][0]
    impossible = {"name": "entropy_floor", "signal": "load", "floor": {"nats": 0.4}}
    with pytest.warns(UserWarning, match="can never fire.*ln 2"):
        run(settings("impossible", routing_loss=impossible))


def test_a_floor_reached_while_experts_stay_unused_is_flagged(settings: Any, tmp_path: Path) -> None:
    """Gates of zeros: no token prefers an expert, and each of them chooses the first ones that are found."""
    import shutil

    folder = tmp_path / "gamed"
    shutil.copytree(settings()["model"], folder)
    loaded: Any = mx.load(str(folder / "model.safetensors"))
    for name in [name for name in loaded if name.endswith("mlp.gate.weight")]:
        loaded[name] = mx.zeros(loaded[name].shape)
    mx.save_safetensors(str(folder / "model.safetensors"), loaded, {"format": "mlx"})
    for signal_name, flagged in (("token", True), ("load", False)):
        loss = {"name": "entropy_floor", "weight": 0.0, "signal": signal_name, "floor": {"fraction": 0.9}}
        report = run(settings(signal_name, model=str(folder), routing_loss=loss, learning_rate=1e-12))
        warned = any("experts stay unused" in w for w in report["routing_loss"]["warnings"])
        assert warned == flagged
        assert report["routing_loss"]["steps_with_a_router_below_floor"] == (0 if signal_name == "token" else 6)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_adapter(settings: Any) -> None:
    given = settings(iters=4)
    run(given)
    good = weights(given)
    wild = given | {"iters": 8, "learning_rate": 1e-2}
    checkpoint = Path(given["adapter_path"]) / "checkpoint.safetensors"
    loaded: Any = mx.load(str(checkpoint))
    from safetensors import safe_open

    with safe_open(checkpoint, "np") as file:
        metadata = file.metadata()
    poisoned = {
        k: mx.full(v.shape, math.inf) if k.startswith("optimizer") and k.endswith(".m") else v
        for k, v in loaded.items()
    }
    mx.save_safetensors(str(checkpoint), poisoned, metadata)
    with pytest.raises(TrainingError, match=r"not finite (at|after) step \d+; the adapter of step 4 is kept"):
        run(wild, resume=True)
    same(good, weights(given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rte": 1e-3}, "Did you mean 'learning_rate'"),
        ({"routing_loss": {"nme": "switch"}}, "'nme'.*Did you mean 'name'"),
        ({"routing_loss": {"name": "entropy_flor"}}, "Did you mean 'entropy_floor'"),
        ({"routing_loss": {"signal": "tokens"}}, "Did you mean 'token'"),
        ({"routing_loss": {"name": "switch", "floor": {"nats": 1}}}, "no key 'floor'"),
        ({"routing_loss": {"floor": {"nats": 3.0}}}, "at most ln 8 = 2.079"),
        ({"routing_loss": {"floor": {"experts": 9}}}, "lower the floor"),
        ({"routing_loss": {"floor": {"fraction": 1.2}}}, "no entropy is above ln E"),
        ({"routing_loss": {"floor": 0.9}}, "give one of"),
        ({"routing_loss": {"layers": [7]}}, "MoE layers are 0 to 2"),
        ({"routing_loss": {"weight": -1}}, "0 .the control. or more"),
        ({"routing_loss": {"weight": "big"}}, "give a number"),
        ({"lora_parameters": {"alpha": 16}}, "scale"),
        ({"lora_parameters": {"rnk": 8}}, "Did you mean 'rank'"),
        ({"lora_parameters": {"keys": ["mlp.gat"]}}, "'mlp.gat', which no block has"),
        ({"num_layers": 9}, "only 3 layers"),
        ({"optimizer": "adamm"}, "Did you mean 'adam'"),
        ({"lr_schedule": {"name": "cosine_deca", "arguments": [1]}}, "Did you mean 'cosine_decay'"),
        ({"lr_schedule": {"name": "cosine_decay"}}, "give a list of numbers"),
        ({"lr_schedule": {"name": "cosine_decay", "arguments": []}}, "give a list of numbers"),
        ({"optimizer_config": {"adam": {"btas": 1}}}, "optimizer_config.adam"),
        ({"fine_tune_type": "dora", "lora_parameters": {"rank": 2}}, "DoRA cannot be put on.*lora_parameters.keys"),
        ({"fine_tune_type": "full", "bits": 4}, "Quantised weights cannot be trained in full"),
        ({"lora_parameters": {"scale": math.nan}}, "lora_parameters.scale is nan"),
        ({"test": "no"}, "test is 'no'; give true or false"),
        ({"train": False}, "train is false"),
        ({"adapter_path": " "}, "adapter_path is ' '"),
        ({"dtype": 16}, "dtype is 16; give a text"),
        ({"seed": 2**64}, "below 2.64"),
        ({"report_to": "wandbb"}, "Did you mean 'wandb'"),
        ({"clear_cache_threshold": "1GB"}, "0 or more"),
        ({"hf_dataset": {"name": "a/b"}}, "path: OWNER/NAME"),
        ({"mask_prompt": True}, "has no prompt, which --mask-prompt needs"),
        ({"iters": 0}, "1 or more"),
        ({"save_every": 3, "grad_accumulation_steps": 2}, "multiples of"),
        ({"batch_size": 40}, "14 training sequences, fewer than batch_size = 40"),
        ({"data": "no/such/folder"}, "There is no folder"),
        ({"resume_adapter_file": "none.safetensors"}, "Cannot read"),
    ],
)
def test_bad_settings_are_one_clear_sentence(settings: Any, changes: dict[str, Any], message: str) -> None:
    given = settings()
    with pytest.raises(MoebenchError, match=message) as caught:
        run(given | changes)
    assert "\n" not in str(caught.value)
    assert not (Path(given["adapter_path"]) / "adapters.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", "", "train.jsonl has no text"),
        ("train.jsonl", '{"text": "a router"}\n{"txt": "a"}\n', "line 2 lacks the field 'text'"),
        ("train.jsonl", '{"text": "a router"}\n{"text": null}\n', "line 2: text is None"),
        (
            "train.jsonl",
            '{"prompt": "a router", "completion": "sends"}\n',
            "line 1 needs a tokenizer with a chat template",
        ),
        ("train.jsonl", '{"text": "a router"}\n{"text": \n', "train.jsonl, line 2 is not valid JSON"),
        ("train.jsonl", '{"texts": "a router"}\n', "line 1 has the fields .'texts'.*mlx-lm trains on text"),
        ("train.jsonl", '{"text": "a router"}\n{"text": ""}\n' * 4, "line 2 has no token to learn; remove it"),
    ],
)
def test_bad_data_is_one_clear_sentence(settings: Any, tmp_path: Path, name: str, content: str, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run(settings(data=str(folder)))


@pytest.mark.parametrize("content", ["a: 2024-99-99", "? [1]\n: 2", "- a", "", "\xff"])
def test_a_config_that_is_no_mapping_is_one_clear_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(TrainingError, match=r"config.yaml (is not valid YAML|holds no settings)"):
        read_config(path)


def test_the_settings_of_the_documentation_are_settings(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    path = tmp_path / "documented.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    documented = read_config(path)
    documented.pop("report_to")  # wandb need not be installed
    config = training_config(documented)
    missing = config.values.keys() - documented.keys()
    assert missing == {"train", "config", "report_to", "project_name", "steps_per_report", "router_bits", "dtype"}


def test_blank_lines_and_a_byte_order_mark_are_read_as_everywhere(settings: Any, texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "valid"):
        text = (texts / f"{name}.jsonl").read_text(encoding="utf-8")
        (folder / f"{name}.jsonl").write_text("\ufeff" + text.replace("\n", "\n\n", 3) + "\n", encoding="utf-8")
    run(settings("plain", iters=1, save_every=1))
    run(settings("blank", iters=1, save_every=1, data=str(folder)))
    same(weights(settings("plain")), weights(settings("blank")))


@pytest.fixture
def chat_checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny OLMoE with a chat template that refuses a system role."""
    import shutil

    folder = tmp_path / "chat"
    shutil.copytree(tiny_checkpoint, folder)
    path = folder / "tokenizer_config.json"
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
    )
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}), encoding="utf-8")
    return folder


def chat(role: str, words: int) -> dict[str, Any]:
    return {
        "messages": [{"role": role, "content": "a router " * words}, {"role": "assistant", "content": "sends token"}]
    }


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        (chat("user", 1), {}),
        ({"prompt": "a router", "completion": "sends token"}, {}),
        ({"q": "a router", "a": "sends token"}, {"prompt_feature": "q", "completion_feature": "a"}),
        ({"body": "a router sends"}, {"text_feature": "body", "mask_prompt": False}),
    ],
    ids=["chat", "completion", "named", "text"],
)
def test_every_form_of_data_trains_and_its_routing_is_measured(
    settings: Any, chat_checkpoint: Path, tmp_path: Path, row: dict[str, Any], changes: dict[str, Any]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "valid"):
        (folder / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 4, encoding="utf-8")
    given = settings(iters=1, save_every=1, model=str(chat_checkpoint), data=str(folder), mask_prompt=True)
    assert run(given | changes)["tokens_trained"] > 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (chat("system", 1), r"line 5 cannot be tokenised .no system"),
        (chat("user", 40), r"line 5 has a prompt of \d+ tokens, which leaves nothing to learn in 24"),
        ({"messages": "hello"}, "line 5 cannot be tokenised"),
    ],
    ids=["template", "long prompt", "text"],
)
def test_bad_chats_are_one_clear_sentence(
    settings: Any, chat_checkpoint: Path, tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [json.dumps(chat("user", 1))] * 4 + [json.dumps(row)]
    (folder / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run(settings(model=str(chat_checkpoint), data=str(folder), mask_prompt=True))


def test_an_adapter_of_another_model_is_refused(settings: Any, make_tiny: Any, tmp_path: Path) -> None:
    given = settings(iters=2)
    run(given)
    loaded: Any = mx.load(str(Path(given["adapter_path"]) / "adapters.safetensors"))
    other = tmp_path / "other.safetensors"
    mx.save_safetensors(str(other), {name: mx.zeros((w.shape[0] + 1, *w.shape[1:])) for name, w in loaded.items()})
    with pytest.raises(TrainingError, match="adapter of another model"):
        run(settings("next", resume_adapter_file=str(other)))
    run(settings("next", resume_adapter_file=str(Path(given["adapter_path"]) / "adapters.safetensors")))


def test_a_folder_with_a_training_is_neither_replaced_nor_resumed_with_other_settings(settings: Any) -> None:
    given = settings(iters=2)
    run(given)
    with pytest.raises(TrainingError, match=r"holds a training already.*--resume"):
        run(given)
    with pytest.raises(TrainingError, match=r"learning_rate = 0.01, not 0.5"):
        run(given | {"learning_rate": 0.5}, resume=True)
    with pytest.raises(TrainingError, match="has run 2 steps, more than iters = 1"):
        run(given | {"iters": 1}, resume=True)
    with pytest.raises(TrainingError, match=r"lora_parameters = .*'scale': 4.0.*, not .*'scale': 8.0"):
        run(given | {"lora_parameters": GATES | {"scale": 8.0}}, resume=True)
    before = weights(given)
    run(given, resume=True)  # nothing is left to do
    same(before, weights(given))


def test_validation_text_that_changed_is_not_mixed_into_one_log(settings: Any, texts: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(texts, folder)
    given = settings(iters=2, data=str(folder))
    run(given)
    shutil.copy(folder / "test.jsonl", folder / "valid.jsonl")
    with pytest.raises(TrainingError, match="The valid text or its tokens changed"):
        run(given | {"iters": 4}, resume=True)


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_broken_or_missing_checkpoint_is_refused_and_its_adapters_stay(settings: Any, damage: str) -> None:
    given = settings(iters=2)
    run(given)
    path, before = Path(given["adapter_path"]) / "checkpoint.safetensors", weights(given)
    path.write_bytes(path.read_bytes()[:500])
    if damage == "gone":
        path.unlink()
    with pytest.raises(TrainingError, match=r"(no checkpoint|is damaged).*--resume-adapter-file"):
        run(given | {"iters": 4}, resume=True)
    same(before, weights(given))


def test_a_kill_between_checkpoint_and_adapter_loses_neither(settings: Any) -> None:
    given = settings(iters=4)
    run(given)
    folder, whole = Path(given["adapter_path"]), weights(given)
    (folder / "0000004_adapters.safetensors").unlink()
    (folder / "0000002_adapters.safetensors").replace(folder / "adapters.safetensors")
    run(given, resume=True)
    same(whole, weights(given))


@pytest.mark.parametrize(
    ("content", "message"), [(b"1\n2\n", "line 1 is not a line of a training log"), (b"", None), (b"\xff\xfe", None)]
)
def test_a_damaged_log_is_said_in_the_report(settings: Any, content: bytes, message: str | None) -> None:
    given = settings(iters=2)
    run(given)
    log = Path(given["adapter_path"]) / LOG
    log.write_bytes(content)
    if message is not None:
        with pytest.raises(TrainingError, match=message):
            run(given | {"iters": 4}, resume=True)
        assert log.read_bytes() == content
        return
    report = run(given | {"iters": 4}, resume=True)
    assert "holds 2 of 4 steps" in report["routing_loss"]["warnings"][0]
    assert report["ce"]["validation_before"] is None


def test_routing_before_is_that_of_this_model_whatever_an_aborted_start_left(settings: Any, make_tiny: Any) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training"):
            raise Stopped

    given = settings(routing_data="math", routing_samples=2)
    with pytest.raises(Stopped):
        run(given, step=stop)
    changed = given | {"routing_data": "code"}
    with pytest.raises(MoebenchError, match=r"data set is math.*leave out --resume"):
        run(changed, resume=True)
    run(changed)
    report = json.loads((Path(given["adapter_path"]) / "routing_before.json").read_text())
    assert report["data"]["name"] == "code"


def test_half_a_measurement_before_training_is_finished_by_resume(settings: Any) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("routing before training: measuring") and done >= 8:
            raise Stopped

    given = settings(iters=1, save_every=1)
    with pytest.raises(Stopped):
        run(given, step=stop)
    run(given, resume=True)
    report = json.loads((Path(given["adapter_path"]) / "routing_before.json").read_text())
    assert report["data"]["complete"]


def test_a_table_without_intervals_says_why(settings: Any) -> None:
    from rich.console import Console

    from mlx_moebench.show.tables.training import print_training

    for samples, said in ((12, "95% bootstrap intervals"), (3, "no intervals (")):
        console = Console(record=True, file=io.StringIO(), width=120)
        print_training(run(settings(str(samples), iters=1, save_every=1, routing_samples=samples)), console=console)
        assert said in console.export_text()


def test_without_a_loss_only_what_was_asked_for_is_trained(settings: Any) -> None:
    keys = GATES | {"keys": ["self_attn.q_proj"]}
    given = settings(iters=1, save_every=1, routing_loss=None, lora_parameters=keys)
    report = run(given)
    assert not [name for name in weights(given) if "gate" in name]
    assert report["routing_loss"] == {"steps": 1, "warnings": []}


def test_full_training_of_some_layers_reaches_every_regularised_gate(settings: Any) -> None:
    given = settings(iters=1, save_every=1, fine_tune_type="full", num_layers=1)
    run(given)
    names = set(weights(given))
    assert {f"model.layers.{n}.mlp.gate.weight" for n in range(3)} <= names
    assert {name for name in names if "layers.2." not in name} == {f"model.layers.{n}.mlp.gate.weight" for n in (0, 1)}
    ids = mx.array([[5, 17, 3]])
    changed = load_checkpoint(given["model"], adapter_path=given["adapter_path"]).model(ids)
    assert not np.allclose(np.array(load_checkpoint(given["model"]).model(ids)), np.array(changed))


def test_no_step_is_compiled_on_any_device(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX cannot compile all of them: the z-loss, for one, ends in an IndexError."""
    calls = []

    def double(x: Any) -> Any:
        calls.append(1)
        return 2 * x

    cpu = mx.default_device

    def step(what: str, done: int, total: int) -> None:
        if what == "validating" and not calls:
            monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
        if what.startswith("training"):
            monkeypatch.setattr(mx, "default_device", cpu)
            compiled = mx.compile(double)
            mx.eval(compiled(mx.array(1.0)), compiled(mx.array(2.0)))

    monkeypatch.delenv("MLX_DISABLE_COMPILE", raising=False)
    mx.enable_compile()
    try:
        run(settings(iters=1, save_every=1, routing_loss={"name": "z"}), step=step)
    finally:
        mx.disable_compile()
    assert len(calls) == 2  # a compiled function is traced once and called no more


def test_a_model_that_gives_nan_is_said_at_once(settings: Any, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(settings()["model"], folder)
    loaded: Any = mx.load(str(folder / "model.safetensors"))
    loaded["lm_head.weight"] = mx.full(loaded["lm_head.weight"].shape, math.nan)
    mx.save_safetensors(str(folder / "model.safetensors"), loaded, {"format": "mlx"})
    with pytest.raises(TrainingError, match="not finite at step 1; check the weights of"):
        run(settings(model=str(folder)))
