"""quant_drift.json, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...types import Json
from .base import Count, Estimate, Positive, Probability, Sealed, Share, says
from .comparison import ComparisonCi, Effect, LoadChange


class QuantMeasures(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the arm's routers choose beside the reference's on the same tokens, each a mean over tokens."""

    routing_overlap: Annotated[Estimate, says("|A n B| / K: share of a token's K experts that both chose.")]
    exact_set_rate: Annotated[Estimate, says("Share of tokens whose whole set of experts is the same.")]
    top1_flip: Annotated[Estimate, says("Share of tokens whose first choice differs.")]
    kl: Annotated[Estimate, says("KL(p || q), p the reference's distribution, q the arm's. Nats.")]


class Margin(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The reference's selection margins in a tenth, in its selection score."""

    low: Annotated[float, says("The smallest.")]
    high: Annotated[float, says("The largest.")]
    mean: Annotated[float, says("Their mean.")]


class MarginTenth(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A tenth of the tokens by the reference's selection margin, smallest margins first."""

    margin: Margin
    n_tokens: Annotated[Positive, says("Tokens, or over several routers tokens of each.")]
    exact_set_rate: Annotated[Estimate, says("Share of them whose whole set of experts is the same.")]


class QuantRouter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One router of an arm."""

    layer: Count
    moe_layer: Count
    router: Literal["mlp", "attention"]
    n_experts: Positive
    top_k: Positive
    n_tokens: Count
    chance: Annotated[Probability, says("K/E: `routing_overlap` by chance under even routing.")]
    own: Annotated[QuantMeasures, says("In the arm's own forward, where earlier layers were quantised, too.")]
    same_input: Annotated[
        QuantMeasures,
        says("Where the arm's layer sees the hidden states of the reference: what the layer itself changes."),
    ]
    by_margin: Annotated[list[MarginTenth], says("In the arm's own forward; empty where there is no margin.")]
    effects: Annotated[dict[str, Effect], says("Every metric: a is the reference, b the arm.")]
    load: Annotated[LoadChange, says("What became of the load.")]


class QuantOverall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Over all routers of a kind, each token counted once for each of them."""

    own: QuantMeasures
    same_input: QuantMeasures
    by_margin: list[MarginTenth]
    effects: Annotated[dict[str, Effect], says("As `overall` of a comparison.")]


class QuantArm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One arm: the same weights, quantised."""

    arm: Annotated[str, says("WEIGHTS/ROUTERS in bits; stored: as the checkpoint has them.")]
    bits: Annotated[Positive | None, says("Of all weights but the routers'; null: as stored.")]
    router_bits: Annotated[Positive | None, says("Of the routers; null: as stored.")]
    model: Annotated[Json, says("As in routing_stats.schema.json.")]
    notes: Annotated[list[str], says("What a reader must know of the comparison with the reference.")]
    routers: list[QuantRouter]
    overall: Annotated[dict[str, QuantOverall], says("By kind of router.")]


class QuantShares(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Shares of the sets that the arm `low` loses. Below 0 where it loses fewer with its coarse routers."""

    last: Annotated[
        Estimate,
        says("(lost by low - lost by high) / lost by low: what its routers add when all else is quantised already."),
    ]
    first: Annotated[
        Estimate | None,
        says("lost by alone / lost by low: what its routers lose with all else as stored. Null without that arm."),
    ]


class QuantSeparatedRouter(QuantShares, kw_only=True, forbid_unknown_fields=True):
    """Of one router."""

    layer: Count
    moe_layer: Count
    router: Literal["mlp", "attention"]
    n_experts: Positive
    top_k: Positive


class QuantSeparation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the routers' own quantisation causes. Paired: all arms ran the same tokens."""

    low: Annotated[str, says("The arm whose lost sets are shared out.")]
    high: Annotated[str, says("The same weights, finer routers.")]
    alone: Annotated[str | None, says("The routers of low, all else as stored.")]
    routers: list[QuantSeparatedRouter]
    overall: Annotated[dict[str, QuantShares], says("Over all routers of a kind.")]


class QuantSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    ci: ComparisonCi
    bins: Annotated[Positive, says("Parts of the tokens by margin.")]
    rounding: Annotated[float, says("Effects up to this times max(1, |a|, |b|) get p = 1.")]
    power: Annotated[Share, says("Share of comparisons that find what is `detectable`.")]


class QuantMeasure(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    what: str
    unit: str


class QuantFile(Sealed, kw_only=True, forbid_unknown_fields=True):
    """What `mlx-moebench compare MODEL --quant ARM` writes. The reference is the model as it is stored."""

    schema_version: Annotated[Literal["1"], says("Version of this format.")]
    kind: Literal["quant_drift"]
    model: Annotated[Json, says("The reference; as in routing_stats.schema.json.")]
    data: Annotated[Json, says("As in routing_stats.schema.json.")]
    environment: Annotated[Json, says("As in routing_stats.schema.json.")]
    settings: QuantSettings
    measures: Annotated[dict[str, QuantMeasure], says("What is measured of each token, and its unit.")]
    units: Annotated[dict[str, str], says("Unit of each metric.")]
    arms: Annotated[list[QuantArm], Meta(min_length=1)]
    separations: Annotated[
        list[QuantSeparation], says("Of every arm beside one of the same weights and finer routers.")
    ]
