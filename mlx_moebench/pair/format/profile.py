"""profile.json, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .base import Count, Estimate, Number, Positive, says
from .report import Ci, Data, Model, Verdict, VerdictCounts


class Domain(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One domain."""

    name: Annotated[str, says("Its name.")]
    sha256: Annotated[str, says("Hash of its data set, as in its stats pair.")]
    n_sequences: Annotated[Positive, says("Sequences, the units that are resampled.")]
    n_tokens: Annotated[Count, says("Valid tokens.")]


class ProfileSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How verdicts, intervals and nulls were decided."""

    tau: Annotated[float, says("What the a and b of a verdict are compared with. Share of tokens.")]
    collapse_on: Literal["top_share_token", "top_share_selection", "top_share_top1"]
    ci: Ci
    permutations: Annotated[Positive, says("Permutations of the domain labels over sequences.")]
    max_p: Annotated[float, says("The p-value up to which information about the domain is above its null.")]


class DomainSpecialisation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Share of each domain's tokens that use each expert."""

    even: Annotated[float, says("K/E, the share under even routing.")]
    band: Annotated[
        Number, says("Half-width of the simultaneous band around all shares of this router. Share of tokens.")
    ]
    shares: Annotated[dict[str, list[Number]], says("By domain: shares of tokens [E], which sum to K.")]
    reason: Annotated[str | UnsetType, says("Why band is null.")] = UNSET


class DomainInformation(Estimate, kw_only=True):
    """Mutual information of domain and expert on selections. Nats, 0 .. ln D."""

    relative: Annotated[Number, says("value / ln D. Ratio, 0 .. 1.")]
    nmi: Annotated[Number, says("value / sqrt(H_d H_e), H_d = ln D, H_e the entropy of the mixture's load. Ratio.")]
    independent: Annotated[Number, says("What independent selections would give on average without an effect. Nats.")]
    null_mean: Annotated[Number, says("Mean with the domain labels permuted over sequences. Nats.")]
    null_high: Annotated[Number, says("95% quantile of the same. Nats.")]
    p_value: Annotated[Number, says("(1 + permutations that reach value) / (1 + permutations). Probability.")]
    q_value: Annotated[
        Number, says("p_value adjusted over the model's routers (Benjamini and Hochberg 1995). False discovery rate.")
    ]


class Divergence(Estimate, kw_only=True):
    """Jensen-Shannon divergence of the loads of two domains. Nats, 0 .. ln 2."""

    domains: Annotated[list[str], Meta(min_length=2, max_length=2, description="The two domains.")]


class AdjacentOverlap(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Share of a token's experts that the next token uses again, on each domain."""

    chance: Annotated[float, says("K/E, by chance under even routing.")]
    domains: Annotated[dict[str, Estimate], says("By domain. Share of experts, 0 .. 1.")]


class ProfileRouter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One router."""

    layer: Count
    moe_layer: Count
    router: Literal["mlp", "attention"]
    n_experts: Positive
    top_k: Positive
    verdict: Verdict
    domain_information: DomainInformation
    mixture_spread: Annotated[
        Estimate, says("n_eff / E of the domains mixed in equal parts: the r of the verdict. Ratio, K/E .. 1.")
    ]
    domain_specialisation: Annotated[DomainSpecialisation, says("Share of each domain's tokens that use each expert.")]
    adjacent_overlap: AdjacentOverlap
    jensen_shannon: Annotated[list[Divergence], says("Divergence of the loads of each two domains. Nats, 0 .. ln 2.")]


class ProfileModel(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One model on all domains."""

    name: Annotated[str, says("As the CSV file calls it.")]
    model: Model
    phase: Literal["prefill", "decode", "unsplit"]
    domains: Annotated[list[Domain], Meta(min_length=2, description="The domains, in the order they were given.")]
    data: Data
    routers: Annotated[
        list[ProfileRouter], Meta(min_length=1, description="One entry per router, in the order they run.")
    ]
    verdicts_by_router: dict[str, VerdictCounts]


class ProfileFile(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """profile.json: what lies between domains, for each router of each model, every domain weighted 1/D whatever its
    number of tokens. The numbers of each domain alone are in the stats pairs. Entropies are in nats. An undefined
    number is null, never 0. D: domains; E: experts; K: experts a token uses.
    """

    schema_version: Annotated[Literal["1"], says("Version of this format.")]
    settings: Annotated[ProfileSettings, says("How verdicts, intervals and nulls were decided.")]
    models: Annotated[list[ProfileModel], Meta(min_length=1, description="One entry per model.")]
