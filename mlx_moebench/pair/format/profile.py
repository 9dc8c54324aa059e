"""profile.json, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ...routing.record import RouterName
from .base import Count, Estimate, Number, Positive, Sealed, says
from .findings import RouterFindings, Thresholds, WordCounts
from .report import Ci, Data, Model


class Domain(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One domain."""

    name: Annotated[str, says("Its name.")]
    sha256: Annotated[str, says("Hash of its data set, as in its stats pair.")]
    n_sequences: Annotated[Positive, says("Sequences, the units that are resampled.")]
    n_tokens: Annotated[Count, says("Valid tokens.")]


class ProfileSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How findings and intervals were decided."""

    ci: Ci
    thresholds: Thresholds


class DomainSpecialisation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Share of each domain's tokens that use each expert."""

    even: Annotated[float, says("K/E, the share under even routing.")]
    shares: Annotated[dict[str, list[Number]], says("By domain: shares of tokens [E], which sum to K.")]
    low: Annotated[
        dict[str, list[Number]] | None,
        says("By domain: lower ends [E] of bands that hold the shares of all experts on all domains at once."),
    ]
    high: Annotated[dict[str, list[Number]] | None, says("Upper ends alike.")]
    reason: Annotated[str | UnsetType, says("Why low and high are null.")] = UNSET


class DomainInformation(Estimate, kw_only=True):
    """Mutual information of domain and expert on selections. Nats, 0 .. ln D."""

    relative: Annotated[Number, says("s = value / ln D. Ratio, 0 .. 1.")]
    nmi: Annotated[Number, says("value / sqrt(H_d H_e), H_d = ln D, H_e the entropy of the mixture's load. Ratio.")]
    p_value: Annotated[
        Number,
        says(
            "Of the test that all domains route alike, each with its own number, length and likeness of texts: share "
            "of the draws whose domains lie as far apart. The interval reaches 0 if and only if p exceeds 1 - level."
        ),
    ]
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
    router: RouterName
    n_experts: Positive
    top_k: Positive
    findings: RouterFindings
    domain_information: DomainInformation
    mixture_spread: Annotated[Estimate, says("r = n_eff / E of the domains mixed in equal parts. Ratio, K/E .. 1.")]
    domain_specialisation: Annotated[DomainSpecialisation, says("Share of each domain's tokens that use each expert.")]
    adjacent_overlap: AdjacentOverlap
    jensen_shannon: Annotated[
        list[Divergence], says("Divergence of the loads of each two domains, of 40 or fewer. Nats, 0 .. ln 2.")
    ]


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
    words_by_router: dict[str, WordCounts]


class ProfileFile(Sealed, kw_only=True, forbid_unknown_fields=True):
    """profile.json: what lies between domains, for each router of each model, every domain weighted 1/D whatever its
    number of tokens. The numbers of each domain alone are in the stats pairs. Entropies are in nats. An undefined
    number is null, never 0. D: domains; E: experts; K: experts a token uses.
    """

    schema_version: Annotated[Literal["2"], says("Version of this format.")]
    settings: Annotated[ProfileSettings, says("How findings and intervals were decided.")]
    models: Annotated[list[ProfileModel], Meta(min_length=1, description="One entry per model.")]
