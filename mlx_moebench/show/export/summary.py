"""The report as a Markdown page to read and to paste."""

from __future__ import annotations

from collections.abc import Iterator

from ...types import Facts
from ..figures import answer, difference_series, domain_series
from ..figures.testbed import ranked, size_name
from ..findings import DEFINITION, meanings
from ..inputs import Inputs, Run, Training
from ..markdown import Cells, code, listed, table, text
from ..names import (
    HEADS,
    NUMBERS,
    OPEN,
    QUANTITIES,
    SCORES,
    SUMMARY,
    flag_of,
    flag_words,
    label_and_unit,
    model_name,
    router_forms,
    sizes,
    tie_warnings,
)
from ..numbers import UNDEFINED, count, decimals, percent
from ..tables.dynamics import COURSE
from ..tables.quant import COLUMNS
from ..tables.testbed import HEADS as OF_TESTBED
from ..tables.testbed import heading, notes, orders
from ..tables.training import ENDS, ROWS
from .card import spoken, words_of

FIGURES = (("mean_entropy", 3), ("top_share_token", 3), ("top_load_ratio", 2), ("n_eff", 1))
"""Metrics of each router, and their digits; experts without a token and the flag stand beside them."""


def to_markdown(inputs: Inputs) -> str:
    """The answer in sentences, each run and its routers, what lies between domains, and so on, then provenance."""
    words = answer(inputs)
    lines = ["# Routing report", "", *(line for said in spoken(words) for line in (said, ""))]
    lines += [*(f"- {text(caution)}" for caution in words.cautions), *[""] * bool(words.cautions)]
    for part in (
        *(_run(run) for run in inputs.runs),
        *(_domains(name, profile) for name, profile in inputs.profiles.items()),
        *(_comparison(comparison) for comparison in inputs.comparisons),
        *(_uncertainty(report) for report in inputs.uncertainties),
        *(_quantised(report) for report in inputs.quants),
        *(_followed(report) for report in inputs.dynamics),
        *(_testbed(report) for report in inputs.testbeds),
        *(_training(training) for training in inputs.trainings),
    ):
        lines += [*part, ""]
    return "\n".join([*lines, *_provenance(inputs)]) + "\n"


def _run(run: Run) -> Iterator[str]:
    report, cells = run.report, Cells()
    model = model_name(report["model"])
    label = "" if run.name == model else f"{text(run.name)}: "
    yield f"## {label}{text(model)} on {text(report['data']['name'])}"
    yield ""
    yield sizes(report) + ", " + ", ".join(sorted(router_forms(report))) + "."
    yield from (f"Warning: {text(warning)}." for warning in report["model"].get("warnings", ()))
    yield ""
    kinds, flagged = report["summary_by_router"], _flagged(report)
    for kind, summary in kinds.items():
        rows = [
            [words, cells.cell(summary[name], 3), unit]
            for name, words, unit in SUMMARY
            if name in summary and not (name == "collapsed_fraction" and not flagged)
        ]
        yield from table([f"{kind} routers" if len(kinds) > 1 else "all routers", "value", "unit"], rows)
        yield ""
    several = len(kinds) > 1
    columns = ["layer", *(["router"] if several else []), *(HEADS[name] for name, _ in FIGURES), HEADS["dead_experts"]]
    if flagged:
        columns.append("above tau")
    rows = [_router(r, several, cells, report["settings"]) for r in report["routers"]]
    yield from table(columns, (row[: len(columns)] for row in rows))
    yield ""
    yield from words_of((run,))
    yield from _notes(report, cells)


def _flagged(report: Facts) -> bool:
    """Whether flags of one domain are shown: findings over several say more, and the two might contradict."""
    return any("collapsed" in r and "findings" not in r for r in report["routers"])


def _router(r: Facts, several: bool, cells: Cells, settings: Facts) -> list[str]:
    return [
        str(r["layer"]),
        *([text(r["router"])] if several else []),
        *(cells.cell({"value": r[name], **r["ci"].get(name, {})}, digits) for name, digits in FIGURES),
        UNDEFINED if r["dead_experts"] is None else f"{r['dead_experts']} of {r['n_experts']}",
        *([flag_words(r, settings)] if "collapsed" in r else []),
    ]


