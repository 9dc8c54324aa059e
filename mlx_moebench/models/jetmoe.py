"""JetMoE, which mlx-lm does not have: in every block the attention and the MLP are both mixtures of experts.

Written as mlx-lm writes its models, so that its loading, quantising, LoRA and generation work on it unchanged.
Sources: Shen et al. 2024 (arXiv 2404.07413) and ``modeling_jetmoe.py`` of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu
from mlx_lm.models.base import BaseModelArgs, create_attention_mask, scaled_dot_product_attention
from mlx_lm.models.switch_layers import SwitchLinear

from ..routing.record import Array

Cache = Any
"""A KV cache of mlx-lm, which has no types; of the whole model a list of one for each layer."""

_RENAMED = (
    ("self_attention.experts.router.layer.", "self_attention.router."),
    ("self_attention.experts.bias", "self_attention.bias"),
    ("mlp.router.layer.", "mlp.router."),
    ("mlp.input_linear.", "mlp.experts.input_linear."),
    ("mlp.output_linear.", "mlp.experts.output_linear."),
)
"""Names in transformers' checkpoints, and here, where both mixtures of a block are built alike."""


@dataclass
class ModelArgs(BaseModelArgs):
    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_key_value_heads: int
    kv_channels: int
    num_local_experts: int
    num_experts_per_tok: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    activation_function: str = "silu"
    tie_word_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.activation_function != "silu":
            raise ValueError(f"JetMoE is built with activation 'silu' only, not {self.activation_function!r}")


class Experts(nn.Module):
    """E pairs of linear maps, with something between the two that all experts share."""

    def __init__(self, dims: int, after_first: int, before_second: int, n_experts: int) -> None:
        super().__init__()
        self.input_linear = SwitchLinear(dims, after_first, n_experts, bias=False)
        self.output_linear = SwitchLinear(before_second, dims, n_experts, bias=False)

    def __call__(self, x: Array, indices: Array, between: Callable[[Array], Array]) -> Array:
        """The output of each chosen expert: x [B, S, D], indices [B, S, K] -> [B, S, K, D].

        between: [B, S, K, after_first] -> [B, S, K, before_second].
        """
        # Sorted by expert: the gradient of gather_mm then needs no copy of a weight per row.
        chosen = mx.stop_gradient(indices.flatten())
        order = mx.argsort(chosen)
        inverse = mx.argsort(order)
        chosen, shape = chosen[order], indices.shape

        rows = x.reshape(-1, 1, x.shape[-1])[order // shape[-1]]
        rows = self.input_linear(rows, chosen, sorted_indices=True)
        h = between(rows[inverse].reshape(*shape, -1))
        rows = h.reshape(-1, 1, h.shape[-1])[order]
        rows = self.output_linear(rows, chosen, sorted_indices=True)
        return rows[inverse].reshape(*shape, -1)


class Mixture(nn.Module):
    """What both mixtures of a block share: router, experts, and a bias that is added to the weighted sum."""

    def __init__(self, args: ModelArgs, after_first: int, before_second: int) -> None:
        super().__init__()
        self.top_k = args.num_experts_per_tok
        self.router = nn.Linear(args.hidden_size, args.num_local_experts, bias=False)
        self.experts = Experts(args.hidden_size, after_first, before_second, args.num_local_experts)
        self.bias = mx.zeros((args.hidden_size,))

    def mix(self, x: Array, between: Callable[[Array], Array]) -> Array:
        """sum_k g_k y_k + bias, g = softmax of the K largest logits in float32. [B, S, D]."""
        k = self.top_k
        logits = self.router(x).astype(mx.float32)
        indices = mx.stop_gradient(mx.argpartition(-logits, kth=k - 1, axis=-1)[..., :k])
        weights = mx.softmax(mx.take_along_axis(logits, indices, axis=-1), axis=-1).astype(x.dtype)
        y = self.experts(x, indices, between)
        return (y * weights[..., None]).sum(axis=-2) + self.bias


class Attention(Mixture):
    """Mixture of attention heads: an expert makes the queries of a group of heads and projects what they read.

    Keys and values are shared by all experts. There are K groups of as many heads as there are key-value heads.
    """

    def __init__(self, args: ModelArgs) -> None:
        width = args.num_key_value_heads * args.kv_channels
        super().__init__(args, width, width)
        self.n_kv_heads, self.head_dim = args.num_key_value_heads, args.kv_channels
        self.kv_proj = nn.Linear(args.hidden_size, 2 * width, bias=False)
        self.rope = nn.RoPE(self.head_dim, base=args.rope_theta)
        self.scale = self.head_dim**-0.5

    def __call__(self, x: Array, mask: Array = None, cache: Cache = None) -> Array:
        B, S, _ = x.shape  # noqa: N806
        keys, values = (
            part.reshape(B, S, self.n_kv_heads, self.head_dim).transpose(0, 2, 1, 3)
            for part in mx.split(self.kv_proj(x), 2, axis=-1)
        )
        offset = 0 if cache is None else cache.offset
        keys = self.rope(keys, offset=offset)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)

        def attend(queries: Array) -> Array:
            # Head h of every expert reads key-value head h. MLX gives K consecutive query heads to each key-value
            # head, so the experts of one head come next to each other, and back afterwards.
            chosen = queries.shape[-2]  # top_k, unless the choice is changed
            queries = queries.reshape(B, S, chosen, self.n_kv_heads, self.head_dim)
            queries = queries.transpose(0, 3, 2, 1, 4).reshape(B, -1, S, self.head_dim)
            queries = self.rope(queries, offset=offset)
            out = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
            out = out.reshape(B, self.n_kv_heads, chosen, S, self.head_dim)
            return out.transpose(0, 3, 2, 1, 4).reshape(B, S, chosen, -1)

        return self.mix(x, attend)


