"""How often the intervals contain the truth, on simulated routing whose truth is known exactly.

A finite population of sequences is simulated token by token: lengths are log-normal, every sequence has its own
preferences (so tokens inside one are not independent), and the metrics of the whole population are the truth. Samples
of n sequences are drawn from it with replacement.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import numpy as np

from mlx_moebench.routing import METRICS, Interval, Plan, Sums
from mlx_moebench.routing.intervals.measured import measured
from mlx_moebench.routing.sums import FIELDS
from mlx_moebench.routing.tally import SCALARS

LAYERS = 4
CASES = ("even", "mild", "dominant")


def preferences(case: str, layer: int, experts: int, rng: np.random.Generator) -> np.ndarray:
    """Mean logits: none preferred; some a little; one by far (80 to 90% of tokens at 16 experts, top-2)."""
    if case == "even":
        return np.zeros(experts)
    if case == "mild":
        return 0.4 * rng.standard_normal(experts)
    logits = 0.2 * rng.standard_normal(experts)
    logits[layer % experts] += 3
    return logits


def population(
    case: str, clusters: int = 20_000, experts: int = 16, top_k: int = 2, domains: int = 1, seed: int = 0
) -> list[Sums]:
    """One `Sums` of all sequences per layer; with several domains, equal blocks with preferences of their own."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(48), 0.4, clusters).astype(int), 8, 256)
    layers = []
    for layer in range(LAYERS):
        mean = np.repeat(
            [preferences(case, layer + d, experts, rng) for d in range(domains)], clusters // domains, axis=0
        )
        blocks = [
            sequence_sums(lengths[start : start + 500], mean[start : start + 500], top_k, rng)
            for start in range(0, clusters, 500)
        ]
        counts, top1, p_sum, entropy = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        scalars = np.full((clusters, len(SCALARS)), np.nan)
        scalars[:, SCALARS.index("entropy")] = entropy[:, 0]
        layers.append(Sums(experts, top_k, "softmax", lengths, counts, top1, p_sum, scalars))
    return layers


def sequence_sums(lengths: np.ndarray, mean: np.ndarray, top_k: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Counts, top-1 counts, sums of p and of H(p) of sequences whose logits are mean + its own part + token noise."""
    own = mean + 0.6 * rng.standard_normal(mean.shape)
    z = np.repeat(own, lengths, axis=0)
    z += rng.standard_normal(z.shape)
    return sums_of_logits(z, lengths, top_k)


def sums_of_logits(z: np.ndarray, lengths: np.ndarray, top_k: int) -> list[np.ndarray]:
    """The same of the sequences that the logits [tokens, experts] are cut into."""
    z = z - z.max(axis=1, keepdims=True)
    total = np.exp(z).sum(axis=1, keepdims=True)
    p = np.exp(z) / total
    chosen, first = np.zeros_like(p), np.zeros_like(p)
    np.put_along_axis(chosen, np.argpartition(-z, top_k - 1, axis=1)[:, :top_k], 1, axis=1)
    np.put_along_axis(first, z.argmax(axis=1, keepdims=True), 1, axis=1)
    entropy = np.log(total) - (p * z).sum(axis=1, keepdims=True)
    starts = np.cumsum(lengths) - lengths
    return [np.add.reduceat(x, starts, axis=0) for x in (chosen, first, p, entropy)]


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


def measure(
    layers: list[Sums], names: list[str], n: int = 40, samples: int = 2000, domains: int = 1, seed: int = 0
) -> dict[tuple[str, str], Coverage]:
    """{(metric, "0".."3" of the layer | "mean" | "peak"): Coverage} of intervals from n sequences."""
    rng = np.random.default_rng(seed)
    block = len(layers[0].n_tokens) // domains
    truth = {name: [float(METRICS[name].values(s.total())) for s in layers] for name in names}
    result: defaultdict[tuple[str, str], Coverage] = defaultdict(Coverage)
    strata = np.repeat(np.arange(domains), n // domains)
    for sample in range(samples):
        drawn = strata * block + rng.integers(block, size=n)
        parts = [replace(s, **{f: getattr(s, f)[drawn] for f in FIELDS}) for s in layers]
        found = measured(parts, strata, Plan(resamples=600, seed=sample), names)
        for name in names:
            for layer, row in enumerate(found.routers):
                result[name, str(layer)].add(row[name].interval, truth[name][layer])
            if METRICS[name].interval == "maximum":
                result[name, "peak"].add(found.peak[name].interval, max(truth[name]))
            else:
                result[name, "mean"].add(found.mean[name].interval, float(np.mean(truth[name])))
    return dict(result)
