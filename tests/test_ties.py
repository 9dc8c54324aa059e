"""Routers whose scores tie: the share of tied selections is measured and said, and no finding rests on them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mlx_moebench.measure import analyze
from mlx_moebench.routing import Plan
from mlx_moebench.show.names import tie_warnings
from mlx_moebench.show.tables.routers import print_report

REASON = "scores tie in 100% of the tokens, where the order of the experts decides"
TEXTS = ["a router sends every token to the experts", "that score it highest", "and the others stay idle", "so it goes"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def zeroed(backend: str, folder: Path) -> Path:
    """A tiny checkpoint whose routers are as upcycling leaves them: all zero, but for that of the last layer."""
    if backend == "mlx":
        pytest.importorskip("mlx.core", reason="needs MLX")
        from conftest import build_tiny, save_checkpoint
        from family_rows import CONFIGS

        model = build_tiny()
        for layer in model.layers[:-1]:
            layer.mlp.gate.weight = layer.mlp.gate.weight * 0
        return save_checkpoint(folder, model, CONFIGS["olmoe"])
    from transformers_models import random_transformers, torch

    model = random_transformers(folder, "olmoe")
    with torch.no_grad():
        for layer in model.model.layers[:-1]:
            layer.mlp.gate.weight.zero_()
    model.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_a_router_of_zeros_is_said_to_tie_and_not_to_have_collapsed(backend: str, data: Path, tmp_path: Path) -> None:
    model = zeroed(backend, tmp_path / "zero")
    report = analyze(model, data, backend=backend).report(Plan(resamples=100))
    *zero, last = report["routers"]
    assert {(r["tied_selections"], r["collapsed"], r["collapsed_reason"]) for r in zero} == {(1.0, None, REASON)}
    assert last["tied_selections"] == 0
    (warning,) = tie_warnings(report["routers"])
    assert warning.startswith(f"the last expert of 100% of the tokens in {len(zero)} layers (0, 1) has the score of")
    printed = StringIO()
    print_report(report, Console(file=printed, width=500))
    assert f"Warning: {warning}" in printed.getvalue()


@pytest.mark.usefixtures("cpu")
def test_where_every_router_ties_the_fraction_says_why(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs MLX")
    from conftest import build_tiny, save_checkpoint
    from family_rows import CONFIGS

    model = build_tiny()
    for layer in model.layers:
        layer.mlp.gate.weight = layer.mlp.gate.weight * 0
    folder = save_checkpoint(tmp_path / "zero", model, CONFIGS["olmoe"])
    report = analyze(folder, data).report(Plan(resamples=100))
    assert report["summary"]["collapsed_fraction"]["reason"] == f"no router has a flag: {REASON}"


def test_few_ties_are_not_worth_a_word() -> None:
    assert not list(tie_warnings([{"layer": 0, "tied_selections": 0.009}, {"layer": 1, "tied_selections": None}]))
    (one,) = tie_warnings([{"layer": 0, "tied_selections": 0.0}, {"layer": 5, "tied_selections": 0.034}])
    assert one.startswith("the last expert of 3% of the tokens in layer 5 has")
    (many,) = tie_warnings([{"layer": n, "tied_selections": n / 10} for n in range(1, 9)])
    assert "10% to 80% of the tokens in 8 layers (1, 2, 3, 4, 5, 6, ...)" in many
