"""The intervals contain the truth as often as they say. Run with `pytest -m slow`; see also benchmarks/coverage.py."""

from __future__ import annotations

from dataclasses import replace

import comparison_simulation
import pytest
from coverage_simulation import CASES, measure, population

from mlx_moebench.routing.sums import FIELDS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES)
def test_forty_sequences(case: str) -> None:
    """2,000 samples: the standard error of a coverage of 95% is 0.5 points."""
    found = measure(population(case), ["mean_entropy", "top_share_token"], n=40, samples=2000, seed=1)
    for (name, where), coverage in found.items():
        if name == "mean_entropy":
            assert 0.93 <= coverage.inside <= 0.97, (name, where, coverage)
            assert max(coverage.above, coverage.below) < 0.05, (name, where, coverage)
        else:
            assert coverage.inside >= 0.93, (name, where, coverage)


@pytest.mark.parametrize("case", CASES)
def test_plug_in_metrics(case: str) -> None:
    """Statistics with a bias: no interval may miss much more often than it says."""
    names = ["load_entropy", "n_eff", "gini", "token_information"]
    for key, coverage in measure(population(case), names, n=40, samples=1000, seed=2).items():
        assert coverage.inside >= 0.90, (key, coverage)


def test_two_domains() -> None:
    """Resampling keeps 20 sequences of each; what lies between the domains is not noise."""
    layers = population("mild", domains=2)
    found = measure(layers, ["mean_entropy", "top_share_token"], n=40, samples=2000, domains=2, seed=3)
    for (name, where), coverage in found.items():
        assert coverage.inside >= 0.93, (name, where, coverage)
        assert name != "mean_entropy" or coverage.inside <= 0.97, (name, where, coverage)


def test_sequences_of_equal_length() -> None:
    """Then G = N, and the widening is the one of the literature."""
    layers = population("mild")
    alike = (layers[0].n_tokens >= 44) & (layers[0].n_tokens <= 52)
    layers = [replace(s, **{f: getattr(s, f)[alike] for f in FIELDS}) for s in layers]
    for key, coverage in measure(layers, ["mean_entropy"], n=40, samples=2000, seed=4).items():
        assert 0.93 <= coverage.inside <= 0.97, (key, coverage)


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
