"""How what is made again for a report is made: as what was read was made, but for what was asked for otherwise."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from ..options import Plan, Thresholds
from ..types import Facts

INTERVALS = ("method", "resamples", "seed", "level")
"""What a report's settings and a `Plan` both say of intervals."""


def plan_of(settings: Sequence[Facts], plan: Plan, chosen: Collection[str]) -> Plan:
    """``plan`` with what these ``settings`` agree on, but for its fields that were ``chosen``."""
    intervals = _agreed([one["ci"] for one in settings])
    thresholds = _agreed([one["thresholds"] for one in settings if one.get("thresholds")])
    kept = {key: intervals[key] for key in INTERVALS if key not in chosen and intervals.get(key) is not None}
    if thresholds and "thresholds" not in chosen:
        kept["thresholds"] = Thresholds.of(thresholds)
    return replace(plan, **kept)


def chosen_of(plan: Plan | None) -> tuple[str, ...]:
    """What a given plan chooses: its intervals, and its thresholds where they are not the usual ones."""
    if plan is None:
        return ()
    return INTERVALS if plan.thresholds == Thresholds() else (*INTERVALS, "thresholds")


def _agreed(every: Sequence[Facts]) -> Facts:
    """What all of them are; nothing where they differ."""
    return every[0] if every and all(one == every[0] for one in every) else {}
