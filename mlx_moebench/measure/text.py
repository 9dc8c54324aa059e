"""One text through a loaded model, token by token: what the token view shows without a trace."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..checkpoints import Checkpoint
from ..data import Batch, encode_text
from ..data.pieces import piece_texts
from ..errors import DataError
from ..pair.stats import RecordedStats, RoutingStats
from ..routing.record import Phase, RouterSpec
from ..routing.tokens import Choices, TokenBlock, TokenSequence, ranked
from ..types import HostArray
from .backends import Backend, backend_named
from .facts import check_vocabulary

CHARACTERS = 64
"""Characters that are read for each token allowed: hardly a token has more, and a tokenizer need not see the rest."""


@dataclass(frozen=True)
class Grown:
    """What came since the last time: the first of ``tokens`` is at its ``start``. prompt: tokens of the prompt."""

    specs: Sequence[RouterSpec]
    prompt: int
    tokens: TokenSequence


Heard = Callable[[Grown], bool]
"""Is told what came, and says whether to go on."""


@dataclass(frozen=True)
class RoutedText:
    """A text, its statistics (one sequence), its tokens, and what was cut off, as a sentence or ''."""

    stats: RoutingStats
    tokens: TokenSequence
    cut: str


def route_text(checkpoint: Checkpoint, text: str, *, name: str = "text", max_tokens: int = 256) -> RoutedText:
    """Run the first ``max_tokens`` tokens of ``text`` through the model once; the model is left as it was.

    Raises `DataError` for a text without tokens, or ids that the model lacks.
    """
    run = _TextRun(checkpoint, text, name, max_tokens)
    stats = run.recorder()
    with stats, stats.batch(ids=[0]):
        run.runner.forward(checkpoint, run.batch(), logits=False)
    return run.part(stats, "prefill", run.ids)


def continue_text(
    checkpoint: Checkpoint,
    text: str,
    *,
    name: str = "text",
    max_tokens: int = 256,
    new_tokens: int = 64,
    heard: Heard = lambda grown: True,
) -> tuple[RoutedText, RoutedText]:
    """(the first ``max_tokens`` tokens of ``text``, at most ``new_tokens`` that the model goes on with).

    The most probable token each time, until the end of a text, which counts as a token, until ``heard`` says so, or
    until the model has no more positions. Both parts have statistics of their own, phases prefill and decode; the
    second goes ``after`` sequence 0. Raises `DataError` as `route_text`, and where there is no position left.
    """
    run = _TextRun(checkpoint, text, name, max_tokens)
    prompt, room = run.ids, new_tokens if run.positions is None else min(new_tokens, run.positions - len(run.ids))
    if room < 1:
        raise DataError(f"The model has {run.positions:,} positions, and the text takes all: shorten it to go on.")
    stats = run.recorder()
    told, made = 0, list[int]()
    with stats, contextlib.closing(run.runner.generating(checkpoint, stats, run.batch(), room)) as tokens:
        for token in tokens:
            made.append(token)
            with stats.holding():  # adds what was run, so that the blocks of this token are there
                new = run.sequence([*prompt, *made], told)
            told += len(new.texts)
            if not heard(Grown(stats.specs, len(prompt), new)):
                break
    generated = run.part(stats, "decode", [*prompt, *made], start=len(prompt))
    return run.part(stats, "prefill", prompt), generated


@dataclass
class _TextRun:
    """A text on its way through a model.

    ids: of the tokens that are run. positions: that the model has, where it says. heard: by router, what each forward
    gave: experts and weights [S, K], entropy and margin [S].
    """

    checkpoint: Checkpoint
    text: str
    name: str
    max_tokens: int
    ids: list[int] = field(init=False)
    positions: int | None = field(init=False)
    heard: defaultdict[int, list[tuple[HostArray, ...]]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __post_init__(self) -> None:
        text = self.text = self.text.encode("utf-8", "replace").decode()  # tokenizers refuse lone surrogates
        read = text[: CHARACTERS * self.max_tokens]
        every = encode_text(self.checkpoint.tokenizer, read) if text.strip() else ()
        if not every:
            raise DataError("There is no token in an empty text: type some words.")
        config = self.runner.config(self.checkpoint.model)
        self.positions = config.get("max_position_embeddings") or None
        self.ids = [int(token) for token in every[: min(self.max_tokens, self.positions or self.max_tokens)]]
        check_vocabulary(config, max(self.ids))
        self.read, self.total = len(every), len(every) if len(read) == len(text) else None

    @property
    def runner(self) -> Backend:
        return backend_named(self.checkpoint.backend)

    def batch(self) -> Batch:
        ids = np.array([self.ids], dtype=np.int32)
        return Batch(ids, np.ones(ids.shape, bool), (0,), (0,), 0)

    def recorder(self) -> RecordedStats:
        """Statistics that listen, and put every token into ``heard``."""
        sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        truncated = int(len(self.ids) < self.read)
        return self.runner.recorder(
            self.checkpoint.model,
            tokens=self._hear,
            model=self.runner.facts(self.checkpoint),
            sources={sha256: {"name": self.name, "documents": 1, "truncated_sequences": truncated}},
            environment=self.runner.environment(),
        )

    def sequence(self, ids: Sequence[int], start: int = 0) -> TokenSequence:
        """The tokens ``ids`` from position ``start`` on, all of which were run."""
        before = max(0, start - 8)  # enough for a character's first piece, and what the tokenizer sees before it
        texts, continued = piece_texts(self.checkpoint.tokenizer, ids[before:])
        later = [position - (start - before) for position in continued if position >= start - before]
        choices = [
            Choices(*(np.concatenate(arrays)[start : len(ids)] for arrays in zip(*self.heard[number], strict=True)))
            for number in sorted(self.heard)
        ]
        return TokenSequence(self.name, texts[start - before :], choices, later, start=start)

    def part(self, stats: RecordedStats, phase: Phase, ids: Sequence[int], start: int = 0) -> RoutedText:
        """What was measured in one phase, the tokens ``ids`` from ``start`` on."""
        whole, tokens = RoutingStats.merge([stats.phase_stats(phase)]), self.sequence(ids, start)
        if start:
            return RoutedText(whole, replace(tokens, name="generated", after=0), "")
        return RoutedText(whole, replace(tokens, total=self.total), self._cut())

    def _hear(self, block: TokenBlock) -> None:
        mask, scalars = block.mask[0], block.scalars
        experts, weights = ranked(block.experts[0][mask], block.p[0][mask], block.weights[0][mask])
        self.heard[block.number].append(
            (experts, weights, scalars["entropy"][0][mask], scalars["selection_margin"][0][mask])
        )

    def _cut(self) -> str:
        kept = len(self.ids)
        if self.total == kept:
            return ""
        had = f"{self.total:,} tokens" if self.total is not None else f"more than {self.read:,} tokens"
        return f"{self.name[:1].upper()}{self.name[1:]} has {had}; the first {kept:,} were run."
