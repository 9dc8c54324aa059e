"""The section of a routing testbed: its ladder as a table, the plane, the maps beside the reference's, the flips."""

from __future__ import annotations

from collections.abc import Iterator

from ...types import Facts
from ..figures.testbed import flip_chart, ladder_chart, map_heat, plane_chart, ranked, size_name
from ..numbers import percent, with_interval
from ..tables.testbed import HEADS, notes, orders
from .parts import Choice, Figure, Part, Section, Table

REFERENCE = "reference"


def testbed_sections(report: Facts, place: int) -> Iterator[Section]:
    """A section for each size."""
    for number, size in enumerate(report["sizes"]):
        yield _section(report, size, f"testbed{place or ''}{f'-{number + 1}' if number else ''}")


def _section(report: Facts, size: Facts, name: str) -> Section:
    parts: list[Part] = [
        _ladder(report, size),
        (Figure({"": plane_chart(report, size)}), _quantities(report, size)),
        _maps(report, size),
    ]
    if any(one["flips"] and not one["bound"] and one["name"] != "hash" for one in size["methods"]):
        parts.append(Figure({"": flip_chart(report, size)}))
    parts += [_losses(report, size), *orders(size), *notes(report, size)]
    return Section(name, f"Routing testbed: {size_name(size)}", tuple(parts))


def _ladder(report: Facts, size: Facts) -> Table:
    columns = ("method", "balanced over", *(report["quantities"][name]["words"] for name in HEADS), "findings")
    rows = []
    for one in ranked(size):
        bound = f" ({one['bound']} bound)" if one["bound"] else ""
        cells = [f"{one['name']}{bound}", one["scope"] or ""]
        for name in HEADS:
            entry = one["values"][name]
            cells.append(with_interval(entry["value"], entry) if entry["value"] is not None else entry["reason"])
        words = ", ".join(f"{n} {word}" for word, n in one["words"].items())
        rows.append((*cells, words))
    return Table(
        "Every method of the testbed",
        columns,
        tuple(rows),
        heading="Methods, the most specialised first",
        note=f"Means over routers and seeds [{percent(report['level'])} t intervals over seeds]; findings: routers of "
        "all seeds by their word.",
    )


def _losses(report: Facts, size: Facts) -> Table:
    domains = [str(name) for name in report["domains"]]
    rows = (
        (str(one["name"]), *(with_interval(one["losses"][name]["value"], one["losses"][name]) for name in domains))
        for one in ranked(size)
    )
    return Table(
        "Held-out loss of each domain",
        ("method", *domains),
        tuple(rows),
        heading="Held-out loss of each domain, nats per token",
        note=f"Means over seeds [{percent(report['level'])} t intervals over seeds].",
    )


def _quantities(report: Facts, size: Facts) -> Figure:
    shown = [name for name in HEADS if any(one["values"][name]["value"] is not None for one in size["methods"])]
    charts = {name: ladder_chart(report, size, name) for name in shown}
    options = tuple((name, report["quantities"][name]["words"]) for name in shown)
    return Figure(charts, "quantity", (Choice("quantity", "Quantity", options, shown[0]),))


def _maps(report: Facts, size: Facts) -> tuple[Figure, ...]:
    """The map of a chosen method and layer, and beside it the reference's."""
    methods = ranked(size)
    chosen = [one for one in methods if one["name"] != REFERENCE]
    reference = next((one for one in methods if one["name"] == REFERENCE), None)
    figures = []
    for options in ([reference] if reference else [], chosen):
        if not options:
            continue
        drawings = {
            f"{one['name']} {n}": map_heat(report, size, one, n) for one in options for n in range(len(one["routers"]))
        }
        names = tuple((key, f"{key.rpartition(' ')[0]}, layer {_layer(options, key)}") for key in drawings)
        first = next(iter(drawings))
        figures.append(Figure(drawings, "map", (Choice("map", "Method and layer", names, first),)))
    return tuple(figures)


def _layer(methods: list[Facts], key: str) -> int:
    name, _, number = key.rpartition(" ")
    method = next(one for one in methods if one["name"] == name)
    return int(method["routers"][int(number)]["layer"])
