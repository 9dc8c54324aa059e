"""What experts are measured on: a corpus, or MMLU's questions, as sequences of which some positions count."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..data import Dataset, bos_policy, encode, in_shard, read_corpus, text_hashes
from ..data import Sequence as TokenSequence
from ..data.mmlu import Mmlu, Question
from ..errors import DataError
from ..evaluate.choices import Request
from ..evaluate.mmlu import posed
from ..measure.facts import check_vocabulary
from ..options import Reading
from ..routing.repeats import Units, text_hash, units_of
from ..types import HostArray, Json
from .answers import exam_facts

CHOOSING, JUDGING = "1/2", "2/2"
"""Documents to choose by, and others to judge by."""

Positions = Literal["last", "answer", "all"]
POSITIONS: tuple[Positions, ...] = ("last", "answer", "all")
"""Which tokens count: the last one of a prompt, which the answer is read from; the answer's own; or all of a prompt."""


class Posed(NamedTuple):
    """A question as a model gets it. shots, truncated: see `evaluate.mmlu.posed`. requests: one for each letter."""

    question: Question
    shots: int
    truncated: bool
    requests: list[Request]


@dataclass(frozen=True)
class Texts:
    """N sequences, the row of each being its place. counted [N, 2]: the positions that count, from and to.

    units: what is drawn independently, and the subject or domain of each. facts: the ``data`` section of a report.
    questions: of each sequence, where they are questions.
    """

    sequences: list[TokenSequence]
    counted: npt.NDArray[np.int64]
    units: Units
    strata: list[str]
    facts: Json
    questions: list[Posed] | None = None

    @property
    def n_counted(self) -> int:
        """Positions that count."""
        return int((self.counted[:, 1] - self.counted[:, 0]).sum())


def corpus_texts(checkpoint: Any, config: Json, dataset: Dataset, reading: Reading, positions: Positions) -> Texts:
    """The sequences of a corpus, which has no answers; raises what `data.read_corpus` and `data.encode` do."""
    corpus = read_corpus(dataset, **reading.of_corpus(), tokenizer=checkpoint.tokenizer)
    whole = encode(corpus, checkpoint.tokenizer, reading.max_length)
    if reading.shard == CHOOSING and len({sequence.row % 2 for sequence in whole}) < 2:
        raise DataError(
            f"{corpus.name} is one document, which cannot be split into some to choose by and others to judge by: give "
            "more, or make documents of its paragraphs with --split-on blank."
        )
    every = in_shard(whole, reading.shard)
    check_vocabulary(config, max(int(s.ids.max()) for s in every))
    hashes = text_hashes(every)
    units = units_of(hashes[s.row] for s in every)
    ends = np.array([len(s.ids) for s in every])
    facts = corpus.facts() | {
        "sha256": corpus.sha256,
        "max_length": reading.max_length,
        "max_samples": reading.max_samples,
    }
    facts |= {"bos": bos_policy(every, checkpoint.tokenizer), "shard": reading.shard}
    return _texts([s.ids for s in every], ends, positions, units, [corpus.name] * len(every), facts)


def question_texts(checkpoint: Any, config: Json, mmlu: Mmlu, positions: Positions, shots: int) -> Texts:
    """The prompts of MMLU's questions, each with its right answer behind it where the answers count.

    As many of the ``shots`` as fit into the model's positions.
    """
    length = config.get("max_position_embeddings")
    asked = [
        Posed(question, *posed(checkpoint.tokenizer, question, mmlu.shots[subject], length))
        for subject, questions in mmlu.questions.items()
        for question in questions
    ]
    ids, ends = [], []
    for one in asked:
        context, right = one.requests[0].context, one.requests[one.question.answer].continuation
        ids.append(np.array(context + (right if positions == "answer" else ()), dtype=np.int32))
        ends.append(len(context))
    check_vocabulary(config, max(int(one.max()) for one in ids))
    keys: list[Hashable] = [(one.question.subject, text_hash([of])) for one, of in zip(asked, ids, strict=True)]
    facts = exam_facts(mmlu) | {
        "shots": shots,
        "shots_used": float(np.mean([one.shots for one in asked])),
        "truncated": sum(one.truncated for one in asked),
    }
    subjects = [one.question.subject for one in asked]
    return _texts(ids, np.array(ends), positions, units_of(keys), subjects, facts, asked)


def _texts(
    ids: Sequence[HostArray],
    ends: npt.NDArray[np.int64],
    positions: Positions,
    units: Units,
    strata: list[str],
    facts: Json,
    questions: list[Posed] | None = None,
) -> Texts:
    """ends: [N] of what stands before an answer."""
    lengths = np.array([len(one) for one in ids])
    starts = {"last": ends - 1, "answer": ends, "all": np.zeros_like(ends)}[positions]
    counted = np.stack([starts, lengths if positions == "answer" else ends], axis=1)
    sequences = [TokenSequence(row, 0, one, truncated=False) for row, one in enumerate(ids)]
    sizes = {"n_sequences": len(ids), "n_tokens": int(lengths.sum()), "positions": positions}
    made = Texts(sequences, counted, units, units.strata(strata), facts | sizes, questions)
    return Texts(**vars(made) | {"facts": made.facts | {"n_counted": made.n_counted}})
