"""STEM.json of a stats pair, as classes. The metrics of a router come from their registry."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ...routing.metrics import METRICS
from ...routing.metrics.registry import Metric
from ...routing.record import Distribution, RouterName
from ...types import Json
from .base import Count, Interval, Number, Positive, Sealed, Share, SummaryEntry, says, when_null
from .findings import RouterFindings, Thresholds, WordCounts


class Generation(msgspec.Struct, kw_only=True):
    """How tokens were generated after each prompt; absent when none were."""

    max_tokens: Annotated[Positive, says("At most this many tokens after a prompt.")]
    sampling: Annotated[Literal["greedy"], says("The most probable token, always.")]


class Part(msgspec.Struct, kw_only=True):
    """One run and how far it came. Its batches run in a fixed order."""

    shard: Annotated[
        Annotated[str, Meta(pattern="^[0-9]+/[0-9]+$")] | None, says("i/n: rows with row % n = i - 1; null: all rows.")
    ]
    documents: Annotated[Positive, says("Documents of this part.")]
    sequences: Annotated[Positive, says("Sequences that the model sees: documents, or windows of them.")]
    sequences_done: Annotated[Count, says("Of these, measured.")]
    batch_size: Annotated[Positive, says("Sequences per forward pass.")]
    batches: Annotated[Positive, says("Batches of this part.")]
    batches_done: Annotated[Count, says("Of these, measured: the first ones.")]


class Reading(msgspec.Struct, kw_only=True):
    """How a data set was read; absent where nobody knows."""

    max_length: Annotated[
        Positive | UnsetType | None,
        says("Longest sequence, in tokens; null: no limit, or for imported counts not known."),
    ] = UNSET
    unit: Annotated[
        str | UnsetType,
        says("What a document is: row, file, line, or blank for what stands between blank lines; or several of these."),
    ] = UNSET
    long: Annotated[
        str | UnsetType,
        says("What was done with documents longer than max_length: truncate, or cut into windows; or both."),
    ] = UNSET
    padding: Annotated[str | UnsetType, says("Where padding stood and that it was masked.")] = UNSET
    imported: Annotated[
        Annotated[list[str], Meta(min_length=1)] | UnsetType,
        says("Of routing that another program recorded: what was left out or added up, and what is missing."),
    ] = UNSET
    bos: Annotated[
        str | bool | UnsetType | None, says("Whether sequences began with the beginning-of-sequence token.")
    ] = UNSET
    field: Annotated[str | UnsetType | None, says("Field of each record that held the text, or null.")] = UNSET
    format: Annotated[str | UnsetType | None, says("Format of the file, or null.")] = UNSET
    files: Annotated[Positive | UnsetType, says("Files of the folder that were read.")] = UNSET
    skipped: Annotated[dict[str, Positive] | UnsetType, says("Files of the folder that were not, by why not.")] = UNSET
    template: Annotated[str | UnsetType | None, says("Template that made the prompt, or null.")] = UNSET
    generation: Annotated[
        Generation | UnsetType, says("How tokens were generated after each prompt; absent when none were.")
    ] = UNSET
    max_samples: Annotated[
        Positive | UnsetType | None, says("How many documents were asked for, the first ones; null: all.")
    ] = UNSET
    documents: Annotated[Positive | UnsetType, says("Documents that there are to measure, in all shards together.")] = (
        UNSET
    )
    truncated_sequences: Annotated[
        Count | UnsetType, says("Sequences measured of which tokens beyond max_length were cut off.")
    ] = UNSET
    parts: Annotated[
        Annotated[list[Part], Meta(min_length=1)] | UnsetType,
        says("One run over this data set, or several that were merged."),
    ] = UNSET
    shards: Annotated[
        Annotated[list[str], Meta(min_length=1)] | UnsetType | None,
        says("The shards present, i/n, where some are missing; null: the parts are the whole."),
    ] = UNSET
    complete: Annotated[
        bool | UnsetType,
        says("Everything there was to measure is measured: every shard is here, and every part is done."),
    ] = UNSET


class Unrecorded(msgspec.Struct, kw_only=True):
    """Forward passes that ran and are not in the numbers."""

    why: Annotated[str, says("The reason, as the warning gave it.")]
    forwards: Annotated[Positive, says("How many.")]
    positions: Annotated[Count, says("Their rows x positions, padding included; 0 where no router was heard.")]


class Source(Reading, kw_only=True):
    """How one data set was read."""

    name: Annotated[str, says("Name of the data set: the domain.")]
    sha256: Annotated[str, says("Hash of its bytes.")]


class Data(Reading, kw_only=True):
    """The text that was routed. One source: its facts stand here. Several: they stand in sources. Statistics of a model
    that was only watched live (name "live") know no source.
    """

    RULES: ClassVar[Json] = {
        "anyOf": [
            {"required": ["max_length", "padding", "bos"]},
            {"required": ["sources"]},
            {"properties": {"name": {"const": "live"}}},
        ]
    }

    name: Annotated[str, says("Name of the data set; of several, joined by +.")]
    sha256: Annotated[
        str, says("Hash of the data; of several, the hash of their sorted hashes. With the row it names a sequence.")
    ]
    n_sequences: Annotated[Count, says("Sequences counted.")]
    n_tokens: Annotated[Count, says("Valid tokens T; padding is never counted.")]
    phase: Annotated[
        Literal["prefill", "decode", "unsplit"],
        says("Whether the tokens belong to prompts, to generated text, or to either. Never mixed."),
    ]
    effective_sequences: Annotated[
        dict[str, float] | UnsetType,
        says(
            "By domain: as how many sequences of one length they are sure, (sum x^2)^2 / sum x^4 over their tokens x, "
            "each text counted once. Intervals need 10."
        ),
    ] = UNSET
    repeated_sequences: Annotated[
        Count | UnsetType,
        says("Sequences with the tokens of an earlier one; both are one unit. Absent where tokens are not known."),
    ] = UNSET
    unequal_domains: Annotated[
        list[str] | UnsetType, says("Domains that differ by more than a factor of 4 in number or length of sequences.")
    ] = UNSET
    unrecorded: Annotated[
        Annotated[list[Unrecorded], Meta(min_length=1)] | UnsetType,
        says("What ran while a model was watched and could not be recorded; absent where all was."),
    ] = UNSET
    sources: Annotated[
        Annotated[list[Source], Meta(min_length=2)] | UnsetType, says("Facts about each of several data sets.")
    ] = UNSET


class Adapter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The adapter that was applied; null without one. Absent when only the model object was known."""

    REQUIRED: ClassVar[tuple[str, ...]] = (
        "name",
        "sha256",
        "fine_tune_type",
        "scale",
    )

    name: Annotated[str | UnsetType, says("Name of its folder.")] = UNSET
    sha256: Annotated[str | UnsetType, says("Hash of its adapters.safetensors.")] = UNSET
    fine_tune_type: Annotated[Literal["lora", "dora", "full"] | UnsetType, says("As mlx-lm names it.")] = UNSET
    scale: Annotated[Number | UnsetType, says("What the low-rank update is multiplied with; null for full.")] = UNSET


