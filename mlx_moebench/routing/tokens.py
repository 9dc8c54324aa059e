"""What one router said of every single token, for traces and for questions that sums cannot answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from array_api_compat import array_namespace

from ..types import HostArray
from .record import Array, Integers, Mask, Phase, Reals, Routing
from .sums import Sums
from .tally import entropy_of, log_distribution, selection_margin_of, selection_matrix

if TYPE_CHECKING:
    from .stats import Cluster

TOKEN_SCALARS = ("entropy", "selection_margin")
"""The quantities of a token that are kept for every router, by their names in `tally.SCALARS`."""


@dataclass(frozen=True)
class TokenRouting:
    """One router on a batch, token by token, still on the device.

    experts: [B, S, K] as the experts received them. p, weights: [B, S, K] their routing probabilities and gate weights.
    entropy: [B, S] H(p) over all R columns, nats. selection_margin: [B, S] as in `tally`; NaN where nothing was left
    to choose. Positions outside the mask hold values that mean nothing.
    """

    experts: Array
    p: Array
    weights: Array
    entropy: Array
    selection_margin: Array

    def arrays(self) -> list[Array]:
        """Everything to evaluate before it is read on the host."""
        return [self.experts, self.p, self.weights, self.entropy, self.selection_margin]


@dataclass(frozen=True)
class TokenBlock:
    """What one router said in one phase of one forward pass, on the host.

    number: of the router, in running order. start: position in its sequence of the first column. mask: [B, S] True at
    the tokens of this phase. experts, p, weights: [B, S, K]; scalars: [B, S] each of `TOKEN_SCALARS`.
    sums: of each row's tokens, as they went into the statistics. clusters: [B] whose tokens a row has.
    """

    phase: Phase
    number: int
    start: int
    mask: Mask
    experts: Integers
    p: Reals
    weights: Reals
    scalars: dict[str, Reals]
    sums: Sums
    clusters: tuple[Cluster, ...]


def token_routing(routing: Routing) -> TokenRouting:
    """The record of one router, reduced to what is kept of each token; the same p, bit by bit, as in `tally`."""
    xp = array_namespace(routing.logits)
    log_p, p, _ = log_distribution(routing.logits, routing.distribution)
    chosen = selection_matrix(routing.indices, routing.logits.shape[-1])
    return TokenRouting(
        routing.indices,
        xp.take_along_axis(p, routing.indices, axis=-1),
        routing.weights,
        entropy_of(log_p, p),
        selection_margin_of(routing.selection if routing.selection is not None else p, chosen),
    )


def ranked(experts: Integers, p: Reals, *others: HostArray) -> list[HostArray]:
    """``experts`` and ``others`` [..., K] with the slots in descending order of p, ties by the lower index.

    Slot 0 is then the first choice that `tally` counts: the chosen expert of largest p, ties to the lowest index.

    >>> ranked(np.array([3, 1, 2]), np.array([0.25, 0.25, 0.5]))[0]
    array([2, 1, 3])
    """
    order = np.lexsort((experts, -p), axis=-1)
    return [np.take_along_axis(array, order, axis=-1) for array in (experts, *others)]


@dataclass(frozen=True)
class Choices:
    """What one router said of the S tokens of a sequence.

    experts: [S, K], in descending order of p, so that the first is the top-1. weights: [S, K] gate weights of them.
    entropy: [S] H(p), nats. margin: [S] selection margin; NaN where K = R and nothing was left to choose.
    """

    experts: Integers
    weights: Reals
    entropy: Reals
    margin: Reals

    def first(self, tokens: int) -> Choices:
        """Of the first so many tokens."""
        return Choices(self.experts[:tokens], self.weights[:tokens], self.entropy[:tokens], self.margin[:tokens])


def choice_counts(experts: HostArray, n_experts: int) -> tuple[Integers, Integers]:
    """How many tokens of ``experts`` [T, K], in descending order of p, chose each expert, and how many first.

    >>> choice_counts(np.array([[0, 1], [2, 1]]), 3)
    (array([1, 2, 1]), array([1, 0, 1]))
    """
    every = (np.bincount(chosen.ravel(), minlength=n_experts) for chosen in (experts, experts[:, :1]))
    chosen, first = every
    return chosen, first


def changed_choices(experts: HostArray, others: HostArray) -> Integers:
    """How many of each token's ``experts`` [T, K] are not among its ``others`` [T, K], such as those before training.

    >>> changed_choices(np.array([[0, 1], [2, 1]]), np.array([[1, 0], [2, 3]]))
    array([0, 1])
    """
    same = experts[:, :, None] == others[:, None, :]
    return np.asarray((~same.any(axis=2)).sum(axis=1))


@dataclass(frozen=True)
class TokenSequence:
    """One sequence: its name, the text of every token, and the choices of each router, in running order.

    continued: positions of tokens that are a later piece of the character that an earlier token starts.
    start: position of the first token in the document, prompt included. total: tokens that it had before a cut.
    against: number of the sequence of the same tokens that this one is compared with, such as before training.
    after: number of the sequence that this one goes on with, such as the prompt of what was generated.
    """

    name: str
    texts: Sequence[str]
    choices: Sequence[Choices]
    continued: Sequence[int] = ()
    start: int = 0
    total: int | None = None
    against: int | None = None
    after: int | None = None

    def first(self, tokens: int) -> TokenSequence:
        """Its first so many tokens."""
        kept = [c.first(tokens) for c in self.choices]
        continued = [position for position in self.continued if position < tokens]
        total = len(self.texts) if self.total is None else self.total
        return replace(self, texts=self.texts[:tokens], choices=kept, continued=continued, total=total)
