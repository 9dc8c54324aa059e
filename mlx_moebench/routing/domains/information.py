"""What the domain of a text tells about the experts that its tokens go to, from counts: see `estimates` for samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..sums import Floats, divergence, entropy


def domain_information(counts: npt.ArrayLike) -> Floats:
    """Mutual information of domain and expert on selections, every domain weighted 1/D.

    Formula: H(mean_d f_d) - mean_d H(f_d), f_d the load on domain d.
    Unit: nats; counts [..., D, R] -> [...].
    Range: [0, ln D].
    Null: a domain without selections. In finite samples it is above 0 also when routing ignores the domain:
        `estimates.domain_estimates` corrects and tests it.
    Source: mutual information of expert and domain at equal tokens per domain.

    >>> round(float(domain_information([[4, 0], [0, 4]])), 4)
    0.6931
    """
    load = domain_load(counts)
    # Concavity makes it >= 0; rounding can leave -1e-16.
    return np.asarray(np.maximum(entropy(load.mean(axis=-2)) - entropy(load).mean(axis=-1), 0.0))


def domain_load(counts: npt.ArrayLike) -> Floats:
    """f_d [..., D, R], the load on each domain, from counts [..., D, R]; NaN for a domain without selections."""
    c = np.asarray(counts, dtype=np.float64)
    totals = c.sum(axis=-1, keepdims=True)
    return np.asarray(c / np.where(totals > 0, totals, np.nan))


def jensen_shannon(counts: npt.ArrayLike) -> Floats:
    """Jensen-Shannon divergence of the loads of each two domains.

    Formula: H((f_d + f_e) / 2) - (H(f_d) + H(f_e)) / 2: `domain_information` of the two domains alone.
    Unit: nats; counts [..., D, R] -> [..., D, D], symmetric, 0 on the diagonal.
    Range: [0, ln 2]; ln 2 when the two use no expert in common.
    Null: a domain without selections. Above 0 in finite samples.
    Source: Lin 1991.

    >>> round(float(jensen_shannon([[4, 0], [0, 4]])[0, 1]), 4)
    0.6931
    """
    load = domain_load(counts)
    return divergence(load[..., :, None, :], load[..., None, :, :])
