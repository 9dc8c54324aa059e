"""Which experts of a router are chosen together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...routing.metrics import coactivation, coactivation_lift
from ...routing.sums import Floats
from ..inputs import Run
from .base import RouterId
from .load import WITHOUT_SUMS


@dataclass(frozen=True)
class CoactivationSeries:
    """One router. pairs [E, E]: tokens that chose both, the diagonal each expert's own tokens; None for ``reason``.

    chance, chance_lift: of shares and lifts under even routing: (K-1)/(E-1), and E(K-1)/(K(E-1)), which is not 1, since
    the experts of a token differ.
    """

    run: str
    router: RouterId
    n_sequences: int
    n_tokens: int
    pairs: np.ndarray[tuple[int, int], np.dtype[np.int64]] | None
    chance: float
    chance_lift: float
    reason: str | None
    unit: str = "ratio"
    definition: str = (
        "Lift: tokens that chose both experts over what independent choices of the two would give, N_ij T / (N_i N_j). "
        "Under even routing it is E(K-1) / (K(E-1)), below 1, since a token's experts differ. There is no "
        "interval: pairs are kept for all sequences together."
    )

    @property
    def shares(self) -> Floats:
        """C_ij [E, E]: how often expert j is used by the tokens that use i; NaN on the diagonal or without pairs."""
        return coactivation(self._pairs())

    @property
    def lift(self) -> Floats:
        """N_ij T / (N_i N_j) [E, E]; NaN on the diagonal, for experts without tokens, or without pairs."""
        return coactivation_lift(self._pairs(), self.n_tokens)

    def _pairs(self) -> Floats:
        e = self.router.n_experts
        return np.full((e, e), np.nan) if self.pairs is None else self.pairs.astype(np.float64)


def coactivation_series(run: Run, number: int) -> CoactivationSeries:
    """Pairs of the router of that ``number`` (its place in the report), over all the data of the run."""
    found, data = run.report["routers"][number], run.report["data"]
    e, k = found["n_experts"], found["top_k"]
    router = RouterId(found["layer"], found["moe_layer"], found["router"], e, k)
    chance = (k - 1) / (e - 1) if e > 1 else math.nan
    pairs, reason = None, None
    if k == 1:
        reason = "a token has one expert (K = 1), so that no two are chosen together"
    elif run.stats is None:
        reason = WITHOUT_SUMS
    else:
        pairs = run.stats.pairs(number)
        if pairs.sum() != k * np.trace(pairs) or not pairs.any():  # every selection stands in K pairs
            pairs, reason = None, "pairs were not recorded"
    sizes = int(data["n_sequences"]), int(found["n_tokens"])
    return CoactivationSeries(run.name, router, *sizes, pairs, chance, chance * e / k, reason)
