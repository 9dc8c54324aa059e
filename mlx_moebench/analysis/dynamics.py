"""How routers change over a training: every checkpoint on the same tokens, against the one before and the last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..data import Batch, Dataset, reusable
from ..errors import MoebenchError
from ..measure.backends import Backend, backend_named, check_alone
from ..measure.run import measure
from ..options import Choices, Flag, Loading, Options, Reading, Saving, Step, quiet_step, takes
from ..routing.recorder import Recorder
from ..routing.sums import Floats
from ..routing.tokens import TokenBlock, ranked
from ..types import HostArray, Json
from .checkpoints import Stage, folder_of, stages
from .course import Chosen, Course
from .kept_stages import KeptStages


@takes(Loading, Reading, Flag, without=("stream", "stream_memory"))
def dynamics(
    checkpoints: Sequence[str | Path],
    dataset: Dataset = "math",
    *,
    output_dir: str | Path | None = None,
    step: Step = quiet_step,
    **choices: Unpack[Choices],
) -> Json:
    """How each router's choices move over a series of checkpoints, all run on the same tokens of ``dataset``.

    checkpoints: two or more, in the order of the training; a folder of ``lab train --snapshot-every`` stands for its
    copies. See `analysis.checkpoints.stages`. For every checkpoint and router: saturation (overlap with the last
    checkpoint, of the K experts, of whole sets and of first choices), change rate (1 minus the overlap with the one
    before), the metrics of `course.FOLLOWED`, selections of each expert, stability of co-activation, similarity of the
    experts' weights; over all routers of a kind the same as means, the trend of margins by depth, and what changed from
    first to last. output_dir: keep each checkpoint's measurement here; the same call goes on from there. The other
    keywords are those of `analyze` for a run without output.

    One model is in memory at a time, and of three checkpoints the choices: 2 K bytes a token and router.
    Returns the report as JSON has it (schema/dynamics.schema.json). Raises what `analyze` raises, and `MoebenchError`
    where checkpoints differ in routers or in what their tokenizers make of the texts.
    """
    return dynamics_report(stages(checkpoints), dataset, Options.of(choices), output_dir=output_dir, step=step)


def dynamics_report(
    series: Sequence[Stage],
    dataset: Dataset,
    options: Options,
    *,
    output_dir: str | Path | None = None,
    step: Step = quiet_step,
) -> Json:
    """`dynamics` with its checkpoints and options made."""
    if options.plan.method == "layer":
        raise MoebenchError("Layers have nothing to resample here: choose bca or percentile.")
    if options.saving.trace is not None or options.saving.output is not None:
        raise MoebenchError("Traces and stats pairs are written by analyze; give output_dir to keep what is measured.")
    runner = backend_named(options.loading.backend)
    check_alone(runner, "Checkpoints are compared token by token")
    runner.select_device(options.loading.device)
    dataset = reusable(dataset)
    kept = None if output_dir is None else KeptStages(Path(output_dir), dataset, options)

    def chosen(number: int) -> Chosen:
        told = _told(step, series[number], number, len(series))
        return _measured(runner, series[number], dataset, options, kept, told)

    last = chosen(len(series) - 1)
    table = Course(series, last, options.plan)
    before: Chosen | None = None
    for number in range(len(series)):
        now = last if number == len(series) - 1 else chosen(number)
        table.add(number, now, before)
        before = now
        runner.forget()
    step("computing the intervals", 0, 0)
    return table.report(options)


def _told(step: Step, stage: Stage, number: int, n: int) -> Step:
    def told(what: str, done: int, total: int) -> None:
        step(f"{stage.name} ({number + 1} of {n}): {what}", done, total)

    return told


def _measured(
    runner: Backend, stage: Stage, dataset: Dataset, options: Options, kept: KeptStages | None, step: Step
) -> Chosen:
    if kept is not None and (found := kept.find(stage)) is not None:
        return Chosen(*found)
    step("loading the model", 0, 0)
    checkpoint = runner.load(folder_of(stage), options.loading, step)
    watch = _Choosing()
    plain = replace(options, loading=Loading(backend=runner.name, device=options.loading.device), saving=Saving())
    stats = measure(checkpoint, dataset, plain, runner=runner, watch=watch, step=step).stats["prefill"]
    chosen = Chosen(
        stats,
        tuple(np.concatenate(watch.experts[number]) for number in sorted(watch.experts)),
        np.concatenate(watch.rows),
        np.concatenate(watch.lengths),
        _similarity(runner, checkpoint, len(stats.specs)),
    )
    if kept is not None:
        kept.keep(stage, chosen.stats, chosen.experts, chosen.rows, chosen.lengths, chosen.similarity)
    return chosen


def _similarity(runner: Backend, checkpoint: Any, routers: int) -> Floats:
    """[L] of the experts' output weights; NaN where they are not read."""
    if runner.name != "mlx":
        return np.full(routers, np.nan)
    from ..instrument.capture import experts_of
    from ..instrument.similarity import output_weight_similarity

    found = (output_weight_similarity(experts) for experts in experts_of(checkpoint.model))
    return np.array([np.nan if value is None else value for value in found])


@dataclass
class _Choosing:
    """A `Watch` that keeps what every router chose of every token, 2 bytes a choice."""

    logits: bool = False
    experts: dict[int, list[HostArray]] = field(default_factory=dict)
    rows: list[HostArray] = field(default_factory=list)
    lengths: list[HostArray] = field(default_factory=list)

    def begin(self, tokenizer: Any) -> None:
        """Texts are not needed."""

    def record(self, block: TokenBlock) -> None:
        """The valid tokens of one router, row after row."""
        (experts,) = ranked(block.experts, block.p)
        self.experts.setdefault(block.number, []).append(experts[block.mask].astype(np.int16))

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """Which sequences they were of."""
        self.rows.append(np.asarray(batch.rows, dtype=np.int64))
        self.lengths.append(batch.mask.sum(axis=1).astype(np.int64))


def directions(report: Json) -> Iterator[tuple[str, str, str]]:
    """(kind of router, measure, ``rose``, ``fell`` or ``open``) of every trend: open where its interval holds 0."""
    for kind, trends in report["trends"].items():
        for name, entry in trends.items():
            low, high = entry.get("low"), entry.get("high")
            known = low is not None and high is not None
            word = "rose" if known and low > 0 else "fell" if known and high < 0 else "open"
            yield kind, name, word
