"""results/testbed/README.md and its pictures, from the testbed.json beside them: see run_testbed.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_moebench.files import write_aside
from mlx_moebench.lab.methods import METHODS
from mlx_moebench.lab.presets import preset_named
from mlx_moebench.lab.testbed import RESULT
from mlx_moebench.show.figures.testbed import flip_chart, map_heat, ranked, size_name
from mlx_moebench.show.numbers import percent, signed, with_interval
from mlx_moebench.show.plots._heat import Panel, draw_even
from mlx_moebench.show.plots._lines import draw_line
from mlx_moebench.show.plots.base import WIDTH, lines, write_picture
from mlx_moebench.show.plots.testbed import draw_testbed, looks
from mlx_moebench.show.tables.testbed import HEADS

PICTURES = {"testbed": "specialisation.png", "flips": "flips.png", "experts": "experts.png"}
TITLES = {
    "testbed": "Specialisation against utilisation, and every method between the two bounds.",
    "experts": "Which domain uses which expert, beside the reference router.",
    "flips": "First choices that flip from snapshot to snapshot.",
}


def write_page(folder: Path) -> None:
    """The page of what finished."""
    report = json.loads((folder / RESULT).read_text("utf-8"))
    draws = {"testbed": draw_testbed, "flips": draw_flips, "experts": draw_experts}
    for kind, name in PICTURES.items():
        draw = draws[kind]
        write_picture(folder / name, lambda draw=draw: draw(report))  # type: ignore[misc]
    prose = (folder / "README.in.md").read_text("utf-8")
    parts = {"TABLES": "\n\n".join(_of_size(report, size) for size in report["sizes"])}
    parts |= {
        "ORDERS": _orders(report),
        "LOSSES": _losses(report),
        "RUNS": _runs(report),
        "FINDINGS": _findings(report),
    }
    parts |= {"PICTURES": "\n\n".join(f"![{TITLES[kind]}]({PICTURES[kind]})" for kind in TITLES)}
    for name, text in parts.items():
        prose = prose.replace(f"<!-- {name} -->", text)
    write_aside({folder / "README.md": prose.encode()})


def draw_experts(report: dict[str, Any]) -> Any:
    """Domains by experts in the last layer of the smallest size, methods by specialisation."""
    size = report["sizes"][0]
    last = size["routers"] - 1
    panels = [Panel(str(one["name"]), f", layer {last}", map_heat(report, size, one, last)) for one in ranked(size)]
    return draw_even(panels)


def draw_flips(report: dict[str, Any]) -> Any:
    """Flips of first choices over the training, a panel for each size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axes = figure.subplots(1, len(report["sizes"]), squeeze=False)[0]
    for axis, size in zip(axes, report["sizes"], strict=True):
        chart = flip_chart(report, size)
        for line in chart.lines:
            draw_line(axis, line, band=0.12, label=line.name, **looks(report)[line.name])
        axis.set_xlabel(chart.x)
        axis.set_title(size["preset"])
        axis.grid(axis="y")
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel(chart.y)
    axes[0].legend()
    figure.suptitle(lines(chart.title, f"bands: {percent(report['level'])} t intervals over seeds"))
    return figure


