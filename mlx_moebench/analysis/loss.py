"""Does a router's uncertainty about a token predict the model's loss on the next one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace
from scipy.stats import rankdata

from ..data import Batch, Dataset
from ..errors import DataError, MoebenchError, RoutingError
from ..measure.backends import backend_named, check_alone
from ..measure.predictions import log_likelihoods
from ..measure.run import measure
from ..options import Choices, Flag, Loading, Options, Plan, Reading, Step, quiet_step, takes
from ..pair.report import data_section
from ..routing.intervals.ranks import calibration, rank_correlations
from ..routing.intervals.ratios import ratio_intervals
from ..routing.record import Array, RouterSpec
from ..routing.recorder import Recorder
from ..routing.repeats import text_units
from ..routing.tokens import TOKEN_SCALARS, TokenBlock
from ..types import HostArray, Json

SCHEMA_VERSION = "1"
BATCH_SIZE = 4
CONTEXT = 24
"""Tokens shown before one that is given as an example."""

_KINDS = (
    ("uncertain, high loss", 1, 1),
    ("uncertain, low loss", 1, -1),
    ("certain, high loss", -1, 1),
    ("certain, low loss", -1, -1),
)


@takes(Loading, Reading, Flag)
def routing_uncertainty(
    model: Any = None,
    dataset: Dataset = "math",
    *,
    examples: int = 3,
    tokenizer: Any = None,
    step: Step = quiet_step,
    **choices: Unpack[Choices],
) -> Json:
    """Compare, token by token, what each router says at a token with the loss of the token after it.

    The pair of position t is (entropy and selection margin of the routers at t, -ln of the probability that the model
    gives to token t + 1); the last token of a sequence has none, and neither has padding. Reported for each router:
    Spearman's rank correlation with its interval over sequences, and the mean loss in tenths of the tokens by each
    score. The largest array is the model's output, [batch_size, tokens, vocabulary]; memory grows by some bytes per
    token and router.

    examples: tokens given of each of four kinds. The other keywords are those of `analyze` for a run without output;
    batch_size is 4 by default, because the logits of a batch are held at once. Returns the report as JSON has it.
    Raises what `analyze` raises, `DataError` where no sequence has two tokens, and `RoutingError` for logits that are
    not finite.
    """
    options = Options.of({"batch_size": BATCH_SIZE, **choices})
    return loss_report(model, dataset, options, examples=examples, tokenizer=tokenizer, step=step)


def loss_report(
    model: Any,
    dataset: Dataset,
    options: Options,
    *,
    examples: int = 3,
    tokenizer: Any = None,
    step: Step = quiet_step,
) -> Json:
    """`routing_uncertainty` with its options made."""
    plan = options.plan
    if plan.method == "layer":
        raise MoebenchError("Layers have nothing to resample here: choose bca or percentile.")
    if options.saving.trace is not None:
        raise MoebenchError("A trace is written by analyze; leave it out here.")
    watch = _Losses()
    runner = backend_named(options.loading.backend)
    check_alone(runner, "Losses are read token by token")
    measured = measure(model, dataset, options, runner=runner, tokenizer=tokenizer, step=step, watch=watch)
    stats = measured.stats["prefill"]
    step("computing the intervals", 0, 0)
    pairs = watch.pairs()
    units = text_units(stats)
    clusters = {row: int(units.labels[number]) for number, (_, row) in enumerate(stats.clusters)}
    sequence = np.array([clusters[row] for row in pairs.row.tolist()])
    strata = np.array(units.strata(stats.strata))
    mean = ratio_intervals(*_one_column(pairs.loss, sequence, len(strata)), strata, plan)[0]
    report = {
        "schema_version": SCHEMA_VERSION,
        "model": stats.model,
        "data": data_section(stats),
        "environment": stats.environment,
        "settings": {
            "ci": {"method": plan.method, "resamples": plan.resamples, "seed": plan.seed, "level": plan.level}
        },
        "n_pairs": len(pairs.loss),
        "mean_loss": {"value": float(pairs.loss.mean()), **mean.to_dict()},
        **_correlations(stats.specs, pairs, sequence, strata, plan),
    }
    return report | {"tokens": _examples(pairs, sequence, watch.text, examples)}


@dataclass(frozen=True)
class _Pairs:
    """Of each token that has a next one in its sequence, [P].

    scores: by name, [P, routers]. loss: nats. row, position: where it stands. ids: of every sequence, by row and
    window; place: which of them.
    """

    scores: dict[str, npt.NDArray[np.float64]]
    loss: npt.NDArray[np.float64]
    row: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]
    ids: list[HostArray]


@dataclass
class _Losses:
    """A `Watch` that keeps every token's uncertainty and the loss of the token after it."""

    logits = True

    tokenizer: Any = None
    blocks: dict[int, TokenBlock] = field(default_factory=dict)
    scores: dict[str, list[HostArray]] = field(default_factory=lambda: {name: [] for name in TOKEN_SCALARS})
    loss: list[HostArray] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    ids: list[HostArray] = field(default_factory=list)

    def begin(self, tokenizer: Any) -> None:
        """The tokenizer gives the text of the examples."""
        self.tokenizer = tokenizer

    def record(self, block: TokenBlock) -> None:
        """One forward is one batch here, so each router says something once."""
        self.blocks[block.number] = block

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """Join the routers and the losses of a batch."""
        blocks, self.blocks = [self.blocks[number] for number in sorted(self.blocks)], {}
        for number, row in enumerate(batch.rows):
            length = int(batch.mask[number].sum())
            self.row.append(row)
            self.ids.append(ids[number, :length].copy())
            self.loss.append(_next_token_loss(logits[number, : length - 1], ids[number, 1:length], stats))
            for name, kept in self.scores.items():
                kept.append(np.stack([b.scalars[name][number, : length - 1] for b in blocks], axis=1))

    def pairs(self) -> _Pairs:
        """Everything, sequence after sequence."""
        lengths = np.array([len(loss) for loss in self.loss])
        if not lengths.sum():
            raise DataError("No sequence has two tokens, so that there is no next token to predict: give longer texts.")
        place = np.repeat(np.arange(len(lengths)), lengths)
        return _Pairs(
            {name: np.concatenate(kept).astype(np.float64) for name, kept in self.scores.items()},
            np.concatenate(self.loss).astype(np.float64),
            np.array(self.row)[place],
            np.concatenate([np.arange(length) for length in lengths]),
            place,
            self.ids,
        )

    def text(self, ids: list[int]) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode(ids))


