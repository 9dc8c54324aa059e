"""Hooks on the routers of a transformers model, which change nothing that it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from weakref import WeakSet

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from transformers import Cache, PreTrainedModel

from mlx_moebench.errors import RenamedError, RoutingError, UnsupportedModelError, needed
from mlx_moebench.families import GUIDE, RouterForm, family_for
from mlx_moebench.families.base import module_at
from mlx_moebench.routing.record import RouterSpec
from mlx_moebench.types import Json, Network

from .caches import cache_among, parameters, unknown_cache

Sink = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...]], None]
"""``sink(number, logits [T, E], indices [T, K], weights [T, K], shape)``: the router's number in running order, what
it gave, and the leading shape (B, S), of T positions, of the hidden states that its layer got."""

RouterOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(logits [T, E], indices [T, K], weights [T, K])."""


def _logits_weights_indices(gate: nn.Module, output: object) -> RouterOutput:
    """Routers that return (logits, weights, indices), flattened over tokens."""
    if not isinstance(output, tuple) or len(output) != 3:
        raise UnsupportedModelError(
            "This transformers has routers that return no choice of experts: update it, pip install -U transformers."
        )
    logits, weights, indices = output
    return logits, indices, weights


def _sorted_by_expert(gate: nn.Module, output: object) -> RouterOutput:
    """Routers that return selections sorted by expert: which each is, its weight, and how many each expert got."""
    if not isinstance(output, tuple) or len(output) != 5:
        raise RenamedError("transformers", f"five outputs of {type(gate).__name__}", "the hooks read")
    order, _, sorted_weights, counts, logits = output
    n_experts, top_k = logits.shape[-1], len(order) // len(logits)
    sizes = torch.as_tensor(counts, device=order.device)
    experts = torch.repeat_interleave(torch.arange(n_experts, device=order.device), sizes)
    indices, weights = torch.empty_like(order), torch.empty_like(sorted_weights)
    indices[order], weights[order] = experts.to(order.dtype), sorted_weights
    return logits, indices.view(-1, top_k), weights.view(-1, top_k)


READINGS: dict[str, Callable[[nn.Module, object], RouterOutput]] = {
    "logits_weights_indices": _logits_weights_indices,
    "sorted_by_expert": _sorted_by_expert,
}
"""How to read the output of a router in transformers, by `RouterForm.torch_output`."""


@dataclass(frozen=True)
class Located:
    """One router found in a model, and its gate."""

    spec: RouterSpec
    form: RouterForm
    gate: nn.Module


