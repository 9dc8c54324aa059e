"""A model on zero-shot tasks and on plain text: which choice it finds likeliest, and its perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Corpus, encode
from ..data.zeroshot import Item, Questions, Scoring, right
from ..errors import DataError
from ..measure.backends import Backend
from ..options import Plan, Reading
from ..routing.comparison.choices import by_cluster
from ..routing.intervals.ratios import ratio_intervals
from ..routing.repeats import units_of
from ..types import Json
from .accuracy import accuracy, wilson
from .choices import Request, encode_choices, fitted, score

RULES: tuple[Scoring | str, ...] = ("per_token", "sum", "per_character")
"""What a choice may be judged by: its log-likelihood over its tokens (LibMoE), its log-likelihood (`acc` of
lm-evaluation-harness), or that over its characters without the leading space (`acc_norm`)."""


@dataclass(frozen=True)
class Answered:
    """What a model made of an item: of each choice ln p in nats, its tokens, and whether each was the likeliest.

    truncated: something was cut to fit the model's positions.
    """

    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]
    greedy: tuple[bool, ...]
    truncated: bool

    def values(self, rule: str, item: Item) -> list[float]:
        """What the choices are judged by."""
        if rule == "greedy":
            return [float(one) for one in self.greedy]
        over: Sequence[int] = [1] * len(self.tokens)
        if rule == "per_token":
            over = self.tokens
        elif rule == "per_character":
            over = [len(choice.lstrip(" ")) for choice in item.choices]
        return [value / n for value, n in zip(self.log_likelihoods, over, strict=True)]


def answer(
    runner: Backend,
    checkpoint: Any,
    items: Sequence[Item],
    batch_size: int = 8,
    step: Callable[[int], None] = lambda done: None,
) -> list[Answered]:
    """What a checkpoint makes of every item, in order. step(done): questions whose choices are all scored.

    What does not fit the model's positions is cut: choices at their end, to half of the positions, and then the context
    from the front. Raises what `choices.score` raises.
    """
    positions: int | None = runner.config(checkpoint.model).get("max_position_embeddings")
    tokenizer, posed, cut = checkpoint.tokenizer, [], []
    for item in items:
        requests = encode_choices(tokenizer, item.context, item.choices)
        requests, truncated = _fitting(requests, positions, tokenizer.bos_token_id)
        posed.append(requests)
        cut.append(truncated)
    every = [request for requests in posed for request in requests]
    mean = len(every) / max(len(items), 1)
    scores = iter(score(runner, checkpoint, every, batch_size, lambda done: step(int(done / mean))))
    answers = []
    for requests, truncated in zip(posed, cut, strict=True):
        of_item = [next(scores) for _ in requests]
        answers.append(
            Answered(
                tuple(one.log_likelihood for one in of_item),
                tuple(len(request.continuation) for request in requests),
                tuple(one.greedy for one in of_item),
                truncated,
            )
        )
    return answers


def _fitting(requests: list[Request], positions: int | None, bos: int | None) -> tuple[list[Request], bool]:
    """Requests of one context within the model's positions, and whether something had to be cut for that."""
    longest = max(len(one.continuation) for one in requests)
    if positions is None or len(requests[0].context) + longest <= positions:
        return requests, False
    room = max(positions // 2, 1)
    shorter = [Request(one.context, one.continuation[:room]) for one in requests]
    return fitted(shorter, positions, bos)[0], True


def summarised(questions: Questions, answers: Sequence[Answered], plan: Plan) -> Json:
    """``accuracy`` with its interval by the task's rule, the other rules' accuracies, and which were right.

    With groups the accuracy is the mean of the groups', and ``micro`` that of all questions; else Wilson's interval.
    right: a character for each question, 1 or 0, in order.
    """
    pairs = list(zip(questions.items, answers, strict=True))
    task = questions.task

    def marked(rule: str) -> list[bool]:
        return [right(task.scoring, item.answer, given.values(rule, item)) for item, given in pairs]

    flags = marked(task.scoring)
    entry: Json = {
        **_accuracy(flags, [item.group for item in questions.items], plan),
        "n": len(pairs),
        "truncated": sum(given.truncated for given in answers),
        "right": "".join("1" if flag else "0" for flag in flags),
    }
    if task.scoring == "greedy":
        loss = -np.array([given.log_likelihoods[0] for given in answers])
        return entry | {"perplexity": float(np.exp(loss.sum() / sum(given.tokens[0] for given in answers)))}
    others = {rule: marked(rule) for rule in RULES if rule != task.scoring}
    groups = [item.group for item in questions.items]
    return entry | {"by_rule": {rule: _accuracy(flags, groups, plan) for rule, flags in others.items()}}


def _accuracy(flags: Sequence[bool], groups: Sequence[str], plan: Plan) -> Json:
    names, numbers = np.unique(list(groups), return_inverse=True)
    n = np.bincount(numbers)
    correct = np.bincount(numbers, weights=np.array(flags, dtype=np.float64)).astype(np.int64)
    if len(names) == 1:
        return {"value": float(correct[0] / n[0]), **wilson(int(correct[0]), int(n[0]), plan.level).to_dict()}
    averages = accuracy(correct, n.astype(np.int64), plan)
    (macro, interval), (micro, of_all) = averages["macro"], averages["micro"]
    return {"value": macro, **interval.to_dict(), "micro": {"value": micro, **of_all.to_dict()}}


def perplexity(
    runner: Backend,
    checkpoint: Any,
    corpus: Corpus,
    reading: Reading,
    plan: Plan,
    step: Callable[[int], None] = lambda done: None,
) -> Json:
    """Mean loss of the next token in nats, and its exponential, with intervals over documents.

    Sequences are those of `data.encode`: each token but the first of its sequence is predicted from those before it.
    Perplexities of models with different tokenizers are of different tokens, and no comparison. Raises DataError where
    no sequence has two tokens.
    """
    config = runner.config(checkpoint.model)
    most = min(reading.max_length, config.get("max_position_embeddings") or reading.max_length)
    sequences = [s for s in encode(corpus, checkpoint.tokenizer, most) if len(s.ids) > 1]
    if not sequences:
        raise DataError(f"No sequence of {corpus.name} has two tokens: give longer texts.")
    requests = [Request(tuple(s.ids[:1].tolist()), tuple(s.ids[1:].tolist())) for s in sequences]
    scores = score(runner, checkpoint, requests, reading.rows, step)
    texts = {document.row: document.text for document in corpus.documents}
    rows = sorted({s.row for s in sequences})
    units = units_of(texts[row] for row in rows)
    unit = units.labels[np.searchsorted(rows, [s.row for s in sequences])]
    columns = np.array([[-one.log_likelihood, len(r.continuation)] for one, r in zip(scores, requests, strict=True)])
    sums = by_cluster(columns, unit, len(units.first))
    (interval,) = ratio_intervals(sums[:, :1], sums[:, 1:], np.zeros(len(sums)), plan)
    loss = float(sums[:, 0].sum() / sums[:, 1].sum())
    ends = {} if interval.low is None or interval.high is None else {"low": interval.low, "high": interval.high}
    return {
        "n_sequences": len(sequences),
        "n_tokens": int(sums[:, 1].sum()),
        "max_length": most,
        "loss": {"value": loss, **interval.to_dict()},
        "perplexity": {"value": _exp(loss), **interval.to_dict()} | {name: _exp(end) for name, end in ends.items()},
    }


def _exp(loss: float) -> float | None:
    """None where a float cannot hold it."""
    return math.exp(loss) if loss < 700 else None