def _next_token_loss(logits: Array, targets: HostArray, stats: Recorder) -> npt.NDArray[np.float32]:
    """-ln p of each target [S] under logits [S, V], in float32, nats."""
    if not len(targets):
        return np.zeros(0, np.float32)
    tokens = stats.near(array_namespace(logits).asarray(targets), logits)
    loss: npt.NDArray[np.float32] = -stats.host(log_likelihoods(logits, tokens)[0])
    if bad := int((~np.isfinite(loss)).sum()):
        raise RoutingError(
            f"The model gave no finite loss for {bad} of {len(loss)} tokens of a sequence: check the checkpoint, or "
            "load it with --dtype float32."
        )
    return loss


def _one_column(
    values: npt.NDArray[np.float64], sequence: npt.NDArray[np.int64], n: int
) -> tuple[HostArray, HostArray]:
    sums = np.bincount(sequence, weights=values, minlength=n)
    return sums[:, None], np.bincount(sequence, minlength=n)[:, None]


def _correlations(
    specs: tuple[RouterSpec, ...],
    pairs: _Pairs,
    sequence: npt.NDArray[np.int64],
    strata: HostArray,
    plan: Plan,
) -> Json:
    """``routers``, each with rho and calibration for both scores, and their means by kind of router in ``summary``."""
    routers: list[Json] = [
        {key: getattr(spec, key) for key in ("layer", "moe_layer", "router", "n_experts", "top_k", "distribution")}
        for spec in specs
    ]
    summary: Json = {}
    for kind in dict.fromkeys(spec.router for spec in specs):
        numbers = [number for number, spec in enumerate(specs) if spec.router == kind]
        summary[kind] = {}
        for name in TOKEN_SCALARS:
            each, mean = rank_correlations(pairs.scores[name][:, numbers], pairs.loss, sequence, strata, plan)
            summary[kind][name] = mean.to_dict()
            for number, rho in zip(numbers, each, strict=True):
                bins = calibration(pairs.scores[name][:, number], pairs.loss, sequence, strata, plan)
                routers[number][name] = {**rho.to_dict(), "calibration": [b.to_dict() for b in bins]}
    return {"routers": routers, "summary": summary}


def _examples(
    pairs: _Pairs, sequence: npt.NDArray[np.int64], text: Callable[[list[int]], str], each: int
) -> list[Json]:
    """Tokens far out in both directions at once, no two of one sequence and kind.

    A token's uncertainty is here the mean over routers of the share of tokens with a lower entropy.
    """
    entropy = pairs.scores["entropy"]
    uncertainty = np.mean([rankdata(column) for column in entropy.T], axis=0) / len(entropy)
    loss = rankdata(pairs.loss) / len(entropy)
    examples = []
    for kind, a, b in _KINDS:
        # The lesser of both, so that a token must stand out in each.
        both = np.minimum(uncertainty if a > 0 else 1 - uncertainty, loss if b > 0 else 1 - loss)
        seen: set[int] = set()
        for number in np.argsort(-both, kind="stable").tolist():
            if len(seen) == each:
                break
            if int(sequence[number]) in seen:
                continue
            seen.add(int(sequence[number]))
            ids, t = pairs.ids[pairs.place[number]], int(pairs.position[number])
            examples.append(
                {
                    "kind": kind,
                    "row": int(pairs.row[number]),
                    "position": t,
                    "before": text(ids[max(0, t - CONTEXT) : t].tolist()),
                    "token": text(ids[t : t + 1].tolist()),
                    "next": text(ids[t + 1 : t + 2].tolist()),
                    "loss": float(pairs.loss[number]),
                    "mean_entropy": float(entropy[number].mean()),
                    "uncertainty_rank": float(uncertainty[number]),
                }
            )
    return examples
