"""One model, one data set: run every sequence once and count what the routers say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data import Batch, Corpus, Sequence, batches, bos_policy, encode, in_shard, pad_id, parse_shard, read_corpus
from ..environment import environment
from ..errors import DataError, MoebenchError
from ..instrument import LiveRoutingStats, config_of, model_facts
from ..models import Checkpoint, load_checkpoint, select_device
from ..routing.stats import RoutingStats, check_flag
from ..routing.uncertainty import Plan
from .keep import Keeper

Step = Callable[[str, int, int], None]
"""step(what, done, total) is told of progress; total 0 means unknown."""


def analyze(
    model: Any = None,
    dataset: str | Path = "math",
    *,
    tokenizer: Any = None,
    text_field: str | None = None,
    max_samples: int | None = None,
    max_length: int = 256,
    batch_size: int = 8,
    device: str = "auto",
    dtype: str | None = None,
    tau: float = 0.40,
    collapse_on: str = "top_share_token",
    trust_remote_code: bool = False,
    shard: str | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    plan: Plan | None = None,
    command: str | None = None,
    step: Step = lambda what, done, total: None,
) -> RoutingStats:
    """Measure how ``model`` routes ``dataset``, every sequence as one prompt (phase prefill).

    model: None for the embedded model, a folder, a hub id, a `Checkpoint`, or an mlx-lm model together with its
    ``tokenizer``. dataset: see `data.read_corpus`. max_length: tokens kept of a document. The result depends on
    neither batch_size nor order, up to rounding. The model is left as it was.
    shard: ``i/n``, only rows with row % n == i - 1 of the documents chosen; `RoutingStats.merge` puts shards together.

    output: stats pair, saved while the run goes on (at most 5% of its time) and at its end, with the intervals of
    ``plan``; so a run that is killed, or stopped by Ctrl-C or an error, leaves there what it had measured.
    resume: go on from the pair at ``output``, if there is one, to the very numbers of a run that was never stopped.
    command: what the report says started it.

    Raises `MoebenchError` subclasses with one sentence that says what to do.
    """
    check_flag(tau, collapse_on)
    if resume and output is None:
        raise MoebenchError("Only a run with an output can be resumed: name the stats pair.")
    if shard is not None:
        parse_shard(shard)
    select_device(device)
    step("loading the model", 0, 0)
    checkpoint = _checkpoint(model, tokenizer, dtype, trust_remote_code)
    step("reading the text", 0, 0)
    corpus = read_corpus(dataset, text_field=text_field, max_samples=max_samples, tokenizer=checkpoint.tokenizer)
    every = encode(corpus, checkpoint.tokenizer, max_length)
    sequences = in_shard(every, shard)
    _check_fit(checkpoint.model, sequences)
    planned = batches(sequences, batch_size, pad_id(checkpoint.tokenizer))
    facts = _data_facts(corpus, every, checkpoint.tokenizer, max_length)
    facts |= {"max_samples": max_samples, "parts": [_part(sequences, shard, batch_size)]}
    stats = LiveRoutingStats(
        checkpoint.model,
        tau=tau,
        collapse_on=collapse_on,
        model=_model_facts(checkpoint),
        sources={corpus.sha256: facts},
        environment=environment() | ({} if command is None else {"command": command}),
    )
    keeper = Keeper(stats, None if output is None else Path(output), plan)
    with stats:
        if resume:
            planned = keeper.resume(planned)
        with keeper:
            for batch in planned:
                step("measuring, sequences", keeper.sequences, len(sequences))
                _forward(checkpoint.model, stats, batch)
                keeper.count(batch)
            step("computing the intervals", 0, 0)
            keeper.finish()
    return RoutingStats.merge([stats])  # without the model, which live statistics hold on to


def _check_fit(model: Any, sequences: list[Sequence]) -> None:
    """MLX looks up an id or a position that the model lacks without a word, in memory that is not the model's."""
    vocabulary = config_of(model).get("vocab_size")
    largest = max(int(s.ids.max()) for s in sequences)
    if vocabulary is not None and largest >= vocabulary:
        raise DataError(
            f"The tokenizer gives id {largest}, but the model knows {vocabulary} ids: the tokenizer is another model's."
        )
    positions = config_of(model).get("max_position_embeddings")
    longest = max(len(s.ids) for s in sequences)
    if positions is not None and longest > positions:
        raise DataError(
            f"A sequence has {longest} tokens, but the model has {positions} positions: use --max-length {positions}."
        )


def _forward(model: Any, stats: LiveRoutingStats, batch: Batch) -> None:
    """Only the tallies are evaluated, so MLX never computes the output head nor the last layer's experts."""
    import mlx.core as mx

    with stats.batch(mask=batch.mask, ids=batch.rows):
        model(mx.array(batch.ids))


def _checkpoint(model: Any, tokenizer: Any, dtype: str | None, trust_remote_code: bool) -> Checkpoint | _Given:
    if model is None or isinstance(model, str | Path):
        if tokenizer is not None:
            raise MoebenchError("A tokenizer goes with a model object; a folder or hub id brings its own.")
        return load_checkpoint(model, dtype=dtype, trust_remote_code=trust_remote_code)
    if dtype is not None:
        raise MoebenchError("A dtype is chosen when a model is loaded; this one is loaded already.")
    if isinstance(model, Checkpoint):
        return model
    if tokenizer is None:
        raise MoebenchError("A model object needs its tokenizer: analyze(model, dataset, tokenizer=tokenizer).")
    return _Given(model, tokenizer)


class _Given:
    """A model and tokenizer that the caller loaded."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer


def _model_facts(checkpoint: Checkpoint | _Given) -> dict[str, Any]:
    facts = model_facts(checkpoint.model)
    if isinstance(checkpoint, Checkpoint):
        facts |= {
            "id": checkpoint.name,
            "revision": checkpoint.revision,
            "dtype": checkpoint.dtype,
            "weight_bits": checkpoint.weight_bits,
            "fingerprint": checkpoint.fingerprint,
        }
    return facts


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
