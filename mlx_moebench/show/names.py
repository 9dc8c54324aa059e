"""What things are called, wherever they are shown: models, what was counted, quantities and their units."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from ..pair.report import flag_open
from ..routing.metrics import get_metric
from ..types import Facts
from .numbers import UNDEFINED, count

_SHOWN = (
    *("collapsed_fraction", "mean_entropy", "peak_top_share_token", "peak_top_load_ratio", "eae"),
    *("token_information", "margin_prob", "adjacent_overlap"),
)

HEADS = {
    "mean_entropy": "entropy, nats",
    "top_share_token": "busiest, of tokens",
    "top_load_ratio": "x even",
    "n_eff": "n_eff, experts",
    "dead_experts": "dead, experts",
    "adjacent_overlap": "adjacent overlap",
}
"""Heads of narrow columns, which the label of a metric does not fit."""

SCORES = {"entropy": ("routing entropy", "nats"), "selection_margin": ("selection margin", "selection score")}
"""What uncertainty about a token is measured by: words and unit."""


class Quantity(NamedTuple):
    """What is called the same in tables, pages, pictures and exports. symbol: where there is no room for the label."""

    label: str
    symbol: str
    unit: str

    @property
    def head(self) -> str:
        """``MI, nats``: of a column or an axis."""
        return f"{self.symbol}, {self.unit}"

    @property
    def title(self) -> str:
        """``Information of domain about expert, MI``."""
        return f"{self.label}, {self.symbol}"


QUANTITIES = {
    "domain_information": Quantity("Information of domain about expert", "MI", "nats"),
    "jensen_shannon": Quantity("Divergence of the loads of two domains", "JSD", "nats"),
    "mixture_spread": Quantity("Experts in effective use", "r", "ratio"),
    "specialisation": Quantity("Specialisation", "s", "share of ln D"),
    "dominant_share": Quantity("One expert in most domains", "one expert", "share of tokens"),
    "idle_experts": Quantity("Idle experts", "idle", "share of experts"),
    "lift": Quantity("Lift over chance", "lift over chance", "ratio"),
}
"""What is no metric of a single router: between domains, and of two experts. Metrics say it where they are declared."""

NUMBERS = ("mixture_spread", "specialisation", "dominant_share", "idle_experts", "domain_information")
"""Of the findings, in the order of their columns."""

_LEFT_TO_RIGHT = frozenset(("L", "EN", "ES", "ET", "CS", "NSM", "ON", "WS", "BN", "B", "S", ""))
_CONTROLS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))
"""Classes of the Unicode bidirectional algorithm: those that need nothing, and those that turn what follows."""


def label_and_unit(name: str) -> tuple[str, str]:
    """What people call a metric or an entry of a report's summary, and its unit."""
    if name == "collapsed_fraction":
        return "Routers flagged as collapsed", "fraction"
    if name in QUANTITIES:
        return QUANTITIES[name].label, QUANTITIES[name].unit
    metric = get_metric(name.removeprefix("peak_"))
    return metric.label + (", peak" if name.startswith("peak_") else ""), metric.unit


SUMMARY = tuple((name, *label_and_unit(name)) for name in _SHOWN)
"""(entry of a report's summary, label, unit) that people are shown first. A peak is the largest of any layer."""


def model_name(model: Facts) -> str:
    """Its id, and what makes it another model than that: experts of less than 16 bit (mean), routers, an adapter."""
    name = str(model.get("id", "model"))
    bits, adapter = model.get("weight_bits"), model.get("adapter")
    if bits is not None and bits < 16:
        name += f" at {bits:.3g} bits per expert weight"
    if source := model.get("routers_from"):
        name += f" with the routers of {source}"
    return f"{name} with {adapter['name']}" if adapter else name


def counts_for(data: Facts) -> Iterator[str]:
    """What sequences of unequal length count for, where that is less than their number by a tenth or more."""
    effective = data.get("effective_sequences", {})
    if len(effective) == 1:
        ((_, count_of),) = effective.items()
        distinct = data["n_sequences"] - data.get("repeated_sequences", 0)
        if count_of < 0.9 * distinct:
            if data.get("repeated_sequences"):
                each = f"The {count(distinct, 'different text')}, each as long as its copies together, "
                yield f"{each}{'counts' if distinct == 1 else 'count'} for {count_of:.0f}."
            else:
                yield f"The {distinct:,} sequences differ in length and count for {count_of:.0f}."
    elif effective:
        yield f"Sequences count for: {', '.join(f'{isolated(name)} {n:.0f}' for name, n in effective.items())}."


UNITS = {"row": "a row", "file": "a whole file", "blank": "a paragraph of a file", "line": "a line of a file"}
LONG = {"truncate": "cut off at {} tokens", "windows": "cut into windows of {} tokens"}


def read_by(data: Facts) -> Iterator[str]:
    """What a document is, what became of long ones and which files of a folder were read, where data sets say so."""
    sources = [source for source in data.get("sources") or [data] if "unit" in source]
    names: dict[str, list[str]] = {}
    for source in sources:
        names.setdefault(_rule(source), []).append(isolated(source["name"]))
    for rule, those in names.items():
        of_those = f" of {', '.join(those)}" if len(names) > 1 else ""
        yield f"A document{of_those} is {rule}."
    if any(source["unit"] == "file" and source.get("documents") == 1 for source in sources):
        yield "A single document has no intervals; --split-on blank makes one of each paragraph."
    for source in sources:
        yield from _files(source)


