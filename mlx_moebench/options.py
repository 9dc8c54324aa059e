"""What a user may choose: frozen, checked when made, passed on whole.

The command line makes these from its options and the Python API from its keywords, so that each is spelt and checked
here alone. `Loading` is how a model is loaded, `Reading` how its texts are read, `Flag` when a router is flagged as
collapsed, `Plan` how intervals are made, `Saving` what is kept of a run; `Options` is all of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, TypeVar

from .errors import DataError, ModelLoadError, MoebenchError, did_you_mean
from .types import Json

_Item = TypeVar("_Item")

Step = Callable[[str, int, int], None]
"""step(what, done, total) is told of progress; total 0 means unknown."""

LISTENER: ContextVar[Step | None] = ContextVar("listener", default=None)
"""Who is told of what takes long wherever in a command it happens, as a download, whose progress None leaves to the
hub's client, or intervals."""

Tell = Callable[[str], None]
"""tell(line) is told what a user should know before a measurement starts."""

Method = Literal["bca", "percentile", "layer"]

DTYPES = ("float32", "bfloat16", "float16")
BITS = (4, 8)
ROUTER_BITS = (4, 8, 16)
STREAM = ("auto", "on", "off")
UNQUANTISED = 16
"""The ``router_bits`` that leave routers as they are."""

AUTO = "auto"
"""The ``batch_size`` that fits batches to memory."""

SPLITS = ("file", "blank", "line")
LONG = ("truncate", "windows")

COLLAPSE_SHARES = ("top_share_token", "top_share_selection", "top_share_top1")
"""What `collapsed` may be decided on."""

ROUNDING = 1e-9  # 2 / (1 - 0.98) is a hair above 100
TRACE_LIMIT = 2 * 10**9


def quiet_step(what: str, done: int, total: int) -> None:
    """A `Step` that says nothing."""


def stepping(what: str | Callable[[_Item], str], items: Iterable[_Item]) -> Iterator[_Item]:
    """``items`` one after the other, while whoever listens (`LISTENER`) is told how many of them are done.

    what: what is being done, or a function that says so of an item.
    """
    every = list(items)
    for done, item in enumerate(every):
        if (step := LISTENER.get()) is not None:
            step(what if isinstance(what, str) else what(item), done, len(every))
        yield item


def quiet_tell(line: str) -> None:
    """A `Tell` that says nothing."""