def _notes(report: Facts, cells: Cells) -> Iterator[str]:
    settings = report["settings"]
    ci, share = settings["ci"], settings["collapse_on"].removeprefix("top_share_")
    flagged = _flagged(report)
    if flagged:
        yield (
            f"- above tau: the busiest expert's {share} share exceeds {settings['tau']:g}; a flag on one domain, which "
            "cannot tell collapse from specialisation."
        )
    if flagged and any(flag_of(r, settings) == "open" for r in report["routers"]):
        yield f"- above tau is open: {OPEN}."
    over = "layers, a census and not a sample" if ci["method"] == "layer" else "sequences"
    entries = (*report["summary"].values(), *(r["ci"].get("load_entropy", {}) for r in report["routers"]))
    if any(entry.get("low") is not None for entry in entries):
        yield f"- [low, high]: {percent(ci['level'])} intervals over {over}, {ci['resamples']:,} draws."
    yield from listed(cells)
    reasons = dict.fromkeys(r["collapsed_reason"] for r in report["routers"] if r.get("collapsed_reason"))
    yield from (f"- above tau is {UNDEFINED}: {text(reason)}." for reason in reasons if flagged)
    yield from (f"- Warning: {text(sentence)}" for sentence in tie_warnings(report["routers"]))


def _domains(name: str, profile: Facts) -> Iterator[str]:
    cells, series = Cells(), domain_series(name, profile)
    yield f"## Between the domains of {text(name)}: {', '.join(text(domain) for domain in series.domains)}"
    yield ""
    several = len({r["router"] for r in profile["routers"]}) > 1
    columns = ["layer", *(["router"] if several else []), "word", *(QUANTITIES[key].head for key in NUMBERS), "p"]
    columns.append("whom, and what is open")
    rows = []
    for r, of_router in zip(profile["routers"], series.routers, strict=True):
        information = r["domain_information"]
        values = (of_router.used, of_router.specialisation, of_router.dominant, of_router.idle)
        p = information.get("p_value")
        rows.append(
            [
                str(r["layer"]),
                *([text(r["router"])] if several else []),
                of_router.word or "no word",
                *(cells.cell({"value": v.value, "low": v.low, "high": v.high, "reason": v.reason}, 3) for v in values),
                cells.cell(information, 3),
                UNDEFINED if p is None else f"{p:.3g}",
                text("; ".join(of_router.remarks)),
            ]
        )
    yield from table(columns, rows)
    yield ""
    if any(r.mi.has_interval for r in series.routers):
        yield f"- [low, high]: {percent(series.level)} intervals over sequences, drawn inside each domain."
        yield ""
    yield f"{DEFINITION} {meanings(series.thresholds)} p: of the test that all domains route alike."
    yield ""
    yield from listed(cells)


def _comparison(comparison: Facts) -> Iterator[str]:
    cells, series = Cells(), difference_series(comparison)
    first, second = series.names
    yield f"## A: {text(first.removeprefix('A: '))}; B: {text(second.removeprefix('B: '))}"
    yield ""
    a, b = (sizes(comparison[side]) for side in "ab")
    yield f"{series.how[0].upper()}{series.how[1:]}; differences are B minus A. A: {a}. B: {b}."
    for kind, effects in comparison["overall"].items():
        rows = []
        for name, words, unit in SUMMARY:
            if name in effects:
                e = effects[name]
                values = [decimals(e[side], 4) for side in "ab"]
                rows.append([words, unit, *values, cells.cell(e | {"value": e["effect"]}, 4)])
        yield ""
        yield from table([f"{kind} routers" if len(comparison["overall"]) > 1 else "", "unit", "A", "B", "B - A"], rows)
    yield ""
    yield from listed(cells)


def _uncertainty(report: Facts) -> Iterator[str]:
    cells, data = Cells(), report["data"]
    yield f"## Loss by routing uncertainty: {text(model_name(report['model']))} on {text(data['name'])}"
    yield ""
    loss = cells.cell(report["mean_loss"], 3)
    yield f"{sizes(report)}; mean loss of the next token {loss} nats. Rank correlations with that loss:"
    yield ""
    rows = [
        [
            str(r["layer"]),
            text(r["router"]),
            *(cells.cell(r[score] | {"value": r[score]["rho"]}, 3) for score in SCORES),
        ]
        for r in report["routers"]
    ]
    rows += [
        ["mean", text(kind), *(cells.cell(means[score] | {"value": means[score]["rho"]}, 3) for score in SCORES)]
        for kind, means in report["summary"].items()
    ]
    yield from table(["layer", "router", *(f"rho, {words}" for words, _ in SCORES.values())], rows)
    yield ""
    yield from listed(cells)


