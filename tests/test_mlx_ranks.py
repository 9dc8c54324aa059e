"""Several processes that share a measurement under mlx.launch: the counts of one, from half of the texts each."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import CONFIGS, build_tiny, save_checkpoint

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.errors import MoebenchError

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_moebench.measure import analyze, on_mlx  # noqa: E402
from mlx_moebench.measure.sharing import rank_output, shares_the_model  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")

FEW = ["--max-samples", "21", "--max-length", "24", "--batch-size", "2", "--quiet", "--resamples", "100"]
ONE: dict[str, Any] = {"max_samples": 21, "max_length": 24, "batch_size": 2}

# Saves after every batch, and kills rank RANK in its batch NUMBER, when the other one has measured as many.
KILLED = """
import os, signal, sys, time
from mlx_moebench.cli import main
from mlx_moebench.measure import keep
from mlx_moebench.measure.on_mlx import MLX
keep.MIN_SECONDS = keep.SHARE = 0
rank, number, forward, calls = sys.argv[1], int(sys.argv[2]), MLX.forward, []
def killing(*arguments):
    calls.append(1)
    if len(calls) == number:
        time.sleep(1)
        if os.environ["MLX_RANK"] == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    return forward(*arguments)
MLX.forward = killing
main(sys.argv[3:])
"""

# A tensor-parallel model; with a NUMBER both ranks are stopped in that batch.
SHARED = """
import sys
import mlx_moebench.models
import mlx.core as mx
from mlx_lm.utils import sharded_load
from mlx_moebench.measure import analyze, keep
from mlx_moebench.measure.on_mlx import MLX
mx.set_default_device(mx.Device(mx.cpu))
keep.MIN_SECONDS = keep.SHARE = 0
folder, output, number, forward, calls = sys.argv[1], sys.argv[2], int(sys.argv[3]), MLX.forward, []
def counting(*arguments):
    calls.append(1)
    if len(calls) == number:
        raise KeyboardInterrupt
    return forward(*arguments)
MLX.forward = counting
model, tokenizer = sharded_load(folder)
stats = analyze(model, "math", tokenizer=tokenizer, max_samples=21, max_length=24, batch_size=2, output=output,
                resume=True)
