"""Reduce one `Routing` record to sufficient statistics, on the device that holds it.

Written once in the Python array API, so Metal, CUDA, MLX on a CPU and the NumPy reference run these same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from array_api_compat import array_namespace

from .record import Array, Distribution, Routing

SCALARS = (
    "entropy",  # H(p), nats
    "topk_entropy",  # H(g / sum g), nats
    "margin_prob",  # p_(1) - p_(2)
    "margin_weight",  # the same on renormalised g
    "selection_margin",  # lowest chosen minus best unchosen selection score
    "z_squared",  # logsumexp(z)^2
    "adjacent_shared",  # experts shared with the position before it in the same row
    "adjacent_pairs",  # how many have such a position before them
    "tied",  # 1 where the last expert chosen and the best one not chosen have the same selection score
)
"""Per-token quantities of which a tally holds the sum over a row's valid tokens, in this order."""

BLOCK = 32  # tokens summed at a time: fp32 error then grows with S/32, and not with how far a row was padded


@dataclass(frozen=True)
class Tally:
    """Sums over the valid tokens of each row of a batch, still on the device.

    n_tokens [B]; counts, top1_counts [B, R] integers; p_sum [B, R]; scalars [B, len(SCALARS)];
    non_finite [B]: valid tokens whose logits or weights are NaN or infinite;
    normalised [B]: valid tokens whose logits are shares already: none negative, and a sum of 1;
    pairs [R, R]: tokens of the batch that chose both experts (the diagonal is the counts);
    selected [B, S, R] float 0/1: S of the definitions, zero at padding, for `transition_counts`.
    """

    n_tokens: Array
    counts: Array
    top1_counts: Array
    p_sum: Array
    scalars: Array
    non_finite: Array
    normalised: Array
    pairs: Array
    selected: Array

    def arrays(self) -> list[Array]:
        """Everything to evaluate before it is read on the host."""
        return [getattr(self, name) for name in _ON_HOST]

    def on_host(self, host: Callable[[Array], Array]) -> Tally:
        """The same with ``host`` of every array but ``selected``."""
        return replace(self, **{name: host(getattr(self, name)) for name in _ON_HOST})


_ON_HOST = ("n_tokens", "counts", "top1_counts", "p_sum", "scalars", "non_finite", "normalised", "pairs")


def log_distribution(logits: Array, rule: Distribution) -> tuple[Array, Array, Array]:
    """(ln p [..., R], p [..., R], logsumexp(z) [...]) of fp32 logits z [..., R], stable for any finite z.

    For scores s other than softmax's, p is the softmax of ln s, which never divides by an underflowed sum.
    """
    log_p, p, log_sum = log_softmax(logits)
    if rule in LOG_SCORES:
        log_p, p, _ = log_softmax(LOG_SCORES[rule](logits))
    return log_p, p, log_sum


def softplus(x: Array) -> Array:
    """ln(1 + e^x), stable for any finite x."""
    xp = array_namespace(x)
    return xp.maximum(x, xp.zeros_like(x)) + xp.log1p(xp.exp(-xp.abs(x)))


def _log_sqrt_softplus(x: Array) -> Array:
    """ln sqrt(ln(1 + e^x)); far below 0 it is x / 2, where the inner logarithm would have lost all digits."""
    xp = array_namespace(x)
    far = x < -15
    return 0.5 * xp.where(far, x, xp.log(softplus(xp.where(far, xp.zeros_like(x), x))))


LOG_SCORES: dict[Distribution, Callable[[Array], Array]] = {
    "sigmoid_normalised": lambda z: -softplus(-z),
    "sqrt_softplus_normalised": _log_sqrt_softplus,
}
"""ln of the scores whose shares are p, of the rules that are not softmax."""


def entropy_of(log_p: Array, p: Array) -> Array:
    """H(p) [...] in nats of the first two that `log_distribution` gives."""
    xp = array_namespace(p)
    # Where p is 0, ln p may be -inf, and their product NaN.
    return -xp.sum(p * xp.where(p > 0, log_p, xp.zeros_like(p)), axis=-1)


