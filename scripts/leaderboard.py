"""Stats pairs as one Markdown table: a row per model, domain, phase and kind of router, numbers with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from published import ENTROPIES, QUANTITIES, in_words, possible_names

from mlx_moebench.options import COLLAPSE_SHARES, Plan
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.pair.storage import pair_paths, read_report
from mlx_moebench.show.markdown import Cells
from mlx_moebench.show.names import model_name

PEAKS = tuple(f"peak_{share}" for share in COLLAPSE_SHARES)
COLUMNS = (
    *("model", "domain", "texts", "tokens", "collapsed, fraction of routers", "mean entropy, nats"),
    *("busiest, of tokens", "busiest, of selections", "busiest, of first choices", "n_eff, experts"),
    *("data", "backend", "run"),
)


def plan_of(report: Mapping[str, Any]) -> Plan:
    """The plan by which a report's intervals were made."""
    return Plan(**report["settings"]["ci"])


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The reports that a stats pair gives rows of: its own, or with several data sets that of each, by name.

    With the JSON alone its values stand without intervals, and several data sets stay one row. Raises `StatsError` for
    what is no pair, or whose halves are of two runs.
    """
    report = read_report(path)
    if not pair_paths(path)[1].exists() or "sources" not in report["data"]:
        return [report]
    return [part.report(plan_of(report)) for part in RoutingStats.load(path).by_domain().values()]


def leaderboard(reports: Iterable[Mapping[str, Any]]) -> str:
    """The table in Markdown, then why intervals are missing and which command made each row."""
    cells, commands = Cells(), dict[str, int]()
    lines = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    for report in reports:
        command = report["environment"].get("command", "not recorded")
        run = commands.setdefault(command, len(commands) + 1)
        kinds = report["summary_by_router"]
        for kind, summary in kinds.items():
            lines.append(_line(_row(report, kind if len(kinds) > 1 else "", summary, run, cells)))
    lines += ["", *_listed(cells.notes())]
    return "\n".join([*lines, *(f"{number}. `{command}`" for command, number in commands.items())]) + "\n"


def _row(report: Mapping[str, Any], kind: str, summary: Mapping[str, Any], run: int, cells: Cells) -> list[str]:
    model, data = report["model"], report["data"]
    backend = "counts" if model.get("backend") == "counts" else f"{model.get('backend')}, {model.get('dtype')}"
    shown = model_name(model) + (f", {kind} routers" if kind else "")
    return [
        shown.replace("|", r"\|"),
        f"{data['name']}, {data['phase']}",
        "not known" if model.get("backend") == "counts" else f"{data['n_sequences']:,}",
        f"{data['n_tokens']:,}",
        cells.cell(summary["collapsed_fraction"], 2),
        cells.cell(summary["mean_entropy"], 3),
        *(cells.cell(summary[name], 3) for name in PEAKS),
        cells.cell(summary["n_eff"], 2),
        f"`{data['sha256'][:8]}`",
        backend,
        f"{run}",
    ]


def published_table(published: Mapping[str, Any]) -> str:
    """The rows of others in Markdown, as they printed them, with which quantity each figure can be."""
    columns = ("model", "top-K of E", "collapsed, fraction of layers", "mean entropy", "peak share")
    lines = [_line([*columns, "the entropy can be", "the share can be"]), _line(["---"] * 7)]
    for row in published["rows"]:
        figures, form = row["figures"], (row["n_experts"], row["top_k"])
        can = [
            "; ".join(QUANTITIES[name] for name in possible_names(names, figures[figure], *form)) or "none of these"
            for names, figure in ((ENTROPIES, "mean_entropy"), (COLLAPSE_SHARES, "peak_share"))
        ]
        printed = [figures[name]["printed"] for name in ("collapsed_fraction", "mean_entropy", "peak_share")]
        lines.append(_line([row["model"], f"{row['top_k']} of {row['n_experts']}", *printed, *can]))
    return "\n".join(lines) + "\n"


def headline_table(rows: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> str:
    """What a measurement says of every published figure, then what that rests on.

    rows: (model, how it was run, entries of `published.held_against`).
    """
    cells = Cells()
    answers = [_line(["model", "run", "figure", "published", "answer"]), _line(["---"] * 5)]
    grounds = [_line(["model", "figure", "held against", "measured", "answer", "why"]), _line(["---"] * 6)]
    for model, how, entries in rows:
        for figure in dict.fromkeys(e["figure"] for e in entries):
            of = [e for e in entries if e["figure"] == figure]
            answers.append(_line([model, how, figure, f"{of[0]['published']:g}", in_words(of)]))
        for e in entries:
            against = f"{e['quantity']}, {e['router']} routers"
            grounds.append(_line([model, e["figure"], against, cells.cell(e, 3), e["verdict"], e["why"] or ""]))
    return "\n".join([*answers, "", "What each rests on:", "", *grounds, "", *_listed(cells.notes())])


def _listed(notes: Sequence[str]) -> list[str]:
    return [*(f"- {note}" for note in notes), ""] if notes else []


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def leaderboard_of(paths: Sequence[Path]) -> str:
    """`leaderboard` of the stats pairs at ``paths``: by model, falling bits, prompts before generated text, domain."""

    def place(report: Mapping[str, Any]) -> tuple[Any, ...]:
        model, data = report["model"], report["data"]
        bits = model.get("weight_bits") or 0
        return (
            str(model.get("id")),
            -bits,
            data["phase"] == "decode",
            data["name"],
            report["environment"].get("command"),
        )

    return leaderboard(sorted((report for path in paths for report in rows_of(path)), key=place))


def rebuilt(path: Path, plan: Plan | None = None) -> RoutingStats:
    """Make the report of a pair again from its sums, with other intervals, and write it; the sums stay as they are.

    plan: None keeps that of the report. Raises `StatsError` where the sums are missing.
    """
    stats = RoutingStats.load(path)
    stats.save(path, plan or plan_of(read_report(path, verify=False)))
    return stats