print("forwards", mx.distributed.init().rank(), len(calls), stats.n_tokens, flush=True)
"""


def launch(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Two ranks on this machine; mlx.launch exits with 0 whatever becomes of them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    launcher = [str(Path(sys.executable).with_name("mlx.launch")), "-n", "2", "--backend", "ring"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*launcher, "--starting-port", port, "--", sys.executable, *command],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def assert_counts_of(one: RoutingStats, two: RoutingStats) -> None:
    """The very counts; sums of fractions are of batches that were cut otherwise, and so rounded otherwise."""
    assert one.clusters == two.clusters
    assert one.n_tokens > 0
    for number in range(len(one.specs)):
        for name in ("n_tokens", "counts", "top1_counts"):
            np.testing.assert_array_equal(getattr(one.sums(number), name), getattr(two.sums(number), name))
        np.testing.assert_array_equal(one.pairs(number), two.pairs(number))
        np.testing.assert_allclose(one.sums(number).scalars, two.sums(number).scalars, rtol=1e-4, atol=1e-4)
    for number in range(len(one.specs) - 1):
        np.testing.assert_array_equal(one.transition_counts(number), two.transition_counts(number))


def parts_of(output: Path) -> list[RoutingStats]:
    return [RoutingStats.load(rank_output(output, rank, 2)) for rank in (0, 1)]


def done_in(stats: RoutingStats) -> tuple[int, int]:
    """(sequences measured, of how many) in the one part of a rank."""
    ((part,),) = [facts["parts"] for facts in stats.sources.values()]
    return part["sequences_done"], part["sequences"]


@pytest.mark.slow
def test_two_ranks_give_exactly_the_counts_of_one_process(tmp_path: Path) -> None:
    output = tmp_path / "two.json"
    done = launch(tmp_path, "-m", "mlx_moebench", "analyze", *FEW, "--output", str(output), "--json")
    assert output.exists(), done.stdout + done.stderr
    assert json.loads(done.stdout) == json.loads(output.read_text())  # one process speaks
    assert_counts_of(analyze(None, "math", **ONE), RoutingStats.load(output))
    parts = parts_of(output)
    assert [done_in(part) for part in parts] == [(11, 11), (10, 10)]
    for rank, part in enumerate(parts):
        assert {row % 2 for _, row in part.clusters} == {rank}
    report = json.loads(output.read_text())
    assert report["data"]["complete"]
    assert report["data"]["n_sequences"] == 21


@pytest.mark.slow
def test_two_ranks_stream_to_the_counts_of_one(tmp_path: Path) -> None:
    """Each reads every layer, and takes its half of the texts through it, with hidden states on the disk."""
    output = tmp_path / "two.json"
    streamed = ("--stream", "on", "--stream-memory", "0", "--output", str(output))
    done = launch(tmp_path, "-m", "mlx_moebench", "analyze", *FEW, *streamed)
    assert output.exists(), done.stdout + done.stderr
    assert_counts_of(analyze(None, "math", **ONE), RoutingStats.load(output))
    assert [done_in(part) for part in parts_of(output)] == [(11, 11), (10, 10)]
    assert not list(tmp_path.glob("*.stream"))


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["off", "on"])
def test_profiles_are_shared_too(stream: str, tmp_path: Path) -> None:
    arguments = ["profile", "--domain", "math", "--domain", "code", *FEW]
    done = launch(tmp_path, "-m", "mlx_moebench", *arguments, "--stream", stream, "--output", "p", "--json")
    (model,) = json.loads(done.stdout)["models"]
    main([*arguments, "--output", str(tmp_path / "one")])
    for domain in ("math", "code"):
        two = RoutingStats.load(tmp_path / "p" / "moebench-nano" / f"{domain}.json")
        assert_counts_of(RoutingStats.load(tmp_path / "one" / "moebench-nano" / f"{domain}.json"), two)
    assert [domain["n_sequences"] for domain in model["domains"]] == [21, 21]


@pytest.mark.slow
def test_a_lost_rank_leaves_what_was_measured_and_resume_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    arguments = ["analyze", *FEW, "--output", str(output)]
    began = time.monotonic()
    done = launch(tmp_path, "-c", KILLED, "1", "4", *arguments)
    assert time.monotonic() - began < 120
    assert "rank 1 exited with code -9" in re.sub(r"\s+", " ", done.stdout + done.stderr)
    assert not output.exists()
    assert [done_in(part) for part in parts_of(output)] == [(6, 11), (6, 10)]
    launch(tmp_path, "-m", "mlx_moebench", *arguments, "--resume")
    assert_counts_of(analyze(None, "math", **ONE), RoutingStats.load(output))


@pytest.mark.slow
def test_a_rank_without_texts_ends_the_run_with_its_sentence(tmp_path: Path) -> None:
    done = launch(tmp_path, "-m", "mlx_moebench", "analyze", "--max-samples", "1", "--quiet", "--output", "o.json")
    assert "Shard 2/2 is empty, there are only 1 documents" in done.stdout + done.stderr
    assert not (tmp_path / "o.json").exists()


@pytest.mark.slow
def test_a_tensor_parallel_model_is_counted_once(tmp_path: Path) -> None:
    config = CONFIGS["qwen3_moe"]
    folder = save_checkpoint(tmp_path / "model", build_tiny(0, "qwen3_moe"), config)
    one = analyze(folder, "math", **ONE)
    output = tmp_path / "shared.json"
    stopped = launch(tmp_path, "-c", SHARED, str(folder), str(output), "5")
    assert done_in(RoutingStats.load(output)) == (8, 21), stopped.stdout + stopped.stderr
    done = launch(tmp_path, "-c", SHARED, str(folder), str(output), "-1")
    said = re.findall(r"forwards (\d) (\d+) (\d+)", done.stdout)
    assert sorted(said) == [("0", "7", str(one.n_tokens)), ("1", "7", str(one.n_tokens))], done.stdout + done.stderr
    assert sorted(path.name for path in tmp_path.glob("*shared*")) == ["shared.json", "shared.safetensors"]
    assert_counts_of(one, RoutingStats.load(output))


def test_shared_models_are_told_by_their_groups(tiny_model: Any) -> None:
    assert not shares_the_model(None)
    assert not shares_the_model("folder")
    assert not shares_the_model(tiny_model)
    block = tiny_model.layers[1].mlp
    block.sharding_group = SimpleNamespace(size=lambda: 1)
    assert not shares_the_model(tiny_model)
    block.sharding_group = SimpleNamespace(size=lambda: 2)
    assert shares_the_model(tiny_model)
    tiny_model.model.pipeline_size = 2
    with pytest.raises(MoebenchError, match=r"is a pipeline.*tensor_group"):
        shares_the_model(tiny_model)


def test_what_cannot_be_shared_is_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_mlx.MLX, "ranks", lambda self: (0, 2))
    with pytest.raises(MoebenchError, match="Each of 2 processes measures a shard of its own"):
        analyze(None, "math", shard="1/2", **ONE)
    tiny_model.layers[1].mlp.sharding_group = SimpleNamespace(size=lambda: 2)
    with pytest.raises(MoebenchError, match="no trace is kept"):
        analyze(tiny_model, "math", tokenizer=object(), output=tmp_path / "o", trace=tmp_path / "t", **ONE)
    with pytest.raises(SystemExit):
        main(["loss", "--dataset", "math", "--max-samples", "2"])
    assert "in one process; start it without torchrun or mlx.launch" in capsys.readouterr().err


def test_ranks_that_do_not_find_each_other_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise RuntimeError("[ring] Couldn't connect")

    monkeypatch.setenv("MLX_RANK", "1")
    monkeypatch.setattr(mx.distributed, "init", lost)
    with pytest.raises(MoebenchError, match=r"MLX_RANK in the environment .*Couldn't connect.*or unset it"):
        on_mlx.BACKEND.ranks()
    assert on_mlx.MLX(alone=True).ranks() is None


def test_what_travels_in_pieces_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's group of one process; two of them are in the slow tests."""
    monkeypatch.setattr(on_mlx, "MESSAGE", 1000)
    stats = analyze(None, "math", **ONE)
    (gathered,) = on_mlx.BACKEND.gather({"prefill": stats}).values()
    assert_counts_of(stats, gathered)
