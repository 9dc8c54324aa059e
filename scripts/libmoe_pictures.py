"""The pictures of results/libmoe, in the shape of LibMoE's figures: means over seeds, bands from least to most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from libmoe_read import MAIN, NAMES, ROUTERS, Study
from matplotlib.figure import Figure

from mlx_moebench.show.colours import DOMAINS, sequential_map
from mlx_moebench.show.plots.base import DASHED, MARKERS, WIDTH, tick

Axes = Any
"""Of matplotlib."""


def _panels(count: int, height: float = 2.4) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, count))


def _lines(
    axis: Axes, study: Study, arms: Sequence[str], points: Callable[[Any], tuple[Sequence[float], Sequence[float]]]
) -> None:
    """A line for each arm: mean over seeds, and a band from the least to the most."""
    common = study.common(study.of(arms))  # a mean over other seeds would be of other texts
    for number, arm in enumerate(study.of(arms)):
        each = [points(study.arms[arm][seed]) for seed in common or sorted(study.arms[arm])]
        x, y = each[0][0], np.array([of[1] for of in each], dtype=float)
        turn, hue = divmod(number, len(DOMAINS))
        style = {"color": DOMAINS[hue], "ls": DASHED[turn], "marker": MARKERS[(hue + turn) % len(MARKERS)]}
        axis.plot(x, y.mean(axis=0), label=NAMES[arm], **style)
        axis.fill_between(x, y.min(axis=0), y.max(axis=0), color=style["color"], alpha=0.15, lw=0)
    tick(axis.xaxis, whole=True)
    axis.grid(axis="y")


def _legend(figure: Figure, axis: Axes, columns: int = 5) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def curves(study: Study) -> Figure:
    """Held-out loss over updates: all arms, and the last validations alone."""
    figure, axes = _panels(2, 3.0)
    for axis, part in zip(axes, (slice(1, None), slice(-3, None)), strict=True):
        _lines(axis, study, MAIN, lambda run, part=part: tuple(zip(*run["validation"][part], strict=True)))
        axis.set_xlabel("update")
    axes[0].set_ylabel("held-out CE, nats a token")
    _legend(figure, axes[0])
    return figure


def balance(study: Study) -> Figure:
    """Held-out loss with and without losses on the ROUTERS, and the load of the last layer, sorted."""
    arms = ("smoe", "smoe-unbalanced", "smoe-z")
    figure, axes = _panels(2)
    _lines(axes[0], study, arms, lambda run: tuple(zip(*run["validation"][1:], strict=True)))
    _lines(
        axes[1],
        study,
        arms,
        lambda run: (range(1, 1 + len(run["measured"]["load"][-1])), sorted(run["measured"]["load"][-1], reverse=True)),
    )
    axes[0].set(xlabel="update", ylabel="held-out CE, nats a token")
    axes[1].set(xlabel="expert of the last layer, busiest first", ylabel="share of selections")
    _legend(figure, axes[0])
    return figure


def _steps(run: Any, which: str) -> list[int]:
    return [snapshot["step"] for snapshot in run["measured"]["snapshots"] if which in snapshot]


def _means(run: Any, which: str, name: str) -> Any:
    return np.array([np.mean([r[name] for r in s[which]]) for s in run["measured"]["snapshots"] if which in s])


def dynamics(study: Study) -> Figure:
    """Change rate between snapshots, and agreement with the end, by sets and by first choices."""
    figure, axes = _panels(3, 2.8)
    _lines(axes[0], study, ROUTERS, lambda run: (_steps(run, "before"), 1 - _means(run, "before", "routing_overlap")))
    _lines(axes[1], study, ROUTERS, lambda run: (_steps(run, "final"), _means(run, "final", "routing_overlap")))
    _lines(axes[2], study, ROUTERS, lambda run: (_steps(run, "final"), 1 - _means(run, "final", "top1_flip")))
    for axis, label in zip(
        axes, ("change rate since the snapshot before", "saturation, top-K", "saturation, top-1"), strict=True
    ):
        axis.set(xlabel="update", ylabel=label, ylim=(0, None))
    _legend(figure, axes[0], 7)
    return figure


def drops(study: Study) -> Figure:
    """What perturbed choices add to the loss."""
    figure, (axis,) = _panels(1)
    kinds = {"drop-top1": "DropTop1", "drop-top1-2": "DropTop1&2", "remove-top1": "first choice removed"}
    arms = study.of(ROUTERS)
    for number, (kind, label) in enumerate(kinds.items()):
        for place, arm in enumerate(arms):
            of = [run["measured"]["perturbations"][kind]["loss_change"]["value"] for run in study.arms[arm].values()]
            at = place + 0.25 * (number - 1)
            axis.bar(at, np.mean(of), 0.23, color=DOMAINS[number], label=label if not place else None)
            axis.plot([at, at], [min(of), max(of)], color="black", lw=0.8)
    axis.set_xticks(range(len(arms)), [NAMES[arm] for arm in arms])
    axis.set_ylabel("change of loss, nats a token")
    axis.legend()
    return figure


def entropies(study: Study) -> Figure:
    """EAE and normalised EWA by kind of text."""
    figure, axes = _panels(2, 2.8)
    kinds = study.data["files"]
    for axis, metric, label in zip(axes, ("eae", "ewa"), ("EAE", "normalised EWA"), strict=True):
        arms = ROUTERS if metric == "eae" else (*ROUTERS, "xmoe-double")
        _lines(
            axis,
            study,
            arms,
            lambda run, m=metric: (
                range(len(kinds)),
                [np.mean([r[m] for r in run["measured"]["domains"][k]]) for k in kinds],
            ),
        )
        axis.set_xticks(range(len(kinds)), [kind.partition("_")[0] for kind in kinds])
        axis.set_ylabel(label)
    _legend(figure, axes[1], 4)
    return figure


def margin(study: Study) -> Figure:
    """Margin between the first two scores, by layer."""
    figure, (axis,) = _panels(1)
    _lines(
        axis,
        study,
        ROUTERS,
        lambda run: _by_layer([r["margin_prob"] for r in run["measured"]["snapshots"][-1]["routers"]]),
    )
    axis.set(xlabel="layer", ylabel="margin of p")
    axis.legend(ncols=2)
    return figure


def similarity(study: Study) -> Figure:
    """Mean cosine of two experts' output matrices, by layer."""
    figure, (axis,) = _panels(1)
    _lines(axis, study, ROUTERS, lambda run: _by_layer(run["measured"]["similarity"]))
    axis.set(xlabel="layer", ylabel="mean cosine of output matrices")
    axis.legend(ncols=2)
    return figure


