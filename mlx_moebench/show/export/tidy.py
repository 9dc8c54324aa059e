"""Every number as one row of one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

from ...printable import csv_cell
from ...routing.metrics import METRICS
from ...types import Facts, Json
from ..figures.dynamics import OWN, label_of
from ..inputs import Inputs
from ..names import OPEN, SCORES, flag_of, model_name, side_name
from ..tables.profile import BETWEEN, between_rows, sizes_of

COLUMNS = (
    *("model", "data", "phase", "layer", "moe_layer", "router", "metric", "unit", "value", "low", "high", "level"),
    *("method", "n_sequences", "n_tokens", "reason"),
)
"""Columns of the tidy table; ``reason`` says why a value or its interval is missing."""


def to_csv(inputs: Inputs) -> str:
    """Every number of ``inputs`` as CSV, a row each; an undefined one is an empty cell with its ``reason``.

    Of runs: every metric of every router, of all data together and of each domain. A row without a layer is over the
    routers of its kind: their mean, or the largest where ``metric`` begins with peak\\_. Of domains: what lies between
    them, ``finding.NAME`` (1 for yes, 0 for no) and ``word.WORD`` (1). Of comparisons: ``difference.METRIC``, B minus
    A. Of reports of loss: rank correlations with the loss, and mean losses of tenths. Of quantised arms:
    ``quant.ARM.MEASURE``, and ``same_input`` of each. Of checkpoints: ``dynamics.MEASURE@CHECKPOINT``, and
    ``depth.MARGIN@CHECKPOINT`` and ``trend.MEASURE`` of all routers of a kind. Of testbeds, with the size as ``model``
    and the method as ``router``: ``testbed.QUANTITY``, ``testbed.QUANTITY@UPDATE`` of the flips, ``testbed.loss`` of
    each domain, and ``testbed.difference.QUANTITY`` of two methods. A training's log has a row per
    step already; its runs before and after are runs here.
    """
    return csv_of(_rows(inputs))


def csv_of(rows: Iterable[Json]) -> str:
    """Rows of `COLUMNS` as CSV."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: int(value) if isinstance(value, bool) else csv_cell(value) for key, value in row.items()})
    return out.getvalue()


def _rows(inputs: Inputs) -> Iterator[Json]:
    for run in inputs.runs:
        yield from _report(run.report)
        for report in run.domains.values():  # of several domains findings say what a flag on one cannot
            yield from (row for row in _report(report) if not row["metric"].startswith("collapsed"))
    for profile in inputs.profiles.values():
        yield from _between(profile)
    for comparison in inputs.comparisons:
        yield from _differences(comparison)
    for report in inputs.uncertainties:
        yield from _losses(report)
    for report in inputs.quants:
        yield from _quantised(report)
    for report in inputs.dynamics:
        yield from followed(report)
    for report in inputs.testbeds:
        yield from _placed(report)


def _report(report: Facts) -> Iterator[Json]:
    level, tau = report["settings"]["ci"]["level"], report["settings"]["tau"]
    about = _about(report["model"], report["data"])
    for router in report["routers"]:
        common = about | _identity(router) | {"n_tokens": router["n_tokens"]}
        for name, metric in METRICS.items():
            if name in router:
                yield common | _number(name, metric.unit, router[name], router["ci"].get(name, {}), level)
        if "collapsed" in router:
            flag = f"a flag at tau = {tau:g}, on one domain"
            flag += f"; open: {OPEN}" if flag_of(router, report["settings"]) == "open" else ""
            reason = {"reason": router.get("collapsed_reason", flag)}
            yield common | _number("collapsed", "flag", router["collapsed"], reason, level)
    for kind, summary in report["summary_by_router"].items():
        for name, entry in summary.items():
            unit = "fraction" if name == "collapsed_fraction" else METRICS[name.removeprefix("peak_")].unit
            yield about | {"router": kind} | _number(name, unit, entry["value"], entry, level)


def _between(profile: Facts) -> Iterator[Json]:
    level = profile["settings"]["ci"]["level"]
    about = _about(profile["model"], profile["data"] | {"phase": profile["phase"]})
    domains = sorted(str(domain["name"]) for domain in profile["domains"])
    for router in profile["routers"]:
        common = about | _identity(router)
        for name, of, entry in between_rows(router, domains):
            pair = {"data": "+".join(of), **sizes_of(profile, of)} if len(of) < len(domains) else {}
            yield common | pair | _number(name, BETWEEN.get(name, "flag"), entry["value"], entry, level)


def _differences(comparison: Facts) -> Iterator[Json]:
    level, units = comparison["settings"]["ci"]["level"], comparison["units"]
    sides, names = [comparison[side]["data"] for side in "ab"], [side_name(comparison[side]) for side in "ab"]
    about = {
        "model": f"B: {names[1]} minus A: {names[0]}",
        "data": "+".join(dict.fromkeys(str(data["name"]) for data in sides)),
        "phase": "+".join(dict.fromkeys(data["phase"] for data in sides)),
    }
    for router in comparison["routers"]:
        for name, entry in router["effects"].items():
            yield about | _identity(router) | _difference(name, units[name], entry, level)
    for kind, effects in comparison["overall"].items():
        for name, entry in effects.items():
            unit = units.get(name) or units.get(name.removeprefix("peak_"), "")
            yield about | {"router": kind} | _difference(name, unit, entry, level)


