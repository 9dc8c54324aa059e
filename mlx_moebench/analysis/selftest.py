"""Whether this machine routes as it should: the embedded model on every MLX device, against figures from a CPU."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..environment import environment
from ..errors import ModelLoadError, MoebenchError
from ..families import family_for
from ..files import check_regular, read_bytes, write_aside
from ..instrument import LiveRoutingStats, capture, config_of, routers_of
from ..models import NANO, device_facts, load_checkpoint, select_device
from ..options import Step, quiet_step
from ..pair.stats import RoutingStats
from ..routing.record import Routing
from ..routing.tally import Tally, tally
from ..types import HostArray, Json

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first

FILE = "selftest.safetensors"
ARRAYS = ("ids", "lengths", "chosen", "mean_entropy")
MAX_CHANGED = 1e-3  # of all selections: rounding may turn a near-tie, and little else
MAX_ENTROPY = 1e-3  # nats, of any router's mean
MAX_SUM = 1e-5  # of a sum, relative; absolute for sums below 1

COUNTS = ("n_tokens", "counts", "top1_counts", "non_finite", "pairs")
SUMS = ("p_sum", "scalars")


@dataclass(frozen=True, eq=False)
class Figures:
    """What a model did with fixed texts on a CPU in float32.

    ids [N, S] uint16, padded on the right; lengths [N] uint16: tokens of each text, T in all.
    chosen [L, T, K] uint8: the experts of each of L routers, ascending. mean_entropy [L] float64, nats.
    weights: sha256 of the ``model.safetensors`` that these figures belong to.
    """

    ids: npt.NDArray[np.uint16]
    lengths: npt.NDArray[np.uint16]
    chosen: npt.NDArray[np.uint8]
    mean_entropy: npt.NDArray[np.float64]
    weights: str

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """[N, S], True at tokens."""
        mask: npt.NDArray[np.bool_] = np.arange(self.ids.shape[1]) < self.lengths[:, None]
        return mask


@dataclass(frozen=True)
class Check:
    """One thing that must hold: the difference ``value`` is at most ``limit``. words: the value, for a reader."""

    name: str
    value: float
    limit: float
    words: str

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self.value <= self.limit

    def to_dict(self) -> Json:
        """As a report lists it."""
        return {
            "name": self.name,
            "value": self.value,
            "limit": self.limit,
            "found": self.words,
            "passed": self.passed,
        }


def selftest(step: Step = quiet_step) -> Json:
    """Run every check on every MLX device; ``passed`` says whether all hold.

    Raises MoebenchError where the stored figures are missing, broken, or those of other weights.
    """
    figures = read_figures(NANO)
    devices = ["cpu", "gpu"] if mx.is_available(mx.Device(mx.gpu)) else ["cpu"]
    before, results = mx.default_device(), []
    try:
        for number, device in enumerate(devices):
            step("testing devices", number, len(devices))
            results.append(check_device(device, figures))
    finally:
        mx.set_default_device(before)
    return {
        "passed": all(result["passed"] for result in results),
        "texts": len(figures.lengths),
        "tokens": int(figures.lengths.sum()),
        "weights_sha256": figures.weights,
        "tf32": os.environ.get("MLX_ENABLE_TF32", "1") != "0",
        "devices": results,
        "environment": environment(),
    }


def check_device(device: str, figures: Figures) -> Json:
    """Every check on one device, with its seconds; an error of MLX fails the device and is quoted."""
    start = time.perf_counter()
    name = device_facts().get("gpu") if device == "gpu" else platform.processor() or platform.machine()
    result: Json = {"device": device, "name": name, "error": None, "checks": [], "routers": []}
    try:
        select_device(device)
        model = load_checkpoint(dtype="float32").model
        checks, result["routers"] = check_model(model, figures)
        result["checks"] = [check.to_dict() for check in checks]
    except (MoebenchError, RuntimeError, ValueError) as error:  # MLX raises the last two
        result["error"] = f"{type(error).__name__}: {error}"
    result["passed"] = result["error"] is None and all(check["passed"] for check in result["checks"])
    return result | {"seconds": time.perf_counter() - start}


def check_model(model: Any, figures: Figures) -> tuple[list[Check], list[Json]]:
    """Every check of ``model`` on the default device, and where it departs from the figures, router by router."""
    ids = mx.array(figures.ids.astype(np.int32))
    plain, again = (_on_host(model(ids)) for _ in range(2))
    logits, stats = measured(model, figures)
    routings = recorded(model, figures)
    chosen, entropy = chosen_by(routings), entropies(stats)
    changed = [_differing(a, b) for a, b in zip(chosen, figures.chosen, strict=True)]
    drift = np.abs(entropy - figures.mean_entropy)
    routers = [
        {"router": spec.name, "selections_changed": n, "entropy_difference": float(d)}
        for spec, n, d in zip(stats.specs, changed, drift, strict=True)
    ]
    return [
        _count("two forwards bit-identical", np.not_equal(plain, again), "logits"),
        _count("the tap changes no output", np.not_equal(plain, logits), "logits"),
        _count("selections = tokens x K", ~_conserved(stats, int(figures.lengths.sum())), "routers"),
        *_against_numpy(model, routings),
        Check(
            "chosen experts as on a CPU",
            sum(changed) / figures.chosen.size,
            MAX_CHANGED,
            f"{sum(changed):,} of {figures.chosen.size:,} selections",
        ),
        Check("mean entropy as on a CPU", float(drift.max()), MAX_ENTROPY, f"{drift.max():.1e} nats"),
    ], routers


def measured(model: Any, figures: Figures) -> tuple[HostArray, RoutingStats]:
    """The logits of a forward that is being measured, as ``analyze`` measures, and its statistics."""
    stats = LiveRoutingStats(model)
    with stats, stats.batch(mask=figures.mask):
        logits = _on_host(model(mx.array(figures.ids.astype(np.int32))))
    return logits, RoutingStats.merge([stats])


def recorded(model: Any, figures: Figures) -> list[Routing]:
    """What every router said, in running order, still on the device."""
    records: list[Routing] = []
    mask = mx.array(figures.mask)
    with capture(model, lambda number, z, chosen, shape: records.append(taps.routing(number, z, chosen, mask))) as taps:
        model(mx.array(figures.ids.astype(np.int32)))
    mx.eval([routing.indices for routing in records])
    return records


def chosen_by(routings: list[Routing]) -> npt.NDArray[np.uint8]:
    """[L, T, K] the experts chosen for every token, ascending."""
    tokens = [np.asarray(routing.indices)[np.asarray(routing.mask)] for routing in routings]
    return np.sort(np.stack(tokens), axis=-1).astype(np.uint8)


def entropies(stats: RoutingStats) -> npt.NDArray[np.float64]:
    """[L] mean entropy of every router, nats."""
    return np.array([stats.values(number)["mean_entropy"] for number in range(len(stats.specs))])


def make_figures(model: Any, ids: npt.NDArray[np.uint16], lengths: npt.NDArray[np.uint16], weights: str) -> Figures:
    """Figures of ``model`` on the default device; weights: see `Figures`."""
    empty = Figures(ids, lengths, np.zeros((0, 0, 0), np.uint8), np.zeros(0), weights)
    return replace(empty, chosen=chosen_by(recorded(model, empty)), mean_entropy=entropies(measured(model, empty)[1]))


def write_figures(figures: Figures, folder: Path) -> Path:
    """Write them beside the weights in ``folder``; returns the file."""
    # safetensors writes the memory behind a view, not the view.
    arrays = {name: np.ascontiguousarray(getattr(figures, name)) for name in ARRAYS}
    path = folder / FILE
    write_aside({path: save(arrays, {"weights_sha256": figures.weights})})
    return path


def read_figures(folder: Path) -> Figures:
    """The figures beside the weights in ``folder``.

    Raises ModelLoadError where they are missing, broken, or belong to other weights.
    """
    path = folder / FILE
    remedy = "reinstall the package, or in a clone run scripts/make_selftest.py"
    try:
        check_regular(path)
        with safe_open(path, framework="np") as file:
            made_of = (file.metadata() or {}).get("weights_sha256", "unknown")
            figures = Figures(**{name: file.get_tensor(name) for name in ARRAYS}, weights=made_of)
    except (OSError, SafetensorError) as error:
        raise ModelLoadError(f"The self-test figures {path} cannot be read ({error}); {remedy}.") from error
    of_model = weights_sha256(folder)
    if of_model != figures.weights:
        raise ModelLoadError(
            f"The self-test figures belong to other weights (sha256 {figures.weights[:12]}) than the embedded model's "
            f"({of_model[:12]}), so they say nothing about this machine; {remedy}."
        )
    return figures


def weights_sha256(folder: Path) -> str:
    """sha256 of the bytes of ``model.safetensors``."""
    return hashlib.sha256(read_bytes(folder / "model.safetensors")).hexdigest()


def _against_numpy(model: Any, routings: list[Routing]) -> list[Check]:
    """The device's tally of what its routers said, beside NumPy's of the same float32 numbers."""
    config = config_of(model)
    family = family_for(config)
    wrong, errors = [], []
    for spec, routing in zip(routers_of(model), routings, strict=True):
        z, chosen, mask = (np.array(array) for array in (routing.logits, routing.indices, routing.mask))
        weights = family.form(spec.router).rule.weights(z, chosen, config)
        theirs, ours = tally(routing), tally(Routing(z, chosen, weights, mask, routing.distribution))
        mx.eval(*theirs.arrays())
        wrong += [np.not_equal(a, b).ravel() for a, b in _fields(theirs, ours, COUNTS)]
        errors += [np.max(np.abs(a - b) / np.maximum(np.abs(b), 1)) for a, b in _fields(theirs, ours, SUMS)]
    worst = float(np.max(errors))
    return [
        _count("counts as NumPy counts", np.concatenate(wrong), "numbers"),
        Check("sums as NumPy sums", worst, MAX_SUM, f"{worst:.1e}, relative"),
    ]


def _fields(a: Tally, b: Tally, names: tuple[str, ...]) -> list[tuple[HostArray, HostArray]]:
    return [(np.asarray(getattr(a, name)), np.asarray(getattr(b, name))) for name in names]


def _conserved(stats: RoutingStats, tokens: int) -> npt.NDArray[np.bool_]:
    """[L] whether a router counted every token and K selections for each."""
    totals = [stats.totals(number) for number in range(len(stats.specs))]
    return np.array([t.n_tokens == tokens and t.counts.sum() == tokens * t.top_k for t in totals])


def _differing(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> int:
    """Entries of the sets in the rows of a [T, K] that the sets of b lack."""
    return int((a[:, :, None] != b[:, None, :]).all(axis=-1).sum())


def _count(name: str, wrong: npt.NDArray[np.bool_], unit: str) -> Check:
    n = int(wrong.sum())
    return Check(name, n, 0, f"{n:,} of {wrong.size:,} {unit}")


def _on_host(array: Any) -> HostArray:
    return np.array(array)
