"""Stock mlx-lm and this package: its command line on models that it lacks, checkpoints that it reads otherwise."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIGS, build_tiny, save_checkpoint

from mlx_moebench.cli import main
from mlx_moebench.families import family_for

mx = pytest.importorskip("mlx.core", reason="needs MLX")
import mlx_lm  # noqa: E402

from mlx_moebench.models import load_checkpoint  # noqa: E402
from mlx_moebench.models.writers import unlike_stock, unlike_stock_sentence  # noqa: E402
from mlx_moebench.train import train_adapter, training_config  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")
IDS = [[5, 17, 3, 44, 9, 120]]


# -- models that mlx-lm lacks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jetmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("port") / "jetmoe", build_tiny(0, "jetmoe"), CONFIGS["jetmoe"])


def greedy(folder: Path, adapter: Path | None = None, n: int = 6) -> str:
    """What the model writes after a prompt, loaded as everywhere in this package."""
    loaded = load_checkpoint(folder, adapter_path=adapter)
    prompt = loaded.tokenizer.encode("a router sends")
    return mlx_lm.generate(loaded.model, loaded.tokenizer, prompt, max_tokens=n)  # type: ignore[no-any-return]


OPTIONS = ["--prompt", "a router sends", "--ignore-chat-template", "--max-tokens", "6", "--verbose", "False"]


@pytest.fixture
def unregistered() -> Iterator[None]:
    """mlx-lm as it was, before and after."""
    sys.modules.pop("mlx_lm.models.jetmoe", None)
    yield
    sys.modules.pop("mlx_lm.models.jetmoe", None)


@pytest.mark.usefixtures("unregistered")
def test_mlx_lm_generates_with_the_port_of_jetmoe(jetmoe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Model type jetmoe not supported"):
        mlx_lm.load(str(jetmoe))
    main(["mlx-lm", "generate", "--model", str(jetmoe), *OPTIONS])
    assert capsys.readouterr().out.rstrip("\n") == greedy(jetmoe).rstrip("\n")


@pytest.mark.slow
def test_as_a_module_it_is_the_same(jetmoe: Path) -> None:
    command = [sys.executable, "-m", "mlx_moebench.mlx_lm", "generate", "--model", str(jetmoe), *OPTIONS]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert said.stdout.rstrip("\n") == greedy(jetmoe).rstrip("\n")


@pytest.mark.slow
def test_the_server_of_mlx_lm_answers_with_it_and_its_adapter(jetmoe: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a router sends every token to the experts"}\n' * 4)
    given = {"model": str(jetmoe), "data": str(tmp_path), "adapter_path": str(tmp_path / "adapter"), "iters": 2}
    given |= {"batch_size": 2, "learning_rate": 0.05, "routing_samples": 1, "max_length": 8}
    train_adapter(training_config(given), device="cpu")
    expected = greedy(jetmoe, tmp_path / "adapter")
    assert expected != greedy(jetmoe)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    command = [sys.executable, "-m", "mlx_moebench.mlx_lm", "server", "--model", str(jetmoe), "--port", port]
    command += ["--adapter-path", str(tmp_path / "adapter")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert _ask(port)["choices"][0]["text"] == expected
    finally:
        server.kill()
        server.wait()


def _ask(port: str) -> dict[str, Any]:
    """The answer of a server, as soon as it gives one."""
    body = json.dumps({"prompt": "a router sends", "max_tokens": 6, "temperature": 0}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body)
    request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())  # type: ignore[no-any-return]
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_a_command_that_mlx_lm_lacks_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["mlx-lm", "generat"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("Error: mlx-lm says: CLI requires a subcommand in ")
    assert said.count("\n") == 1


# -- checkpoints that it reads otherwise -----------------------------------------------------------------------------


def by_transformers_5(model_type: str, base: float = 500.0) -> dict[str, Any]:
    """A config whose rotary base lies inside rope_parameters, where transformers 5 writes it."""
    config = {key: value for key, value in CONFIGS[model_type].items() if key != "rope_theta"}
    return config | {"rope_parameters": {"rope_theta": base, "rope_type": "default"}}


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "qwen", build_tiny(0, "qwen2_moe"), by_transformers_5("qwen2_moe"))


def test_a_checkpoint_that_stock_mlx_lm_computes_otherwise_is_said_on_loading(qwen: Path) -> None:
    sentence = (
        "Stock mlx-lm does not find rope_theta = 500.0 in qwen, silently takes a default, and so computes something "
        "else than mlx-moebench: write this key into config.json before the model, or an adapter of it, is used there."
    )
    with pytest.warns(UserWarning, match="Stock mlx-lm") as said:
        ours = load_checkpoint(qwen).model(mx.array(IDS))
    assert [str(warning.message) for warning in said] == [sentence]
    stock, _ = mlx_lm.load(str(qwen))
    assert float(mx.abs(ours - stock(mx.array(IDS))).max()) > 0.01
    told, _ = mlx_lm.load(str(qwen), model_config={"rope_theta": 500.0})
    np.testing.assert_allclose(np.array(ours), np.array(told(mx.array(IDS))), atol=1e-5)

    (qwen / "config.json").write_text(json.dumps(by_transformers_5("qwen2_moe") | {"rope_theta": 500.0}))
    load_checkpoint(qwen)  # as the sentence says, and so nothing more is said


def test_the_command_line_says_it_in_a_line(qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["analyze", "--model", str(qwen), "--max-samples", "2", "--max-length", "8", "--quiet"]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main([*command, "--output", str(tmp_path / "out.json")])
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "Stock" in line)
    assert line.startswith("Warning: Stock mlx-lm does not find rope_theta = 500.0 in qwen")


def test_an_adapter_carries_what_stock_mlx_lm_must_be_told(qwen: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a router sends every token to the experts"}\n' * 4)
    given = {"model": str(qwen), "data": str(tmp_path), "adapter_path": str(tmp_path / "adapter"), "iters": 2}
    given |= {"batch_size": 2, "learning_rate": 0.05, "routing_samples": 1, "max_length": 8}
    with pytest.warns(UserWarning, match="Stock mlx-lm does not find rope_theta"):
        train_adapter(training_config(given), device="cpu")
    carried = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["model_config"]
    assert carried == {"rope_theta": 500.0}
    with pytest.warns(UserWarning, match="Stock mlx-lm"):
        ours = load_checkpoint(qwen, adapter_path=tmp_path / "adapter").model(mx.array(IDS))
    stock, _ = mlx_lm.load(str(qwen), model_config=carried, adapter_path=str(tmp_path / "adapter"))
    np.testing.assert_allclose(np.array(ours), np.array(stock(mx.array(IDS))), atol=1e-5)


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (CONFIGS["olmoe"], []),
        (by_transformers_5("olmoe", 10000.0), []),  # mlx-lm's default
        (by_transformers_5("olmoe"), ["rope_theta"]),
        (by_transformers_5("minimax"), []),  # mlx-lm has no default, and refuses
        (by_transformers_5("jetmoe"), []),  # mlx-lm has no such model
        (CONFIGS["qwen3_5_moe"], []),  # its mlx-lm file reads rope_parameters
        (CONFIGS["qwen3_5_moe"]["text_config"] | {"model_type": "qwen3_5_moe_text"}, []),  # refused
        (CONFIGS["kimi_vl"] | {"text_config": by_transformers_5("deepseek_v3")}, ["text_config"]),
    ],
    ids=["same", "default", "other", "refused", "port", "read", "inner", "nested"],
)
def test_only_a_silent_difference_is_one(config: dict[str, Any], keys: list[str]) -> None:
    unlike = unlike_stock(family_for(config), config)
    assert list(unlike) == keys
    if keys == ["text_config"]:
        assert "text_config.rope_theta = 500.0 in model" in unlike_stock_sentence("model", unlike, config)
