"""Findings and word: routers that a rule may get wrong, both sides of every threshold, ties, and too few texts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from audit_cells import PARTS
from audit_domains import estimates_of
from audit_findings import SCENARIOS, found
from audit_metrics import whole
from populations import (
    Domain,
    all_but_one,
    always_on,
    dead,
    draw,
    hardly_different,
    joined,
    one_busier,
    own_experts,
    route,
    sample,
)

from mlx_moebench.errors import MoebenchError
from mlx_moebench.options import Thresholds
from mlx_moebench.pair.report import answers as report_answers
from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.domains.estimates import DomainEstimates, domain_estimates, domain_point
from mlx_moebench.routing.domains.findings import (
    NAMES,
    WORDS,
    Finding,
    Findings,
    Part,
    count_words,
    findings,
)
from mlx_moebench.routing.domains.shares import contrast, dominance, idleness
from mlx_moebench.routing.intervals.bands import Estimates, maximum, share_bands
from mlx_moebench.routing.intervals.bootstrap import Interval
from mlx_moebench.routing.intervals.halves import random_halves, ratios
from mlx_moebench.routing.intervals.routers import RouterMetrics
from mlx_moebench.routing.sums import FIELDS, entropy
from mlx_moebench.routing.tally import SCALARS


def estimate(
    shares: np.ndarray, top_k: int, n: int = 30, tokens: float = 64, alike: float = math.inf
) -> DomainEstimates:
    rng = np.random.default_rng(0)
    return estimates_of(*route([Domain(n, tokens, alike, 0.2)] * len(shares), shares, top_k, rng), 0)


def answers(of: Findings) -> dict[str, str]:
    return {name: one.answer for name, one in of.findings.items()}


# -- routers that a rule may get wrong -----------------------------------------------------------------------------

ATTACKS: dict[str, tuple[tuple[np.ndarray, int], str, dict[str, str]]] = {
    "two domains with 8 of 64 experts each": (own_experts(), "specialised", {"collapsed": "no", "idle": "yes"}),
    "five domains with 8 of 64 experts each": (own_experts(5), "specialised", {"collapsed": "no"}),
    "124 of 256 experts dead": (dead(), "idle", {"collapsed": "no", "specialised": "no"}),
    "140 of 256 experts dead": (dead(116), "collapsed", {"idle": "yes", "dominated": "no"}),
    "one expert of 64 in every token": (always_on(), "dominated", {"collapsed": "no", "specialised": "no"}),
    "one expert of 64 in every token, top-2": (always_on(top_k=2), "collapsed", {"dominated": "yes"}),
    "1.12 times the even share": (one_busier(), "balanced", dict.fromkeys(NAMES, "no")),
    "one expert takes 9 of 10 domains": (all_but_one(), "collapsed", {"dominated": "yes", "specialised": "yes"}),
    "one expert takes 9 of 10 domains, 8 experts": (all_but_one(experts=8), "collapsed", {"dominated": "yes"}),
    "information of 0.0002 nats": (hardly_different(), "balanced", {"specialised": "no"}),
    "even": (one_busier(0.25, 16, 4), "balanced", dict.fromkeys(NAMES, "no")),
}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("alike", [math.inf, 300.0])
def test_routers_that_a_rule_may_get_wrong(name: str, alike: float) -> None:
    (shares, top_k), word, some = ATTACKS[name]
    one = findings(estimate(shares, top_k, 40, 128, alike))
    assert one.word == word
    assert answers(one).items() >= some.items()


def test_hardly_different_domains_have_the_information_they_should() -> None:
    shares, top_k = hardly_different()
    load = shares / top_k
    assert float(entropy(load.mean(axis=0)) - entropy(load).mean()) == pytest.approx(0.0002, rel=0.01)
    many = findings(estimate(shares, top_k, 400, 1500))
    assert many["specialised"].parts[2].answer == "yes", "with enough texts the domains are known to differ"
    assert many["specialised"].answer == "no"


def test_experts_and_their_domains_are_named() -> None:
    on = findings(estimate(*always_on()))["dominated"]
    assert on.experts == ((0, ("d0", "d1", "d2")),)
    own = findings(estimate(*own_experts()))
    assert own["specialised"].experts == tuple((i, ("d0",) if i < 8 else ("d1",)) for i in range(16))
    assert {expert for expert, _ in own["idle"].experts} == set(range(16, 64))
    assert findings(estimate(*one_busier()))["dominated"].experts == ()


@pytest.mark.parametrize("n", [1, 3, 5, 9])
def test_too_few_texts_give_no_word(n: int) -> None:
    for kind in ("mild", "steep"):
        of = whole(16, 2, kind, "all", "equal")
        rng = np.random.default_rng(n)
        one = findings(estimates_of(*joined([sample(of, n, rng) for _ in range(3)]), 0))
        assert one.word == "open"
        assert set(answers(one).values()) == {"open"}
        reason = one["collapsed"].reason
        assert reason is not None
        assert reason.startswith(f"{n} sequence")
        assert one["collapsed"].sequences is None


@pytest.mark.parametrize("n", [10, 20, 40])
def test_thirds_of_one_data_set_are_not_specialised(n: int) -> None:
    of = whole(16, 2, "steep", "all", "equal")
    for seed in range(30):
        rng = np.random.default_rng([n, seed])
        one = findings(estimates_of(*joined([sample(of, n, rng) for _ in range(3)]), seed))
        assert one["specialised"].answer != "yes"
        assert one.word != "specialised"


def test_one_long_text_takes_the_answers() -> None:
    shares, top_k = always_on()
    rng = np.random.default_rng(0)
    sums, labels = route([Domain(20), Domain(20)], shares[:2], top_k, rng)
    first = np.flatnonzero(labels == "d0")[0]
    for name in ("counts", "n_tokens"):
        getattr(sums, name)[first] *= 200
    one = findings(estimates_of(sums, labels, 0))
    assert one.word == "open"
    reason = one["dominated"].reason
    assert reason is not None
    assert "so unequal in length that they count for 1.0" in reason


def test_few_selections_do_not_make_experts_idle() -> None:
    """Half of 256 even experts get no selection of 12 short texts: nothing is known of them."""
    rng = np.random.default_rng(0)
    sums, labels = draw([Domain(12, 8)] * 2, np.full(256, 1 / 256), 1, rng)
    part = findings(estimates_of(sums, labels, 0))["idle"].parts[0]
    assert part.value > 0.3
    assert part.answer == "open"


# -- both sides of every threshold ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_far_from_a_threshold_the_answer_is_right(name: str) -> None:
    scenario, beyond = SCENARIOS[name], 0.09 if name != "specialised by s" else 0.045
    for seed in range(5):
        assert found(scenario, beyond, seed)[scenario.finding].answer == "yes", name
        assert found(scenario, -beyond, seed)[scenario.finding].answer == "no", name


@pytest.mark.parametrize(
    "name", sorted(SCENARIOS.keys() - {"idle"})
)  # a number of experts that is at its threshold is on a side
def test_at_a_threshold_the_answer_is_open(name: str) -> None:
    scenario = SCENARIOS[name]
    given = [found(scenario, 0.0, seed)[scenario.finding].answer for seed in range(10)]
    assert given.count("open") >= 7


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("multiple", ["+0.25", "+1.25", "+2", "-0.25", "-1.25", "-2"])
def test_answers_are_hardly_ever_wrong(name: str, multiple: str) -> None:
    measured = dict(PARTS["findings"]())[f"{name}, {multiple}"](200, 1)
    assert measured["wrong"] <= 0.025 + 0.022  # two standard errors of 200 sets
    if multiple in ("+2", "-2"):
        assert measured["right"] >= 0.85


def test_sides_of_a_number() -> None:
    def answer(low: float, high: float, side: Any) -> str:
        return Part("x", (low + high) / 2, Interval(low, high), 0.5, side).answer

    assert [answer(*ends, "below") for ends in ((0.1, 0.4), (0.4, 0.5), (0.5, 0.6))] == ["yes", "open", "no"]
    assert [answer(*ends, "above") for ends in ((0.1, 0.5), (0.4, 0.6), (0.51, 0.6))] == ["no", "open", "yes"]
    assert [answer(*ends, "from") for ends in ((0.1, 0.4), (0.4, 0.6), (0.5, 0.6))] == ["no", "open", "yes"]
    assert Part("x", 0.1, Interval(reason="few"), 0.5, "below").answer == "open"


def test_half_of_the_experts_in_use_is_not_collapsed() -> None:
    assert findings(estimate(*dead(128)))["collapsed"].answer in ("no", "open")
    shares = np.zeros((2, 8))
    shares[:, :4] = 0.25
    same = np.tile([4.0, 4.0, 4.0, 4.0, 0, 0, 0, 0], (24, 1))
    one = findings(estimates_of(Sums.from_counts(same, np.full(24, 16.0), 1), np.repeat(["x", "y"], 12), 0))
    assert one["collapsed"].answer == "no", "exactly one half, without any noise"


def test_thresholds_are_options() -> None:
    e = estimate(*one_busier(0.65, 8, 2))
    assert findings(e)["dominated"].answer == "yes"
    assert findings(e, thresholds=Thresholds(odds=8))["dominated"].answer == "no"
    assert findings(estimate(*dead(200)), thresholds=Thresholds(used=0.9))["collapsed"].answer == "yes"


def test_an_expert_of_every_token_where_all_are_chosen_dominates_nothing() -> None:
    sums = Sums.from_counts(np.full((24, 4), 10.0), np.full(24, 10.0), 4)
    one = findings(estimates_of(sums, np.repeat(["x", "y"], 12), 0))
    assert one["dominated"].answer == "no"
    assert one.word == "balanced"


# -- ties ----------------------------------------------------------------------------------------------------------


def test_a_router_of_zeros_has_no_word() -> None:
    """Every score ties, and the first experts take everything, whatever the text."""
    shares = np.zeros((3, 64))
    shares[:, :8] = 1.0
    e = estimate(shares, 8)
    assert findings(e).word == "collapsed"
    tied = findings(e, tied=[0.3, 1.0, 0.0])
    assert tied.word == "open"
    assert set(answers(tied).values()) == {"open"}
    assert tied["collapsed"].reason == (
        "scores tie in 100% of the tokens of d1, where the order of the experts decides"
    )


@pytest.mark.parametrize(("tied", "answer"), [(0.0, "yes"), (0.05, "yes"), (0.45, "open")])
def test_an_expert_dominates_only_without_the_tied_tokens(tied: float, answer: str) -> None:
    shares, top_k = one_busier(0.8, 16, 2)
    assert findings(estimate(shares, top_k), [0.0, 0.0, tied][-len(shares) :])["dominated"].answer == answer


def test_idle_experts_that_ties_could_have_served_are_open() -> None:
    shares, top_k = dead(100, 128, 8)
    e = estimate(shares, top_k, 40, 128)
    domains = len(e.names)
    for share, answer in ((0.01, "yes"), (0.02, "open"), (0.3, "open")):
        assert findings(e, [share] * domains)["idle"].answer == answer
    of_one = [0.0] * (domains - 1)
    for share, answer in ((0.01, "yes"), (0.02, "open")):
        assert findings(e, [share * domains, *of_one])["idle"].answer == answer, "all of it in one domain"
    assert findings(e, [0.3] * domains)["specialised"].answer == "no", "ties do not tell domains apart"


def test_collapse_stands_where_ties_are_few() -> None:
    e = estimate(*dead(48, 128, 8))
    domains = len(e.names)
    assert findings(e, [0.02] * domains)["collapsed"].answer == "yes"
    assert findings(e, [0.49] * domains)["collapsed"].answer == "open", "the tied tokens may have used all the others"
    near = estimate(*dead(60, 128, 1), 60, 200)
    assert findings(near)["collapsed"].answer == "yes"
    assert findings(near, [0.3] * len(near.names))["collapsed"].answer == "open"


@pytest.mark.parametrize("sizes", [(12, 12, 300), (12, 300)])
def test_a_small_domain_that_ties_leaves_every_finding_open(sizes: tuple[int, ...]) -> None:
    """Of all tokens 4 to 7% tie; but a domain counts 1/D, whatever its size."""
    shares = np.full((len(sizes), 64), 8 / 64)
    shares[:-1] = np.arange(64) < 8
    sums, labels = route([Domain(n) for n in sizes], shares, 8, np.random.default_rng(1))
    alone = findings(estimates_of(sums, labels, 0))
    assert alone["specialised"].answer == "yes"
    (one,) = answered([with_ties(sums, np.where(labels == f"d{len(sizes) - 1}", 0, sums.n_tokens))], labels)
    assert one.word == "open"
    assert set(answers(one).values()) == {"open"}
    assert one["specialised"].reason == "scores tie in 100% of the tokens of d0, where the order of the experts decides"


def with_ties(sums: Sums, tied: np.ndarray) -> Sums:
    scalars = sums.scalars.copy()
    scalars[:, SCALARS.index("tied")] = tied
    return replace(sums, scalars=scalars)


def answered(routers: list[Sums], labels: np.ndarray) -> list[Findings]:
    return report_answers(domain_estimates(routers, labels, PLAN), routers, labels.tolist(), PLAN)


PLAN = Plan(resamples=200)


@pytest.mark.parametrize(("experts", "top_k"), [(64, 8), (16, 4), (128, 8)])
def test_tokens_whose_scores_are_all_equal_may_have_gone_anywhere(experts: int, top_k: int) -> None:
    """They take the first K experts. Nothing is found that the same router, with its ties broken at random, denies."""
    for tied in (0.1, 0.3, 0.45):
        for active in range(experts // 2, int(0.9 * experts), experts // 8):
            untied = (np.arange(experts) < active) * (1 - tied) * top_k / active
            first, anywhere = untied + tied * (np.arange(experts) < top_k), untied + tied * top_k / experts
            both = []
            for shares, share in ((first, tied), (anywhere, 0.0)):
                rng = np.random.default_rng(1)
                sums, labels = route([Domain(30, 64, math.inf, 0)] * 2, np.stack([shares] * 2), top_k, rng)
                both += answered([with_ties(sums, share * sums.n_tokens)], labels)
            for name in NAMES:
                assert (both[0][name].answer, both[1][name].answer) != ("yes", "no"), (tied, active)


def test_domains_stay_apart_where_ties_are_few() -> None:
    apart = estimate(*own_experts(2, 64, 8))
    for tied, answer in (([0.1, 0.1], "yes"), ([0.0, 0.4], "open")):
        assert findings(apart, tied)["specialised"].answer == answer
    # 0.4 of the tokens against 1/16, of which four times the odds are 0.21: the excess is 0.19.
    shares = np.full((2, 16), 1 / 16)
    shares[0] = [0.4, *[0.6 / 15] * 15]
    one = estimate(shares, 1, 40, 400)
    excess = one_part(findings(one)["specialised"], "excess").interval.low
    assert excess is not None
    assert 0.15 < excess < 0.25
    for tied, answer in ((0.02, "yes"), (0.06, "open")):
        assert findings(one, [0.0, tied], Thresholds(least_specialisation=0.9))["specialised"].answer == answer


def one_part(finding: Finding, name: str) -> Part:
    return next(part for part in finding.parts if part.name == name)


def test_a_router_that_differs_as_a_whole_stays_apart() -> None:
    """By s: with such odds any tie elsewhere could undo the excess of an expert."""
    e = estimate(*own_experts(2, 16, 2), 40, 200)
    strict = Thresholds(odds=1e9, idle_load=0.9)
    assert findings(e, [0.01, 0.0], strict)["specialised"].answer == "yes"
    assert findings(e, [0.2, 0.0], strict)["specialised"].answer == "open"


@pytest.mark.parametrize("seed", range(20))
def test_ties_move_no_number_further_than_allowed_for(seed: int) -> None:
    """Excess and information of loads, before and after a share of the tokens of each domain goes elsewhere."""
    rng = np.random.default_rng(seed)
    domains, experts, tied = int(rng.integers(2, 5)), int(rng.integers(2, 20)), float(rng.uniform(0, 0.4))
    before = rng.dirichlet(np.full(experts, rng.choice([0.05, 1.0])), domains)
    moved = before.copy()
    for row in moved:
        row *= 1 - tied
        row[rng.integers(experts)] += tied
    both = [domain_point(x * 1e6, 1, [f"d{d}" for d in range(domains)], "none") for x in (before, moved)]
    first, second = (contrast(e, 4.0, 0.1)[0] for e in both)
    assert first - second <= tied + 4 * tied / (1 + 3 * tied) + 1e-5
    part = min(tied, 1 - 1 / experts)
    bound = 2 * (part * math.log(experts) + float(entropy([part, 1 - part])))
    assert abs(both[0].information.value - both[1].information.value) <= bound + 1e-5


# -- what the numbers are ------------------------------------------------------------------------------------------


def test_what_is_uneven_splits_into_what_domains_share_and_what_they_tell() -> None:
    e = estimate(*own_experts(3), 20)
    load = e.shares / e.top_k
    uneven = math.log(64) - float(entropy(load).mean())
    assert uneven == pytest.approx(math.log(64) - math.log(64 * e.used.plugin) + e.information.plugin)
    assert e.specialisation.value == pytest.approx(1.0)


def test_dominance_by_hand() -> None:
    shares = np.array([[0.9, 0.2, 0.9], [0.8, 0.7, 0.5], [0.1, 0.9, 1.0]])
    e = domain_point(shares * 1000, 2, ["x", "y", "z"], "no sequences")
    value, interval, expert = dominance(e)
    assert (expert, interval.low, interval.reason) == (2, None, "no sequences")  # medians .8, .7, .9
    assert value == pytest.approx(0.9)


def test_idle_experts_by_hand() -> None:
    counts = np.array([[500, 480, 9, 11], [500, 490, 0, 10]])
    value, interval = idleness(domain_point(counts, 1, ["x", "y"], "none"), 0.1)
    assert (value, interval.low) == (0.5, None)  # loads .0045 and .0105, below .025


def test_a_domains_own_expert_by_hand() -> None:
    shares = np.array([[0.5, 0.25, 0.25], [0.1, 0.45, 0.45], [0.1, 0.45, 0.45]])
    excess, _, pairs = contrast(domain_point(shares * 1000, 1, ["x", "y", "z"], "none"), 4.0, 0.1)
    assert excess == pytest.approx(0.5 - 0.4 / 1.3)
    assert pairs == [(0, 0)]
    for odd in ([[0.01, 0.99], [0.0, 1.0]], [[0.03, 0.97], [0.002, 0.998]]):
        rare = domain_point(np.array(odd) * 1000, 1, ["x", "y"], "none")
        assert contrast(rare, 4.0, 0.1)[0] < 0, "one is hardly used in either domain, and one nearly always"
    assert contrast(domain_point(np.array([[60, 940], [5, 995]]), 1, ["x", "y"], "none"), 4.0, 0.1)[2] == [
        (0, 0),
        (1, 1),
    ]


def test_numbers_without_sequences_have_no_word() -> None:
    e = domain_point(np.array([[90, 10], [10, 90]]), 1, ["x", "y"], "counts without sequences")
    one = findings(e)
    assert one.word is None
    assert {f.answer for f in one.findings.values()} == {"open"}
    assert e.used.value == pytest.approx(1.0)
    assert e.used.interval.reason == "counts without sequences"
    assert count_words([one, findings(estimate(*one_busier()))]) == {
        **dict.fromkeys(WORDS, 0),
        "balanced": 1,
        "null": 1,
    }


@pytest.mark.parametrize("domains", [2, 3, 4])
def test_a_domain_without_tokens_gives_nulls_and_no_answer(domains: int) -> None:
    shares = np.tile(np.eye(8)[0] * 0.6 + 0.05, (domains, 1))
    sums, labels = route([Domain(20)] * domains, shares, 1, np.random.default_rng(0))
    empty = {name: getattr(sums, name).copy() for name in FIELDS}
    for values in empty.values():
        values[labels == "d1"] = 0
    e = estimates_of(replace(sums, **empty), labels, 0)
    one = findings(e, [0.0] * domains)
    assert one.word == "open"
    for finding in one.findings.values():
        assert finding.answer == "open"
        assert finding.reason == "0 sequences of d1 are too few for an interval: 10 or more are needed"
        assert finding.experts == ()
        assert all(math.isnan(part.value) for part in finding.parts)
    json.dumps(one.to_dict(), allow_nan=False)


def test_domains_without_any_tokens_have_no_word() -> None:
    sums = Sums.from_counts(np.zeros((24, 8)), np.zeros(24), 2)
    assert findings(estimates_of(sums, np.repeat(["x", "y"], 12), 0)).word is None


def test_names_that_end_in_a_nul_are_two_domains() -> None:
    sums, labels = route([Domain(12)] * 2, own_experts()[0], 8, np.random.default_rng(0))
    (e,) = domain_estimates([sums], ["x" if name == "d0" else "x\0" for name in labels], PLAN)
    assert e.names == ("x", "x\0")
    assert findings(e)["specialised"].answer == "yes"


def test_one_domain_is_refused() -> None:
    with pytest.raises(MoebenchError, match="two or more are needed"):
        domain_estimates([Sums.from_counts([[1, 1]], [1], 2)], ["x"])


def test_routers_share_their_halves_and_may_differ_in_size() -> None:
    rng = np.random.default_rng(0)
    sums, labels = route([Domain(15)] * 2, own_experts(2, 16, 2)[0], 2, rng)
    wide, _ = route([Domain(15)] * 2, own_experts(2, 32, 4)[0], 4, rng)
    both = domain_estimates([sums, wide], labels, Plan(resamples=200))
    assert [e.n_experts for e in both] == [16, 32]
    alone = domain_estimates([sums], labels, Plan(resamples=200))[0]
    assert alone.used == both[0].used
    assert alone.information == both[0].information


def test_json() -> None:
    for e in (estimate(*own_experts()), estimate(*always_on(), 4)):
        of = findings(e).to_dict()
        json.dumps(of, allow_nan=False)
        assert set(of["findings"]) == set(NAMES)
        for one in of["findings"].values():
            assert one.keys() >= {"answer", "value", "low", "high", "threshold", "parts"}
    named = findings(estimate(*always_on())).to_dict()["findings"]["dominated"]
    assert named["experts"] == [{"expert": 0, "domains": ["d0", "d1", "d2"]}]
    assert (named["value"], named["low"], named["high"]) == (1.0, 1.0, 1.0)
    assert named["threshold"] == pytest.approx(4 * (1 / 7) / (1 + 4 / 7))


def test_a_range_of_sequences_is_given_or_none() -> None:
    scenario = SCENARIOS["collapsed by r"]
    ranges = []
    for seed in range(60):
        one = found(scenario, 0.009, seed)["collapsed"]
        assert one.sequences is None or one.answer == "open"
        if one.sequences:
            ranges.append(one.sequences)
    assert 3 <= len(ranges) <= 50
    for low, high in ranges:
        assert 120 < low <= high <= 20 * 120
    assert np.median([high / low for low, high in ranges]) < 20


def odd_sums(rng: np.random.Generator) -> tuple[Sums, np.ndarray]:
    """Few experts or one, all of them chosen, texts without tokens, texts that are alike, domains of one text."""
    experts = int(rng.choice([1, 2, 3, 8, 16]))
    top_k, domains = int(rng.integers(1, experts + 1)), int(rng.integers(2, 5))
    sizes = rng.choice([1, 2, 3, 9, 10, 11, 13, 30], domains)
    tokens = rng.integers(rng.integers(2), int(rng.choice([2, 5, 50])), sizes.sum())
    shares = np.tile(rng.dirichlet(np.full(experts, rng.choice([0.05, 1, 50]))), (len(tokens), 1))
    if rng.random() < 0.7:
        shares = rng.dirichlet(np.full(experts, rng.choice([0.05, 1, 50])), len(tokens))
    counts = np.zeros((len(tokens), experts))
    for row, n in enumerate(tokens):
        for _ in range(n):
            score = np.log(shares[row] + 1e-9) + rng.gumbel(size=experts) * (rng.random() < 0.9)
            counts[row, np.argsort(-score)[:top_k]] += 1
    scalars = rng.random((len(tokens), len(SCALARS))) * tokens[:, None]
    sums = Sums(experts, top_k, "softmax", tokens, counts, counts / top_k, shares * tokens[:, None], scalars)
    return sums, np.repeat([f"d{d}" for d in range(domains)], sizes)


@pytest.mark.parametrize("seed", range(60))
def test_odd_routers_raise_and_warn_of_nothing(seed: int) -> None:
    sums, labels = odd_sums(np.random.default_rng(seed))
    one = estimates_of(sums, labels, seed, 160)
    for tied in (0.0, 0.1, 1.0):
        json.dumps(findings(one, [tied] * len(one.names)).to_dict(), allow_nan=False)
    shown = [*RouterMetrics(sums, random_halves(labels, 160, seed)).metrics().values(), one.used, one.information]
    for c in [*shown, *one.divergence.values()]:
        low, high = c.interval.low, c.interval.high
        assert (low is None and c.interval.reason) or low <= c.value <= high  # type: ignore[operator]
    every = Estimates.of(ratios(sums.counts, sums.n_tokens, random_halves(labels, 160, seed)))
    low, high = share_bands(every)
    assert ((low <= every.value) & (every.value <= high)).all() or np.isnan(every.value).all()
    largest = maximum(every)
    assert largest.interval.reason or largest.interval.low <= largest.value <= largest.interval.high  # type: ignore[operator]
