"""What the domain of a text tells about the experts that its tokens go to: formulas and the permutation null."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...errors import MoebenchError
from ..sums import Floats, divergence, entropy

PERMUTATIONS = 999
"""Permutations of the domain labels; with 999 a test at 5% rejects in exactly 5% of the cases without an effect."""

LABEL_CELLS = 1 << 20  # entries of the 0/1 matrix of permuted labels that is worked on at a time: 8 MB


@dataclass(frozen=True)
class DomainInformation:
    """MI(domain; expert) and what it is without an effect.

    mi: nats. relative: as a fraction of ln D. nmi: mi / sqrt(ln D H(mean_d f_d)), in [0, 1]. bias: what independent
    selections would give, nats. null_mean, null_high: mean and 95% quantile over permuted domain labels, nats; p_value
    of that null. The last three are NaN where there was nothing to permute.
    """

    mi: float
    relative: float
    nmi: float
    bias: float
    null_mean: float = math.nan
    null_high: float = math.nan
    p_value: float = math.nan


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
    load = domain_load(counts)
    # Concavity makes it >= 0; rounding can leave -1e-16.
    return np.asarray(np.maximum(entropy(load.mean(axis=-2)) - entropy(load).mean(axis=-1), 0.0))


def domain_load(counts: npt.ArrayLike) -> Floats:
    """f_d [..., D, R], the load on each domain, from counts [..., D, R]; NaN for a domain without selections."""
    c = np.asarray(counts, dtype=np.float64)
    totals = c.sum(axis=-1, keepdims=True)
    return np.asarray(c / np.where(totals > 0, totals, np.nan))


def domain_information_bias(counts: npt.ArrayLike) -> Floats:
    """What `domain_information` is on average when routing ignores the domain and selections are independent.

    Formula: (m - 1) (D - 1) / (2 D^2) sum_d 1/N_d, m experts with a selection, N_d selections on domain d.
    Unit: nats; counts [..., D, R] -> [...].
    Range: >= 0; (m - 1)(D - 1) / (2 N) for N selections in equal parts.
    Null: a domain without selections. Tokens of one text are not independent, and MI is then above this without any
        effect: it stands in for `domain_information_null` only where no sequences are known.
    Source: second-order expansion of both entropies (Miller 1955), each domain weighted 1/D.

    >>> float(domain_information_bias([[5, 5], [5, 5]]))
    0.025
    """
    c = np.asarray(counts, dtype=np.float64)
    selections = c.sum(axis=-1)
    used = (c.sum(axis=-2) > 0).sum(axis=-1)
    each = (1 / np.where(selections > 0, selections, np.nan)).sum(axis=-1)
    d = c.shape[-2]
    return np.asarray((used - 1) * (d - 1) / (2 * d**2) * each)


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


def domain_information_point(counts: npt.ArrayLike) -> DomainInformation:
    """`DomainInformation` of counts [D, R] without a null, for where no sequences are known."""
    mi = float(domain_information(counts))
    load = domain_load(counts)
    d = load.shape[-2]
    spread = math.log(d) * float(entropy(load.mean(axis=-2)))
    nmi = mi / math.sqrt(spread) if spread > 0 else math.nan
    return DomainInformation(mi, mi / math.log(d), nmi, float(domain_information_bias(counts)))


def domain_information_null(
    counts: npt.ArrayLike, domains: npt.ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0
) -> DomainInformation:
    """MI(domain; expert) of per-sequence counts [N, R] with labels [N], against labels permuted over sequences.

    The p-value is (1 + #{null >= observed}) / (1 + permutations): exact where sequences are exchangeable between the
    domains when routing ignores the domain, so that their lengths are distributed alike (docs/uncertainty.md says
    what happens when they are not).
    """
    (information,) = informations([np.asarray(counts)], domains, permutations, seed)
    return information


def informations(
    routers: Sequence[npt.NDArray[np.generic]], domains: npt.ArrayLike, permutations: int = PERMUTATIONS, seed: int = 0
) -> list[DomainInformation]:
    """`domain_information_null` of several routers [N, R_r] over the same sequences, with the same permutations.

    Raises `MoebenchError` for fewer than two domains.
    """
    names, labels = np.unique(np.asarray(domains), return_inverse=True)
    if len(names) < 2:
        raise MoebenchError(f"Information about the domain needs two or more domains, got {len(names)}.")
    counts = [np.asarray(c, dtype=np.float64) for c in routers]
    one_hot = np.eye(len(names))[labels].T  # [D, N]
    null = np.empty((len(counts), permutations))
    for start, permuted in _permuted(one_hot, permutations, seed):
        for router, c in enumerate(counts):
            drawn = (permuted.reshape(-1, len(labels)) @ c).reshape(len(permuted), len(names), -1)
            null[router, start : start + len(permuted)] = domain_information(drawn)
    return [_against(domain_information_point(one_hot @ c), row) for c, row in zip(counts, null, strict=True)]


def _permuted(one_hot: Floats, permutations: int, seed: int) -> Iterator[tuple[int, Floats]]:
    """(number of the first, 0/1 matrices [b, D, N]) of permuted labels, in blocks that stay small."""
    rng = np.random.default_rng(seed)
    size = max(1, LABEL_CELLS // one_hot.size)
    for start in range(0, permutations, size):
        orders = [rng.permutation(one_hot.shape[1]) for _ in range(min(size, permutations - start))]
        yield start, np.stack([one_hot[:, order] for order in orders])


def _against(observed: DomainInformation, null: Floats) -> DomainInformation:
    if not math.isfinite(observed.mi):
        return observed
    known = null[np.isfinite(null)]
    # Equal values count as reached, also when their last bit differs; so do permutations that leave a domain empty.
    reached = int(np.sum(known >= observed.mi - 1e-12)) + len(null) - len(known)
    return replace(
        observed,
        null_mean=float(known.mean()) if len(known) else math.nan,
        null_high=float(np.quantile(known, 0.95)) if len(known) else math.nan,
        p_value=(1 + reached) / (1 + len(null)),
    )