@dataclass(frozen=True)
class Loading:
    """How a model is loaded.

    backend: ``mlx``, or ``torch`` for transformers. device: auto, gpu, cpu, mps or cuda. dtype: None for float32 on a
    CPU and as stored elsewhere. bits: 4 or 8 quantises while loading; router_bits: 4, 8 or 16 (unquantised), by default
    8 with ``bits``. routers_from: the model that a quantised checkpoint was made from, for its unquantised routers.
    adapter_path: folder of an adapter that mlx-lm trained. trust_remote_code: run Python files that the checkpoint
    brings. stream: ``on`` reads the weights one layer at a time where texts are only run through the model, ``off`` all
    at once, and ``auto`` one at a time where all do not fit. stream_memory: bytes of hidden states between two layers
    that stay in memory, the others going to the disk; None for a quarter of what is free.

    Raises `ModelLoadError` for a dtype or bits that are not offered, and for bits that contradict ``routers_from``.
    """

    backend: str = "mlx"
    device: str = "auto"
    dtype: str | None = None
    bits: int | None = None
    router_bits: int | None = None
    routers_from: str | Path | None = None
    adapter_path: str | Path | None = None
    trust_remote_code: bool = False
    stream: str = "auto"
    stream_memory: int | None = None

    def __post_init__(self) -> None:
        if self.stream not in STREAM:
            raise ModelLoadError(f"stream = {self.stream!r} is not offered; choose {', '.join(STREAM)}.")
        if self.stream == "on" and self.backend != "mlx":
            raise ModelLoadError("On torch a model is loaded whole; leave --stream on out, or use the backend mlx.")
        if self.stream_memory is not None and self.stream_memory < 0:
            raise ModelLoadError(f"stream_memory is {self.stream_memory}; give 0 bytes or more.")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ModelLoadError(f"There is no dtype {self.dtype!r}.{did_you_mean(self.dtype, list(DTYPES))}")
        for name, value, allowed in (("bits", self.bits, BITS), ("router_bits", self.router_bits, ROUTER_BITS)):
            if value is not None and value not in allowed:
                raise ModelLoadError(f"{name} = {value!r} is not offered; choose {' or '.join(map(str, allowed))}.")
        if self.routers_from is not None:
            self._check_routers_from()

    def _check_routers_from(self) -> None:
        if self.backend != "mlx":
            raise ModelLoadError("On torch routers are never quantised; leave --routers-from out.")
        if self.bits is not None:
            raise ModelLoadError(
                "--routers-from is for a model that is quantised already; --bits quantises one that is not, and "
                "--router-bits 16 leaves its routers as they are."
            )
        if self.router_bits not in (None, UNQUANTISED):
            raise ModelLoadError(
                f"--routers-from brings unquantised routers, and --router-bits {self.router_bits} asks for others; "
                "leave one of them out."
            )

    @property
    def asked(self) -> list[str]:
        """The names of what must be said when the weights are read, and was."""
        names = ("dtype", "bits", "router_bits", "routers_from", "adapter_path")
        return [name for name in names if getattr(self, name) is not None]


@dataclass(frozen=True)
class Reading:
    """How a data set is read.

    text_field: field of a row that holds the text, by default found by name. max_samples: the first so many documents.
    max_length: tokens of a sequence. split_on: what a document of a file of text is, the whole ``file``, each ``line``,
    or what stands between ``blank`` lines; of other data sets every row is one. long: what becomes of a document that
    is longer than a sequence, in every format: ``truncate`` keeps the first one, ``windows`` all of them; None for
    windows where a document is a whole file, which may be a book, and truncate where a file holds many. batch_size:
    sequences per forward pass, or ``auto`` for as many of about the same length as `measure.fit` gives.
    shard: ``i/n``, only rows with row % n == i - 1.

    Raises `DataError` for fewer than one of anything, a shard of another form, and a word that is none of these.
    """

    text_field: str | None = None
    max_samples: int | None = None
    max_length: int = 256
    split_on: str = "file"
    long: str | None = None
    batch_size: int | str = 8
    shard: str | None = None

    def __post_init__(self) -> None:
        if self.max_samples is not None and self.max_samples < 1:
            raise DataError(f"max_samples is {self.max_samples}; ask for at least 1 document, or leave it out for all.")
        if self.max_length < 1:
            raise DataError(f"max_length is {self.max_length}; allow at least 1 token a sequence.")
        if self.batch_size != AUTO and not (isinstance(self.batch_size, int) and self.batch_size >= 1):
            raise DataError(f"batch_size is {self.batch_size}; put at least 1 sequence into a batch, or say {AUTO}.")
        if self.split_on not in SPLITS:
            raise DataError(f"Text is not split on {self.split_on!r}; choose {', '.join(SPLITS)}.")
        if self.long not in (None, *LONG):
            raise DataError(f"There is no way {self.long!r} with long documents; choose {' or '.join(LONG)}.")
        if self.shard is not None:
            parse_shard(self.shard)

    @property
    def rows(self) -> int:
        """``batch_size`` where a batch's logits are held at once. Raises DataError for `AUTO`, which counts routing
        alone."""
        if self.batch_size == AUTO:
            raise DataError(f"batch_size {AUTO!r} is for measuring routing alone; give the sequences of a batch here.")
        return int(self.batch_size)

    def of_corpus(self) -> Json:
        """The keywords of `data.read_corpus`."""
        return {name: getattr(self, name) for name in ("text_field", "max_samples", "split_on", "long")}

    def windows(self, unit: str) -> bool:
        """Whether documents that are each a ``unit`` are cut into windows when they are too long."""
        return (self.long or ("windows" if unit == "file" else "truncate")) == "windows"


