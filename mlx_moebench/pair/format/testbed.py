"""testbed.json, as classes."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ...types import Json
from .base import Count, Number, Positive, Probability, Sealed, Share, says


class OverSeeds(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A number of several runs that differ in their seed."""

    value: Annotated[Number, says("Mean over the seeds.")]
    low: Annotated[Number, says("Lower end of Student's t interval over the seeds, inside the quantity's range.")]
    high: Annotated[Number, says("Upper end.")]
    seeds: Count
    reason: Annotated[str | msgspec.UnsetType, says("Why there is no interval.")] = msgspec.UNSET


class TestbedOrder(OverSeeds, kw_only=True, forbid_unknown_fields=True):
    """method less other, paired by seed, beside what was expected."""

    quantity: str
    method: str
    other: str
    expected: Annotated[Literal[1, -1], says("Sign of the difference that was expected.")]
    answer: Annotated[Literal["yes", "no", "open"], says("yes and no where the interval leaves out 0.")]


class TestbedInformation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """MI(domain; expert), nats, over held-out sequences."""

    value: Number
    low: Number
    high: Number
    p_value: Annotated[Probability | None, says("Of the test that all domains route alike.")]


class TestbedRouter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One router of the run with the smallest seed."""

    layer: Count
    information: TestbedInformation
    owner: Annotated[list[int], says("Domain that each expert is matched to, -1 for one that is left over.")]
    shares: Annotated[list[list[float]], says("[D][E] share of a domain's tokens that use each expert.")]
    word: str | None
    findings: Annotated[dict[str, Literal["yes", "no", "open"]], says("As in profile.schema.json.")]


class TestbedNull(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Of how many routers of a run the test of independence does not reject at 5%, of those that it was made of."""

    seed: Count
    inside: Count
    of: Count


class TestbedFlips(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What changed since the snapshot before, on the same held-out tokens."""

    step: Count
    top1_flip: Annotated[OverSeeds, says("Share of tokens with another first choice.")]
    change_rate: Annotated[OverSeeds, says("1 - overlap of the K experts.")]


class TestbedMethod(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A way to balance, or a bound."""

    name: str
    title: str
    scope: str | None
    bound: Literal["upper", "lower"] | None
    seeds: Annotated[list[Count], Meta(min_length=1)]
    values: dict[str, OverSeeds]
    losses: Annotated[dict[str, OverSeeds], says("Held-out cross-entropy of each domain, nats per token.")]
    words: Annotated[dict[str, Count], says("Routers of all seeds by the word of their findings.")]
    independent: list[TestbedNull]
    flips: list[TestbedFlips]
    routers: Annotated[list[TestbedRouter], Meta(min_length=1)]


class TestbedSize(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All runs of one size."""

    preset: str
    settings: Json
    routers: Positive
    parameters: dict[str, Count]
    tokens_trained: Count
    methods: Annotated[list[TestbedMethod], Meta(min_length=1)]
    orders: list[TestbedOrder]
    cpu_seconds: Annotated[
        list[float] | msgspec.UnsetType, says("Processor time of each run, trained and measured.")
    ] = msgspec.UNSET


class TestbedQuantity(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is compared."""

    words: str
    unit: str


class TestbedFile(Sealed, kw_only=True, forbid_unknown_fields=True):
    """What `mlx-moebench lab testbed` writes: ways to balance a router between a reference and a random one."""

    schema_version: Annotated[Literal["1"], says("Version of this format.")]
    kind: Literal["testbed"]
    domains: Annotated[list[str], Meta(min_length=2)]
    chance: Annotated[dict[str, float], says("What routing that ignores the domain gives.")]
    level: Share
    quantities: dict[str, TestbedQuantity]
    sizes: Annotated[list[TestbedSize], Meta(min_length=1)]
    environment: Json
    command: str | None
