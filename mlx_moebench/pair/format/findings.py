"""Findings over domains in the JSON files, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .base import Count, Number, Positive, Share, says


class Thresholds(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What findings were measured against."""

    used: Annotated[Share, says("r below which a router is collapsed. Share of experts.")]
    specialisation: Annotated[Share, says("s below which a router is collapsed. Share of ln D.")]
    odds: Annotated[
        float,
        says("Multiple of the even odds that makes an expert dominant, and of its odds elsewhere a domain's own."),
    ]
    idle_load: Annotated[Share, says("Multiple of the even load below which an expert is idle.")]
    idle_experts: Annotated[Share, says("Share of the experts beyond which idleness is found.")]
    least_specialisation: Annotated[Share, says("s from which the whole router is specialised. Share of ln D.")]
    most_ties: Annotated[Share, says("Share of tied tokens from which nothing is answered.")]


class FindingPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One number of a finding, with its interval (null where there is none) and what it is measured against."""

    value: Annotated[Number, says("The value.")]
    low: Annotated[Number, says("Lower end.")]
    high: Annotated[Number, says("Upper end.")]
    threshold: Annotated[float, says("What it is measured against.")]


class NamedExpert(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An expert that a finding is about."""

    expert: Annotated[Count, says("Its number.")]
    domains: Annotated[list[str], says("The domains where it is so.")]


class Finding(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """An answer, and the numbers that led to it: the first one here, all of them in parts."""

    answer: Annotated[
        Literal["yes", "no", "open"],
        says("yes and no: the whole interval lies on one side of the threshold. open: it does not, or there is none."),
    ]
    value: Annotated[Number | UnsetType, says("The number that decides as a rule.")] = UNSET
    low: Annotated[Number | UnsetType, says("Lower end of its interval.")] = UNSET
    high: Annotated[Number | UnsetType, says("Upper end.")] = UNSET
    threshold: Annotated[float | UnsetType, says("What it is measured against.")] = UNSET
    parts: Annotated[
        dict[str, FindingPart],
        says(
            "used: r, effective share of the experts in use over all domains; specialisation: s = MI / ln D; share: "
            "the largest share of tokens that one expert has in more than half of the domains; experts: share of the "
            "experts that are idle; excess: by how much a domain's own expert exceeds what makes it one, share of "
            "tokens; information: MI(domain; expert), nats."
        ),
    ]
    experts: Annotated[list[NamedExpert] | UnsetType, says("The experts that it is about.")] = UNSET
    reason: Annotated[str | UnsetType, says("Why it is open, where the width of an interval is not the reason.")] = (
        UNSET
    )
    sequences: Annotated[
        list[Positive] | UnsetType,
        says("Between which numbers of sequences, in all and in these proportions, 4 of 5 samples would decide it."),
    ] = UNSET


class FourFindings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The findings of a router, the gravest first."""

    collapsed: Annotated[Finding, says("r and s are below their thresholds: most capacity is used on no domain.")]
    dominated: Annotated[
        Finding, says("One expert's odds are far above the even odds in more than half of the domains.")
    ]
    idle: Annotated[Finding, says("Many experts have hardly any load on any domain.")]
    specialised: Annotated[
        Finding, says("Domains do not route alike, and the router as a whole, or an expert, tells them apart.")
    ]


class RouterFindings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What the load over two or more domains says of a router, each domain weighted 1/D (docs/definitions.md)."""

    word: Annotated[
        Literal["collapsed", "dominated", "idle", "specialised", "balanced", "open", None],
        says("The gravest yes, else balanced; open while a graver finding is. Null without sequences."),
    ]
    findings: Annotated[FourFindings, says("The findings by name.")]


class WordCounts(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Number of routers per word; a model gets these, not one word."""

    collapsed: Annotated[Count, says("Routers.")]
    dominated: Annotated[Count, says("Routers.")]
    idle: Annotated[Count, says("Routers.")]
    specialised: Annotated[Count, says("Routers.")]
    balanced: Annotated[Count, says("Routers.")]
    open: Annotated[Count, says("Routers.")]
    null: Annotated[Count, says("Routers of which no sequences are known.")]
