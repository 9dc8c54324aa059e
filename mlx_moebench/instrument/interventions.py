"""Make routers choose otherwise while a model runs, and hear what their experts return; by the taps, for every family.

A block goes on to compute as it is written: it is the call of its experts that gets other indices, and what they return
that comes back multiplied so that the block's own sum has the weights of the new choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import mlx.nn as nn

from ..errors import MoebenchError
from ..families import RouterForm
from ..families.rules import NEVER
from ..routing.record import Array, RouterSpec, Routing
from .capture import Capture, routing_from
from .taps import OutputSink, RouterTap, Swapped


@dataclass(frozen=True)
class Said:
    """What one router said of B sequences of S positions, and what it would make of something else.

    number: its place in running order. logits: [B, S, R] float32, before soft cap and temperature. indices: [B, S, K]
    as its block chose them. x: [..., D], what its gate was called with.
    """

    number: int
    spec: RouterSpec
    logits: Array
    indices: Array
    x: Array
    _router: _Changed

    def routing(
        self, logits: Array | None = None, indices: Array | None = None, without: Array | None = None
    ) -> Routing:
        """The record of these logits [B, S, R] and this choice [B, S, J], by the router's own rule.

        without: [R] bool, experts that a checkpoint would not have: their logit is `NEVER`, their rank the last.
        """
        logits = self.logits if logits is None else logits
        return self._router.record(logits, self.indices if indices is None else indices, without)

    def ranking(self, logits: Array | None = None, without: Array | None = None) -> Array:
        """[B, S, R] the scores by which it chooses of these logits: with bias and groups, where it has them."""
        record = self.routing(logits, without=without)
        return record.logits if record.selection is None else record.selection

    def score(self, x: Array) -> Array:
        """[B, S, R] float32: the logits of other hidden states, in the shape of ``x``."""
        return self._router.score(x).astype(mx.float32).reshape(self.logits.shape)

    @property
    def in_turn(self) -> bool:
        """Whether each choice is weighed among those that are left after it, as sparsemixer does."""
        return self._router.form.rule.score == "sparsemixer"


@dataclass(frozen=True)
class Choice:
    """indices [B, S, J] and weights [B, S, J] of the experts that are to run in place of those chosen, of
    J >= 1 different experts; logits [B, S, R] that the router is taken to have said."""

    indices: Array
    weights: Array
    logits: Array


Change = Callable[[Said], Choice | None]
"""What a router is made to choose; None leaves it as it is."""


@contextmanager
def changing(model: nn.Module, change: Change) -> Iterator[None]:
    """While it lasts, the experts of every router run as ``change`` says, and whatever is attached to ``model`` hears
    that. A change that returns None for every router leaves the outputs bit-identical.

    Raises `MoebenchError` where another change lasts, and for a model whose blocks run their experts one by one;
    `UnsupportedModelError` where a router is missing.
    """
    with Capture(model, _nothing) as taps:
        _check_forms(taps)
        if any(tap.swap is not None for tap in taps.routers):
            raise MoebenchError("The routers of this model are changed already: end that first.")
        try:
            for number, tap in enumerate(taps.routers):
                tap.swap = partial(_swap, _Changed(taps, number), change)
            yield
        finally:
            for tap in taps.routers:
                tap.swap = None


def check_changes(model: nn.Module) -> None:
    """Raise what `changing` would, before anything runs."""
    with Capture(model, _nothing) as taps:
        _check_forms(taps)


def _check_forms(taps: Capture) -> None:
    if any(form.one_by_one for form in taps.forms):
        raise MoebenchError(
            "The blocks of this model call their experts one by one, so that another choice cannot take the place of "
            "theirs."
        )


@contextmanager
def hearing_outputs(model: nn.Module, sink: OutputSink) -> Iterator[Capture]:
    """While it lasts, ``sink`` hears what the chosen experts of every router returned: [..., K, D], without weights.

    Nothing else is computed: they are the arrays that the block goes on with. Latent experts return latents.
    """
    with Capture(model, _nothing) as taps:
        entries = [(number, sink) for number in range(len(taps.specs))]
        try:
            for tap, entry in zip(taps.routers, entries, strict=True):
                tap.outputs.append(entry)
            yield taps
        finally:
            for tap, entry in zip(taps.routers, entries, strict=True):
                tap.outputs[:] = [other for other in tap.outputs if other is not entry]


def _nothing(number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
    """Some sink must hear for taps to stay."""


def _swap(router: _Changed, change: Change, logits: Array, indices: Array, shape: tuple[int, ...]) -> Swapped | None:
    said = router.said(logits, indices, shape)
    choice = change(said)
    if choice is None:
        return None
    spec, form = said.spec, router.form
    if form.scales_input and choice.indices.shape[-1] != spec.top_k:
        raise MoebenchError(f"{spec.name} weighs what its experts get, so that only {spec.top_k} of them can run.")
    of_block = (*indices.shape[:-1], choice.indices.shape[-1])
    return Swapped(
        choice.logits.reshape(logits.shape),
        choice.indices.astype(indices.dtype).reshape(of_block),
        choice.weights.reshape(of_block),
        said.routing().weights.reshape(indices.shape),
        form.scales_input,
    )


@dataclass(frozen=True)
class _Changed:
    """A router of a model whose choice is changed."""

    taps: Capture
    number: int

    @property
    def form(self) -> RouterForm:
        return self.taps.forms[self.number]

    @property
    def tap(self) -> RouterTap:
        return self.taps.routers[self.number]

    def said(self, logits: Array, indices: Array, shape: tuple[int, ...]) -> Said:
        x = self.tap.heard.x
        assert x is not None  # the gate has run
        whole = logits.reshape(*shape, -1).astype(mx.float32)
        return Said(self.number, self.taps.specs[self.number], whole, indices.reshape(*shape, -1), x, self)

    def record(self, logits: Array, indices: Array, without: Array | None = None) -> Routing:
        mask = mx.ones(indices.shape[:2], dtype=mx.bool_)
        if without is None:
            return self.taps.routing(self.number, logits, indices, mask)
        parameters = dict(self.taps.parameters_of(self.number))
        if "bias" in parameters:
            parameters["bias"] = mx.where(without, NEVER, parameters["bias"])
        logits = mx.where(without, NEVER, logits)
        made = routing_from(self.form, self.taps.config, logits, indices, mask, parameters)
        if made.selection is None:
            return made
        return replace(made, selection=mx.where(without, -float("inf"), made.selection))  # also in dropped groups

    def score(self, x: Array) -> Array:
        """What the gate makes of other hidden states; what it said before stays what is heard."""
        heard = self.tap.heard
        logits, old = heard.logits, heard.x
        gate = self.taps.gates[self.number]
        made: Array = (
            gate(x, *heard.others)
            if self.form.seam == "linear"
            else x.astype(mx.float32) @ gate.weight.astype(mx.float32).T
        )
        heard.logits, heard.x = logits, old
        return made
