"""Perturbed routers: the effects are those of forwards run apart, and a run goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import logsumexp

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.analysis.perturb import perturb
from mlx_moebench.cli import group, main
from mlx_moebench.data import encode, read_corpus
from mlx_moebench.errors import MoebenchError, StatsError
from mlx_moebench.instrument.changes import Only, Ranks
from mlx_moebench.instrument.interventions import changing
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.options import Plan
from mlx_moebench.perturbations import KINDS, Perturbation
from mlx_moebench.routing.record import RouterSpec

import mlx.core as mx  # isort: skip

SETTINGS: dict[str, Any] = {"max_samples": 12, "max_length": 24, "plan": Plan(resamples=200)}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def report(checkpoint: Checkpoint) -> dict[str, Any]:
    return perturb(checkpoint, "math", ["drop-top1", "k=2", "noise=0.2"], by_layer=True, **SETTINGS)


def losses(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Loss and most likely token of every token with a next one, one sequence at a time."""
    loss, best = [], []
    for sequence in encode(read_corpus("math", max_samples=12), checkpoint.tokenizer, 24):
        z = np.array(checkpoint.model(mx.array(sequence.ids[None]))[0], dtype=np.float64)[:-1]
        loss.append(logsumexp(z, axis=-1) - z[np.arange(len(z)), sequence.ids[1:]])
        best.append(z.argmax(axis=-1))
    return np.concatenate(loss), np.concatenate(best)


@pytest.mark.parametrize("router", [None, 3])
def test_effects_are_those_of_forwards_run_apart(
    checkpoint: Checkpoint, report: dict[str, Any], router: int | None
) -> None:
    before, best = losses(checkpoint)
    change = Ranks(1) if router is None else Only(Ranks(1), (router,))
    with changing(checkpoint.model, change):
        after, other = losses(checkpoint)
    (one,) = [r for r in report["runs"] if (r["perturbation"], r["router"]) == ("drop-top1", router)]
    assert report["loss"]["value"] == pytest.approx(before.mean(), rel=1e-5)
    assert one["loss"]["value"] == pytest.approx(after.mean(), rel=1e-5)
    assert one["loss_change"]["value"] == pytest.approx((after - before).mean(), rel=1e-4)
    assert one["agreement"]["value"] == pytest.approx((best == other).mean(), abs=1e-9)
    assert one["loss_change"]["low"] < one["loss_change"]["value"] < one["loss_change"]["high"]
    assert {kept["value"] for kept in one["sets_kept"]} == {0.0}


def test_what_changes_nothing_has_no_effect(report: dict[str, Any]) -> None:
    """K as it is: the order of the experts alone may differ, and with it the last digit."""
    for one in (r for r in report["runs"] if r["perturbation"] == "k=2"):
        assert one["loss_change"]["value"] == pytest.approx(0, abs=1e-5)
        assert one["agreement"]["value"] == 1.0
        assert {kept["value"] for kept in one["sets_kept"]} == {1.0}
    noisy = next(r for r in report["runs"] if r["perturbation"] == "noise=0.2")
    assert all(0.4 < kept["value"] < 1 for kept in noisy["sets_kept"])
    assert report["complete"]
    assert len(report["runs"]) == 3 * (1 + len(report["routers"]))


def test_with_another_number_of_experts_everything_is_counted(checkpoint: Checkpoint) -> None:
    made = perturb(checkpoint, "math", ["k=1", "k=5", "remove-top1", "random", "random-top1"], **SETTINGS)
    for one in made["runs"]:
        assert {kept["value"] for kept in one["sets_kept"]} <= {0.0} or one["perturbation"].startswith("random")
        assert abs(one["loss_change"]["value"]) > 1e-3


def test_a_run_goes_on_where_it_was(checkpoint: Checkpoint, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    names = ["drop-top1", "random-top1", "noise=0.3"]
    expected = perturb(checkpoint, "math", names, output=whole, **SETTINGS)
    perturb(checkpoint, "math", names[:1], output=part, **SETTINGS)
    again = perturb(checkpoint, "math", names, output=part, resume=True, **SETTINGS)
    assert again == expected
    assert part.read_bytes() == whole.read_bytes()
    with pytest.raises(StatsError, match="is not that of this run"):
        perturb(checkpoint, "math", names, output=part, resume=True, **SETTINGS | {"batch_size": 2})
    other = json.loads(part.read_text())
    other["kind"] = "something"
    part.write_text(json.dumps(other))
    with pytest.raises(StatsError, match="no report of perturb"):
        perturb(checkpoint, "math", names, output=part, resume=True, **SETTINGS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("drop-top", "Did you mean 'drop-top1'"),
        ("k", "write k=2"),
        ("k=1.5", "whole number"),
        ("k=0", "number above 0"),
        ("temperature=hot", "write temperature=10"),
        ("random=1", "write random"),
        ("noise=1e999", "number above 0"),
    ],
)
def test_names_that_are_none(name: str, message: str) -> None:
    with pytest.raises(MoebenchError, match=message):
        Perturbation.named(name)


def test_routers_with_too_few_experts() -> None:
    one = RouterSpec(0, 0, "mlp", 4, 1)
    with pytest.raises(MoebenchError, match="leaves nothing"):
        Perturbation.named("remove-top1").check([one])
    with pytest.raises(MoebenchError, match="needs 5 experts"):
        Perturbation.named("k=5").check([one])
    with pytest.raises(MoebenchError, match="needs 3 experts"):
        Perturbation.named("drop-top1-2").check([RouterSpec(0, 0, "mlp", 2, 1)])
    for kind in KINDS:
        Perturbation.named(f"{kind.name}={kind.number}" if kind.number else kind.name).check(
            [RouterSpec(0, 0, "mlp", 8, 2)]
        )


def test_what_cannot_be_done_is_a_sentence(checkpoint: Checkpoint) -> None:
    with pytest.raises(MoebenchError, match="leave out the backend torch"):
        perturb(None, "math", backend="torch")
    with pytest.raises(MoebenchError, match="Name a perturbation"):
        perturb(checkpoint, "math", [])
    with pytest.raises(MoebenchError, match="can be resumed"):
        perturb(checkpoint, "math", resume=True)
    with pytest.raises(MoebenchError, match="needs 17 experts"):
        perturb(checkpoint, "math", ["k=17"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.json"
    arguments = ["perturb", "--max-samples", "10", "--max-length", "12", "--resamples", "100", "--quiet"]
    main([*arguments, "--what", "drop-top1", "--by-layer", "--output", str(out)])
    text = " ".join(capsys.readouterr().out.split())
    assert "of one router alone" in text
    assert "drop-top1" in text
    assert "same next token: share" in text
    assert "accuracy" not in text, "nothing was asked"
    assert json.loads(out.read_text())["complete"]
    main([*arguments, "--what", "k=1", "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["perturbation"] == "k=1"
    result = CliRunner().invoke(group, ["perturb", "--what", "drop"])
    assert result.exit_code == 2
