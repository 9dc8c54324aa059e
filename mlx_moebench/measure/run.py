"""One model, one data set: run every sequence once and count what the routers say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data import Corpus, Sequence, batches, bos_policy, encode, in_shard, pad_id, parse_shard, read_corpus
from ..errors import DataError, MoebenchError
from ..pair.storage import decode_output, pair_contents, pair_paths, write_aside
from ..routing.intervals.bootstrap import Plan
from ..routing.record import Phase
from ..routing.stats import RoutingStats, check_flag
from .backends import Backend, Step, backend_named, given
from .facts import check_vocabulary
from .keep import Keeper, check_replaceable
from .trace import LIMIT, TraceRequest, TraceWriter, budget, check_trace_folder
from .watch import Watch

PHASES: tuple[tuple[Phase, ...], ...] = (("prefill",), ("prefill", "decode"))
"""The phases of a run without generation, and with it."""

Tell = Callable[[str], None]
"""tell(line) is told what a user should know before the measurement starts."""


def analyze(
    model: Any = None,
    dataset: str | Path = "math",
    *,
    backend: str | Backend = "mlx",
    tokenizer: Any = None,
    text_field: str | None = None,
    max_samples: int | None = None,
    max_length: int = 256,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str | None = None,
    bits: int | None = None,
    router_bits: int | None = None,
    adapter_path: str | Path | None = None,
    tau: float = 0.40,
    collapse_on: str = "top_share_token",
    trust_remote_code: bool = False,
    shard: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    trace: str | Path | None = None,
    trace_limit: int = LIMIT,
    trace_predictions: bool = False,
    plan: Plan | None = None,
    command: str | None = None,
    step: Step = lambda what, done, total: None,
    tell: Tell = lambda line: None,
) -> RoutingStats:
    """Measure how ``model`` routes ``dataset``, every sequence as one prompt (phase prefill).

    model: None for the embedded model, a folder, a hub id, a loaded checkpoint, or an mlx-lm (with the backend torch a
    transformers) model together with its ``tokenizer``. backend: ``mlx``, or ``torch``, which measures the same on
    transformers; under torchrun its ranks take a shard each, and all return the whole. dataset: see
    `data.read_corpus`. max_length: tokens kept of a document. dtype, bits, router_bits, adapter_path: see
    `models.load_checkpoint` and `torch_fallback.load_checkpoint`; not for a model that is loaded already. The result
    depends on neither batch_size nor order, up to rounding. The model is left as it was. ``stats.model["warnings"]``
    says what a reader must know of the routers' precision.
    shard: ``i/n``, only rows with row % n == i - 1 of the documents chosen; `RoutingStats.merge` puts shards together.

    output: stats pair, saved while the run goes on (at most 5% of its time) and at its end, with the intervals of
    ``plan``; so a run that is killed, or stopped by Ctrl-C or an error, leaves there what it had measured.
    resume: go on from the pair at ``output``, if there is one, to the very numbers of a run that was never stopped.
    trace: a folder for the experts of every single token (docs/traces.md), saved in step with the pair, of at most
    ``trace_limit`` bytes; ``trace_predictions`` adds the model's most likely next token. `data.trace` reads it.
    command: what the report says started it. tell: is told how large the trace will be.

    Raises `MoebenchError` subclasses with one sentence that says what to do.
    """
    options = {key: value for key, value in locals().items() if key not in ("model", "dataset", "batch_size")}
    return measure(model, dataset, batch_size, None, **options)["prefill"]


def analyze_generation(
    model: Any = None, dataset: str | Path = "math", *, max_tokens: int, **options: Any
) -> dict[Phase, RoutingStats]:
    """Measure prompts and what the model makes of them apart: {"prefill": statistics, "decode": statistics}.

    Every sequence is a prompt, run alone and continued greedily for at most ``max_tokens`` tokens, fewer where the
    model ends its text. options: as for `analyze`, without batch_size; the decode pair lies at `decode_output`.
    Raises what `analyze` raises.
    """
    if max_tokens < 1:
        raise MoebenchError(f"Generate at least 1 token, not {max_tokens}.")
    if "batch_size" in options:
        raise MoebenchError("Prompts are continued one at a time; leave out batch_size.")
    return measure(model, dataset, 1, max_tokens, **options)


def measure(
    model: Any,
    dataset: str | Path,
    batch_size: int,
    generate: int | None,
    *,
    backend: str | Backend = "mlx",
    tokenizer: Any = None,
    text_field: str | None = None,
    max_samples: int | None = None,
    max_length: int = 256,
    device: str = "auto",
    tau: float = 0.40,
    collapse_on: str = "top_share_token",
    trust_remote_code: bool = False,
    shard: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    trace: str | Path | None = None,
    trace_limit: int = LIMIT,
    trace_predictions: bool = False,
    plan: Plan | None = None,
    command: str | None = None,
    step: Step = lambda what, done, total: None,
    tell: Tell = lambda line: None,
    watch: Watch | None = None,
    **precision: Any,
) -> dict[Phase, RoutingStats]:
    """The statistics of each phase, kept at ``output`` while they grow; ``watch`` sees tokens where no trace does.

    Where several processes share the work, each keeps its own at `rank_output` and the first one the whole at
    ``output``.
    """
    runner = backend_named(backend) if isinstance(backend, str) else backend
    check_flag(tau, collapse_on)
    whole, place = output, runner.ranks()
    if place is not None:
        shard, output, trace = _of_rank(place, shard, output, trace, resume)
    if resume and output is None:
        raise MoebenchError("Only a run with an output can be resumed: name the stats pair.")
    if shard is not None:
        parse_shard(shard)
    request = _trace_request(trace, trace_limit, trace_predictions, output, resume, generate)
    runner.select_device(device)
    step("loading the model", 0, 0)
    checkpoint = _checkpoint(runner, model, tokenizer, precision, trust_remote_code, step)
    step("reading the text", 0, 0)
    corpus = read_corpus(dataset, text_field=text_field, max_samples=max_samples, tokenizer=checkpoint.tokenizer)
    every = encode(corpus, checkpoint.tokenizer, max_length)
    sequences = in_shard(every, shard)
    _check_fit(runner.config(checkpoint.model), sequences, generate or 0)
    planned = batches(sequences, batch_size, pad_id(checkpoint.tokenizer))
    facts = _data_facts(corpus, every, checkpoint.tokenizer, max_length)
    facts |= {"max_samples": max_samples, "parts": [_part(sequences, shard, batch_size)]}
    if generate:
        facts["generation"] = {"max_tokens": generate, "sampling": "greedy"}
    writer = None if request is None else TraceWriter(request, PHASES[bool(generate)])
    watch = writer or watch
    if watch is not None:
        watch.begin(checkpoint.tokenizer)
    stats = runner.recorder(
        checkpoint.model,
        tokens=None if watch is None else watch.record,
        tau=tau,
        collapse_on=collapse_on,
        model=runner.facts(checkpoint),
        sources={corpus.sha256: facts},
        environment=runner.environment() | ({} if command is None else {"command": command}),
    )
    decode = stats.phase_stats("decode") if generate else None
    if request is not None:
        tell(budget(stats, request, sum(len(s.ids) for s in sequences), len(sequences), generate or 0))
    keeper = Keeper(stats, None if output is None else Path(output), plan, decode, writer)
    with stats:
        if resume:
            planned = keeper.resume(planned)
        with keeper:
            for batch in planned:
                step("generating, sequences" if generate else "measuring, sequences", keeper.sequences, len(sequences))
                ids, logits = batch.ids, None
                if generate:
                    ids = runner.generate(checkpoint, stats, batch, generate)
                else:
                    with stats.batch(mask=batch.mask, ids=batch.rows):
                        logits = runner.forward(checkpoint, batch, watch is not None and watch.logits)
                if watch is not None:
                    stats.phase_stats("prefill")  # evaluates what waits, so that it has seen every token
                    watch.count(batch, ids, stats, logits)
                keeper.count(batch)
            step("computing the intervals", 0, 0)
            keeper.finish()
    # Merged alone they are plain statistics, without the model, which live ones hold on to.
    found: dict[Phase, RoutingStats] = {"prefill": RoutingStats.merge([stats])}
    if decode is not None:
        found["decode"] = RoutingStats.merge([decode])
    if place is not None:
        step("waiting for the other processes", 0, 0)
        found = runner.gather(found)
        if whole is not None and place[0] == 0:
            paths = {"prefill": Path(whole), "decode": decode_output(whole)}
            write_aside({k: v for phase, s in found.items() for k, v in pair_contents(s, paths[phase], plan).items()})
    return found


def rank_output(output: str | Path, rank: int, size: int) -> Path:
    """Where one of several processes keeps its part of the pair ``output``: OUT.rank-1-of-2.json."""
    stem = pair_paths(Path(output))[0].with_suffix("")
    return stem.with_name(f"{stem.name}.rank-{rank + 1}-of-{size}.json")


def _of_rank(
    place: tuple[int, int], shard: str | None, output: str | Path | None, trace: str | Path | None, resume: bool
) -> tuple[str, Path | None, Path | None]:
    """(shard, output, trace) of one of several processes."""
    rank, size = place
    if shard is not None:
        raise MoebenchError(f"Each of {size} processes measures a shard of its own; leave out --shard {shard}.")
    own = None if output is None else rank_output(output, rank, size)
    if own is not None and not resume:
        check_replaceable(own)
    return f"{rank + 1}/{size}", own, None if trace is None else Path(trace) / f"rank-{rank + 1}-of-{size}"


def _check_fit(config: Mapping[str, Any], sequences: list[Sequence], generate: int) -> None:
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


def _trace_request(
    trace: str | Path | None,
    limit: int,
    predictions: bool,
    output: str | Path | None,
    resume: bool,
    generate: int | None,
) -> TraceRequest | None:
    if trace is None:
        if predictions:
            raise MoebenchError("Predictions are kept in a trace: name its folder, with --trace.")
        return None
    if output is None:
        raise MoebenchError("A trace is saved in step with a stats pair: name an output.")
    if predictions and generate:
        raise MoebenchError("Generated tokens are the model's predictions already: leave out the trace's predictions.")
    check_trace_folder(Path(trace), resume)
    return TraceRequest(Path(trace), limit, predictions)


def _checkpoint(
    runner: Backend, model: Any, tokenizer: Any, precision: dict[str, Any], trust_remote_code: bool, step: Step
) -> Any:
    if model is None or isinstance(model, str | Path):
        if tokenizer is not None:
            raise MoebenchError("A tokenizer goes with a model object; a folder or hub id brings its own.")
        return runner.load(model, trust_remote_code, precision, step)
    if asked := [name for name, value in precision.items() if value is not None]:
        raise MoebenchError(f"This model is loaded already; give {' and '.join(asked)} when loading it.")
    return given(model, tokenizer, runner.name)


def _data_facts(corpus: Corpus, sequences: list[Sequence], tokenizer: Any, max_length: int) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "format": corpus.format,
        "field": corpus.field,
        "template": corpus.template,
        "max_length": max_length,
        "documents": len({s.row for s in sequences}),
        "truncated_sequences": 0,
        "padding": "right, masked",
        "bos": bos_policy(sequences, tokenizer),
    }


def _part(sequences: list[Sequence], shard: str | None, batch_size: int) -> dict[str, Any]:
    """What this run has to measure, of which nothing is done; see `routing.parts`."""
    return {
        "shard": shard,
        "documents": len({s.row for s in sequences}),
        "sequences": len(sequences),
        "sequences_done": 0,
        "batch_size": batch_size,
        "batches": -(-len(sequences) // batch_size),
        "batches_done": 0,
    }
