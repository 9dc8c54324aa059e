"""Find a model's routers, tap them all or none, and give the classes back.

Inside a function transformation the model's results do not change, but what can be recorded does:

- ``mx.grad``, ``mx.value_and_grad``, ``mx.jvp``: the sink gets ordinary arrays that can be read at any time.
- ``mx.checkpoint``: the forward runs again in the backward pass, so the sink is called twice per router.
- ``mx.compile``, ``mx.vmap``: Python runs while the function is traced, and for ``compile`` only then. The sink
  gets placeholders, which may be used inside the same function but never afterwards; ``is_traced`` tells them
  apart. A call that reuses a compiled function does not reach the sink at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType, TracebackType

import mlx.core as mx
import mlx.nn as nn

from ..errors import RoutingError, UnsupportedModelError, needed
from ..families import GUIDE, Config, Family, RouterForm
from ..families.base import module_at, stored_weight
from ..routing.record import Array, RouterSpec, Routing
from ..types import Facts
from .models import config_of, family_of, is_of_mlx_vlm
from .tap import tap_chooser, tap_experts, tap_gate, tap_layer, tap_loop, tap_of, tap_raw_gate, tap_trunk, untap
from .taps import ExpertTap, LayerTap, Listener, RouterTap, Sink, TrunkTap


@dataclass(frozen=True)
class _Located:
    """One router found in a model: the facts about it, its form, and its two modules."""

    spec: RouterSpec
    form: RouterForm
    gate: nn.Module
    experts: nn.Module


class Capture:
    """Taps on every router of one model, until ``close`` or the end of a ``with`` block.

    specs: the routers in the order in which they run; the sink's ``number`` is a position in it. forms, gates, routers:
    the declaration of each, its gate and its tap. config: the model's.
    """

    def __init__(self, model: nn.Module, sink: Sink, listener: Listener | None = None) -> None:
        located = _locate(model)  # raises before anything is touched
        self.config = config_of(model)
        self.specs = tuple(router.spec for router in located)
        self.forms = tuple(router.form for router in located)
        self.gates = tuple(router.gate for router in located)
        self._model: nn.Module | None = model
        self._parameters: tuple[Facts, ...] | None = None
        self.routers = [_tap(model, router) for router in located]
        self._sinks = [(number, sink) for number in range(len(located))]
        for tap, entry in zip(self.routers, self._sinks, strict=True):
            tap.sinks.append(entry)
        self._trunk, self._listener = _tap_trunk(model), listener
        if listener is not None:
            self._trunk.listeners.append(listener)

    def routing(self, number: int, logits: Array, indices: Array, mask: Array) -> Routing:
        """The record of what router ``number`` gave the sink; mask [B, S] True where a position counts.

        Raises RoutingError as ``routing_from`` does.
        """
        return routing_from(self.forms[number], self.config, logits, indices, mask, self.parameters_of(number))

    def parameters_of(self, number: int) -> Facts:
        """What else the rule of a router needs, as it is now, or as it was when this capture was closed."""
        if self._parameters is not None:
            return self._parameters[number]
        assert self._model is not None
        form, layer = self.forms[number], self._model.layers[self.specs[number].layer]
        return parameters_at(layer, bias=form.bias, expert_scale=form.expert_scale)

    @property
    def caches(self) -> object:
        """The KV caches that the forward which this thread runs was given, one or a list; None without one."""
        return self._trunk.caches

    @property
    def unknown_cache(self) -> str | None:
        """The name of what that forward was given that seems to be a cache and is not one of mlx-lm's."""
        return self._trunk.unknown_cache

    @property
    def changes(self) -> int:
        """How often gates were converted since they were tapped, as by quantising."""
        return sum(tap.changes for tap in self.routers)

    @property
    def sinks(self) -> list[Sink]:
        """Its own sink and those of every other capture that hears the same taps."""
        return [sink for _, sink in self.routers[0].sinks]

    def close(self) -> None:
        """Let go of the model, and take the taps off unless another capture of it still listens.

        A second call does nothing.
        """
        if self._model is None:
            return
        self._parameters = tuple(self.parameters_of(number) for number in range(len(self.specs)))
        model, self._model = self._model, None
        for tap, entry in zip(self.routers, self._sinks, strict=True):
            tap.sinks[:] = [other for other in tap.sinks if other is not entry]
        listeners = self._trunk.listeners
        listeners[:] = [other for other in listeners if other is not self._listener]
        if not any(tap.sinks for tap in self.routers):
            mine = [self._trunk, *self.routers, *(tap.layer for tap in self.routers)]
            for module in model.modules():
                own = tap_of(module)
                if any((own.router if isinstance(own, ExpertTap) else own) is tap for tap in mine):
                    untap(module)

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def capture(model: nn.Module, sink: Sink) -> Capture:
    """Tap every router of ``model``: ``sink(number, logits, indices, shape)`` per router and forward, in running order.

    logits: [..., R] exactly as the gate returned them (some blocks flatten a batch to [B * S, R]), with a LoRA adapter
        on the gate already added. indices: [..., K] as the experts received them. Neither is evaluated.
    shape: (B, S) of the hidden states in the router's layer.
    Several captures of one model all hear. An exception in a sink ends the forward.

    Raises UnsupportedModelError, leaving the model as it was, where a router that the model's family declares is
    missing.
    """
    return Capture(model, sink)


