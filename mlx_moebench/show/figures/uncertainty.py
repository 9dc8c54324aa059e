"""The loss of the next token by tenths of a router's uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...types import Facts
from ..names import SCORES, isolated, model_name
from ..numbers import count, difference, with_interval
from .base import RouterId, Value, intervals_of, labels, largest, n_of, or_nan, router_id, value_of
from .drawing import Chart, Line, Points, Reference, kinds_of, points_of


@dataclass(frozen=True)
class Curve:
    """One router and score. rho: Spearman's rank correlation with the loss.

    scores, loss: the mean score of each tenth of the tokens, and their mean loss, nats; tokens: how many each has.
    """

    router: RouterId
    rho: Value
    scores: tuple[float, ...]
    loss: tuple[Value, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class UncertaintySeries:
    """One report: {score: the curve of every router}."""

    name: str
    n_sequences: int
    n_tokens: int
    level: float
    mean_loss: Value
    curves: Mapping[str, tuple[Curve, ...]]
    unit: str = "nats"
    definition: str = (
        "Tokens are ordered by the router's score and cut into tenths; a point is the mean loss of the next token in a "
        "tenth against its mean score. rho: Spearman's rank correlation of score and loss. A small selection margin is "
        "an uncertain choice: there, uncertainty predicts loss where rho is negative."
    )

    @property
    def routers(self) -> tuple[RouterId, ...]:
        """Those that have curves."""
        return tuple(curve.router for curve in self.curves["entropy"])

    @property
    def sizes(self) -> str:
        """How much text, and its mean loss."""
        loss = with_interval(self.mean_loss.value, self.mean_loss)
        return f"{n_of(self.n_sequences, self.n_tokens)} with a next one; mean loss {loss} nats"


def uncertainty_series(report: Facts) -> UncertaintySeries:
    """From the JSON that ``mlx-moebench loss`` writes."""
    data = report["data"]
    return UncertaintySeries(
        f"{model_name(report['model'])} on {data['name']}",
        int(data["n_sequences"]),
        int(report["n_pairs"]),
        or_nan(report["settings"]["ci"].get("level", 0.95)),
        value_of(report["mean_loss"]["value"], report["mean_loss"]),
        {score: tuple(_curve(r, r[score]) for r in report["routers"]) for score in SCORES},
    )


def uncertainty_sentence(series: UncertaintySeries) -> str:
    """Where entropy and loss go together most, and how much; the same on the page, in the terminal and in Markdown."""
    curves = series.curves["entropy"]
    strongest = largest([Value(abs(curve.rho.value)) for curve in curves])
    rho = curves[strongest].rho
    where = f"layer {labels(series.routers)[strongest]}, {count(series.n_tokens, 'token')}"
    return (
        f"{isolated(series.name)}: routing entropy at a token correlates with the loss of the next one, at its "
        f"strongest, by rho = {difference(rho.value, rho, 3)} ({where})."
    )


def _curve(router: Facts, entry: Facts) -> Curve:
    bins = entry["calibration"] or []
    return Curve(
        router_id(router),
        value_of(entry["rho"], entry),
        tuple(or_nan(b["score"]["mean"]) for b in bins),
        tuple(value_of(b["loss"]["value"], b["loss"]) for b in bins),
        tuple(int(b["n_tokens"]) for b in bins),
    )


def loss_chart(series: UncertaintySeries, score: str) -> Chart:
    """Mean loss of the next token against tenths of a score, a line for each router."""
    words, unit = SCORES[score]
    lines = []
    for label, curve in zip(labels(series.routers), series.curves[score], strict=True):
        tenths = range(1, len(curve.scores) + 1)
        points = Points(
            curve.scores,
            tuple(f"tenth {tenth} of {len(tenths)}" for tenth in tenths),
            tuple((curve.router.layer, curve.router.router, tenth) for tenth in tenths),
        )
        rho = with_interval(curve.rho.value, curve.rho)
        facts = {"mean score": curve.scores, "tokens": curve.tokens, "rho": (rho,) * len(tenths)}
        lines.append(Line(f"layer {label}", points, curve.loss, facts))
    intervals = intervals_of((loss for curve in series.curves[score] for loss in curve.loss), series.level)
    scores = [x for curve in series.curves[score] for x in curve.scores]
    ends = (min(scores), max(scores)) if scores else ()
    return Chart(
        f"Loss of the next token by tenths of {words}",
        f"Loss by tenths of routing uncertainty, {series.name}",
        f"{words}, {unit} (mean of each tenth)",
        "loss of the next token, nats",
        "loss, nats",
        ("Loss {value} nats", f"{words} {{mean score}}, {{tokens:token}}", "rho {rho}"),
        f"{series.definition} Unit: nats against {unit}. {intervals}. {series.sizes}.",
        tuple(lines),
        (Reference("mean loss", ends, (series.mean_loss.value,) * len(ends)),),
        point_heads=("layer", "router", "tenth"),
        layers=False,
        zero=False,
        bars=False,
        legend=len(lines) <= 16,
    )


def rho_chart(series: UncertaintySeries, kind: str) -> Chart:
    """Rank correlation of each score with the loss, layer by layer, of the routers of a ``kind``."""
    points, places = points_of(series.routers, kind)
    lines = [
        Line(words, points, tuple(series.curves[score][place].rho for place in places))
        for score, (words, _) in SCORES.items()
    ]
    several = f", {kind} routers" if len(kinds_of(series.routers)) > 1 else ""
    intervals = intervals_of((v for one in lines for v in one.values), series.level)
    return Chart(
        f"Rank correlation with the loss by layer{several}",
        f"Rank correlation of routing uncertainty and loss by layer, {series.name}",
        "layer",
        "rho",
        "rho",
        ("rho {value}",),
        "Spearman's rho of a router's score at a token with the loss of the next token; dotted: none. Unit: "
        f"correlation, from -1 to 1. {intervals}. {series.sizes}.",
        tuple(lines),
        (Reference("none", points.x, (0.0,) * len(points.x)),),
        line_head="score",
    )
