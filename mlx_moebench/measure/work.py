"""What a measurement runs: the checkpoint, the sequences of a data set, and the facts that a report says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data import (
    Batch,
    Corpus,
    Dataset,
    RowsOf,
    Sequence,
    batches,
    bos_policy,
    encode,
    grouped,
    in_shard,
    pad_id,
    read_corpus,
    text_hashes,
)
from ..errors import DataError, MoebenchError
from ..options import Loading, Options, Reading, Step, Tell
from ..pair.stats import RecordedStats
from ..routing.stats import Cluster
from ..types import Facts, Json
from .backends import Backend, checkpoint_of
from .facts import check_vocabulary
from .fit import rows_of
from .watch import Watch


@dataclass(frozen=True)
class Work:
    """One data set that is to be run through a checkpoint, and the facts that a report says of it."""

    checkpoint: Any
    sequences: list[Sequence]
    batch_size: RowsOf
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

    def recorder(self, runner: Backend, options: Options, watch: Watch | None) -> RecordedStats:
        """Statistics that fill while the checkpoint's model runs."""
        command = {} if options.saving.command is None else {"command": options.saving.command}
        stats = runner.recorder(
            self.checkpoint.model,
            tokens=None if watch is None else watch.record,
            tau=options.flag.tau,
            collapse_on=options.flag.collapse_on,
            model=runner.facts(self.checkpoint),
            sources=self.sources,
            environment=runner.environment() | command,
        )
        stats.texts |= self.texts
        return stats


def prepare(
    runner: Backend, checkpoint: Any, dataset: Dataset, reading: Reading, generate: int | None, logits: bool = False
) -> Work:
    """Read a data set for a checkpoint. logits: whether they are read. Raises DataError for what its model cannot be
    given."""
    corpus = read_corpus(dataset, **reading.of_corpus(), tokenizer=checkpoint.tokenizer)
    every = encode(corpus, checkpoint.tokenizer, reading.max_length)
    sequences = in_shard(every, reading.shard)
    _check_fit(runner.config(checkpoint.model), sequences, generate or 0)
    batch_size = rows_of(runner, checkpoint, reading, logits)
    facts = _data_facts(corpus, every, checkpoint.tokenizer, reading) | {
        "parts": [_part(sequences, reading.shard, batch_size)]
    }
    if generate:
        facts["generation"] = {"max_tokens": generate, "sampling": "greedy"}
    return Work(checkpoint, sequences, batch_size, {corpus.sha256: facts})


def opened(runner: Backend, model: Any, tokenizer: Any, loading: Loading, step: Step, tell: Tell) -> Any:
    """The checkpoint of a model as `run.analyze` takes it; loaded, or where ``loading.stream`` has it so opened."""
    if model is None or isinstance(model, str | Path):
        if tokenizer is not None:
            raise MoebenchError("A tokenizer goes with a model object; a folder or hub id brings its own.")
        return runner.load(model, loading, step) if loading.stream == "off" else runner.open(model, loading, step, tell)
    if loading.stream == "on":
        raise MoebenchError("This model is in memory already; to stream its layers, name its folder or hub id instead.")
    if loading.asked:
        raise MoebenchError(f"This model is loaded already; give {' and '.join(loading.asked)} when loading it.")
    return checkpoint_of(model, tokenizer, runner.name)


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


def _data_facts(corpus: Corpus, sequences: list[Sequence], tokenizer: Any, reading: Reading) -> Json:
    return corpus.facts() | {
        "max_length": reading.max_length,
        "documents": len({s.row for s in sequences}),
        "truncated_sequences": 0,
        "padding": "right, masked",
        "bos": bos_policy(sequences, tokenizer),
        "max_samples": reading.max_samples,
    }


def _part(sequences: list[Sequence], shard: str | None, batch_size: RowsOf) -> Json:
    """What this run has to measure, of which nothing is done; see `routing.parts`."""
    groups = grouped(sequences, batch_size)
    return {
        "shard": shard,
        "documents": len({s.row for s in sequences}),
        "sequences": len(sequences),
        "sequences_done": 0,
        "batch_size": batch_size if isinstance(batch_size, int) else max(map(len, groups)),
        "batches": len(groups),
        "batches_done": 0,
    }