def transformers_model(model: Network) -> PreTrainedModel:
    """The model of transformers: ``model``, or the one inside a wrapper, such as the one that PEFT puts around it.

    Raises UnsupportedModelError where there is none, or where hooks would not hear how it is run.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    inner = next((module for module in modules if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a model of transformers; load it with torch_fallback.load or transformers, "
            "and give the model itself."
        )
    if isinstance(model, nn.DataParallel):
        raise UnsupportedModelError(
            "DataParallel runs copies of a model at the same time, of which hooks cannot tell one forward from "
            "another; give the model inside (.module), and several GPUs by device_map='auto' or torchrun."
        )
    if any(isinstance(m, OptimizedModule) or needed(m, *_COMPILED) is not None for m in modules):
        raise UnsupportedModelError(
            "This model is compiled, and what torch.compile made before may run past hooks without a word; measure "
            "the model that is not compiled, or compile it after attach."
        )
    return inner


_COMPILED = ("_compiled_call_impl", "torch", "tells that a module is compiled")


def config_of(model: Network) -> Json:
    """The settings of a transformers model; raises UnsupportedModelError for anything else."""
    config: Json = transformers_model(model).config.to_dict()
    return config


def dtype_of(model: Network) -> str:
    """What a model computes in: the dtype of its embedding."""
    return str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")


def layers_of(model: Network) -> nn.ModuleList:
    """The blocks of a causal language model, in the order in which they run."""
    inner = transformers_model(model)
    layers = getattr(inner.base_model, "layers", None)
    if layers is None:
        raise UnsupportedModelError(f"{type(inner).__name__} has no list of layers; {GUIDE}.")
    return layers


def locate(model: Network) -> list[Located]:
    """The routers of ``model`` in running order.

    Raises UnsupportedModelError where no family serves it or a router that the family declares is missing.
    """
    config, layers = config_of(model), layers_of(model)
    family = family_for(config)
    routers = []
    for spec in family.specs(config):
        form = family.form(spec.router)
        gate = module_at(layers[spec.layer], form.torch_gate) if spec.layer < len(layers) else None
        weight = None if gate is None else next(gate.parameters(), None)
        if not isinstance(gate, nn.Module) or weight is None or weight.shape[0] != spec.n_experts:
            what = "no such module" if gate is None else f"a weight of shape {None if weight is None else weight.shape}"
            raise UnsupportedModelError(
                f"Layer {spec.layer}: {form.torch_gate!r} should score {spec.n_experts} experts in transformers' "
                f"{type(model).__name__}, but there is {what}; {GUIDE}."
            )
        routers.append(Located(replace(spec, router_bits=weight.element_size() * 8), form, gate))
    return routers


_OPEN: WeakSet[Capture] = WeakSet()
"""Every capture that is not closed."""


class Capture:
    """Hooks on every router of one model, until ``close``. See `Sink` for what it is told.

    Only forwards of the whole model are heard: gradient checkpointing runs blocks once more, on the way back.
    cache: the KV cache that the running forward was given; None without one. unknown_cache: the name of an argument
    that seems to be one, but of a kind that transformers does not have. padded: whether it was given an attention mask
    that leaves positions out. repeated: whether a generation starts with rows that are equal, as beams.
    """

    def __init__(self, model: Network, sink: Sink) -> None:
        self.routers = locate(model)  # raises before anything is touched
        self.cache: Cache | None = None
        self.unknown_cache: str | None = None
        self.padded = self.repeated = False
        self._shape: tuple[int, ...] = ()
        self._running = False
        self._sink = sink
        layers = layers_of(model)
        self._inner = inner = transformers_model(model).base_model
        self._names = parameters(inner)
        for name in ("input_ids", "attention_mask"):
            if name not in self._names:
                what = f"argument {name!r} of {type(inner).__name__}.forward"
                raise RenamedError("transformers", what, "the hooks read")
        self._handles = [
            inner.register_forward_pre_hook(self._begin, with_kwargs=True),
            inner.register_forward_hook(self._end, always_call=True),
        ]
        for layer in sorted({router.spec.layer for router in self.routers}):
            self._handles.append(layers[layer].register_forward_pre_hook(self._layer, with_kwargs=True))
        for number, router in enumerate(self.routers):
            self._handles.append(router.gate.register_forward_hook(self._hook(number, router.form)))
        _OPEN.add(self)

    @property
    def sinks(self) -> list[Sink]:
        """The sinks of all captures of its model that are not closed."""
        return [one._sink for one in _OPEN if one._inner is self._inner]

    def close(self) -> None:
        """Take the hooks off; a second call does nothing."""
        _OPEN.discard(self)
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self, model: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        self._running = True
        arguments = dict(zip(self._names, args, strict=False)) | dict(kwargs)
        # What the caller gave: the model makes a cache of its own for every forward.
        self.cache, self.unknown_cache = cache_among(arguments), unknown_cache(arguments)
        mask, ids = arguments.get("attention_mask"), arguments.get("input_ids")
        self.padded = isinstance(mask, torch.Tensor) and mask.ndim == 2 and not bool(mask.all())
        self.repeated = False
        if self.cache is not None and isinstance(ids, torch.Tensor) and ids.ndim == 2 and ids.shape[1] > 1:
            self.repeated = bool((ids[1:] == ids[:-1]).all(dim=-1).any())

    def _end(self, model: nn.Module, args: tuple[object, ...], output: object) -> None:
        self._running = False

    def _layer(self, layer: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        # By place, for its name is the layer's own: the first argument, however it was given.
        hidden = args[0] if args else kwargs.get(parameters(layer)[0])
        if not isinstance(hidden, torch.Tensor):
            what = f"hidden states as the first argument of {type(layer).__name__}.forward"
            raise RenamedError("transformers", what, "the hooks read")
        self._shape = tuple(hidden.shape[:-1])

    def _hook(self, number: int, form: RouterForm) -> Callable[[nn.Module, object, object], None]:
        read = READINGS[form.torch_output]

        def hook(gate: nn.Module, args: object, output: object) -> None:
            if self._running:
                self._sink(number, *read(gate, output), self._shape)

        return hook


def check_rule(spec: RouterSpec, expected: torch.Tensor, weights: torch.Tensor) -> None:
    """Raise RoutingError where the family's rule does not give the weights [..., K] that the block multiplies with.

    The tolerance is the rounding of the dtype in which the model keeps them.
    """
    tolerance = 8 * torch.finfo(weights.dtype).eps
    worst = float((expected - weights.float()).abs().max()) if weights.numel() else 0.0
    if worst > max(tolerance, 1e-5):
        raise RoutingError(
            f"Layer {spec.layer} ({spec.router}): the family's rule for gate weights is off by {worst:.2g} from those "
            f"that transformers uses; the family does not describe this model, {GUIDE}."
        )
