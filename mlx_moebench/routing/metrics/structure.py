"""Which experts go together: from token to token, within a token, and from router to router."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..sums import Floats, Sums
from .registry import Even, metric


@metric(
    "structure",
    "share of experts",
    "mean",
    high=lambda e, k: 1.0,
    label="Experts shared by adjacent tokens",
    even=Even("chance under even routing, K/E", lambda e, k: k / e),
)
def adjacent_overlap(s: Sums) -> Floats:
    """Share of a token's experts that the next token of the same sequence uses again.

    Formula: mean |A_t n A_(t+1)| / K over adjacent valid positions.
    Unit: share of experts.
    Range: [0, 1]; K/E by chance under even routing.
    Null: no two adjacent tokens.
    Source: ours, what an expert cache lives on. Jiang et al. 2024 (Mixtral), table 5, counts something else: how often
        adjacent tokens have the same first choice, or any expert in common.
    """
    pairs = s.scalar("adjacent_pairs")
    return np.asarray(s.scalar("adjacent_shared") / (s.top_k * np.where(pairs > 0, pairs, np.nan)))


def coactivation(pairs: npt.ArrayLike) -> Floats:
    """How often expert j is used by the tokens that use expert i.

    Formula: C_ij = N_ij / N_i over all pairs of a token's chosen experts; the diagonal is NaN.
    Unit: share of the tokens of expert i; [R, R] from pair counts [R, R] whose diagonal is N_i.
    Range: [0, 1]; chance (K-1)/(E-1).
    Null: NaN for an expert without tokens.
    Source: Muennighoff et al. 2024 (OLMoE), section 5.2, but over all pairs, not rank-adjacent ones.
    """
    n = np.asarray(pairs, dtype=np.float64)
    of_expert = np.diag(n)
    result: Floats = n / np.where(of_expert > 0, of_expert, np.nan)[:, None]
    np.fill_diagonal(result, np.nan)
    return result


def coactivation_lift(pairs: npt.ArrayLike, n_tokens: int) -> Floats:
    """Co-activation relative to independent choices of the two experts.

    Formula: N_ij T / (N_i N_j); the diagonal is NaN.
    Unit: ratio; [R, R].
    Range: >= 0; chance is E(K-1) / (K(E-1)), not 1, since a token's experts differ.
    Null: NaN where either expert has no token.
    Source: lift of association rules (Brin et al. 1997).
    """
    n = np.asarray(pairs, dtype=np.float64)
    of_expert = np.where(np.diag(n) > 0, np.diag(n), np.nan)
    result: Floats = n * n_tokens / (of_expert[:, None] * of_expert[None, :])
    np.fill_diagonal(result, np.nan)
    return result


def chance_lift(n_experts: int, top_k: int) -> float:
    """`coactivation_lift` under even routing, E(K-1) / (K(E-1)); NaN for a single expert."""
    return n_experts * (top_k - 1) / (top_k * (n_experts - 1)) if n_experts > 1 else math.nan


def transition(counts: npt.ArrayLike, next_top_k: int) -> Floats:
    """Where the tokens of an expert go at the next router.

    Formula: P(j | i) = pairs (i here, j at the next router) / (N_i K_next), all K x K_next pairs; rows sum to 1.
    Unit: share; [R1, R2].
    Range: [0, 1]; 1/E_next by chance under even routing.
    Null: NaN for an expert without tokens.
    Source: definition; conditional distribution of the next router's selection.
    """
    n = np.asarray(counts, dtype=np.float64)
    of_expert = n.sum(axis=1) / next_top_k
    result: Floats = n / (np.where(of_expert > 0, of_expert, np.nan) * next_top_k)[:, None]
    return result
