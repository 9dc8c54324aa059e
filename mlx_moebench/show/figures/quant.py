"""What quantising does to routing: sets of experts kept, by layer and by the reference's selection margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...types import Facts
from ..names import isolated, model_name
from ..numbers import count
from .base import RouterId, Value, in_words, intervals_of, labels, largest, n_of, or_nan, router_id, value_of
from .drawing import Chart, Line, Points, kinds_of, points_of

EXACT = "exact_set_rate"
OWN, SAME_INPUT = "own", "same_input"


def arm_words(arm: Facts) -> str:
    """``weights 4 bit, routers 8 bit``."""
    parts = (("weights", arm["bits"]), ("routers", arm["router_bits"]))
    return ", ".join(f"{what} {f'{bits} bit' if bits else 'as stored'}" for what, bits in parts)


@dataclass(frozen=True)
class Tenths:
    """Tokens by margin, smallest first: the mean margin of each tenth, sets kept there, and how many tokens it has."""

    margins: tuple[float, ...]
    kept: tuple[Value, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class ArmSeries:
    """One arm. own, same_input: {measure: value of each router}; overall: the same over all routers of each kind.

    tenths: by kind of router.
    """

    name: str
    words: str
    own: Mapping[str, tuple[Value, ...]]
    same_input: Mapping[str, tuple[Value, ...]]
    overall: Mapping[str, Mapping[str, Value]]
    tenths: Mapping[str, Tenths]


@dataclass(frozen=True)
class QuantSeries:
    """One report of ``compare --quant``."""

    name: str
    n_sequences: int
    n_tokens: int
    level: float
    routers: tuple[RouterId, ...]
    arms: tuple[ArmSeries, ...]

    @property
    def sizes(self) -> str:
        """How much text."""
        return n_of(self.n_sequences, self.n_tokens)


def quant_series(report: Facts) -> QuantSeries:
    """From the JSON that ``compare --quant`` writes."""
    data = report["data"]
    return QuantSeries(
        f"{model_name(report['model'])} on {data['name']}",
        int(data["n_sequences"]),
        int(data["n_tokens"]),
        or_nan(report["settings"]["ci"].get("level")),
        tuple(router_id(r) for r in report["arms"][0]["routers"]),
        tuple(_arm(arm, report["measures"]) for arm in report["arms"]),
    )


def kept_sentence(series: QuantSeries) -> str:
    """Sets of experts that each arm keeps, and in which layer fewest; the same on the page and in the terminal."""
    several = len(series.arms[0].overall) > 1
    names = labels(series.routers)
    kept = []
    for arm in series.arms:
        overall = (
            f"{in_words(row[EXACT])}{f' of {kind} routers' if several else ''}" for kind, row in arm.overall.items()
        )
        least = largest([Value(-value.value) for value in arm.own[EXACT]])
        fewest = f"fewest in layer {names[least]}, {in_words(arm.own[EXACT][least])}"
        kept.append(f"{' and '.join(overall)} in {isolated(arm.name)} ({fewest})")
    return (
        f"{isolated(series.name)}: with weights/routers quantised to so many bits, this share of "
        f"{count(series.n_tokens, 'token')} keeps its set of experts, over all layers: {'; '.join(kept)}."
    )


def _arm(arm: Facts, measures: Facts) -> ArmSeries:
    own, same = (
        {m: tuple(value_of(r[where][m]["value"], r[where][m]) for r in arm["routers"]) for m in measures}
        for where in (OWN, SAME_INPUT)
    )
    overall = {
        kind: {m: value_of(row[OWN][m]["value"], row[OWN][m]) for m in measures} for kind, row in arm["overall"].items()
    }
    tenths = {kind: _tenths(row["by_margin"]) for kind, row in arm["overall"].items()}
    return ArmSeries(arm["arm"], arm_words(arm), own, same, overall, tenths)


def _tenths(bins: list[Facts]) -> Tenths:
    return Tenths(
        tuple(or_nan(b["margin"]["mean"]) for b in bins),
        tuple(value_of(b[EXACT]["value"], b[EXACT]) for b in bins),
        tuple(int(b["n_tokens"]) for b in bins),
    )


def kept_chart(series: QuantSeries, kind: str | None = None) -> Chart:
    """Sets kept layer by layer, a line for each arm, of routers of one ``kind`` or of all."""
    lines = []
    for arm in series.arms:
        for one in kinds_of(series.routers) if kind is None else [kind]:
            points, places = points_of(series.routers, one)
            of = f", {one}" if kind is None and len(kinds_of(series.routers)) > 1 else ""
            facts = {
                "same": tuple(arm.same_input[EXACT][n].value for n in places),
                "flips": tuple(arm.own["top1_flip"][n].value for n in places),
                "kl": tuple(arm.own["kl"][n].value for n in places),
            }
            lines.append(Line(f"{arm.name}{of}", points, tuple(arm.own[EXACT][n] for n in places), facts))
    intervals = intervals_of((v for line in lines for v in line.values), series.level)
    return Chart(
        "Sets of experts kept by layer",
        f"Share of tokens that keep their set of experts when weights are quantised, by layer, {series.name}",
        "layer",
        "share of tokens",
        "sets kept, share of tokens",
        (
            "Sets kept {value:4}",
            "on the reference's hidden states {same:4}",
            "first choices flipped {flips:4}; KL {kl:5} nats",
        ),
        "Share of tokens whose whole set of experts is that of the model as stored, in the quantised model's own "
        f"forward pass. {arms_of(series)} Unit: share of tokens. {intervals}. {series.sizes}.",
        tuple(lines),
        line_head="weights/routers, bits",
        zero=False,
    )


def margin_chart(series: QuantSeries, kind: str) -> Chart:
    """Sets kept against tenths of the reference's selection margin, over all routers of a kind, a line for each arm."""
    lines = []
    for arm in series.arms:
        tenths = arm.tenths[kind]
        numbers = range(1, len(tenths.margins) + 1)
        points = Points(
            tenths.margins,
            tuple(f"tenth {n} of {len(numbers)}" for n in numbers),
            tuple((n,) for n in numbers),
        )
        facts = {"mean margin": tenths.margins, "tokens": tenths.tokens}
        lines.append(Line(arm.name, points, tenths.kept, facts))
    intervals = intervals_of((v for line in lines for v in line.values), series.level)
    several = f", {kind} routers" if len(kinds_of(series.routers)) > 1 else ""
    return Chart(
        f"Sets of experts kept by selection margin{several}",
        f"Share of tokens that keep their set of experts, by tenths of the selection margin, {series.name}",
        "selection margin of the model as stored (mean of each tenth)",
        "share of tokens",
        "sets kept, share of tokens",
        ("Sets kept {value:4}", "margin {mean margin:5}, {tokens:token}"),
        "Tokens of every router are ordered by the margin with which the model as stored chose them, the lowest chosen "
        "score less the best one not chosen, and cut into tenths: the first holds the near-ties. "
        f"{arms_of(series)} Unit: share of tokens against selection score. {intervals}. {series.sizes}.",
        tuple(lines),
        line_head="weights/routers, bits",
        point_heads=("tenth",),
        layers=False,
        zero=False,
        bars=False,
    )


def arms_of(series: QuantSeries) -> str:
    """What the names of the arms mean."""
    return f"{'; '.join(f'{arm.name}: {arm.words}' for arm in series.arms)}."