def selection_matrix(indices: Array, n_experts: int) -> Array:
    """0/1 matrix [..., R] bool of which experts the indices [..., K] name."""
    xp = array_namespace(indices)
    numbers = xp.astype(indices, xp.int16)
    # Not `any`, which torch reduces three times slower on a CPU; the others take as long either way.
    return xp.max(xp.astype(numbers[..., None] == _columns(numbers, n_experts), xp.int16), axis=-2) > 0


def selected_of(chosen: Array, mask: Array) -> Array:
    """``Tally.selected`` [B, S, R] of a `selection_matrix` and a mask [B, S]."""
    xp = array_namespace(chosen)
    return xp.astype(xp.logical_and(chosen, mask[..., None]), xp.float32)


def tally(routing: Routing, before: Array | None = None) -> Tally:
    """Sums per row of what one router said about one batch.

    before: [B, R] ``selected`` of the position just before the batch's first, for a sequence that is run in pieces;
    zeros where there is none. Adjacent positions then count as in one piece.
    """
    xp = array_namespace(routing.logits)
    n_experts, top_k = routing.logits.shape[-1], routing.indices.shape[-1]
    mask = routing.mask
    valid = mask[..., None]
    log_p, p, log_sum = log_distribution(routing.logits, routing.distribution)
    chosen = selection_matrix(routing.indices, n_experts)
    selected = selected_of(chosen, mask)

    # Ties go to the lowest index: argmax returns the first of equals.
    top1 = xp.argmax(xp.where(chosen, p, xp.zeros_like(p) - 1), axis=-1)
    is_top1 = top1[..., None] == _columns(top1, n_experts)
    weights = routing.weights
    total = xp.sum(weights, axis=-1)
    finite = xp.logical_and(xp.isfinite(log_sum), xp.isfinite(total))
    first = xp.zeros_like(selected[:, :1]) if before is None else before[:, None]
    previous = xp.concat([first, selected[:, :-1]], axis=1)
    margin = selection_margin_of(routing.selection if routing.selection is not None else p, chosen)
    per_token = {
        "entropy": entropy_of(log_p, p),
        **_weight_scalars(weights, total, top_k),
        "margin_prob": top_two_gap(p),
        "selection_margin": margin,
        "tied": xp.astype(margin == 0, xp.float32),
        "z_squared": log_sum * log_sum,
        "adjacent_shared": xp.sum(previous * selected, axis=-1),
        "adjacent_pairs": xp.astype(xp.logical_and(xp.any(previous > 0, axis=-1), mask), xp.float32),
    }
    scalars = xp.stack([per_token[name] for name in SCALARS], axis=-1)
    flat = xp.reshape(selected, (-1, n_experts))
    return Tally(
        n_tokens=xp.sum(xp.astype(mask, xp.int32), axis=1),
        counts=xp.sum(xp.astype(selected, xp.int32), axis=1),
        top1_counts=xp.sum(xp.astype(xp.logical_and(is_top1, valid), xp.int32), axis=1),
        p_sum=_sum_tokens(xp.where(valid, p, xp.zeros_like(p))),
        scalars=_sum_tokens(xp.where(valid, scalars, xp.zeros_like(scalars))),
        non_finite=xp.sum(xp.astype(xp.logical_and(mask, xp.logical_not(finite)), xp.int32), axis=1),
        normalised=xp.sum(xp.astype(xp.logical_and(mask, _is_normalised(routing.logits)), xp.int32), axis=1),
        pairs=xp.matmul(xp.matrix_transpose(flat), flat),
        selected=selected,
    )


