"""``doctor --selftest``: it passes here, and a device or a figure that is off makes it fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_moebench.analysis import selftest
from mlx_moebench.analysis.selftest import Figures, check_model, make_figures, read_figures, write_figures
from mlx_moebench.cli import main
from mlx_moebench.errors import ModelLoadError
from mlx_moebench.models import NANO, load_checkpoint

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

OURS = ("two forwards bit-identical", "the tap changes no output", "selections = tokens x K")
NUMPYS = ("counts as NumPy counts", "sums as NumPy sums")
STORED = ("chosen experts as on a CPU", "mean entropy as on a CPU")

pytestmark = pytest.mark.usefixtures("cpu", "environment")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command sets it for its process; monkeypatch takes it back."""
    monkeypatch.setenv("MLX_ENABLE_TF32", "0")


@pytest.fixture(scope="module")
def stored() -> Figures:
    return read_figures(NANO)


@pytest.fixture
def model() -> Any:
    return load_checkpoint(dtype="float32").model


@pytest.fixture(scope="module")
def figures(stored: Figures) -> Figures:
    """As the stored ones, of fewer and shorter texts."""
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    nano = load_checkpoint(dtype="float32").model
    made = make_figures(nano, stored.ids[::4, :40], np.minimum(stored.lengths[::4], 40), stored.weights)
    mx.set_default_device(before)
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures) -> Path:
    """The weights with these figures, where the command reads them."""
    shutil.copy(NANO / "model.safetensors", tmp_path)
    write_figures(figures, tmp_path)
    monkeypatch.setattr(selftest, "NANO", tmp_path)
    return tmp_path


def doctor(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--selftest", "--quiet", *options])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert isinstance(stop.value.code, int)
    return stop.value.code, printed.out


def failed(model: Any, figures: Figures) -> list[str]:
    return [check.name for check in check_model(model, figures)[0] if not check.passed]


def nudge_gates(model: Any, layers: slice, size: float) -> Any:
    for layer in model.layers[layers]:
        noise = mx.random.normal(layer.mlp.gate.weight.shape, key=mx.random.key(0))
        layer.mlp.gate.weight += size * mx.abs(layer.mlp.gate.weight).mean() * noise
    return model


def test_it_passes_here(capsys: pytest.CaptureFixture[str], stored: Figures) -> None:
    code, out = doctor(capsys, "--json")
    result = json.loads(out)["selftest"]
    assert code == 0
    assert result["passed"]
    assert (result["texts"], result["tf32"], result["devices"][0]["device"]) == (24, False, "cpu")
    for device in result["devices"]:
        assert [check["name"] for check in device["checks"]] == [*OURS, *NUMPYS, *STORED]
        assert device["error"] is None
        assert len(device["routers"]) == len(stored.chosen)
        assert device["seconds"] > 0


def test_the_stored_figures_are_small(stored: Figures) -> None:
    assert (NANO / selftest.FILE).stat().st_size < 40_000
    assert stored.chosen.shape[1] == stored.lengths.sum()
    assert stored.mean_entropy.dtype == np.float64


@pytest.mark.usefixtures("folder")
def test_another_device_fails_and_the_page_says_what_to_send(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nudged(**options: Any) -> Any:
        checkpoint = load_checkpoint(**options)
        nudge_gates(checkpoint.model, slice(2, 3), 0.05)
        return checkpoint

    monkeypatch.setattr(selftest, "load_checkpoint", nudged)
    code, out = doctor(capsys)
    assert code == 1
    assert "FAILED on cpu" in out
    assert "First router that chose otherwise: layer.2.mlp." in out
    assert "mlx-moebench doctor --selftest --json" in out
    assert "try again with" not in out  # it was off
    monkeypatch.setenv("MLX_ENABLE_TF32", "1")
    assert "try again with MLX_ENABLE_TF32=0" in doctor(capsys)[1]


def test_slightly_other_gates_fail_against_the_figures_only(model: Any, figures: Figures) -> None:
    assert failed(nudge_gates(model, slice(None), 0.05), figures) == list(STORED)


def test_entropy_has_a_limit_of_its_own(model: Any, figures: Figures) -> None:
    model.layers[-1].mlp.gate.weight *= 1.02  # the same choices, a sharper distribution
    assert failed(model, figures) == [STORED[1]]


def test_rounding_is_within_the_limits(model: Any, figures: Figures) -> None:
    assert failed(nudge_gates(model, slice(None), 1e-6), figures) == []


@pytest.mark.parametrize(
    ("name", "spoil", "expected"),
    [
        ("counts", lambda a: a + mx.eye(*a.shape, dtype=a.dtype), [NUMPYS[0]]),
        ("scalars", lambda a: a * (1 + 1e-4), [NUMPYS[1]]),
        ("p_sum", lambda a: a * float("nan"), [NUMPYS[1]]),
    ],
)
def test_a_wrong_tally_is_found(
    model: Any,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    spoil: Callable[[mx.array], mx.array],
    expected: list[str],
) -> None:
    true = selftest.tally

    def wrong(routing: Any) -> Any:
        result = true(routing)
        on_device = isinstance(routing.logits, mx.array)
        return replace(result, **{name: spoil(getattr(result, name))}) if on_device else result

    monkeypatch.setattr(selftest, "tally", wrong)
    assert failed(model, figures) == expected


@pytest.mark.usefixtures("folder")
def test_an_error_of_the_device_is_quoted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("[metal] no such [kernel]")

    monkeypatch.setattr(selftest, "check_model", broken)
    code, out = doctor(capsys)
    assert code == 1
    assert "RuntimeError: [metal] no such [kernel]" in " ".join(out.split())
    assert mx.default_device() == mx.Device(mx.cpu)


# -- the figures -----------------------------------------------------------------------------------------------------


def test_a_corrupted_figure_fails(folder: Path, figures: Figures, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = figures.chosen.copy()
    chosen[3, :40, 0] ^= 1  # 40 of 2,880 selections
    write_figures(replace(figures, chosen=chosen), folder)
    code, out = doctor(capsys, "--json")
    checks = json.loads(out)["selftest"]["devices"][0]["checks"]
    assert code == 1
    assert [check["name"] for check in checks if not check["passed"]] == [STORED[0]]


def test_what_is_written_is_read(folder: Path, figures: Figures) -> None:
    again = read_figures(folder)
    for name in selftest.ARRAYS:
        assert np.array_equal(getattr(again, name), getattr(figures, name))


def test_figures_of_other_weights_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--selftest", "--quiet"])
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert "belong to other weights" in printed.err
    assert "scripts/make_selftest.py" in printed.err


@pytest.mark.parametrize("break_it", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:900])])
def test_broken_figures_are_one_sentence(folder: Path, break_it: Callable[[Path], Any]) -> None:
    break_it(folder / selftest.FILE)
    with pytest.raises(ModelLoadError, match=r"cannot be read .*reinstall the package"):
        read_figures(folder)