def _quantised(report: Facts) -> Iterator[str]:
    cells = Cells()
    yield f"## Quantised: {text(model_name(report['model']))} on {text(report['data']['name'])}"
    yield ""
    rows = [
        [text(arm["arm"]), text(kind), *(cells.cell(row["own"][name], digits) for name, _, digits in COLUMNS)]
        for arm in report["arms"]
        for kind, row in arm["overall"].items()
    ]
    yield from table(["weights/routers, bits", "routers", *(head for _, head, _ in COLUMNS)], rows)
    yield ""
    yield from listed(cells)


def _followed(report: Facts) -> Iterator[str]:
    cells = Cells()
    yield f"## Checkpoints of {text(model_name(report['model']))} on {text(report['data']['name'])}"
    yield ""
    for kind, course in report["overall"].items():
        rows = [
            [
                text(str(one["name"])),
                text(kind),
                *(cells.cell(at[name] if name in at else at["metrics"][name], 3) for name, _ in COURSE),
            ]
            for one, at in zip(report["checkpoints"], course, strict=True)
        ]
        yield from table(["checkpoint", "routers", *(head for _, head in COURSE)], rows)
        yield ""
    yield from listed(cells)


def _testbed(report: Facts) -> Iterator[str]:
    for number, size in enumerate(report["sizes"]):
        cells = Cells()
        yield from [""] * bool(number)
        yield f"## Routing testbed: {text(size_name(size))}"
        yield ""
        yield f"{text(heading(report, size))}."
        yield ""
        rows = []
        for one in ranked(size):
            bound = f" ({one['bound']} bound)" if one["bound"] else ""
            words = ", ".join(f"{n} {word}" for word, n in one["words"].items())
            values = (cells.cell(one["values"][name], 3) for name in OF_TESTBED)
            rows.append([text(f"{one['name']}{bound}"), str(len(one["seeds"])), *values, text(words)])
        yield from table(["method", "seeds", *OF_TESTBED.values(), "routers by finding"], rows)
        yield ""
        yield "Held-out loss of each domain, nats per token:"
        yield ""
        names = report["domains"]
        rows = [[text(m["name"]), *(cells.cell(m["losses"][n], 3) for n in names)] for m in ranked(size)]
        yield from table(["method", *map(text, names)], rows)
        yield ""
        yield from (f"- {text(sentence)}" for sentence in (*orders(size), *notes(report, size)))
        yield from listed(cells)


def _training(training: Training) -> Iterator[str]:
    report, cells = training.report, Cells()
    yield f"## Training {text(training.name)}"
    yield ""
    if not report:
        yield f"Not finished: {count(len(training.log), 'line')} of its log are there."
        return
    loss = report["settings"]["routing_loss"]
    name = "no routing loss" if loss is None else f"{loss['name']}, weight {loss['weight']:g}"
    yield f"Model {text(report['model'])}, {text(name)}, {count(report['tokens_trained'], 'token')} trained."
    yield ""
    rows = [
        [", ".join(label_and_unit(key)), *(cells.cell(report[f"routing_{when}"][key], digits) for when in ENDS)]
        for key, digits in ROWS
    ]
    rows.append(["Validation CE, nats per token", *(decimals(report["ce"].get(f"validation_{w}"), 4) for w in ENDS)])
    yield from table(["", *ENDS], rows)
    yield ""
    yield from listed(cells)


def _provenance(inputs: Inputs) -> Iterator[str]:
    """What each measurement was of and how; nothing where a profile alone was given, whose sources it does not hold."""
    reports = [
        *(report for run in inputs.runs for report in (run.domains.values() if run.domains else (run.report,))),
        *(comparison[side] for comparison in inputs.comparisons for side in "ab"),
        *inputs.uncertainties,
        *inputs.quants,
        *inputs.dynamics,
    ]
    rows, seen = [], set()
    for report in reports:
        model, data, environment = report["model"], report["data"], report.get("environment", {})
        row = (
            text(model_name(model)),
            text(data["name"]),
            code(str(data.get("sha256", "unknown"))[:12]),
            f"{data['n_sequences']:,}",
            f"{data['n_tokens']:,}",
            str(data["phase"]),
            text(data.get("max_length", "")),
            text(f"{model.get('backend')}, {model.get('dtype')}"),
            code(environment["command"]) if environment.get("command") else "not recorded",
        )
        if row not in seen:
            seen.add(row)
            rows.append(row)
    if not rows:
        return
    yield "## Provenance"
    yield ""
    columns = ["model", "data", "sha256", "sequences", "tokens", "phase", "max length, tokens", "backend", "command"]
    yield from table(columns, rows)
