"""How often intervals of a difference contain it, on simulated routing of two sides whose truth is known exactly.

A finite population of sequences is routed by two routers that see logits correlated from token to token, as a model and
a variant of it do. Paired samples take the same sequences for both sides, unpaired ones others for each.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np
from populations import sums_of_logits

from mlx_moebench import RoutingStats
from mlx_moebench.routing import METRICS, Interval, Plan, Sums
from mlx_moebench.routing.comparison.differences import differences
from mlx_moebench.routing.comparison.resampling import LOADS, Samples
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS

LAYERS = 4
CASES = {
    "even, even": ("even", "even", 0.0),
    "mild, a little changed": ("mild", "mild", 0.15),
    "mild, other experts": ("mild", "mild", 1.0),
    "dominant, a little changed": ("dominant", "dominant", 0.15),
    "even, dominant": ("even", "dominant", 1.0),
}
"""Preferences of A, of B, and how far B's are from A's: 0 equal, 1 independent."""


def preferences(case: str, layer: int, experts: int, rng: np.random.Generator) -> np.ndarray:
    """Mean logits: none preferred; some a little; one by far (80 to 90% of tokens at 16 experts, top-2)."""
    if case == "even":
        return np.zeros(experts)
    if case == "mild":
        return 0.4 * rng.standard_normal(experts)
    logits = 0.2 * rng.standard_normal(experts)
    logits[layer % experts] += 3
    return logits


@dataclass
class Coverage:
    """Share of samples in which the interval held the truth, lay above it, or below it, and its mean width."""

    inside: float = 0.0
    above: float = 0.0
    below: float = 0.0
    width: float = 0.0
    samples: int = field(default=0, repr=False)

    def add(self, interval: Interval, truth: float) -> None:
        assert interval.low is not None
        assert interval.high is not None
        self.samples += 1
        for name, hit in (
            ("inside", interval.low <= truth <= interval.high),
            ("above", interval.low > truth),
            ("below", interval.high < truth),
            ("width", interval.high - interval.low),
        ):
            old = getattr(self, name)
            setattr(self, name, old + (hit - old) / self.samples)


def populations(
    case: str, clusters: int = 10_000, experts: int = 16, top_k: int = 2, alike: float = 0.9, seed: int = 0
) -> tuple[list[Sums], list[Sums]]:
    """One `Sums` per layer and side; alike: correlation of the two sides' logits beside their preferences."""
    first, second, apart = CASES[case]
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(48), 0.4, clusters).astype(int), 8, 256)
    sides: tuple[list[Sums], list[Sums]] = ([], [])
    for layer in range(LAYERS):
        mean_a, other = preferences(first, layer, experts, rng), preferences(second, layer, experts, rng)
        mean_b = other if apart == 1 else np.sqrt(1 - apart**2) * mean_a + apart * other
        blocks: tuple[list[list[np.ndarray]], list[list[np.ndarray]]] = ([], [])
        for start in range(0, clusters, 500):
            part = lengths[start : start + 500]
            own_a, own_b = _correlated(rng, (len(part), experts), 0.6, alike)
            z_a, z_b = _correlated(rng, (int(part.sum()), experts), 1.0, alike)
            for found, mean, of_sequence, z in ((blocks[0], mean_a, own_a, z_a), (blocks[1], mean_b, own_b, z_b)):
                found.append(sums_of_logits(np.repeat(mean + of_sequence, part, axis=0) + z, part, top_k))
        for side, found in zip(sides, blocks, strict=True):
            counts, top1, p_sum, entropy = (np.concatenate(parts) for parts in zip(*found, strict=True))
            scalars = np.full((clusters, len(SCALARS)), np.nan)
            scalars[:, SCALARS.index("entropy")] = entropy[:, 0]
            side.append(Sums(experts, top_k, "softmax", lengths, counts, top1, p_sum, scalars))
    return sides


def _correlated(rng: np.random.Generator, shape: tuple[int, int], scale: float, alike: float) -> list[np.ndarray]:
    a, b = scale * rng.standard_normal((2, *shape))
    return [a, alike * a + np.sqrt(1 - alike**2) * b]


def measure(
    sides: tuple[list[Sums], list[Sums]], names: list[str], paired: bool, n: int = 40, samples: int = 500, seed: int = 0
) -> tuple[dict[tuple[str, str], Coverage], dict[tuple[str, str], float]]:
    """({(metric, "0".."3" of the layer | "mean" | "peak"): Coverage}, {the same: share of samples with p < 0.05})."""
    rng = np.random.default_rng(seed)
    of_a, of_b = ([{name: float(METRICS[name].values(s.total())) for name in names} for s in side] for side in sides)
    coverage: defaultdict[tuple[str, str], Coverage] = defaultdict(Coverage)
    rejected: defaultdict[tuple[str, str], float] = defaultdict(float)
    size = len(sides[0][0].n_tokens)
    for sample in range(samples):
        first = rng.integers(size, size=n)
        second = first if paired else rng.integers(size, size=n)
        parts = [[take(s, rows) for s in side] for side, rows in zip(sides, (first, second), strict=True)]
        found = differences(*parts, Samples([""] * n, [""] * n, paired), Plan(resamples=600, seed=sample), names)
        for name in names:
            apart = [y[name] - x[name] for x, y in zip(of_a, of_b, strict=True)]
            rows = {str(layer): (row[name], apart[layer]) for layer, row in enumerate(found.routers)}
            rows["mean"] = found.mean[name], float(np.mean(apart))
            if name in found.peak:
                rows["peak"] = found.peak[name], max(y[name] for y in of_b) - max(x[name] for x in of_a)
            for where, (effect, truth) in rows.items():
                coverage[name, where].add(effect.interval, truth)
                rejected[name, where] += below(effect.p) / samples
    return dict(coverage), dict(rejected)


def take(sums: Sums, rows: np.ndarray) -> Sums:
    """The sums of these sequences."""
    return replace(sums, **{name: getattr(sums, name)[rows] for name in FIELDS})


def halves(
    stats: RoutingStats, splits: int, names: list[str], resamples: int = 1000, seed: int = 0
) -> dict[str, float]:
    """{metric, "metric, a layer", distance of loads: share of random halves of the sequences with p < 0.05}.

    Unpaired: the halves share no sequence, and nothing differs between them but chance.
    """
    rng = np.random.default_rng(seed)
    routers = [stats.sums(number) for number in range(len(stats.specs))]
    n = len(stats.clusters)
    rejected: defaultdict[str, list[float]] = defaultdict(list)
    for split in range(splits):
        order = rng.permutation(n)
        first, second = order[: n // 2], order[n // 2 :]
        samples = Samples([""] * len(first), [""] * len(second), paired=False)
        plan = Plan(resamples=resamples, seed=split)
        found = differences([take(s, first) for s in routers], [take(s, second) for s in routers], samples, plan, names)
        for name in names:
            rejected[name].append(below(found.mean[name].p))
            rejected[f"{name}, a layer"] += [below(row[name].p) for row in found.routers]
        for name in LOADS:
            rejected[f"{name}, a layer"] += [below(load.distances[name].p) for load in found.loads]
    return {name: float(np.mean(hits)) for name, hits in rejected.items()}


def below(p: float | None, level: float = 0.05) -> float:
    """1 where p is less than the level."""
    return float(p is not None and p < level)
