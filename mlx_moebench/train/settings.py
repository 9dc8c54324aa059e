"""The ``routing_loss:`` block of a training configuration."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ..errors import TrainingError, did_you_mean
from ..routing.record import RouterSpec
from ..types import Facts, Json
from .losses import Scope, Signal

NAMES = ("entropy_floor", "switch", "sequence", "global", "z")
_SCOPES: dict[str, Scope] = {"switch": "batch", "sequence": "sequence", "global": "window", "z": "batch"}
"""What each loss but the entropy floor, which may choose, is computed over."""

_KEYS = {"entropy_floor": ("signal", "scope", "window", "floor"), "global": ("window",)}
_DEFAULT_FLOOR = {"fraction": 0.9}


@dataclass(frozen=True)
class RoutingLoss:
    """Which loss on the routing is added to the cross-entropy, and on which routers.

    weight: lambda >= 0; 0 is the control, which measures and adds nothing. signal, scope: see `losses`. window:
    micro-batches of scope ``window``. floor: one of {fraction: of ln E}, {experts: N, for ln N} and {nats: H}. layers:
    moe_layer ordinals, or None for all.
    """

    name: str = "entropy_floor"
    weight: float = 0.01
    signal: Signal = "marginal"
    scope: Scope = "batch"
    window: int = 16
    floor: tuple[str, float] = ("fraction", 0.9)
    layers: tuple[int, ...] | None = None

    def floor_nats(self, n_experts: int) -> float:
        """The floor for a router of ``n_experts``, nats. Raises TrainingError where no router can reach it."""
        kind, value = self.floor
        most = math.log(n_experts)
        nats = {"fraction": value * most, "experts": math.log(value), "nats": value}[kind]
        if nats > most * (1 + 1e-9):
            raise TrainingError(
                f"routing_loss.floor {{{kind}: {value:g}}} is {nats:.4g} nats, but the entropy of a router with "
                f"{n_experts} experts is at most ln {n_experts} = {most:.4g}; lower the floor."
            )
        return min(nats, most)

    def routers(self, specs: tuple[RouterSpec, ...]) -> list[int]:
        """Positions in ``specs`` of the routers that the loss is on. Raises TrainingError for a layer without one."""
        known = sorted({spec.moe_layer for spec in specs})
        if unknown := sorted(set(self.layers or ()) - set(known)):
            raise TrainingError(
                f"routing_loss.layers names {unknown[0]}, but the model's MoE layers are {known[0]} to {known[-1]}."
            )
        return [n for n, spec in enumerate(specs) if self.layers is None or spec.moe_layer in self.layers]

    def never_fires(self, specs: tuple[RouterSpec, ...]) -> str | None:
        """A sentence where the floor lies below what a router's signal can be at all; None elsewhere."""
        if self.name != "entropy_floor" or self.signal != "load":
            return None
        for spec in (specs[n] for n in self.routers(specs)):
            nats, least = self.floor_nats(spec.n_experts), math.log(spec.top_k)
            if nats <= least:
                return (
                    f"The floor of {nats:.4g} nats can never fire: with {spec.top_k} experts per token the load "
                    f"entropy is at least ln {spec.top_k} = {least:.4g}."
                )
        return None

    def to_dict(self) -> Json:
        """The block as it would be written in YAML, with every default filled in."""
        block: Json = {"name": self.name, "weight": self.weight}
        settings = {"signal": self.signal, "scope": self.scope, "window": self.window, "floor": dict([self.floor])}
        block |= {key: settings[key] for key in _KEYS.get(self.name, ()) if key != "window" or self.scope == "window"}
        return block | {"layers": "all" if self.layers is None else list(self.layers)}


def parse_routing_loss(block: object) -> RoutingLoss:
    """A `RoutingLoss` from the YAML block. Raises TrainingError, naming the key, for anything it does not know."""
    if not isinstance(block, Mapping):
        raise TrainingError("routing_loss needs keys below it: name, weight, ...; see `mlx-moebench train --help`.")
    name = _choice(block, "name", "entropy_floor", NAMES)
    known = ["name", "weight", "layers", *_KEYS.get(name, ())]
    for key in block:
        if key not in known:
            raise TrainingError(
                f"routing_loss of name {name!r} has no key {str(key)!r}.{did_you_mean(str(key), known)}"
            )
    signal = _choice(block, "signal", "marginal", get_args(Signal))
    scope = _SCOPES.get(name) or _choice(block, "scope", "batch", get_args(Scope))
    weight = _number(block, "weight", 0.01)
    if weight < 0:
        raise TrainingError(f"routing_loss.weight is {weight:g}; give 0 (the control) or more.")
    window = _number(block, "window", 16)
    if window != int(window) or window < 1:
        raise TrainingError(f"routing_loss.window is {window:g}; give a whole number of micro-batches, 1 or more.")
    return RoutingLoss(name, weight, signal, scope, int(window), _floor(block), _layers(block))


def _choice(block: Facts, key: str, default: str, known: tuple[str, ...]) -> Any:
    value = block.get(key, default)
    if value not in known:
        raise TrainingError(f"routing_loss.{key} is {value!r}.{did_you_mean(str(value), list(known))}")
    return value


def _number(block: Facts, key: str, default: float, where: str = "routing_loss") -> float:
    value = block.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise TrainingError(f"{where}.{key} is {value!r}; give a number.")
    return float(value)


def _floor(block: Facts) -> tuple[str, float]:
    floor = block.get("floor", _DEFAULT_FLOOR)
    if (
        not isinstance(floor, Mapping)
        or len(floor) != 1
        or (kind := next(iter(floor))) not in ("fraction", "experts", "nats")
    ):
        raise TrainingError(
            f"routing_loss.floor is {floor!r}; give one of {{fraction: 0.9}} of ln E, {{experts: 32}}, {{nats: 2.5}}."
        )
    value = _number(floor, kind, 0.0, "routing_loss.floor")
    if value <= 0 or (kind == "experts" and value <= 1):
        raise TrainingError(
            f"routing_loss.floor.{kind} is {value:g}; it must be above {1 if kind == 'experts' else 0}."
        )
    if kind == "fraction" and value > 1:
        raise TrainingError(f"routing_loss.floor.fraction is {value:g}, but no entropy is above ln E; give 1 or less.")
    return kind, value


def _layers(block: Facts) -> tuple[int, ...] | None:
    layers = block.get("layers", "all")
    if layers == "all":
        return None
    if not isinstance(layers, list) or not layers or any(isinstance(n, bool) or not isinstance(n, int) for n in layers):
        raise TrainingError(f"routing_loss.layers is {layers!r}; give all or a list of MoE layers such as [0, 3].")
    return tuple(sorted(set(layers)))