def transition_counts(previous: Array, current: Array) -> Array:
    """[R1, R2] how often a token that chose i at one router chose j at the next, from two ``Tally.selected``.

    Every one of a token's K1 x K2 pairs counts once. Exact in float32 up to 2^24 tokens a batch.
    """
    xp = array_namespace(previous)
    first = xp.reshape(previous, (-1, previous.shape[-1]))
    return xp.matmul(xp.matrix_transpose(first), xp.reshape(current, (-1, current.shape[-1])))


def log_softmax(x: Array) -> tuple[Array, Array, Array]:
    """(x - logsumexp(x), its exponential, logsumexp(x)), with one exponential per element: they cost the most.

    The maximum goes first: x - logsumexp(x) would lose the digits of a large x.
    """
    xp = array_namespace(x)
    largest = xp.max(x, axis=-1, keepdims=True)
    shifted = x - largest
    powers = xp.exp(shifted)
    total = xp.sum(powers, axis=-1, keepdims=True)
    log_sum = xp.log(total)
    return shifted - log_sum, powers / total, (log_sum + largest)[..., 0]


def _weight_scalars(weights: Array, total: Array, top_k: int) -> dict[str, Array]:
    """Entropy and top-two gap of g renormalised over the chosen; a token whose weights are all zero adds 0."""
    xp = array_namespace(weights)
    q = weights / xp.where(total > 0, total, xp.zeros_like(total) + 1)[..., None]
    positive = q > 0
    entropy = -xp.sum(
        xp.where(positive, q * xp.log(xp.where(positive, q, xp.zeros_like(q) + 1)), xp.zeros_like(q)), axis=-1
    )
    if top_k == 1:
        return {"topk_entropy": entropy, "margin_weight": xp.zeros_like(entropy)}
    ordered = xp.sort(q, axis=-1)
    return {"topk_entropy": entropy, "margin_weight": ordered[..., -1] - ordered[..., -2]}


def top_two_gap(p: Array) -> Array:
    """p_(1) - p_(2) of distributions [..., R]; 0 where there is one expert."""
    xp = array_namespace(p)
    if p.shape[-1] == 1:
        return xp.zeros_like(p[..., 0])
    best = xp.argmax(p, axis=-1)
    is_best = best[..., None] == _columns(best, p.shape[-1])
    return xp.max(p, axis=-1) - xp.max(xp.where(is_best, xp.zeros_like(p), p), axis=-1)


def selection_margin_of(scores: Array, chosen: Array) -> Array:
    """Lowest chosen minus best unchosen score; NaN where no expert was left to choose (K = E, dropped groups)."""
    xp = array_namespace(scores)
    infinity = xp.zeros_like(scores) + float("inf")
    worst = xp.min(xp.where(chosen, scores, infinity), axis=-1)
    rival = xp.max(xp.where(chosen, -infinity, scores), axis=-1)
    return worst - xp.where(xp.isinf(rival), xp.zeros_like(rival) + float("nan"), rival)


def _columns(like: Array, n: int) -> Array:
    """0 ... n - 1 in the dtype and on the device of ``like``; MLX has one memory, and no devices of arrays."""
    where = {} if getattr(like, "device", None) is None else {"device": like.device}
    return array_namespace(like).arange(n, dtype=like.dtype, **where)


def _is_normalised(logits: Array) -> Array:
    """[...] whether logits are shares already; a sum of shares in bfloat16 may be off by 0.004."""
    xp = array_namespace(logits)
    return xp.logical_and(xp.min(logits, axis=-1) >= 0, xp.abs(xp.sum(logits, axis=-1) - 1) < 0.01)


def _sum_tokens(x: Array) -> Array:
    """Sum [B, S, C] over S in blocks, then over the blocks, so that trailing padding does not regroup the sum."""
    xp = array_namespace(x)
    batch, length, columns = x.shape
    whole = length // BLOCK * BLOCK
    blocks = xp.sum(xp.reshape(x[:, :whole], (batch, whole // BLOCK, BLOCK, columns)), axis=2)
    rest = xp.sum(x[:, whole:], axis=1)
    return xp.sum(blocks, axis=1) + rest
