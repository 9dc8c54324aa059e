"""Which tokens each expert takes, from a trace: the report and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ...data.trace import Shard, Trace
from ...errors import TraceError
from ...routing.record import Phase, RouterSpec
from ...routing.vocabulary import MIN_COUNT, VocabularySpecialisation, vocabulary_specialisation
from .routers import model_name

Of = Literal["input", "next", "predicted"]
"""The id that a token is counted under: its own, that of the token after it, or the one that the model expects."""

WHY_NO_INTERVAL = (
    "resampling sequences changes how often each id occurs, and with it the largest of E shares; compare with the null"
)


def vocabulary_report(
    path: str | Path,
    of: Of = "input",
    *,
    layers: Sequence[int] = (),
    phase: Phase = "prefill",
    min_count: int = MIN_COUNT,
    permutations: int = 200,
    seed: int = 0,
    top: int = 5,
) -> dict[str, Any]:
    """Vocabulary specialisation of the routers in some layers of a trace, as JSON has it.

    layers: block indices; none means all. top: ids given of each expert, those of which it takes the largest share.
    Reads the ids and the experts of the chosen routers into memory, K bytes per token and router (2 K above 256
    experts). Raises `TraceError` for a bad trace, a layer without a router, or predictions that were not kept.
    """
    if of not in get_args(Of):
        raise TraceError(f"Ids are input, next or predicted, not {of!r}.")
    trace = Trace(path)
    specs = [spec for spec in trace.specs if spec.layer in layers or not layers]
    if missing := sorted({*layers} - {spec.layer for spec in trace.specs}):
        have = ", ".join(str(layer) for layer in sorted({spec.layer for spec in trace.specs}))
        raise TraceError(f"The trace in {path} has no router in layer {missing[0]}; it has layers {have}.")
    if of == "predicted" and not trace.predictions:
        raise TraceError(f"The trace in {path} holds no predictions: make it with analyze --trace-predictions.")
    ids, sequence, experts = _tokens(trace, of, specs, phase)
    texts = trace.texts()
    routers = []
    for spec in specs:
        found = vocabulary_specialisation(
            ids,
            experts[spec.name],
            sequence,
            spec.n_experts,
            min_count=min_count,
            permutations=permutations,
            seed=seed,
        )
        routers.append(_router(spec, found, texts, top))
    data = trace.manifest["data"]
    return {
        "schema_version": "1",
        "model": trace.manifest["model"],
        "data": {**data, "phase": phase, "complete": trace.complete},
        "settings": {"of": of, "min_count": min_count, "permutations": permutations, "seed": seed},
        "n_tokens": int((ids >= 0).sum()),
        "n_sequences": len(np.unique(sequence)),
        "routers": routers,
    }


def _tokens(
    trace: Trace, of: Of, specs: Sequence[RouterSpec], phase: Phase
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, npt.NDArray[Any]]]:
    """(id or -1 [T], sequence [T], experts [T, K] of each router) of a whole trace."""
    ids: list[npt.NDArray[Any]] = [np.zeros(0, np.int64)]
    sequences: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
    experts: dict[str, list[npt.NDArray[Any]]] = {spec.name: [np.zeros((0, spec.top_k), np.uint8)] for spec in specs}
    before = 0
    for shard in trace.shards(phase):
        ids.append(_ids(shard, of))
        sequences.append(shard.sequence + before)
        before += shard.n_sequences
        for name, kept in experts.items():
            kept.append(shard.arrays[f"{name}.experts"])
    return (
        np.concatenate(ids),
        np.concatenate(sequences),
        {name: np.concatenate(kept) for name, kept in experts.items()},
    )


def _ids(shard: Shard, of: Of) -> npt.NDArray[np.int64]:
    if of == "predicted":
        return shard.arrays["token.predicted"].astype(np.int64)
    own = shard.arrays["token.id"].astype(np.int64)
    if of == "input":
        return own
    following = np.full_like(own, -1)  # a sequence's last token has no next one here
    same = shard.sequence[1:] == shard.sequence[:-1]
    following[:-1][same] = own[1:][same]
    return following


def _router(spec: RouterSpec, found: VocabularySpecialisation, texts: dict[int, str], top: int) -> dict[str, Any]:
    facts = {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k")}
    if not len(found.ids):
        return {**facts, "n_ids": 0, "value": None, "reason": "no id occurs often enough", "experts": []}
    experts = []
    for expert in range(spec.n_experts):
        share = found.shares[:, expert]
        order = np.lexsort((-found.n_tokens, -share))[:top]
        tokens = [
            {
                "id": int(found.ids[x]),
                "text": texts.get(int(found.ids[x]), ""),
                "n_tokens": int(found.n_tokens[x]),
                "share": float(share[x]),
                "null_share": float(found.null_shares[x, expert]),
            }
            for x in order
            if share[x] > 0
        ]
        experts.append({"expert": expert, "tokens": tokens})
    return {
        **facts,
        "n_ids": len(found.ids),
        "value": found.value,
        "low": None,
        "high": None,
        "reason": WHY_NO_INTERVAL,
        "null": {"mean": found.null_mean, "low": found.null_low, "high": found.null_high},
        "p_value": found.p_value,
        "chance": spec.top_k / spec.n_experts,
        "experts": experts,
    }


def print_vocabulary(report: dict[str, Any], console: Console | None = None) -> None:
    """Print each router's specialisation, and the tokens of the experts of the most specialised router."""
    (console or Console()).print(render(report))