def _difference(name: str, unit: str, entry: Facts, level: float) -> Json:
    return _number(f"difference.{name}", unit, entry["effect"], entry, level)


def _losses(report: Facts) -> Iterator[Json]:
    level = report["settings"]["ci"]["level"]
    about = _about(report["model"], report["data"]) | {"n_tokens": report["n_pairs"]}
    yield about | _number("mean_loss", "nats", report["mean_loss"]["value"], report["mean_loss"], level)
    for router in report["routers"]:
        common = about | _identity(router)
        for score in SCORES:
            entry = router[score]
            yield common | _number(f"loss_by_{score}.rho", "rank correlation", entry["rho"], entry, level)
            for tenth, part in enumerate(entry.get("calibration") or (), start=1):
                name, loss = f"loss_by_{score}.tenth_{tenth}", part["loss"]
                yield common | {"n_tokens": part["n_tokens"]} | _number(name, "nats", loss["value"], loss, level)
    for kind, means in report["summary"].items():
        for score in SCORES:
            entry = means[score]
            yield (
                about
                | {"router": kind}
                | _number(f"loss_by_{score}.rho", "rank correlation", entry["rho"], entry, level)
            )


def _quantised(report: Facts) -> Iterator[Json]:
    level, about = report["settings"]["ci"]["level"], _about(report["model"], report["data"])
    for arm in report["arms"]:
        places = [(_identity(router), router) for router in arm["routers"]]
        places += [({"router": kind}, row) for kind, row in arm["overall"].items()]
        for where, row in places:
            for name, measure in report["measures"].items():
                for key, suffix in (("own", ""), ("same_input", ".same_input")):
                    entry, metric = row[key][name], f"quant.{arm['arm']}.{name}{suffix}"
                    yield about | where | _number(metric, measure["unit"], entry["value"], entry, level)


def followed(report: Facts) -> Iterator[Json]:
    """The rows of a report of ``dynamics``."""
    level, about = report["settings"]["ci"]["level"], _about(report["model"], report["data"])
    names = [str(one["name"]) for one in report["checkpoints"]]
    places = [(_identity(router), router["checkpoints"]) for router in report["routers"]]
    places += [({"router": kind}, course) for kind, course in report["overall"].items()]
    for where, course in places:
        for name, at in zip(names, course, strict=True):
            entries = {measure: at[measure] for measure in OWN} | at["metrics"]
            for measure, entry in entries.items():
                metric, unit = f"dynamics.{measure}@{name}", label_of(measure)[1]
                yield about | where | _number(metric, unit, entry["value"], entry, level)
    for kind, rows in report["depth"].items():
        for name, at in zip(names, rows, strict=True):
            for margin, entry in at.items():
                slope, unit = entry["slope"], f"{label_of(margin)[1]} per layer"
                yield about | {"router": kind} | _number(f"depth.{margin}@{name}", unit, slope["value"], slope, level)
    for kind, trends in report["trends"].items():
        for measure, entry in trends.items():
            row = _number(f"trend.{measure}", label_of(measure)[1], entry["value"], entry, level)
            yield about | {"router": kind} | row


def _placed(report: Facts) -> Iterator[Json]:
    units = {name: about["unit"] for name, about in report["quantities"].items()}
    units |= {"change_rate": "share of experts"}
    data = "+".join(map(str, report["domains"]))
    for size in report["sizes"]:
        for one in size["methods"]:
            about = {"model": str(size["preset"]), "router": str(one["name"])}
            for name, entry in one["values"].items():
                yield about | {"data": data} | _over_seeds(name, units[name], entry, report)
            for at in one["flips"]:
                for name in ("top1_flip", "change_rate"):
                    yield (about | {"data": data} | _over_seeds(f"{name}@{at['step']}", units[name], at[name], report))
            for domain, entry in one["losses"].items():
                yield about | {"data": str(domain)} | _over_seeds("loss", units["loss"], entry, report)
        for order in size["orders"]:
            about = {"model": str(size["preset"]), "router": f"{order['method']} minus {order['other']}", "data": data}
            name = order["quantity"]
            yield about | _over_seeds(f"difference.{name}", units[name], order, report)


def _over_seeds(name: str, unit: str, entry: Facts, report: Facts) -> Json:
    return _number(f"testbed.{name}", unit, entry["value"], {**entry, "method": "t over seeds"}, report["level"])


def _about(model: Facts, data: Facts) -> Json:
    counted = {key: data[key] for key in ("phase", "n_sequences", "n_tokens") if key in data}
    return {"model": model_name(model), "data": str(data["name"]), **counted}


def _identity(router: Facts) -> Json:
    return {key: router[key] for key in ("layer", "moe_layer", "router")}


def _number(name: str, unit: str, value: Any, entry: Facts, level: float) -> Json:
    """Level and method belong to an interval: without one their cells are empty."""
    low, high = entry.get("low"), entry.get("high")
    facts = {"reason": entry.get("reason")}
    facts |= {"level": level, "method": entry.get("method")} if low is not None else {}
    return {"metric": name, "unit": unit, "value": value, "low": low, "high": high, **facts}
