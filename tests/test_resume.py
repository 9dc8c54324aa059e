"""A measurement that is killed, stopped or fails leaves a valid pair, and goes on to the numbers it would have had."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import assert_same, validate
from safetensors.numpy import load_file

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.errors import MoebenchError, RoutingError, StatsError
from mlx_moebench.measure import analyze, keep
from mlx_moebench.measure.on_mlx import MLX
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.pair.storage import pair_paths, read_report
from mlx_moebench.routing import Plan

RUN = ["--dataset", "math", "--max-samples", "24", "--max-length", "24", "--batch-size", "2", "--quiet"]
SETTINGS: dict[str, Any] = {"max_samples": 24, "max_length": 24, "batch_size": 2}
PLAN = Plan(resamples=100)

# Saves after every batch. `block N`: stays for good in batch N. `rename N`: kills itself in the N-th save, after the
# sums are renamed and before the report is.
DRIVER = """
import importlib, os, signal, sys, time
from pathlib import Path
from mlx_moebench.measure import keep
from mlx_moebench.cli import main
from mlx_moebench.measure.on_mlx import MLX
keep.MIN_SECONDS = keep.SHARE = 0
# A shell starts what runs in the background deaf to Ctrl-C, and this test with it.
signal.signal(signal.SIGINT, signal.default_int_handler)
mode, number = sys.argv[1], int(sys.argv[2])
forward, rename, calls = MLX.forward, Path.replace, []
def blocking(*arguments):
    calls.append(1)
    if len(calls) == number:
        print("blocked", flush=True)
        time.sleep(600)
    forward(*arguments)
def killing(self, target):
    calls.append(1)
    if len(calls) == 2 * number:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
if mode == "block":
    MLX.forward = blocking
else:
    Path.replace = killing
