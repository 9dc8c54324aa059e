"""What lies between domains: formulas by hand, the null, intervals against loops, and what is null and why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from domain_simulation import TAU, shares_of, simulate
from scipy import stats as scipy_stats
from scipy.spatial.distance import jensenshannon

from mlx_moebench.errors import MoebenchError
from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.domains.information import (
    domain_information,
    domain_information_bias,
    domain_information_null,
    informations,
    jensen_shannon,
)
from mlx_moebench.routing.domains.statistics import DomainStatistics, domain_statistics
from mlx_moebench.routing.sums import entropy

PLAN = Plan(resamples=300)
LN2 = math.log(2)


def example(sequences: int = 20, seed: int = 0, effect: float = 0.15) -> tuple[Sums, np.ndarray]:
    return simulate(shares_of("specialised", effect), sequences, np.random.default_rng(seed))


def statistics(sums: Sums, labels: np.ndarray, plan: Plan = PLAN) -> DomainStatistics:
    (found,) = domain_statistics([sums], labels, plan, permutations=99)
    return found


# -- values --------------------------------------------------------------------------------------------------------


def test_jensen_shannon_agrees_with_scipy() -> None:
    counts = np.random.default_rng(0).multinomial(500, np.full(6, 1 / 6), size=(2, 3))
    got = jensen_shannon(counts)
    assert got.shape == (2, 3, 3)
    for which in range(2):
        for d in range(3):
            for e in range(3):
                want = jensenshannon(counts[which, d], counts[which, e]) ** 2  # theirs is the root
                assert got[which, d, e] == pytest.approx(want, abs=1e-12)


def test_information_of_two_domains_is_their_divergence() -> None:
    counts = np.array([[40, 0, 10], [1, 2, 3]])
    assert float(domain_information(counts)) == pytest.approx(float(jensen_shannon(counts)[0, 1]))
    assert float(domain_information([[5, 0], [0, 90]])) == pytest.approx(LN2)


def test_bias_is_what_independent_selections_give() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(8, 5.0))
    counts = np.stack([rng.multinomial(n, p, size=4000) for n in (300, 600, 1500)], axis=1)
    mean = float(domain_information(counts).mean())
    assert float(domain_information_bias(counts).mean()) == pytest.approx(mean, rel=0.05)


def test_domains_of_other_size_count_the_same() -> None:
    sums, labels = example()
    more = sums.counts * np.where(labels == 0, 9, 1)[:, None]
    bigger = Sums.from_counts(more, more.sum(axis=1) / 2, 2)
    a, b = statistics(sums, labels), statistics(bigger, labels)
    np.testing.assert_allclose(a.shares, b.shares)
    assert a.mi.value == pytest.approx(b.mi.value)
    assert a.mixture.value == pytest.approx(b.mixture.value)


def test_values_by_hand() -> None:
    # Two domains, each with one expert of its own, and two that both use: a = .5, b = 1, and every expert as often.
    counts = np.array([[100, 0, 50, 50], [0, 10, 5, 5]])
    found = statistics(Sums.from_counts(counts, [100, 10], 2), np.array(["x", "y"]))
    assert (found.inescapable.value, found.busiest.value, found.mixture.value) == (0.5, 1.0, pytest.approx(1.0))
    assert found.even == 0.5
    assert found.domains == ("x", "y")
    assert (found.tokens, found.sequences) == ((100, 10), (1, 1))
    want = math.log(4) - float(entropy([0.5, 0.25, 0.25]))
    assert found.mi.value == pytest.approx(want)
    assert found.information.relative == pytest.approx(want / LN2)
    assert found.information.nmi == pytest.approx(want / math.sqrt(LN2 * math.log(4)))
    assert found.divergence["x", "y"].value == pytest.approx(want)


# -- the null ------------------------------------------------------------------------------------------------------


def test_null_equals_permuting_one_at_a_time() -> None:
    sums, labels = example()
    rng = np.random.default_rng(5)
    names = np.unique(labels)
    null = []
    for _ in range(60):
        shuffled = labels[rng.permutation(len(labels))]
        null.append(float(domain_information([sums.counts[shuffled == d].sum(axis=0) for d in names])))
    found = domain_information_null(sums.counts, labels, permutations=60, seed=5)
    assert found.null_mean == pytest.approx(np.mean(null))
    assert found.null_high == pytest.approx(np.quantile(null, 0.95))
    assert found.p_value == pytest.approx((1 + sum(x >= found.mi for x in null)) / 61)


def test_routers_share_the_permutations_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    one, labels = example(seed=1)
    other, _ = example(seed=2)
    together = informations([one.counts, other.counts], labels, 50, seed=3)
    monkeypatch.setattr("mlx_moebench.routing.domains.information.LABEL_CELLS", 400)
    assert together == [domain_information_null(s.counts, labels, 50, seed=3) for s in (one, other)]


def test_an_effect_is_seen_and_none_is_not() -> None:
    sums, labels = example()
    assert domain_information_null(sums.counts, labels, 199).p_value == 1 / 200
    nothing = [
        domain_information_null(sums.counts, np.random.default_rng(s).permutation(labels), 199).p_value
        for s in range(20)
    ]
    assert sum(p <= 0.05 for p in nothing) <= 4
    assert np.mean(nothing) == pytest.approx(0.5, abs=0.2)


def test_equal_sequences_are_no_evidence() -> None:
    counts = np.tile([6, 2, 4], (24, 1))
    found = domain_information_null(counts, np.repeat([0, 1], 12), 99)
    assert found.mi == pytest.approx(0, abs=1e-12)
    assert found.p_value == 1


def test_a_permutation_that_empties_a_domain_is_no_evidence() -> None:
    counts = np.zeros((24, 4))
    counts[0], counts[12] = (8, 0, 0, 0), (0, 8, 0, 0)  # the only two sequences with tokens
    found = domain_information_null(counts, np.repeat([0, 1], 12), 199)
    assert found.mi == pytest.approx(LN2)
    assert found.p_value == 1


# -- intervals -----------------------------------------------------------------------------------------------------


def test_band_and_intervals_against_a_loop() -> None:
    """Resamples drawn sequence by sequence, with the widening written out."""
    sums, labels = example()
    found = statistics(sums, labels, Plan(resamples=120, seed=4))
    load = np.stack([sums.counts[labels == d].sum(axis=0) for d in range(3)]).astype(float)
    load /= load.sum(axis=1, keepdims=True)
    widen = np.array([widening(sums.n_tokens[labels == d], 1) for d in range(3)])
    draws = [np.random.default_rng([4, d]).multinomial(20, np.full(20, 1 / 20), size=120) for d in range(3)]
    deviation, mixture, mi = [], [], []
    for b in range(120):
        star = np.stack([draws[d][b] @ sums.counts[labels == d] for d in range(3)])
        star /= star.sum(axis=1, keepdims=True)
        deviation.append((np.abs(star - load).max(axis=1) * 2 * widen).max())
        mixture.append(np.exp(entropy(star.mean(axis=0))) / 16)
        mi.append(entropy(star.mean(axis=0)) - entropy(star).mean())
    assert found.band == pytest.approx(np.quantile(deviation, 0.975))
    assert found.busiest.interval.low == pytest.approx(found.busiest.value - found.band)
    assert found.inescapable.interval.high == pytest.approx(found.inescapable.value + found.band)
    weight = sums.n_tokens / np.bincount(labels, sums.n_tokens)[labels]
    w = widening(weight * sums.n_tokens.sum(), 3)
    for estimate, boot in ((found.mixture, mixture), (found.mi, mi)):
        centre, (low, high) = np.mean(boot), np.quantile(boot, [0.025, 0.975])
        assert estimate.interval.low == pytest.approx(2 * estimate.value - centre - w * (high - centre))
        assert estimate.interval.high == pytest.approx(2 * estimate.value - centre + w * (centre - low))
        assert estimate.interval.bias == pytest.approx(centre - estimate.value)


def widening(tokens: np.ndarray, strata: int) -> float:
    g = float((tokens**2).sum() ** 2 / (tokens**4).sum())
    t = scipy_stats.t.ppf(0.975, g - strata) / scipy_stats.norm.ppf(0.975)
    return float(t * math.sqrt(g / (g - strata)))


def test_resamples_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sums, labels = example()
    whole = statistics(sums, labels, Plan(resamples=200))
    monkeypatch.setattr("mlx_moebench.routing.intervals.bootstrap.BLOCK_CELLS", 64)
    parts = statistics(sums, labels, Plan(resamples=200))
    assert parts.band == pytest.approx(whole.band, rel=1e-12)
    assert parts.mi.interval.low == pytest.approx(whole.mi.interval.low, rel=1e-9)


def test_small_domains_widen_the_band() -> None:
    sums, labels = example(40)
    few = (labels > 0) | (np.arange(len(labels)) < 10)
    part = replace(sums, **{name: getattr(sums, name)[few] for name in ("n_tokens", "counts", "top1_counts")})
    part = replace(part, p_sum=sums.p_sum[few], scalars=sums.scalars[few])
    assert statistics(part, labels[few]).band > 1.3 * statistics(sums, labels).band


def test_intervals_stay_in_range() -> None:
    found = statistics(*example(10, effect=0.55))
    for estimate, limits in (
        (found.inescapable, (0, 1)),
        (found.busiest, (found.even, 1)),
        (found.mixture, (found.even, 1)),
        (found.mi, (0, math.log(3))),
        *((x, (0, LN2)) for x in found.divergence.values()),
    ):
        low, high = estimate.interval.low, estimate.interval.high
        assert low is not None
        assert high is not None
        assert limits[0] <= low <= high <= limits[1]


def test_seed_decides() -> None:
    sums, labels = example()
    first, again, other = (statistics(sums, labels, replace(PLAN, seed=s)) for s in (1, 1, 2))
    assert first.band == again.band != other.band


# -- nulls ---------------------------------------------------------------------------------------------------------


def test_a_domain_of_few_sequences_has_values_but_no_intervals() -> None:
    sums, labels = example(9)
    found = statistics(sums, labels)
    reason = "9 sequences of 0: 10 or more of each domain are needed for an interval"
    for estimate in (found.inescapable, found.busiest, found.mixture, found.mi, *found.divergence.values()):
        assert estimate.value > 0
        assert (estimate.interval.low, estimate.interval.reason) == (None, reason)
    assert math.isnan(found.band)
    assert math.isnan(found.information.p_value)


def test_a_domain_without_tokens_is_null() -> None:
    sums, labels = example(12)
    counts = sums.counts * (labels != 1)[:, None]
    found = statistics(Sums.from_counts(counts, counts.sum(axis=1) / 2, 2), labels)
    for estimate in (found.inescapable, found.busiest, found.mixture, found.mi):
        assert math.isnan(estimate.value)
        assert estimate.interval.low is None
        assert estimate.interval.reason
    assert math.isnan(found.information.p_value), "nothing was tested"
    assert found.divergence["0", "2"].value > 0
    assert found.tokens[1] == 0


def test_one_domain_is_refused() -> None:
    sums, labels = example(10)
    with pytest.raises(MoebenchError, match="two or more are needed, got 1"):
        domain_statistics([sums], np.zeros(len(labels)), PLAN)


def test_the_simulation_has_the_shares_it_says() -> None:
    shares = shares_of("specialised", 0.1)
    assert shares[0].max() == pytest.approx(TAU + 0.1)
    sums, labels = simulate(shares, 4000, np.random.default_rng(0))
    assert (sums.counts.sum(axis=1) == 2 * sums.n_tokens).all()
    assert (sums.counts.max(axis=1) <= sums.n_tokens).all()
    for d in range(3):
        mean = (sums.counts[labels == d] / sums.n_tokens[labels == d, None]).mean(axis=0)
        np.testing.assert_allclose(mean, shares[d], atol=0.01)
