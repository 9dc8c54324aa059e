"""Routing uncertainty against loss: the pairs are the right ones, and the report holds together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import spearmanr

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.analysis.loss import routing_uncertainty
from mlx_moebench.cli import main
from mlx_moebench.data.trace import Trace
from mlx_moebench.errors import DataError, MoebenchError, RoutingError
from mlx_moebench.measure import analyze
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.routing import Plan

import mlx.core as mx  # isort: skip

PLAN = Plan(resamples=200)
SETTINGS: dict[str, Any] = {"max_samples": 14, "max_length": 32, "plan": PLAN}


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def report(checkpoint: Checkpoint) -> dict[str, Any]:
    return routing_uncertainty(checkpoint, "math", batch_size=3, **SETTINGS)


def test_pairs_against_a_trace_and_a_forward_of_each_sequence(
    tmp_path: Path, checkpoint: Checkpoint, report: dict[str, Any]
) -> None:
    """Neither padding nor last tokens count, and position t goes with the loss of token t + 1."""
    analyze(checkpoint, "math", output=tmp_path / "o", trace=tmp_path / "t", batch_size=1, **SETTINGS)
    (shard,) = Trace(tmp_path / "t").shards()
    losses, last = [], np.zeros(len(shard.sequence), bool)
    for number in range(shard.n_sequences):
        here = np.flatnonzero(shard.sequence == number)
        last[here[-1]] = True
        ids = shard.arrays["token.id"][here]
        z = np.array(checkpoint.model(mx.array(ids[None]))[0], dtype=np.float64)
        losses.append(logsumexp(z, axis=-1)[:-1] - z[np.arange(len(ids) - 1), ids[1:]])
    loss = np.concatenate(losses)
    assert report["n_pairs"] == len(loss) == (~last).sum()
    assert report["mean_loss"]["value"] == pytest.approx(loss.mean(), rel=1e-5)
    for router in report["routers"]:
        for name in ("entropy", "selection_margin"):
            score = shard.arrays[f"layer.{router['layer']}.mlp.{name}"][~last]
            assert router[name]["rho"] == pytest.approx(spearmanr(score, loss).statistic, abs=1e-4)
            bins = router[name]["calibration"]
            assert sum(b["n_tokens"] for b in bins) == len(loss)
            lowest = np.argsort(score)[: bins[0]["n_tokens"]]
            assert bins[0]["loss"]["value"] == pytest.approx(loss[lowest].mean(), rel=0.02)


def test_report(report: dict[str, Any]) -> None:
    json.dumps(report, allow_nan=False)
    assert report["data"]["n_sequences"] == 14
    for router in report["routers"]:
        for name in ("entropy", "selection_margin"):
            assert router[name]["low"] <= router[name]["rho"] <= router[name]["high"]
    means = report["summary"]["mlp"]
    assert means["entropy"]["rho"] == pytest.approx(np.mean([r["entropy"]["rho"] for r in report["routers"]]))
    kinds = {t["kind"] for t in report["tokens"]}
    assert len(kinds) == 4
    assert len(report["tokens"]) == 12
    losses = {kind: np.mean([t["loss"] for t in report["tokens"] if t["kind"] == kind]) for kind in kinds}
    assert losses["certain, high loss"] > losses["certain, low loss"] + 1
    for token in report["tokens"]:
        assert (token["uncertainty_rank"] > 0.5) == token["kind"].startswith("uncertain")


def test_examples_can_be_found_in_the_text(checkpoint: Checkpoint, report: dict[str, Any]) -> None:
    from mlx_moebench.data import encode, read_corpus

    ids = {s.row: s.ids for s in encode(read_corpus("math", max_samples=14), checkpoint.tokenizer, 32)}
    for token in report["tokens"]:
        here, after = ids[token["row"]][token["position"] : token["position"] + 2].tolist()
        assert checkpoint.tokenizer.decode([here]) == token["token"]
        assert checkpoint.tokenizer.decode([after]) == token["next"]


def test_every_family(form_model: Any, checkpoint: Checkpoint, tiny_checkpoint: Path) -> None:
    tokenizer = load_checkpoint(tiny_checkpoint).tokenizer
    found = routing_uncertainty(form_model, "code", tokenizer=tokenizer, examples=0, **SETTINGS)
    assert found["tokens"] == []
    assert set(found["summary"]) == {router["router"] for router in found["routers"]}
    assert all(abs(r["entropy"]["rho"]) <= 1 for r in found["routers"])


def test_all_experts_chosen_have_no_margin(make_tiny: Any, tiny_checkpoint: Path) -> None:
    model = make_tiny(num_experts=4, num_experts_per_tok=4)
    tokenizer = load_checkpoint(tiny_checkpoint).tokenizer
    found = routing_uncertainty(model, "code", tokenizer=tokenizer, **SETTINGS)
    margin = found["routers"][0]["selection_margin"]
    assert (margin["rho"], margin["low"], margin["calibration"]) == (None, None, [])
    assert "not defined" in margin["reason"]
    assert found["summary"]["mlp"]["selection_margin"]["rho"] is None
    json.dumps(found, allow_nan=False)


def test_few_sequences_have_no_interval(checkpoint: Checkpoint) -> None:
    found = routing_uncertainty(checkpoint, "math", **SETTINGS | {"max_samples": 4})
    assert found["summary"]["mlp"]["entropy"]["low"] is None
    assert "4 sequences are too few" in found["summary"]["mlp"]["entropy"]["reason"]


def test_a_text_that_occurs_twice_is_one_unit(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{n} apples and {3 * n} pears are {4 * n} of them."}) for n in range(12)]
    reports = []
    for name, texts in (("once", lines), ("twice", lines * 2)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(texts))
        reports.append(routing_uncertainty(checkpoint, tmp_path / f"{name}.jsonl", plan=PLAN))
    once, twice = reports
    assert twice["n_pairs"] == 2 * once["n_pairs"]
    assert twice["data"]["repeated_sequences"] == 12
    for a, b in zip([once, *once["routers"]], [twice, *twice["routers"]], strict=True):
        one, two = (x["mean_loss"] if "mean_loss" in x else x["entropy"] for x in (a, b))
        for end in ("low", "high"):
            assert one[end] == pytest.approx(two[end], abs=0.02 * abs(one["high"] - one["low"]))


def test_mistakes(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match="no next token"):
        routing_uncertainty(checkpoint, tmp_path / "short.jsonl", **SETTINGS | {"max_length": 1})
    with pytest.raises(MoebenchError, match="bca or percentile"):
        routing_uncertainty(checkpoint, "math", plan=Plan("layer"))
    with pytest.raises(MoebenchError, match="written by analyze"):
        routing_uncertainty(checkpoint, "math", output=tmp_path / "x.json", trace=tmp_path / "t")
    broken = load_checkpoint(None)
    norm = broken.model.model.norm
    norm.weight = norm.weight * float("nan")  # the routers are well, the output is not
    with pytest.raises(RoutingError, match="no finite loss for 31 of 31 tokens"):
        routing_uncertainty(broken, "math", **SETTINGS)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["loss", "--max-samples", "12", "--max-length", "24", "--resamples", "200", "--quiet"]
    main([*arguments, "--output", str(tmp_path / "u.json"), "--plot", str(tmp_path / "u.svg")])
    shown = capsys.readouterr().out
    assert "rho, routing entropy" in shown
    assert "text, [token] and the next" in shown
    assert "Wrote" in shown
    report = json.loads((tmp_path / "u.json").read_text())
    assert "<svg" in (tmp_path / "u.svg").read_text()[:500]
    main([*arguments, "--json", "--output", str(tmp_path / "u.json")])
    again = json.loads(capsys.readouterr().out)
    for found in (report, again):
        del found["environment"]
    assert again == report
    with pytest.raises(SystemExit) as stop:
        main(["loss", "--plot", str(tmp_path / "u.jpg")])
    assert stop.value.code == 1
    assert ".png, .svg or .pdf" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["loss", "--output", str(tmp_path)])
    assert "it is a folder" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["loss", "--output", str(tmp_path / "other.json")])
    assert "exists and holds no report of loss" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["uncertainty", "--ci", "layer"])  # the help offers nothing that is then refused
    assert stop.value.code == 2
    assert "'layer' is not one of 'bca', 'percentile'" in capsys.readouterr().err
