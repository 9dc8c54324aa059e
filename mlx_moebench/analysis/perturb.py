"""How much a model's loss rests on what its routers choose: perturbed choices against the model as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from ..data import Dataset
from ..errors import MoebenchError
from ..options import Choices, Flag, Loading, Options, Reading, Saving, Step, quiet_step, takes
from ..perturbations import Perturbation, default_for, perturbations_named
from ..routing.record import RouterSpec
from ..types import Json
from .answers import Questions
from .kept_runs import KeptRuns, within
from .rankings import groups_of

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
    perturbations: Sequence[str] | None = None,
    *,
    by_layer: bool = False,
    questions: Questions | None = None,
    step: Step = quiet_step,
    **choices: Unpack[Choices],
) -> Json:
    """Change what the routers of ``model`` choose, and measure its loss against that of the model as it is.

    perturbations: names, see `perturbations.KINDS`; without, those of `perturbations.DEFAULT` that the routers can do.
    Each of all routers, and with by_layer of each router alone, too.
    Every run sees the same batches, so that the change of the loss and the share of tokens whose most likely next token
    stays are paired, with intervals over sequences. ``sets_kept`` is the share of tokens whose set of experts a router
    would have chosen unchanged on the hidden state that it got. questions: of MMLU, which every run answers too: then
    there are the change of the accuracy, and the share of the same choices. output: JSON report, saved after every run;
    resume: go on from it. The other keywords are those of `analyze` for a run without output; batch_size is 4 by
    default, because the logits of a batch are held at once.

    Returns the report as JSON has it. Raises what `analyze` raises, and `MoebenchError` for a perturbation that a
    router cannot do.
    """
    options = Options.of({"batch_size": BATCH_SIZE, **choices})
    arms = None if perturbations is None else perturbations_named(list(perturbations))
    return perturb_report(model, dataset, arms, options, by_layer=by_layer, questions=questions, step=step)


def perturb_report(
    model: Any,
    dataset: Dataset,
    perturbations: Sequence[Perturbation] | None,
    options: Options,
    *,
    by_layer: bool = False,
    questions: Questions | None = None,
    step: Step = quiet_step,
) -> Json:
    """`perturb` with its perturbations and options made."""
    if perturbations is not None and not perturbations:
        raise MoebenchError("Name a perturbation, such as drop-top1.")
    if options.saving.trace is not None:
        raise MoebenchError("A trace is written by analyze; leave it out here.")
    from ..instrument.capture import routers_of
    from ..instrument.changes import Only
    from ..instrument.interventions import check_changes
    from ..instrument.models import config_of, family_of
    from .tested import SECTIONS, Tested, check_plan, loaded

    check_plan(options.plan)
    mmlu = None if questions is None else questions.read()
    runner, checkpoint = loaded(model, options.loading, step)
    check_changes(checkpoint.model)

    specs, family, config = routers_of(checkpoint.model), family_of(checkpoint.model), config_of(checkpoint.model)
    eligible = [groups_of(family, config, spec).eligible(spec.n_experts) for spec in specs]
    perturbations = default_for(specs, eligible) if perturbations is None else perturbations

    def fit(specs: Sequence[RouterSpec]) -> None:
        for one in perturbations:
            one.check(specs, eligible)

    tested = Tested.begin(runner, checkpoint, dataset, options, mmlu, within(step, "as it is", 0, 1), fit)
    planned = list(_planned(perturbations, len(specs), by_layer))
    report = tested.report(KIND, SCHEMA_VERSION, {})
    kept = KeptRuns(report, options.saving, SECTIONS, lambda one: (one["perturbation"], one["router"]))
    for place, (one, number) in enumerate(planned):
        numbers = range(len(specs)) if number is None else (number,)

        def change(one: Perturbation = one, number: int | None = number) -> Change:
            made = one.change(options.plan.seed)
            return made if number is None else Only(made, (number,))

        def made(
            one: Perturbation = one,
            number: int | None = number,
            change: Callable[[], Change] = change,
            numbers: Sequence[int] = numbers,
            place: int = place,
        ) -> Json:
            said = one.name if number is None else f"{one.name}, {specs[number].name}"
            other = [one.spec(spec) if n in numbers else spec for n, spec in enumerate(specs)]
            after, effect = tested.run(change, other, within(step, said, place + 1, len(planned)))
            sets = [tested.paired.sets_kept(after, n) for n in numbers]
            return {"perturbation": one.name, "router": number, **effect, "sets_kept": sets}

        kept.run((one.name, number), made, place + 1 == len(planned))
    return report


def _planned(
    perturbations: Sequence[Perturbation], routers: int, by_layer: bool
) -> Iterator[tuple[Perturbation, int | None]]:
    """(perturbation, the router alone that has it, or None for all)."""
    for one in perturbations:
        yield one, None
        if by_layer:
            yield from ((one, number) for number in range(routers))
