"""Documents to token sequences, and sequences to padded batches."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..options import Reading, parse_shard
from ..routing.repeats import text_hash
from ..types import Tokenizer
from .corpus import Corpus


@dataclass(frozen=True, eq=False)
class Sequence:
    """Tokens that the model sees as one sequence.

    row: of the document; windows of one document share it. window: index of the window, from 0; 0 where there is one.
    ids: [S] int32 token ids, S >= 1. truncated: tokens of the document were cut off and are in no sequence.
    """

    row: int
    window: int
    ids: NDArray[np.int32]
    truncated: bool


@dataclass(frozen=True, eq=False)
class Batch:
    """Sequences padded on the right to the longest.

    ids: [B, S] int32. mask: [B, S] bool, True at tokens and False at padding. rows: B document rows; a row comes more
    than once where windows of one document fall into the same batch. windows: B window numbers. truncated: how many of
    the B were truncated.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    rows: tuple[int, ...]
    windows: tuple[int, ...]
    truncated: int


def encode(corpus: Corpus, tokenizer: Tokenizer, max_length: int) -> list[Sequence]:
    """Tokenise every document, at most ``max_length`` tokens a sequence, in the order of the corpus.

    The tokenizer's own policy decides on special tokens, and they count towards the length; chat documents get none,
    since their template has put them in. A longer document is truncated, or, when windowed, cut into consecutive
    windows of ``max_length`` tokens without overlap, of which the last may be shorter; only its first window starts
    with the BOS token, if there is one. Documents of no token are left out.

    Raises DataError when max_length < 1 or no document has a token.
    """
    Reading(max_length=max_length)  # which knows what can be asked for
    sequences = []
    # transformers warns of texts longer than the model's window; they are cut to max_length here.
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    for document in corpus.documents:
        # The keyword is left out where it is not needed: its default is the tokenizer's policy.
        options = {"add_special_tokens": False} if document.chat else {}
        if not document.windowed and len(document.text) > 2 * _first_prefix(max_length):
            first, beyond = _beginning(document.text, tokenizer, max_length, options)
            sequences += [Sequence(document.row, 0, first, truncated=beyond)] if len(first) else []
            continue
        ids = np.asarray(tokenizer.encode(document.text, **options), dtype=np.int32)
        if document.windowed:
            starts = range(0, len(ids), max_length)
            windows = [(window, ids[start : start + max_length]) for window, start in enumerate(starts)]
            sequences += [Sequence(document.row, window, part, truncated=False) for window, part in windows]
        elif len(ids):
            # A copy: a view would hold all tokens of the document.
            sequences.append(Sequence(document.row, 0, ids[:max_length].copy(), truncated=len(ids) > max_length))
    if not sequences:
        raise DataError(f"{corpus.name} gives no token with this tokenizer; give a data set with text it can encode.")
    return sequences


WORD_END = re.compile(r"\S(?=\s)")

MARGIN = 64
"""Tokens beyond the last one kept that a prefix of a text must give: a cut changes the tokens just before it."""


def _first_prefix(max_length: int) -> int:
    """Characters of the first prefix that is tried: at 4 of them a token it is four times as long as needed."""
    return 4096 + 16 * max_length


