"""One model, one data set: run every sequence once and count what the routers say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from ..checkpoints import Checkpoint
from ..data import Batch, Dataset
from ..errors import MoebenchError
from ..locks import holding
from ..memory import check_room
from ..options import (
    Choices,
    Flag,
    Loading,
    Options,
    Reading,
    Saving,
    Step,
    Tell,
    quiet_step,
    quiet_tell,
    takes,
)
from ..pair.stats import RecordedStats, RoutingStats
from ..pair.storage import decode_output, save_pairs
from ..routing.record import Phase
from ..types import Json
from .backends import Backend, backend_named
from .keep import Keeper, check_saving, outputs_of
from .keep_layers import LayerKeeper
from .sharing import check_together, of_rank, shares_the_model
from .streaming import Run, run_layers, stream_of
from .trace import TraceWriter, budget
from .watch import Watch
from .work import Work, opened, prepare

PHASES: tuple[tuple[Phase, ...], ...] = (("prefill",), ("prefill", "decode"))
"""The phases of a run without generation, and with it."""


@dataclass(frozen=True)
class Measured:
    """What a run measured: the statistics of each phase, and their reports where they were saved (by the one process
    that saves them)."""

    stats: dict[Phase, RoutingStats]
    reports: dict[Phase, Json]


@takes(Loading, Reading, Flag, Saving)
def analyze(
    model: Any = None,
    dataset: Dataset = "math",
    *,
    tokenizer: Any = None,
    step: Step = quiet_step,
    tell: Tell = quiet_tell,
    **choices: Unpack[Choices],
) -> RoutingStats:
    """Measure how ``model`` routes ``dataset``, every sequence as one prompt (phase prefill).

    The result depends on neither batch_size nor order, up to rounding. The model is left as it was.
    ``stats.model["warnings"]`` says what a reader must know of the routers' precision.

    Parameters
    ----------
    model
        None for the embedded model, a folder, a hub id, a loaded checkpoint, or an mlx-lm (with the backend torch a
        transformers) model together with its ``tokenizer``.
    dataset
        The name of a bundled set; a file, folder or hub data set; or texts: a list or generator of texts, of dicts or
        of chats, a DataFrame, a datasets.Dataset, as ``{name: texts}`` to name them. See `data.read_corpus`.
    tokenizer
        That of a model object; a folder or hub id brings its own.
    step, tell
        Called with the progress, and with how large a trace will be.

    Returns
    -------
    RoutingStats
        The sums of every router for every sequence, from which all metrics and intervals are computed.

    Other Parameters
    ----------------
    backend : str
        ``mlx``, or ``torch``, which measures the same on transformers. Under mlx.launch, or torchrun, each rank takes a
        shard, and all return the whole; of a tensor-parallel model all run everything, and the first one saves.
    device : str
        ``auto``, ``gpu``, ``cpu``, ``mps`` or ``cuda``.
    dtype, bits, router_bits, routers_from, adapter_path, trust_remote_code : as in `options.Loading`
        See `models.load_checkpoint` and `torch_fallback.load_checkpoint`; not for a model that is loaded already.
    stream, stream_memory : str, int or None
        ``on`` reads the weights one layer at a time, ``off`` all at once, ``auto`` the former where they do not fit;
        and the bytes of hidden states that stay in memory then (docs/streaming.md).
    text_field : str or None
        The field of a row that holds the text; None finds it by name.
    max_samples : int or None
        The number of documents to read, from the first on; None for all.
    max_length : int
        Tokens of a sequence.
    split_on : str
        What a document of a file of text is: the whole ``file``, each ``line``, or a paragraph (``blank``).
    long : str or None
        Whether longer documents are cut off (``truncate``) or into ``windows``, in every format; None for windows where
        a document is a whole file, and truncate where a file holds many.
    batch_size : int or str
        Sequences per forward pass, or ``auto`` for as many of about the same length as `fit.TOKENS` and `fit.MEMORY`
        allow.
    shard : str or None
        ``i/n``: only rows with row % n == i - 1 of the documents chosen. `RoutingStats.merge` puts shards together.
    tau, collapse_on : float and str
        A router is flagged as collapsed if this share of its busiest expert exceeds tau, in (0, 1).
    output : str or Path, optional
        Stats pair, saved while the run goes on (at most 5% of its time) and at its end, with the intervals of ``plan``;
        a run that is killed, or stopped by Ctrl-C or an error, leaves there what it had measured.
    resume : bool
        Continue from the pair at ``output``, if there is one, to the very numbers of a run that was never stopped.
    trace, trace_limit, trace_predictions : str or Path, int, bool
        A folder for the experts of every single token (docs/traces.md), saved in step with the pair; the most bytes it
        may take; whether to add the model's most likely next token. `data.trace` reads it.
    command : str or None
        What the report says started the run.
    plan : Plan or None
        How the intervals of the saved report are made.

    Raises
    ------
    MoebenchError
        Or one of its subclasses, with one sentence that says what to do.

    Examples
    --------
    >>> import mlx_moebench
    >>> stats = mlx_moebench.analyze(dataset="math", max_samples=4, max_length=16)
    >>> len(stats.clusters), stats.n_tokens
    (4, 64)
    >>> bool(stats.to_dataframe()["mean_entropy"].between(0, 2.78).all())  # nats; ln 16 = 2.77 is the most
    True
    """
    return measure(model, dataset, Options.of(choices), tokenizer=tokenizer, step=step, tell=tell).stats["prefill"]


@takes(Loading, Reading, Flag, Saving, without=("batch_size",))
def analyze_generation(
    model: Any = None,
    dataset: Dataset = "math",
    *,
    max_tokens: int,
    tokenizer: Any = None,
    step: Step = quiet_step,
    tell: Tell = quiet_tell,
    **choices: Unpack[Choices],
) -> dict[Phase, RoutingStats]:
    """Measure prompts and what the model makes of them apart: {"prefill": statistics, "decode": statistics}.

    Every sequence is a prompt, run alone and continued greedily for at most ``max_tokens`` tokens, fewer where the
    model ends its text. The other arguments are those of `analyze`, without batch_size; the decode pair lies at
    `decode_output`. Raises what `analyze` raises.
    """
    if "batch_size" in choices:
        raise MoebenchError("Prompts are continued one at a time; leave out batch_size.")
    options = Options.of(choices)
    return measure(model, dataset, options, generate=max_tokens, tokenizer=tokenizer, step=step, tell=tell).stats


@dataclass(frozen=True)
class Task:
    """One data set to measure, and what is told of its progress."""

    dataset: Dataset
    options: Options = field(default_factory=Options)
    step: Step = quiet_step


def measure(
    model: Any,
    dataset: Dataset,
    options: Options,
    *,
    runner: Backend | None = None,
    tokenizer: Any = None,
    generate: int | None = None,
    step: Step = quiet_step,
    tell: Tell = quiet_tell,
    watch: Watch | None = None,
) -> Measured:
    """Run every sequence of ``dataset``; see `analyze` and `measure_each`."""
    task = Task(dataset, options, step)
    several = measure_each(
        model, [task], runner=runner, tokenizer=tokenizer, generate=generate, step=step, tell=tell, watch=watch
    )
    return several[0]


def measure_each(
    model: Any,
    tasks: Sequence[Task],
    *,
    runner: Backend | None = None,
    tokenizer: Any = None,
    generate: int | None = None,
    step: Step = quiet_step,
    tell: Tell = quiet_tell,
    watch: Watch | None = None,
) -> list[Measured]:
    """Measure one model on several data sets, one after the other; streamed, each layer is read once for all of them.

    tasks: the options of all load the model alike. runner: the backend, where it is not the one that they name.
    generate: tokens to continue each prompt for, one prompt at a time. watch: sees tokens where no trace does; of a
    checkpoint that is streamed layer by layer. Where several processes share the work, each keeps its own at
    `sharing.rank_output` and the first one the whole at the output. Where they share the model instead, so that each
    sees the same routers, all run everything, and what the first one counts is kept.
    """
    runner = runner or backend_named(tasks[0].options.loading.backend)
    if generate is not None:
        tasks = [replace(task, options=_one_by_one(task.options, generate)) for task in tasks]
    place = runner.ranks()
    together = place is not None and shares_the_model(model)
    first = place is None or place[0] == 0
    writes = first or not together
    own = [replace(task, options=_own(task.options, place, together)) for task in tasks]
    with ExitStack() as stack:
        for task, mine in zip(tasks, own, strict=True):
            whole = task.options.saving.output if first else None
            stack.enter_context(holding(*outputs_of(whole, mine.options.saving, writes)))
            check_saving(mine.options.saving, generate is not None, writes)
        works = _prepared(runner, model, own, tokenizer, generate, step, tell, watch)
        each = zip(works, own, strict=True)
        measured: Iterator[Measured] = (_run(runner, work, one, generate, tell, watch, writes) for work, one in each)
        if getattr(works[0].checkpoint, "layers", None) is not None:
            measured = iter(_run_streamed(runner, works, own, step, watch, writes))
        if place is None or together:
            return list(measured)
        return [_gathered(runner, one, task, first) for one, task in zip(measured, tasks, strict=True)]


def _one_by_one(options: Options, generate: int) -> Options:
    _check_generation(generate, options.saving)
    return replace(options, reading=replace(options.reading, batch_size=1))


def _own(options: Options, place: tuple[int, int] | None, together: bool) -> Options:
    """The options of this process."""
    if together:
        check_together(options.saving)
        return options
    return options if place is None else of_rank(place, options)


def _prepared(
    runner: Backend,
    model: Any,
    tasks: Sequence[Task],
    tokenizer: Any,
    generate: int | None,
    step: Step,
    tell: Tell,
    watch: Watch | None,
) -> list[Work]:
    """The model, and every data set, read before the first is measured."""
    loading = tasks[0].options.loading
    streamed = isinstance(model, Checkpoint) and model.layers is not None
    for task in tasks:
        whole = _whole(task.options.saving, generate, None if streamed else watch)
        if streamed and whole is not None:
            raise MoebenchError(f"{whole}, and the layers of this checkpoint are read one by one.")
        loading = replace(loading, stream=stream_of(loading, task.options.saving, whole))
    runner.select_device(loading.device)
    step("loading the model", 0, 0)
    checkpoint = model if streamed else opened(runner, model, tokenizer, loading, step, tell)
    step("reading the text", 0, 0)
    logits = watch is not None and watch.logits
    return [prepare(runner, checkpoint, task.dataset, task.options.reading, generate, logits) for task in tasks]


def _gathered(runner: Backend, measured: Measured, task: Task, first: bool) -> Measured:
    """What all processes measured of one data set; saved by the first."""
    task.step("waiting for the other processes", 0, 0)
    stats, whole = runner.gather(measured.stats), task.options.saving.output
    if whole is None or not first:
        return Measured(stats, {})
    paths: dict[Phase, Path] = {"prefill": Path(whole), "decode": decode_output(whole)}
    reports = save_pairs([(one, paths[phase]) for phase, one in stats.items()], task.options.plan)
    return Measured(stats, dict(zip(stats, reports, strict=True)))


def _run(
    runner: Backend, work: Work, task: Task, generate: int | None, tell: Tell, watch: Watch | None, writes: bool
) -> Measured:
    checkpoint, options, step = work.checkpoint, task.options, task.step
    saving = options.saving
    writer = None if saving.trace is None else TraceWriter(saving, PHASES[bool(generate)])
    watch = writer or watch
    if watch is not None:
        watch.begin(checkpoint.tokenizer)
    stats = work.recorder(runner, options, watch)
    decode = None
    if generate:
        decode = stats.filling("decode")
        decode.texts |= work.texts
    if saving.trace is not None:
        tell(budget(stats, saving, work.tokens, len(work.sequences), generate or 0))
    keeper = Keeper(stats, _path(saving), options.plan, decode, writer, writes=writes)
    doing = "generating, sequences" if generate else "measuring, sequences"
    with stats:
        planned = keeper.resume(work.batches()) if saving.resume else work.batches()
        with keeper:
            for batch in planned:
                step(doing, keeper.sequences, len(work.sequences))
                _run_batch(runner, checkpoint, stats, batch, generate, watch)
                keeper.count(batch)
            step("computing the intervals", 0, 0)
            keeper.finish()
    phases = _phases(stats, decode)
    return Measured(phases, dict(zip(phases, keeper.reports, strict=False)))


def _run_streamed(
    runner: Backend, works: Sequence[Work], tasks: Sequence[Task], step: Step, watch: Watch | None, writes: bool
) -> list[Measured]:
    """As `_run`, all together, layer by layer; of a task that is finished nothing is left to do but to say so."""
    if watch is not None:
        watch.begin(works[0].checkpoint.tokenizer)
    with ExitStack() as stack:
        every: list[tuple[Keeper, Run]] = []
        for work, task in zip(works, tasks, strict=True):
            stats = stack.enter_context(work.recorder(runner, task.options, watch))
            saving, count = task.options.saving, stats.specs[-1].layer + 1
            keeper = Keeper(stats, _path(saving), task.options.plan, writes=writes)
            if saving.resume:
                keeper.resume(work.batches())
            by_layer = LayerKeeper(stats, _path(saving), count)
            if saving.resume and not keeper.sequences:
                by_layer.resume()
            every.append((keeper, Run(stats, work.batches, by_layer, task.step, watch)))
        left = [run for keeper, run in every if not keeper.sequences]
        if left:
            run_layers(works[0].checkpoint.layers, left, tasks[0].options.loading.stream_memory, step)
        for (keeper, run), task in zip(every, tasks, strict=True):
            if run in left:
                keeper.count_all(iter(run.planned()))
            task.step("computing the intervals", 0, 0)
            keeper.finish()
            run.keeper.finish()
    phases = [_phases(run.stats, None) for _, run in every]
    return [
        Measured(of_task, dict(zip(of_task, keeper.reports, strict=False)))
        for of_task, (keeper, _) in zip(phases, every, strict=True)
    ]


def _path(saving: Saving) -> Path | None:
    return None if saving.output is None else Path(saving.output)


def _whole(saving: Saving, generate: int | None, watch: Watch | None) -> str | None:
    """Why a run needs all of a model in memory, or None."""
    if generate:
        return "--generate runs the whole model for every token"
    if saving.trace is not None:
        return "--trace writes every token when the whole model has seen it"
    return None if watch is None else "Single tokens are looked at when the whole model has seen them"


def _phases(prefill: RoutingStats, decode: RoutingStats | None) -> dict[Phase, RoutingStats]:
    """As plain statistics, without the model, which live ones hold on to."""
    every = (prefill,) if decode is None else (prefill, decode)
    return {one.phase: one.handed_over(RoutingStats) for one in every}


def _run_batch(
    runner: Backend, checkpoint: Any, stats: RecordedStats, batch: Batch, generate: int | None, watch: Watch | None
) -> None:
    check_room()
    ids, logits = batch.ids, None
    if generate:
        ids = runner.generate(checkpoint, stats, batch, generate)
    else:
        with stats.batch(mask=batch.mask, ids=batch.rows):
            logits = runner.forward(checkpoint, batch, watch is not None and watch.logits)
    if watch is not None:
        stats.phase_stats("prefill")  # evaluates what waits, so that it has seen every token
        watch.count(batch, ids, stats, logits)


def _check_generation(max_tokens: int, saving: Saving) -> None:
    if max_tokens < 1:
        raise MoebenchError(f"Generate at least 1 token, not {max_tokens}.")
    if saving.trace_predictions:
        raise MoebenchError("Generated tokens are the model's predictions already: leave out the trace's predictions.")
