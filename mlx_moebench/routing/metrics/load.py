"""How selections are shared out among the experts."""

from __future__ import annotations

import math

import numpy as np

from ..sums import Floats, Sums
from .registry import Even, metric


@metric(
    "load",
    "share of tokens",
    "maximum",
    low=lambda e, k: k / e,
    high=lambda e, k: 1.0,
    label="Busiest expert, of tokens",
    even=Even("even load, K/E", lambda e, k: k / e),
)
def top_share_token(s: Sums) -> Floats:
    """Share of tokens that use the busiest expert. Returns every expert's share, [..., R].

    Formula: max_i sum_t S_ti / T.
    Unit: share of tokens.
    Range: [K/E, 1]; K/E when the load is even.
    Null: no token.
    Source: Muennighoff et al. 2024 (OLMoE), section 5.3: domain specialisation.
    """
    return s.load * s.top_k


@metric(
    "load",
    "share of selections",
    "maximum",
    low=lambda e, k: 1 / e,
    high=lambda e, k: 1 / k,
    label="Busiest expert, of selections",
    even=Even("even load, 1/E", lambda e, k: 1 / e),
)
def top_share_selection(s: Sums) -> Floats:
    """Share of selections that go to the busiest expert. Returns every expert's share, [..., R].

    Formula: max_i f_i.
    Unit: share of selections.
    Range: [1/E, 1/K].
    Null: no token.
    Source: the load of Fedus et al. 2021 (Switch), with K selections a token.
    """
    return s.load


@metric(
    "load",
    "share of tokens",
    "maximum",
    low=lambda e, k: 1 / e,
    high=lambda e, k: 1.0,
    label="Busiest first choice, of tokens",
    even=Even("even load, 1/E", lambda e, k: 1 / e),
)
def top_share_top1(s: Sums) -> Floats:
    """Share of tokens whose first choice is the busiest first choice. Returns every expert's share, [..., R].

    Formula: max_i #{t: i = argmax_chosen p_t} / T, ties to the lowest index.
    Unit: share of tokens.
    Range: [1/E, 1].
    Null: no token, or first choices were not recorded.
    Source: AllenAI OLMoE routing analysis (top-1 counts).
    """
    return s.top1_counts / np.where(s.n_tokens > 0, s.n_tokens, np.nan)[..., None]


@metric(
    "load",
    "multiple of even load",
    "maximum",
    low=lambda e, k: 1.0,
    high=lambda e, k: e / k,
    label="Busiest expert, times even",
    even=Even("even load, 1", lambda e, k: 1.0),
)
def top_load_ratio(s: Sums) -> Floats:
    """Load of the busiest expert as a multiple of the even share. Returns every expert's ratio, [..., R].

    Formula: E max_i f_i.
    Unit: multiple of even load.
    Range: [1, E/K]; comparable across E and K.
    Null: no token.
    Source: capacity factor of Lepikhin et al. 2020 (GShard), as measured rather than allowed.
    """
    return s.load * s.n_experts


@metric(
    "load",
    "multiple of even load",
    "maximum",
    high=lambda e, k: e / k - 1,
    label="Excess of the busiest expert (MaxVio)",
)
def max_violation(s: Sums) -> Floats:
    """Excess of the busiest expert over the even share. Returns every expert's excess, [..., R].

    Formula: MaxVio = E max_i f_i - 1.
    Unit: multiple of even load.
    Range: [0, E/K - 1].
    Null: no token.
    Source: Wang et al. 2024 (auxiliary-loss-free load balancing).
    """
    return s.load * s.n_experts - 1


@metric(
    "load", "ratio", "distance", high=lambda e, k: math.sqrt(e / k - 1), label="Coefficient of variation of the load"
)
def cv(s: Sums) -> Floats:
    """Coefficient of variation of the load.

    Formula: sd_i f_i / mean_i f_i, population sd.
    Unit: ratio.
    Range: [0, sqrt(E/K - 1)].
    Null: no token.
    Source: Shazeer et al. 2017 (its square is their importance loss).
    """
    return np.asarray(s.load.std(axis=-1) * s.n_experts)


@metric(
    "load",
    "ratio",
    "distance",
    high=lambda e, k: 1 - k / e,
    label="Gini coefficient of the load",
    even=Even("even load, 0", lambda e, k: 0.0),
)
def gini(s: Sums) -> Floats:
    """Gini coefficient of the load.

    Formula: sum_i (2i - E - 1) f_(i) / (E sum f), f_(i) ascending, i from 1.
    Unit: ratio.
    Range: [0, 1 - K/E]; 0 when even.
    Null: no token.
    Source: Gini 1912.
    """
    rank = 2 * np.arange(1, s.n_experts + 1) - s.n_experts - 1
    return np.asarray(s.sorted_load @ rank.astype(float) / s.n_experts)


@metric(
    "load",
    "experts",
    "plugin",
    low=lambda e, k: k,
    high=lambda e, k: e,
    label="Effective number of experts",
    even=Even("even load, E", lambda e, k: float(e)),
)
def n_eff(s: Sums) -> Floats:
    """Effective number of experts.

    Formula: exp H(f).
    Unit: experts.
    Range: [K, E].
    Null: no token.
    Source: Hill number of order 1 (Hill 1973).
    """
    return np.exp(s.load_entropy)


