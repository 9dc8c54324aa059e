"""What the routing testbed compares: ways to balance a router, the tokens over which each does, and two bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import TrainingError, did_you_mean

Scope = Literal["sequence", "micro-batch", "window", "update"]
"""The tokens over which a load is balanced, from the fewest to the most but for ``update``, those of a whole update."""


@dataclass(frozen=True)
class Method:
    """title: in words. scope: None where nothing is balanced. router, axes, z_weight: as in `settings.Pretraining`.

    bound: ``upper`` or ``lower``, where it is no method but what methods are placed between.
    """

    name: str
    title: str
    scope: Scope | None = None
    axes: Mapping[str, Any] = field(default_factory=dict)
    router: str = "smoe"
    z_weight: float = 0.0
    bound: Literal["upper", "lower"] | None = None


UNBALANCED = {"balance": "none", "balance_weight": 0.0}

_ALL = (
    Method("reference", "reference router: every domain its own experts", router="reference", bound="upper"),
    Method("none", "no balancing", axes=UNBALANCED),
    Method("sequence", "Switch loss over a sequence", "sequence", {"balance": "sequence"}),
    Method("micro-batch", "Switch loss over a micro-batch", "micro-batch", {"balance": "switch"}),
    Method("global", "Switch loss over a window", "window", {"balance": "global"}),
    Method("lossfree", "loss-free bias", "update", UNBALANCED | {"selection_bias": True, "bias_update": 0.001}),
    Method("z-loss", "router z-loss alone", axes=UNBALANCED, z_weight=0.001),
    Method("floor-sequence", "entropy floor over a sequence", "sequence", {"balance": "floor_sequence"}),
    Method("floor-micro-batch", "entropy floor over a micro-batch", "micro-batch", {"balance": "floor"}),
    Method("floor-global", "entropy floor over a window", "window", {"balance": "floor_global"}),
    Method("hash", "hash of the token's id", router="hash"),
    Method("random", "at random", router="random", bound="lower"),
)
METHODS = {method.name: method for method in _ALL}

FLOOR_WEIGHT = 0.1
"""The coefficient of the entropy floors, which are in nats; that of the Switch loss is the router's own, 0.01."""

BREAKING = {
    "expert-choice": "lets experts choose tokens, so that a token has any number of experts",
    "capacity": "drops the tokens that a full expert cannot take",
    "capacity-dropping": "drops the tokens that a full expert cannot take",
    "token-dropping": "drops the tokens that a full expert cannot take",
}
"""Ways to balance that are refused, and why: what is measured here rests on K experts for every token."""


def method_named(name: str) -> Method:
    """The method of this name. Raises TrainingError where there is none, or where it cannot be measured here."""
    if why := BREAKING.get(name.lower().replace("_", "-")):
        raise TrainingError(
            f"{name} {why}: counts would not be tokens x K, and load, entropy and specialisation would be of other "
            "tokens than the loss. It is not one of the methods that are compared."
        )
    if name not in METHODS:
        raise TrainingError(f"There is no method {name!r}.{did_you_mean(name, list(METHODS))}")
    return METHODS[name]
