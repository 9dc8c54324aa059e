"""Which experts matter: how often each is chosen, what it returns, and how right the answers are where it is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data import Dataset
from ..data.mmlu import Mmlu
from ..errors import DataError
from ..evaluate.accuracy import summarise
from ..evaluate.expert_accuracy import ExpertAccuracy, expert_accuracy
from ..files import write_aside
from ..options import Loading, Plan, Reading, Saving, Step, quiet_step
from ..pair.seal import sealed_text
from ..routing.comparison.choices import Estimate
from ..routing.comparison.differences import benjamini_hochberg
from ..routing.contributions import ContributionSums
from ..routing.intervals.bootstrap import Interval
from ..routing.intervals.ratios import ratio_intervals
from ..routing.record import RouterSpec
from ..types import Json
from .answers import Questions
from .expert_texts import Positions, Texts, corpus_texts, question_texts
from .kept_sums import KeptSums

SCHEMA_VERSION = "1"
KIND = "experts"
SUPER_TIMES = 10.0
"""A super-expert's largest output is above so many times the median of its router's experts."""


PRESETS: dict[str, tuple[str, Questions, Positions]] = {
    "olmoe-mmlu": ("allenai/OLMoE-1B-7B-0125-Instruct", Questions(split="test"), "last"),
}
"""Published measurements, as far as they are described: model, questions and positions. Chernov 2025 (arXiv 2502.17187)
counts one position of each of 14,042 questions; the prompts here are MMLU's own, without worked examples."""


def texts_of(
    runner: Any,
    checkpoint: Any,
    dataset: Dataset | None,
    mmlu: Mmlu | None,
    reading: Reading,
    positions: Positions,
    shots: int,
) -> Texts:
    """A corpus, or questions where there are some."""
    config = runner.config(checkpoint.model)
    if mmlu is not None:
        return question_texts(checkpoint, config, mmlu, positions, shots)
    assert dataset is not None
    return corpus_texts(checkpoint, config, dataset, reading, positions)


def experts(
    model: Any = None,
    dataset: Dataset | None = None,
    *,
    questions: Questions | None = None,
    positions: Positions = "last",
    weights: bool = True,
    loading: Loading | None = None,
    reading: Reading | None = None,
    plan: Plan | None = None,
    saving: Saving | None = None,
    step: Step = quiet_step,
) -> Json:
    """Measure every expert of ``model`` on a data set, or on MMLU's questions where none is named.

    positions: which tokens count, see `expert_texts.POSITIONS`. weights: also compare the experts' weights, which reads
    all of them. Outputs are read of the experts that were chosen alone, as the model computes them anyway; of a model
    whose block runs its experts one by one, too. saving: with an output the report, and beside it, while the run goes
    on, the sums that ``resume`` goes on from. Returns the report as JSON has it. Raises `MoebenchError` and its
    subclasses with one sentence that says what to do.
    """
    from .contributed import contributed
    from .expert_weights import weight_similarity
    from .tested import check_plan, loaded

    reading, plan = reading or Reading(batch_size=4), plan or Plan()
    check_plan(plan)
    if dataset is not None and positions == "answer":
        raise DataError("Texts of a data set have no answers: count their last token or all, or give questions.")
    questions = questions or Questions()
    mmlu = questions.read() if dataset is None else None
    runner, checkpoint = loaded(model, loading or Loading(), step)
    step("reading the text", 0, 0)
    texts = texts_of(runner, checkpoint, dataset, mmlu, reading, positions, questions.shots)
    saving, identity, environment = saving or Saving(), runner.facts(checkpoint), runner.environment()
    output = None if saving.output is None else Path(saving.output)
    decides = {"model": identity, "data": texts.facts, "batch_size": reading.batch_size}
    decides |= {key: environment.get(key) for key in ("device", "blas", "mlx")}  # another arithmetic rounds otherwise
    kept = KeptSums(output, decides, saving.resume)
    made = contributed(checkpoint, texts, reading.rows, step, kept)
    step("comparing the weights", 0, 0)
    alike = weight_similarity(checkpoint.model) if weights else ["it was not asked for"] * len(made.specs)
    step("computing the intervals", 0, 0)
    correct, subjects = flags_of(made.answers)
    routers = [
        router_section(spec, sums, similarity, texts, correct, subjects, plan)
        for spec, sums, similarity in zip(made.specs, made.sums, alike, strict=True)
    ]
    _adjust(routers)
    answers: Json = {}
    if made.answers is not None:
        answers = {"answers": summarise(made.answers, plan)}
    report = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "model": identity,
        "data": texts.facts,
        "environment": environment | ({} if saving.command is None else {"command": saving.command}),
        "settings": {
            "positions": positions,
            "batch_size": reading.batch_size,
            "super_times": SUPER_TIMES,
            "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        },
        **answers,
        "summary": summary_of(routers),
        "routers": routers,
    }
    if output is not None:
        write_aside({output: sealed_text(report).encode()})
        kept.finish()
    return report


def flags_of(answers: list[Json] | None) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.intp]]:
    """(whether each answer is right, the number of its subject); None without answers."""
    if answers is None:
        return None, np.zeros(0, dtype=np.intp)
    _, subjects = np.unique([one["subject"] for one in answers], return_inverse=True)
    return np.array([one["correct"] for one in answers], dtype=np.bool_), subjects


