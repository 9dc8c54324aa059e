"""Run texts through a model once and sum what its experts return, of the chosen ones and the positions that count."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from ..data import Batch, batches, pad_id
from ..data.mmlu import LETTERS
from ..errors import RoutingError
from ..evaluate.choices import score
from ..evaluate.mmlu import answered
from ..instrument.capture import Capture
from ..instrument.interventions import hearing_outputs
from ..measure.backends import backend_named
from ..measure.predictions import log_likelihoods
from ..memory import check_room
from ..options import Step, quiet_step
from ..routing.contributions import ContributionSums, token_outputs
from ..routing.record import Array, RouterSpec
from ..types import HostArray, Json
from .expert_texts import Posed, Texts
from .kept_sums import KeptSums


@dataclass(frozen=True)
class Contributed:
    """specs, sums: of each router, in running order. answers: to the questions, as `evaluate.mmlu` lists them."""

    specs: tuple[RouterSpec, ...]
    sums: list[ContributionSums]
    answers: list[Json] | None


def contributed(
    checkpoint: Any, texts: Texts, batch_size: int, step: Step = quiet_step, kept: KeptSums | None = None
) -> Contributed:
    """One forward of every sequence, in batches. What is kept grows with neither the tokens nor their experts.

    kept: where it is saved meanwhile, and gone on from.
    Raises `RoutingError` where a gate weight, or what an expert returns, is not finite.
    """
    heard, kept = _Heard(texts), kept or KeptSums(None, {}, False)
    single = texts.questions is not None and all(
        len(r.continuation) == 1 for one in texts.questions for r in one.requests
    )
    scores = np.full((len(texts.sequences), len(LETTERS)), np.nan)
    with kept, hearing_outputs(checkpoint.model, heard) as taps:
        heard.begin(taps)
        before = kept.begin(heard.sums, scores)
        for number, batch in enumerate(batches(texts.sequences, batch_size, pad_id(checkpoint.tokenizer))):
            if number < before:
                continue
            step("measuring, sequences", number * batch_size, len(texts.sequences))
            check_room()
            heard.batch(batch)
            logits = checkpoint.model(mx.array(batch.ids))
            heard.end()
            if single and texts.questions is not None:
                scores[list(batch.rows)] = _letters(logits, [texts.questions[row] for row in batch.rows])
            kept.batch(number + 1, heard.sums, scores)
    if texts.questions is None:
        return Contributed(taps.specs, heard.sums, None)
    if not single:
        scores = _in_parts(checkpoint, texts.questions, batch_size, step)
    answers = [
        answered(one.question, one.shots, one.truncated, len(one.requests[0].context), scores[row].tolist())
        for row, one in enumerate(texts.questions)
    ]
    return Contributed(taps.specs, heard.sums, answers)


@dataclass
class _Heard:
    """An `OutputSink` that reduces what it hears at once, so that outputs of one layer are gone before the next."""

    texts: Texts
    sums: list[ContributionSums] = field(default_factory=list)

    def begin(self, taps: Capture) -> None:
        self.taps = taps
        n = len(self.texts.units.first)
        for spec, form in zip(taps.specs, taps.forms, strict=True):
            own = None if spec.kinds is None else np.array([kind == "ffn" for kind in spec.kinds])
            self.sums.append(ContributionSums(spec.n_experts, spec.top_k, n, own, form.scales_input))

    def batch(self, batch: Batch) -> None:
        """What comes is of this batch."""
        rows = np.array(batch.rows)
        start, stop = (self.texts.counted[rows, side][:, None] for side in (0, 1))
        place = np.arange(batch.ids.shape[1])
        counts = (place >= start) & (place < stop)
        self.where = np.flatnonzero(counts)
        self.unit = np.repeat(self.texts.units.labels[rows], counts.sum(axis=1))
        self.picked = None if counts.all() else mx.array(self.where)
        self.now: dict[int, list[Array]] = {}

    def __call__(self, number: int, logits: Array, indices: Array, outputs: Array, shape: tuple[int, ...]) -> None:
        k = indices.shape[-1]
        z, chosen, y = (a.reshape(-1, *a.shape[-n:]) for a, n in ((logits, 1), (indices, 1), (outputs, 2)))
        if self.picked is not None:
            z, chosen, y = z[self.picked], chosen[self.picked], y[self.picked]
        routing = self.taps.routing(number, z, chosen, mx.ones((1, len(self.where)), dtype=mx.bool_))
        made = [chosen, routing.weights.reshape(-1, k), *token_outputs(y).arrays()]
        _begin(made)
        self.now[number] = made

    def end(self) -> None:
        """The batch is over: add what it gave."""
        for number, arrays in self.now.items():
            try:
                self.sums[number].add(self.unit, *(np.array(one) for one in arrays))
            except ValueError as error:
                raise RoutingError(
                    f"{self.taps.specs[number].name}: {error}; check the checkpoint, or load it with --dtype float32."
                ) from error
        self.now = {}


def _begin(arrays: list[Array]) -> None:
    """Have them computed without waiting, so that what they are made of is let go of as the forward goes on."""
    compute: Any = mx.async_eval
    compute(arrays)


def _letters(logits: Array, asked: list[Posed]) -> HostArray:
    """[B, 4] log-likelihoods of the letters of each row, of one token each."""
    place = mx.array([len(one.requests[0].context) - 1 for one in asked])
    z = logits[mx.arange(len(asked)), place]
    tokens: HostArray = np.array([[r.continuation[0] for r in one.requests] for one in asked])
    log_p, _ = log_likelihoods(mx.repeat(z, tokens.shape[1], axis=0), mx.array(tokens.ravel()))
    made = np.array(log_p).reshape(tokens.shape).astype(np.float64)
    if not np.isfinite(made).all():
        raise RoutingError("The model's log-likelihoods are not finite: load it with --dtype float32.")
    return made


def _in_parts(checkpoint: Any, asked: list[Posed], batch_size: int, step: Step) -> HostArray:
    """The same where a letter is more than one token, which takes forwards of its own."""
    step("answering", 0, 0)
    requests = [r for one in asked for r in one.requests]
    scored = score(backend_named("mlx"), checkpoint, requests, batch_size)
    return np.array([s.log_likelihood for s in scored]).reshape(len(asked), -1)
