"""Which tokens each expert takes: tables for a terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...analysis.vocabulary import WHY_NO_INTERVAL
from ...printable import one_line
from ...types import Json
from ..names import model_name
from ..numbers import UNDEFINED
from .base import Terminal, plain_table, sentences


def print_vocabulary(report: Json, console: Console | None = None) -> None:
    """Print each router's specialisation, and the tokens of the experts of the most specialised router."""
    (console or Terminal()).print(render(report))


def render(report: Json) -> Group:
    """The tables of a report as one rich renderable."""
    settings, data = report["settings"], report["data"]
    heading = sentences(
        [
            f"{model_name(report['model'])} on {data['name']}: {settings['of']} ids of {report['n_tokens']:,} tokens "
            f"in {report['n_sequences']:,} sequences, {data['phase']}"
        ],
        "bold",
    )
    known = [r for r in report["routers"] if r["value"] is not None]
    if not known:
        return Group(heading, Text(f"{UNDEFINED}: no id occurs {settings['min_count']} times or more."))
    most = max(known, key=lambda r: r["value"] - r["null"]["mean"])
    note = (
        f"specialisation: mean over the ids that occur {settings['min_count']} times or more of the largest share of "
        "an id's tokens that one expert takes.\n"
        f"by chance: mean and middle 95% of {settings['permutations']:,} rotations, in which the experts move round "
        "each sequence and the ids stay; p as large by chance, q over these routers. neighbours: with the ids of the "
        "tokens beside; near the value where passages rather than ids have their experts. No interval: "
        + WHY_NO_INTERVAL
        + "."
    )
    if repeated := report.get("repeated_tokens"):
        note += f"\n{repeated:,} tokens left out: they follow the same text as others do, from its beginning."
    if not data["complete"]:
        note += "\nunfinished: the run that wrote this trace did not end; analyze --resume continues it."
    return Group(heading, _summary(known), _experts(most, settings["of"]), Text(note, style="dim"))


def _summary(routers: list[Json]) -> Table:
    kinds = {r["router"] for r in routers}
    table = plain_table()
    table.add_column("layer", justify="right")
    if len(kinds) > 1:
        table.add_column("router")
    for name in ("ids", "specialisation"):
        table.add_column(name, justify="right")
    table.add_column("by chance", no_wrap=True)
    for name in ("p", "q", "neighbours"):
        table.add_column(name, justify="right")
    for r in routers:
        null = r["null"]
        table.add_row(
            str(r["layer"]),
            *([r["router"]] if len(kinds) > 1 else []),
            str(r["n_ids"]),
            f"{r['value']:.3f}",
            f"{null['mean']:.3f}, {null['low']:.3f} to {null['high']:.3f}",
            *("" if r.get(name) is None else f"{r[name]:.3f}" for name in ("p_value", "q_value", "neighbours")),
        )
    return table


def _experts(router: Json, of: str) -> Table:
    where = f"Layer {router['layer']} ({router['router']})"
    table = plain_table(f"{where}: {of} ids by the share of their tokens, that by chance in brackets")
    table.add_column("expert", justify="right")
    table.add_column("tokens", overflow="fold")
    for expert in router["experts"]:
        words = [f"{_shown(t['text'])} {t['share']:.2f} ({t['null_share']:.2f})" for t in expert["tokens"]]
        table.add_row(str(expert["expert"]), Text("  ".join(words)))
    return table


def _shown(text: str) -> str:
    """Spaces and line ends made visible."""
    return one_line(text).replace(" ", "␣")
