"""The text of every single token of a sequence, where a token may be a piece of a character only."""

from __future__ import annotations

from collections.abc import Sequence

from ..types import Tokenizer

BROKEN = "\ufffd"
"""What a tokenizer decodes bytes to that are no whole character."""

LONGEST = 4
"""Most bytes of a character, and so most tokens that can share one."""

BEFORE = 4
"""Tokens decoded before one, so that a tokenizer sees it is not the first and keeps the space in front."""


def piece_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """(text of each token, positions of those that are a later piece of a character) of a sequence of token ids.

    The first of the tokens that share a character has it as its text, and so have the later ones. Joined without the
    later ones, the texts are the decoded sequence, but for bytes that are no character: each token of those is U+FFFD.
    """
    ids = [int(token) for token in ids]
    texts: list[str] = []
    continued: list[int] = []
    while len(texts) < len(ids):
        start = len(texts)
        text = _segment(tokenizer, ids, start, start + 1)
        end = start + 1
        while BROKEN in text and end < min(len(ids), start + LONGEST):
            end += 1
            text = _segment(tokenizer, ids, start, end)
        if BROKEN in text or (end > start + 1 and not _shared(tokenizer, ids, start, end)):
            text, end = _segment(tokenizer, ids, start, start + 1), start + 1
        text = text or str(tokenizer.decode(ids[start:end]))  # nothing is added by more bytes of no character
        texts += [text] * (end - start)
        continued += range(start + 1, end)
    return texts, continued


def _segment(tokenizer: Tokenizer, ids: list[int], start: int, end: int) -> str:
    """The text that ``ids[start:end]`` add to what stands before them."""
    first = max(0, start - BEFORE)
    before, whole = str(tokenizer.decode(ids[first:start])) if start else "", str(tokenizer.decode(ids[first:end]))
    # Bytes before the start that are no character may become one together with what follows.
    return whole[len(before) :] if whole.startswith(before) else str(tokenizer.decode(ids[start:end]))


def _shared(tokenizer: Tokenizer, ids: list[int], start: int, end: int) -> bool:
    """Whether each of the tokens is broken when it stands alone."""
    return all(BROKEN in str(tokenizer.decode([token])) for token in ids[start:end])
