"""Losses on what routers say, as pure functions of MLX arrays.

Every loss is a function of `TokenSums`, sums over tokens that may come from one sequence, one batch, a window of
batches or several machines; what they are summed over is the loss's scope. G groups of tokens, R experts, K chosen.
Counts of selections carry no gradient, the routing distribution p and the logits do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import mlx.core as mx

from ..routing.record import Array, Routing
from ..routing.tally import log_distribution, selection_matrix

Signal = Literal["marginal", "token", "load"]
Scope = Literal["sequence", "batch", "window"]


@dataclass(frozen=True)
class TokenSums:
    """Sums over the valid tokens of each of G groups.

    p: [G, R] of the routing distribution; counts: [G, R] of selections; entropy: [G] of H(p_t), nats; z_squared: [G]
    of logsumexp(z_t)^2; n: [G] tokens. All float32.
    """

    p: Array
    counts: Array
    entropy: Array
    z_squared: Array
    n: Array

    def arrays(self) -> list[Array]:
        """The fields in order."""
        return [getattr(self, field.name) for field in fields(self)]

    def map(self, f: Callable[..., Array], *others: TokenSums) -> TokenSums:
        """``f`` of each field, with the same field of ``others``."""
        return TokenSums(*map(f, *(sums.arrays() for sums in (self, *others))))


def token_sums(routing: Routing, scope: Scope = "batch") -> TokenSums:
    """The sums of one router on one batch: a group per row for scope ``sequence``, else one group.

    Padding, where ``routing.mask`` is False, adds nothing.
    """
    valid = routing.mask[..., None]
    # Padding is cut out here and not only from the sums: a gradient of 0 times a NaN would still be NaN.
    log_p, p, log_sum = log_distribution(mx.where(valid, routing.logits, 0), routing.distribution)
    chosen = mx.stop_gradient(selection_matrix(routing.indices, p.shape[-1]).astype(mx.float32))
    # Where p is 0, ln p may be -inf, and their product NaN.
    entropy = -(p * mx.where(p > 0, log_p, 0)).sum(-1)
    per_row = TokenSums(
        p=mx.where(valid, p, 0).sum(1),
        counts=mx.where(valid, chosen, 0).sum(1),
        entropy=mx.where(routing.mask, entropy, 0).sum(1),
        z_squared=mx.where(routing.mask, log_sum * log_sum, 0).sum(1),
        n=routing.mask.astype(mx.float32).sum(1),
    )
    return per_row if scope == "sequence" else per_row.map(lambda x: x.sum(0, keepdims=True))


def entropy_of(shares: Array) -> Array:
    """H of distributions [..., R] that sum to 1, nats, in [0, ln R]. A share of 0 adds 0, with gradient 0."""
    return -(shares * mx.log(mx.where(shares > 0, shares, 1))).sum(-1)


def marginal_entropy(sums: TokenSums) -> Array:
    """H(p-bar), p-bar the mean routing distribution of each group: [G], nats, in [0, ln R]."""
    return entropy_of(sums.p / mx.maximum(sums.n, 1)[:, None])


def token_entropy(sums: TokenSums) -> Array:
    """mean_t H(p_t) of each group: [G], nats, in [0, ln R]."""
    return sums.entropy / mx.maximum(sums.n, 1)


def load_entropy(sums: TokenSums) -> Array:
    """H(f), f the share of selections of each expert: [G], nats, in [ln K, ln R]. Without gradient."""
    return mx.stop_gradient(entropy_of(sums.counts / mx.maximum(sums.counts.sum(-1, keepdims=True), 1)))


def signal_entropy(sums: TokenSums, signal: Signal = "marginal") -> Array:
    """The entropy that a floor looks at: [G], nats.

    ``marginal``: H(p-bar). ``token``: mean_t H(p_t), which says how undecided the router is about
    each token and not whether it uses its experts. ``load``: H(f) in value, with the gradient of H(p-bar), because
    the load itself has none.
    """
    if signal == "token":
        return token_entropy(sums)
    marginal = marginal_entropy(sums)
    return marginal if signal == "marginal" else load_entropy(sums) + marginal - mx.stop_gradient(marginal)


def entropy_floor(sums: TokenSums, floor: float, signal: Signal = "marginal") -> Array:
    """mean over groups of max(0, floor - H): scalar, nats, in [0, floor]; 0 where every group reaches the floor.

    floor: nats, at most ln R. Groups without a token do not count.
    Source: L_div of MoE-Bench, max(0, tau - H_l) per layer with the token signal; the other signals are ours.
    """
    return _mean_over_groups(mx.maximum(floor - signal_entropy(sums, signal), 0), sums)


def balance_loss(sums: TokenSums, load: Array | None = None) -> Array:
    """mean over groups of R sum_i f_i P_i, P = p-bar: scalar, 1 at balance, at most R / K.

    One group for the batch is the loss of the Switch Transformer (Fedus et al. 2022, eq. 4, generalised to K), one
    per sequence that of DeepSeek-V2's sequence balance. load: f [G, R] from elsewhere, for a balance over more than
    this batch ("global-batch balance", Qiu et al. 2025); None takes it from ``sums``.
    """
    if load is None:
        load = sums.counts / mx.maximum(sums.counts.sum(-1, keepdims=True), 1)
    mean_p = sums.p / mx.maximum(sums.n, 1)[:, None]
    return _mean_over_groups(sums.p.shape[-1] * (mx.stop_gradient(load) * mean_p).sum(-1), sums)


def hetero_balance_loss(sums: TokenSums, eta: Array) -> Array:
    """mean over groups of R^2 / sum(eta) sum_i eta_i f_i P_i: scalar, 1 at balance.

    eta: [R], what a column weighs; columns of small weight are free to be used more or less. With all alike it is
    `balance_loss`. Source: MoE++ (Jin et al. 2024), where experts that cost nothing weigh less.
    """
    load = sums.counts / mx.maximum(sums.counts.sum(-1, keepdims=True), 1)
    return balance_loss(sums, load * (eta * (eta.size / eta.sum())))


def ternary_balance_loss(sums: TokenSums, n_experts: int) -> Array:
    """`balance_loss` over N experts of which column i adds and column N + i takes off: scalar, 1 at balance.

    f and P of both columns are summed, and what is null is in neither: each is of the picks, and of the scores, that
    name an expert. Source: TC-MoE (Yan et al. 2025).
    """
    counts, p = (x[:, :n_experts] + x[:, n_experts : 2 * n_experts] for x in (mx.stop_gradient(sums.counts), sums.p))
    share = p / mx.maximum(p.sum(-1, keepdims=True), 1e-20)
    load = counts / mx.maximum(counts.sum(-1, keepdims=True), 1)
    return _mean_over_groups(n_experts * (load * share).sum(-1), sums)


def entropy_deficit(sums: TokenSums) -> Array:
    """mean over groups of ln R - H(p-bar): scalar, nats, 0 at balance. Source: sigma-MoE (Csordas et al. 2023)."""
    return _mean_over_groups(math.log(sums.p.shape[-1]) - marginal_entropy(sums), sums)


def balanced_bias(bias: Array, counts: Array, rate: float) -> Array:
    """The selection bias [R] after a step in which experts were chosen ``counts`` [R] times: no loss, and no gradient.

    b_i += rate sign(mean counts - counts_i). Source: loss-free balancing (Wang et al. 2024), DeepSeek-V3.
    """
    return bias + rate * mx.sign(counts.mean() - counts)


def router_z_loss(sums: TokenSums) -> Array:
    """mean over groups of mean_t logsumexp(z_t)^2: scalar, >= 0. Source: ST-MoE (Zoph et al. 2022), eq. 5."""
    return _mean_over_groups(sums.z_squared / mx.maximum(sums.n, 1), sums)


def _mean_over_groups(values: Array, sums: TokenSums) -> Array:
    """Mean of [G] over the groups that have a token."""
    has = sums.n > 0
    return mx.where(has, values, 0).sum() / mx.maximum(has.sum(), 1)