class Model(msgspec.Struct, kw_only=True):
    """The model that was measured."""

    REQUIRED: ClassVar[tuple[str, ...]] = (
        "id",
        "revision",
        "model_type",
        "dtype",
        "weight_bits",
        "router_bits",
        "backend",
    )

    id: Annotated[
        str | UnsetType, says("Hub id or folder name; the model_type where a model object does not say it.")
    ] = UNSET
    revision: Annotated[str | UnsetType | None, says("Commit of the hub repository, or null.")] = UNSET
    model_type: Annotated[str | UnsetType, says("model_type of config.json.")] = UNSET
    dtype: Annotated[str | UnsetType | None, says("Type that the weights were computed in, for example bfloat16.")] = (
        UNSET
    )
    weight_bits: Annotated[
        Annotated[float, Meta(gt=0)] | UnsetType | None,
        says(
            "Bits per weight of the experts as they are used, the mean where they differ. Of unquantised "
            "ones as stored, before a cast to dtype: 16 or 32. Null when unknown."
        ),
    ] = UNSET
    router_bits: Annotated[
        Annotated[float, Meta(gt=0)] | UnsetType | None,
        says(
            "Fewest bits per weight among the routers as they are used: 16 or 32, after a cast to dtype, "
            "unless quantised. Null when unknown."
        ),
    ] = UNSET
    backend: Annotated[
        str | UnsetType,
        says("What ran the model: mlx or torch; counts when no model ran here and only counts were imported."),
    ] = UNSET
    quantised_on_load: Annotated[
        bool | UnsetType, says("Whether the checkpoint was quantised while it was loaded, rather than stored so.")
    ] = UNSET
    adapter: Annotated[
        Adapter | UnsetType | None,
        says("The adapter that was applied; null without one. Absent when only the model object was known."),
    ] = UNSET
    routers_from: Annotated[
        str | UnsetType, says("Model whose unquantised routers took the place of quantised ones; absent without.")
    ] = UNSET
    warnings: Annotated[
        list[str] | UnsetType, says("What a reader must know before comparing: routers of less than 8 bit.")
    ] = UNSET


