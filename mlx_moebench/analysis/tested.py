"""A model on a data set, and on questions where there are some: what changes of its routers are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ..data import Dataset, reusable
from ..data.mmlu import Mmlu
from ..errors import MoebenchError
from ..instrument.capture import routers_of
from ..instrument.interventions import Change
from ..measure.backends import backend_named, check_alone
from ..options import Loading, Options, Plan, Step, quiet_step
from ..pair.report import data_section
from ..routing.record import RouterSpec
from ..types import Json
from .answers import Exam, accuracy_section, effect_on_answers, exam_facts
from .changed import Paired, Run, run

SECTIONS = ("model", "data", "settings", "routers", "loss", "accuracy", "questions")
"""What must be the same for a report of changes to be gone on with."""


def loaded(model: Any, loading: Loading, step: Step = quiet_step) -> tuple[Any, Any]:
    """(the runner, a loaded checkpoint) of MLX; raises `MoebenchError` for another backend or several processes."""
    if loading.backend != "mlx":
        raise MoebenchError("Routers are heard and changed as MLX runs them; leave out the backend torch.")
    runner = backend_named("mlx")
    check_alone(runner, "Experts and routers are looked at")
    runner.select_device(loading.device)
    step("loading the model", 0, 0)
    named = model is None or isinstance(model, str | Path)
    return runner, runner.load(model, loading, step) if named else model


def check_plan(plan: Plan) -> None:
    """Raise `MoebenchError` for intervals over layers."""
    if plan.method == "layer":
        raise MoebenchError("Layers have nothing to resample here: choose bca or percentile.")


@dataclass
class Tested:
    """reference, before: the run and the answers of the model as it is. specs: its routers. seconds: of that run."""

    checkpoint: Any
    specs: list[RouterSpec]
    dataset: Dataset
    options: Options
    reference: Run
    paired: Paired
    exam: Exam | None
    before: list[Json]
    seconds: float

    @classmethod
    def begin(
        cls,
        runner: Any,
        checkpoint: Any,
        dataset: Dataset,
        options: Options,
        mmlu: Mmlu | None = None,
        step: Step = quiet_step,
        check: Callable[[Sequence[RouterSpec]], None] = lambda specs: None,
    ) -> Tested:
        """Run the model as it is; check: raises what the routers cannot do, before anything runs."""
        specs = routers_of(checkpoint.model)
        check(specs)
        dataset = reusable(dataset)
        start = perf_counter()
        reference = run(checkpoint, dataset, options, step=step)
        seconds = perf_counter() - start
        length = runner.config(checkpoint.model).get("max_position_embeddings")
        exam = None if mmlu is None else Exam(mmlu, length, options.reading.rows)
        before = [] if exam is None else exam.answers(checkpoint, step=step)
        return cls(
            checkpoint, specs, dataset, options, reference, Paired(reference, options.plan), exam, before, seconds
        )

    def report(self, kind: str, version: str, settings: Json) -> Json:
        """The report before the first change; settings: besides batch size, seed and intervals."""
        plan, stats, saving = self.options.plan, self.reference.stats, self.options.saving
        identity = ("layer", "moe_layer", "router", "n_experts", "top_k")
        answers: Json = {}
        if self.exam is not None:
            answers = {"accuracy": accuracy_section(self.before, plan), "questions": exam_facts(self.exam.mmlu)}
        return {
            "schema_version": version,
            "kind": kind,
            "complete": False,
            "model": stats.model,
            "data": data_section(stats),
            "environment": stats.environment | ({} if saving.command is None else {"command": saving.command}),
            "settings": {
                "batch_size": self.options.reading.batch_size,
                "seed": plan.seed,
                "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
                **settings,
            },
            "routers": [{key: getattr(spec, key) for key in identity} for spec in self.specs],
            "loss": self.paired.loss(),
            **answers,
            "runs": [],
        }

    def run(
        self, change: Callable[[], Change], specs: Sequence[RouterSpec] | None = None, step: Step = quiet_step
    ) -> tuple[Run, Json]:
        """(the run of the changed model, its effect). change: makes it anew, for draws follow the calls of one.

        specs: the routers as they are changed.
        """
        after = run(self.checkpoint, self.dataset, self.options, change(), specs or self.specs, step)
        effect = self.paired.effect(after)
        if self.exam is not None:
            answers = self.exam.answers(self.checkpoint, change(), step)
            effect |= effect_on_answers(self.before, answers, self.options.plan)
        return after, effect
