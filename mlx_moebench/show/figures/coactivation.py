"""Which experts of a router are chosen together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...routing.metrics import coactivation, coactivation_lift
from ...routing.sums import Floats
from ..inputs import Run
from ..names import QUANTITIES
from .base import RouterId, n_of, router_id
from .drawing import Heat, Measure, Scale
from .load import WITHOUT_SUMS

WIDEST = 8.0
"""Lifts beyond this multiple of chance, or below its inverse, have the last colour."""

BY_LIFT = QUANTITIES["lift"].symbol + " ({})"
"""What the colours of co-activation are."""


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

    @property
    def over_chance(self) -> Floats:
        """Lift over that of even routing [E, E]: 1 is chance."""
        return np.asarray(self.lift / self.chance_lift)

    def _pairs(self) -> Floats:
        e = self.router.n_experts
        return np.full((e, e), np.nan) if self.pairs is None else self.pairs.astype(np.float64)


def coactivation_series(run: Run, number: int) -> CoactivationSeries:
    """Pairs of the router of that ``number`` (its place in the report), over all the data of the run."""
    entry, data = run.report["routers"][number], run.report["data"]
    router = router_id(entry)
    e, k = router.n_experts, router.top_k
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
    sizes = int(data["n_sequences"]), int(entry["n_tokens"])
    return CoactivationSeries(run.name, router, *sizes, pairs, chance, chance * e / k, reason)


def coactivation_heat(series: CoactivationSeries, label: str, texts: str, note: str = "") -> Heat:
    """Experts by experts of one router with pairs, which is called ``label``. note: the end of the caption.

    The lift is written as T N_ij / N_i / N_j, so that the pairs are kept once: raw as that of ``series.lift``, in
    colour over that of even routing.
    """
    pairs = series.pairs
    if pairs is None:
        raise ValueError(f"layer {label} has no pairs: {series.reason}")
    cells = tuple(pairs)
    experts = tuple(map(str, range(len(pairs))))
    lift, chance = f"{series.chance_lift:.3f}", f"{series.chance:.3f}"
    by_lift = Scale("log", WIDEST, BY_LIFT.format("1 = chance"))
    by_share = Scale("log", WIDEST, "share of the row's tokens (middle: chance)", series.chance)
    of_row = tuple(int(n) for n in np.diagonal(pairs))
    n = n_of(series.n_sequences, series.n_tokens, texts)
    router = series.router
    return Heat(
        f"Co-activation of the experts of layer {label}",
        "Heatmap of how often two experts of a layer are chosen together",
        "expert",
        "expert",
        experts,
        {
            "pairs": Measure("tokens with both", "tokens", cells),
            "lift": Measure(
                QUANTITIES["lift"].symbol,
                "ratio",
                cells,
                of_row,
                of_row,
                series.n_tokens / series.chance_lift,
                scale=by_lift,
            ),
            "raw": Measure("lift", "ratio", cells, of_row, of_row, series.n_tokens),
            "share": Measure(
                "share of the expert's tokens",
                "ratio",
                cells,
                of_row,
                scale=by_share,
                mirrored="share of the other's tokens",
            ),
        },
        "lift",
        (
            f"Experts {{row}} and {{column}}, layer {label}",
            f"{{pairs:token}} of {series.n_tokens:,} chose both",
            f"{{lift:2}} times the lift of chance: {{raw:2}} (chance {series.chance_lift:.2f})",
            "{column} is used by {share} of the tokens of {row}, {row} by {share^} of those of {column} "
            f"(chance {chance})",
        ),
        f"{series.definition} In colour is the lift over that of chance. Chance here: lift {lift}, share {chance}; "
        f"orange is more, blue less. Unit: ratio; share: of the tokens of the row's expert. {n}. {note}".rstrip(),
        ("layer", "router", "tokens", "chance of the lift"),
        ((router.layer, router.router, series.n_tokens, series.chance_lift),),
        {"own": of_row},
        diagonal=(f"Expert {{row}}, layer {label}", f"{{own:token}} of {series.n_tokens:,}"),
    )