@metric(
    "load",
    "experts",
    "plugin",
    low=lambda e, k: math.ceil(0.9 * k),
    high=lambda e, k: math.ceil(0.9 * e),
    integer=True,
    label="Experts that get 90% of the selections",
    even=Even("even load", lambda e, k: float(math.ceil(0.9 * e - 1e-9))),
)
def n90(s: Sums) -> Floats:
    """Fewest experts that together get 90% of the selections.

    Formula: min n such that the n largest f sum to >= 0.9.
    Unit: experts.
    Range: [ceil(0.9 K), ceil(0.9 E)].
    Null: no token.
    Source: ours; how many experts do nine tenths of the work.
    """
    covered = np.cumsum(s.sorted_load[..., ::-1], axis=-1)
    # A hair under 0.9: five even experts of ten must count as nine tenths in floating point too.
    count = 1.0 + (covered < 0.9 - 1e-12).sum(axis=-1)
    return np.where(np.isnan(covered[..., -1]), np.nan, count)


@metric("load", "experts", "none", integer=True, label="Experts without a selection")
def dead_experts(s: Sums) -> Floats:
    """Experts that no token chose.

    Formula: #{i: sum_t S_ti = 0}.
    Unit: experts.
    Range: 0 .. E - K.
    Null: no token. Compare with `dead_experts_expected`; a small corpus leaves experts unused by chance.
    Source: definition; E comes from the model, never from the largest id seen.
    """
    return np.where(s.n_tokens > 0, (s.counts == 0).sum(axis=-1), np.nan)


@metric("load", "experts", "none", label="The same under even routing")
def dead_experts_expected(s: Sums) -> Floats:
    """Experts that even routing would leave unused on as many tokens.

    Formula: E (1 - K/E)^T, tokens independent, K drawn without replacement.
    Unit: experts.
    Range: [0, E].
    Null: no token.
    Source: occupancy problem (Feller 1968).
    """
    return s.n_experts * (1 - s.top_k / s.n_experts) ** np.where(s.n_tokens > 0, s.n_tokens, np.nan)


@metric(
    "load",
    "ratio",
    "plugin",
    high=lambda e, k: e / k,
    label="Switch balance",
    even=Even("even load, 1", lambda e, k: 1.0),
)
def switch_balance(s: Sums) -> Floats:
    """The quantity that the Switch balance loss minimises, over the whole corpus.

    Formula: E sum_i f_i P_i = 1 + E <f - u, P - u>, P = mean_t p_t, u = 1/E.
    Unit: ratio.
    Range: [0, E/K]; 1 at balance, and below 1 when f and P disagree, so 1 does not prove balance.
    Null: no token, or the logits were not seen.
    Source: Fedus et al. 2021 (Switch), eq. 4.
    """
    return np.asarray(s.n_experts * (s.load * s.mean_p).sum(axis=-1))


@metric("load", "share", "plugin", low=lambda e, k: -1.0, high=lambda e, k: 1.0, label="Gap of the Switch loss")
def switch_gap(s: Sums) -> Floats:
    """The part of `switch_balance` that is not balance: agreement of hard and soft deviations from even.

    Formula: <f - u, P - u>.
    Unit: share squared.
    Range: [-|f-u| |P-u|, |f-u| |P-u|].
    Null: no token, or the logits were not seen.
    Source: expansion of Fedus et al. 2021, eq. 4.
    """
    even = 1 / s.n_experts
    return np.asarray(((s.load - even) * (s.mean_p - even)).sum(axis=-1))


@metric("load", "share", "distance", high=lambda e, k: math.sqrt(1 / k - 1 / e), label="Distance of the load from even")
def load_gap(s: Sums) -> Floats:
    """Distance of the load from even.

    Formula: |f - u|, Euclidean.
    Unit: share.
    Range: [0, sqrt(1/K - 1/E)].
    Null: no token.
    Source: the f term of `switch_gap`.
    """
    return np.asarray(np.linalg.norm(s.load - 1 / s.n_experts, axis=-1))


@metric(
    "load", "share", "distance", high=lambda e, k: math.sqrt(1 - 1 / e), label="Distance of the mean routing from even"
)
def probability_gap(s: Sums) -> Floats:
    """Distance of the mean routing distribution from even.

    Formula: |P - u|, Euclidean.
    Unit: share.
    Range: [0, sqrt(1 - 1/E)].
    Null: no token, or the logits were not seen.
    Source: the P term of `switch_gap`.
    """
    return np.asarray(np.linalg.norm(s.mean_p - 1 / s.n_experts, axis=-1))


@metric("load", "share", "none", high=lambda e, k: 1.0, label="Mean routing on experts never chosen")
def dead_mass(s: Sums) -> Floats:
    """Soft mass on experts that no token chose: how a router can satisfy a soft loss with dead experts.

    Formula: sum over {i: f_i = 0} of P_i.
    Unit: share.
    Range: [0, 1 - K/E].
    Null: no token, or the logits were not seen.
    Source: definition.
    """
    return np.asarray(np.where(s.counts == 0, s.mean_p, 0.0 * s.mean_p).sum(axis=-1))
