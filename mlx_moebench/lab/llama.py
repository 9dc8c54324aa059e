"""A llama as mlx-lm has it, in some of whose blocks a mixture with any router of the lab takes the FFN's place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.nn as nn
from mlx_lm.models import llama
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.switch_layers import SwitchGLU

from ..routing.record import Array
from .decoder import Cache, Mixture
from .experts import Experts
from .routers import Axes


@dataclass(kw_only=True)
class ModelArgs(Axes, llama.ModelArgs):
    """config.json of an upcycled llama: the llama's, the axes of its router, and whose gate it has.

    moe_layers: the blocks with a mixture, from 0; moe_intermediate_size: the width of an expert.
    """

    router: str = "smoe"
    spec: str = "paper"
    moe_layers: list[int] = field(default_factory=list)
    moe_intermediate_size: int


class GatedFeedForward(nn.Module):
    """down(silu(gate x) * up x), a llama's FFN, without biases."""

    def __init__(self, hidden_size: int, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, width, bias=False)
        self.up_proj = nn.Linear(hidden_size, width, bias=False)
        self.down_proj = nn.Linear(width, hidden_size, bias=False)

    def __call__(self, x: Array) -> Array:
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))


class GatedExperts(Experts):
    """Experts that are such FFNs, run by mlx-lm's ``SwitchGLU``, or on a CPU grouped as `instrument.cpu_path` does."""

    def _make_networks(self, axes: Axes, hidden_size: int, width: int) -> None:
        self.ffn = SwitchGLU(hidden_size, width, axes.num_experts)

    def _run_networks(self, rows: Array, chosen: Array) -> Array:
        y: Array = self.ffn(rows, self._expert_ids(chosen, 0))
        return y


class GatedMixture(Mixture):
    experts_type = GatedExperts
    shared_type = GatedFeedForward


class Block(llama.TransformerBlock):
    """A llama's block. moe_layer: which of the model's routers it has, from 0; None with its dense FFN."""

    def __init__(self, args: ModelArgs, moe_layer: int | None, use_sliding: bool) -> None:
        super().__init__(args, use_sliding)
        self.sparse = moe_layer is not None
        if moe_layer is not None:
            self.mlp = GatedMixture(args, moe_layer)

    def __call__(
        self, x: Array, mask: Array = None, cache: Any = None, before: Array | None = None
    ) -> tuple[Array, Array | None]:
        """(hidden states [B, S, D], the logits [B, S, R] that the next router may be given). before: of the last one,
        which a block without a router passes on."""
        x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        h = self.post_attention_layernorm(x)
        if not self.sparse:
            return x + self.mlp(h), before
        y, logits = self.mlp(h, before)
        return x + y, logits


class UpcycledLlama(llama.LlamaModel):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        routers = {layer: number for number, layer in enumerate(sorted(args.moe_layers))}
        self.layers = [
            Block(args, routers.get(layer), kind == "sliding_attention") for layer, kind in enumerate(args.layer_types)
        ]

    def __call__(self, inputs: Array, cache: Cache = None, input_embeddings: Array | None = None) -> Array:
        h = self.embed_tokens(inputs) if input_embeddings is None else input_embeddings
        if cache is None:
            cache = [None] * len(self.layers)
        mask = create_attention_mask(h, cache[self.fa_idx])
        sliding = None
        if self.swa_idx is not None:
            sliding = create_attention_mask(h, cache[self.swa_idx], window_size=self.sliding_window)
        logits: Array | None = None
        for layer, c in zip(self.layers, cache, strict=True):
            h, logits = layer(h, sliding if layer.use_sliding else mask, c, logits)
        return self.norm(h)


class Model(llama.Model):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        self.model = UpcycledLlama(args)
