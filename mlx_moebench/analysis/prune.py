"""What a model loses without some of its experts: chosen on some texts, judged on others, against random ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..data import Dataset, reusable
from ..errors import MoebenchError
from ..families import Family
from ..instrument.capture import experts_of, routers_of
from ..instrument.changes import How, Without
from ..instrument.interventions import check_changes
from ..instrument.models import family_of
from ..options import Options, Step, quiet_step
from ..pair.stats import RoutingStats
from ..routing.record import RouterSpec
from ..types import Json
from .answers import Questions, halves
from .contributed import Contributed, contributed
from .expert_texts import CHOOSING, JUDGING, Positions, Texts, corpus_texts, question_texts
from .experts import flags_of
from .kept_runs import KeptRuns, within
from .rankings import By, Size, random_order, ranked, scores, sizes
from .tested import SECTIONS, Tested, check_plan, loaded

SCHEMA_VERSION = "1"
KIND = "pruning"


def prune(
    model: Any,
    dataset: Dataset,
    options: Options,
    *,
    by: By = "reap",
    keep: float = 0.75,
    how: How = "route-around",
    random: int = 5,
    questions: Questions | None = None,
    positions: Positions = "last",
    export: str | Path | None = None,
    step: Step = quiet_step,
) -> Json:
    """Take the experts away that are worth least by ``by``, as many of every router, and measure what that does.

    Every second document of ``dataset``, and question, chooses, and the others judge: mean loss, and with ``questions``
    accuracy (``positions`` count for accuracy as a criterion), each against the model as it is and the loss against
    ``random`` prunings of the same size. export: folder for a checkpoint without those experts, whose logits and speed
    are compared with those of the masked model. Returns the report as JSON has it, saved after every run.
    """
    check_plan(options.plan)
    if options.reading.shard is not None:
        raise MoebenchError("Half of the documents choose and half judge; leave the shard out.")
    if by == "accuracy" and questions is None:
        raise MoebenchError("Pruning by accuracy needs questions: give a folder of MMLU, or the hub.")
    if export is not None:
        _check_target(Path(export), how, options)
    choosing, judging = (None, None) if questions is None else halves(questions.read())
    runner, checkpoint = loaded(model, options.loading, step)
    check_changes(checkpoint.model)
    config, family, specs = runner.config(checkpoint.model), family_of(checkpoint.model), routers_of(checkpoint.model)
    of_routers = sizes(family, config, specs, keep)
    if export is not None:
        _check_export(checkpoint, Path(export), family, specs, of_routers)
    dataset = reusable(dataset)
    to_choose, to_judge = (replace(options, reading=replace(options.reading, shard=s)) for s in (CHOOSING, JUDGING))
    if by == "accuracy" and questions is not None and choosing is not None:
        texts = question_texts(checkpoint, config, choosing, positions, questions.shots)
    else:
        texts = corpus_texts(checkpoint, config, dataset, to_choose.reading, "all")
    made = contributed(checkpoint, texts, options.reading.rows, within(step, "choosing", 0, random + 2))
    orders = ordered(by, made, texts, of_routers)
    tested = Tested.begin(runner, checkpoint, dataset, to_judge, judging, within(step, "as it is", 1, random + 2))
    settings = {"by": by, "keep": keep, "how": how, "random": random, "positions": positions}
    report = tested.report(KIND, SCHEMA_VERSION, settings)
    for section, size, order in zip(report["routers"], of_routers, orders, strict=True):
        section |= {"order": order, "kept": size.kept(order)}
    report["chosen_on"] = texts.facts
    report["before"] = {"routing": routing_of(tested.reference.stats), "seconds": tested.seconds}
    report["bytes"] = bytes_of(checkpoint.model, of_routers)
    kept = KeptRuns(report, options.saving, (*SECTIONS, "chosen_on"), lambda one: (one["by"], one["seed"]))
    arms: list[tuple[str, int | None]] = [(by, None), *(("random", options.plan.seed + n) for n in range(random))]
    for place, (name, seed) in enumerate(arms):
        told = within(step, name if seed is None else f"random, seed {seed}", place + 2, random + 2)
        of_arm = orders
        if seed is not None:
            of_arm = [random_order(size.n_experts, seed, number) for number, size in enumerate(of_routers)]
        masks = _masks(tested, of_routers, of_arm)
        kept.run((name, seed), partial(_arm, tested, masks, how, name, seed, told), False)
    if random:
        report["against_random"] = against_random(tested, report["runs"])
    if export is not None:
        step("exporting", 0, 0)
        change = Without(_masks(tested, of_routers, orders), how)
        report["export"] = _exported(tested, report, Path(export), change, options, step)
    kept.save(True)
    return report


def ordered(by: By, made: Contributed, texts: Texts, of_routers: Sequence[Size]) -> list[list[int]]:
    """Of each router its experts, the one worth most first."""
    correct, _ = flags_of(made.answers)
    every = [
        scores(by, sums, texts.units.labels, correct)[: size.n_experts]
        for sums, size in zip(made.sums, of_routers, strict=True)
    ]
    if by == "accuracy" and all(len(set(values[np.isfinite(values)].tolist())) < 2 for values in every):
        raise MoebenchError(
            "Accuracy tells no expert from another: all answers are right, or all wrong, or every question chose the "
            "same experts. Ask for more questions, or count their last token alone."
        )
    return [ranked(values) for values in every]


def _masks(tested: Tested, of_routers: Sequence[Size], orders: Sequence[Sequence[int]]) -> dict[int, Any]:
    every = zip(of_routers, orders, tested.specs, strict=True)
    return {number: size.gone(order, spec.n_experts) for number, (size, order, spec) in enumerate(every)}


def _arm(tested: Tested, masks: dict[int, Any], how: How, name: str, seed: int | None, step: Step) -> Json:
    start = perf_counter()
    after, effect = tested.run(lambda: Without(masks, how), step=step)
    seconds = perf_counter() - start
    return {
        "by": name,
        "seed": seed,
        **effect,
        "routing": routing_of(after.stats),
        "seconds": seconds,
        "loss_sums": tested.paired.loss_sums(after).tolist(),
    }


def routing_of(stats: RoutingStats) -> Json:
    """Means over routers of what their experts are used for."""
    table = stats.to_dataframe()
    return {name: float(table[name].mean()) for name in ("mean_entropy", "n_eff", "top_load_ratio")}


def bytes_of(model: Any, of_routers: Sequence[Size]) -> Json:
    """Bytes of the weights in memory: of the experts and of all, as they are and without those that go."""
    experts = [sum(a.nbytes for _, a in tree_flatten(m.parameters())) for m in experts_of(model)]
    whole = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    left = sum(n * size.n_kept / size.n_experts for n, size in zip(experts, of_routers, strict=True))
    return {
        "experts": sum(experts),
        "experts_after": round(left),
        "all": whole,
        "all_after": whole - sum(experts) + round(left),
    }


def against_random(tested: Tested, runs: Sequence[Json]) -> Json:
    """Mean loss of the pruning by a criterion minus the mean over the random ones, with its interval over sequences;
    seeds are not drawn again, so the losses of all of them stand beside it."""
    chosen, *others = [np.array(one["loss_sums"]) for one in runs]
    return {
        "loss_difference": tested.paired.difference(chosen, np.mean(others, axis=0)),
        "random_loss_changes": [one["loss_change"]["value"] for one in runs[1:]],
        "better_than": int(sum(chosen.sum() < one.sum() for one in others)),
        "n_random": len(others),
    }


def _check_target(folder: Path, how: How, options: Options) -> None:
    from ..checkpoints.pruned import check_target

    if how != "route-around":
        raise MoebenchError("An exported checkpoint routes around the experts that it lacks; leave --how zero out.")
    check_target(folder, options.saving.resume)


def _check_export(
    checkpoint: Any, folder: Path, family: Family, specs: Sequence[RouterSpec], of_routers: Sequence[Size]
) -> None:
    """Raise now what would end an export after all has run."""
    from ..checkpoints.folder import read_config
    from ..checkpoints.pruned import check_disk, planned
    from ..checkpoints.weights import read_weights

    if getattr(checkpoint, "path", None) is None:
        raise MoebenchError("Only a model loaded from a folder or the hub can be exported: name it.")
    if checkpoint.adapter or checkpoint.quantised_on_load or checkpoint.routers_from:
        raise MoebenchError("The stored weights are exported: leave out the adapter, --bits and --routers-from.")
    kept = {number: range(size.n_kept) for number, size in enumerate(of_routers)}
    weights = read_weights(checkpoint.path)
    planned(read_config(checkpoint.path), weights, family, specs, kept)
    if not folder.exists():
        check_disk(folder, weights, min(size.n_kept / size.n_experts for size in of_routers))


def _exported(tested: Tested, report: Json, folder: Path, change: Without, options: Options, step: Step) -> Json:
    """Write the smaller checkpoint, load it, and compare it with the masked model."""
    from ..checkpoints.pruned import export_pruned
    from ..models import load_checkpoint
    from .speed import generation_speed, logits_apart

    kept = {number: section["kept"] for number, section in enumerate(report["routers"])}
    order = {number: section["order"] for number, section in enumerate(report["routers"])}
    path, family = tested.checkpoint.path, family_of(tested.checkpoint.model)
    facts = export_pruned(path, folder, family, tested.specs, kept, order, options.saving.resume)
    loading = options.loading
    smaller = load_checkpoint(folder, loading)
    ids = _first_ids(tested, options)
    facts["logits"] = logits_apart(tested.checkpoint.model, change, smaller.model, ids)
    step("generating", 0, 0)
    facts["generation"] = generation_speed(tested.checkpoint, smaller, np.array(ids)[0])
    return {"folder": folder.name, **facts}


def _first_ids(tested: Tested, options: Options) -> mx.array:
    from ..data import encode, in_shard, read_corpus

    tokenizer = tested.checkpoint.tokenizer
    corpus = read_corpus(tested.dataset, **options.reading.of_corpus(), tokenizer=tokenizer)
    first = in_shard(encode(corpus, tokenizer, options.reading.max_length), JUDGING)[0]
    return mx.array(first.ids)[None]
