"""What ``GET /metrics`` says, in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ..printable import printable
from ..routing.record import RouterSpec
from ..routing.sums import Sums
from .answers import values
from .models import Served, ServedModels
from .window import Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "mlx_moebench_"


@dataclass
class Metric:
    """A name with its help, and its samples: labels and value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Mapping[str, object], float]] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """HELP, TYPE and the samples; nothing without one."""
        if self.samples:
            yield f"# HELP {PREFIX}{self.name} {self.help}"
            yield f"# TYPE {PREFIX}{self.name} {self.kind}"
        for labels, value in self.samples:
            inside = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
            yield f"{PREFIX}{self.name}{'{' + inside + '}' if inside else ''} {_written(value)}"


def described() -> dict[str, Metric]:
    """Every metric, without samples. Those that begin with router_ have the labels model, phase, layer and router."""
    rows = (
        ("up_seconds", "gauge", "Seconds since the server started."),
        ("recorded", "gauge", "1 where the routing of the current model is recorded, else 0."),
        ("router_tokens_total", "counter", "Tokens that a router saw."),
        ("router_entropy_nats_total", "counter", "Sum over tokens of the entropy of a router's distribution."),
        ("router_top_share", "gauge", "Share of all tokens so far that chose the busiest expert."),
        ("router_dead_experts", "gauge", "Experts that no token has chosen so far."),
        ("router_window_tokens", "gauge", "Tokens that a router saw in the window."),
        ("router_window_entropy_nats", "gauge", "Mean entropy of a router's distribution in the window."),
        ("router_window_top_share", "gauge", "Share of the tokens in the window that chose its busiest expert."),
        ("router_window_dead_experts", "gauge", "Experts that no token in the window chose."),
        ("expert_selections_total", "counter", "Tokens that chose an expert; only with --expert-series."),
        ("expert_series_left_out", "gauge", "Series of experts that --expert-series has no room for."),
        ("not_recorded_forwards_total", "counter", "Forwards that are not recorded; /routing says why."),
        ("saved_timestamp_seconds", "gauge", "Unix time of the last save of the current model."),
    )
    return {name: Metric(name, kind, text) for name, kind, text in rows}


def metrics(models: ServedModels) -> str:
    """The text. Routers are those of the current model, so that requests for other models add no series."""
    made = described()
    made["up_seconds"].samples.append(({}, time.time() - models.began))
    if (served := models.current) is not None:
        model = {"model": served.name}
        made["recorded"].samples.append((model, float(served.stats is not None)))
        if served.saved_at is not None:
            made["saved_timestamp_seconds"].samples.append((model, served.saved_at))
        if served.stats is not None:
            lost = sum(one.forwards for one in list(served.stats.dropped.values()))
            made["not_recorded_forwards_total"].samples.append((model, lost))
            _routers(made, served, models.settings.expert_series)
    return "".join(f"{line}\n" for metric in made.values() for line in metric.lines())


def _routers(made: dict[str, Metric], served: Served, room: int) -> None:
    assert served.stats is not None
    specs, totals = served.stats.specs, served.look()
    _, recent = served.window.of(totals)
    for phase in totals:
        for number, (spec, now, late) in enumerate(zip(specs, totals[phase], recent[phase], strict=True)):
            entropy = float(now.scalar("entropy"))
            # Added up in another order a sum may lose its last digit, which a counter must not.
            served.highest[phase, number] = entropy = max(entropy, served.highest.get((phase, number), 0.0))
            labels = {"model": served.name, "phase": phase, "layer": spec.layer, "router": spec.router}
            for name, value in (_samples(spec, now, late) | {"router_entropy_nats_total": entropy}).items():
                if value is not None:
                    made[name].samples.append((labels, value))
    wanted = len(totals) * sum(spec.n_experts for spec in specs)
    if room and wanted > room:
        made["expert_series_left_out"].samples.append(({"model": served.name}, wanted))
    elif room:
        made["expert_selections_total"].samples += _experts(served, totals)


def _samples(spec: RouterSpec, now: Sums, late: Sums) -> dict[str, float | None]:
    whole, window = values(spec, now), values(spec, late)
    return {
        "router_tokens_total": whole["tokens"],
        "router_top_share": whole["top_share"],
        "router_dead_experts": whole["dead_experts"],
        "router_window_tokens": window["tokens"],
        "router_window_entropy_nats": window["entropy"],
        "router_window_top_share": window["top_share"],
        "router_window_dead_experts": window["dead_experts"],
    }


def _experts(served: Served, totals: Totals) -> Iterator[tuple[Mapping[str, object], float]]:
    assert served.stats is not None
    for phase, every in totals.items():
        for spec, sums in zip(served.stats.specs, every, strict=True):
            labels = {"model": served.name, "phase": phase, "layer": spec.layer, "router": spec.router}
            for expert, count in enumerate(sums.counts.tolist()):
                yield labels | {"expert": expert}, count


def _escaped(text: str) -> str:
    text = printable(text, kept="\n")  # a name of bytes that are no UTF-8 could not be sent
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _written(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))
