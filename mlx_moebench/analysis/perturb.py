"""How much a model's loss rests on what its routers choose: perturbed choices against the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..data import Dataset, reusable
from ..errors import MoebenchError, StatsError
from ..files import write_aside
from ..measure.backends import backend_named, check_alone
from ..options import Choices, Flag, Loading, Options, Reading, Saving, Step, quiet_step, takes
from ..pair.report import data_section
from ..pair.seal import check_json_seal, read_json, sealed_text
from ..perturbations import DEFAULT, Perturbation, perturbations_named
from ..routing.record import RouterSpec
from ..signals import check
from ..types import Json
from .answers import Exam, Questions, accuracy_section, effect_on_answers, exam_facts

if TYPE_CHECKING:
    from ..instrument.interventions import Change

SCHEMA_VERSION = "1"
KIND = "perturbation"
BATCH_SIZE = 4


@takes(
    Loading,
    Reading,
    Flag,
    Saving,
    without=("backend", "stream", "stream_memory", "trace", "trace_limit", "trace_predictions"),
)
def perturb(
    model: Any = None,
    dataset: Dataset = "math",
    perturbations: Sequence[str] = DEFAULT,
    *,
    by_layer: bool = False,
    questions: Questions | None = None,
    step: Step = quiet_step,
    **choices: Unpack[Choices],
) -> Json:
    """Change what the routers of ``model`` choose, and measure its loss against that of the model as it is.

    perturbations: names, see `perturbations.KINDS`; each of all routers, and with by_layer of each router alone, too.
    Every run sees the same batches, so that the change of the loss and the share of tokens whose most likely next token
    stays are paired, with intervals over sequences. ``sets_kept`` is the share of tokens whose set of experts a router
    would have chosen unchanged on the hidden state that it got. questions: of MMLU, which every run answers too: then
    there are the change of the accuracy, and the share of the same choices. output: JSON report, saved after every run; resume: go
    on from it. The other keywords are those of `analyze` for a run without output; batch_size is 4 by default, because
    the logits of a batch are held at once.

    Returns the report as JSON has it. Raises what `analyze` raises, and `MoebenchError` for a perturbation that a
    router cannot do.
    """
    options = Options.of({"batch_size": BATCH_SIZE, **choices})
    arms = perturbations_named(list(perturbations))
    return perturb_report(model, dataset, arms, options, by_layer=by_layer, questions=questions, step=step)


def perturb_report(
    model: Any,
    dataset: Dataset,
    perturbations: Sequence[Perturbation],
    options: Options,
    *,
    by_layer: bool = False,
    questions: Questions | None = None,
    step: Step = quiet_step,
) -> Json:
    """`perturb` with its perturbations and options made."""
    plan, saving = options.plan, options.saving
    if not perturbations:
        raise MoebenchError("Name a perturbation, such as drop-top1.")
    if plan.method == "layer":
        raise MoebenchError("Layers have nothing to resample here: choose bca or percentile.")
    if options.loading.backend != "mlx":
        raise MoebenchError("Routers are changed as MLX runs them; leave out the backend torch.")
    if saving.trace is not None:
        raise MoebenchError("A trace is written by analyze; leave it out here.")
    from ..instrument import routers_of
    from ..instrument.changes import Only
    from .changed import Paired, run

    runner = backend_named("mlx")
    check_alone(runner, "Perturbed runs are compared token by token")
    runner.select_device(options.loading.device)
    step("loading the model", 0, 0)
    checkpoint = runner.load(model, options.loading, step) if model is None or isinstance(model, str | Path) else model
    specs = routers_of(checkpoint.model)
    for one in perturbations:
        one.check(specs)
    dataset = reusable(dataset)
    planned = list(_planned(perturbations, len(specs), by_layer))
    reference = run(checkpoint, dataset, options, step=_named(step, "as it is", 0, len(planned)))
    paired = Paired(reference, plan)
    stats = reference.stats
    exam = None if questions is None else Exam(questions.read(), runner.config(checkpoint.model).get("max_position_embeddings"))
    before = [] if exam is None else exam.answers(checkpoint, step=_named(step, "as it is", 0, len(planned)))
    report: Json = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "complete": False,
        "model": stats.model,
        "data": data_section(stats),
        "environment": stats.environment | ({} if saving.command is None else {"command": saving.command}),
        "settings": {
            "batch_size": options.reading.batch_size,
            "seed": plan.seed,
            "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level},
        },
        "routers": [_identity(spec) for spec in specs],
        "loss": paired.loss(),
        **({} if exam is None else {"accuracy": accuracy_section(before, plan), "questions": exam_facts(exam.mmlu)}),
        "runs": [],
    }
    done = _before(report, saving.output) if saving.resume and saving.output is not None else {}
    for place, (one, number) in enumerate(planned):
        key = (one.name, number)
        if key not in done:
            said = one.name if number is None else f"{one.name}, {specs[number].name}"

            def again(one: Perturbation = one, number: int | None = number) -> Change:
                change = one.change(plan.seed)  # anew: draws are of the first, second, ... call
                return change if number is None else Only(change, (number,))

            numbers = range(len(specs)) if number is None else (number,)
            other = [one.spec(spec) if n in numbers else spec for n, spec in enumerate(specs)]
            told = _named(step, said, place + 1, len(planned))
            changed = run(checkpoint, dataset, options, again(), other, told)
            kept = [paired.sets_kept(changed, n) for n in numbers]
            done[key] = {"perturbation": one.name, "router": number, **paired.effect(changed), "sets_kept": kept}
            if exam is not None:
                answers = exam.answers(checkpoint, again(), told)
                done[key] |= effect_on_answers(before, answers, plan)
        report["runs"].append(done[key])
        report["complete"] = place + 1 == len(planned)
        if saving.output is not None:
            write_aside({Path(saving.output): sealed_text(report).encode()})
        check()
    return report


def _planned(
    perturbations: Sequence[Perturbation], routers: int, by_layer: bool
) -> Iterator[tuple[Perturbation, int | None]]:
    """(perturbation, the router alone that has it, or None for all)."""
    for one in perturbations:
        yield one, None
        if by_layer:
            yield from ((one, number) for number in range(routers))


def _named(step: Step, what: str, done: int, total: int) -> Step:
    def told(inner: str, part: int, parts: int) -> None:
        step(f"{what} ({done} of {total}): {inner}", part, parts)

    return told


def _identity(spec: RouterSpec) -> Json:
    return {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k")}


def _before(report: Json, output: str | Path) -> dict[tuple[str, int | None], Json]:
    """The runs of the report at ``output``, if there is one; raises `StatsError` where it is of another measurement."""
    path = Path(output)
    if not path.exists():
        return {}
    before = read_json(path, StatsError)
    if not isinstance(before, dict) or before.get("kind") != KIND:
        raise StatsError(f"{path} is JSON, but no report of perturb.")
    check_json_seal(before, str(path))
    for section in ("model", "data", "settings", "routers", "loss", "accuracy", "questions"):
        if before.get(section) != report.get(section):
            raise StatsError(f"Cannot resume {path}: the {section} in it is not that of this run; repeat its options.")
    return {(one["perturbation"], one["router"]): one for one in before["runs"]}
