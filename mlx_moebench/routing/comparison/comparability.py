"""Which two statistics may be compared, and what a reader must know when they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import StatsError, did_you_mean
from ...types import Facts
from ..intervals.effective import unequal
from ..merging import read_as
from ..parts import completeness
from ..record import LIVE, RouterSpec
from ..repeats import Units, text_units
from ..stats import Cluster, RoutingSums
from ..sums import Sums
from .effects import Point
from .resampling import Samples

OBSTACLES = {
    "data": "they measured other data sets",
    "reading": "they read their text otherwise",
    "phase": "one measured prompts, the other generated tokens",
    "routers": "their routers are not the same ones",
    "experts": "their routers have other numbers of experts, so that shares and entropies have other limits",
    "top-k": "their routers choose other numbers of experts, so that shares have other limits",
    "distribution": "their routers make the distribution p by other rules",
    "collapse": "their collapse flags mean something else",
}
"""Why two statistics are refused unless their kind is allowed."""

READING_FACTS = ("max_length", "unit", "long", "bos", "field", "template", "padding")
"""Facts of a source that decide what a model was given of a text; `generation` too, of generated tokens."""


@dataclass(frozen=True)
class Side:
    """One of two statistics: with its sums (``stats``), or what its report alone says.

    sources: {sha256: facts}. points: of each router. flags: the collapse flag of each. missing: why there are no sums.
    """

    name: str
    specs: tuple[RouterSpec, ...]
    phase: str
    flag: tuple[str, float]
    model: Facts
    data: Facts
    environment: Facts
    sources: Mapping[str, Facts]
    points: Sequence[Point]
    flags: Sequence[bool | None]
    stats: RoutingSums | None = None
    missing: str | None = None

    def facts(self) -> dict[str, object]:
        """For JSON: where its numbers come from."""
        flag = {"collapse_on": self.flag[0], "tau": self.flag[1]}
        return {
            "file": self.name,
            "model": dict(self.model),
            "data": dict(self.data),
            "environment": dict(self.environment),
            "settings": flag,
        }


def check_comparable(a: Side, b: Side, allow: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(kind, what differs) of everything that was allowed; raises `StatsError` with all that was not."""
    for kind in allow:
        if kind not in OBSTACLES:
            raise StatsError(f"There is nothing of the kind {kind!r} to allow.{did_you_mean(kind, list(OBSTACLES))}")
    obstacles = list(_obstacles(a, b))
    refused = [(kind, what) for kind, what in obstacles if kind not in allow]
    if refused:
        reasons = "; ".join(f"{OBSTACLES[kind]} ({what})" for kind, what in refused)
        flags = " ".join(f"--allow {kind}" for kind in dict.fromkeys(kind for kind, _ in refused))
        raise StatsError(f"These statistics are not comparable: {reasons}. To compare them anyway: {flags}.")
    return obstacles


def _obstacles(a: Side, b: Side) -> Iterator[tuple[str, str]]:
    known_a, known_b = (set(side.sources) - {LIVE} for side in (a, b))
    if known_a and known_b and known_a != known_b:
        names = str(a.data["name"]), str(b.data["name"])
        yield "data", " and ".join(names) + (" of other contents" if names[0] == names[1] else "")
    for key in (*READING_FACTS, "generation") if a.phase == b.phase == "decode" else READING_FACTS:
        x, y = _reading(a, b, key), _reading(b, a, key)
        if x != y:
            yield "reading", f"{key} {_brief(x)} and {_brief(y)}"
    if a.phase != b.phase:
        yield "phase", f"{a.phase} and {b.phase}"
    yield from _router_obstacles(a, b)
    if a.flag != b.flag:
        yield "collapse", " and ".join(f"{share} > {tau:g}" for share, tau in (a.flag, b.flag))


def _router_obstacles(a: Side, b: Side) -> Iterator[tuple[str, str]]:
    """What their routers do not have in common; of each kind only the first router is named."""
    of_a, of_b = ({spec.name: spec for spec in side.specs} for side in (a, b))
    shared = sorted(of_a.keys() & of_b.keys(), key=lambda name: of_a[name].layer)
    if of_a.keys() != of_b.keys():
        yield "routers", f"{len(of_a)} and {len(of_b)}, of which {len(shared)} have a namesake"
    for kind, key in (("experts", "n_experts"), ("top-k", "top_k"), ("distribution", "distribution")):
        values = ((name, getattr(of_a[name], key), getattr(of_b[name], key)) for name in shared)
        first = next((f"{name}: {x} and {y}" for name, x, y in values if x != y), None)
        if first is not None:
            yield kind, first


