"""results/libmoe/README.md and its pictures, from runs.json and theirs.json beside them: see run_libmoe_study.py."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from libmoe_pictures import PICTURES
from libmoe_read import (
    MAIN,
    NAMES,
    ROUTERS,
    Study,
    estimate,
    final_ce,
    last,
    overlap,
    perturbed,
    survives,
    table,
)
from run_rescue import interval
from scipy.stats import rankdata

from mlx_moebench.files import write_aside
from mlx_moebench.show.plots.base import picture
from mlx_moebench.types import Json

TEMPLATE = "README.in.md"
ENOUGH = 3
"""Seeds from which orderings are claimed."""

# -- the tables --------------------------------------------------------------------------------------------------------


def ranks(study: Study, arms: Sequence[str]) -> dict[str, list[float]]:
    """Of each arm its rank by held-out loss among ``arms``, of every seed that all of them have."""
    seeds = study.common(arms)
    rows = [rankdata([final_ce(study.arms[arm][seed]) for arm in arms]) for seed in seeds]
    return {arm: [float(row[n]) for row in rows] for n, arm in enumerate(arms)}


def their_ranks(study: Study, size: str) -> dict[str, float]:
    """Mean ranks over the nine tasks, computed from the columns of their table 2."""
    rows = study.theirs["table2"][size]
    scores = np.array([list(row["tasks"].values()) for row in rows.values()])
    means = np.mean([rankdata(-column) for column in scores.T], axis=0)
    return {arm: float(mean) for arm, mean in zip(rows, means, strict=True)}


def performance(study: Study) -> str:
    """The shape of their table 2."""
    arms = study.of(MAIN)
    ours, common = ranks(study, arms), study.common(arms)  # a mean over other seeds would be of other texts
    theirs = {size: (study.theirs["table2"][size], their_ranks(study, size)) for size in ("158m", "679m")}
    rows = []
    for arm in arms:
        first = study.arms[arm][min(study.arms[arm])]
        ce = interval([final_ce(study.arms[arm][seed]) for seed in common or study.arms[arm]])
        cells = [NAMES[arm], f"{first['parameters']['total']:,}", f"{first['parameters']['active']:,}", estimate(ce)]
        cells += [f"{math.exp(ce['value']):.2f}", ", ".join(f"{rank:g}" for rank in ours[arm])]
        for printed, again in theirs.values():
            cells += [f"{printed[arm]['ppl']:.2f}" if arm in printed else "", _their_rank(printed, again, arm)]
        rows.append(cells)
    columns = ("", "parameters", "active", "CE, nats a token", "PPL", "rank, seed by seed")
    return table((*columns, "theirs: PPL, 158M", "rank", "theirs: PPL, 679M", "rank"), rows)


def _their_rank(printed: Json, again: Mapping[str, float], arm: str) -> str:
    if arm not in printed:
        return ""
    written = f"{again[arm]:.2f}"
    return (
        written
        if abs(again[arm] - printed[arm]["printed_rank"]) < 0.3
        else f"{written} (printed {printed[arm]['printed_rank']:.2f})"
    )


def orderings(study: Study) -> str:
    """Which of two is better, for all pairs: what survives the seeds, and what does not."""
    arms = study.of(MAIN)
    every = {pair: study.paired(*pair, final_ce) for pair in combinations(arms, 2)}
    pairs = {pair: d for pair, d in every.items() if d["seeds"] > 1}
    kept = {pair: d for pair, d in pairs.items() if survives(d)}
    alike = [pair for pair, d in pairs.items() if d["same_sign"] and pair not in kept]
    lines = [
        f"Of {len(pairs)} pairs with more than one seed {len(kept)} have one order in all seeds and an interval that "
        f"leaves 0 out; {len(alike)} more have one order in all seeds, but an interval with 0 in it; in the other "
        f"{len(pairs) - len(kept) - len(alike)} the seeds disagree."
        + (f" Of {len(every) - len(pairs)} more pairs only one seed ran." if len(every) > len(pairs) else "")
        + " With so few seeds an interval is wide: a difference that does not survive is not shown to be none. The "
        "intervals are of single pairs, not of all at once."
    ]
    if (seeds := max((d["seeds"] for d in every.values()), default=0)) < ENOUGH:
        lines.insert(0, f"With {seeds} of {ENOUGH} seeds, **no ordering is claimed**; the tables show what ran.")
    if not pairs:
        return lines[0]
    rows = []
    for (a, b), d in sorted(kept.items(), key=lambda item: -abs(item[1]["value"])):
        better, worse = (a, b) if d["value"] < 0 else (b, a)
        flipped = d if d["value"] < 0 else d | {"value": -d["value"], "low": -d["high"], "high": -d["low"]}
        rows.append((NAMES[better], NAMES[worse], estimate(flipped, sign=True), _in_theirs(study, better, worse)))
    among = [[pair for pair in of if set(pair) <= set(ROUTERS)] for of in (kept, pairs)]
    lines.append(f"Between two routers {len(among[0])} of {len(among[1])} orders survive.")
    return "\n\n".join([*lines, table(("better", "worse", "CE difference", "in their PPL, 158M, 679M"), rows)])


def _in_theirs(study: Study, better: str, worse: str) -> str:
    said = []
    for size in ("158m", "679m"):
        rows = study.theirs["table2"][size]
        if better in rows and worse in rows:
            a, b = rows[better]["ppl"], rows[worse]["ppl"]
            said.append("same" if a < b else "equal" if a == b else "opposite")
    return ", ".join(said) or "not there"


def against_dense(study: Study) -> str:
    """Each mixture against the two dense models."""
    dense = study.of(("dense", "dense2"))
    mixtures = study.of(ROUTERS)
    differences = {d: {arm: study.paired(arm, d, final_ce) for arm in mixtures} for d in dense}
    said = [_beaten(NAMES[d], list(of.values())) for d, of in differences.items()]
    said += [_gap(study, d, mixtures) for d in dense]
    said.append(
        "LibMoE finds all mixtures better than the dense model of the same FLOPs at both sizes, and says that SMoE "
        "matches twice the FLOPs."
    )
    rows = [(NAMES[arm], *(estimate(differences[d][arm], sign=True) for d in dense)) for arm in mixtures]
    return "\n\n".join([" ".join(said), table(("", *(f"CE less that of {NAMES[d]}" for d in dense)), rows)])


def _beaten(name: str, differences: Sequence[Json]) -> str:
    """Of how many mixtures the order against a dense model survives, and in which direction."""
    kept = [d["value"] < 0 for d in differences if survives(d)]
    return (
        f"Against {name}, {sum(kept)} of {len(differences)} mixtures are better in all seeds with an interval below 0, "
        f"{len(kept) - sum(kept)} worse with one above it."
    )


def _gap(study: Study, dense: str, mixtures: Sequence[str]) -> str:
    """How the mean difference changes over training: whether it is still closing, or opening, at the end."""
    steps = [step for step, _ in study.arms[dense][min(study.arms[dense])]["validation"]][1:]
    gaps = []
    for place in range(1, len(steps) + 1):
        at = partial(_ce_at, place=place)
        differences = [study.paired(arm, dense, at) for arm in mixtures]
        gaps.append(float(np.mean([d["value"] for d in differences if d["seeds"]])))
    listed = ", ".join(f"{gap:+.3f} at {step}" for gap, step in zip(gaps, steps, strict=True))
    return f"The mean difference from {NAMES[dense]}, by update: {listed}."


def _ce_at(run: Json, place: int) -> float:
    return float(run["validation"][place][1])


def temperatures(study: Study) -> str:
    """The shape of their table 7, in losses."""
    taus = {"temperature=10": "10.0", "temperature=0.1": "0.1"}
    rows = []
    for arm in study.of((*ROUTERS, "xmoe-double")):
        cells = [NAMES[arm]]
        for name, tau in taus.items():
            cells.append(estimate(interval(study.values(arm, partial(perturbed, name=name))), sign=True))
            for size in ("158m", "679m"):
                of = study.theirs["table7"][size]
                cells.append(f"{of[tau]['BLiMP'][arm] - of['1.0']['BLiMP'][arm]:+.2f}" if arm in ROUTERS else "")
        rows.append(cells)
    columns = ["", *(c for tau in ("10", "0.1") for c in (f"tau {tau}: change of loss", "theirs: BLiMP, 158M", "679M"))]
    return table(columns, rows)


def balance(study: Study) -> str:
    """The shape of their table 8."""
    rows = []
    for arm in study.of(("smoe", "smoe-unbalanced", "smoe-z")):
        ce = interval(study.values(arm, final_ce))
        cells = [NAMES[arm], estimate(ce), f"{math.exp(ce['value']):.2f}"]
        cells.append("" if arm == "smoe" else estimate(study.paired(arm, "smoe", final_ce), 4, sign=True))
        cells += [
            estimate(interval(study.values(arm, partial(last, metric=m))))
            for m in ("cv", "max_violation", "dead_experts")
        ]
        theirs = study.theirs["table8"][arm]
        rows.append([*cells, f"{theirs['ppl']:.2f}", f"{theirs['average']:.2f}%"])
    columns = (
        "",
        "CE",
        "PPL",
        "CE less that of SMoE",
        "load CV",
        "MaxVio",
        "dead experts",
        "theirs: PPL, 158M",
        "mean of 9 tasks",
    )
    return table(columns, rows)


def costs(study: Study) -> str:
    """The shape of their table 9: time and memory."""
    rows = []
    for arm in study.of((*MAIN, "xmoe-double", "sigma-libmoe", "shared_v3-libmoe")):
        runs = [run for _, run in sorted(study.arms[arm].items())]
        cpu = [run["tokens_trained"] / run["cpu_seconds"] for run in runs if run["cpu_seconds"]]
        cells = [NAMES[arm]]
        cells += [
            f"{np.median(cpu):,.0f}" if cpu else "",
            f"{np.median([run['peak_memory_gb'] for run in runs]) * 1000:,.0f}",
        ]
        hours = [study.theirs["table9_hours"].get(size, {}).get(arm) for size in ("158m", "679m")]
        rows.append([*cells, *(f"{h:.2f}" if h else "" for h in hours)])
    columns = (
        "",
        "tokens per second of processor, all of the run",
        "peak MB",
        "theirs: hours on 4 H100, 158M",
        "679M",
    )
    return table(columns, rows)


# -- routing -----------------------------------------------------------------------------------------------------------


def routing(study: Study) -> str:
    """What routers do at the end, by arm."""
    quantities: dict[str, Callable[[Json], float]] = {
        "EAE": partial(last, metric="eae"),
        "normalised EWA": partial(last, metric="ewa"),
        "margin, first layer": partial(last, metric="margin_prob", layer=0),
        "last layer": partial(last, metric="margin_prob", layer=-1),
        "saturation, first snapshot, top-K": lambda run: overlap(run, "final", "routing_overlap")[1],
        "change rate, first": lambda run: 1 - overlap(run, "before", "routing_overlap")[0],
        "last": lambda run: 1 - overlap(run, "before", "routing_overlap")[-1],
        "similarity of experts": lambda run: float(np.mean(run["measured"]["similarity"])),
        "co-activation, correlation with the end": lambda run: float(
            np.mean(run["measured"]["coactivation_stability"][-2])
        ),
    }
    arms = study.of((*ROUTERS, "xmoe-double"))
    rows = [(NAMES[arm], *(estimate(interval(study.values(arm, q))) for q in quantities.values())) for arm in arms]
    return table(("", *quantities), rows)


def double_softmax(study: Study) -> str:
    """The one-flag experiment."""
    if not study.of(("xmoe-double",)):
        return "Softmax twice did not run."
    ewa = {"xmoe-double": study.values("xmoe-double", partial(last, metric="ewa"))}
    lowest = {
        arm: min(
            r["ewa"] for run in study.arms[arm].values() for s in run["measured"]["snapshots"] for r in s["routers"]
        )
        for arm in ewa
    }
    difference = study.paired("xmoe-double", "xmoe", final_ce)
    single = [r["ewa"] for run in study.arms["xmoe"].values() for r in run["measured"]["snapshots"][-1]["routers"]]
    return (
        f"A softmax of a softmax lies so near to even that normalised EWA at the end is "
        f"{min(ewa['xmoe-double']):.5f} or more in every seed (smallest of any router at any snapshot "
        f"{lowest['xmoe-double']:.5f}), whatever the logits say; with one softmax single routers "
        f"have {min(single):.3f} to {max(single):.3f} at the end. The high and even "
        f"EWA of XMoE in LibMoE's figure 7, and its "
        f"robustness to temperature in their table 7, are what a second softmax, as their code has, "
        f"would give any router. "
        f"Here it changes the loss by "
        f"{estimate(difference, 4, sign=True)} nats a token"
        f"{'' if survives(difference) else ', which does not survive the seeds'}."
    )


def trends(study: Study) -> str:
    """Margin with depth, change rates and saturation over training: in how many runs."""
    runs = [run for arm in study.of(ROUTERS) for run in study.arms[arm].values()]
    change = [overlap(run, "before", "routing_overlap") for run in runs]
    saturation = [overlap(run, "final", "routing_overlap") for run in runs]
    falls = sum(of[-1] > of[0] for of in change)
    rises = sum(all(a < b for a, b in pairwise(of)) for of in saturation)
    first = np.median([of[1] for of in saturation])
    deeper = {
        arm: [last(r, "margin_prob", -1) > last(r, "margin_prob", 0) for r in study.arms[arm].values()]
        for arm in study.of(ROUTERS)
    }
    always = [NAMES[arm] for arm, of in deeper.items() if all(of)]
    never = [NAMES[arm] for arm, of in deeper.items() if not any(of)]
    return (
        f"The change rate between snapshots is smaller at the end than at the beginning in {falls} of {len(runs)} "
        f"runs, and top-K saturation rises from each snapshot to the next in {rises}; the rate of learning falls to a "
        f"tenth, which slows every weight down. At the first snapshot, after a fifth of the updates, the median router "
        f"has {first:.0%} of its final experts. The margin of the last layer is above that of the first in all seeds "
        f"for {', '.join(always) or 'no router'}, in none for {', '.join(never) or 'no router'}; LibMoE has it rise "
        "with depth for all, in models four times as deep."
    )


def drops(study: Study) -> str:
    """Their figure 5."""
    names = {"drop-top1": "DropTop1", "drop-top1-2": "DropTop1&2", "remove-top1": "first choice removed"}
    arms = study.of((*ROUTERS, "xmoe-double"))
    rows = [
        (NAMES[arm], *(estimate(interval(study.values(arm, partial(perturbed, name=n))), sign=True) for n in names))
        for arm in arms
    ]
    return table(("change of loss, nats a token", *names.values()), rows)


def initial(study: Study) -> str:
    """Their figure 11, with what it leaves out."""
    arms = study.of(("smoe-std0", "smoe-std0.02", "smoe-std0.04", "smoe", "smoe-std0.06"))
    if len(arms) < 2:
        return "The initial deviations did not run."
    rows = []
    for arm in sorted(
        arms, key=lambda a: study.settings["own_std"] if a == "smoe" else float(a.removeprefix("smoe-std"))
    ):
        begin: list[list[float]] = [[] for _ in range(3)]
        for run in study.arms[arm].values():
            for of, key in zip(begin, ("routing_loss", "load_cv", "max_violation"), strict=True):
                of.append(run["curve"][0][key])
        cells = [
            NAMES[arm] if arm != "smoe" else f"SMoE, its own {study.settings['own_std']:.4f}",
            *(estimate(interval(of)) for of in begin),
        ]
        cells += [estimate(interval(study.values(arm, partial(last, metric=m)))) for m in ("cv", "max_violation")]
        rows.append([*cells, estimate(interval(study.values(arm, final_ce)))])
    columns = (
        "",
        "balance loss, first 10 updates",
        "load CV, same",
        "MaxVio, same",
        "load CV, end",
        "MaxVio, end",
        "CE, end",
    )
    return table(columns, rows)


def page(study: Study, template: str) -> str:
    """README.md."""
    runs = [run for of in study.arms.values() for run in of.values()]
    missing = [NAMES[arm] for arm in NAMES if arm not in study.arms]
    return template.format(
        count=len(runs),
        parameters=" to ".join(f"{of(run['parameters']['total'] for run in runs):,}" for of in (min, max)),
        steps=study.settings["steps"],
        batch=study.settings["batch_size"],
        length=study.settings["seq_length"],
        tokens=f"{runs[0]['tokens_trained']:,}",
        all_tokens=f"{study.data['tokens']:,}",
        files=", ".join(study.data["files"]),
        vocab=study.settings["vocab_size"],
        seeds=", ".join(str(seed) for seed in sorted({run["seed"] for run in runs})),
        missing=f" Not finished: {'; '.join(missing)}." if missing else "",
        texts=study.settings["texts"],
        cores=study.environment.get("processor", "a machine"),
        performance=performance(study),
        orderings=orderings(study),
        dense=against_dense(study),
        balance=balance(study),
        temperatures=temperatures(study),
        drops=drops(study),
        routing=routing(study),
        trends=trends(study),
        double=double_softmax(study),
        initial=initial(study),
        costs=costs(study),
    )


def _small(png: bytes) -> bytes:
    """The same picture in 256 colours, which takes half of the room."""
    from PIL import Image

    made = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    # Maximum coverage, or the colours of thin lines would turn into those of large areas.
    few = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)
    few.save(made, format="PNG", optimize=True)
    return made.getvalue()


def write_pages(folder: Path) -> None:
    """README.md and the pictures of ``folder``."""
    study = Study.read(folder)
    contents = {folder / "README.md": page(study, (folder / TEMPLATE).read_text("utf-8")).encode()}
    contents |= {
        folder / f"{name}.png": _small(picture(".png", partial(draw, study))) for name, draw in PICTURES.items()
    }
    write_aside(contents)