main(sys.argv[3:])
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pair of a run that nothing stopped."""
    output = tmp_path_factory.mktemp("whole") / "whole.json"
    main(["analyze", *RUN, "--output", str(output)])
    return output


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """``stop_at(n, error)``: the n-th forward from now raises; returns a list that grows with every forward."""
    forward = MLX.forward

    def patch(number: int | None = None, error: BaseException | None = None) -> list[int]:
        calls: list[int] = []

        def counting(*arguments: Any) -> None:
            calls.append(len(calls) + 1)
            if error is not None and len(calls) == number:
                raise error
            forward(*arguments)

        monkeypatch.setattr(MLX, "forward", counting)
        return calls

    return patch


def assert_identical(a: Path, b: Path) -> None:
    """Every array bit by bit, and the reports but for the environment and what hashes them."""
    x, y = (load_file(pair_paths(path)[1]) for path in (a, b))
    assert x.keys() == y.keys()
    for name in x:
        assert x[name].dtype == y[name].dtype
        np.testing.assert_array_equal(x[name], y[name], err_msg=name)
    reports = [read_report(path) for path in (a, b)]
    for report in reports:
        validate(report)
        del report["environment"], report["sums_sha256"], report["seal"]
    assert reports[0] == reports[1]


def resume(output: Path) -> None:
    main(["analyze", *RUN, "--output", str(output), "--resume"])


# -- stopped from outside ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_9_then_resume_gives_identical_numbers(
    tmp_path: Path, whole: Path, stop_at: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    process = start("block", "6", "analyze", *RUN, "--output", str(output))
    assert process.stdout is not None
    assert process.stdout.readline() == "blocked\n"
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.moelock", "out.json", "out.safetensors"]
    report = read_report(output)
    validate(report)
    assert report["data"]["complete"] is False
    assert report["data"]["n_sequences"] == 10
    assert report["settings"]["ci"]["resamples"] == keep.RESAMPLES
    (part,) = report["data"]["parts"]
    assert (part["batches_done"], part["batches"], part["sequences_done"], part["sequences"]) == (5, 12, 10, 24)

    calls = stop_at()
    resume(output)
    assert len(calls) == 7, "what was measured is not measured again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.safetensors"]
    assert_identical(output, whole)
    assert read_report(output)["data"]["complete"] is True
    assert "unfinished" not in capsys.readouterr().out


@pytest.mark.slow
def test_kill_between_the_two_renames(tmp_path: Path, whole: Path) -> None:
    """The sums are of 4 batches and the report of 3: the sums are what was measured."""
    output = tmp_path / "out.json"
    process = start("rename", "4", "analyze", *RUN, "--output", str(output))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(StatsError, match="not the report of"):
        read_report(output)
    stats = RoutingStats.load(output)
    assert len(stats.clusters) == 8
    resume(output)
    assert_identical(output, whole)


@pytest.mark.slow
def test_ctrl_c(tmp_path: Path, whole: Path) -> None:
    output = tmp_path / "out.json"
    process = start("block", "4", "analyze", *RUN, "--output", str(output))
    assert process.stdout is not None
    assert process.stdout.readline() == "blocked\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == (
        f"Error: Stopped by Ctrl-C after 6 of 24 sequences; they are in {output}, and --resume continues from there."
    )
    validate(read_report(output))
    resume(output)
    assert_identical(output, whole)


def test_ctrl_c_saves_what_came_after_the_last_save(tmp_path: Path, stop_at: Callable[..., list[int]]) -> None:
    output = tmp_path / "out"
    stop_at(6, KeyboardInterrupt())
    with pytest.raises(SystemExit) as stop:
        main(["analyze", *RUN, "--output", str(output)])
    assert stop.value.code == 130
    assert read_report(output)["data"]["n_sequences"] == 10


def test_ctrl_c_amid_a_batch_keeps_the_pair_saved_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint
) -> None:
    """A batch that is in the sums of some routers only must never be written."""
    monkeypatch.setattr(keep, "MIN_SECONDS", 0)
    monkeypatch.setattr(keep, "SHARE", 0)
    add, calls = RoutingStats.add_sums, []

    def interrupted(self: RoutingStats, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 3 * 6 + 4:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(RoutingStats, "add_sums", interrupted)
    with pytest.raises(KeyboardInterrupt, match="after 6 of 24 sequences"):
        analyze(checkpoint, "math", output=tmp_path / "o", plan=PLAN, **SETTINGS)
    monkeypatch.undo()
    assert len(RoutingStats.load(tmp_path / "o").clusters) == 6
    resumed = analyze(checkpoint, "math", output=tmp_path / "o", resume=True, plan=PLAN, **SETTINGS)
    assert_same(resumed, analyze(checkpoint, "math", **SETTINGS))


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"), [(RoutingError("Layer 3 gave NaN."), 1), (MemoryError("no memory"), 71)], ids=["ours", "other"]
)
def test_an_error_keeps_what_was_measured(
    tmp_path: Path,
    whole: Path,
    stop_at: Callable[..., list[int]],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    output = tmp_path / "out.json"
    stop_at(4, error)
    with pytest.raises(SystemExit) as stop:
        main(["analyze", *RUN, "--output", str(output)])
    assert stop.value.code == code
    printed = capsys.readouterr().err
    assert str(error) in printed
    assert f"The 6 of 24 sequences measured before are in {output}." in printed
    validate(read_report(output))
    stop_at()
    resume(output)
    assert_identical(output, whole)


def test_an_error_before_the_first_batch_leaves_nothing(
    tmp_path: Path, checkpoint: Checkpoint, stop_at: Callable[..., list[int]]
) -> None:
    stop_at(1, RoutingError("at once"))
    with pytest.raises(RoutingError) as raised:
        analyze(checkpoint, "math", output=tmp_path / "o", **SETTINGS)
    assert not getattr(raised.value, "__notes__", [])
    assert list(tmp_path.iterdir()) == []


# -- going on ------------------------------------------------------------------------------------------------------


def test_resuming_a_complete_run_measures_nothing(
    tmp_path: Path, whole: Path, stop_at: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    for source, target in zip(pair_paths(whole), pair_paths(output), strict=True):
        target.write_bytes(source.read_bytes())
    calls = stop_at()
    resume(output)
    assert calls == []
    assert_identical(output, whole)
    assert read_report(output)["environment"] == read_report(whole)["environment"]
    assert "24 sequences" in capsys.readouterr().out


def test_without_a_pair_resume_starts_from_the_beginning(tmp_path: Path, whole: Path) -> None:
    resume(tmp_path / "out.json")
    assert_identical(tmp_path / "out.json", whole)


def test_without_resume_nothing_of_an_older_pair_stays(
    tmp_path: Path,
    whole: Path,
    checkpoint: Checkpoint,
    stop_at: Callable[..., list[int]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at(4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        analyze(checkpoint, "math", output=tmp_path / "out", **SETTINGS)
    calls = stop_at()
    with pytest.raises(SystemExit) as stop:  # what is unfinished is there to be resumed
        main(["analyze", *RUN, "--output", str(tmp_path / "out")])
    assert stop.value.code == 1
    assert "6 of 24 sequences" in capsys.readouterr().err
    assert not calls
    analyze(checkpoint, "math", output=tmp_path / "out", **SETTINGS)
    assert len(calls) == 12
    assert_identical(tmp_path / "out", whole)


def test_windows_of_a_document_in_several_batches(
    tmp_path: Path, checkpoint: Checkpoint, stop_at: Callable[..., list[int]]
) -> None:
    long, longer = "Idle. " * 9, "A router sends a token to two experts. " * 12
    (tmp_path / "long.txt").write_text(f"{longer}\n\nShort.\n\n{long}")
    settings: dict[str, Any] = {"max_length": 16, "batch_size": 2, "plan": PLAN}
    settings |= {"split_on": "blank", "long": "windows"}
    text = tmp_path / "long.txt"
    analyze(checkpoint, text, output=tmp_path / "whole", **settings)
    stop_at(3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="after 4 of"):
        analyze(checkpoint, text, output=tmp_path / "part", **settings)
    assert [row for _, row in RoutingStats.load(tmp_path / "part").clusters] == [0], "windows of one document so far"
    stop_at()
    analyze(checkpoint, text, output=tmp_path / "part", resume=True, **settings)
    assert_identical(tmp_path / "part", tmp_path / "whole")
    assert read_report(tmp_path / "part")["data"]["n_sequences"] == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_length": 25}, ["max length is 24", "this run's is 25"]),
        ({"long": "windows"}, ["long is truncate", "this run's is windows"]),
        ({"max_samples": 12}, ["max samples is 24", "12"]),
        ({"max_samples": None}, ["max samples is 24", "not given"]),
        ({"batch_size": 3}, ["batch size is 2", "3"]),
        ({"shard": "1/2"}, ["shard is not given", "1/2"]),
        ({"text_field": "id"}, ["text field is text", "id"]),
        ({"dataset": "code"}, ["data set is math", "code"]),
        ({"fingerprint": "f" * 64}, ["model's fingerprint", "ffff"]),
        ({"dtype": "bfloat16"}, ["model's dtype is float32", "bfloat16"]),
        ({"weight_bits": 4}, ["model's weight bits is", "4"]),
    ],
)
def test_resume_refuses_another_measurement(
    tmp_path: Path,
    checkpoint: Checkpoint,
    stop_at: Callable[..., list[int]],
    changes: dict[str, Any],
    words: list[str],
) -> None:
    output = tmp_path / "out.json"
    stop_at(2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        analyze(checkpoint, "math", output=output, plan=PLAN, **SETTINGS)
    before = [path.read_bytes() for path in pair_paths(output)]
    stop_at()
    model = {key: changes[key] for key in ("fingerprint", "dtype", "weight_bits") if key in changes}
    rest = {key: value for key, value in changes.items() if key not in (*model, "dataset")}
    with pytest.raises(StatsError, match="Cannot resume") as refused:
        analyze(
            dataclasses.replace(checkpoint, **model),
            changes.get("dataset", "math"),
            output=output,
            resume=True,
            **SETTINGS | rest,
        )
    for word in words:
        assert word in str(refused.value)
    assert [path.read_bytes() for path in pair_paths(output)] == before


def test_resume_refuses_merged_and_damaged_pairs_and_no_output(tmp_path: Path, checkpoint: Checkpoint) -> None:
    parts = [analyze(checkpoint, "math", shard=f"{i}/2", **SETTINGS) for i in (1, 2)]
    RoutingStats.merge(parts).save(tmp_path / "merged", PLAN)
    with pytest.raises(StatsError, match="not the pair of one run"):
        analyze(checkpoint, "math", output=tmp_path / "merged", resume=True, **SETTINGS)
    parts[0].sources[next(iter(parts[0].sources))]["parts"][0]["batches_done"] = 3
    parts[0].save(tmp_path / "odd", PLAN)
    with pytest.raises(StatsError, match="first 3 batches had"):
        analyze(checkpoint, "math", output=tmp_path / "odd", resume=True, shard="1/2", **SETTINGS)
    with pytest.raises(MoebenchError, match="an output"):
        analyze(checkpoint, "math", resume=True)


# -- cost ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", [0.01, 0.7, 5.0])
def test_saving_takes_at_most_a_twentieth_of_the_time(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Checkpoint, stop_at: Callable[..., list[int]], cost: float
) -> None:
    """With batches of 4 s and saves of ``cost`` s on a clock of our own; the last save is not counted."""
    clock, saves = [0.0], []
    monkeypatch.setattr(keep.time, "monotonic", lambda: clock[0])

    def save(*_: Any) -> None:
        clock[0] += cost
        saves.append(cost)

    monkeypatch.setattr(keep, "pair_contents", lambda *_: ({}, {}))
    monkeypatch.setattr(keep, "write_aside", save)
    forward = MLX.forward

    def slow(*arguments: Any) -> None:
        clock[0] += 4.0
        forward(*arguments)

    monkeypatch.setattr(MLX, "forward", slow)
    analyze(checkpoint, "math", output="unused", max_samples=80, max_length=8, batch_size=1)
    between = sum(saves[1:-1])  # the first is made at once, after the first batch
    assert between <= 0.05 * (clock[0] - saves[0] - saves[-1])
    assert len(saves) == {0.01: 81, 0.7: 21, 5.0: 5}[cost]


def test_an_unfinished_report_says_so(
    tmp_path: Path, checkpoint: Checkpoint, stop_at: Callable[..., list[int]]
) -> None:
    from rich.console import Console

    from mlx_moebench.show.tables.routers import render

    stop_at(6, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        analyze(checkpoint, "math", output=tmp_path / "o", **SETTINGS)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(json.loads((tmp_path / "o.json").read_text())))
    assert "Unfinished: 10 of 24 sequences of math measured; analyze --resume continues." in console.export_text()