class Environment(msgspec.Struct, kw_only=True):
    """Software and machine. Further entries are allowed."""

    REQUIRED: ClassVar[tuple[str, ...]] = (
        "mlx_moebench",
        "python",
        "platform",
        "mlx",
        "blas",
        "threads",
    )

    mlx_moebench: Annotated[str | UnsetType | None, says("Version of this package.")] = UNSET
    python: Annotated[str | UnsetType, says("Version.")] = UNSET
    platform: Annotated[str | UnsetType, says("Operating system and processor.")] = UNSET
    mlx: Annotated[str | UnsetType | None, says("Version, or null.")] = UNSET
    blas: Annotated[str | UnsetType | None, says("Matrix library in use on a CPU, or null.")] = UNSET
    threads: Annotated[Positive | UnsetType | None, says("Threads that a CPU matrix product may use.")] = UNSET
    numpy: Annotated[str | UnsetType | None, says("Version.")] = UNSET
    mlx_lm: Annotated[str | UnsetType | None, says("Version, or null.")] = UNSET
    device: Annotated[str | UnsetType, says("gpu or cpu.")] = UNSET
    experts: Annotated[
        str | UnsetType, says("grouped: a matrix product for each expert, as on a Linux CPU; stock: as mlx-lm has it.")
    ] = UNSET
    tf32: Annotated[
        str | UnsetType | None,
        says("MLX_ENABLE_TF32; null: not set. Unless it is 0, MLX rounds float32 products to TF32 on some GPUs."),
    ] = UNSET


