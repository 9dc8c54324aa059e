"""Whether a training went well: the signal that it trained against its floor, and what it did to the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...routing.sums import Floats
from ...types import Facts
from ..inputs import Training
from ..names import isolated
from ..numbers import count, number

State = Literal["good", "bad", "open"]

SAME = 0.01
"""A loss, or a distance to a floor, that changed by less than this part of it counts as unchanged."""

SURE = 2.0
"""Standard errors of the difference of two means over steps, beyond which it is more than their noise."""

LAST = 10
"""The first and the last tenth of the steps stand for the start and the end."""

SIGNALS = {"load": "load_entropy", "marginal": "marginal_entropy", "token": "token_entropy"}
"""What the log calls each signal of a floor, of every router."""

_FREE = ("routing_loss", "routing_data", "routing_samples", "adapter_path", "save_every", "steps_per_report")
"""Settings in which a training and its control may differ."""


@dataclass(frozen=True)
class Verdict:
    """What became of a training. parts: a clause about each thing that was looked at, those that went wrong first."""

    name: str
    state: State
    parts: tuple[str, ...]

    @property
    def heading(self) -> str:
        """``Went wrong``, ``Went well``, or that it is open: words, for those who see no colours."""
        return {"good": "Went well", "bad": "Went wrong", "open": "Neither good nor bad"}[self.state]

    @property
    def sentence(self) -> str:
        """All of it: ``Went wrong: training floor: validation loss rose ...``"""
        return f"{self.heading}: training {isolated(self.name)}: {'; '.join(self.parts)}."


def training_verdict(training: Training, others: Sequence[Training] = ()) -> Verdict:
    """The verdict on a training. others: among which its control may be, which was trained without the routing loss.

    Bad where the loss ended above its reference, or the routing loss above its own start, each by more than `SAME` and,
    over steps, by more than their noise; good where the signal reached its floor, or the routing loss fell, and the
    loss did not rise; else open.
    """
    entries = [entry for entry in training.log if "ce" in entry]
    with np.errstate(over="ignore", invalid="ignore"):  # a sum beyond what a number holds is as bad as it looks
        found = [one for one in (_loss(training, entries, others), _routing(training, entries)) if one is not None]
    states = [state for state, _ in found]
    state: State = "bad" if "bad" in states else "good" if set(states) == {"good"} else "open"
    order = {"bad": 0, "open": 1, "good": 2}
    parts = [words for _, words in sorted(found, key=lambda one: order[one[0]])]
    return Verdict(training.name, state, tuple(parts) or ("its log holds no step",))


# -- the loss --------------------------------------------------------------------------------------------------------


def _loss(training: Training, entries: Sequence[Facts], others: Sequence[Training]) -> tuple[State, str] | None:
    before, after = validation(training)
    control = control_of(training, others)
    if after is not None and control is not None:
        return _against_control(after, control)
    if after is not None and before is not None:
        return _against_start("validation loss", before, after)
    if not entries:
        return None
    first, last, noise = _ends(_column(entries, "ce"))
    state, words = _against_start("loss of the training batches", first, last, noise)
    return state, f"{words}, with nothing held out to measure it on"


def validation(training: Training) -> tuple[float | None, float | None]:
    """Cross-entropy of held-out text before the first step and at the end, nats per token; NaN where it overflowed."""
    held_out = [entry for entry in training.log if "val_ce" in entry]
    ce = training.report.get("ce") or {}
    values = {when: ce.get(f"validation_{when}") for when in ("before", "after")}
    if held_out:
        values["after"] = _or_nan(held_out[-1]["val_ce"])
        if held_out[0]["step"] == 0:
            values["before"] = _or_nan(held_out[0]["val_ce"])
    return values["before"], values["after"]


def control_of(training: Training, others: Sequence[Training]) -> Training | None:
    """The training with the same settings and no weight on a loss of the routing, among ``others``."""
    if not _weight(training):
        return None
    alike = (one for one in others if one is not training and not _weight(one) and one.report)
    return next((one for one in alike if _settings(one) == _settings(training)), None)


def _weight(training: Training) -> float:
    loss = _routing_settings(training)
    return 0.0 if loss is None else float(loss.get("weight") or 0.0)


def _routing_settings(training: Training) -> Facts | None:
    settings: Facts | None = (training.report.get("settings") or {}).get("routing_loss")
    return settings


def _settings(training: Training) -> Facts:
    settings = training.report.get("settings") or {}
    kept = {key: value for key, value in settings.items() if key not in _FREE}
    return {"model": training.report.get("model"), **kept}


def _against_control(after: float, control: Training) -> tuple[State, str]:
    _, theirs = validation(control)
    name = isolated(control.name)
    if theirs is None or not math.isfinite(theirs):
        return "open", f"validation loss {_nats(after)}, and that of its control {name} is not known"
    if not math.isfinite(after):
        return "bad", f"validation loss is no number any more; its control {name} has {_nats(theirs)}"
    change = (after - theirs) / abs(theirs)
    size = f"{_nats(after)} against {number(theirs)} of its control {name} ({_percent(change)})"
    if change > SAME:
        return "bad", f"validation loss is above that of its control: {size}"
    return "good", f"validation loss {'is below that of' if change < -SAME else 'is that of'} its control: {size}"


def _against_start(what: str, before: float, after: float, noise: float = 0.0) -> tuple[State, str]:
    if not math.isfinite(after):
        return "bad", f"{what} is no number any more; at the start it was {_nats(before)}"
    change = (after - before) / abs(before) if before else math.nan
    size = f"from {number(before)} to {_nats(after)} ({_percent(change)})"
    if abs(change) <= SAME or abs(after - before) <= SURE * noise:
        return "open", f"{what} did not clearly change, {size}"
    return ("bad", f"{what} rose {size}") if change > 0 else ("good", f"{what} fell {size}")


def _nats(value: float) -> str:
    return f"{number(value)} nats per token"


def _percent(change: float) -> str:
    return f"{100 * change:+.1f}%" if math.isfinite(change) else "from nothing"


# -- the routing -----------------------------------------------------------------------------------------------------


def _routing(training: Training, entries: Sequence[Facts]) -> tuple[State, str] | None:
    """The loss on the routing; None where nothing was trained on it, or nothing is known."""
    loss = _routing_settings(training)
    values = _column(entries, "routing_loss")
    if loss is None or not _weight(training) or not any("routing_loss" in entry for entry in entries):
        return None
    if loss.get("name") == "entropy_floor":
        return _floor(training, entries, loss)
    first, last, noise = _ends(values)
    size = f"from {number(first)} to {number(last)}"
    what = f"its {loss.get('name')} loss"
    if not math.isfinite(last):
        return "bad", f"{what} is no number any more"
    if abs(last - first) <= max(SURE * noise, SAME * abs(first)):
        return "open", f"{what} did not clearly change, {size}"
    return ("bad", f"{what} rose {size}") if last > first else ("good", f"{what} fell {size}")


def _floor(training: Training, entries: Sequence[Facts], loss: Facts) -> tuple[State, str] | None:
    """The signal that was trained, against its floor, at the start and at the end."""
    signal = str(loss.get("signal") or "marginal")
    what = f"{signal} entropy, the signal it trained,"
    floors = [float(nats) for nats in (training.report.get("routing_loss") or {}).get("floor_nats", ())]
    gap, after, noise = _ends(_column(entries, "routing_loss"))
    if not math.isfinite(after):
        return "bad", f"{what} is no number any more"
    rows = _rows(entries, "signal")
    if not rows.size:
        rows = _rows(entries, SIGNALS.get(signal, ""))
    size = _sizes(rows, floors)
    allowed = SAME * max(floors, default=1.0)
    if after > gap + max(SURE * noise, allowed):
        return "bad", f"{what} ended further below its floor than it began{size}"
    if after <= allowed and gap <= allowed:
        return "good", f"{what} is at its floor or above, as at the start{size}"
    if after <= allowed:
        return "good", f"{what} reached its floor{size}"
    moved = "nearer to it than" if after < gap - max(SURE * noise, allowed) else "about as far from it as"
    return "open", f"{what} has not reached its floor, and ended {moved} it began{size}"


def _sizes(rows: Floats, floors: Sequence[float]) -> str:
    """`` (mean over routers in the first 4 steps 2.31, in the last 1.90 nats, floor 2.50; 4 of 6 routers ...)``."""
    if not rows.size:
        return ""
    part = _part(len(rows))
    start, end = np.nanmean(rows[:part], axis=0), np.nanmean(rows[-part:], axis=0)
    floor = f"floor {', '.join(number(nats) for nats in floors)}" if floors else "floor not known"
    steps = "first step" if part == 1 else f"first {part:,} steps"
    below = ""
    if len(floors) == 1:
        low = int((end < floors[0] - SAME * floors[0]).sum())
        below = f"; {low} of {count(len(end), 'router')} end below it"
    return (
        f" (mean over routers in the {steps} {number(float(np.nanmean(start)))}, in the last "
        f"{number(float(np.nanmean(end)))} nats, {floor}{below})"
    )


# -- the log ---------------------------------------------------------------------------------------------------------


def _part(n: int) -> int:
    """How many steps stand for an end of ``n``: a tenth, three at least where there are that many."""
    return max(1, n // LAST, min(3, n // 2))


def _ends(values: Floats) -> tuple[float, float, float]:
    """(mean of the first steps, of the last ones, standard error of their difference); NaN with a NaN at an end."""
    part = _part(len(values))
    first, last = values[:part], values[-part:]
    error = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / part) if part > 1 else 0.0
    return float(first.mean()), float(last.mean()), error


def _column(entries: Sequence[Facts], name: str) -> Floats:
    return np.array([_or_nan(entry.get(name)) for entry in entries])


def _rows(entries: Sequence[Facts], name: str) -> Floats:
    rows = [[_or_nan(x) for x in entry.get(name) or ()] for entry in entries]
    width = max(map(len, rows), default=0)
    whole = [row for row in rows if len(row) == width] if width else []
    return np.array(whole, dtype=np.float64).reshape(len(whole), width)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
