"""comparison.json, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ...routing.record import RouterName
from ...types import Json
from .base import Count, Number, Positive, Probability, Sealed, Share, says


class Side(msgspec.Struct, kw_only=True):
    """Where a side's numbers come from; model, data and environment as in routing_stats.schema.json."""

    file: str
    model: Json
    data: Json
    environment: Json
    settings: Json


DETECTABLE = Annotated[
    Annotated[float, Meta(ge=0)] | UnsetType | None,
    says(
        "Smallest true difference that `power` of such comparisons find; null without an interval. From version 2 on."
    ),
]


class Effect(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    a: Number
    b: Number
    effect: Annotated[Number, says("b - a.")]
    low: Number
    high: Number
    p: Annotated[Probability | None, says("1 minus the highest level at which the interval leaves out 0.")]
    method: Annotated[str | UnsetType, says("How the interval was made.")] = UNSET
    bias: Annotated[float | UnsetType, says("Mean of the resampled effects minus the effect.")] = UNSET
    reason: Annotated[str | UnsetType, says("Why there is no interval.")] = UNSET
    q: Annotated[Probability | UnsetType | None, says("p adjusted; of single routers.")] = UNSET
    detectable: DETECTABLE = UNSET


class Distance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Distance of the loads of A and B. In version 1 the plug-in value, and a test by exchanging sequences."""

    value: Annotated[
        Annotated[float, Meta(ge=0)] | None, says("Without what chance adds; the plug-in value without an interval.")
    ]
    low: Number | UnsetType = UNSET
    high: Number | UnsetType = UNSET
    p: Annotated[Probability | None, says("Of equal loads; p <= 1 - level if and only if low is above 0.")]
    method: Annotated[str | UnsetType, says("How the interval was made.")] = UNSET
    bias: Annotated[float | UnsetType, says("plugin minus value.")] = UNSET
    plugin: Annotated[Number | UnsetType, says("What the sample gives.")] = UNSET
    detectable: DETECTABLE = UNSET
    q: Annotated[Probability | UnsetType | None, says("p adjusted.")] = UNSET
    reason: Annotated[str | UnsetType, says("Why there is no interval.")] = UNSET
    null_mean: Annotated[Number | UnsetType, says("Version 1: mean when sequences are exchanged.")] = UNSET
    null_high: Annotated[Number | UnsetType, says("Version 1: what 95% of exchanges stay below.")] = UNSET


class Sequences(msgspec.Struct, kw_only=True):
    """Sequences of each side, and those that both have."""

    a: Count
    b: Count
    shared: Count | None


class Compared(msgspec.Struct, kw_only=True):
    """Sequences of each side that the effects are computed on."""

    a: Positive
    b: Positive


class Repeated(msgspec.Struct, kw_only=True):
    """Sequences of each side that repeat an earlier one."""

    a: Count
    b: Count


class Design(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    paired: Annotated[
        bool | None,
        says("Whether the same sequences are compared; null: values alone, for a side has no sums per sequence."),
    ]
    sequences: Annotated[Sequences, says("Sequences of each side, and those that both have.")]
    compared: Annotated[Compared | None, says("Sequences of each side that the effects are computed on.")]
    repeated: Annotated[
        Repeated | UnsetType | None,
        says("Of those, how many repeat an earlier one token for token: each text counts once. From version 2 on."),
    ] = UNSET


class Allowed(msgspec.Struct, kw_only=True):
    kind: Literal["data", "reading", "phase", "routers", "experts", "top-k", "distribution", "collapse"]
    what: str


class ComparisonCi(msgspec.Struct, kw_only=True):
    method: Literal["bca", "percentile"]
    resamples: Annotated[int, Meta(ge=100)]
    seed: Count
    level: Share


class ComparisonSettings(msgspec.Struct, kw_only=True):
    ci: ComparisonCi
    rounding: Annotated[float, says("Differences up to this times max(1, |a|, |b|) get p = 1.")]
    q: Annotated[str, says("How p was adjusted.")]
    power: Annotated[Share | UnsetType, says("Share of comparisons that find what is `detectable`.")] = UNSET


class TokenShareChange(msgspec.Struct, kw_only=True):
    """Token share of each of E experts at B minus at A; [value - below, value + above] holds for all at once."""

    values: list[Number] | None
    below: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    above: Annotated[float, Meta(ge=0)] | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class LoadChange(msgspec.Struct, kw_only=True):
    load_l1: Distance
    load_jsd: Distance
    token_share_change: Annotated[
        TokenShareChange,
        says(
            "Token share of each of E experts at B minus at A; [value - below, value + above] holds for "
            "all of them at once."
        ),
    ]


class Flags(msgspec.Struct, kw_only=True):
    a: bool | None
    b: bool | None


class ComparisonRouter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    layer: Count
    moe_layer: Count
    router: RouterName
    effects: dict[str, Effect]
    load: LoadChange
    collapsed: Flags


class ComparisonFile(Sealed, kw_only=True, forbid_unknown_fields=True):
    """What `mlx-moebench compare` writes. Every effect is B minus A. Entropies are in nats. A number that is undefined
    is null, never 0. E: routable columns of a router.
    """

    schema_version: Annotated[Literal["1", "2"], says("Version of this format.")]
    kind: Literal["comparison"]
    direction: Literal["b - a"]
    a: Side
    b: Side
    design: Design
    allowed: Annotated[list[Allowed], says("What makes the sides not quite comparable, and was allowed.")]
    notes: Annotated[list[str], says("What a reader must know.")]
    settings: ComparisonSettings
    units: Annotated[dict[str, str], says("Unit of each metric.")]
    routers: Annotated[list[ComparisonRouter], says("Every router that both sides have, in the order of A.")]
    overall: Annotated[
        dict[str, dict[str, Effect]],
        says("By kind of router: each metric averaged over its routers; peak_ of a maximum: the largest over them."),
    ]
    command: Annotated[str | UnsetType, says("The command that made it; absent in Python.")] = UNSET
    names: Annotated[list[str] | UnsetType, says("What the user calls A and B, where that was said.")] = UNSET