def parse_shard(shard: str) -> tuple[int, int]:
    """(i, n) of ``i/n``, the i-th of n shards counted from 1; raises DataError when it is not of that form."""
    i, slash, n = shard.partition("/")
    if not (slash and i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise DataError(f"There is no shard {shard!r}: write i/n with i from 1 to n, such as 1/4 to 4/4.")
    return int(i), int(n)


@dataclass(frozen=True)
class Flag:
    """When a router is flagged as collapsed: its busiest expert's share, ``collapse_on``, exceeds tau in (0, 1).

    Raises `MoebenchError` for another tau, or a share that does not exist.
    """

    tau: float = 0.40
    collapse_on: str = "top_share_token"

    def __post_init__(self) -> None:
        if not 0 < self.tau < 1:
            raise MoebenchError(f"tau is a share of tokens and lies between 0 and 1, got {self.tau}.")
        if self.collapse_on not in COLLAPSE_SHARES:
            raise MoebenchError(f"Cannot decide collapse on {self.collapse_on!r}: choose {', '.join(COLLAPSE_SHARES)}.")


@dataclass(frozen=True)
class Thresholds:
    """What the findings over several domains are measured against; see `routing.domains.findings`.

    used: share of experts in effective use below which, and specialisation: s below which a router is collapsed. odds:
    multiple of the even odds that makes one expert dominant, and of its odds in the other domains that makes it a
    domain's own. idle_load: multiple of the even load below which an expert is idle; idle_experts: share of experts
    beyond which idleness is found. least_specialisation: s from which the whole router is specialised. most_ties: share
    of tied tokens from which nothing is answered.

    Raises `MoebenchError` for a share outside (0, 1), or odds of 1 or less.
    """

    used: float = 0.5
    specialisation: float = 0.5
    odds: float = 4.0
    idle_load: float = 0.1
    idle_experts: float = 0.1
    least_specialisation: float = 0.05
    most_ties: float = 0.5

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "odds" and not 1 < value < math.inf:
                raise MoebenchError(f"The threshold odds is a multiple above 1, got {value}.")
            if one.name != "odds" and not 0 < value < 1:
                raise MoebenchError(f"The threshold {one.name} lies between 0 and 1, got {value}.")

    @classmethod
    def of(cls, values: Mapping[str, float]) -> Self:
        """From names; raises `MoebenchError` with the nearest name for one that is none."""
        names = [one.name for one in fields(cls)]
        for name in values:
            if name not in names:
                raise MoebenchError(f"There is no threshold {name!r}.{did_you_mean(name, names)}")
        return cls(**values)


@dataclass(frozen=True)
class Plan:
    """How to resample: method for means, B resamples, seed, level in (0, 1); and what findings are measured against.

    Raises `MoebenchError` for a level that so few draws cannot reach: one of them at least must lie beyond either end.
    """

    method: Method = "bca"
    resamples: int = 2000
    seed: int = 0
    level: float = 0.95
    thresholds: Thresholds = field(default_factory=Thresholds)

    def __post_init__(self) -> None:
        if self.method not in ("bca", "percentile", "layer"):
            raise MoebenchError(f"Unknown interval method {self.method!r}: choose bca, percentile or layer.")
        if not 0 < self.level < 1:
            raise MoebenchError(f"The level of an interval lies between 0 and 1, got {self.level}.")
        if self.seed < 0:
            raise MoebenchError(f"A seed is 0 or more, got {self.seed}.")
        if self.resamples < 100:
            raise MoebenchError(f"{self.resamples} resamples are too few for an interval: use 100 or more.")
        beyond = self.resamples * (1 - self.level)
        if beyond < 2 - ROUNDING:
            needed = math.ceil(2 / (1 - self.level) * (1 - ROUNDING))
            message = f"A level of {100 * self.level:.10g}% takes {needed:,} resamples or more, not {self.resamples:,}."
            raise MoebenchError(message)


@dataclass(frozen=True)
class Saving:
    """What is kept of a run.

    output: stats pair, saved while the run goes on and at its end. resume: go on from the pair at ``output``, if there
    is one. trace: a folder for the experts of every single token, of at most ``trace_limit`` bytes;
    ``trace_predictions`` adds the model's most likely next token. command: what the report says started it.

    Raises `MoebenchError` where there is nothing to resume from or to keep a trace beside.
    """

    output: str | Path | None = None
    resume: bool = False
    trace: str | Path | None = None
    trace_limit: int = TRACE_LIMIT
    trace_predictions: bool = False
    command: str | None = None

    def __post_init__(self) -> None:
        if self.resume and self.output is None:
            raise MoebenchError("Only a run with an output can be resumed: name the stats pair.")
        if self.trace is not None and self.output is None:
            raise MoebenchError("A trace is saved in step with a stats pair: name an output.")
        if self.trace is None and self.trace_predictions:
            raise MoebenchError("Predictions are kept in a trace: name its folder, with --trace.")


@dataclass(frozen=True)
class Options:
    """Everything that a measurement may be told."""

    loading: Loading = field(default_factory=Loading)
    reading: Reading = field(default_factory=Reading)
    flag: Flag = field(default_factory=Flag)
    saving: Saving = field(default_factory=Saving)
    plan: Plan = field(default_factory=Plan)

    @classmethod
    def of(cls, choices: Choices) -> Self:
        """From the keywords of a call; each goes where a part has a field of its name. ``plan`` is one of them."""
        left: Json = dict(choices)
        plan = left.pop("plan", None) or Plan()
        parts = {
            name: part(**{key: left.pop(key) for key in _names(part) & left.keys()}) for name, part in _PARTS.items()
        }
        if left:
            raise TypeError(f"unexpected keyword argument {next(iter(left))!r}")
        return cls(**parts, plan=plan)


class LoadingChoices(TypedDict, total=False):
    """`Loading`, as keywords."""

    backend: str
    device: str
    dtype: str | None
    bits: int | None
    router_bits: int | None
    routers_from: str | Path | None
    adapter_path: str | Path | None
    trust_remote_code: bool
    stream: str
    stream_memory: int | None


class Choices(LoadingChoices, total=False):
    """`Options`, as keywords."""

    text_field: str | None
    max_samples: int | None
    max_length: int
    split_on: str
    long: str | None
    batch_size: int | str
    shard: str | None
    tau: float
    collapse_on: str
    output: str | Path | None
    resume: bool
    trace: str | Path | None
    trace_limit: int
    trace_predictions: bool
    command: str | None
    plan: Plan | None


_PARTS: Json = {"loading": Loading, "reading": Reading, "flag": Flag, "saving": Saving}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _names(part: Any) -> set[str]:
    return {one.name for one in fields(part)}


def takes(*parts: type, without: tuple[str, ...] = ()) -> Callable[[_Function], _Function]:
    """Show the fields of ``parts`` in the signature of a function that takes them as keywords, with their defaults."""

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        shown = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        for part in parts:
            shown += [
                inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
                for one in fields(part)
                if one.name not in without and one.name not in signature.parameters
            ]
        if Reading in parts:  # whatever reads texts makes intervals
            shown.append(
                inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Plan | None")
            )
        function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        return function

    return decorate


def with_choices(loading: Loading | None, choices: LoadingChoices) -> Loading:
    """``loading``, or the default one, with what the keywords of a call say."""
    return replace(loading or Loading(), **choices)
