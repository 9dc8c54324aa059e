"""A report of experts, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ...types import Json
from .base import Count, Estimate, Interval, Number, Positive, Probability, Sealed, Share, says


class ExpertAccuracy(Interval, kw_only=True, forbid_unknown_fields=True):
    """Of the questions of whose counted tokens one or more chose the expert; the interval is Wilson's."""

    value: Annotated[Number, says("Share of right answers; null where no question chose it.")]
    n: Annotated[Count, says("Questions.")]
    level: Annotated[Share, says("Coverage the interval aims at.")]
    expected: Annotated[Number, says("The accuracy of the subjects of those questions, weighted as they are.")]
    p_better: Annotated[
        Number,
        says(
            "One-sided mid-p of being better than that, right answers permuted inside each subject; null where no "
            "order could differ."
        ),
    ]
    q_better: Annotated[Number, says("The same adjusted over all experts (Benjamini and Hochberg 1995).")]


class ExpertEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One expert. y: what it returned, without its gate weight g."""

    expert: Annotated[Count, says("Its number.")]
    tokens: Annotated[Count, says("Counted tokens that chose it.")]
    frequency: Annotated[Probability, says("Share of the counted tokens.")]
    weighted_frequency: Annotated[float, says("Sum of its gate weights over the number of counted tokens.")]
    mean_norm: Annotated[Number, says("Mean of |y| over its tokens; null where nobody chose it.")]
    ean: Annotated[float, says("Sum of |y| over its tokens.")]
    reap: Annotated[Number, says("Mean of g |y| over its tokens; null where nobody chose it.")]
    peak: Annotated[Number, says("Largest absolute number of y; null where nobody chose it.")]
    accuracy: Annotated[ExpertAccuracy | msgspec.UnsetType, says("Where there are questions.")] = msgspec.UNSET


class GateEntropy(Estimate, kw_only=True, forbid_unknown_fields=True):
    """H(g / sum g) over the K chosen, in nats, [0, ln K]: mean over tokens."""

    sd: Annotated[Number, says("Standard deviation over tokens.")]


class OutputSimilarity(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Mean cosine of the outputs of the pairs of experts that a token chose; null where K is 1."""

    signed: Estimate
    relu: Annotated[Estimate, says("With each cosine at least 0.")]


class WeightSimilarity(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Cosine of two experts' weights, all of an expert as one vector."""

    value: Annotated[Number, says("Mean over the pairs of experts.")]
    largest: Annotated[float | msgspec.UnsetType, says("Of the pair most alike.")] = msgspec.UNSET
    reason: Annotated[str | msgspec.UnsetType, says("Why there is none.")] = msgspec.UNSET


class SuperExperts(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Experts whose peak is above the threshold."""

    threshold: Annotated[Number, says("`super_times` times the median peak of the router's chosen experts.")]
    experts: list[Count]


class ExpertsRouter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One router and its experts."""

    layer: Count
    moe_layer: Count
    router: Literal["mlp", "attention", "text", "vision"]
    n_experts: Annotated[Positive, says("Routable columns.")]
    top_k: Positive
    distribution: str | None
    kinds: Annotated[list[str] | msgspec.UnsetType, says("Of each column, where not all are experts.")] = msgspec.UNSET
    n_tokens: Annotated[Count, says("Counted tokens.")]
    activated: Annotated[Count, says("Experts that one or more of them chose.")]
    never_activated: Annotated[Count, says("Experts that none chose.")]
    never_activated_expected: Annotated[float, says("E (1 - K/E)^T, what even, independent choices would leave.")]
    gate_entropy: GateEntropy
    sorted_weights: Annotated[list[float], says("Mean of g / sum g, largest first.")]
    output_similarity: OutputSimilarity
    weight_similarity: WeightSimilarity
    super_experts: SuperExperts
    experts: list[ExpertEntry]


class ExpertsSummary(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Over all routers."""

    n_experts: Positive
    never_activated_share: Probability
    never_activated_expected_share: Probability
    super_experts: Count
    better_experts: Annotated[Count | msgspec.UnsetType, says("Experts of q_better <= 0.05.")] = msgspec.UNSET


class ExpertsFile(Sealed, kw_only=True, forbid_unknown_fields=True):
    """What every expert of a model does on a data set, or on MMLU's questions."""

    schema_version: Literal["1"]
    kind: Literal["experts"]
    model: Annotated[Json, says("As in routing_stats.schema.json.")]
    data: Annotated[
        Json, says("What was run: name, sha256, n_sequences, n_tokens, positions, and n_counted, the tokens counted.")
    ]
    environment: Json
    settings: Annotated[Json, says("positions, batch_size, super_times, and how intervals were made.")]
    answers: Annotated[Json | msgspec.UnsetType, says("Accuracy by subject and over all, as evaluate has it.")] = (
        msgspec.UNSET
    )
    summary: ExpertsSummary
    routers: list[ExpertsRouter]