class MLP(Mixture):
    """Mixture of SwiGLU networks; the first map of an expert makes both halves, the gated one first."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args, 2 * args.intermediate_size, args.intermediate_size)

    def __call__(self, x: Array) -> Array:
        return self.mix(x, lambda h: swiglu(*mx.split(h, 2, axis=-1)))


class DecoderLayer(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.self_attention = Attention(args)
        self.mlp = MLP(args)
        # rms_norm_eps is for the last norm only; these two are fixed in the original too.
        self.input_layernorm = nn.RMSNorm(args.hidden_size, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(args.hidden_size, eps=1e-6)

    def __call__(self, x: Array, mask: Array = None, cache: Cache = None) -> Array:
        x = x + self.self_attention(self.input_layernorm(x), mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class JetMoeModel(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(args.vocab_size, args.hidden_size)
        self.layers = [DecoderLayer(args) for _ in range(args.num_hidden_layers)]
        self.norm = nn.RMSNorm(args.hidden_size, eps=args.rms_norm_eps)

    def __call__(self, inputs: Array, cache: Cache = None) -> Array:
        h = self.embed_tokens(inputs)
        if cache is None:
            cache = [None] * len(self.layers)
        mask = create_attention_mask(h, cache[0])
        for layer, c in zip(self.layers, cache, strict=True):
            h = layer(h, mask, c)
        return self.norm(h)


class Model(nn.Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        self.model = JetMoeModel(args)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.hidden_size, args.vocab_size, bias=False)

    def __call__(self, inputs: Array, cache: Cache = None) -> Array:
        """Logits [B, S, V] of token ids [B, S]."""
        out = self.model(inputs, cache)
        return self.model.embed_tokens.as_linear(out) if self.args.tie_word_embeddings else self.lm_head(out)

    def sanitize(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Weights as transformers names them, under the names they have here; those that have them stay."""
        renamed = {}
        for name, array in weights.items():
            for theirs, ours in _RENAMED:
                name = name.replace(theirs, ours)
            renamed[name] = array
        if self.args.tie_word_embeddings:
            renamed.pop("lm_head.weight", None)
        return renamed

    @property
    def layers(self) -> list[DecoderLayer]:
        layers: list[DecoderLayer] = self.model.layers
        return layers
