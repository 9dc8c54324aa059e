"""Which loads of a short text, or differences of two, are more than chance gives so few tokens.

Exact tests that take tokens for independent draws. Tokens of a text are not, so what passes may still be chance, and
what does not pass is no finding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import binom, false_discovery_control, hypergeom

from ..types import HostArray

LEVEL = 0.05
"""Of what stands out at most this share is expected to be chance (Benjamini and Hochberg)."""

Floats = npt.NDArray[np.float64]


def against_even(chosen: HostArray, tokens: int) -> Floats:
    """Two-sided p of each of ``chosen`` [E], tokens that chose an expert, were all experts as likely.

    >>> against_even(np.array([7, 0]), 7)  # 2 / 2**7
    array([0.015625, 0.015625])
    """
    share = min(1.0, float(chosen.sum()) / (tokens * len(chosen))) if tokens else 0.0
    return _p_values(binom.pmf(np.arange(tokens + 1), tokens, share), chosen)


def apart(chosen: HostArray, others: HostArray, tokens: tuple[int, int]) -> Floats:
    """Two-sided p of Fisher's exact test, whether ``chosen`` and ``others`` [E] of two texts have one share.

    >>> apart(np.array([3, 0]), np.array([1, 0]), (4, 4)).round(4)
    array([0.4857, 1.    ])
    """
    p = np.ones(len(chosen))
    for both in np.unique(chosen + others):
        of = chosen + others == both
        p[of] = _p_values(hypergeom.pmf(np.arange(tokens[0] + 1), sum(tokens), both, tokens[0]), chosen[of])
    return p


def moved(came: HostArray, went: HostArray) -> Floats:
    """Two-sided p of McNemar's exact test: tokens of one text that chose an expert only after, [E], or only before.

    >>> moved(np.array([4, 0, 0]), np.array([0, 1, 0]))
    array([0.125, 1.   , 1.   ])
    """
    p = np.ones(len(came))
    for both in np.unique(came + went):
        of = came + went == both
        p[of] = _p_values(binom.pmf(np.arange(both + 1), both, 0.5), came[of])
    return p


def stands_out(p: Floats) -> npt.NDArray[np.bool_]:
    """Which of all ``p``, NaN where there is nothing to test, are more than chance at `LEVEL`.

    >>> stands_out(np.array([[0.001, 0.04], [0.2, np.nan]]))
    array([[ True, False],
           [False, False]])
    """
    found = np.zeros(p.shape, dtype=bool)
    tested = np.isfinite(p)
    if tested.any():
        found[tested] = false_discovery_control(p[tested]) <= LEVEL
    return found


def _p_values(pmf: Floats, places: HostArray) -> Floats:
    """How likely is what is no more likely than each of ``places``."""
    of = pmf[np.asarray(places, dtype=np.int64)]
    as_rare = pmf[None, :] <= of[:, None] * (1 + 1e-9)
    return np.asarray(np.minimum(1.0, (as_rare * pmf).sum(axis=1)))
