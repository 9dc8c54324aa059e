"""The verdict: the rule, known answers, what is needed to decide, and how reports carry it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from domain_simulation import DOMAINS, TAU, found, shares_of, simulate, spread_to
from routing_reference import make_stats, validate

from mlx_moebench import RoutingStats
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import Plan, RouterSpec, Sums
from mlx_moebench.routing.domains.statistics import domain_statistics
from mlx_moebench.routing.domains.verdict import Verdict, count_words, decide, verdict

PLAN = Plan(resamples=200)


def judge(shares: np.ndarray, sequences: int = 30, seed: int = 0) -> Verdict:
    """The verdict on simulated sequences with these shares of tokens [D, E]."""
    tokens = (48.0,) * len(shares)
    return verdict(found(*simulate(shares, sequences, np.random.default_rng(seed), tokens), seed=0), TAU)


def judge_counts(counts: Any, tokens: Any, top_k: int, tau: float = TAU, **options: str) -> Verdict:
    sums = Sums.from_counts(counts, tokens, top_k)
    (one,) = domain_statistics([sums], np.arange(len(counts)), PLAN)
    return verdict(one, tau, **options)


# -- the rule ------------------------------------------------------------------------------------------------------

LOW, HIGH, ACROSS = (0.1, 0.2), (0.5, 0.6), (0.3, 0.5)
WIDE, HALF, NARROW = (0.8, 0.9), (0.45, 0.55), (0.3, 0.4)


@pytest.mark.parametrize(
    ("a", "b", "r", "informative", "word"),
    [
        (LOW, HIGH, WIDE, True, "specialised"),
        (LOW, HIGH, WIDE, False, "undetermined"),
        (LOW, LOW, WIDE, True, "balanced"),
        (LOW, LOW, WIDE, False, "balanced"),
        (LOW, ACROSS, WIDE, True, "undetermined"),
        (ACROSS, HIGH, WIDE, True, "undetermined"),
        (HIGH, HIGH, WIDE, True, "collapsed"),
        (LOW, LOW, NARROW, True, "collapsed"),
        (LOW, HIGH, NARROW, True, "collapsed"),
        (LOW, LOW, HALF, True, "undetermined"),
        (LOW, HIGH, HALF, True, "undetermined"),
        ((0.3, 0.4), (0.3, 0.4), (0.5, 0.6), True, "balanced"),  # tau itself is not above tau, nor half below half
        ((0.4, 0.6), (0.4, 0.6), WIDE, True, "undetermined"),
    ],
)
def test_rule(a: Any, b: Any, r: Any, informative: bool, word: str) -> None:
    assert decide(a, b, r, 0.4, informative) == word


# -- known answers -------------------------------------------------------------------------------------------------


def test_two_domains_with_an_expert_each_are_specialised() -> None:
    shares = np.full((2, 16), 1.2 / 15)
    shares[0, 3] = shares[1, 8] = 0.8
    v = judge(shares)
    assert v.word == "specialised"
    assert v.basis == "cluster"
    assert v.a.value < 0.2
    assert v.b.value == pytest.approx(0.8, abs=0.1)
    assert v.p_value <= 0.01
    assert v.mi.value > v.null_high > v.null_mean > 0
    # Either domain alone would raise the flag.
    assert (shares.max(axis=1) > TAU).all()


def test_a_router_with_half_of_its_experts_dead_is_collapsed() -> None:
    shares = np.tile(spread_to(0.485), (DOMAINS, 1))
    assert (shares[0] == 0).sum() == 8
    v = judge(shares)
    assert v.word == "collapsed"
    assert v.a.value <= TAU, "it is r that says so"
    assert v.r.interval.high is not None
    assert v.r.interval.high < 0.5


def test_one_expert_that_no_domain_escapes_is_collapse() -> None:
    shares = np.full((DOMAINS, 16), 1.2 / 15)
    shares[:, 5] = 0.8
    v = judge(shares)
    assert v.word == "collapsed"
    assert v.r.value > 0.5, "it is a that says so"


def test_even_routing_is_balanced() -> None:
    v = judge(np.full((DOMAINS, 16), 2 / 16))
    assert v.word == "balanced"
    assert v.undecided == ()


@pytest.mark.parametrize("experts", [4, 10, 48, 64, 96])
def test_exactly_half_of_the_experts_is_not_below_half(experts: int) -> None:
    """Even over half of the experts, as point values: r is 0.5, whatever rounding makes of exp(ln(E/2))."""
    counts = np.repeat([[10, 0], [10, 0]], experts // 2, axis=1)
    v = judge_counts(counts, counts.sum(axis=1), 1, tau=0.6)
    assert v.r.value == pytest.approx(0.5)
    assert v.word == "balanced"


# -- what is needed ------------------------------------------------------------------------------------------------


def test_sequences_needed_shrink_the_band_to_the_gap() -> None:
    shares = shares_of("specialised", 0.07)
    v = judge(shares, sequences=20, seed=1)
    assert v.word == "undetermined"
    assert v.undecided == ("b",)
    assert v.sequences_needed == math.ceil(60 * (v.band / abs(v.b.value - TAU)) ** 2)
    more = judge(shares, sequences=math.ceil(1.5 * v.sequences_needed / 3), seed=2)
    assert more.word == "specialised"


def test_a_collapse_needs_one_of_its_conditions() -> None:
    v = judge(np.tile(spread_to(0.498), (DOMAINS, 1)), sequences=12)
    assert v.word == "undetermined"
    assert v.sequences_needed is not None
    assert v.sequences_needed > 36


def test_point_values_must_exceed_what_chance_would_give() -> None:
    """b > tau and a <= tau, with domains that differ by a few tokens or by thousands."""
    few, many = np.array([[9, 7, 4], [7, 9, 4]]), np.array([[2250, 1750, 1000], [1750, 2250, 1000]])
    chance, effect = (judge_counts(counts, counts.sum(axis=1), 1) for counts in (few, many))
    assert chance.a.value == effect.a.value <= TAU < chance.b.value == effect.b.value
    assert (chance.word, chance.undecided, chance.sequences_needed) == ("undetermined", ("mi",), None)
    assert (effect.word, effect.basis) == ("specialised", "point")


# -- where there is none -------------------------------------------------------------------------------------------


def test_no_verdict_where_even_routing_reaches_tau() -> None:
    v = judge_counts([[50, 50, 100], [60, 40, 100]], [100, 100], 2)
    assert v.word is None
    assert v.reason == "even routing already gives 0.667 >= tau = 0.4"
    assert v.a.value == 1.0


def test_no_verdict_for_another_share_or_an_empty_domain() -> None:
    counts = np.array([[50, 50, 0, 0], [10, 10, 40, 40]])
    v = judge_counts(counts, [100, 100], 1, share="top_share_top1")
    assert (v.word, v.reason) == (None, "tau was chosen for top_share_top1, and a verdict compares shares of tokens")
    v = judge_counts(counts * [[1], [0]], [100, 0], 1)
    assert (v.word, v.reason) == (None, "no tokens of 1")


def test_words_are_counted() -> None:
    verdicts = [judge(np.full((DOMAINS, 16), 2 / 16)), judge_counts([[1, 1], [1, 1]], [1, 1], 2)]
    assert count_words(verdicts) == {
        "collapsed": 0,
        "specialised": 0,
        "balanced": 1,
        "undetermined": 0,
        "null": 1,
    }


# -- reports -------------------------------------------------------------------------------------------------------


def both() -> RoutingStats:
    return RoutingStats.merge([make_stats(range(12)), make_stats(range(12), sha="b" * 64)])


def test_merged_domains_have_verdicts_and_one_domain_has_none() -> None:
    report = both().report(PLAN)
    validate(report)
    for router in report["routers"]:
        v = router["verdict"]
        assert v["domains"] == ["data-a", "data-b"]
        assert v["basis"] == "cluster"
        assert set(v["ci"]) == {"a", "b", "r", "mi"}
        assert v["ci"]["a"]["low"] < v["a"] < v["ci"]["a"]["high"]
    words = [router["verdict"]["word"] for router in report["routers"]]
    counted = report["verdicts_by_router"]["mlp"]
    assert {word: n for word, n in counted.items() if n} == {word: words.count(word) for word in set(words)}
    alone = make_stats(range(12)).report(PLAN)
    assert "verdicts_by_router" not in alone
    assert not any("verdict" in router for router in alone["routers"])


def test_point_verdicts_and_nulls_are_valid_json() -> None:
    specs = (RouterSpec(0, 0, "mlp", 4, 2), RouterSpec(1, 1, "attention", 16, 2))
    parts = [make_stats(range(3), specs=specs), make_stats(range(3), sha="b" * 64, specs=specs)]
    report = RoutingStats.merge(parts).report(PLAN)
    validate(report)
    first, second = (router["verdict"] for router in report["routers"])
    assert first["word"] is None
    assert first["reason"] == "even routing already gives 0.5 >= tau = 0.4"
    assert second["basis"] == "point"
    assert second["c"] is second["p_value"] is second["null_mean"] is None
    assert "3 sequences of data-a" in second["ci"]["a"]["reason"]
    assert report["verdicts_by_router"]["mlp"]["null"] == 1
    assert report["verdicts_by_router"]["attention"]["null"] == 0


def test_without_its_sums_a_verdict_keeps_its_values(tmp_path: Path) -> None:
    _, sums = both().save(tmp_path / "both", PLAN)
    sums.unlink()
    report = read_report(tmp_path / "both.json")
    validate(report)
    v = report["routers"][0]["verdict"]
    assert v["a"] > 0
    assert v["ci"]["a"] == {"low": None, "high": None, "reason": "both.safetensors with the sums is missing"}


def test_by_domain_undoes_a_merge() -> None:
    parts = both().by_domain()
    assert list(parts) == ["data-a", "data-b"]
    for sha, part in zip("ab", parts.values(), strict=True):
        alone = make_stats(range(12), sha=sha * 64)
        assert part.clusters == alone.clusters
        assert part.sources == alone.sources
        np.testing.assert_array_equal(part.sums(1).counts, alone.sums(1).counts)
        assert part.values(2) == pytest.approx(alone.values(2))
        assert np.isnan(part.coactivation(0)).all()


# -- OLMoE's own counts --------------------------------------------------------------------------------------------


@pytest.mark.shared_data
def test_olmoe_is_specialised_and_not_collapsed() -> None:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MOEBENCH_SHARED_DATA", default)) / "olmoe_routing" / "expert_counts"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name} in the folder named by MOEBENCH_SHARED_DATA")
    names = ("arxiv", "book", "c4", "github")
    read = [json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in names]
    counts = np.array([[[layer.get(str(i), 0) for i in range(64)] for layer in layers] for layers in read])
    got = [judge_counts(counts[:, layer], [208_896] * 4, 8) for layer in range(3)]
    assert [v.word for v in got] == ["specialised"] * 3
    assert [v.basis for v in got] == ["point"] * 3
    assert [f"{v.a.value:.4f} {v.b.value:.3f} {v.r.value:.2f} {v.mi.value:.4f}" for v in got] == [
        "0.1998 0.977 0.95 0.0984",
        "0.1455 0.785 0.89 0.2663",
        "0.1153 0.937 0.91 0.3088",
    ]
