"""Models without some experts, with other weights of them, or with two of them as one: tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group
from rich.table import Table

from ...routing.metrics import chance_lift
from ...types import Facts, Json
from ..names import QUANTITIES
from ..numbers import count, decimals, with_interval
from .base import Terminal, interval_notes, plain_table, router_table, sentences
from .perturb import effect_cells, effect_columns, effects, effects_note, shown, tested


def print_pruned(report: Json, console: Console | None = None) -> None:
    """Print what pruning by a criterion does, and what random prunings do."""
    (console or Terminal()).print(render_pruned(report))


def render_pruned(report: Json) -> Group:
    """The tables of a report of pruning as one rich renderable."""
    settings = report["settings"]
    how = {"route-around": "others are chosen in their place", "zero": "nobody takes their place"}[settings["how"]]
    router = report["routers"][0]
    lines = [
        tested(report),
        f"{len(router['kept'])} of {router['n_experts']} experts of each router stay; {how}; chosen on "
        f"{_chosen_on(report)}",
        f"experts: {_mega(report['bytes']['experts'])}, then {_mega(report['bytes']['experts_after'])}; all weights: "
        f"{_mega(report['bytes']['all'])}, then {_mega(report['bytes']['all_after'])}",
    ]
    table = _arms(report, "by")
    table.add_column("entropy", justify="right")
    table.add_column("n_eff", justify="right")
    table.add_column("seconds", justify="right")
    before = report["before"]
    blank = [""] * (len(table.columns) - 4)
    table.add_row("as it is", *blank, *_use(before))
    for one in report["runs"]:
        table.add_row(_name(one["by"], one["seed"]), *effect_cells(one), *_use(one))
    note = f"{effects_note(report)}\nentropy, n_eff: means over routers; seconds: of the run; a mask saves none."
    return Group(sentences(lines, "bold"), table, *_beside(report), _notes(report, note))


def _beside(report: Json) -> list[Any]:
    lines = []
    if (random := report.get("against_random")) is not None:
        difference = random["loss_difference"]
        values = random["random_loss_changes"]
        lines.append(
            f"loss by {report['settings']['by']} minus the mean of random prunings: {shown(difference)} nats; lower "
            f"than {random['better_than']} of {random['n_random']}, whose changes are {decimals(min(values), 3)} to "
            f"{decimals(max(values), 3)}"
        )
    if (made := report.get("export")) is not None:
        speed = made["generation"]
        lines.append(
            f"{made['folder']}: {_mega(made['bytes_after'])} of {_mega(made['bytes_before'])}; logits differ from the "
            f"masked model's by {made['logits']['difference']:.1e} at most, of {made['logits']['largest']:.1f}; "
            f"generates {with_interval(speed['ratio']['value'], speed['ratio'], 2, decimals)} times as fast, where the "
            f"same model beside itself is {with_interval(speed['control']['value'], speed['control'], 2, decimals)} "
            f"(medians and quartiles over {speed['rounds']} rounds, each side by side; medians apart: "
            f"{decimals(speed['tokens_per_second'], 0)}, then {decimals(speed['tokens_per_second_after'], 0)} tokens a "
            "second)"
        )
    return [sentences(lines)] if lines else []


def print_reweighted(report: Json, console: Console | None = None) -> None:
    """Print what weights scaled towards accuracy do, and what the same factors do on other experts."""
    (console or Terminal()).print(render_reweighted(report))


def render_reweighted(report: Json) -> Group:
    """The tables of a report of reweighting as one rich renderable."""
    lines = [tested(report), f"factors chosen on {_chosen_on(report)}"]
    table = _arms(report, "towards")
    for one in report["runs"]:
        table.add_row(_name(one["towards"], one["seed"]), *effect_cells(one))
    factors, names = router_table(report["routers"], "Factors of the gate weights")
    for name in ("least", "most"):
        factors.add_column(name, justify="right")
    for router, cells in zip(report["routers"], names, strict=True):
        factors.add_row(*cells, *(decimals(pick(router["factors"]), 3) for pick in (min, max)))
    return Group(sentences(lines, "bold"), table, factors, _notes(report, effects_note(report)))


def print_candidates(report: Json, console: Console | None = None) -> None:
    """Print pairs of experts that are alike, and what merging the nearest costs."""
    (console or Terminal()).print(render_candidates(report))


def render_candidates(report: Json) -> Group:
    """The tables of a report of merging as one rich renderable."""
    parts: list[Any] = [sentences([tested(report), f"compared on {_chosen_on(report)}"], "bold")]
    costs = {(one["router"], one["alike"], *one["pair"]): one for one in report["runs"]}
    for name in ("weights", "outputs"):
        if any(isinstance(router["candidates"][name], list) for router in report["routers"]):
            parts.append(_candidates(report, name, costs))
    note = (
        "weights, outputs: cosine of the two experts' weights, and mean cosine of their outputs over the tokens that "
        "chose both. together: those tokens. lift over chance: those over what independent choices would give, "
        "and that over the same of even routing.\n"
        "loss change: with both experts of the pair as their mean, weighted by use; of that router alone."
    )
    return Group(*parts, _notes(report, note))


def _candidates(report: Json, name: str, costs: dict[Any, Json]) -> Table:
    table, names = router_table(report["routers"], f"Most alike in {name}")
    table.add_column("pair")
    for head in ("weights", "outputs", "together", QUANTITIES["lift"].symbol):
        table.add_column(head, justify="right")
    table.add_column("loss change", no_wrap=True)
    for number, (router, cells) in enumerate(zip(report["routers"], names, strict=True)):
        pairs, chance = router["candidates"][name], chance_lift(router["n_experts"], router["top_k"])
        for one in pairs if isinstance(pairs, list) else ():
            i, j = one["pair"]
            cost = costs.get((number, name, i, j))
            lift = decimals(one["lift"] / chance if chance and one["lift"] is not None else None, 2)
            row = [f"{i}, {j}", decimals(one["weights"], 3), decimals(one["outputs"], 3), f"{one['together']:,}", lift]
            table.add_row(*cells, *row, shown(cost["loss_change"]) if cost else "")
    return table


def _arms(report: Json, head: str) -> Table:
    table = plain_table()
    table.add_column(head)
    effect_columns(table, report)
    return table


def _use(one: Facts) -> list[str]:
    routing = one["routing"]
    return [decimals(routing["mean_entropy"], 3), decimals(routing["n_eff"], 1), decimals(one["seconds"], 1)]


def _name(kind: str, seed: int | None) -> str:
    return kind if seed is None else f"{kind}, seed {seed}"


def _chosen_on(report: Json) -> str:
    data = report["chosen_on"]
    return (
        f"other texts of {data['name']}: {count(data['n_sequences'], 'sequence')}, {count(data['n_counted'], 'token')}"
    )


def _mega(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _notes(report: Json, note: str) -> Any:
    return interval_notes(note, effects(report["runs"]), report["settings"]["ci"])