class Ci(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The resampling behind every interval."""

    method: Annotated[
        Literal["bca", "percentile", "layer"],
        says("Interval of means: over sequences, or over layers for comparison with published tables."),
    ]
    resamples: Annotated[int, Meta(ge=100, description="Bootstrap resamples.")]
    seed: Annotated[Count, says("Seed of the resampling.")]
    level: Annotated[Share, says("Coverage aimed at, for example 0.95.")]


class Settings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How flags and intervals were decided."""

    tau: Annotated[Share, says("A router is flagged collapsed when its busiest share exceeds tau. Share.")]
    collapse_on: Annotated[
        Literal["top_share_token", "top_share_selection", "top_share_top1"],
        says("The share that tau is compared with."),
    ]
    ci: Annotated[Ci, says("The resampling behind every interval.")]
    thresholds: Annotated[Thresholds | UnsetType, says("Of findings; absent for one domain.")] = UNSET


class TokenShare(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Simultaneous band of every expert's share of the tokens, inside [0, 1]; the shares are selection_counts / T."""

    RULES: ClassVar[Json] = when_null("low", "reason")

    low: Annotated[list[Number] | None, says("Lower ends [E].")]
    high: Annotated[list[Number] | None, says("Upper ends [E].")]
    method: Annotated[str | UnsetType, says("How it was made.")] = UNSET
    reason: Annotated[str | UnsetType, says("Why there is none.")] = UNSET


class GateFields(msgspec.Struct, kw_only=True):
    """What is said of a router beside its metrics."""

    RULES: ClassVar[Json] = {
        "additionalProperties": {"type": ["number", "null"]},
        **when_null("collapsed", "collapsed_reason"),
    }

    layer: Annotated[Count, says("Absolute index of the block.")]
    moe_layer: Annotated[Count, says("Ordinal among the blocks that have a router.")]
    router: Annotated[
        RouterName, says("What the router chooses experts of; text and vision: of the MLPs for tokens of either.")
    ]
    n_experts: Annotated[Positive, says("E.")]
    top_k: Annotated[Positive, says("K.")]
    distribution: Annotated[
        Distribution | None,
        says(
            "How p was made from the logits: softmax over all experts as the model does; the same where "
            "the model itself applies softmax to the chosen only; sigmoid, or sqrt(ln(1 + e^z)), over its sum. "
            "Null: p was not measured and the rule is not known."
        ),
    ]
    router_bits: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        says(
            "Bits per weight of this router as it is used: 16 or 32, after a cast to dtype, unless "
            "quantised. Null when unknown."
        ),
    ]
    n_tokens: Annotated[Count, says("Valid tokens T.")]
    selection_counts: Annotated[list[Count], says("Selections of each expert [E]; they sum to T x K.")]
    top1_counts: Annotated[
        list[Count] | None, says("Tokens whose first choice was each expert [E]; they sum to T. Null: not recorded.")
    ]
    ci: Annotated[dict[str, Interval], says("Interval of each metric, by name.")]
    collapsed: Annotated[
        bool | UnsetType | None,
        says(
            "The busiest share exceeds tau; null with collapsed_reason where it cannot be said. Absent where several "
            "domains are measured: see findings."
        ),
    ] = UNSET
    collapsed_reason: Annotated[str | UnsetType, says("Why collapsed is null.")] = UNSET
    collapsed_open: Annotated[
        Literal[True] | UnsetType,
        says(
            "Other texts may flip the flag: the interval of that share holds tau, or the flag is up without one. "
            "Absent otherwise."
        ),
    ] = UNSET
    token_share: Annotated[TokenShare | UnsetType, says("Since version 2.")] = UNSET
    findings: Annotated[RouterFindings | UnsetType, says("Of several domains, since version 3.")] = UNSET

    def __post_init__(self) -> None:
        if self.collapsed is None and self.collapsed_reason is UNSET:
            raise ValueError("a flag that is null has a reason")


def _metric_field(metric: Metric) -> tuple[str, Any, Any]:
    """A metric as a field of a router; one that came later is absent from older reports."""
    kind: Any = (Count | None if metric.integer else Number) | UnsetType
    unit = f" {metric.unit[0].upper()}{metric.unit[1:]}."
    return (
        metric.name,
        Annotated[kind, says(f"{(metric.function.__doc__ or metric.label).splitlines()[0]}{unit}")],
        UNSET,
    )


Router: Any = msgspec.defstruct(
    "Router", [_metric_field(metric) for metric in METRICS.values()], bases=(GateFields,), kw_only=True
)
Router.REQUIRED = tuple(METRICS)  # of this version; an older report may lack one
Router.__doc__ = "One gate of one layer. Any further field is a metric: a number or null."

Summary = Annotated[
    dict[str, SummaryEntry],
    Meta(
        description="Each metric averaged over the routers where it is defined; peak_NAME: the largest over them, of "
        "the maxima; collapsed_fraction: on one domain, the share of routers flagged collapsed, of those with a flag.",
        extra_json_schema={"required": ["mean_entropy", "peak_top_share_token"]},
    ),
]


class Report(Sealed, kw_only=True):
    """STEM.json of a stats pair: one model x one or more data sets x one phase. STEM.safetensors beside it holds the
    sums per sequence, from which every number here can be computed again. Entropies are in nats. A number that is
    undefined is null, never 0. E: routable columns of a router; K: experts a token uses; T: valid tokens.
    """

    schema_version: Annotated[Literal["1", "2", "3", "4"], says("Version of this format.")]
    model: Annotated[Model, says("The model that was measured.")]
    data: Annotated[
        Data,
        says(
            "The text that was routed. One source: its facts stand here. Several: they stand in sources. Statistics of "
            'a model that was only watched live (name "live") know no source.'
        ),
    ]
    environment: Annotated[Environment, says("Software and machine. Further entries are allowed.")]
    settings: Annotated[Settings, says("How flags and intervals were decided.")]
    routers: Annotated[list[Router], says("One entry per router, in the order they run.")]
    summary: Annotated[Summary, says("Over the routers of the main kind (mlp where there is one).")]
    summary_by_router: Annotated[
        dict[str, Summary],
        Meta(min_length=1, description="The same for each kind of router, by its name; kinds are never pooled."),
    ]
    words_by_router: Annotated[
        dict[str, WordCounts] | UnsetType,
        says("Routers per word, for each kind of router; absent for one domain."),
    ] = UNSET
