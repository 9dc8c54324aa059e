"""One model, one data set: run every sequence once and count what the routers say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from ..data import (
    Batch,
    Corpus,
    Dataset,
    Sequence,
    batches,
    bos_policy,
    encode,
    in_shard,
    pad_id,
    read_corpus,
    text_hashes,
)
from ..errors import DataError, MoebenchError
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
from ..routing.stats import Cluster
from ..types import Facts, Json
from .backends import Backend, backend_named, checkpoint_of
from .facts import check_vocabulary
from .keep import Keeper, check_saving, outputs_of
from .keep_layers import LayerKeeper
from .sharing import check_together, of_rank, shares_the_model
from .streaming import run_layers, stream_of
from .trace import TraceWriter, budget
from .watch import Watch

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
    batch_size : int
        Sequences per forward pass.
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
    """Run every sequence of ``dataset``; see `analyze`.

    runner: the backend, where it is not the one that ``options`` names. generate: tokens to continue each prompt for,
    one prompt at a time. watch: sees tokens where no trace does. Where several processes share the work, each keeps its
    own at `sharing.rank_output` and the first one the whole at the output. Where they share the model instead, so that
    each sees the same routers, all run everything, and what the first one counts is kept.
    """
    runner = runner or backend_named(options.loading.backend)
    if generate is not None:
        _check_generation(generate, options.saving)
        options = replace(options, reading=replace(options.reading, batch_size=1))
    whole, place = options.saving.output, runner.ranks()
    together = place is not None and shares_the_model(model)
    if together:
        check_together(options.saving)
    elif place is not None:
        options = of_rank(place, options)
    first = place is None or place[0] == 0
    with holding(*outputs_of(whole if first else None, options.saving, writes=first or not together)):
        check_saving(options.saving, generate is not None, writes=first or not together)
        work = _prepare(runner, model, dataset, options, tokenizer, generate, step, tell, watch)
        measured = _run(runner, work, options, generate, step, tell, watch, first or not together)
        if place is None or together:
            return measured
        step("waiting for the other processes", 0, 0)
        stats = runner.gather(measured.stats)
        if whole is None or not first:
            return Measured(stats, {})
        paths: dict[Phase, Path] = {"prefill": Path(whole), "decode": decode_output(whole)}
        reports = save_pairs([(one, paths[phase]) for phase, one in stats.items()], options.plan)
        return Measured(stats, dict(zip(stats, reports, strict=True)))


@dataclass(frozen=True)
class _Work:
    """What is to be run, and the facts that a report says of it."""

    checkpoint: Any
    sequences: list[Sequence]
    batch_size: int
    sources: dict[str, Json]

    def batches(self) -> Iterator[Batch]:
        """What the model is given; the same every time."""
        return batches(self.sequences, self.batch_size, pad_id(self.checkpoint.tokenizer))

    @property
    def tokens(self) -> int:
        return sum(len(s.ids) for s in self.sequences)

    @property
    def texts(self) -> dict[Cluster, int]:
        """By which a text is known that occurs twice."""
        hashes = text_hashes(self.sequences)
        return {(sha, row): text for sha in self.sources for row, text in hashes.items()}


def _prepare(
    runner: Backend,
    model: Any,
    dataset: Dataset,
    options: Options,
    tokenizer: Any,
    generate: int | None,
    step: Step,
    tell: Tell,
    watch: Watch | None,
) -> _Work:
    reading = options.reading
    stream = stream_of(options.loading, options.saving, _whole(options.saving, generate, watch))
    runner.select_device(options.loading.device)
    step("loading the model", 0, 0)
    checkpoint = _checkpoint(runner, model, tokenizer, replace(options.loading, stream=stream), step, tell)
    step("reading the text", 0, 0)
    corpus = read_corpus(dataset, **reading.of_corpus(), tokenizer=checkpoint.tokenizer)
    every = encode(corpus, checkpoint.tokenizer, reading.max_length)
    sequences = in_shard(every, reading.shard)
    _check_fit(runner.config(checkpoint.model), sequences, generate or 0)
    facts = _data_facts(corpus, every, checkpoint.tokenizer, reading) | {"parts": [_part(sequences, reading)]}
    if generate:
        facts["generation"] = {"max_tokens": generate, "sampling": "greedy"}
    return _Work(checkpoint, sequences, reading.batch_size, {corpus.sha256: facts})


def _run(
    runner: Backend,
    work: _Work,
    options: Options,
    generate: int | None,
    step: Step,
    tell: Tell,
    watch: Watch | None,
    writes: bool,
) -> Measured:
    checkpoint, saving = work.checkpoint, options.saving
    writer = None if saving.trace is None else TraceWriter(saving, PHASES[bool(generate)])
    watch = writer or watch
    if watch is not None:
        watch.begin(checkpoint.tokenizer)
    stats = _recorder(runner, work, options, watch)
    stats.texts |= work.texts
    decode = None
    if generate:
        decode = stats.filling("decode")
        decode.texts |= work.texts
    if saving.trace is not None:
        tell(budget(stats, saving, work.tokens, len(work.sequences), generate or 0))
    output = None if saving.output is None else Path(saving.output)
    keeper = Keeper(stats, output, options.plan, decode, writer, writes=writes)
    doing = "generating, sequences" if generate else "measuring, sequences"
    with stats:
        planned = keeper.resume(work.batches()) if saving.resume else work.batches()
        if getattr(checkpoint, "layers", None) is not None:
            _stream(work, stats, keeper, options, step)
        else:
            with keeper:
                for batch in planned:
                    step(doing, keeper.sequences, len(work.sequences))
                    _run_batch(runner, checkpoint, stats, batch, generate, watch)
                    keeper.count(batch)
                step("computing the intervals", 0, 0)
                keeper.finish()
    phases = _phases(stats, decode)
    return Measured(phases, dict(zip(phases, keeper.reports, strict=False)))


def _stream(work: _Work, stats: RecordedStats, keeper: Keeper, options: Options, step: Step) -> None:
    """As `_run`, layer by layer; of a run that is finished nothing is left to do but to say so."""
    layers, output = work.checkpoint.layers, options.saving.output
    by_layer = LayerKeeper(stats, None if output is None else Path(output), stats.specs[-1].layer + 1)
    if not keeper.sequences:
        if options.saving.resume:
            by_layer.resume()
        run_layers(layers, stats, work.batches, by_layer, options.loading.stream_memory, step)
        keeper.count_all(work.batches())
    step("computing the intervals", 0, 0)
    keeper.finish()
    by_layer.finish()


def _whole(saving: Saving, generate: int | None, watch: Watch | None) -> str | None:
    """Why a run needs all of a model in memory, or None."""
    if generate:
        return "--generate runs the whole model for every token"
    if saving.trace is not None:
        return "--trace writes every token when the whole model has seen it"
    return None if watch is None else "Single tokens are looked at when the whole model has seen them"


def _phases(prefill: RoutingStats, decode: RoutingStats | None) -> dict[Phase, RoutingStats]:
    """Merged alone they are plain statistics, without the model, which live ones hold on to."""
    every = (prefill,) if decode is None else (prefill, decode)
    return {one.phase: RoutingStats.merge([one]) for one in every}


def _recorder(runner: Backend, work: _Work, options: Options, watch: Watch | None) -> RecordedStats:
    command = {} if options.saving.command is None else {"command": options.saving.command}
    return runner.recorder(
        work.checkpoint.model,
        tokens=None if watch is None else watch.record,
        tau=options.flag.tau,
        collapse_on=options.flag.collapse_on,
        model=runner.facts(work.checkpoint),
        sources=work.sources,
        environment=runner.environment() | command,
    )


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


def _check_fit(config: Facts, sequences: list[Sequence], generate: int) -> None:
    """Raise DataError for an id or a position that the model lacks, which MLX would look up without a word."""
    check_vocabulary(config, max(int(s.ids.max()) for s in sequences))
    positions = config.get("max_position_embeddings")
    longest = max(len(s.ids) for s in sequences) + generate
    if positions is not None and longest > positions:
        room = positions - generate
        advice = f"use --max-length {room}" if room > 1 else "generate fewer"
        raise DataError(
            f"A sequence has {longest} tokens{' with those to generate' if generate else ''}, but the model has "
            f"{positions} positions: {advice}."
        )


def _checkpoint(runner: Backend, model: Any, tokenizer: Any, loading: Loading, step: Step, tell: Tell) -> Any:
    if model is None or isinstance(model, str | Path):
        if tokenizer is not None:
            raise MoebenchError("A tokenizer goes with a model object; a folder or hub id brings its own.")
        return runner.load(model, loading, step) if loading.stream == "off" else runner.open(model, loading, step, tell)
    if loading.stream == "on":
        raise MoebenchError("This model is in memory already; to stream its layers, name its folder or hub id instead.")
    if loading.asked:
        raise MoebenchError(f"This model is loaded already; give {' and '.join(loading.asked)} when loading it.")
    return checkpoint_of(model, tokenizer, runner.name)


def _data_facts(corpus: Corpus, sequences: list[Sequence], tokenizer: Any, reading: Reading) -> Json:
    return corpus.facts() | {
        "max_length": reading.max_length,
        "documents": len({s.row for s in sequences}),
        "truncated_sequences": 0,
        "padding": "right, masked",
        "bos": bos_policy(sequences, tokenizer),
        "max_samples": reading.max_samples,
    }


def _part(sequences: list[Sequence], reading: Reading) -> Json:
    """What this run has to measure, of which nothing is done; see `routing.parts`."""
    return {
        "shard": reading.shard,
        "documents": len({s.row for s in sequences}),
        "sequences": len(sequences),
        "sequences_done": 0,
        "batch_size": reading.batch_size,
        "batches": -(-len(sequences) // reading.batch_size),
        "batches_done": 0,
    }
