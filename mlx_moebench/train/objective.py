"""The loss that mlx-lm's trainer minimises: its own cross-entropy, and beside it a loss on the routing.

The step of mlx-lm's trainer returns two numbers, and the host cannot read arrays inside it. What a step's log needs is
therefore put into the model's state under a name with an underscore, which is part of the state that the step
returns, but neither a parameter nor saved with them.
"""

from __future__ import annotations

from types import TracebackType

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.trainer import default_loss

from ..errors import RoutingError
from ..instrument import capture
from ..routing.record import Array, Routing
from ..routing.tally import log_distribution, top_two_gap
from ..types import Json
from .losses import (
    TokenSums,
    balance_loss,
    entropy_floor,
    entropy_of,
    marginal_entropy,
    router_z_loss,
    signal_entropy,
    token_entropy,
    token_sums,
)
from .settings import RoutingLoss

STATE = "_moebench_step"
"""The model's attribute with what the last step measured, and with the sums of the window before it."""

PER_ROUTER = ("token_entropy", "marginal_entropy", "load_entropy", "dead_experts", "margin_prob", "top_load_ratio")
"""What is logged of every router, on the step's batch over all ranks."""


class Objective:
    """``loss(model, batch, lengths) -> (scalar, tokens)`` as mlx-lm's ``train`` and ``evaluate`` call it.

    In training mode it adds the routing loss and leaves the step's figures in the model for `measured`; in evaluation
    mode it is mlx-lm's cross-entropy alone. Until ``close``, or the end of a ``with`` block, the routers are tapped.

    Use it under ``mx.disable_compile``: MLX 0.32.4 fails to compile some of these steps.

    group: the ranks of a data-parallel run; None is what ``mx.distributed.init`` gives. Sums are taken over all ranks,
    so that p-bar and f are those of the whole batch, and the cross-entropy is the mean over all its tokens.
    """

    def __init__(self, model: nn.Module, settings: RoutingLoss, group: mx.distributed.Group | None = None) -> None:
        self.settings = settings
        self.group = group if group is not None else mx.distributed.init()
        self._model = model
        self._seen: dict[int, tuple[Array, Array]] = {}
        self._capture = capture(model, self._note)
        self.specs = self._capture.specs
        self.on = settings.routers(self.specs)
        self.floors = {n: settings.floor_nats(self.specs[n].n_experts) for n in self.on}
        zeros = mx.zeros(len(self.on))
        setattr(model, STATE, {
            "ce": mx.array(0.0), "routing_loss": mx.array(0.0), "tokens": mx.array(0.0),
            "signal": zeros, "below": zeros,
            "routers": mx.zeros((len(self.specs), len(PER_ROUTER))),
            "history": {_key(n): self._empty_history(n) for n in self.on} if settings.scope == "window" else {},
        })  # fmt: skip

    def __call__(self, model: nn.Module, batch: Array, lengths: Array) -> tuple[Array, Array]:
        self._seen = {}
        ce, n_tokens = default_loss(model, batch, lengths)
        # Taken out now: under gradient checkpointing the forward runs again in the backward pass and reports again.
        seen, self._seen = self._seen, {}
        if not model.training:
            return ce, n_tokens
        if len(seen) != len(self.specs):
            raise RoutingError(f"Only {len(seen)} of the model's {len(self.specs)} routers ran in a training step.")
        mask = mx.arange(batch.shape[1] - 1)[None] < lengths[:, 1:2]
        records = [self._capture.routing(n, *seen[n], mask) for n in range(len(self.specs))]
        return self._objective(model, ce, n_tokens, records), n_tokens

    def measured(self) -> Json:
        """What the last step measured, on the host: ``ce`` and ``routing_loss`` apart, tokens, signals, routers."""
        state = self._model[STATE]
        return {key: state[key].tolist() for key in ("ce", "routing_loss", "tokens", "signal", "below", "routers")}

    def close(self) -> None:
        """Take the taps and the state off the model."""
        self._capture.close()
        self._model.pop(STATE, None)

    def __enter__(self) -> Objective:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _note(self, number: int, logits: Array, indices: Array, shape: tuple[int, ...]) -> None:
        self._seen[number] = (logits, indices)

    def _objective(self, model: nn.Module, ce: Array, n_tokens: Array, records: list[Routing]) -> Array:
        ranks, scope = self.group.size(), self.settings.scope
        sums = [token_sums(record, scope) for record in records]
        whole = [s.map(lambda x: x.sum(0, keepdims=True)) for s in sums]
        margins = mx.stack([_margin_sum(record) for record in records])
        if ranks > 1:
            ce, n_tokens, margins, whole = self._everywhere(ce, n_tokens, margins, whole)
            if scope != "sequence":
                sums = whole
        loss, signal, below = self._routing_loss(model, sums)
        figures = mx.stack([_figures(s, margin) for s, margin in zip(whole, margins, strict=True)])
        measured = {"ce": ce, "routing_loss": loss, "tokens": n_tokens.astype(mx.float32), "signal": signal}
        measured |= {"below": below, "routers": figures}
        for key, value in measured.items():
            model[STATE][key] = mx.stop_gradient(value)
        return ce + self.settings.weight * loss if self.settings.weight else ce

    def _routing_loss(self, model: nn.Module, sums: list[TokenSums]) -> tuple[Array, Array, Array]:
        """(loss, signal of each router, share of its groups below the floor) of the batch that all ranks share."""
        ranks = self.group.size()
        terms = [self._term(model, n, sums[n]) for n in self.on]
        routing, signal, below = (mx.stack(list(column)) for column in zip(*terms, strict=True))
        if ranks == 1 or self.settings.scope != "sequence":
            return _scale_gradient(routing.mean(), ranks), signal, below
        # The ranks have equally many rows, and the trainer averages gradients.
        shown = mx.distributed.all_sum(mx.stop_gradient(mx.stack([routing, signal, below])), group=self.group)
        shown, signal, below = shown / ranks
        return routing.mean() + mx.stop_gradient(shown.mean() - routing.mean()), signal, below

    def _everywhere(
        self, ce: Array, n_tokens: Array, margins: Array, whole: list[TokenSums]
    ) -> tuple[Array, Array, Array, list[TokenSums]]:
        """The cross-entropy, tokens, margins and sums of the batch that all ranks share."""
        local = [ce * n_tokens, n_tokens, margins, *(x for s in whole for x in s.arrays())]
        ce_sum, n_tokens, margins, *flat = self._over_ranks(local)
        width = len(whole[0].arrays())
        sums = [TokenSums(*flat[i : i + width]) for i in range(0, len(flat), width)]
        # mlx-lm averages gradients over the ranks, which divides what each contributes to one sum by their number.
        return _scale_gradient(ce_sum / n_tokens, self.group.size()), n_tokens, margins, sums

    def _term(self, model: nn.Module, number: int, now: TokenSums) -> tuple[Array, Array, Array]:
        """(loss, signal, share of groups below the floor) of one router, scalars."""
        name, nothing = self.settings.name, mx.array(0.0)
        if name == "z":
            return router_z_loss(now), nothing, nothing
        sums, factor = self._window(model, number, now) if self.settings.scope == "window" else (now, None)
        if name != "entropy_floor":
            load = sums.counts / mx.maximum(sums.counts.sum(-1, keepdims=True), 1)
            return balance_loss(now, load), nothing, nothing
        floor, signal = self.floors[number], signal_entropy(sums, self.settings.signal)
        loss = entropy_floor(sums, floor, self.settings.signal)
        has = mx.maximum((sums.n > 0).sum(), 1)
        below = mx.logical_and(signal < floor, sums.n > 0).sum() / has
        mean_signal = mx.where(sums.n > 0, signal, 0).sum() / has
        return _scale_gradient(loss, factor) if factor is not None else loss, mean_signal, below

    def _window(self, model: nn.Module, number: int, now: TokenSums) -> tuple[TokenSums, Array]:
        """The sums of this micro-batch and the window - 1 before it, and what its gradient is multiplied with.

        Without the factor (N_A + T) / T the loss would pull a window-th as hard on the tokens it can still change.
        """
        history = model[STATE]["history"]
        past = TokenSums(*history[_key(number)])
        both = now.map(lambda x, before: x + mx.stop_gradient(before.sum(0, keepdims=True)), past)
        later = past.map(lambda before, x: mx.concatenate([before, x])[1:], now.map(mx.stop_gradient))
        history[_key(number)] = later.arrays()
        return both, mx.stop_gradient(both.n / mx.maximum(now.n, 1))[0]

    def _empty_history(self, number: int) -> list[Array]:
        past, experts = self.settings.window - 1, self.specs[number].n_experts
        wide, narrow = mx.zeros((past, experts)), mx.zeros((past,))
        return TokenSums(p=wide, counts=wide, entropy=narrow, z_squared=narrow, n=narrow).arrays()

    def _over_ranks(self, local: list[Array]) -> list[Array]:
        """Each array summed over all ranks, in one message; its gradient stays that of this rank's part."""
        sent = mx.concatenate([mx.stop_gradient(x).reshape(-1).astype(mx.float32) for x in local])
        total = mx.distributed.all_sum(sent, group=self.group)
        summed, start = [], 0
        for x in local:
            part = total[start : start + x.size].reshape(x.shape)
            summed.append(x + (part - mx.stop_gradient(x)))
            start += x.size
        return summed


def _key(number: int) -> str:
    """Not the bare number, which ``tree_unflatten`` would take for a place in a list."""
    return f"router{number}"


def _margin_sum(record: Routing) -> Array:
    """Sum over valid tokens of p_(1) - p_(2)."""
    _, p, _ = log_distribution(mx.stop_gradient(record.logits), record.distribution)
    return mx.where(record.mask, top_two_gap(p), 0).sum()


def _figures(sums: TokenSums, margin: Array) -> Array:
    """[len(PER_ROUTER)] of one router, from the sums [1, ...] of the whole batch."""
    counts = sums.counts[0]
    load = counts / mx.maximum(counts.sum(), 1)
    return mx.stop_gradient(
        mx.stack(
            [
                token_entropy(sums)[0],
                marginal_entropy(sums)[0],
                entropy_of(load),
                (counts == 0).sum().astype(mx.float32),
                margin / mx.maximum(sums.n[0], 1),
                load.max() * counts.size,
            ]
        )
    )


def _scale_gradient(value: Array, factor: Array | float) -> Array:
    """``value`` with ``factor`` times its gradient."""
    return value * factor + mx.stop_gradient(value - value * factor)