def render(report: dict[str, Any]) -> Group:
    """The tables of a report as one rich renderable."""
    settings, data = report["settings"], report["data"]
    heading = Text(
        f"{model_name(report['model'])} on {data['name']}: {settings['of']} ids of {report['n_tokens']:,} tokens in "
        f"{report['n_sequences']:,} sequences, {data['phase']}",
        style="bold",
    )
    known = [r for r in report["routers"] if r["value"] is not None]
    if not known:
        return Group(heading, Text(f"null: no id occurs {settings['min_count']} times or more."))
    most = max(known, key=lambda r: r["value"] - r["null"]["mean"])
    note = (
        f"specialisation: mean over the ids that occur {settings['min_count']} times or more of the largest share of "
        "an id's tokens that one expert takes.\n"
        f"null: mean and middle 95% of {settings['permutations']:,} rotations, in which the experts move round each "
        "sequence and the ids stay; p as large by chance. No interval: " + WHY_NO_INTERVAL + "."
    )
    if not data["complete"]:
        note += "\nunfinished: the run that wrote this trace did not end; analyze --resume goes on."
    return Group(heading, _summary(known), _experts(most, settings["of"]), Text(note, style="dim"))


def _summary(routers: list[dict[str, Any]]) -> Table:
    kinds = {r["router"] for r in routers}
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("layer", justify="right")
    if len(kinds) > 1:
        table.add_column("router")
    for name in ("ids", "specialisation"):
        table.add_column(name, justify="right")
    table.add_column("null", no_wrap=True)
    table.add_column("p", justify="right")
    for r in routers:
        null = r["null"]
        table.add_row(
            str(r["layer"]),
            *([r["router"]] if len(kinds) > 1 else []),
            str(r["n_ids"]),
            f"{r['value']:.3f}",
            f"{null['mean']:.3f}, {null['low']:.3f} to {null['high']:.3f}",
            f"{r['p_value']:.3f}",
        )
    return table


def _experts(router: dict[str, Any], of: str) -> Table:
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=f"Layer {router['layer']} ({router['router']}): {of} ids by the share of their tokens, null in brackets",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("expert", justify="right")
    table.add_column("tokens", overflow="fold")
    for expert in router["experts"]:
        words = [f"{_shown(t['text'])} {t['share']:.2f} ({t['null_share']:.2f})" for t in expert["tokens"]]
        table.add_row(str(expert["expert"]), Text("  ".join(words)))
    return table


def _shown(text: str) -> str:
    """Spaces and line ends made visible."""
    return text.replace("\n", "\\n").replace("\t", "\\t").replace(" ", "␣")
