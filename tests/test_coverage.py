"""The intervals contain the truth as often as they say (`pytest -m slow`); test_audit has those of one router."""

from __future__ import annotations

import comparison_simulation
import numpy as np
import pytest
from audit_metrics import Tally
from populations import EFFECTS, joined, population

from mlx_moebench.routing import METRICS, Plan, Sums
from mlx_moebench.routing.intervals.measured import measured

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


NAMES = ("mean_entropy", "load_entropy", "n_eff", "gini", "token_information", "top_share_token")
ROUTERS = 4


def coverage(domains: list[list[Sums]], n: int, samples: int) -> dict[tuple[str, str], Tally]:
    """{(metric, "mean" | "peak" over routers): Tally} of n sequences of each domain. domains: of each, all routers."""
    wholes = [joined(parts)[0] for parts in zip(*domains, strict=True)]
    truths = [{name: float(METRICS[name].values(s.total())) for name in NAMES} for s in wholes]
    sizes = [len(routers[0].n_tokens) for routers in domains]
    starts, strata = np.cumsum(sizes) - sizes, np.repeat(np.arange(len(domains)), n)
    tallies: dict[tuple[str, str], Tally] = {}
    for number in range(samples):
        rng = np.random.default_rng([number, n])
        rows = np.concatenate([start + rng.integers(size, size=n) for start, size in zip(starts, sizes, strict=True)])
        of = measured([s.take(rows.tolist()) for s in wholes], strata, Plan(resamples=400, seed=number), NAMES)
        for where, entries in (("mean", of.mean), ("peak", of.peak)):
            for name, one in entries.items():
                over = np.mean if where == "mean" else np.max
                truth = float(over([t[name] for t in truths]))
                tallies.setdefault((name, where), Tally()).add(one.value, one.interval, truth)
    return tallies


def check(tallies: dict[tuple[str, str], Tally], samples: int) -> None:
    slack = 2 * (0.92 * 0.08 / samples) ** 0.5  # two standard errors
    for key, tally in tallies.items():
        assert tally.inside / samples >= 0.92 - slack, key
        assert tally.outside == 0, key
    assert tallies["mean_entropy", "mean"].inside / samples <= 0.975 + slack


@pytest.mark.parametrize("kind", ["even", "mild", "leader"])
def test_means_and_peaks_over_routers(kind: str) -> None:
    routers = [population(16, 2, kind, EFFECTS["all"], seed=layer, shift=0.3) for layer in range(ROUTERS)]
    check(coverage([routers], 40, 400), 400)


def test_two_domains() -> None:
    """Resampling keeps 20 sequences of each; what lies between the domains is not noise."""
    domains = [
        [population(16, 2, "mild", EFFECTS["all"], seed=ROUTERS * d + layer, shift=1.0) for layer in range(ROUTERS)]
        for d in range(2)
    ]
    check(coverage(domains, 20, 400), 400)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("case", comparison_simulation.CASES)
def test_differences(case: str, paired: bool) -> None:
    """Sides that are alike, prefer other experts, or prefer them more; 500 samples, a standard error of 1 point."""
    names = ["mean_entropy", "top_share_token", "load_entropy", "gini", "cv", "token_information"]
    sides = comparison_simulation.populations(case)
    found, _ = comparison_simulation.measure(sides, names, paired, n=40, samples=500, seed=1)
    for (name, where), coverage in found.items():
        least = 0.92 if name == "mean_entropy" else 0.89
        assert coverage.inside >= least, (name, where, coverage)
        assert name != "mean_entropy" or coverage.inside <= 0.985, (name, where, coverage)


def test_random_halves_of_one_data_set() -> None:
    """200 splits of the maths prompts as the embedded model routes them: 2 to 9% differ at the 5% level, by chance."""
    from mlx_moebench.measure import analyze

    names = ["mean_entropy", "load_entropy", "marginal_entropy", "gini", "margin_prob", "adjacent_overlap"]
    found = comparison_simulation.halves(analyze(None, "math"), 200, [*names, "top_share_token"])
    for name in names:
        assert 0.02 <= found[name] <= 0.09, (name, found)
        assert 0.02 <= found[f"{name}, a layer"] <= 0.09, (name, found)
    for name in ("load_l1", "load_jsd"):
        assert 0.02 <= found[f"{name}, a layer"] <= 0.09, (name, found)
    assert found["top_share_token, a layer"] <= 0.05  # its band is wider than its level says
