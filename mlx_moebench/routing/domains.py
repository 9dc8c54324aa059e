"""What the domain of a text tells about the expert that its tokens go to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import MoebenchError
from .sums import Floats, entropy


@dataclass(frozen=True)
class DomainInformation:
    """MI(domain; expert) in nats, as a fraction of ln D, its permutation null (mean, 95% quantile) and p-value."""

    mi: float
    relative: float
    null_mean: float
    null_high: float
    p_value: float


def domain_information(counts: npt.ArrayLike) -> Floats:
    """Mutual information of domain and expert on selections, every domain weighted 1/D.

    Formula: H(mean_d f_d) - mean_d H(f_d), f_d the load on domain d.
    Unit: nats; counts [..., D, R] -> [...].
    Range: [0, ln D].
    Null: a domain without selections. In finite samples it is above 0 also when routing ignores the domain:
        compare with `domain_information_null`.
    Source: mutual information of expert and domain at equal tokens per domain.

    >>> round(float(domain_information([[4, 0], [0, 4]])), 4)
    0.6931
    """
    c = np.asarray(counts, dtype=np.float64)
    totals = c.sum(axis=-1, keepdims=True)
    load = c / np.where(totals > 0, totals, np.nan)
    return np.asarray(entropy(load.mean(axis=-2)) - entropy(load).mean(axis=-1))


def domain_information_null(
    counts: npt.ArrayLike, domains: npt.ArrayLike, permutations: int = 1000, seed: int = 0
) -> DomainInformation:
    """MI(domain; expert) of per-sequence counts [N, R] with labels [N], against labels permuted over sequences.

    The p-value is (1 + #{null >= observed}) / (1 + permutations).
    """
    c = np.asarray(counts, dtype=np.float64)
    names, labels = np.unique(np.asarray(domains), return_inverse=True)
    if len(names) < 2:
        raise MoebenchError(f"Information about the domain needs two or more domains, got {len(names)}.")
    one_hot = np.eye(len(names))[labels]  # [N, D]
    observed = float(domain_information(one_hot.T @ c))
    rng = np.random.default_rng(seed)
    null = np.array(
        [float(domain_information(one_hot[rng.permutation(len(labels))].T @ c)) for _ in range(permutations)]
    )
    return DomainInformation(
        observed,
        observed / float(np.log(len(names))),
        float(null.mean()),
        float(np.quantile(null, 0.95)),
        float((1 + np.sum(null >= observed)) / (1 + permutations)),
    )
