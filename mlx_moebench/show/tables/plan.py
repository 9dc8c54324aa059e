"""What measuring a model will take, as tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.text import Text

from ...types import Facts
from .base import Terminal, plain_table, sentences

_MACHINES = {"apple_gpu": "Mac", "cuda_gpu": "GPU", "cpu": "CPU"}
_ROLES = {"shared_experts": "shared experts", "dense": "dense MLPs", "head": "output layer"}
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def print_outlook(outlook: Facts, console: Console | None = None) -> None:
    """Parameters, bytes, and for each machine every way, the one that is recommended and what it rests on."""
    (console or Terminal(highlight=False)).print(render(outlook))


def render(outlook: Facts) -> Group:
    """What `analysis.outlook.outlook` returns as one rich renderable."""
    return Group(*_lines(outlook))


def gigabytes(size: float) -> str:
    """Bytes in GB of 10^9, below a tenth of one in MB of 10^6.

    >>> gigabytes(13_838_323_712), gigabytes(3_400_000), gigabytes(0)
    ('13.84 GB', '3.40 MB', '0')
    """
    if not size:
        return "0"
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"


def duration(low: float, high: float) -> str:
    """Seconds from and to, two digits each, in the largest unit that the lower end fills.

    >>> duration(61, 7200), duration(0.01, 0.2)
    ('1 min to 2 h', 'under 1 s')
    """
    if high < 1:
        return "under 1 s"
    return f"{_one(low) if low >= 1 else '1 s'} to {_one(high)}"


def _one(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    value = seconds / size
    return f"{float(f'{value:.2g}'):g} {unit}"


def _lines(outlook: Facts) -> Iterator[RenderableType]:
    model, counted, routers = outlook["model"], outlook["parameters"], outlook["routers"]
    packed = f", stored as {model['packing']}" if model["packing"] else ""
    yield Text(f"{model['name']} ({model['model_type']}, {model['dtype']}{packed})", "bold")
    yield sentences([f"Read: {model['source']}; no weight. Counted: {model['counted_by']}."])
    experts, chosen = ("/".join(map(str, routers[key])) for key in ("experts", "top_k"))
    yield Text("\nParameters", "bold")
    table = plain_table()
    table.add_column("what")
    table.add_column("number", justify="right")
    table.add_row("in all", f"{counted['total']:,}")
    table.add_row("used by a token", f"{counted['active_per_token']:,}")
    table.add_row("  without the embedding", f"{counted['active_per_token_without_embedding']:,}")
    for role, number in counted["by_role"].items():
        table.add_row(_ROLES.get(role, role), f"{number:,}")
    yield table
    yield sentences([f"{routers['count']} routers, {chosen} of {experts} experts each."])
    yield Text("\nWeights", "bold")
    yield _bytes(outlook["bytes"])
    work = outlook["work"]
    for machine in outlook["machines"]:
        yield from _machine(machine, work)


def _bytes(sizes: Facts) -> RenderableType:
    table = plain_table()
    for column in ("where", "size"):
        table.add_column(column, justify="right" if column == "size" else "left")
    time = sizes["download_seconds"]
    how = "" if sizes["stored_from"] == "headers" else ", by arithmetic"
    shown = f"on disk{how}; {duration(time['low'], time['high'])} to download"
    table.add_row(shown, gigabytes(sizes["stored"]))
    for one in sizes["resident"]:
        table.add_row(f"in memory: {one['precision']}", gigabytes(one["bytes"]))
    return table


def _machine(machine: Facts, work: Facts) -> Iterator[RenderableType]:
    memory, usable = machine["memory_bytes"], machine["usable_bytes"]
    name = _MACHINES[machine["kind"]]
    yield Text(
        f"\n{name} with {memory / 2**30:,.0f} GiB ({gigabytes(memory)}), of which {gigabytes(usable)} are usable",
        "bold",
    )
    yield sentences([f"Why: {machine['why']}."])
    table = plain_table()
    for column in (
        "way",
        "weights",
        "work",
        "hidden states",
        "needed",
        "fits",
        "reads",
        f"{work['tokens']:,} tokens in",
    ):
        table.add_column(column, justify="left" if column in ("way", "fits") else "right")
    for way in machine["ways"]:
        fits = Text("yes", "green") if way["fits"] else Text("no", "bold red")
        spilled = f" + {gigabytes(way['spilled_bytes'])} on disk" if way["spilled_bytes"] else ""
        table.add_row(
            f"{way['precision']}, {way['how']}",
            gigabytes(way["weights_bytes"]),
            gigabytes(way["working_bytes"]),
            f"{gigabytes(way['hidden_states_bytes'])}{spilled}" if way["how"] == "streamed" else "-",
            gigabytes(way["memory_bytes"]),
            fits,
            gigabytes(way["read_bytes"]),
            duration(way["seconds"]["low"], way["seconds"]["high"]),
        )
    yield table
    yield sentences(_verdict(machine, work))


def _verdict(machine: Facts, work: Facts) -> Iterator[str]:
    best, rates = machine["recommended"], machine["rates"]
    if best is None:
        yield (
            f"Nothing fits: the least is {gigabytes(machine['least_bytes'])}; take a smaller --batch-size or "
            "--max-length, a larger machine, or several (docs/scaling.md)."
        )
    else:
        yield f"Recommended: {best['command']}"
        others = [way for way in machine["ways"] if way["fits"] and way != best]
        others = others if best != machine["ways"][0] else []
        for way in others:
            yield f"  or {way['precision']}, {way['how']}: {way['command']}"
        if any("bit" in way["precision"] for way in (best, *others)):
            yield "Fewer bits choose other experts for some tokens: compare --quant says how many (docs/precision.md)."
    yield (
        f"Times: batches of {work['batch_sequences']} x {work['max_length_tokens']} tokens; products at "
        f"{_range(rates['flops_per_second'])} GFLOP/s, weights from memory once a batch at "
        f"{_range(rates['memory_bytes_per_second'])} GB/s, from disk once at {_range(rates['disk_bytes_per_second'])} "
        "GB/s; all at once at the best, one after the other at the worst."
    )
    yield f"Source: {rates['source']}."


def _range(ends: list[float]) -> str:
    return " to ".join(f"{float(f'{end / 1e9:.3g}'):,g}" for end in ends)
