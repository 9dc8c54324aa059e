"""Every metric against a number worked out by hand, its bounds, its identities and its nulls; OLMoE's own counts."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from routing_reference import make_stats, plogp, random_routing, slow_tally, sums_of

from mlx_moebench.errors import MoebenchError, StatsError
from mlx_moebench.routing import (
    METRICS,
    Sums,
    compute,
    domain_information,
    findings,
    get_metric,
    tally,
    transition_counts,
)
from mlx_moebench.routing.domains.estimates import domain_point
from mlx_moebench.routing.metrics import coactivation, coactivation_lift, transition
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS

LN2 = math.log(2)

# Ten tokens, four experts, two chosen: load f = (.4, .3, .2, .1), mean p = (.5, .25, .125, .125).
COUNTS = [8, 6, 4, 2]
SCALAR_SUMS = {
    "entropy": 9.0,
    "topk_entropy": 4.0,
    "margin_prob": 2.5,
    "margin_weight": 3.0,
    "selection_margin": 0.5,
    "z_squared": 40.0,
    "adjacent_shared": 12.0,
    "adjacent_pairs": 8.0,
    "tied": 2.0,
}
H_LOAD = -(0.4 * math.log(0.4) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))

KNOWN = {
    "mean_entropy": 0.9,
    "topk_entropy": 0.4,
    "ewa": 0.4 / LN2,
    "load_entropy": H_LOAD,
    "load_entropy_bias": 3 / 40,
    "eae": H_LOAD / math.log(4),
    "marginal_entropy": 1.75 * LN2,
    "token_information": 1.75 * LN2 - 0.9,
    "top_share_token": 0.8,
    "top_share_selection": 0.4,
    "top_share_top1": 0.7,
    "top_load_ratio": 1.6,
    "max_violation": 0.6,
    "cv": math.sqrt((0.15**2 + 0.05**2 + 0.05**2 + 0.15**2) / 4) / 0.25,
    "gini": (-3 * 0.1 - 1 * 0.2 + 1 * 0.3 + 3 * 0.4) / 4,
    "n_eff": math.exp(H_LOAD),
    "n90": 3,
    "dead_experts": 0,
    "dead_experts_expected": 4 * 0.5**10,
    "switch_balance": 4 * (0.4 * 0.5 + 0.3 * 0.25 + 0.2 * 0.125 + 0.1 * 0.125),
    "switch_gap": 0.15 * 0.25 + 0.05 * 0 + 0.05 * 0.125 + 0.15 * 0.125,
    "load_gap": math.sqrt(0.05),
    "probability_gap": math.sqrt(0.25**2 + 2 * 0.125**2),
    "dead_mass": 0.0,
    "margin_prob": 0.25,
    "margin_weight": 0.3,
    "selection_margin": 0.05,
    "tied_selections": 0.2,
    "router_z": 4.0,
    "adjacent_overlap": 12 / (2 * 8),
}


def known_sums(**changes: object) -> Sums:
    values = {
        "n_experts": 4,
        "top_k": 2,
        "distribution": "softmax",
        "n_tokens": np.array(10),
        "counts": np.array(COUNTS),
        "top1_counts": np.array([7, 3, 0, 0]),
        "p_sum": np.array([5, 2.5, 1.25, 1.25]),
        "scalars": np.array([SCALAR_SUMS[name] for name in SCALARS]),
    }
    return Sums(**(values | changes))  # type: ignore[arg-type]


def random_sums(seed: int, experts: int, top_k: int, rule: str = "softmax") -> Sums:
    result = tally(random_routing(seed, (5, 20), experts, top_k, rule))
    return Sums(experts, top_k, rule, *(np.asarray(getattr(result, name)) for name in FIELDS))  # type: ignore[arg-type]


def values(sums: Sums) -> dict[str, float]:
    return {name: float(value) for name, value in compute(sums).items()}


@pytest.mark.parametrize("name", METRICS)
def test_known_answer(name: str) -> None:
    assert float(get_metric(name).values(known_sums())) == pytest.approx(KNOWN[name], rel=1e-12, abs=1e-12)


def test_known_answers_with_a_dead_expert() -> None:
    got = values(known_sums(counts=np.array([10, 6, 4, 0]), top1_counts=np.array([10, 0, 0, 0])))
    assert got["dead_experts"] == 1
    assert got["dead_mass"] == 0.125
    assert got["load_entropy_bias"] == 2 / 40
    assert got["load_entropy"] == pytest.approx(plogp([0.5, 0.3, 0.2]))
    assert got["top_share_token"] == got["top_share_top1"] == 1


@pytest.mark.parametrize("name", METRICS)
def test_is_documented(name: str) -> None:
    metric = METRICS[name]
    lines = [line.strip() for line in (metric.function.__doc__ or "").splitlines()]
    assert lines[0].endswith("."), "the first line is a sentence"
    order = [
        line.split(":")[0] for line in lines if line.startswith(("Formula:", "Unit:", "Range:", "Null:", "Source:"))
    ]
    assert order == ["Formula", "Unit", "Range", "Null", "Source"]
    assert metric.interval in ("mean", "maximum", "plugin", "distance", "none")
    assert metric.unit
    assert metric.function.__name__ == metric.name == name


def test_groups_are_the_files_metrics_live_in() -> None:
    assert {(m.group, m.function.__module__.rsplit(".", 1)[1]) for m in METRICS.values()} == {
        (group, group) for group in ("entropy", "load", "margin", "structure")
    }


@pytest.mark.parametrize(("experts", "top_k"), [(4, 1), (4, 2), (8, 3), (5, 5), (64, 8)])
@pytest.mark.parametrize("rule", ["softmax", "sigmoid_normalised"])
def test_stays_in_range(experts: int, top_k: int, rule: str) -> None:
    for seed in range(5):
        sums = random_sums(seed, experts, top_k, rule)
        for part in (sums, sums.total()):
            for name, metric in METRICS.items():
                got = np.asarray(metric.values(part))
                got = got[np.isfinite(got)]
                assert (got >= metric.low(experts, top_k) - 1e-6).all(), name
                assert (got <= metric.high(experts, top_k) + 1e-6).all(), name


def test_agrees_with_loops_end_to_end() -> None:
    r = random_routing(3, (4, 30), 6, 2)
    slow = values(sums_of(slow_tally(r), 2).total())
    fast = values(random_like(r).total())
    assert fast == pytest.approx(slow, rel=1e-5, abs=1e-6, nan_ok=True)


def random_like(r: object) -> Sums:
    result = tally(r)  # type: ignore[arg-type]
    return Sums(6, 2, "softmax", *(np.asarray(getattr(result, name)) for name in FIELDS))


def test_identities() -> None:
    for seed in range(4):
        sums = random_sums(seed, 9, 3).total()
        v = values(sums)
        assert v["marginal_entropy"] == pytest.approx(v["mean_entropy"] + v["token_information"], rel=1e-12)
        assert v["switch_balance"] == pytest.approx(1 + 9 * v["switch_gap"], rel=1e-6)  # p-bar is summed in float32
        assert abs(v["switch_gap"]) <= v["load_gap"] * v["probability_gap"]
        assert v["top_share_token"] == pytest.approx(3 * v["top_share_selection"])
        assert v["top_load_ratio"] == pytest.approx(9 * v["top_share_selection"])
        assert v["max_violation"] == pytest.approx(v["top_load_ratio"] - 1)
        assert v["n_eff"] == pytest.approx(math.exp(v["load_entropy"]))
        assert v["eae"] == pytest.approx(v["load_entropy"] / math.log(9))
        assert v["ewa"] == pytest.approx(v["topk_entropy"] / math.log(3))
        assert v["cv"] == pytest.approx(9 / math.sqrt(9) * v["load_gap"])


def test_even_load() -> None:
    v = values(Sums.from_counts(np.full(10, 20), 100, top_k=2, top1_counts=np.full(10, 10)))
    assert v["load_entropy"] == pytest.approx(math.log(10))
    assert v["n_eff"] == pytest.approx(10)
    assert v["n90"] == 9
    assert v["eae"] == pytest.approx(1)
    assert (v["top_share_token"], v["top_share_selection"], v["top_share_top1"]) == pytest.approx((0.2, 0.1, 0.1))
    assert v["top_load_ratio"] == pytest.approx(1)
    for name in ("gini", "cv", "max_violation", "load_gap"):
        assert v[name] == pytest.approx(0, abs=1e-12), name


def test_one_set_for_all_tokens() -> None:
    experts, top_k = 8, 2
    counts = np.array([50, 50, 0, 0, 0, 0, 0, 0])
    v = values(Sums.from_counts(counts, 50, top_k, top1_counts=[50, *[0] * 7]))
    for name in ("load_entropy", "n_eff", "n90", "eae"):
        assert v[name] == pytest.approx(METRICS[name].low(experts, top_k)), name
    for name in ("top_share_token", "top_share_selection", "top_share_top1", "top_load_ratio", "max_violation"):
        assert v[name] == pytest.approx(METRICS[name].high(experts, top_k)), name
    for name in ("gini", "cv", "load_gap"):
        assert v[name] == pytest.approx(METRICS[name].high(experts, top_k)), name
    assert v["dead_experts"] == 6


def test_undefined_is_nan() -> None:
    def undefined(sums: Sums) -> set[str]:
        return {name for name, value in values(sums).items() if math.isnan(value)}

    assert undefined(random_sums(0, 5, 1).total()) == {"ewa", "margin_weight"}
    assert undefined(random_sums(0, 5, 5).total()) == {"selection_margin", "tied_selections"}
    assert undefined(random_sums(0, 5, 2, "sigmoid_normalised").total()) == {"router_z"}
    logits = {"mean_entropy", "topk_entropy", "ewa", "marginal_entropy", "token_information", "switch_balance"}
    logits |= {"switch_gap", "probability_gap", "dead_mass", "margin_prob", "margin_weight", "selection_margin"}
    logits |= {"tied_selections", "router_z", "adjacent_overlap"}
    assert undefined(Sums.from_counts([3, 1], 4, 1, [3, 1])) == logits
    assert undefined(Sums.from_counts([3, 1], 4, 1)) == logits | {"top_share_top1"}
    nothing = known_sums(n_tokens=np.array(0), **{k: 0 * getattr(known_sums(), k) for k in FIELDS if k != "n_tokens"})
    assert undefined(nothing) == set(METRICS)


def test_one_token_has_no_neighbours() -> None:
    r = random_routing(0, (2, 1))
    assert math.isnan(values(random_like(r).total())["adjacent_overlap"])


def test_leading_axes() -> None:
    sums = random_sums(1, 6, 2)
    assert {np.shape(v) for v in compute(sums).values()} == {(5,)}
    stacked = sums.weighted(np.eye(5)[:2])
    for name in METRICS:
        np.testing.assert_allclose(METRICS[name].values(stacked), METRICS[name].values(sums)[:2], err_msg=name)
    np.testing.assert_allclose(sums.leave_one_out().counts, sums.counts.sum(0) - sums.counts)


def test_a_wrong_name_gets_the_right_one() -> None:
    with pytest.raises(MoebenchError, match=r"Unknown metric 'mean_entropi'. Did you mean 'mean_entropy'\?"):
        get_metric("mean_entropi")


def test_coactivation_rows() -> None:
    pairs = [[4, 2, 2, 0], [2, 3, 1, 0], [2, 1, 3, 0], [0, 0, 0, 0]]  # five tokens: 01 01 02 02 12
    c, lift = coactivation(pairs), coactivation_lift(pairs, 5)
    assert np.isnan(np.diag(c)).all()
    assert c[0, 1:].tolist() == [0.5, 0.5, 0]
    assert c[1, 0] == pytest.approx(2 / 3)
    assert np.isnan(c[3]).all()
    np.testing.assert_allclose(np.nansum(c[:3], axis=1), 1)  # K - 1 partners
    assert lift[0, 1] == pytest.approx(2 * 5 / (4 * 3))
    np.testing.assert_array_equal(lift, lift.T)
    assert np.isnan(lift[3]).all()
    assert np.isnan(lift[:, 3]).all()


def test_chance_levels_under_even_routing() -> None:
    rng = np.random.default_rng(0)
    experts, top_k, tokens = 8, 3, 60_000
    chosen = np.argpartition(rng.random((2, tokens, experts)), top_k, axis=-1)[..., :top_k]
    first, second = (np.eye(experts, dtype=np.float32)[c].sum(1) for c in chosen)
    pairs = first.T @ first
    off = ~np.eye(experts, dtype=bool)
    np.testing.assert_allclose(coactivation(pairs)[off], (top_k - 1) / (experts - 1), atol=0.02)
    np.testing.assert_allclose(
        coactivation_lift(pairs, tokens)[off], experts * (top_k - 1) / (top_k * (experts - 1)), atol=0.06
    )
    move = transition(transition_counts(first[None], second[None]), top_k)
    np.testing.assert_allclose(move, 1 / experts, atol=0.01)
    np.testing.assert_allclose(move.sum(1), 1)
    assert (first[:-1] * second[1:]).sum() / (top_k * (tokens - 1)) == pytest.approx(top_k / experts, abs=0.01)


def test_transition_of_an_unused_expert() -> None:
    move = transition([[2, 2, 0], [0, 0, 0]], 2)
    assert move[0].tolist() == [0.5, 0.5, 0]
    assert np.isnan(move[1]).all()


def test_stats_expose_structure() -> None:
    stats = make_stats()
    assert stats.coactivation(0).shape == (8, 8)
    assert np.nanmin(stats.coactivation_lift(0)) >= 0
    assert np.array_equal(np.diag(stats.pairs(1)), stats.totals(1).counts)
    assert stats.transition(0).sum(1) == pytest.approx(np.ones(8))
    with pytest.raises(StatsError, match="has no next router"):
        stats.transition_counts(2)


# -- domains -------------------------------------------------------------------------------------------------------


def test_domain_information_by_hand() -> None:
    assert float(domain_information([[4, 0], [0, 4]])) == pytest.approx(LN2)
    assert float(domain_information([[4, 0], [0, 400]])) == pytest.approx(LN2)  # domains weigh the same
    assert float(domain_information([[3, 1], [30, 10]])) == pytest.approx(0, abs=1e-12)
    want = plogp([0.5, 0.5]) - (plogp([0.75, 0.25]) + plogp([0.25, 0.75])) / 2
    assert float(domain_information([[3, 1], [1, 3]])) == pytest.approx(want)
    assert math.isnan(float(domain_information([[0, 0], [1, 3]])))
    assert domain_information(np.ones((5, 3, 4))).shape == (5,)


# -- OLMoE's own counts --------------------------------------------------------------------------------------------

DOMAINS = ("arxiv", "book", "c4", "github")
TOKENS = 208_896
GOLDEN = {
    ("arxiv", "load_entropy"): ("3.9208", "3.6018", "3.5925"),
    ("arxiv", "n_eff"): ("50.44", "36.67", "36.32"),
    ("arxiv", "gini"): ("0.3173", "0.5517", "0.5618"),
    ("arxiv", "max_violation"): ("6.813", "5.283", "6.495"),
    ("arxiv", "top_share_token"): ("0.9766", "0.7854", "0.9369"),
    ("c4", "load_entropy"): ("4.1162", "4.0829", "4.0272"),
    ("c4", "top_share_token"): ("0.3771", "0.3322", "0.3124"),
    ("mixture", "load_entropy"): ("4.1111", "4.0393", "4.0629"),
    ("mixture", "top_share_token"): ("0.3027", "0.4069", "0.3967"),
}


@pytest.fixture(scope="module")
def olmoe() -> dict[str, np.ndarray]:
    """AllenAI's counts of OLMoE: {kind: [D, 3 layers, 64]}, domains in the order of DOMAINS."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MOEBENCH_SHARED_DATA", default)) / "olmoe_routing"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name} in the folder named by MOEBENCH_SHARED_DATA")

    def read(kind: str, domain: str) -> np.ndarray:
        layers = json.loads((folder / kind / f"{domain}.json").read_text(encoding="utf-8"))
        return np.array([[layer.get(str(i), 0) for i in range(64)] for layer in layers])

    return {kind: np.stack([read(kind, d) for d in DOMAINS]) for kind in ("expert_counts", "expert_counts_top1")}


