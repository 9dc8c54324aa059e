"""The block of a Hugging Face model card: its YAML fields and a table of how the model routes."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from ...errors import StatsError
from ...types import Facts, Json
from ..figures import Answer, answer
from ..findings import counted
from ..inputs import Inputs, Run
from ..markdown import Cells, code, listed, table, text
from ..names import SUMMARY, model_name, sizes
from ..numbers import count

TASK = {"type": "text-generation", "name": "Text generation"}
PROJECT = "mlx_moebench"


def to_card(inputs: Inputs) -> str:
    """YAML fields between ``---`` lines, then ``## Routing``: to go at the top of a README.md on the Hub.

    The fields are ``tags`` and a ``model-index`` with an entry per model and in it a result per data set and kind of
    router. A metric's ``args`` hold its unit, interval, level and method; those without a value are left out, because
    the Hub requires one. Raises `StatsError` where there is no run to speak of.
    """
    reports = list(_reports(inputs))
    if not reports:
        raise StatsError("A model card needs a stats pair: give what analyze or profile wrote.")
    models: dict[str, list[Json]] = {}
    for report in reports:
        models.setdefault(model_name(report["model"]), []).extend(_results(report))
    fields = {
        "tags": ["mixture-of-experts", "routing", PROJECT],
        "model-index": [{"name": name, "results": results} for name, results in models.items()],
    }
    front = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{front}---\n\n" + "\n".join(_section(inputs, reports)) + "\n"


def _reports(inputs: Inputs) -> Iterator[Json]:
    """The report of each domain of each run; of several, without what flags on one domain say."""
    for run in inputs.runs:
        yield from map(_without_flags, run.domains.values()) if run.domains else (run.report,)


def _without_flags(report: Json) -> Json:
    kinds = report["summary_by_router"].items()
    return report | {
        "summary_by_router": {
            kind: {name: entry for name, entry in summary.items() if name != "collapsed_fraction"}
            for kind, summary in kinds
        }
    }


def _results(report: Facts) -> Iterator[Json]:
    data, level = report["data"], report["settings"]["ci"]["level"]
    facts = ("phase", "n_sequences", "n_tokens", "max_length", "sha256")
    for kind, summary in report["summary_by_router"].items():
        arguments = {key: data[key] for key in facts if data.get(key) is not None}
        metrics = [
            {
                "type": name,
                "name": f"{words} ({unit})",
                "value": summary[name]["value"],
                "args": {"unit": unit, **_interval(summary[name], level)},
            }
            for name, words, unit in SUMMARY
            if name in summary and summary[name]["value"] is not None
        ]
        dataset = {"type": _data_id(data), "name": str(data["name"]), "args": arguments | {"router": kind}}
        yield {"task": dict(TASK), "dataset": dataset, "metrics": metrics}


def _data_id(data: Facts) -> str:
    """The id on the Hub of a data set that comes from there, else its name."""
    return str(data["name"]).removeprefix("hub:").partition(":")[0] or "data"


def _interval(entry: Facts, level: float) -> Json:
    if entry.get("low") is None:
        return {"reason": str(entry.get("reason") or "no interval for this number")}
    return {"low": entry["low"], "high": entry["high"], "level": level, "method": entry["method"]}


def _section(inputs: Inputs, reports: list[Json]) -> Iterator[str]:
    cells = Cells()
    yield "## Routing"
    yield ""
    yield "How the routers of this model choose experts, measured with mlx_moebench."
    yield ""
    yield from (line for said in spoken(answer(inputs)) for line in (said, ""))
    columns = [_column(report, reports) for report in reports]
    kinds = list(dict.fromkeys(kind for report in reports for kind in report["summary_by_router"]))
    rows = []
    for kind in kinds:
        for name, words, unit in SUMMARY:
            entries = [report["summary_by_router"].get(kind, {}).get(name) for report in reports]
            if any(entry is not None for entry in entries):
                label = f"{words}, {kind} routers" if len(kinds) > 1 else words
                rows.append([label, unit, *(cells.cell(e, 3) if e else "" for e in entries)])
    yield from table(["", "unit", *columns], rows)
    yield ""
    yield from listed(cells)
    yield from words_of(inputs.runs)
    yield from _sources(reports)


def spoken(words: Answer) -> Iterator[str]:
    """The verdicts and sentences of an answer as Markdown; what went wrong, or well, in bold words."""
    for verdict in words.verdicts:
        yield f"**{verdict.heading}**{text(verdict.sentence.removeprefix(verdict.heading))}"
    yield from map(text, words.sentences)


def _column(report: Facts, reports: list[Json]) -> str:
    """The data set, and the model where there are several."""
    several = len({model_name(other["model"]) for other in reports}) > 1
    phases = len({other["data"]["phase"] for other in reports}) > 1
    name = text(report["data"]["name"]) + (f", {report['data']['phase']}" if phases else "")
    return f"{text(model_name(report['model']))} on {name}" if several else name


def words_of(runs: tuple[Run, ...]) -> Iterator[str]:
    """How many routers of each run of several domains got which word, as list items."""
    for run in runs:
        for kind, words in run.report.get("words_by_router", {}).items():
            domains = ", ".join(text(name) for name in sorted(run.domains))
            yield f"- Over {domains}: {counted(words)}, of {count(sum(words.values()), f'{kind} router')}."


def _sources(reports: list[Json]) -> Iterator[str]:
    for report in reports:
        data, counted = report["data"], sizes(report)
        command = report["environment"].get("command")
        made = f", made by {code(command)}" if command else ""
        yield f"- {text(data['name'])}: {counted}, data sha256 {code(str(data.get('sha256', 'unknown'))[:12])}{made}."
    methods = [r["settings"]["ci"]["method"] for r in reports if r["summary"]["mean_entropy"].get("low") is not None]
    if methods:
        over = " or ".join(dict.fromkeys("layers" if method == "layer" else "sequences" for method in methods))
        yield ""
        yield f"[low, high] is an interval over {over}; its level and method are in the fields above."