def router_section(
    spec: RouterSpec,
    sums: ContributionSums,
    alike: npt.NDArray[np.float64] | str,
    texts: Texts,
    correct: npt.NDArray[np.bool_] | None,
    subjects: npt.NDArray[np.intp],
    plan: Plan,
) -> Json:
    """What is reported of one router."""
    own = np.flatnonzero(sums.own)
    tokens, n = sums.total("tokens"), sums.n_tokens
    idle = int((tokens[own] == 0).sum())
    threshold, outstanding = sums.super_experts(SUPER_TIMES)
    entropy, signed, relu = _intervals(sums, texts, plan)
    mean = entropy["value"]
    square = float(sums.of_units("entropy_squared").sum()) / max(n, 1)
    return {
        **{key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k", "distribution")},
        **({} if spec.kinds is None else {"kinds": list(spec.kinds)}),
        "n_tokens": n,
        "activated": len(own) - idle,
        "never_activated": idle,
        "never_activated_expected": len(own) * (1 - spec.top_k / spec.n_experts) ** n,
        "gate_entropy": entropy | {"sd": math.sqrt(max(square - mean**2, 0.0)) if mean is not None else None},
        "sorted_weights": (sums.sorted_weights / max(n, 1)).tolist(),
        "output_similarity": {"signed": signed, "relu": relu},
        "weight_similarity": _mean_weight_similarity(alike),
        "super_experts": {"threshold": _number(threshold), "experts": outstanding},
        "experts": [_expert(int(e), sums, texts, correct, subjects, plan) for e in own],
    }


def _intervals(sums: ContributionSums, texts: Texts, plan: Plan) -> list[Json]:
    """Mean gate entropy over tokens, and mean similarity over tokens with pairs, with intervals over sequences."""
    made = []
    for name, of in (("entropy", "tokens"), ("signed", "pairs"), ("relu", "pairs")):
        over, under = sums.of_units(name), sums.of_units(of)
        (interval,) = ratio_intervals(over[:, None], under[:, None], texts.strata, plan)
        value = float(over.sum() / under.sum()) if under.sum() else float("nan")
        interval = interval if under.sum() else Interval(reason="no token chose two experts")
        made.append(Estimate(value, interval).to_dict())
    return made


def _mean_weight_similarity(alike: npt.NDArray[np.float64] | str) -> Json:
    if isinstance(alike, str):
        return {"value": None, "reason": alike}
    n = len(alike)
    if n < 2:
        return {"value": None, "reason": "there is one expert"}
    apart = alike[np.triu_indices(n, 1)]
    return {"value": float(apart.mean()), "largest": float(apart.max())}


def _expert(
    e: int,
    sums: ContributionSums,
    texts: Texts,
    correct: npt.NDArray[np.bool_] | None,
    subjects: npt.NDArray[np.intp],
    plan: Plan,
) -> Json:
    """What is reported of one expert; accuracy over the questions of whose counted positions one or more chose it."""
    tokens = float(sums.total("tokens")[e])
    entry: Json = {
        "expert": e,
        "tokens": int(tokens),
        "frequency": float(sums.frequency[e]),
        "weighted_frequency": float(sums.total("weight")[e]) / max(sums.n_tokens, 1),
        "mean_norm": float(sums.ean[e]) / tokens if tokens else None,
        "ean": float(sums.ean[e]),
        "reap": _number(float(sums.reap[e])),
        "peak": float(sums.peak[e]) if tokens else None,
    }
    if correct is not None:
        entry["accuracy"] = accuracy_section(
            expert_accuracy(sums.chosen[texts.units.labels, e], correct, subjects, plan.level)
        )
        entry["accuracy"]["level"] = plan.level
    return entry


def accuracy_section(one: ExpertAccuracy) -> Json:
    """For JSON."""
    return {
        "value": _number(one.accuracy),
        "n": one.n,
        "expected": _number(one.expected),
        "p_better": _number(one.p_better),
        **one.interval.to_dict(),
    }


def _adjust(routers: list[Json]) -> None:
    """Add q, p adjusted over all experts of all routers (Benjamini and Hochberg 1995), where there are answers."""
    every = [e["accuracy"] for router in routers for e in router["experts"] if "accuracy" in e]
    for one, q in zip(every, benjamini_hochberg([one["p_better"] for one in every]), strict=True):
        one["q_better"] = q


def summary_of(routers: list[Json]) -> Json:
    """Over all routers: the share of experts never activated, and what even routing would leave."""
    experts = sum(len(router["experts"]) for router in routers)
    made: Json = {
        "n_experts": experts,
        "never_activated_share": sum(router["never_activated"] for router in routers) / experts,
        "never_activated_expected_share": sum(router["never_activated_expected"] for router in routers) / experts,
        "super_experts": sum(len(router["super_experts"]["experts"]) for router in routers),
    }
    accuracies = [e["accuracy"] for router in routers for e in router["experts"] if "accuracy" in e]
    if accuracies:
        made["better_experts"] = sum(one["q_better"] is not None and one["q_better"] <= 0.05 for one in accuracies)
    return made


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