def _table(columns: list[str], rows: Iterator[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _of_size(report: dict[str, Any], size: dict[str, Any]) -> str:
    def rows() -> Iterator[list[str]]:
        for one in ranked(size):
            bound = f" ({one['bound']} bound)" if one["bound"] else ""
            values = [with_interval(one["values"][n]["value"], one["values"][n]) for n in HEADS]
            words = ", ".join(f"{n} {word}" for word, n in one["words"].items())
            shown = ["not known" if cell == "null" else cell for cell in values]
            yield [f"`{one['name']}`{bound}", str(len(one["seeds"])), *shown, words]

    columns = ["method", "seeds", *HEADS.values(), "routers by finding"]
    return f"### {size_name(size)}\n\n{_table(columns, rows())}"


def _orders(report: dict[str, Any]) -> str:
    words = {"yes": "holds", "no": "the opposite holds", "open": "open"}

    def rows() -> Iterator[list[str]]:
        for size in report["sizes"]:
            for one in size["orders"]:
                quantity = "MI / ln D" if one["quantity"] == "specialisation" else "loss, nats"
                shown = with_interval(one["value"], one, 3, signed)
                expected = "above 0" if one["expected"] > 0 else "below 0"
                answer = words[one["answer"]] if one["low"] is not None else f"open: {one['reason']}"
                cells = [size["preset"], quantity, f"`{one['method']}` - `{one['other']}`"]
                yield [*cells, shown, str(one["seeds"]), expected, answer]

    return _table(["size", "quantity", "difference, paired by seed", "value", "seeds", "expected", "here"], rows())


def _losses(report: dict[str, Any]) -> str:
    size = report["sizes"][0]

    def rows() -> Iterator[list[str]]:
        for one in ranked(size):
            yield [f"`{one['name']}`", *(with_interval(entry["value"], entry, 2) for entry in one["losses"].values())]

    return _table(["method", *report["domains"]], rows())


def _runs(report: dict[str, Any]) -> str:
    def rows() -> Iterator[list[str]]:
        flops = [_flops(size) for size in report["sizes"]]
        for size, work in zip(report["sizes"], flops, strict=True):
            s, seconds = size["settings"], size.get("cpu_seconds") or []
            yield [
                size["preset"],
                f"{size['parameters']['total']:,}",
                f"{size['parameters']['active']:,}",
                f"{s['n_experts']}, {s['top_k']}",
                f"{size['routers']}",
                f"{size['tokens_trained']:,}",
                f"{work / flops[0]:.1f}",
                str(sum(len(one["seeds"]) for one in size["methods"])),
                f"{sum(seconds) / len(seconds):,.0f} s" if seconds else "",
            ]

    columns = ["size", "parameters", "a token goes through", "experts, chosen", "layers", "tokens"]
    return _table([*columns, "FLOPs, of the first", "runs", "processor time of a run"], rows())


def _flops(size: dict[str, Any]) -> int:
    """Of a training: six for every weight that a token is multiplied with, and so none for its embedding."""
    preset = preset_named(size["preset"])
    multiplied = int(size["parameters"]["active"]) - preset.hidden * preset.vocab_size
    return 6 * multiplied * int(size["tokens_trained"])


def _findings(report: dict[str, Any]) -> str:
    """What the orders and bounds came to, in sentences whose numbers are those of the tables."""
    said = [line for size in report["sizes"] for line in _of_orders(size)]
    methods = {one["name"]: one["values"] for one in report["sizes"][0]["methods"]}
    if {"reference", "none"} <= methods.keys():
        shown = [with_interval(methods[n]["loss"]["value"], methods[n]["loss"]) for n in ("reference", "none")]
        said.append(f"- Loss of the reference router {shown[0]}, without balancing {shown[1]} nats a token.")
    scopes = [n for n in METHODS if n in methods and METHODS[n].scope]
    best = max(scopes, key=lambda n: methods[n]["spec_score"]["value"] or 0.0)
    entry = methods[best]["spec_score"]
    said.append(
        f"- `{best}` goes furthest from random to reference: SpecScore {with_interval(entry['value'], entry)}, "
        f"{percent(report['level'])} over seeds."
    )
    return "\n".join(said)


def _of_orders(size: dict[str, Any]) -> Iterator[str]:
    """Which orders of two methods hold at a size; of one seed its values."""
    if max(len(one["seeds"]) for one in size["methods"]) == 1:
        values = ", ".join(f"`{o['name']}` {o['values']['specialisation']['value']:.3f}" for o in ranked(size))
        yield f"- {size['preset']}, one seed, and so without intervals: MI / ln D {values}."
        return
    for quantity, words in (("specialisation", "specialises more"), ("loss", "has the lower loss")):
        found = [one for one in size["orders"] if one["quantity"] == quantity and one["method"] != "reference"]
        for answer, says in (("yes", "as expected"), ("no", "against what was expected"), ("open", "open")):
            pairs = [f"`{one['method']}` over `{one['other']}`" for one in found if one["answer"] == answer]
            if pairs:
                yield f"- {size['preset']}, what {words}, {says}: {', '.join(pairs)}."
