"""What the domain of a text tells about the experts that its tokens go to, from counts: see `estimates` for samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

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


def purity(counts: npt.ArrayLike) -> Floats:
    """How much of what goes to an expert is of the domain that it gets most of, every domain weighted 1/D.

    Formula: sum_i max_d f_di / D, f_d the load on domain d.
    Unit: share of selections; counts [..., D, R] -> [...].
    Range: [1/D, 1]; 1/D where all domains load the experts alike, above it in finite samples.
    Null: a domain without selections.
    Source: cluster purity (Manning, Raghavan, Schuetze 2008, Introduction to Information Retrieval, 16.3), experts as
        clusters.

    >>> float(purity([[4, 0], [0, 4]])), float(purity([[2, 2], [2, 2]]))
    (1.0, 0.5)
    """
    load = domain_load(counts)
    return np.asarray(load.max(axis=-2).sum(axis=-1) / load.shape[-2])


class Matched(NamedTuple):
    """precision: share of selections in the matched block; owner [R]: the domain that each expert was matched to, or
    -1 for one that is left over."""

    precision: float
    owner: npt.NDArray[np.int64]


def matched(counts: npt.ArrayLike) -> Matched:
    """Reference precision: how much of each domain goes to experts that could be its own, R // D for each domain.

    Experts are shared out so that the sum over domains is the largest that there is (Hungarian matching).

    Formula: max over owners of sum_i f_(owner(i), i) / D, every domain owning R // D experts.
    Unit: share of selections; counts [D, R].
    Range: [0, 1]; 1 of the reference router, (R // D) / R by chance under even routing.
    Null: NaN for a domain without selections, or fewer experts than domains.
    Source: Kuhn 1955, as in `scipy.optimize.linear_sum_assignment`; a reconstruction of the routing testbed's measure.

    >>> matched([[0, 4, 4, 0], [4, 0, 0, 4]])
    Matched(precision=1.0, owner=array([1, 0, 0, 1]))
    """
    load = domain_load(counts)
    domains, experts = load.shape
    own = experts // domains
    owner = np.full(experts, -1, dtype=np.int64)
    if not own or not np.isfinite(load).all():
        return Matched(float("nan"), owner)
    rows, columns = linear_sum_assignment(np.repeat(load, own, axis=0), maximize=True)
    owner[columns] = rows // own
    return Matched(float(load[rows // own, columns].sum() / domains), owner)