def _by_layer(values: Sequence[float]) -> tuple[Sequence[int], Sequence[float]]:
    return range(len(values)), values


def coactivation(study: Study) -> Figure:
    """Of the last layer, half-way and at the end."""
    arms = [arm for arm in study.of(ROUTERS) if 0 in study.arms[arm]]
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots(2, len(arms), squeeze=False)
    for column, arm in enumerate(arms):
        for row, matrix in enumerate(study.arms[arm][0]["measured"]["coactivation"]):
            axis = axes[row, column]
            image = axis.imshow(
                np.array(matrix, dtype=float), vmin=0, vmax=0.8, cmap=sequential_map(), interpolation="nearest"
            )
            axis.set(xticks=[], yticks=[])
            axis.set_title(NAMES[arm] if not row else "")
        axes[0, 0].set_ylabel("half-way")
        axes[1, 0].set_ylabel("end")
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of tokens")
    return figure


def init(study: Study) -> Figure:
    """Balance loss and load of smoe over updates, by the deviation that its gates begin with."""
    figure, axes = _panels(3, 2.8)
    arms = ("smoe-std0", "smoe-std0.02", "smoe-std0.04", "smoe-std0.06", "smoe")
    for axis, (key, label) in zip(
        axes, {"routing_loss": "balance loss", "load_cv": "load CV", "max_violation": "MaxVio"}.items(), strict=True
    ):
        _lines(
            axis, study, arms, lambda run, key=key: ([p["step"] for p in run["curve"]], [p[key] for p in run["curve"]])
        )
        axis.set(xlabel="update", ylabel=label)
    _legend(figure, axes[0])
    return figure


PICTURES: dict[str, Callable[[Study], Figure]] = {
    made.__name__: made
    for made in (curves, balance, dynamics, drops, entropies, margin, similarity, coactivation, init)
}
"""File name to what draws it."""