def _reading(a: Side, b: Side, key: str) -> list[str]:
    """How ``a`` read the sources that both have; where they share none, how it read its own."""
    shared = a.sources.keys() & b.sources.keys()
    if not shared and key in ("unit", "field", "template"):  # other data have other ones
        return []
    values = {_comparable(key, read_as(a.sources[sha], key)) for sha in shared or a.sources}
    return sorted(values)


def _comparable(key: str, value: object) -> str:
    """A beginning-of-sequence token is the same reading whatever its id."""
    return str(value).split(", id")[0] if key == "bos" else str(value)


@dataclass(frozen=True)
class Matching:
    """Which sequences are compared: rows of each side's sums, and how they were matched.

    units_a, units_b: what of them is drawn independently, for equal texts are one; the same of both sides when paired.
    ``samples`` has the data sets of these units; None where nothing can be drawn, for ``missing``.
    """

    rows_a: Sequence[int] = ()
    rows_b: Sequence[int] = ()
    units_a: Units | None = None
    units_b: Units | None = None
    samples: Samples | None = None
    shared: int = 0
    missing: str | None = None

    def sums(self, a: Sums, b: Sums) -> tuple[Sums, Sums]:
        """Those of the units that are compared, from those of all sequences of a router of each side."""
        assert self.units_a is not None
        assert self.units_b is not None
        return self.units_a.sums(a.take(self.rows_a)), self.units_b.sums(b.take(self.rows_b))

    def facts(self, a: Side, b: Side) -> dict[str, object]:
        """For JSON: how many sequences each side has, how many both have, how many are compared, how many repeat."""
        n = {"a": a.data["n_sequences"], "b": b.data["n_sequences"], "shared": self.shared if self.samples else None}
        if self.samples is None or self.units_a is None or self.units_b is None:
            return {"paired": None, "sequences": n, "compared": None, "repeated": None}
        repeated = {"a": self.units_a.repeated, "b": self.units_b.repeated}
        used = {"a": len(self.rows_a), "b": len(self.rows_b)}
        return {"paired": self.samples.paired, "sequences": n, "compared": used, "repeated": repeated}


def match(a: Side, b: Side) -> Matching:
    """Paired on the sequences that both sides have, if those are at least half of the smaller side's; else unpaired.

    Statistics of one sum for each data set, such as files of counts, say nothing of sequences: values alone.
    """
    if a.stats is None or b.stats is None:
        return Matching(missing="; ".join(side.missing for side in (a, b) if side.missing))
    if (missing := _without_sequences(a.stats, b.stats)) is not None:
        return Matching(missing=missing)
    index, shared = _shared(a.stats, b.stats)
    if 2 * len(shared) >= min(map(len, index)):
        rows_a, rows_b = (list(map(of.__getitem__, shared)) for of in index)
        units = text_units(a.stats, b.stats, rows=[rows_a, rows_b])
        strata = units.strata([a.stats.strata[row] for row in rows_a])
        return Matching(
            rows_a, rows_b, units, units, Samples(strata, strata, True, (units.copies, units.copies)), len(shared)
        )
    units_a, units_b = text_units(a.stats), text_units(b.stats)
    strata_a, strata_b = units_a.strata(a.stats.strata), units_b.strata(b.stats.strata)
    samples = Samples(strata_a, strata_b, False, (units_a.copies, units_b.copies))
    return Matching(range(len(index[0])), range(len(index[1])), units_a, units_b, samples, len(shared))


def _shared(a: RoutingSums, b: RoutingSums) -> tuple[list[dict[Cluster, int]], list[Cluster]]:
    """({sequence: its row} of each side, the sequences that both have); who was watched live is unknown."""
    index = [{cluster: row for row, cluster in enumerate(side.clusters)} for side in (a, b)]
    return index, sorted(c for c in index[0].keys() & index[1].keys() if c[0] != LIVE)