@pytest.mark.shared_data
@pytest.mark.parametrize(("domain", "name"), GOLDEN)
def test_olmoe(olmoe: dict[str, np.ndarray], domain: str, name: str) -> None:
    counts = olmoe["expert_counts"]
    chosen = counts.sum(0) if domain == "mixture" else counts[DOMAINS.index(domain)]
    tokens = TOKENS * (4 if domain == "mixture" else 1)
    assert (chosen.sum(-1) == 8 * tokens).all()
    for layer, printed in enumerate(GOLDEN[domain, name]):
        got = float(get_metric(name).values(Sums.from_counts(chosen[layer], tokens, 8)))
        assert f"{got:.{len(printed.split('.')[1])}f}" == printed


@pytest.mark.shared_data
def test_olmoe_domain_information(olmoe: dict[str, np.ndarray]) -> None:
    for kind, printed in (("expert_counts", "0.0984 0.2663 0.3088"), ("expert_counts_top1", "0.3593 0.5657 0.6288")):
        got = domain_information(olmoe[kind].swapaxes(0, 1))
        assert " ".join(f"{x:.4f}" for x in got) == printed


@pytest.mark.shared_data
def test_olmoe_uses_its_experts_and_has_no_word(olmoe: dict[str, np.ndarray]) -> None:
    """Counts have no sequences: numbers, and every finding open."""
    counts = olmoe["expert_counts"]
    assert (counts > 0).all(), "no expert is dead"
    every = [domain_point(counts[:, layer], 8, DOMAINS, "counts have no sequences") for layer in range(3)]
    assert " ".join(f"{one.used.value:.2f}" for one in every) == "0.95 0.89 0.91"
    assert " ".join(f"{one.specialisation.value:.2f}" for one in every) == "0.07 0.19 0.22"
    assert int(every[0].shares[0].argmax()) == 0
    assert f"{every[0].shares[0, 0]:.2f}" == "0.98"
    for one in map(findings, every):
        assert one.word is None
        assert {finding.answer for finding in one.findings.values()} == {"open"}


@pytest.mark.shared_data
def test_olmoe_first_choices(olmoe: dict[str, np.ndarray]) -> None:
    top1, counts = olmoe["expert_counts_top1"], olmoe["expert_counts"]
    assert (top1.sum(-1) == TOKENS).all()
    assert (top1 <= counts).all()
    sums = Sums.from_counts(counts[0], np.full(3, TOKENS), 8, top1[0])
    np.testing.assert_allclose(get_metric("top_share_top1").values(sums), top1[0].max(-1) / TOKENS)
