"""The routing testbed: methods between the two bounds, their experts by domain, and how their routing settles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...types import Facts
from ..numbers import count, percent
from .base import Value, value_of
from .drawing import Chart, Heat, Line, Measure, Points, Reference, Scale

SHORT = {"testbed": "smallest", "testbed-2": "second", "testbed-3": "third"}


def size_name(size: Facts) -> str:
    """A size in words."""
    return f"{size['parameters']['active']:,} parameters a token, {size['tokens_trained']:,} tokens"


def ranked(size: Facts) -> list[Facts]:
    """Methods from the most to the least specialised."""
    return sorted(size["methods"], key=lambda one: -(one["values"]["specialisation"]["value"] or 0.0))


def _value(method: Facts, quantity: str) -> Value:
    entry = method["values"][quantity]
    return value_of(entry["value"], entry)


def _over_seeds(report: Facts, size: Facts) -> str:
    least, most = (pick(len(method["seeds"]) for method in size["methods"]) for pick in (min, max))
    seeds = count(most, "seed") if least == most else f"{least} to {most} seeds"
    return (
        f"Means over {count(size['routers'], 'router')} and {seeds}; {percent(report['level'])} t intervals over seeds"
    )


def ladder_chart(report: Facts, size: Facts, quantity: str) -> Chart:
    """One quantity of every method, from the most to the least specialised, between the bounds."""
    methods, about = ranked(size), report["quantities"][quantity]
    places = tuple(float(n) for n in range(1, len(methods) + 1))
    points = Points(places, tuple(str(one["name"]) for one in methods), tuple((one["name"],) for one in methods))
    bounds = [one for one in methods if one["bound"]]
    references = [
        Reference(f"{one['name']} ({one['bound']} bound)", places, (_value(one, quantity).value,) * len(places))
        for one in bounds
    ]
    return Chart(
        about["words"],
        f"{about['words']} of every method of the testbed, the most specialised first",
        "method, by its row in the table above",
        about["unit"],
        about["words"],
        ("{value:3}",),
        f"{about['words']}. Unit: {about['unit']}. Dotted: the bounds. {_over_seeds(report, size)}. {size_name(size)}.",
        (Line(size_name(size), points, tuple(_value(one, quantity) for one in methods)),),
        tuple(references),
        point_heads=("method",),
        layers=True,
        zero=False,
        joined=False,
        legend=False,
    )


def plane_chart(report: Facts, size: Facts) -> Chart:
    """Specialisation over utilisation, a point for each method."""
    lines = []
    for one in ranked(size):
        x = _value(one, "eae").value
        points = Points((x,), (str(one["name"]),), ((one["name"],),))
        name = f"{one['name']} ({one['bound']} bound)" if one["bound"] else str(one["name"])
        lines.append(Line(name, points, (_value(one, "specialisation"),)))
    return Chart(
        "Specialisation against utilisation",
        "MI(domain; expert) / ln D of every method over its load entropy H(f) / ln E",
        "H(f) / ln E, utilisation",
        "MI(domain; expert) / ln D",
        "MI / ln D",
        ("{value:3}",),
        "Right: experts are used evenly over all domains. Up: the domain tells the expert. The reference router is at "
        f"the upper right, the random one at the lower right. {_over_seeds(report, size)}, upwards. {size_name(size)}.",
        tuple(lines),
        line_head="method",
        point_heads=("method",),
        layers=False,
        zero=False,
        joined=False,
    )


def flip_chart(report: Facts, size: Facts, quantity: str = "top1_flip") -> Chart:
    """What share of tokens goes elsewhere than at the snapshot before, over the training."""
    words = {"top1_flip": "First choices that flip", "change_rate": "Experts that change"}[quantity]
    unit = {"top1_flip": "share of tokens", "change_rate": "share of experts"}[quantity]
    lines = []
    for one in size["methods"]:
        course = one["flips"]
        if not course or one["bound"] or one["name"] == "hash":
            continue
        steps = tuple(float(at["step"]) for at in course)
        names = tuple(f"update {at['step']}" for at in course)
        values = tuple(value_of(at[quantity]["value"], at[quantity]) for at in course)
        lines.append(Line(str(one["name"]), Points(steps, names, tuple((n,) for n in names)), values))
    return Chart(
        f"{words}, snapshot to snapshot",
        f"{words} between two snapshots of the training, by method",
        "update",
        unit,
        words,
        ("{value:3}",),
        f"{words} since the snapshot before, on the same held-out tokens. Unit: {unit}. Routers that are fixed never "
        f"do. {_over_seeds(report, size)}. {size_name(size)}.",
        tuple(lines),
        line_head="method",
        point_heads=("update",),
        layers=False,
        bars=False,
    )


def map_heat(report: Facts, size: Facts, method: Facts, router: int) -> Heat:
    """Domains by experts of one router, the experts in the order of the domains that they are matched to."""
    of, settings = method["routers"][router], size["settings"]
    owner, shares = np.array(of["owner"]), np.array(of["shares"], dtype=np.float64)
    order = np.lexsort((np.arange(len(owner)), np.where(owner < 0, len(shares), owner)))
    even = settings["top_k"] / settings["n_experts"]
    most = settings["n_experts"] / settings["top_k"]
    information = of["information"]
    mi = value_of(information["value"], information)
    rows = tuple(str(name) for name in report["domains"])
    return Heat(
        f"{method['name']}, layer {of['layer']}: domains and experts",
        f"Heatmap of the share of each domain's tokens that use each expert, {method['name']}, layer {of['layer']}",
        "expert, by its domain",
        "domain",
        rows,
        {
            "expert": Measure("its number", "", tuple(order.astype(np.float64) for _ in rows)),
            "share": Measure("share of the domain's tokens", "share of tokens", tuple(row[order] for row in shares)),
            "ratio": Measure(
                "multiple of the even share",
                "ratio",
                tuple(row[order] for row in shares),
                (even,) * len(rows),
                scale=Scale("even", most, "share of tokens, multiple of the even share (1 = even)"),
            ),
        },
        "ratio",
        ("{row}, expert {expert:0}", "{share:3} of the domain's tokens", "{ratio:2} times the even share"),
        "Share of a domain's tokens that use an expert, over the even share K/E. Every expert stands with the domain "
        "that it is matched to, R // D to each, so that specialisation is a diagonal of blocks, as the reference "
        f"router's. MI(domain; expert) {mi.value:.3f} nats of {np.log(len(rows)):.3f}. Seed {method['seeds'][0]}, "
        f"{size_name(size)}.",
        ("domain",),
        tuple((row,) for row in rows),
        x_ordered="expert",
    )


def sentences(report: Facts) -> Iterator[str]:
    """What the smallest size says, in words."""
    size = report["sizes"][0]
    by_name = {one["name"]: one for one in size["methods"]}
    trained = [one for one in ranked(size) if not one["bound"] and one["name"] != "hash"]
    best = f"{trained[0]['name']} ({trained[0]['title']})" if trained else None
    yield (
        f"On {count(len(report['domains']), 'domain')} with experts for each, "
        + (
            f"the most specialised of {count(len(trained), 'trained method')} is {best}: MI / ln D "
            f"{_value(trained[0], 'specialisation').value:.3f}, where "
            if best
            else ""
        )
        + f"the reference router has {_known(by_name, 'reference')} and a random one {_known(by_name, 'random')}."
    )


def _known(by_name: Facts, name: str) -> str:
    return f"{_value(by_name[name], 'specialisation').value:.3f}" if name in by_name else "not been run"
