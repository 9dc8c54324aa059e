"""Sizes of lab models: two of LibMoE, and one that a laptop trains in minutes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import mlx.nn as nn
from mlx.utils import tree_flatten

from ..errors import TrainingError, did_you_mean
from ..families.lab import MODEL_TYPE
from ..types import Json
from .decoder import Model, ModelArgs, sparse_layers
from .routers import FIXED, Axes, Sizes, Spec, router_named, router_names

DENSE = "dense"
"""The name of the baseline without a router, beside those of the routers."""


@dataclass(frozen=True)
class Preset:
    """A size, and the recipe of its training. expert: width of an expert; n_constant: of ``moepp``, see `Sizes`.

    batch_size: sequences of an update; micro_batch_size: of a forward; steps: updates; warmup: those with a rising
    rate; clip: largest norm of the gradient; vocab_size: ids of a tokenizer that is trained for it.
    """

    layers: int
    hidden: int
    heads: int
    head_dim: int
    experts: int
    top_k: int
    expert: int
    n_constant: int | None
    vocab_size: int
    seq_length: int
    batch_size: int
    micro_batch_size: int
    steps: int
    warmup: int
    clip: float
    learning_rate: float


PRESETS = {
    "tiny": Preset(4, 128, 4, 32, 18, 4, 32, None, 1024, 128, 16, 16, 150, 0, 0.25, 2e-3),
    "testbed": Preset(2, 64, 2, 32, 18, 2, 64, None, 2048, 128, 18, 3, 200, 10, 0.5, 3e-3),
    "testbed-2": Preset(3, 112, 4, 28, 18, 2, 192, None, 2048, 128, 18, 3, 350, 15, 0.5, 3e-3),
    "testbed-3": Preset(5, 224, 7, 32, 18, 2, 256, None, 2048, 128, 18, 3, 500, 20, 0.5, 2e-3),
    "158m": Preset(16, 512, 4, 82, 66, 8, 128, 6, 8000, 1024, 64, 16, 100_000, 0, 0.1, 2.5e-4),
    "679m": Preset(18, 1024, 4, 128, 66, 8, 256, 6, 8000, 1024, 64, 16, 400_000, 4000, 0.25, 2.5e-4),
}
"""Those of the testbed are ours, the third of 30 times the FLOPs of the first. ``158m`` and ``679m`` are as in tables 5
and 6 of LibMoE, but with 4 heads, which alone give its parameters."""


def preset_named(name: str) -> Preset:
    """The preset of this name; raises TrainingError where there is none."""
    if name not in PRESETS:
        raise TrainingError(f"There is no preset {name!r}.{did_you_mean(name, list(PRESETS))}")
    return PRESETS[name]


def model_args(
    preset: Preset, router: str, spec: Spec = "paper", vocab_size: int | None = None, flops: float = 1.0
) -> ModelArgs:
    """The config of a model of this size with this router, or ``dense``.

    flops: of a dense model, the matrix products of its forward, as a multiple of those of its like with an FFN of K
    experts' width; its FFN is made wider. Raises TrainingError for a router that there is not, and for other flops
    than 1 of a mixture.
    """
    sizes: Json = {
        "model_type": MODEL_TYPE,
        "vocab_size": vocab_size or preset.vocab_size,
        "hidden_size": preset.hidden,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "head_dim": preset.head_dim,
        "moe_intermediate_size": preset.expert,
        "max_position_embeddings": preset.seq_length,
    }
    if router == DENSE:
        axes = Axes(num_experts=0, num_experts_per_tok=0, balance="none", balance_weight=0.0)
        width = _width(preset, sizes, flops)
        return ModelArgs(**asdict(axes), **sizes, spec=spec, router=DENSE, intermediate_size=width)
    if router not in (*router_names(), *FIXED):
        raise TrainingError(f"There is no router {router!r}.{did_you_mean(router, [*router_names(), DENSE])}")
    if flops != 1:
        raise TrainingError(f"flops = {flops:g} is for the dense baseline; a mixture has those of its preset.")
    axes = router_named(router).axes(Sizes(preset.experts, preset.top_k, preset.n_constant), spec)
    return ModelArgs(**asdict(axes), **sizes, spec=spec, router=router)


def _width(preset: Preset, sizes: Json, flops: float) -> int:
    """The width of a dense FFN with which a token's products with weights are ``flops`` times those at K experts'.

    They are two for every weight of attention, FFN and output; scores of attention and the lookup of an embedding are
    in neither.
    """
    if flops < 1:
        raise TrainingError(f"flops is {flops:g}; give 1 or more.")
    width, per_neuron = preset.top_k * preset.expert, 2 * preset.hidden * preset.layers
    attention = 4 * preset.hidden * preset.heads * preset.head_dim * preset.layers
    rest = attention + preset.hidden * sizes["vocab_size"]
    more: int = round((flops - 1) * (rest + width * per_neuron) / per_neuron)
    return width + more


class Counts(NamedTuple):
    """Parameters of a model: all; those that a token goes through, embeddings, norms and the router included; the gate
    of its second router (the first of ``moepp`` carries nothing), 0 of a dense model."""

    total: int
    active: int
    router: int


def count_parameters(model: Model) -> Counts:
    """How many there are, read off shapes: nothing is computed. Of the chosen columns K are taken to be experts."""
    args: ModelArgs = model.args
    total = _parameters(model)
    if not args.num_experts:
        return Counts(total, total, 0)
    sparse = sparse_layers(model)
    networks = (part for layer in sparse for part in layer.mlp.experts.children().values())
    experts = sum(_parameters(part) for part in networks if isinstance(part, nn.Module))
    idle = experts * (args.num_experts - args.num_experts_per_tok) // args.num_experts
    return Counts(total, total - idle, _parameters(sparse[min(1, len(sparse) - 1)].mlp.gate))


def _parameters(module: nn.Module) -> int:
    return sum(int(value.size) for _, value in tree_flatten(module.parameters()))
