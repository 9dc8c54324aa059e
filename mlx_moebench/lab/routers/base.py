"""What a router of the lab is: independent choices, a gate that makes logits, and one function that makes the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Literal, NamedTuple, get_args

import mlx.core as mx
import mlx.nn as nn

from ...errors import TrainingError, did_you_mean
from ...routing.record import Array, Kind, Routing

Score = Literal["softmax", "sigmoid"]
Balance = Literal[
    "none",
    "switch",
    "sequence",
    "global",
    "hetero",
    "ternary",
    "entropy",
    "floor",
    "floor_sequence",
    "floor_global",
]
Spec = Literal["paper", "libmoe"]
"""``paper``: as the method's own paper has it. ``libmoe``: as the code of LibMoE trains it, where that differs."""

FFN: Kind = "ffn"

SMALLEST = 1e-20
"""What weights are at least divided by: a token may choose nothing but zero experts."""


@dataclass(kw_only=True)
class Axes:
    """The choices that make a router, each independent of the others; their names are keys of config.json.

    num_experts: N, those with weights of their own, 0 for a dense model; num_experts_per_tok: K chosen columns.
    special_experts: what the columns behind the N are, in order; their number beside it is for readers of headers.
    scoring_func: softmax or sigmoid of the logits. norm_topk_prob: whether chosen scores are divided by their sum.
    routed_scaling_factor: of the weights after that.
    selection_bias: whether a bias is added to the scores for the choice alone; bias_update: what a step moves it by.
    n_group, topk_group: the choice is limited to so many of so many groups of neighbours, by the sum of their two best.
    shared_experts: width of an FFN that every token goes through, in widths of an expert, 0 for none. shared_scale:
    what its output is multiplied by before the routed one is added.
    double_softmax: whether the logits are a softmax themselves. expert_dropout: in training, the chance that an expert
    cannot be chosen by a token. unit_rows: the gate's rows begin with one and the same norm.
    balance: the loss on the load, balance_weight its coefficient, eta what a column of another kind than ffn weighs in
    ``hetero``, reward the coefficient of the mean score of null experts, which is taken off the loss. floor: of the
    entropy floors, the entropy below which they pull, as a part of ln R. window: of ``global`` and ``floor_global``,
    the last so many micro-batches, 0 for those of the update.
    """

    num_experts: int
    num_experts_per_tok: int
    num_special_experts: int = 0
    special_experts: list[Kind] = field(default_factory=list)
    scoring_func: Score = "softmax"
    norm_topk_prob: bool = True
    routed_scaling_factor: float = 1.0
    selection_bias: bool = False
    bias_update: float = 0.0
    n_group: int = 1
    topk_group: int = 1
    shared_experts: int = 0
    shared_scale: float = 1.0
    neg_offset: float = 0.0
    null_offset: float = 0.0
    double_softmax: bool = False
    expert_dropout: float = 0.0
    unit_rows: bool = False
    balance: Balance = "sequence"
    balance_weight: float = 0.01
    eta: float = 1.0
    reward: float = 0.0
    floor: float = 0.95
    window: int = 0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each of the R routable columns is, experts first."""
        return (FFN,) * self.num_experts + tuple(self.special_experts)

    @property
    def signs(self) -> tuple[int, ...] | None:
        """The sign that each column's output enters with; None where all are +1."""
        return tuple(-1 if kind == "neg" else 1 for kind in self.kinds) if "neg" in self.special_experts else None


def check_axes(axes: Axes) -> None:
    """Raise TrainingError for choices that no router can have together; of dense models there is nothing to check."""
    _check_words(axes)
    _check_numbers(axes)
    columns, k = len(axes.kinds), axes.num_experts_per_tok
    if axes.num_experts < 1 or not 1 <= k <= columns:
        raise TrainingError(
            f"A token chooses num_experts_per_tok = {k} of {columns} columns, num_experts = {axes.num_experts} of them "
            "experts; give 1 or more experts, and choose 1 or more of what there is."
        )
    groups, kept = axes.n_group, axes.topk_group
    if groups < 1 or columns % groups or not 1 <= kept <= groups or k > kept * columns // groups:
        raise TrainingError(
            f"topk_group = {kept} of n_group = {groups} groups cannot be kept of {columns} columns for "
            f"num_experts_per_tok = {k}: groups are of one size, and those that are kept hold what is chosen."
        )


def _check_words(axes: Axes) -> None:
    for name, known in (("balance", get_args(Balance)), ("scoring_func", get_args(Score))):
        if (value := getattr(axes, name)) not in known:
            raise TrainingError(f"{name} is {value!r}.{did_you_mean(value, list(known))}")
    for kind in axes.special_experts:
        if kind not in get_args(Kind):
            raise TrainingError(f"special_experts holds {kind!r}.{did_you_mean(str(kind), list(get_args(Kind)))}")
    if axes.num_special_experts != len(axes.special_experts):
        raise TrainingError(
            f"num_special_experts is {axes.num_special_experts}, but special_experts has {len(axes.special_experts)}."
        )
    if axes.balance == "ternary" and "neg" not in axes.kinds:
        raise TrainingError("The ternary balance is for experts that are added and taken off; choose another.")


def _check_numbers(axes: Axes) -> None:
    for one in fields(axes):
        value = getattr(axes, one.name)
        if one.type == "float" and not math.isfinite(value):
            raise TrainingError(f"{one.name} is {value!r}; give a number.")
    if not 0 <= axes.expert_dropout < 1:
        raise TrainingError(f"expert_dropout is {axes.expert_dropout!r}; give 0 or more, and less than 1.")
    if not 0 <= axes.floor <= 1:
        raise TrainingError(f"floor is {axes.floor!r}; give a part of ln R, from 0 to 1.")
    for name in ("shared_experts", "balance_weight", "bias_update", "window"):
        if getattr(axes, name) < 0:
            raise TrainingError(f"{name} is {getattr(axes, name)!r}; give 0 or more.")