def _files(source: Facts) -> Iterator[str]:
    """Which files a data set was read from, and how, where that was found out."""
    if "files" in source:
        skipped = ", ".join(f"{number:,} {why}" for why, number in source.get("skipped", {}).items())
        left = f"; left out: {skipped}" if skipped else ""
        yield f"Files of {isolated(source['name'])}: {source['files']:,}{left}."
    if "delimiter" in (source.get("format") or ""):
        yield f"Read {isolated(source['name'])} as {source['format']}; the text is {isolated(source['field'])}."


def _rule(source: Facts) -> str:
    units = " or ".join(UNITS.get(unit, unit) for unit in source["unit"].split(", "))
    ways = " or ".join(LONG[way].format(f"{source['max_length']:,}") for way in source["long"].split(", "))
    return f"{units}; longer ones are {ways}"


def data_warnings(data: Facts) -> Iterator[str]:
    """What limits the numbers of a data section, a sentence each: forwards that are not in them, repeated texts,
    domains that differ much."""
    for lost in data.get("unrecorded", ()):
        forwards = "1 forward pass is" if lost["forwards"] == 1 else f"{lost['forwards']:,} forward passes are"
        yield f"{forwards} not in these numbers ({lost['positions']:,} positions): {lost['why'].rstrip('.')}."
    if repeated := data.get("repeated_sequences"):
        which = "1 sequence repeats" if repeated == 1 else f"{repeated:,} sequences repeat"
        yield f"{which} an earlier one token for token; intervals take all copies of a text together as one."
    for sentence in data.get("unequal_domains", ()):
        yield f"{sentence[:-1]}: intervals and tests hold for that; findings weigh each domain 1/D, whatever its size."


MANY_TIES = 0.01
"""The share of tokens with a tie that is worth a word: it may be all of an expert's share to two digits."""


def tie_warnings(routers: Sequence[Facts]) -> Iterator[str]:
    """Where the order of the experts decides for many tokens and not the router, a sentence."""
    tied = {r["layer"]: r["tied_selections"] for r in routers if (r.get("tied_selections") or 0.0) >= MANY_TIES}
    if not tied:
        return
    low, high = min(tied.values()), max(tied.values())
    share = f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"
    layers = f"layer {next(iter(tied))}" if len(tied) == 1 else f"{len(tied)} layers ({_listed(list(tied))})"
    yield (
        f"the last expert of {share} of the tokens in {layers} has the score of another that was not chosen: the order "
        "of the experts decided there and not the router, so that loads of single experts say nothing of it."
    )


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers[:6])) + (", ..." if len(layers) > 6 else "")


def side_name(side: Facts) -> str:
    """``moebench-nano on math``: model and data of one side of a comparison."""
    return f"{model_name(side['model'])} on {side['data']['name']}"


Flag = Literal["yes", "no", "open", "null"]
"""What is shown of `collapsed` on one domain: open where the interval of the share holds tau."""

OPEN = "the interval of that share holds tau, or there is none: other texts may flip the flag"


def flag_of(router: Facts, settings: Facts) -> Flag:
    """The flag of a router, of reports of any age."""
    if flag_open(router, settings):
        return "open"
    flags: dict[bool | None, Flag] = {True: "yes", False: "no", None: "null"}
    return flags[router.get("collapsed")]


def flag_words(router: Facts, settings: Facts) -> str:
    """The flag in words."""
    flag = flag_of(router, settings)
    return UNDEFINED if flag == "null" else flag


def router_forms(report: Facts) -> set[str]:
    """``top-2 of 16``, of each form of router."""
    return {f"top-{r['top_k']} of {r['n_experts']}" for r in report["routers"]}


def unit_of_text(model: Facts) -> str:
    """What was counted: sequences, or the files that imported counts came in."""
    return "count file" if model.get("backend") == "counts" else "sequence"


def sizes(report: Facts) -> str:
    """``104 sequences, 12,300 tokens, prefill``."""
    data = report["data"]
    texts = count(data["n_sequences"], unit_of_text(report["model"]))
    return f"{texts}, {count(data['n_tokens'], 'token')}, {data['phase']}"


def missing(data: Facts) -> Iterator[str]:
    """What is not measured yet of each data set of which a run says what there was to measure."""
    for source in data.get("sources", [data]):
        parts = source.get("parts", [])
        done, planned = (sum(part[key] for part in parts) for key in ("sequences_done", "sequences"))
        if done < planned:
            yield f"{done:,} of {count(planned, 'sequence')} of {source['name']} measured; analyze --resume continues"
        if source.get("shards"):
            documents = sum(part["documents"] for part in parts)
            yield (
                f"shard {', '.join(source['shards'])} of {source['name']}, "
                f"{documents:,} of {count(source['documents'], 'document')}; merge puts shards together"
            )


def isolated(name: str) -> str:
    """A name for the middle of a sentence: one of a right-to-left script stands between isolates, less its own."""
    if all(unicodedata.bidirectional(character) in _LEFT_TO_RIGHT for character in name):
        return name
    return f"\u2068{''.join(c for c in name if unicodedata.bidirectional(c) not in _CONTROLS)}\u2069"