def _without_sequences(a: RoutingSums, b: RoutingSums) -> str | None:
    """Why nothing is known of sequences, if it is not."""
    whole = [name for name, side in (("A", a), ("B", b)) if len(side.clusters) == len(set(side.strata))]
    if not whole:
        return None
    return f"{' and '.join(whole)} {'have' if len(whole) > 1 else 'has'} a single sum for each data set"


def notes(a: Side, b: Side, matching: Matching) -> list[str]:
    """What a reader must know of this comparison, one sentence each."""
    sentences = [f"{reason}: values, but no intervals." for reason in (matching.missing or "").split("; ") if reason]
    for label, side in (("A", a), ("B", b)):
        for sha, facts in side.sources.items():
            if completeness(facts).get("complete") is False:
                sentences.append(f"{label} is unfinished on {facts.get('name', sha[:12])}.")
        sentences += [f"{label}: {warning}" for warning in side.model.get("warnings", ())]
    samples = matching.samples
    if samples is not None and a.stats is not None and b.stats is not None:
        stats = a.stats, b.stats
        sentences += _of_paired(stats, matching, a.phase == b.phase) if samples.paired else _of_unpaired(a, b, matching)
        sentences += [*_repeats(matching), *_unequal(stats, matching, samples)]
    sentences += _otherwise("They computed otherwise", a.model, b.model, ("dtype", "backend"))
    elsewhere = "They ran elsewhere, which rounds otherwise"
    return [*sentences, *_otherwise(elsewhere, a.environment, b.environment, ("device", "blas", "mlx"))]


def _repeats(matching: Matching) -> Iterator[str]:
    """Of each side, or once of both where they are the same sequences."""
    sides = ((" of A", matching.units_a), (" of B", matching.units_b))
    for of, units in (("", matching.units_a),) if matching.units_a is matching.units_b else sides:
        if units is not None and units.repeated:
            which = f"1 sequence{of} repeats" if units.repeated == 1 else f"{units.repeated:,} sequences{of} repeat"
            yield f"{which} an earlier one token for token; all copies of a text are one unit in intervals."


def _unequal(stats: tuple[RoutingSums, RoutingSums], matching: Matching, samples: Samples) -> Iterator[str]:
    """Data sets of a side, and sides of other sequences, that differ by far in number or length of sequences."""
    rows = matching.rows_a, matching.rows_b
    tokens = [s.sums(0).take(of_side).n_tokens for s, of_side in zip(stats, rows, strict=True)]
    every = [s.strata for s in stats]
    strata = [[names[row] for row in of_side] for names, of_side in zip(every, rows, strict=True)]
    for label, x, of in zip("AB", tokens, strata, strict=True):
        yield from (
            f"{label}: {sentence[:-1]}: by more than a factor of 4; intervals and tests hold for such data sets, too."
            for sentence in unequal(x, of)
        )
    if not samples.paired:
        labels = ["A"] * len(strata[0]) + ["B"] * len(strata[1])
        for sentence in unequal(np.concatenate(tokens), labels):
            yield f"{sentence[:-1]}: by more than a factor of 4; intervals and tests hold for such sides, too."


def _otherwise(what: str, a: Facts, b: Facts, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        x, y = a.get(key), b.get(key)
        if x != y:
            yield f"{what}: {key} {_brief(x)} and {_brief(y)}."


def _of_unpaired(a: Side, b: Side, matching: Matching) -> Iterator[str]:
    if matching.shared:
        are = "sequence is" if matching.shared == 1 else "sequences are"
        yield f"{matching.shared} {are} in both sides, too few to pair; unpaired intervals ignore that."
    if LIVE in a.sources or LIVE in b.sources or not (a.sources and b.sources):
        yield "A side was watched live, where nothing says which texts ran: unpaired."


def _of_paired(stats: tuple[RoutingSums, RoutingSums], matching: Matching, same_phase: bool) -> Iterator[str]:
    for label, side in zip("AB", stats, strict=True):
        left = len(side.clusters) - matching.shared
        if left:
            yield f"{left} sequences of {label} that the other side lacks are left out."
    tokens = (s.sums(0).n_tokens[rows] for s, rows in zip(stats, (matching.rows_a, matching.rows_b), strict=True))
    other = int(np.not_equal(*tokens).sum())
    if other and same_phase:
        yield f"{other} of {matching.shared} shared sequences have other numbers of tokens: other tokenizers, or ends."


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = "not given" if text in ("None", "") else text
    return text if len(text) <= 80 else text[:77] + "..."