def detach(model: nn.Module) -> None:
    """End every capture of ``model``: each tapped module has its own class again. Nothing happens without taps."""
    for module in model.modules():
        untap(module)


def sinks_of(model: nn.Module) -> list[Sink]:
    """The sinks that the taps on ``model`` report to, in the order in which they came; none without taps."""
    taps = (tap_of(module) for module in model.modules())
    return next(([sink for _, sink in tap.sinks] for tap in taps if isinstance(tap, RouterTap)), [])


def routers_of(model: nn.Module) -> list[RouterSpec]:
    """The routers of ``model`` in the order in which they run.

    Raises UnsupportedModelError where no family serves the model or a declared router is missing.
    """
    return [router.spec for router in _locate(model)]


def experts_of(model: nn.Module) -> list[nn.Module]:
    """The module that runs the experts of each router, in running order; raises as `routers_of` does."""
    return [router.experts for router in _locate(model)]


def parameters_at(block: nn.Module, **paths: str) -> Facts:
    """The parameters at these paths in a block, float32; those that it does not have are left out."""
    arrays = {name: module_at(block, path) for name, path in paths.items() if path}
    return {name: array.astype(mx.float32) for name, array in arrays.items() if array is not None}


def routing_from(
    form: RouterForm,
    config: Config,
    logits: Array,
    indices: Array,
    mask: Array,
    parameters: Facts = MappingProxyType({}),
) -> Routing:
    """The record of one router on one batch, from what a sink was given.

    logits: [B, S, R] or [B * S, R]; indices: the same with K; mask: [B, S] bool; parameters: `rules.Parameters`.
    Logits are cast to float32 before anything is computed of them. Raises RoutingError where the sizes do not fit.
    """
    shape = tuple(mask.shape)
    for name, array in (("logits", logits), ("indices", indices)):
        leading = tuple(array.shape[:-1])
        if len(shape) != 2 or leading not in (shape, (math.prod(shape),)):
            raise RoutingError(
                f"The {name} of the {form.router} router have shape {tuple(array.shape)}, which does not fit a mask of "
                f"shape {shape}: give a mask [B, S] with one entry per position of the batch that was run."
            )
    rule = form.rule
    z = rule.effective(logits.astype(mx.float32).reshape(*shape, -1), config)
    chosen = indices.reshape(*shape, -1)
    weights, selection = rule.weights(z, chosen, config, parameters), rule.selection(z, config, parameters)
    return Routing(z, chosen, weights, mx.array(mask).astype(mx.bool_), rule.distribution(config), selection)


def is_traced(*arrays: Array) -> bool:
    """Whether an array is a placeholder of ``mx.compile`` or ``mx.vmap``, dead once the traced function returns.

    Right inside the traced function and after it.
    The arrays are scheduled for evaluation (and inside a gradient evaluated), which changes no result.
    """
    # async_eval is refused inside every transformation; eval only where there is nothing to evaluate.
    for evaluate in (mx.async_eval, mx.eval):
        try:
            evaluate(*arrays)
        except (ValueError, RuntimeError) as error:
            if not any(words in str(error) for words in ("transformation", "without a primitive")):
                raise
        else:
            return False
    return True


