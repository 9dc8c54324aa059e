"""dynamics.json, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...types import Json
from .base import Count, Estimate, Number, Positive, Probability, Sealed, says
from .comparison import ComparisonCi

Kind = Literal["mlp", "attention"]


class DynamicsMoved(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint chooses beside the last one and beside the one before, of the same tokens."""

    saturation: Annotated[Estimate, says("|E_t n E_T| / K with the last checkpoint, a mean over tokens.")]
    saturation_sets: Annotated[Estimate, says("Share of tokens whose whole set is that of the last checkpoint.")]
    saturation_top1: Annotated[Estimate, says("Share of tokens whose first choice is that of the last checkpoint.")]
    change_rate: Annotated[Estimate, says("1 - |E_t n E_(t-1)| / K with the checkpoint before; null for the first.")]
    sets_changed: Annotated[Estimate, says("Share of tokens whose set is not that of the checkpoint before.")]
    change_rate_top1: Annotated[Estimate, says("Share of tokens whose first choice is not that of the one before.")]
    coactivation_stability: Annotated[
        Estimate, says("Pearson's r of the lifts of all pairs of experts with the checkpoint before; 0 by chance.")
    ]
    coactivation_saturation: Annotated[Estimate, says("The same with the last checkpoint.")]
    output_weight_similarity: Annotated[
        Estimate, says("Mean cosine of the experts' output weights; null where they are not read.")
    ]
    expected_saturation: Annotated[
        Probability,
        says("K sum f f' with the last checkpoint: the overlap of these loads without agreement on tokens."),
    ]
    expected_kept: Annotated[
        Probability | None, says("The same with the checkpoint before: change_rate would be 1 minus it.")
    ]
    metrics: Annotated[dict[str, Estimate], says("As in routing_stats.schema.json.")]


class DynamicsAt(DynamicsMoved, kw_only=True, forbid_unknown_fields=True):
    """One router of one checkpoint."""

    selection_counts: Annotated[list[Count], says("Of each expert.")]


class DynamicsChance(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Overlap of two routers that choose at random, under even routing."""

    top_k: Annotated[Probability, says("K/E.")]
    top_1: Annotated[Probability, says("1/E.")]


class DynamicsRouter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One router over all checkpoints."""

    layer: Count
    moe_layer: Count
    router: Kind
    n_experts: Positive
    top_k: Positive
    chance: DynamicsChance
    checkpoints: Annotated[list[DynamicsAt], Meta(min_length=2)]


class DynamicsCheckpoint(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One checkpoint of the series, in its order."""

    name: str
    step: Annotated[Count | None, says("Of the training; null for all where not every checkpoint says a rising one.")]
    fingerprint: Annotated[str | None, says("As in routing_stats.schema.json.")]


class DynamicsDepth(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether a margin grows with depth in one checkpoint."""

    slope: Annotated[Estimate, says("Least squares over layers, in the unit of the margin per layer.")]
    tau: Annotated[Number, says("Kendall's tau of margin and layer; null with fewer than three layers.")]
    p: Annotated[Probability | None, says("Two-sided, of no trend over layers (Mann-Kendall).")]


class DynamicsTrend(Estimate, kw_only=True, forbid_unknown_fields=True):
    """What changed between two checkpoints: last minus first, paired over the same sequences."""

    first: Annotated[Count, says("Place of the earlier checkpoint, from 0.")]
    last: Annotated[Count, says("Place of the later one.")]


class DynamicsSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    batch_size: Positive
    ci: ComparisonCi


class DynamicsFile(Sealed, kw_only=True, forbid_unknown_fields=True):
    """What `mlx-moebench dynamics` writes: routers over the checkpoints of a training, on the same tokens."""

    schema_version: Annotated[Literal["1"], says("Version of this format.")]
    kind: Literal["dynamics"]
    model: Annotated[Json, says("Of the last checkpoint; as in routing_stats.schema.json.")]
    data: Annotated[Json, says("As in routing_stats.schema.json.")]
    environment: Annotated[Json, says("As in routing_stats.schema.json.")]
    settings: DynamicsSettings
    checkpoints: Annotated[list[DynamicsCheckpoint], Meta(min_length=2)]
    routers: Annotated[list[DynamicsRouter], Meta(min_length=1)]
    overall: Annotated[
        dict[str, list[DynamicsMoved]],
        says("By kind of router the mean over its routers, of each checkpoint; of a maximum the largest over them."),
    ]
    depth: Annotated[
        dict[str, list[dict[str, DynamicsDepth]]], says("By kind of router, of each checkpoint and margin.")
    ]
    trends: Annotated[dict[str, dict[str, DynamicsTrend]], says("By kind of router and measure.")]
