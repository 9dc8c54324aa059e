"""How close the router's decisions were."""

from __future__ import annotations

import math

import numpy as np

from ..sums import Floats, Sums
from ..tally import LOG_SCORES
from .registry import Even, metric


@metric(
    "margin",
    "probability",
    "mean",
    high=lambda e, k: 1.0,
    label="Margin of the first choice",
    even=Even("two best experts tie, 0", lambda e, k: 0.0),
)
def margin_prob(s: Sums) -> Floats:
    """Gap between the two most probable experts.

    Formula: mean_t p_(1) - p_(2).
    Unit: probability.
    Range: [0, 1].
    Null: no token, E = 1, or the logits were not seen.
    Source: LibMoE, appendix D.4 (router margin), if its gating scores are probabilities: it does not say.
    """
    return _mean(s, "margin_prob") if s.n_experts > 1 else np.full(np.shape(s.n_tokens), math.nan)


@metric("margin", "weight", "mean", high=lambda e, k: 1.0, label="Margin of the first gate weight")
def margin_weight(s: Sums) -> Floats:
    """Gap between the two largest gate weights, renormalised over the chosen.

    Formula: mean_t q_(1) - q_(2), q = g / sum g.
    Unit: weight.
    Range: [0, 1].
    Null: K = 1.
    Source: LibMoE, appendix D.4 (router margin), if its gating scores are weights: it does not say.
    """
    return _mean(s, "margin_weight") if s.top_k > 1 else np.full(np.shape(s.n_tokens), math.nan)


@metric(
    "margin",
    "selection score",
    "mean",
    label="Selection margin",
    even=Even("a tie for the last place, 0", lambda e, k: 0.0),
)
def selection_margin(s: Sums) -> Floats:
    """Gap between the last expert chosen and the best one not chosen.

    Formula: mean_t (K-th selection score) - (best unchosen); selection score = p + bias, dropped groups -inf.
    Unit: selection score (probability where there is no bias).
    Range: >= 0.
    Null: K = E, or a token to which dropped groups left no other expert.
    Source: definition; how little would have changed the choice.
    """
    return _mean(s, "selection_margin") if s.top_k < s.n_experts else np.full(np.shape(s.n_tokens), math.nan)


@metric("margin", "share of tokens", "mean", high=lambda e, k: 1.0, label="Tied selections")
def tied_selections(s: Sums) -> Floats:
    """Tokens whose last choice was a tie, so that the order of the experts decided and not the router.

    Formula: mean_t [K-th selection score = (K+1)-th]; selection score = p + bias, dropped groups -inf.
    Unit: share of tokens.
    Range: [0, 1]; 1 for a router whose weights are zero.
    Null: K = E, or the logits were not seen.
    Source: definition; what rests on tied tokens says nothing of the router.
    """
    return _mean(s, "tied") if s.top_k < s.n_experts else np.full(np.shape(s.n_tokens), math.nan)


@metric("margin", "nats squared", "mean", label="Size of the logits (z-loss)")
def router_z(s: Sums) -> Floats:
    """Size of the logits, as the router z-loss measures it.

    Formula: mean_t logsumexp(z_t)^2.
    Unit: nats squared.
    Range: >= 0.
    Null: sigmoid and softplus routers, whose logits it does not normalise.
    Source: Zoph et al. 2022 (ST-MoE), eq. 5.
    """
    return _mean(s, "z_squared") if s.distribution not in LOG_SCORES else np.full(np.shape(s.n_tokens), math.nan)


def _mean(s: Sums, name: str) -> Floats:
    return s.scalar(name) / np.where(s.n_tokens > 0, s.n_tokens, np.nan)
