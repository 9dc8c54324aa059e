"""What a family file declares: where a model keeps its routers, and what their scores mean. Needs no MLX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from array_api_compat import array_namespace

from ..errors import ModelLoadError
from ..routing.record import Array, Distribution, RouterSpec
from ..routing.tally import log_softmax
from ..types import Facts, Json

Config = Facts
"""The settings of a ``config.json``, or of a loaded model's arguments."""

Keys = str | tuple[str, ...]
"""The key of a setting in a config, or its keys by different writers, tried in order."""


@dataclass(frozen=True)
class RouterForm:
    """One kind of router inside a block; most families have one, JetMoE-like families two.

    router: ``mlp`` or ``attention``.
    gate: dotted path, inside a block, of the module whose output is the router logits.
    experts: dotted path, inside a block, of the module that is called with ``(x, indices)``.
    distribution: the rule that makes the routing distribution p from the logits.
    weights: the rule that makes the gate weights g: ``(logits [..., R] float32, indices [..., K], config) ->
        [..., K]``, in the Python array API so that NumPy, MLX and torch run the same lines.
    torch_gate: dotted path of the router inside a block of transformers' model.
    torch_output: what that router returns, one of `torch_fallback.capture.READINGS`.
    """

    router: str
    gate: str
    experts: str
    distribution: Distribution
    weights: Callable[[Array, Array, Config], Array]
    torch_gate: str = "mlp.gate"
    torch_output: str = "logits_weights_indices"


def all_layers(config: Config) -> Sequence[int]:
    """Every block."""
    return range(int(setting(config, "num_hidden_layers")))


def every_nth_layer(config: Config) -> Sequence[int]:
    """Every ``decoder_sparse_step``-th block, the first after step - 1 dense ones, without ``mlp_only_layers``."""
    step, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or ()
    return [layer for layer in all_layers(config) if (layer + 1) % step == 0 and layer not in dense]


@dataclass(frozen=True)
class Family:
    """Models that route alike.

    model_types: the ``model_type`` values of config.json that this family serves.
    routers: the routers of one sparse block, in the order in which they run.
    n_experts, top_k: the config keys that hold E and K. Where writers differ, all of them in a tuple, the one that
        MLX's model reads first.
    layers: the absolute indices of the blocks that have routers, from the config.
    built_in: settings that the MLX model does not read, and the value it has built in. Another value would be
        computed as this one without a word, so such a checkpoint is refused.
    port: mlx-lm lacks the model, and a file of each model_type's name in ``models/`` builds it.
    """

    name: str
    model_types: tuple[str, ...]
    routers: tuple[RouterForm, ...]
    n_experts: Keys
    top_k: Keys
    layers: Callable[[Config], Sequence[int]] = all_layers
    built_in: Facts = field(default_factory=dict)
    port: bool = False

    def check(self, config: Config) -> None:
        """Raises ModelLoadError where the config asks for something that the MLX model computes otherwise."""
        for key, value in self.built_in.items():
            if config.get(key, value) != value:
                raise ModelLoadError(
                    f"This {config.get('model_type')!r} checkpoint has {key} = {config[key]!r}, but the MLX model is "
                    f"built with {key} = {value!r}: its numbers would be those of another model; measure it with the "
                    "backend torch."
                )

    def specs(self, config: Config) -> tuple[RouterSpec, ...]:
        """The routers a model with this config must have, in the order in which they run.

        ``router_bits`` is None: a config alone does not say it.
        Raises ModelLoadError where the config lacks a setting.
        """
        n_experts, top_k = count(config, self.n_experts), count(config, self.top_k)
        if top_k > n_experts:
            raise ModelLoadError(
                f"The config of this {config.get('model_type')!r} model chooses {_entry(config, self.top_k)[0]} = "
                f"{top_k} of {_entry(config, self.n_experts)[0]} = {n_experts} experts; no token can choose more "
                "experts than there are."
            )
        return tuple(
            RouterSpec(layer, moe_layer, form.router, n_experts, top_k, form.distribution)
            for moe_layer, layer in enumerate(self.layers(config))
            for form in self.routers
        )

    def renamed(self, config: Config) -> Json:
        """E and K under the keys that MLX's model reads, where the config has them under others."""
        settings = {}
        for first, *others in map(names_of, (self.n_experts, self.top_k)):
            key = next((key for key in (first, *others) if config.get(key) is not None), first)
            if key != first:
                settings[first] = config[key]
        return settings

    def form(self, router: str) -> RouterForm:
        """The form named ``router``; KeyError where the family has no such router."""
        return {form.router: form for form in self.routers}[router]


def names_of(keys: Keys) -> tuple[str, ...]:
    """``keys`` as a tuple, also where there is only one."""
    return (keys,) if isinstance(keys, str) else keys


def setting(config: Config, keys: Keys) -> Any:
    """``config[key]`` of the first key that has a value, or the one inside ``text_config`` of a multimodal model.

    Raises ModelLoadError where neither has any of them.
    """
    return _entry(config, keys)[1]


def _entry(config: Config, keys: Keys) -> tuple[str, Any]:
    """The key that `setting` finds, and its value."""
    for key in names_of(keys):
        for scope in (config, config.get("text_config") or {}):
            if scope.get(key) is not None:
                return key, scope[key]
    raise ModelLoadError(
        f"The config of this {config.get('model_type')!r} model lacks {' or '.join(map(repr, names_of(keys)))}; add it "
        "to config.json or fetch the checkpoint again."
    )


def module_at(block: Any, path: str) -> Any:
    """What a dotted path like ``mlp.gate`` leads to inside a block, or None."""
    for name in path.split("."):
        block = getattr(block, name, None)
    return block


def stored_weight(gate: Any) -> Any:
    """The module that holds the gate's weight matrix: the gate, or the layer inside an adapter on it; or None."""
    while gate is not None and "weight" not in gate:
        gate = gate.get("linear")
    return gate


def count(config: Config, keys: Keys) -> int:
    """``setting(config, keys)``, which must be a whole number of 1 or more; raises ModelLoadError otherwise."""
    key, value = _entry(config, keys)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelLoadError(
            f"The config of this {config.get('model_type')!r} model has {key} = {value!r}; it must be 1 or more."
        )
    return value


def softmax(logits: Array) -> Array:
    """Softmax over the last axis, in the array's own namespace and dtype."""
    return log_softmax(logits)[1]


def probabilities_of_chosen(logits: Array, indices: Array, config: Config) -> Array:
    """g = softmax over all, at the chosen ones; divided by their sum where ``norm_topk_prob`` is set. [..., K]."""
    xp = array_namespace(logits)
    chosen = xp.take_along_axis(softmax(logits), indices, axis=-1)
    return chosen / xp.sum(chosen, axis=-1, keepdims=True) if config.get("norm_topk_prob") else chosen


def softmax_of_chosen(logits: Array, indices: Array, config: Config) -> Array:
    """g = softmax over the chosen logits only. [..., K]."""
    return softmax(array_namespace(logits).take_along_axis(logits, indices, axis=-1))
