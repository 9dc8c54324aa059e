"""What stands beside arrays as JSON: the facts in a file of sums, and the manifest of a trace."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ...routing.record import Distribution, Kind, RouterName
from .base import Count, Positive, Share
from .report import Environment, Model, Reading

Bits = Annotated[float, Meta(gt=0)]
Block = Annotated[int, Meta(ge=0, lt=100_000)]
Hash = Annotated[str, Meta(pattern="^[!-~]+$")]
PhaseName = Literal["prefill", "decode", "unsplit"]


class Spec(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A `RouterSpec`."""

    layer: Block
    moe_layer: Block
    router: RouterName
    n_experts: Positive
    top_k: Positive
    distribution: Distribution | None = None
    router_bits: Bits | None = None
    kinds: list[Kind] | None = None
    signs: list[int] | None = None


class SourceFacts(Reading, kw_only=True):
    """How one data set was read, under its hash."""

    name: str | UnsetType = UNSET


class TraceData(SourceFacts, kw_only=True):
    """The same, where the hash stands among the facts."""

    sha256: Hash


class Provenance(msgspec.Struct, kw_only=True):
    """What both say."""

    model: Model
    environment: Environment
    scalars: list[str]
    tau: Share
    collapse_on: str


class SumsFacts(Provenance, kw_only=True):
    """The facts in a file of sums."""

    specs: Annotated[list[Spec], Meta(min_length=1)]
    sha256: list[Hash]
    phase: PhaseName
    sources: dict[Hash, SourceFacts]
    dropped: dict[str, tuple[Positive, Count]] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if len(set(self.sha256)) < len(self.sha256):
            raise ValueError("a source is listed twice")


class ShardEntry(msgspec.Struct, kw_only=True):
    """One shard of a trace."""

    file: Annotated[str, Meta(pattern=r"^[\w.-]+$")]
    sha256: Hash
    n_tokens: Count
    n_sequences: Count


class TracePhase(msgspec.Struct, kw_only=True):
    """The shards of one phase, in order."""

    shards: list[ShardEntry]


class TraceManifest(Provenance, kw_only=True):
    """trace.json."""

    routers: Annotated[list[Spec], Meta(min_length=1)]
    data: TraceData
    phases: Annotated[dict[PhaseName, TracePhase], Meta(min_length=1)]
    predictions: bool
    complete: bool
