"""What a training did: a table of before and after, and its course as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..routing.storage import write_aside

ROWS = (
    ("load_entropy", "Load entropy H(f), nats", 3),
    ("n_eff", "Experts in effective use", 1),
    ("dead_experts", "Experts never chosen", 2),
    ("peak_top_share_token", "Busiest expert, share of tokens", 3),
    ("marginal_entropy", "Entropy of the mean routing, nats", 3),
    ("mean_entropy", "Entropy of a token's routing, nats", 3),
)
"""(key in the summary of a routing report, label with unit, digits)"""


def print_training(report: dict[str, Any], console: Console | None = None) -> None:
    """Print routing before and after with intervals, the cross-entropies, and how often the floor fired."""
    console = console or Console()
    loss, ce = report["settings"]["routing_loss"], report["ce"]
    name = "no routing loss" if loss is None else f"{loss['name']}, weight {loss['weight']:g}"
    console.print(f"{report['model']}: {report['tokens_trained']:,} tokens, {name}", style="bold", markup=False)
    table = Table(box=None, pad_edge=False)
    for column in ("", "before", "after"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for key, label, digits in ROWS:
        table.add_row(label, *(_interval(report[f"routing_{when}"][key], digits) for when in ("before", "after")))
    if ce["validation_after"] is not None:
        ends = (_figure(ce[f"validation_{when}"]) for when in ("before", "after"))
        table.add_row("Validation CE, nats per token", *ends)
    if ce["test_after"] is not None:
        table.add_row("Test CE, nats per token", "", _figure(ce["test_after"]))
    console.print(table)
    found = report["routing_loss"]
    if "steps_with_a_router_below_floor" in found:
        floors = ", ".join(f"{nats:.3f}" for nats in found["floor_nats"])
        fired = found["steps_with_a_router_below_floor"]
        console.print(f"A router was below the floor of {floors} nats in {fired} of {found['steps']} steps.")
    interval = report["routing_after"]["load_entropy"]
    how = "95% bootstrap intervals" if interval.get("low") is not None else f"no intervals ({interval.get('reason')})"
    console.print(f"Means over routers, but the busiest expert, which is that of any layer; {how}.", markup=False)


def plot_training(entries: Sequence[dict[str, Any]], report: dict[str, Any], path: Path) -> Path:
    """Draw cross-entropy, routing loss, entropies and load per step; returns ``path``.

    entries: the lines of ``training_log.jsonl``. Lines are means over routers, bands their smallest and largest.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    steps = [entry for entry in entries if "ce" in entry]
    validation = [entry for entry in entries if "val_ce" in entry]
    x = [entry["step"] for entry in steps]
    with mpl.rc_context({"svg.hashsalt": "mlx-moebench", "font.size": 9}):
        figure = Figure(figsize=(9.5, 6.4), layout="constrained")
        (ce, loss), (entropy, load) = figure.subplots(2, 2)
        ce.plot(x, [entry["ce"] for entry in steps], color="C0", lw=0.9, label="training batch")
        ce.plot(
            [e["step"] for e in validation],
            [e["val_ce"] for e in validation],
            "o-",
            color="C3",
            ms=4,
            label="validation",
        )
        ce.set_ylabel("cross-entropy, nats per token")
        loss.plot(x, [entry["routing_loss"] for entry in steps], color="C1", lw=0.9)
        loss.set_ylabel(f"routing loss before its weight{_unit(report)}")
        loss.set_ylim(bottom=min(0.0, *loss.get_ylim()))
        for name, label, colour in (
            ("token_entropy", "token, mean H(p)", "C2"),
            ("marginal_entropy", "marginal, H(mean p)", "C4"),
            ("load_entropy", "load, H(f)", "C0"),
        ):
            _band(entropy, x, [entry[name] for entry in steps], label, colour)
        for nats in report["routing_loss"].get("floor_nats", ()):
            entropy.axhline(nats, color="0.3", ls="--", lw=1, label="floor")
        entropy.set_ylabel("entropy, nats")
        _band(load, x, [entry["top_load_ratio"] for entry in steps], "busiest expert, multiple of even", "C3")
        _band(load, x, [entry["dead_experts"] for entry in steps], "experts not chosen in the batch", "0.4")
        load.axhline(1, color="0.7", lw=0.8)
        load.set_ylim(bottom=0)
        load.set_ylabel("ratio; number of experts")
        for axis in (ce, loss, entropy, load):
            axis.set_xlabel("step")
            axis.grid(alpha=0.25)
            if axis is not loss:
                axis.legend(fontsize=8, framealpha=0.7)
        figure.suptitle(_title(report), fontsize=10)
        picture = io.BytesIO()
        figure.savefig(picture, format=path.suffix[1:], dpi=150)
    write_aside({path: picture.getvalue()})
    return path


def _band(axis: Any, x: Sequence[int], values: Sequence[Sequence[float]], label: str, colour: str) -> None:
    array = np.array(values, dtype=float)
    if array.size:
        axis.plot(x, array.mean(1), color=colour, lw=1.2, label=label)
        axis.fill_between(x, array.min(1), array.max(1), color=colour, alpha=0.15, lw=0)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(entry: dict[str, Any], digits: int) -> str:
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def _plain(value: Any) -> str:
    """``fraction 0.9`` for {"fraction": 0.9}."""
    return " ".join(f"{kind} {number:g}" for kind, number in value.items()) if isinstance(value, dict) else str(value)


def _unit(report: dict[str, Any]) -> str:
    loss = report["settings"]["routing_loss"]
    return ", nats" if loss is None or loss["name"] == "entropy_floor" else ""


def _title(report: dict[str, Any]) -> str:
    loss = report["settings"]["routing_loss"]
    if loss is None:
        return f"{report['model']}, no routing loss".replace("$", r"\$")
    details = ", ".join(f"{key} {_plain(value)}" for key, value in loss.items() if key != "name")
    return f"{report['model']}, {loss['name']}: {details}".replace("$", r"\$")
