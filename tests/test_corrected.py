"""Corrected values: the halves, the corrections on known biases, what agrees with what, values in their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from audit_metrics import SIMULATED, whole
from populations import sample

from mlx_moebench.routing import METRICS, Sums, get_metric
from mlx_moebench.routing.intervals.corrected import Drawn, corrected, error_parts, steps, transformed
from mlx_moebench.routing.intervals.halves import halved, quartered, random_halves, ratios, student
from mlx_moebench.routing.intervals.routers import RouterMetrics, crossing, over_routers


def simulated(kind: str = "mild", n: int = 24, experts: int = 16, top_k: int = 2, seed: int = 0) -> Sums:
    return sample(whole(experts, top_k, kind, "all", "equal"), n, np.random.default_rng(seed))


def metrics(sums: Sums, seed: int = 0, strata: np.ndarray | None = None) -> RouterMetrics:
    labels = np.zeros(len(sums.n_tokens)) if strata is None else strata
    return RouterMetrics(sums, random_halves(labels, 400, seed), names=SIMULATED)


# -- halves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 21])
def test_halves_and_quarters_make_up_the_whole(n: int) -> None:
    sums = simulated(n=n)
    halves = random_halves(np.zeros(n), 80, 0)
    assert set(np.unique(halves.weights)) <= {0.0, 1.0, 2.0}
    np.testing.assert_allclose(halves.weights.sum(axis=1), n)
    two, four, total = halved(sums, halves), quartered(sums, halves), sums.total()
    pairs, partitions = len(halves.weights), len(halves.quarters)
    np.testing.assert_allclose(two.counts[:pairs] + two.counts[pairs:], np.tile(2 * total.counts, (pairs, 1)))
    quarters = four.counts[: 3 * partitions].reshape(partitions, 3, -1).sum(axis=1) + four.counts[3 * partitions :]
    np.testing.assert_allclose(quarters, np.tile(4 * total.counts, (partitions, 1)))


def test_each_stratum_is_cut_apart() -> None:
    strata = np.array(["x"] * 6 + ["y"] * 4 + ["z"])
    weights = random_halves(strata, 60, 0).weights
    assert (weights[:, :6].sum(axis=1) == 6).all()
    assert (weights[:, 6:10].sum(axis=1) == 4).all()
    assert (weights[:, 10] == 1).all()


def test_noise_has_the_variance_of_a_ratio_of_sums() -> None:
    sums = simulated(n=30)
    of = ratios(sums.counts, sums.n_tokens, random_halves(np.zeros(30), 400, 0))
    share = sums.counts / sums.n_tokens[:, None]  # lengths are equal, so that the ratio is a mean
    np.testing.assert_allclose(of.variance, share.var(axis=0, ddof=1) / 30)
    np.testing.assert_allclose((of.noise**2).mean(axis=0), of.variance)
    assert of.leverage == pytest.approx(1 / 30)
    assert of.free == pytest.approx(29)


def test_halves_are_right_where_experts_outnumber_sequences() -> None:
    """The spread of the squared length of the error: a bootstrap of as many columns makes it 2 to 4 times too large."""
    rng = np.random.default_rng(0)
    experts, n, sets = 60, 20, 300
    draws = rng.standard_normal((sets, n, experts))
    real = ((draws.mean(axis=1)) ** 2).sum(axis=1)
    drawn = []
    for one in draws[:60]:
        noise = ratios(one + 5, np.ones(n), random_halves(np.zeros(n), 400, 0)).noise
        drawn.append((noise**2).sum(axis=1).std())
    assert 0.7 < np.mean(drawn) / real.std() < 1.4


def test_student_is_scipys() -> None:
    from scipy import stats as scipy_stats

    assert float(student(12.0, scipy_stats.norm.ppf(0.975))) == pytest.approx(scipy_stats.t.ppf(0.975, 12))


# -- corrections ---------------------------------------------------------------------------------------------------


def test_steps_remove_known_biases() -> None:
    def at(n: float, *terms: tuple[float, float]) -> float:
        return 3.0 + sum(a * n**-power for a, power in terms)

    n = 40.0
    for terms, which in ((((5.0, 1),), 0), (((5.0, 1), (20.0, 2)), 1), (((2.0, 0.5),), 2), (((2.0, 0.8),), 2)):
        values = steps(np.asarray(at(n, *terms)), at(n / 2, *terms), at(n / 4, *terms))
        assert float(values[which]) == pytest.approx(3.0, abs=1e-9), terms


def test_the_square_of_the_distance_from_even_loses_its_noise() -> None:
    """E sum (f - u)^2 is that of the truth plus the variances of the loads: the correction subtracts them."""
    values = []
    for seed in range(300):
        drawn = simulated("mild", 20, seed=seed)
        r = metrics(drawn, seed)
        square = r.values["load_gap"].map(lambda x: x * x)
        of = ratios(drawn.counts / 2, drawn.n_tokens, random_halves(np.zeros(20), 100, seed))
        first, second, _ = steps(np.asarray(square.whole), square.halves.mean(), square.quarters.mean())
        assert first == pytest.approx(square.whole - of.variance.sum(), abs=0.1 * of.variance.sum())
        values.append(float(second))
    truth = float(get_metric("load_gap").values(whole(16, 2, "mild", "all", "equal").total())) ** 2
    assert abs(np.mean(values) - truth) < 3 * np.std(values) / math.sqrt(300)


def test_entropies_are_corrected_upwards_and_information_downwards() -> None:
    for seed in range(10):
        shown = metrics(simulated(n=20, seed=seed)).metrics()
        for name in ("load_entropy", "marginal_entropy", "token_information"):
            assert shown[name].value >= shown[name].plugin, name
            assert shown[name].interval.bias == pytest.approx(shown[name].plugin - shown[name].value)
        for name in ("gini", "cv", "load_gap", "probability_gap"):
            assert shown[name].value <= shown[name].plugin, name


@pytest.mark.parametrize("kind", ["even", "mild", "steep", "leader"])
@pytest.mark.parametrize("experts", [8, 64])
def test_no_value_lies_outside_its_interval_or_range(kind: str, experts: int) -> None:
    for seed, n in ((0, 10), (1, 11), (2, 20), (3, 43)):
        drawn = simulated(kind, n, experts, seed=seed)
        for name, one in metrics(drawn, seed).metrics().items():
            m, (low, high) = METRICS[name], (one.interval.low, one.interval.high)
            assert low is not None, name
            assert high is not None, name
            assert low <= one.value <= high, name
            assert m.low(experts, 2) - 1e-12 <= low, name
            assert high <= m.high(experts, 2) + 1e-12, name
            assert one.plugin == pytest.approx(float(m.values(drawn.total()))), name


@pytest.mark.parametrize("kind", ["even", "steep"])
def test_functions_of_each_other_agree(kind: str) -> None:
    drawn = simulated(kind, 20)
    shown = metrics(drawn).metrics()

    def three(name: str) -> tuple[float, float, float]:
        one = shown[name]
        assert one.interval.low is not None
        assert one.interval.high is not None
        return one.interval.low, one.value, one.interval.high

    for h, n, share in zip(three("load_entropy"), three("n_eff"), three("eae"), strict=True):
        assert n == pytest.approx(math.exp(h))
        assert share == pytest.approx(h / math.log(16))
    for gap, cv in zip(three("load_gap"), three("cv"), strict=True):
        assert cv == pytest.approx(gap * 4)
    for balance, gap in zip(three("switch_balance"), three("switch_gap"), strict=True):
        assert gap == pytest.approx((balance - 1) / 16)
    mean = float(get_metric("mean_entropy").values(drawn.total()))
    assert mean + shown["token_information"].value == pytest.approx(shown["marginal_entropy"].value)


def test_sequences_that_agree_leave_no_width() -> None:
    drawn = simulated(n=12)
    same = drawn.take([0] * 12)
    for name, one in metrics(same).metrics().items():
        assert one.interval.low == one.interval.high == pytest.approx(one.value), name
        assert one.value == pytest.approx(one.plugin, rel=1e-9), name


def test_n90_is_a_whole_number_with_whole_ends() -> None:
    for seed in range(10):
        one = metrics(simulated("steep", 20, 64, seed=seed)).metric("n90")
        assert {float(x).is_integer() for x in (one.value, one.interval.low, one.interval.high)} == {True}  # type: ignore[arg-type]


def test_n90_is_the_next_whole_number_above_the_crossing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts = rng.integers(0, 9, 12) + np.eye(12)[0]
        sums = Sums.from_counts(counts, counts.sum() / 2, 2)
        assert math.ceil(float(crossing(sums.load)) - 1e-9) == float(get_metric("n90").values(sums))


def test_numbers_without_probabilities_are_null_with_a_reason() -> None:
    drawn = simulated(n=20)
    sums = Sums.from_counts(drawn.counts, drawn.n_tokens, 2)
    shown = metrics(sums).metrics()
    assert shown["load_entropy"].interval.low is not None
    for name in ("marginal_entropy", "token_information", "switch_balance"):
        assert math.isnan(shown[name].value), name
        assert shown[name].interval.low is None, name
        assert shown[name].interval.reason, name


def test_means_over_routers_are_those_of_what_is_shown() -> None:
    routers = [metrics(simulated(kind, 20)) for kind in ("mild", "steep", "leader")]
    for name in SIMULATED:
        mean = over_routers(routers, name)
        assert mean is not None
        assert mean.value == pytest.approx(np.mean([r.metric(name).value for r in routers])), name
        assert mean.interval.low is not None
        assert mean.interval.high is not None
        assert mean.interval.low <= mean.value <= mean.interval.high, name


def test_a_router_without_a_metric_is_left_out_of_the_mean() -> None:
    drawn = simulated(n=20)
    without = Sums.from_counts(drawn.counts, drawn.n_tokens, 2)
    alone = over_routers([metrics(drawn)], "marginal_entropy")
    assert over_routers([metrics(drawn), metrics(without)], "marginal_entropy") == alone
    assert over_routers([metrics(without)], "marginal_entropy") is None


def test_the_order_of_sequences_does_not_matter_for_the_parts_of_an_error() -> None:
    drawn = simulated(n=20)
    left_out = get_metric("mean_entropy").values(drawn.leave_one_out())
    parts = error_parts(left_out, [np.arange(20)])
    per_token = drawn.scalars[:, 0] / drawn.n_tokens
    assert (parts**2).sum() == pytest.approx(per_token.var(ddof=1) / 20)


def test_strata_have_errors_of_their_own() -> None:
    """Two domains that differ and whose texts agree among themselves: nothing is uncertain."""
    first, second = simulated("mild", 10).take([0] * 10), simulated("leader", 10).take([0] * 10)
    from populations import joined

    sums, labels = joined([first, second])
    apart, pooled = metrics(sums, strata=labels).metrics(), metrics(sums).metrics()
    for name in ("load_entropy", "gini"):
        assert apart[name].interval.low == apart[name].interval.high, name
        assert pooled[name].interval.low < pooled[name].interval.high, name  # type: ignore[operator]


def test_ends_are_clipped_and_transformed() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(400)
    one = corrected(Drawn(0.1, 0.1 + np.r_[noise, -noise], np.full(8, 0.1)), 20, 0.95, (0.0, 1.0))
    assert (one.value, one.interval.low, one.interval.high) == (pytest.approx(0.1), 0.0, 1.0)
    doubled = transformed(one, lambda x: 2 * x)
    assert (doubled.value, doubled.interval.high) == (pytest.approx(0.2), 2.0)
    null = corrected(Drawn(0.1, np.array([math.nan]), np.array([0.1])), 20, 0.95, (0.0, 1.0))
    assert null.interval.low is None
