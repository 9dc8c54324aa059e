"""How spread routing is: per token, over the chosen, and over the corpus. All in nats."""

from __future__ import annotations

import math

import numpy as np

from ..sums import Floats, Sums
from .registry import Even, metric


@metric(
    "entropy",
    "nats",
    "mean",
    high=lambda e, k: math.log(e),
    label="Mean entropy of a token's routing",
    even=Even("undecided about every token, ln E", lambda e, k: math.log(e)),
)
def mean_entropy(s: Sums) -> Floats:
    """Entropy of the routing distribution, averaged over tokens.

    Formula: mean_t H(p_t), H(p) = -sum_i p_i ln p_i.
    Unit: nats.
    Range: [0, ln E]; ln E when every token is undecided.
    Null: no token, or the logits were not seen.
    Source: Shannon 1948, of the router's softmax; most likely the "mean entropy" of published routing tables.
    """
    return s.scalar("entropy") / _tokens(s)


@metric(
    "entropy",
    "nats",
    "mean",
    high=lambda e, k: math.log(k),
    label="Entropy of the gate weights",
    even=Even("equal gate weights, ln K", lambda e, k: math.log(k)),
)
def topk_entropy(s: Sums) -> Floats:
    """Entropy of the gate weights over the chosen experts, averaged over tokens.

    Formula: mean_t H(g_t / sum_k g_tk).
    Unit: nats.
    Range: [0, ln K].
    Null: no token, or the logits were not seen; 0 always when K = 1.
    Source: Chernov 2025 (gate entropy of OLMoE on MMLU).
    """
    return s.scalar("topk_entropy") / _tokens(s)


@metric("entropy", "ratio", "mean", high=lambda e, k: 1.0, label="Entropy of the gate weights / ln K")
def ewa(s: Sums) -> Floats:
    """Expert weight allocation: `topk_entropy` as a fraction of its largest value.

    Formula: mean_t H(g_t / sum g_t) / ln K.
    Unit: ratio.
    Range: [0, 1].
    Null: K = 1.
    Source: LibMoE, section 5 (EWA).
    """
    return topk_entropy(s) / (math.log(s.top_k) if s.top_k > 1 else math.nan)


@metric(
    "entropy",
    "nats",
    "plugin",
    low=lambda e, k: math.log(k),
    high=lambda e, k: math.log(e),
    label="Entropy of the load",
    even=Even("even load, ln E", lambda e, k: math.log(e)),
)
def load_entropy(s: Sums) -> Floats:
    """Entropy of the load.

    Formula: H(f), f_i = sum_t S_ti / (K T).
    Unit: nats.
    Range: [ln K, ln E]; ln E when every expert gets the same number of selections.
    Null: no token. The plug-in value is too low, by `load_entropy_bias` if selections were independent and by more
        where they are not; reports show it corrected.
    Source: LibMoE, appendix D.1 (in bits there, and normalised).
    """
    return s.load_entropy


@metric("entropy", "nats", "none", label="Bias of the entropy of the load")
def load_entropy_bias(s: Sums) -> Floats:
    """Size of the downward bias of `load_entropy` if selections were independent.

    Formula: (m - 1) / (2 K T), m = experts with a selection.
    Unit: nats.
    Range: >= 0.
    Null: no token.
    Source: Miller 1955; Madow 1948.
    """
    return np.asarray(((s.counts > 0).sum(axis=-1) - 1) / (2 * s.top_k * _tokens(s)))


@metric(
    "entropy",
    "ratio",
    "plugin",
    low=lambda e, k: math.log(k) / math.log(e),
    high=lambda e, k: 1.0,
    label="Entropy of the load / ln E",
)
def eae(s: Sums) -> Floats:
    """Expert allocation entropy: `load_entropy` as a fraction of its largest value.

    Formula: H(f) / ln E.
    Unit: ratio.
    Range: [ln K / ln E, 1].
    Null: no token, or E = 1.
    Source: LibMoE, appendix D.1 (EAE).
    """
    return s.load_entropy / (math.log(s.n_experts) if s.n_experts > 1 else math.nan)


@metric(
    "entropy",
    "nats",
    "plugin",
    high=lambda e, k: math.log(e),
    label="Entropy of the mean routing",
    even=Even("even on average, ln E", lambda e, k: math.log(e)),
)
def marginal_entropy(s: Sums) -> Floats:
    """Entropy of the routing distribution averaged over the corpus.

    Formula: H(p-bar), p-bar = mean_t p_t. Equals mean_entropy + token_information exactly.
    Unit: nats.
    Range: [0, ln E].
    Null: no token, or the logits were not seen.
    Source: Shannon entropy of a mixture.
    """
    return s.marginal_entropy


@metric(
    "entropy",
    "nats",
    "plugin",
    high=lambda e, k: math.log(e),
    label="Information of token about expert",
    even=Even("every token routed alike, 0", lambda e, k: 0.0),
)
def token_information(s: Sums) -> Floats:
    """How much a token tells about its expert, soft.

    Formula: H(p-bar) - mean_t H(p_t) = I(token; expert).
    Unit: nats.
    Range: [0, ln E]; 0 when every token is routed alike.
    Null: no token, or the logits were not seen.
    Source: mutual information of token and expert (Jensen-Shannon divergence of the p_t).
    """
    # Jensen's inequality makes it >= 0; rounding can leave -1e-16.
    return np.maximum(s.marginal_entropy - mean_entropy(s), 0.0)


def _tokens(s: Sums) -> Floats:
    return np.where(s.n_tokens > 0, s.n_tokens, np.nan)
