"""What pages are made of in tests: hostile names, and statistics of any size that cost no measurement."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from routing_reference import ENVIRONMENT, MODEL, make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.routing import Plan, RouterSpec, Sums
from mlx_moebench.routing.tally import SCALARS
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page import build_page

RESULTS = Path(__file__).parents[1] / "results"
NANO = [str(RESULTS / f"routing_stats_nano_{domain}.json") for domain in ("math", "general", "code")]
"""Three domains of the embedded model."""

HOSTILE = "</script><img src=x onerror=window.hit=1><!--"
HEBREW = "\u2067עברית\u202e abc"
"""A right-to-left name with controls of its own that it does not close."""

QUICK = Plan(resamples=100)

ADAPTER = {"name": "floor", "sha256": "0" * 64, "fine_tune_type": "lora", "scale": 20.0}


def drawings(data: dict[str, Any], section: str) -> list[dict[str, Any]]:
    """The charts and heatmaps of a section of `page_data`, in its order."""
    (parts,) = (one["parts"] for one in data["sections"] if one["id"] == section)
    figures = [figure for part in parts for figure in part.get("pair", [part]) if "drawings" in figure]
    return [drawing for figure in figures for drawing in figure["drawings"].values()]


def decoded(heat: dict[str, Any], measure: str, what: str = "cells") -> np.ndarray[Any, Any]:
    """What the page's scripts read of a measure of a heatmap, or of its ``low`` or ``high``: [rows, columns], or of a
    square what stands above the diagonal; all rows are as long as each other."""
    entry = heat["measures"][measure]
    array = heat["arrays"][entry[what]]
    numbers = np.frombuffer(base64.b64decode(array["data"]), dtype=f"<{array['type']}") / array["over"]
    if what != "cells":
        return numbers.reshape(-1, array["lengths"])
    over, across = (
        np.array(heat["facts"][by] if isinstance(by, str) else by) for by in (entry["over"], entry["across"])
    )
    if heat["x"] == heat["y"]:
        i, j = np.triu_indices(array["lengths"], 1)
        return entry["times"] * numbers / (over[i] if len(over) else 1) / (across[j] if len(across) else 1)
    rows = numbers.reshape(-1, array["lengths"])
    return entry["times"] * rows / (over[:, None] if len(over) else 1)


def hostile_pairs(folder: Path) -> list[str]:
    """Two domains of a model whose names, warnings and command are hostile."""
    model = MODEL | {"id": HOSTILE, "warnings": [f"warning {HOSTILE}"]}
    environment = ENVIRONMENT | {"command": f"mlx-moebench analyze --model '{HOSTILE}'"}
    paths = []
    for sha, name in (("a" * 64, HOSTILE), ("b" * 64, HEBREW)):
        stats = make_stats(sha=sha, model=model, environment=environment)
        stats.sources[sha]["name"] = name
        stats.save(folder / f"{sha[0]}.json", QUICK)
        paths.append(str(folder / f"{sha[0]}.json"))
    return paths


def uneven_stats(
    name: str, sha: str, layers: int = 48, experts: int = 128, top_k: int = 8, sequences: int = 12, tokens: int = 400
) -> RoutingStats:
    """Statistics of made-up counts: every layer has its own uneven load, every data set its own turn of it."""
    specs = tuple(RouterSpec(layer, layer, "mlp", experts, top_k) for layer in range(layers))
    source: dict[str, Any] = {"name": name, "max_length": 512, "padding": "right, masked", "bos": None}
    settings = {"model": MODEL | {"id": "made-up/large"}, "environment": ENVIRONMENT}
    stats = RoutingStats(specs, sources={sha: source}, **settings)
    rng = np.random.default_rng(ord(sha[0]))
    before = None
    for number, _ in enumerate(specs):
        # The K of a token are a window of a random order, so that they differ and counts are tokens x K.
        weights = np.random.default_rng(number).gamma(2.0, 1.0, experts) * rng.gamma(4.0, 0.25, experts)
        scores = np.log(weights) + rng.gumbel(size=(sequences, tokens, experts))
        chosen = np.argpartition(-scores, top_k - 1, axis=-1)[..., :top_k]
        selected = np.zeros((sequences, tokens, experts), dtype=np.float32)
        np.put_along_axis(selected, chosen, 1.0, axis=-1)
        counts = selected.sum(axis=1)
        flat = selected.reshape(-1, experts)
        top1 = np.stack([np.bincount(row[:, 0], minlength=experts) for row in chosen])
        # Of every token: the entropy and the margin of even weights, and a neighbour that shares all experts.
        each = {"entropy": 3.0, "topk_entropy": math.log(top_k), "adjacent_pairs": 1.0, "adjacent_shared": top_k}
        scalars = np.tile([tokens * each.get(name, 0.0) for name in SCALARS], (sequences, 1))
        sums = Sums(experts, top_k, "softmax", np.full(sequences, tokens), counts, top1, counts / top_k, scalars)
        stats.add_sums(number, [(sha, row) for row in range(sequences)], sums, flat.T @ flat)
        if before is not None:
            stats.add_transition(number - 1, before.T @ flat)
        before = flat
    return stats


def collapsed_stats(sha: str = "a" * 64, layers: int = 3) -> RoutingStats:
    """Statistics of 8 experts, two of each token; in the first layer two of them take everything."""
    stats = make_stats(sha=sha, specs=tuple(RouterSpec(layer, layer, "mlp", 8, 2) for layer in range(layers)))
    counts = stats._sums[0]._arrays["counts"]
    counts[:] = 0
    counts[:, :2] = stats._sums[0]._arrays["n_tokens"][:, None]
    stats._sums[0]._arrays["top1_counts"][:] = counts * (np.arange(8) == 0)
    stats._sums[0].pairs[:] = stats._transitions[0][:] = 0
    return stats


def training_folder(folder: Path, steps: int = 30, routers: int = 3) -> Path:
    """A folder as ``train`` leaves it, without the adapter: log, report, and routing before and after."""
    folder.mkdir()
    lines = []
    for step in range(1, steps + 1):
        state = {
            "token_entropy": [2.0 - 0.01 * step] * routers,
            "marginal_entropy": [2.05] * routers,
            "load_entropy": [1.0 + 0.02 * step + 0.1 * n for n in range(routers)],
            "top_load_ratio": [2.0] * routers,
            "dead_experts": [0] * routers,
        }
        lines.append({"step": step, "ce": 5 - 0.05 * step, "routing_loss": 0.1, "tokens": 100, **state})
    lines.append({"step": steps, "val_ce": 3.7})
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut')
    loss = {"name": "entropy_floor", "weight": 0.5}
    report = {
        "model": "test/tiny",
        "settings": {"routing_loss": loss},
        "ce": {},
        "routing_loss": {"floor_nats": [1.9], "warnings": ["The floor never fired."]},
        "command": "mlx-moebench train",
    }
    (folder / "training_report.json").write_text(json.dumps(report))
    make_stats().save(folder / "routing_before.json", QUICK)
    make_stats(model=MODEL | {"adapter": ADAPTER}).save(folder / "routing_after.json", QUICK)
    return folder


def written(folder: Path, arguments: list[Any], name: str = "page") -> str:
    """The address of the page of these inputs, written into ``folder``."""
    path = folder / f"{name}.html"
    path.write_text(build_page(read_inputs(arguments, plan=QUICK)), encoding="utf-8")
    return path.as_uri()
