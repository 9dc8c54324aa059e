"""Hooks on the routers of a transformers model, which change nothing that it computes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from weakref import WeakSet

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.utils.hooks import RemovableHandle
from transformers import Cache, PreTrainedModel

from mlx_moebench.errors import RenamedError, RoutingError, UnsupportedModelError, needed
from mlx_moebench.families import GUIDE, InTransformers, RouterForm, family_for
from mlx_moebench.families.base import module_at
from mlx_moebench.routing.record import RouterSpec, Routing
from mlx_moebench.routing.recorder import Recorder
from mlx_moebench.types import Json, Network

from .caches import cache_among, parameters, unknown_cache
from .readings import LOGITS, READINGS, at_experts, logits_of

Sink = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...]], None]
"""``sink(number, logits [T, R], indices [T, K], weights [T, K], shape)``: the router's number in running order, what
it gave, and the leading shape (B, S), of T positions, of the hidden states that its layer got."""


@dataclass(frozen=True)
class Located:
    """One router found in a model: its gate, what that multiplies with [R, ...], and the block that it is in."""

    spec: RouterSpec
    form: RouterForm
    place: InTransformers
    gate: nn.Module
    weight: torch.Tensor
    layer: nn.Module

    def given(self, logits: torch.Tensor, indices: torch.Tensor, config: Json) -> torch.Tensor:
        """The weights [..., K] that its experts should be called with."""
        rule = replace(self.form.torch_rule, scale=1.0) if self.place.scaled_after else self.form.torch_rule
        return rule.weights(rule.effective(logits.float(), config), indices.long(), config, self._parameters())

    def _parameters(self) -> dict[str, torch.Tensor]:
        paths = {"bias": self.place.bias, "expert_scale": self.place.expert_scale}
        found = {name: module_at(self.layer, path) for name, path in paths.items() if path}
        # Some keep a bias as [1, R].
        return {name: array.detach().float().reshape(-1) for name, array in found.items() if array is not None}

    def routing(
        self, logits: torch.Tensor, indices: torch.Tensor, config: Json, mask: torch.Tensor | None = None
    ) -> Routing:
        """Its record on one batch: logits [..., R], indices [..., K], mask [...] of what counts, None for all."""
        rule, parameters = self.form.torch_rule, self._parameters()
        z, chosen = rule.effective(logits.float(), config), indices.long()
        return Routing(
            z,
            chosen,
            rule.weights(z, chosen, config, parameters),
            torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device) if mask is None else mask,
            rule.distribution(config),
            rule.selection(z, config, parameters),
        )


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
    inner = transformers_model(model)
    config: Json = inner.config.to_dict()
    config["architectures"] = [type(inner).__name__]  # it tells models of one model_type apart
    return config


def dtype_of(model: Network) -> str:
    """What a model computes in: the dtype of its embedding."""
    return str(model.get_input_embeddings().weight.dtype).removeprefix("torch.")


def layers_of(model: Network) -> nn.ModuleList:
    """The blocks of a causal language model, in the order in which they run."""
    inner = transformers_model(model)
    for path in ("layers", "blocks", "model.layers", "language_model.layers", "language_model.model.layers"):
        if isinstance(layers := module_at(inner.base_model, path), nn.ModuleList):
            return layers
    raise UnsupportedModelError(f"{type(inner).__name__} has no list of layers; {GUIDE}.")


def locate(model: Network) -> list[Located]:
    """The routers of ``model`` in running order.

    Raises UnsupportedModelError where no family serves it or a router that the family declares is missing.
    """
    config, layers = config_of(model), layers_of(model)
    family = family_for(config)
    routers = []
    for spec in family.specs(config, torch=True):
        form = family.form(spec.router)
        assert form.torch is not None  # `specs` raises without it
        gate = module_at(layers[spec.layer], form.torch.gate) if spec.layer < len(layers) else None
        weight = weight_of(gate) if isinstance(gate, nn.Module) else None
        if not isinstance(gate, nn.Module) or weight is None or weight.shape[0] != spec.n_experts:
            what = "no such module" if gate is None else f"a weight of shape {None if weight is None else weight.shape}"
            raise UnsupportedModelError(
                f"Layer {spec.layer}: {form.torch.gate!r} should score {spec.n_experts} experts in transformers' "
                f"{type(model).__name__}, but there is {what}; {GUIDE}."
            )
        spec = replace(spec, router_bits=weight.element_size() * 8)
        routers.append(Located(spec, form, form.torch, gate, weight, layers[spec.layer]))
    return routers


def weight_of(gate: nn.Module) -> torch.Tensor | None:
    """The matrix that a router multiplies with; None without one."""
    return next((weight for weight in gate.parameters() if weight.ndim == 2 and len(weight) > 1), None)


_OPEN: WeakSet[Capture] = WeakSet()
"""Every capture that is not closed."""


class Capture:
    """Hooks on every router of one model, until ``close``. See `Sink` for what it is told.

    Only forwards of the whole model are heard: gradient checkpointing runs blocks once more, on the way back.
    cache: the KV cache that the running forward was given; None without one. unknown_cache: the name of an argument
    that seems to be one, but of a kind that transformers does not have. padded: whether it was given an attention mask
    that leaves positions out. repeated: whether a generation starts with rows that are equal, as beams.
    """

    def __init__(self, model: Network, sink: Sink, listener: Recorder | None = None) -> None:
        self.routers = locate(model)  # raises before anything is touched
        self.cache: Cache | None = None
        self.unknown_cache: str | None = None
        self.padded = self.repeated = False
        self._shape: tuple[int, ...] = ()
        self._running = False
        self._sink, self._listener = sink, listener
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
            self._handles += self._hooks(number, router)
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

        if self._listener is not None:
            self._listener.begin()

    def _end(self, model: nn.Module, args: tuple[object, ...], output: object) -> None:
        self._running = False
        if self._listener is not None:
            # torch calls this after an error, too, and then without an output.
            self._listener.end(failed=output is None and not isinstance(sys.exception(), _Heard))

    def _layer(self, layer: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        # By place, for its name is the layer's own: the first argument, however it was given.
        hidden = args[0] if args else kwargs.get(parameters(layer)[0])
        if not isinstance(hidden, torch.Tensor):
            what = f"hidden states as the first argument of {type(layer).__name__}.forward"
            raise RenamedError("transformers", what, "the hooks read")
        self._shape = tuple(hidden.shape[:-1][:2])  # some blocks carry several streams, [B, S, N, D]

    def _hooks(self, number: int, router: Located) -> list[RemovableHandle]:
        if router.place.output == LOGITS:
            return self._hooks_in_two_places(number, router)
        read = READINGS[router.place.output]

        def hook(gate: nn.Module, args: object, output: object) -> None:
            if self._running:
                self._sink(number, *read(gate, output), self._shape)

        return [router.gate.register_forward_hook(hook)]

    def _hooks_in_two_places(self, number: int, router: Located) -> list[RemovableHandle]:
        """Logits as the gate gives them, and the choice as the experts, which run right after it, get it."""
        experts = module_at(router.layer, router.place.experts)
        if not isinstance(experts, nn.Module):
            what = f"{router.place.experts!r} in {type(router.layer).__name__}"
            raise RenamedError("transformers", what, "the hooks read")
        last: list[torch.Tensor] = []

        def keep(gate: nn.Module, args: object, output: object) -> None:
            last[:] = [logits_of(gate, output)]

        def hook(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
            if self._running:
                self._sink(number, last.pop(), *at_experts(module, args, kwargs), self._shape)

        return [
            router.gate.register_forward_hook(keep),
            experts.register_forward_pre_hook(hook, with_kwargs=True),
        ]


class _Heard(Exception):  # noqa: N818  # nothing went wrong
    """The last router was heard, and no one asks for more."""


_LAST: WeakSet[nn.Module] = WeakSet()
"""Models of which a whole forward was seen to run the last of their routers once."""


@contextmanager
def until_last_router(model: Network) -> Iterator[None]:
    """One forward, run inside, ends when the last router was heard: neither the experts that it chose nor what comes
    behind them are computed, and nothing is returned.

    The first forward of a model runs whole: one that runs its last router twice is not cut short, nor one whose weights
    accelerate moves, which it would not move back.
    """
    router, inner = locate(model)[-1], transformers_model(model).base_model
    if any(hasattr(module, "_hf_hook") for module in model.modules()):
        yield
        return
    calls = 0

    def leave(*_: object) -> None:  # after those who listen, which were there before it
        nonlocal calls
        calls += 1
        if inner in _LAST:
            raise _Heard

    if router.place.output == LOGITS:  # its choice is heard where the experts begin
        handle = module_at(router.layer, router.place.experts).register_forward_pre_hook(leave)
    else:
        handle = router.gate.register_forward_hook(leave)
    try:
        yield
    except _Heard:
        return
    finally:
        handle.remove()
    if calls == 1:
        _LAST.add(inner)


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
