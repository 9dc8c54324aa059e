"""Intervals: the resampling against loops, BCa against SciPy, what agrees with what, and what is null and why."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from routing_reference import random_routing
from scipy import stats as scipy_stats

from mlx_moebench.errors import MoebenchError
from mlx_moebench.routing import METRICS, Interval, Plan, Sums, get_metric, tally
from mlx_moebench.routing.intervals.bands import Estimates
from mlx_moebench.routing.intervals.bootstrap import resample_weights
from mlx_moebench.routing.intervals.effective import effective_clusters
from mlx_moebench.routing.intervals.halves import random_halves, ratios, ratios_of_function
from mlx_moebench.routing.intervals.measured import flagged_fraction, measured
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS

PLAN = Plan(resamples=400)


class Intervals(NamedTuple):
    """What `measured` gives, without the values."""

    routers: list[dict[str, Interval]]
    mean: dict[str, Interval]
    peak: dict[str, Interval]


def intervals(routers: list[Sums], strata: np.ndarray, plan: Plan, names: list[str] | None = None) -> Intervals:
    found = measured(routers, strata, plan, names)
    rows = [{name: one.interval for name, one in row.items()} for row in found.routers]
    return Intervals(rows, *({name: one.interval for name, one in part.items()} for part in (found.mean, found.peak)))


def clusters(n: int, seed: int = 0, experts: int = 6, top_k: int = 2, length: int = 12, rule: str = "softmax") -> Sums:
    """Sums of n sequences of random routing, the last ones shorter."""
    mask = np.arange(length) < np.linspace(length, length / 2, n)[:, None]
    r = tally(random_routing(seed, (n, length), experts, top_k, rule, mask))
    host = {name: np.asarray(getattr(r, name), np.float64) for name in FIELDS}
    return Sums(experts, top_k, rule, **host)  # type: ignore[arg-type]


def pick(sums: Sums, index: np.ndarray) -> Sums:
    return replace(sums, **{name: getattr(sums, name)[index] for name in FIELDS})


def mean_only(y: np.ndarray, tokens: np.ndarray | None = None) -> Sums:
    """Sequences whose mean_entropy is y, of one token each unless ``tokens`` says otherwise."""
    n = len(y)
    x = np.ones(n) if tokens is None else tokens
    scalars = np.zeros((n, len(SCALARS)))
    scalars[:, SCALARS.index("entropy")] = y * x
    even = np.repeat(x[:, None] / 2, 2, axis=1)
    return Sums(64, 1, "softmax", x, *(np.pad(even, ((0, 0), (0, 62))) for _ in range(3)), scalars)


# -- resampling ----------------------------------------------------------------------------------------------------


def test_one_product_equals_recomputing_every_resample() -> None:
    sums = clusters(15)
    weights = resample_weights(np.zeros(15), 30, seed=3)
    fast = sums.weighted(weights)
    for b, row in enumerate(weights):
        drawn = np.repeat(np.arange(15), row.astype(int))
        again = pick(sums, drawn).total()
        for name, metric in METRICS.items():
            assert float(metric.values(fast)[b]) == pytest.approx(float(metric.values(again)), rel=1e-9, abs=1e-9), name


def test_resamples_keep_the_size_of_each_stratum() -> None:
    strata = np.array(["x"] * 7 + ["y"] * 4 + ["x"] * 2)
    weights = resample_weights(strata, 200, seed=0)
    assert (weights[:, strata == "x"].sum(1) == 9).all()
    assert (weights[:, strata == "y"].sum(1) == 4).all()
    assert weights.min() == 0
    assert weights.max() > 2
    np.testing.assert_allclose(weights.mean(0), 1, atol=0.3)


def test_seed_decides() -> None:
    sums = clusters(20)
    first, again, other = (intervals([sums], np.zeros(20), replace(PLAN, seed=s)) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_order_of_sequences_matters_no_more_than_the_seed() -> None:
    sums = clusters(30, length=40)
    order = np.random.default_rng(0).permutation(30)
    plan = Plan(resamples=4000)
    a, b = (intervals([s], np.zeros(30), plan).routers[0] for s in (sums, pick(sums, order)))
    for name in ("mean_entropy", "top_share_token", "load_entropy", "gini"):
        width = a[name].high - a[name].low  # type: ignore[operator]
        assert a[name].low == pytest.approx(b[name].low, abs=0.1 * width), name
        assert a[name].high == pytest.approx(b[name].high, abs=0.1 * width), name


def test_strata_remove_what_lies_between_domains() -> None:
    rng = np.random.default_rng(0)
    domain = np.repeat([0, 1], 20)
    sums = mean_only(1.0 + 2.0 * domain + 0.1 * rng.standard_normal(40))

    def width(strata: np.ndarray) -> float:
        ci = intervals([sums], strata, PLAN, ["mean_entropy"]).routers[0]["mean_entropy"]
        return ci.high - ci.low  # type: ignore[operator]

    assert width(domain) < 0.2 * width(np.zeros(40))


# -- means ---------------------------------------------------------------------------------------------------------


def t_level(n: int, level: float) -> float:
    """The level whose normal quantile is the widened one for n equal sequences: what BCa is then asked for."""
    t = scipy_stats.t.ppf((1 + level) / 2, n - 1) * math.sqrt(n / (n - 1))
    return float(2 * scipy_stats.norm.cdf(t) - 1)


@pytest.mark.parametrize("n", [15, 40, 400])
def test_bca_agrees_with_scipy(n: int) -> None:
    rng = np.random.default_rng(n)
    y = np.minimum(rng.exponential(0.7, n), 4)  # skewed, so that bias and acceleration count
    ours = intervals([mean_only(y)], np.zeros(n), Plan(resamples=20_000), ["mean_entropy"]).routers[0]["mean_entropy"]
    level = t_level(n, 0.95)
    result = scipy_stats.bootstrap((y,), np.mean, n_resamples=20_000, method="BCa", confidence_level=level, rng=rng)
    theirs, half = result.confidence_interval, scipy_stats.norm.ppf((1 + level) / 2) * result.standard_error
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(min(theirs.low, y.mean() - half), abs=0.03 * width)
    assert ours.high == pytest.approx(max(theirs.high, y.mean() + half), abs=0.03 * width)
    assert ours.method == "BCa bootstrap over sequences"
    assert abs(theirs.high + theirs.low - 2 * y.mean()) > 0.03 * width, "a symmetric interval would pass as well"


def test_percentile_is_the_plain_one() -> None:
    y = np.random.default_rng(0).exponential(0.5, 25)
    plan = Plan("percentile", 2000, seed=4)
    ci = intervals([mean_only(y)], np.zeros(25), plan, ["mean_entropy"]).routers[0]["mean_entropy"]
    boot = resample_weights(np.zeros(25), 2000, 4) @ y / 25
    assert (ci.low, ci.high) == pytest.approx(tuple(np.quantile(boot, [0.025, 0.975])))
    assert ci.method == "percentile bootstrap over sequences"


def test_unequal_lengths_widen() -> None:
    rng = np.random.default_rng(1)
    y = 2 + 0.1 * rng.standard_normal(40)
    tokens = np.where(np.arange(40) < 8, 300.0, 100.0)
    # Eight sequences of three times the length carry the variance: G = (sum x^2)^2 / sum x^4 is 15.9, not 40.
    g = (8 * 9 + 32) ** 2 / (8 * 81 + 32)
    widen = scipy_stats.t.ppf(0.975, g - 1) / scipy_stats.norm.ppf(0.975) * math.sqrt(g / (g - 1))
    sums = mean_only(y, tokens)
    ci = intervals([sums], np.zeros(40), Plan(resamples=20_000), ["mean_entropy"]).routers[0]["mean_entropy"]
    boot = sums.weighted(resample_weights(np.zeros(40), 20_000, 0))
    spread = float(get_metric("mean_entropy").values(boot).std())
    assert ci.high - ci.low == pytest.approx(2 * 1.96 * widen * spread, rel=0.06)  # type: ignore[operator]


def test_one_giant_sequence_takes_the_interval() -> None:
    tokens = np.array([1e6] + [10.0] * 99)
    ci = intervals([mean_only(np.linspace(1, 3, 100), tokens)], np.zeros(100), PLAN).routers[0]
    assert {one.reason for one in ci.values() if one.low is None} >= {
        "100 sequences are so unequal in length that they count for 1.0: 10 or more are needed"
    }
    assert all(one.low is None for one in ci.values())


def test_level_orders_intervals() -> None:
    sums = clusters(20, length=30)
    wide, narrow = (intervals([sums], np.zeros(20), Plan(resamples=2000, level=x)).routers[0] for x in (0.99, 0.8))
    for name in ("mean_entropy", "top_share_token", "n_eff"):
        assert wide[name].low <= narrow[name].low <= narrow[name].high <= wide[name].high, name  # type: ignore[operator]


def test_equal_sequences_have_no_width() -> None:
    sums = pick(clusters(1), np.zeros(12, int))
    for name, ci in intervals([sums], np.zeros(12), PLAN).routers[0].items():
        if ci.low is not None:
            assert ci.high == pytest.approx(ci.low, abs=1e-7), name


# -- maxima, plug-ins, distances -----------------------------------------------------------------------------------


def test_numbers_that_are_ratios_are_known_from_the_totals() -> None:
    """What each sequence has in the error of a share is read off the totals without it, exactly."""
    sums, halves = clusters(20), random_halves(np.zeros(20), 200, 0)
    plain = ratios(sums.counts, sums.n_tokens, halves)
    for name, factor, offset in (("top_share_token", 1.0, 0.0), ("max_violation", 3.0, -1.0)):
        other = ratios_of_function(get_metric(name).function, sums, halves)
        np.testing.assert_allclose(other.value, factor * plain.value + offset)
        np.testing.assert_allclose(other.residuals, factor * plain.residuals, atol=1e-12)
        np.testing.assert_allclose(other.noise, factor * plain.noise, atol=1e-12)
        assert other.free == plain.free == pytest.approx(effective_clusters(sums.n_tokens) - 1)


def test_the_peak_is_that_of_the_busiest_router() -> None:
    routers = [clusters(30, seed) for seed in range(4)]
    found = measured(routers, np.zeros(30), PLAN, ["top_share_token"])
    peak, values = found.peak["top_share_token"], [row["top_share_token"].value for row in found.routers]
    assert peak.value == max(values)
    assert peak.interval.low <= peak.value <= peak.interval.high  # type: ignore[operator]
    assert peak.interval.candidates >= 1  # type: ignore[operator]


def test_related_maxima_have_related_bands() -> None:
    ci = intervals([clusters(20)], np.zeros(20), PLAN).routers[0]
    assert ci["top_share_token"].low == pytest.approx(2 * ci["top_share_selection"].low)  # type: ignore[operator]
    assert ci["top_load_ratio"].high == pytest.approx(6 * ci["top_share_selection"].high)  # type: ignore[operator]
    assert ci["max_violation"].low == pytest.approx(ci["top_load_ratio"].low - 1)  # type: ignore[operator]


def test_intervals_stay_in_range() -> None:
    for experts, top_k in ((4, 1), (6, 2), (4, 3)):
        sums = clusters(10, 5, experts, top_k, length=3)
        found = intervals([sums, sums], np.zeros(10), PLAN)
        for part in (*found.routers, found.mean, found.peak):
            for name, ci in part.items():
                if ci.low is not None:
                    low, high = METRICS[name].low(experts, top_k), METRICS[name].high(experts, top_k)
                    assert low - 1e-12 <= ci.low <= ci.high <= high + 1e-12, name  # type: ignore[operator]


def test_values_lie_in_their_intervals_and_functions_agree() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        counts = rng.multinomial(50, [1 / 8] * 8, size=40).astype(float)
        (row,) = measured([Sums.from_counts(counts, np.full(40, 50.0), 1)], np.zeros(40), PLAN).routers
        for name, one in row.items():
            if one.interval.low is not None:
                assert one.interval.low <= one.value <= one.interval.high, name  # type: ignore[operator]
        entropy, n_eff = row["load_entropy"], row["n_eff"]
        assert n_eff.value == pytest.approx(math.exp(entropy.value))
        assert n_eff.interval.low == pytest.approx(math.exp(entropy.interval.low))  # type: ignore[arg-type]
        assert n_eff.interval.high == pytest.approx(math.exp(entropy.interval.high))  # type: ignore[arg-type]
        assert entropy.value >= entropy.plugin, "finite samples look less even than routing is"
        assert row["gini"].value <= row["gini"].plugin


def test_a_distance_from_even_can_reach_zero() -> None:
    # Even routing: every Gini is noise. An interval that only subtracts the bias would exclude 0 in half of these.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(30):
        counts = rng.multinomial(50, [1 / 8] * 8, size=40).astype(float)
        sums = Sums.from_counts(counts, np.full(40, 50.0), 1)
        ci = intervals([sums], np.zeros(40), Plan(resamples=300), ["gini", "cv"]).routers[0]
        covered += ci["gini"].low == ci["cv"].low == 0
        assert ci["gini"].method == "random halves of the sequences"
    assert covered >= 28


# -- nulls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_fewer_than_ten_sequences_have_no_interval(method: str) -> None:
    found = intervals([clusters(9)], np.zeros(9), replace(PLAN, method=method))  # type: ignore[arg-type]
    reason = "9 sequences are too few for an interval: 10 or more are needed"
    for name in ("mean_entropy", "load_entropy", "gini", "top_share_token"):
        assert found.routers[0][name] == Interval(reason=reason), name
    assert found.mean["mean_entropy"].reason == reason
    assert found.peak["top_share_token"].reason == reason
    ten = clusters(10)
    assert "so unequal in length" in intervals([ten], np.zeros(10), PLAN).routers[0]["mean_entropy"].reason  # type: ignore[operator]
    ten = mean_only(np.linspace(1, 3, 10))
    assert intervals([ten], np.zeros(10), PLAN).routers[0]["mean_entropy"].low is not None


def test_a_null_metric_has_a_null_interval() -> None:
    one, sigmoid, counts = clusters(12, top_k=1), clusters(12, rule="sigmoid_normalised"), clusters(12)
    counts = Sums.from_counts(counts.counts, counts.n_tokens, 2)
    cases = [
        (one, "ewa"),
        (one, "margin_weight"),
        (sigmoid, "router_z"),
        (counts, "mean_entropy"),
        (counts, "top_share_top1"),
    ]
    for sums, name in cases:
        ci = intervals([sums], np.zeros(12), PLAN, [name])
        assert ci.routers[0][name] == Interval(reason="the metric is not defined here"), name
    full = clusters(12, experts=4, top_k=4)
    assert (
        intervals([full], np.zeros(12), PLAN).routers[0]["selection_margin"].reason == "the metric is not defined here"
    )


def test_metrics_without_interval_say_so() -> None:
    ci = intervals([clusters(12)], np.zeros(12), PLAN)
    for name in ("dead_experts", "dead_experts_expected", "load_entropy_bias", "dead_mass"):
        assert ci.routers[0][name] == Interval(reason="resampling sequences says nothing about this metric")
        assert name not in ci.mean


def test_null_in_many_resamples_is_null() -> None:
    # Only one of sixty sequences has two adjacent tokens: a third of the resamples do not draw it.
    mask = np.zeros((60, 2), bool)
    mask[:, 0] = mask[3, 1] = True
    r = tally(random_routing(0, (60, 2), mask=mask))
    sums = Sums(6, 2, "softmax", *(np.asarray(getattr(r, name), np.float64) for name in FIELDS))
    ci = intervals([sums], np.zeros(60), PLAN, ["adjacent_overlap"]).routers[0]["adjacent_overlap"]
    assert ci == Interval(reason="the metric is not defined in more than a tenth of the resamples")


def test_mean_over_routers_skips_nulls() -> None:
    a, b = clusters(12, 1), clusters(12, 2, rule="sigmoid_normalised")
    both, alone = intervals([a, b], np.zeros(12), PLAN, ["router_z"]), intervals([a], np.zeros(12), PLAN, ["router_z"])
    assert both.mean["router_z"] == alone.routers[0]["router_z"]


def test_mean_over_routers_is_resampled_jointly() -> None:
    y = np.random.default_rng(0).exponential(1, 30)
    up, down = mean_only(1 + 0.1 * y), mean_only(1 - 0.1 * y)
    found = intervals([up, down], np.zeros(30), PLAN, ["mean_entropy"])
    ci = found.mean["mean_entropy"]
    assert ci.high - ci.low < 1e-9  # what one router gains the other loses  # type: ignore[operator]


def test_bad_plans() -> None:
    with pytest.raises(MoebenchError, match="Unknown interval method 'bcs'"):
        Plan(method="bcs")  # type: ignore[arg-type]
    with pytest.raises(MoebenchError, match="between 0 and 1, got 95"):
        Plan(level=95)
    with pytest.raises(MoebenchError, match="99 resamples are too few"):
        Plan(resamples=99)
    with pytest.raises(MoebenchError, match=r"A level of 99\.9% takes 2,000 resamples or more, not 100\."):
        Plan(resamples=100, level=0.999)
    for level, resamples in ((0.999, 2000), (0.98, 100), (0.99, 200), (0.9999, 20_000)):
        Plan(resamples=resamples, level=level)
        with pytest.raises(MoebenchError, match=f"takes {resamples:,} resamples or more|too few"):
            Plan(resamples=resamples - 1, level=level)
    with pytest.raises(MoebenchError, match=r"Did you mean 'gini'\?"):
        intervals([clusters(12)], np.zeros(12), PLAN, ["ginni"])


# -- layers, collapse ----------------------------------------------------------------------------------------------


def test_layer_bootstrap_is_labelled() -> None:
    routers = [clusters(12, seed) for seed in range(6)]
    found = intervals(routers, np.zeros(12), Plan("layer", 1000))
    ci = found.mean["mean_entropy"]
    assert ci.method == "percentile bootstrap over layers (layers are a census, not a sample)"
    values = [float(get_metric("mean_entropy").values(s.total())) for s in routers]
    assert min(values) <= ci.low < np.mean(values) < ci.high <= max(values)  # type: ignore[operator]
    assert found.routers[0]["mean_entropy"] == Interval(reason="a layer bootstrap gives one router no interval")
    assert found.peak["top_share_token"].low is None


def test_flagged_fraction() -> None:
    def shares(value: float, error: float) -> Estimates:
        one, nothing = np.ones(1), np.zeros((200, 1))
        return Estimates(value * one, error * one, 0 * one, 1e6 * one, nothing)

    every = {name: (x, shares(x, 0.02)) for name, x in {"a": 0.30, "b": 0.42, "c": 0.50, "d": 0.90}.items()}
    value, ci = flagged_fraction(every, 0.40, 0.95)
    assert value == 0.75
    assert (ci.low, ci.high) == (0.5, 0.75)  # b could be below tau
    value, ci = flagged_fraction(every | {"e": (0.5, None)}, 0.40, 0.95)
    assert (value, ci.low) == (0.8, None)
    assert ci.reason
    assert flagged_fraction({}, 0.4, 0.95) == (None, Interval(reason="no router has a flag: K/E >= tau in all of them"))


def test_interval_as_json() -> None:
    assert Interval(1.0, 2.0, "m").to_dict() == {"low": 1.0, "high": 2.0, "method": "m"}
    assert Interval(reason="r").to_dict() == {"low": None, "high": None, "reason": "r"}
    assert Interval(1.0, 2.0, "m", bias=0.0).to_dict()["bias"] == 0.0
