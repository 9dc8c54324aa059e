"""The runs of the study in results/libmoe, by arm and seed, and what is asked of each: see run_libmoe_study.py."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from run_rescue import interval

from mlx_moebench.types import Json

NAMES = {
    "dense": "dense",
    "dense2": "dense, twice the FLOPs",
    "smoe": "SMoE",
    "xmoe": "XMoE",
    "sigma": "sigma-MoE",
    "shared_v2": "SharedE-V2",
    "shared_v3": "SharedE-V3",
    "tc_moe": "TC-MoE",
    "moepp": "MoE++",
    "smoe-unbalanced": "SMoE, no balance loss",
    "smoe-z": "SMoE, balance and z-loss",
    "xmoe-double": "XMoE, softmax twice",
    "smoe-std0": "SMoE, std 0",
    "smoe-std0.02": "SMoE, std 0.02",
    "smoe-std0.04": "SMoE, std 0.04",
    "smoe-std0.06": "SMoE, std 0.06",
    "sigma-libmoe": "sigma-MoE as LibMoE trains it",
    "shared_v3-libmoe": "SharedE-V3 as LibMoE trains it",
}
MAIN = ("dense", "smoe", "xmoe", "sigma", "shared_v2", "shared_v3", "tc_moe", "moepp", "dense2")
ROUTERS = MAIN[1:-1]


@dataclass(frozen=True)
class Study:
    """All finished runs, and the published tables. arms: of each its runs, by seed."""

    settings: Json
    data: Json
    environment: Json
    arms: Mapping[str, Mapping[int, Json]]
    theirs: Json

    @classmethod
    def read(cls, folder: Path) -> Study:
        file = json.loads((folder / "runs.json").read_text("utf-8"))
        arms: dict[str, dict[int, Json]] = {}
        for run in file["runs"]:
            arms.setdefault(run["arm"], {})[run["seed"]] = run
        theirs = json.loads((folder / "theirs.json").read_text("utf-8"))
        return cls(file["settings"], file["data"], file["environment"], arms, theirs)

    def of(self, arms: Iterable[str]) -> list[str]:
        """Those that ran."""
        return [arm for arm in arms if self.arms.get(arm)]

    def values(self, arm: str, quantity: Callable[[Json], float]) -> list[float]:
        """Of every seed of an arm."""
        return [quantity(run) for _, run in sorted(self.arms[arm].items())]

    def common(self, arms: Iterable[str]) -> list[int]:
        """The seeds that all of these arms ran with."""
        of = [set(self.arms[arm]) for arm in arms]
        return sorted(set.intersection(*of)) if of else []

    def paired(self, arm: str, other: str, quantity: Callable[[Json], float]) -> Json:
        """arm - other over the seeds of both."""
        a, b = self.arms[arm], self.arms[other]
        seeds = sorted(a.keys() & b.keys())
        differences = [quantity(a[seed]) - quantity(b[seed]) for seed in seeds]
        made: Json = (
            interval(differences) if differences else {"value": math.nan, "low": None, "high": None, "seeds": 0}
        )
        return made | {"same_sign": len(differences) > 1 and len({d > 0 for d in differences}) == 1}


def final_ce(run: Json) -> float:
    """Held-out cross-entropy at the end, nats a token."""
    return float(run["validation"][-1][1])


def last(run: Json, metric: str, layer: int | None = None) -> float:
    """A metric at the end: mean over the routers, or of one."""
    routers = run["measured"]["snapshots"][-1]["routers"]
    chosen = routers if layer is None else [routers[layer]]
    return float(np.mean([router[metric] for router in chosen]))


def overlap(run: Json, which: str, name: str) -> list[float]:
    """Means over the routers at every snapshot that has it."""
    return [float(np.mean([r[name] for r in s[which]])) for s in run["measured"]["snapshots"] if which in s]


def perturbed(run: Json, name: str) -> float:
    """What a perturbation adds to the loss, nats a token."""
    return float(run["measured"]["perturbations"][name]["loss_change"]["value"])


def estimate(entry: Json, digits: int = 3, sign: bool = False) -> str:
    """``value [low, high]``; nothing where no seed ran."""
    if not entry["seeds"]:
        return ""
    write = f"{{:{'+' if sign else ''}.{digits}f}}".format
    if entry["low"] is None:
        return write(entry["value"])
    return f"{write(entry['value'])} [{write(entry['low'])}, {write(entry['high'])}]"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def survives(difference: Json) -> bool:
    """Whether every seed says the same and the interval leaves 0 out."""
    return bool(
        difference["same_sign"] and difference["low"] is not None and difference["low"] * difference["high"] > 0
    )
