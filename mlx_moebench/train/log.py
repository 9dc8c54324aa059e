"""Writing ``training_log.jsonl``, and what its lines say about the routing loss as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.training_log import read_log
from ..errors import TrainingError
from ..files import write_aside
from ..routing.record import RouterSpec
from ..types import Json
from .objective import PER_ROUTER
from .settings import RoutingLoss

PATIENCE = 50
"""Steps without a router below its floor after which the floor is said never to fire."""

LAST = 10
"""The last tenth of the steps stands for the end of a training."""


class TrainingLog:
    """Appends lines to a training's log; a line is on disk before the next step begins."""

    def __init__(self, path: Path | None, keep: int | None) -> None:
        """Lines up to step ``keep``, that of the checkpoint, are kept; later ones belong to steps that will run again.

        keep: None without a checkpoint, when the validation before the first step runs again, too. path: None for no
        file.
        """
        self._path = path
        entries = read_log(path) if path is not None and keep is not None and path.exists() else []
        self.entries = [entry for entry in entries if keep is not None and entry["step"] <= keep]
        self._file = None
        if path is None:
            return
        text = "".join(json.dumps(entry) + "\n" for entry in self.entries)
        write_aside({path: text.encode()})  # a full disk or a kill leaves the old lines
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise TrainingError(f"Cannot write {path}: {error.strerror or error}.") from error

    def add(self, entry: Json) -> None:
        """Write one line; NaN becomes null."""
        entry = finite(entry)
        self.entries.append(entry)
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(entry, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise TrainingError(f"Cannot write {self._path}: {error.strerror or error}.") from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def log_entry(step: int, figures: Json, info: Json, regularised: Sequence[int]) -> Json:
    """The line of one step, from what the objective measured and what the trainer said.

    ce and routing_loss are apart, in nats; the routing loss is before its weight. routers: lists over all routers, on
    the batch of the step. signal, below_floor: lists over the regularised routers.
    """
    columns = zip(*figures["routers"], strict=True)
    entry = {
        "step": step,
        "ce": figures["ce"],
        "routing_loss": figures["routing_loss"],
        "learning_rate": info["learning_rate"],
        "tokens": int(figures["tokens"]),
        "tokens_per_second": info["tokens_per_second"],
        "peak_memory_gb": info["peak_memory"],
        "signal": figures["signal"],
        "below_floor": figures["below"],
        "routers_below_floor": sum(share > 0 for share in figures["below"]),
    }
    return entry | {name: list(column) for name, column in zip(PER_ROUTER, columns, strict=True)}


def summarise(entries: list[Json], loss: RoutingLoss | None, specs: Sequence[RouterSpec], iters: int) -> Json:
    """How often the floor fired in the steps that are logged, of ``iters``, and the warnings that follow from the log.

    loss: None for a training without one.
    """
    steps = [entry for entry in entries if "ce" in entry]
    summary: Json = {"steps": len(steps), "warnings": []}
    if len(steps) < iters:
        summary["warnings"].append(
            f"The log holds {len(steps)} of {iters} steps, because it was damaged or removed before the training went "
            "on; figures that come from it are of those steps."
        )
    if not steps or loss is None or loss.name != "entropy_floor":
        return summary
    fired = sum(entry["routers_below_floor"] > 0 for entry in steps)
    summary |= {
        "steps_with_a_router_below_floor": fired,
        "floor_nats": sorted({loss.floor_nats(specs[n].n_experts) for n in loss.routers(tuple(specs))}),
    }
    if fired == 0:
        summary["warnings"].append(never_fired(len(steps), loss, steps[-1]))
    summary["warnings"] += gamed(steps, loss, specs)
    return summary


def never_fired(steps: int, loss: RoutingLoss, entry: Json) -> str:
    """The sentence about a floor that did nothing in ``steps`` steps."""
    kind, value = loss.floor
    return (
        f"The floor never fired in {steps} steps: the lowest {loss.signal} entropy of the last one is "
        f"{min(entry['signal']):.4g} nats, above the floor of {{{kind}: {value:g}}}, so the routing loss was 0 and "
        "changed nothing."
    )


def gamed(steps: list[Json], loss: RoutingLoss, specs: Sequence[RouterSpec]) -> list[str]:
    """A sentence where the floor is reached at the end although the load says that experts are not used."""
    last = steps[-max(1, len(steps) // LAST) :]
    on = loss.routers(tuple(specs))
    unused = []
    for place, number in enumerate(on):
        spec = specs[number]
        reached = _mean([entry["below_floor"][place] for entry in last]) == 0
        dead = _mean([entry["dead_experts"][number] - _idle_by_chance(spec, entry["tokens"]) for entry in last])
        n_eff = math.exp(_mean([entry["load_entropy"][number] for entry in last]))
        if reached and loss.signal != "load" and (n_eff < spec.n_experts / 2 or dead >= 1):
            unused.append(
                f"{spec.name} (n_eff {n_eff:.1f} of {spec.n_experts}, {dead:.1f} more dead a batch than by chance)"
            )
    if not unused:
        return []
    return [
        f"The floor on the {loss.signal} entropy is reached while experts stay unused in {len(unused)} of {len(on)} "
        f"routers: {', '.join(unused[:6])}{', ...' if len(unused) > 6 else ''}. The signal does not see the load; use "
        "signal: load."
    ]


def _idle_by_chance(spec: RouterSpec, tokens: int) -> float:
    """Experts that even routing leaves without a token: E (1 - K/E)^T."""
    return spec.n_experts * (1 - spec.top_k / spec.n_experts) ** tokens


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def finite(value: Any) -> Any:
    """The value, and the values of a list or dictionary, with None for what is NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