def _beginning(
    text: str, tokenizer: Tokenizer, max_length: int, options: dict[str, bool]
) -> tuple[NDArray[np.int32], bool]:
    """(the first ``max_length`` tokens of a text, whether there are more), without those of all of a long text.

    Of a prefix, doubled until the tokens kept stay the same and stand well before its end. It ends before a space:
    no piece of a vocabulary goes on beyond the end of a word, but where one word is cut its first piece may change, as
    in a Unigram model, which divides ababab... by its length. A text that is a single word is tokenised whole.
    """
    before: NDArray[np.int32] | None = None
    length = _first_prefix(max_length)
    while length < len(text):
        ends = [match.end() for match in WORD_END.finditer(text, length // 2, length)]
        if ends:
            ids = np.asarray(tokenizer.encode(text[: ends[-1]], **options), dtype=np.int32)
            kept = ids[: max_length + MARGIN // 2]
            if len(ids) < max_length + MARGIN:
                before = None
            elif before is not None and np.array_equal(before, kept):
                return before[:max_length].copy(), True
            else:
                before = kept
        length *= 2
    ids = np.asarray(tokenizer.encode(text, **options), dtype=np.int32)
    return ids[:max_length].copy(), len(ids) > max_length


def encode_text(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Token ids with the special tokens that the tokenizer's own policy puts in front, but no end-of-text token."""
    # transformers warns of texts longer than the model's window; they are cut, or rows are bounded, by the caller.
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    ids = tuple(int(token) for token in tokenizer.encode(text))
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def in_shard(sequences: list[Sequence], shard: str | None) -> list[Sequence]:
    """The sequences of shard ``i/n``: those of rows with row % n == i - 1. None: all of them.

    Raises DataError when there are none.
    """
    if shard is None:
        return sequences
    i, n = parse_shard(shard)
    chosen = [sequence for sequence in sequences if sequence.row % n == i - 1]
    if not chosen:
        documents = len({sequence.row for sequence in sequences})
        raise DataError(f"Shard {shard} is empty, there are only {documents} documents: use fewer shards.")
    return chosen


def text_hashes(sequences: list[Sequence]) -> dict[int, int]:
    """`text_hash` of the document in each row, from all its windows: equal ones gave the model the same tokens."""
    windows: dict[int, list[Sequence]] = {}
    for sequence in sequences:
        windows.setdefault(sequence.row, []).append(sequence)
    in_order = {row: sorted(parts, key=lambda part: part.window) for row, parts in windows.items()}
    return {row: text_hash(part.ids for part in parts) for row, parts in in_order.items()}


def bos_policy(sequences: list[Sequence], tokenizer: Tokenizer) -> str:
    """Whether texts begin with the beginning-of-sequence token: ``none``, ``mixed``, or ``first, id 1, counted``.

    Read off the ids, since the tokenizer or a chat template may have put it there.
    """
    bos = tokenizer.bos_token_id
    begins = {bos is not None and int(s.ids[0]) == bos for s in sequences if s.window == 0}
    if begins == {True}:
        return f"first, id {bos}, counted"
    return "none" if begins == {False} else "mixed"


def pad_id(tokenizer: Tokenizer) -> int:
    """Token id to fill padding with: the tokenizer's pad token, else its EOS token, else 0. Padding never counts."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in ids if token is not None)


RowsOf = int | Callable[[int], int]
"""How many sequences a batch has, or how many one has whose longest is so long."""


def batches(sequences: list[Sequence], batch_size: RowsOf, pad_id: int = 0) -> Iterator[Batch]:
    """Batches of ``batch_size`` sequences (the last may be smaller), longest sequences first; see `grouped`.

    Raises DataError when batch_size < 1.
    """
    return (_pad(group, pad_id) for group in grouped(sequences, batch_size))


def grouped(sequences: list[Sequence], batch_size: RowsOf) -> list[list[Sequence]]:
    """The sequences of each batch.

    Sorted by length over the whole set, ties by row and window: little padding, the largest batch first so that a
    lack of memory shows at once, and the same batches whatever the order of ``sequences``.
    """
    if isinstance(batch_size, int):
        Reading(batch_size=batch_size)  # which knows what can be asked for
    ordered = sorted(sequences, key=lambda sequence: (-len(sequence.ids), sequence.row, sequence.window))
    groups: list[list[Sequence]] = []
    start = 0
    while start < len(ordered):
        rows = batch_size if isinstance(batch_size, int) else batch_size(len(ordered[start].ids))
        groups.append(ordered[start : start + rows])
        start += rows
    return groups


def _pad(sequences: list[Sequence], pad_id: int) -> Batch:
    lengths = np.array([len(sequence.ids) for sequence in sequences])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, dtype=np.int32)
    # A boolean index runs row by row, as the concatenation does.
    ids[mask] = np.concatenate([sequence.ids for sequence in sequences])
    rows = tuple(sequence.row for sequence in sequences)
    windows = tuple(sequence.window for sequence in sequences)
    return Batch(ids, mask, rows, windows, sum(sequence.truncated for sequence in sequences))
