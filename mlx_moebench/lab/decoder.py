"""The decoder of LibMoE's language models, with any router of the lab, or dense.

Written as mlx-lm writes its models, so that loading, quantising, adapters and generation work on it unchanged.
Pre-LayerNorm with biases, rotary positions on the first half of each head, ReLU experts without biases in every
block, an output matrix of its own with a bias. Source: Nguyen et al. 2025 (LibMoE), appendix A.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx_lm.models.base import BaseModelArgs, create_attention_mask, scaled_dot_product_attention

from ..instrument.cpu_path import has_cpu_path
from ..instrument.softmax import softmax
from ..routing.record import Array, Routing
from .experts import Experts
from .routers import Axes, FixedRouter, route, router_named

Cache = Any
"""A KV cache of mlx-lm, which has no types; of the whole model a list of one for each layer."""


@dataclass(kw_only=True)
class ModelArgs(Axes, BaseModelArgs):
    """config.json of a lab model: sizes, and the axes of its router. router: whose gate it has; num_experts 0: dense,
    with an FFN of ``intermediate_size``. num_domains: of the text that the model was trained on, where it was labelled,
    which the reference router has to know."""

    model_type: str
    router: str = "smoe"
    spec: str = "paper"
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    head_dim: int
    moe_intermediate_size: int
    intermediate_size: int = 0
    max_position_embeddings: int = 1024
    rope_theta: float = 10000.0
    layer_norm_eps: float = 1e-5
    num_domains: int = 0


class Attention(nn.Module):
    """Causal attention whose heads need not fill the model's width; no biases."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.n_heads, self.head_dim = args.num_attention_heads, args.head_dim
        width = self.n_heads * self.head_dim
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(self, name, nn.Linear(args.hidden_size, width, bias=False))
        self.o_proj = nn.Linear(width, args.hidden_size, bias=False)
        # Half of a head of 82 would be odd, and positions turn pairs.
        self.rope = nn.RoPE(self.head_dim // 4 * 2, base=args.rope_theta)
        self.scale = self.head_dim**-0.5

    def __call__(self, x: Array, mask: Array = None, cache: Cache = None) -> Array:
        B, S, _ = x.shape  # noqa: N806
        queries, keys, values = (
            project(x).reshape(B, S, self.n_heads, self.head_dim).transpose(0, 2, 1, 3)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        offset = 0 if cache is None else cache.offset
        queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        if cache is None and has_cpu_path():
            out = _attention(queries * self.scale, keys, values)
        else:
            out = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(B, S, -1))


def _attention(queries: Array, keys: Array, values: Array) -> Array:
    """Causal attention of [B, H, S, W], where MLX has no kernel for it that has a gradient, and a slow softmax."""
    length = queries.shape[2]
    hidden = mx.triu(mx.full((length, length), -mx.inf), 1)
    return softmax(queries @ keys.swapaxes(-1, -2) + hidden) @ values


class FeedForward(nn.Module):
    """W2 relu(W1 x), without biases."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.input_linear = nn.Linear(hidden_size, width, bias=False)
        self.output_linear = nn.Linear(width, hidden_size, bias=False)

    def __call__(self, x: Array) -> Array:
        return self.output_linear(mx.maximum(self.input_linear(x), 0))


class Mixture(nn.Module):
    """Gate, experts, and what the router's axes add: a bias of the choice, a shared FFN.

    args: `ModelArgs`, or those of another decoder that have the same names.
    """

    experts_type: type[Experts] = Experts
    shared_type: type[Any] = FeedForward

    def __init__(self, args: Any, moe_layer: int) -> None:
        super().__init__()
        self._axes: Axes = args
        router = router_named(args.router)
        self.gate = router.make_gate(args, args.hidden_size, moe_layer)
        self._carries = router.gate is not None and router.gate.carries
        self.experts = self.experts_type(args, args.hidden_size, args.moe_intermediate_size)
        if args.selection_bias:
            self.selection_bias = mx.zeros((len(args.kinds),))
            self.freeze(keys="selection_bias", recurse=False)  # moved by rule, once per step, never by a gradient
        if args.shared_experts:
            self.shared = self.shared_type(args.hidden_size, args.shared_experts * args.moe_intermediate_size)

    def __call__(self, x: Array, before: Array | None = None) -> tuple[Array, Array]:
        """(output [B, S, D], the router's logits [B, S, R]); before: the logits of the router before it."""
        axes, routing = self._axes, self.routing(x, before)
        weights = routing.weights
        if routing.signs is not None:
            weights = weights * mx.array(routing.signs, dtype=weights.dtype)[routing.indices]
        y = self.experts(x, routing.indices)
        y = (weights.astype(x.dtype)[..., None, :] @ y).squeeze(-2)
        if axes.shared_experts:
            shared = self.shared(x)
            y = y + (shared if axes.shared_scale == 1 else axes.shared_scale * shared)
        return y, routing.logits

    def routing(self, x: Array, before: Array | None = None) -> Routing:
        """What the router says of x [B, S, D]; before: the logits of the router before it, where they are carried."""
        x = x.astype(mx.float32)
        logits = self.gate(x, before) if self._carries else self.gate(x)
        logits, alive = logits.astype(mx.float32), None
        if self.training and self._axes.expert_dropout:
            alive = mx.random.bernoulli(1 - self._axes.expert_dropout, logits.shape)
        bias = mx.stop_gradient(self.selection_bias) if self._axes.selection_bias else None
        return route(self._axes, logits, bias, alive)


class DecoderLayer(nn.Module):
    def __init__(self, args: ModelArgs, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(args)
        self.sparse = args.num_experts > 0
        self.mlp: Any = (  # what it is called with differs
            Mixture(args, layer) if self.sparse else FeedForward(args.hidden_size, args.intermediate_size)
        )
        self.input_layernorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)

    def __call__(
        self, x: Array, mask: Array = None, cache: Cache = None, before: Array | None = None
    ) -> tuple[Array, Array | None]:
        """(hidden states [B, S, D], the router's logits [B, S, R], None of a dense block)."""
        x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        h = self.post_attention_layernorm(x)
        if not self.sparse:
            return x + self.mlp(h), None
        y, logits = self.mlp(h, before)
        return x + y, logits


class LabModel(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [DecoderLayer(args, layer) for layer in range(args.num_hidden_layers)]
        self.norm = nn.LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        router = router_named(args.router) if args.num_experts else None
        self._args, self._fixed = args, router if isinstance(router, FixedRouter) else None
        self._domains: Array | None = None

    def __call__(self, inputs: Array, cache: Cache = None) -> Array:
        h, logits = self.embed_tokens(inputs), None
        if cache is None:
            cache = [None] * len(self.layers)
        mask, keys = create_attention_mask(h, cache[0]), self._keys(inputs, cache[0])
        for layer, c in zip(self.layers, cache, strict=True):
            h, logits = layer(h, mask, c, logits if keys is None else keys)
        return self.norm(h)

    def _keys(self, inputs: Array, cache: Cache) -> Array | None:
        """What gates that look at no hidden state are called with."""
        if self._fixed is None or self._fixed.keys is None:
            return None
        return self._fixed.keys(self._args, inputs, 0 if cache is None else cache.offset, self._domains)


class Model(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.model = LabModel(args)
        self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=True)

    def __call__(self, inputs: Array, cache: Cache = None) -> Array:
        """Logits [B, S, V] of token ids [B, S]."""
        return self.lm_head(self.model(inputs, cache))

    @property
    def layers(self) -> list[DecoderLayer]:
        layers: list[DecoderLayer] = self.model.layers
        return layers


@contextmanager
def of_domains(model: Any, domains: npt.ArrayLike | None) -> Iterator[None]:
    """Tell a model what domain each of the B texts of the forwards inside is of, from 0; its reference router asks."""
    if domains is None:
        yield
        return
    body = model.model
    body._domains = mx.array(np.asarray(domains, dtype=np.int32))
    try:
        yield
    finally:
        body._domains = None


def sparse_layers(model: nn.Module) -> list[Any]:
    """The blocks that have a router, of any model of the lab."""
    return [layer for layer in model.layers if layer.sparse]
