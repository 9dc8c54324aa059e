"""What the JSON files of this package are made of: numbers and intervals, and how a class says what it holds.

The classes are msgspec's: it checks a file in milliseconds, names the place of a fault, and makes the JSON schema from
the annotations. It is one small package that needs no other.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ...types import Json

Number = float | None
"""null: undefined."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]

_NULL = {"type": "null"}


def says(text: str) -> Meta:
    """What a field holds, for the schema."""
    return Meta(description=text)


def when_null(field: str, reason: str) -> Json:
    """The rule of a schema that ``reason`` stands where ``field`` is null."""
    return {"if": {"properties": {field: _NULL}, "required": [field]}, "then": {"required": [reason]}}


class Sealed(msgspec.Struct, kw_only=True):
    """A file with a seal, see `pair/seal.py`."""

    seal: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | UnsetType,
        says(
            "SHA-256 of everything else here, as JSON in UTF-8 with sorted keys and no spaces: a changed file is told "
            "by it. Absent in files of earlier versions."
        ),
    ] = UNSET


class Interval(msgspec.Struct, kw_only=True):
    """Interval of one number, in its unit, or the reason there is none."""

    RULES: ClassVar[Json] = {
        "if": {"properties": {"low": _NULL}},
        "then": {"properties": {"high": _NULL}, "required": ["reason"]},
        "else": {"properties": {"high": {"type": "number"}}, "required": ["method"]},
    }
    """What the schema says beside the fields."""

    low: Annotated[Number, says("Lower end.")]
    high: Annotated[Number, says("Upper end.")]
    method: Annotated[str | UnsetType, says("How it was made.")] = UNSET
    plugin: Annotated[
        Number | UnsetType,
        says("Of a number that is biased in finite samples and shown corrected: what the sample gives, in its unit."),
    ] = UNSET
    candidates: Annotated[
        Positive | UnsetType, says("Of the largest of many shares: how many experts may have it.")
    ] = UNSET
    bias: Annotated[
        float | UnsetType,
        says("Of a difference, and before version 3: mean of the resampled values minus the value, in its unit."),
    ] = UNSET
    reason: Annotated[str | UnsetType, says("Why low and high are null.")] = UNSET

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")
        if self.low is None and self.reason is UNSET:
            raise ValueError("an interval that is null has a reason")
        if self.low is not None and self.method is UNSET:
            raise ValueError("an interval says its method")


class SummaryEntry(Interval, kw_only=True):
    """A value with its interval."""

    value: Annotated[Number, says("In the unit of the metric.")]
    level: Annotated[Share, says("Coverage the interval aims at.")]
    over: Annotated[Count | UnsetType, says("Routers it was counted over.")] = UNSET


class Estimate(Interval, kw_only=True):
    """A value with its interval, in its unit."""

    value: Annotated[Number, says("The value.")]