def halved(axes: Axes) -> Axes:
    """The same with routed and shared output counting half each, which keeps an upcycled model what it was."""
    return replace(axes, routed_scaling_factor=axes.routed_scaling_factor / 2, shared_scale=axes.shared_scale / 2)


class Gate(nn.Module):
    """x -> logits [..., R], R rows of ``weight``: what a router's gate is a subclass of, where it is no linear layer.

    moe_layer: which of the model's routers it is, from 0. carries: whether it is called with the logits of the router
    before it, too. Its parameters are drawn by `initial.initialise`.
    """

    carries = False

    def __init__(self, axes: Axes, hidden_size: int, moe_layer: int) -> None:
        super().__init__()
        self.weight = drawn(len(axes.kinds), hidden_size)


def drawn(rows: int, columns: int) -> Array:
    """A matrix from N(0, 1 / columns), until it is loaded or drawn anew."""
    return mx.random.normal((rows, columns)) * columns**-0.5


class Sizes(NamedTuple):
    """What a preset of a router may look at.

    n_experts, top_k: of ``smoe``, whose total all routers keep to. n_constant: constant experts of ``moepp``, None for
    its own rule.
    """

    n_experts: int
    top_k: int
    n_constant: int | None = None


@dataclass(frozen=True)
class Router:
    """A named router: the axes that make it, by size and spec, and its gate, of a plain linear layer None.

    title: what it is, with its source.
    """

    name: str
    title: str
    axes: Callable[[Sizes, Spec], Axes]
    gate: type[Gate] | None = None

    def make_gate(self, axes: Axes, hidden_size: int, moe_layer: int) -> nn.Module:
        """The gate of one block. A plain layer can be quantised and adapted as any other."""
        if self.gate is None:
            return nn.Linear(hidden_size, len(axes.kinds), bias=False)
        return self.gate(axes, hidden_size, moe_layer)


def route(axes: Axes, logits: Array, bias: Array | None = None, alive: Array | None = None) -> Routing:
    """The record of a router that said ``logits`` [B, S, R] float32.

    bias: [R] of the choice alone. alive: [B, S, R] bool, False where a column cannot be chosen (expert dropout).
    Indices are sorted by selection score, the best first. Weights are those of ``families.lab``: positive, whatever
    the sign of a column.
    """
    scores = mx.softmax(logits, axis=-1) if axes.scoring_func == "softmax" else mx.sigmoid(logits)
    selection = mx.stop_gradient(scores)
    limited = axes.n_group > axes.topk_group
    if bias is not None:
        selection = selection + bias
    if limited:
        selection = _limited(axes, selection)
    ranked = selection if alive is None else mx.where(alive, selection, -mx.inf)
    indices = top_k(ranked, axes.num_experts_per_tok)
    weights = _weights(axes, scores, indices)
    mask = mx.ones(logits.shape[:2], dtype=mx.bool_)
    return Routing(
        logits,
        indices,
        weights,
        mask,
        "softmax" if axes.scoring_func == "softmax" else "sigmoid_normalised",
        selection if bias is not None or limited else None,
        axes.kinds if axes.special_experts else None,
        axes.signs,
    )


def top_k(ranked: Array, k: int) -> Array:
    """The indices [..., K] of the K largest of [..., R], the largest first; without gradient."""
    ranked = mx.stop_gradient(ranked)
    some = mx.argpartition(-ranked, kth=k - 1, axis=-1)[..., :k] if k < ranked.shape[-1] else mx.argsort(-ranked)
    order = mx.argsort(-mx.take_along_axis(ranked, some, axis=-1), axis=-1)
    return mx.stop_gradient(mx.take_along_axis(some, order, axis=-1))


def _limited(axes: Axes, selection: Array) -> Array:
    """``selection`` with -inf for the groups that are dropped, by the sum of their two best."""
    groups = selection.reshape(*selection.shape[:-1], axes.n_group, -1)
    best = mx.topk(groups, min(2, groups.shape[-1]), axis=-1).sum(axis=-1)
    rank = mx.argsort(mx.argsort(-best, axis=-1), axis=-1)
    return mx.where((rank < axes.topk_group)[..., None], groups, -mx.inf).reshape(selection.shape)


def _weights(axes: Axes, scores: Array, indices: Array) -> Array:
    """g [B, S, K] of the scores [B, S, R]."""
    chosen, kinds = mx.take_along_axis(scores, indices, axis=-1), axes.kinds
    if "zero" in kinds:
        chosen = mx.where(is_of_kind(axes, "zero", indices), 0.0, chosen)
    if axes.norm_topk_prob:
        divisor = chosen
        if "null" in kinds:
            divisor = mx.where(is_of_kind(axes, "null", indices), 0.0, chosen)
        total = divisor.sum(axis=-1, keepdims=True)
        if "null" in kinds:
            first = kinds.index("null")
            total = total + scores[..., first : first + kinds.count("null")].sum(axis=-1, keepdims=True)
        chosen = chosen / (mx.maximum(total, SMALLEST) if {"zero", "null"} & set(kinds) else total)
    return chosen if axes.routed_scaling_factor == 1 else chosen * axes.routed_scaling_factor


def is_of_kind(axes: Axes, kind: Kind, indices: Array) -> Array:
    """Where ``indices`` name a column of this kind, bool; columns of one kind are neighbours."""
    first = axes.kinds.index(kind)
    return mx.logical_and(indices >= first, indices < first + axes.kinds.count(kind))