def bits_of(layer: nn.Module) -> int:
    """Bits per weight of a layer; integers are several weights packed, of which the layer knows how many bits."""
    if mx.issubdtype(layer.weight.dtype, mx.floating):
        return int(layer.weight.dtype.size * 8)
    return int(needed(layer, "bits", "mlx", "says how a weight is packed"))


def _locate(model: nn.Module) -> list[_Located]:
    family = family_of(model)
    specs = family.specs(config_of(model))
    located = []
    for spec in specs:
        form = family.form(spec.router)
        if not 0 <= spec.layer < len(model.layers):
            raise UnsupportedModelError(
                f"The {family.name!r} family expects a router in layer {spec.layer}, but the model has "
                f"{len(model.layers)} layers; {GUIDE}."
            )
        gate, experts = (_router_part(model, spec.layer, path, family.name) for path in (form.gate, form.experts))
        weight = stored_weight(gate)
        if weight is None or weight.weight.shape[0] != spec.n_experts:
            holds = "no weight" if weight is None else f"a weight with {weight.weight.shape[0]} rows"
            raise UnsupportedModelError(
                f"Layer {spec.layer}: '{form.gate}' should score {spec.n_experts} experts but has {holds}; check that "
                f"config.json belongs to these weights, or {GUIDE}."
            )
        located.append(_Located(replace(spec, router_bits=bits_of(weight)), form, gate, experts))
    if is_of_mlx_vlm(model):
        _check_all(model, family, {spec.layer for spec in specs})
    return located


def _check_all(model: nn.Module, family: Family, known: set[int]) -> None:
    """Raises UnsupportedModelError for a block with experts that the config does not call sparse: mlx-vlm may read it
    otherwise than mlx-lm."""
    for number, layer in enumerate(model.layers):
        experts = next((form.experts for form in family.routers if module_at(layer, form.experts) is not None), None)
        if number not in known and experts is not None:
            raise UnsupportedModelError(
                f"Layer {number} of this model has '{experts}', but by its config the {family.name!r} family has no "
                f"router there; {GUIDE}."
            )


def _tap(model: nn.Module, router: _Located) -> RouterTap:
    """The tap on a router and on its layer: that of an earlier capture, else a new one."""
    layer, tap, form = model.layers[router.spec.layer], tap_of(router.experts), router.form
    if not isinstance(tap, RouterTap):
        of_layer = tap_of(layer)  # with two routers the first one made it
        tap = RouterTap(router.spec.name, of_layer if isinstance(of_layer, LayerTap) else LayerTap())
        if form.one_by_one:
            tap_loop(router.experts, module_at(router.experts, form.one_by_one), tap)
        else:
            tap_experts(router.experts, tap)
    tap_layer(layer, tap.layer)
    # Again, too: another gate may have come into its place.
    if form.chooser:
        tap_chooser(module_at(layer, form.chooser), tap)
    if form.seam == "linear":
        tap_gate(router.gate, tap)
    else:
        tap_raw_gate(router.gate, tap, precise=form.seam == "raw_float32")
    return tap


def _tap_trunk(model: nn.Module) -> TrunkTap:
    """The tap on the module whose layers those of ``model`` are: that of an earlier capture, else a new one."""
    first = model.layers[0]
    holds = (m for m in model.modules() if any(isinstance(v, list) and any(x is first for x in v) for v in m.values()))
    trunk = next(holds, model)
    tap = tap_of(trunk)
    if not isinstance(tap, TrunkTap):
        tap = TrunkTap([])
        tap_trunk(trunk, tap)
    return tap


def _router_part(model: nn.Module, layer: int, path: str, family: str) -> nn.Module:
    module = module_at(model.layers[layer], path)
    if not isinstance(module, nn.Module):
        raise UnsupportedModelError(
            f"Layer {layer} of this model has no module '{path}', where the {family!r} family has a router; was the "
            f"model changed, or is it another form? If so, {GUIDE}."
        )
    return module
