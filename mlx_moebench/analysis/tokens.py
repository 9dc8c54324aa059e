"""The tokens of a trace, sequence by sequence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..data.trace import Shard, Trace
from ..errors import TraceError
from ..routing.record import RouterSpec
from ..routing.tokens import Choices, TokenSequence
from ..types import Json


def first_sequences(trace: Trace, entries: Sequence[Json], most: int) -> list[TokenSequence]:
    """The first sequences of the data set that the shards of ``entries`` hold, at most so many.

    Reads one shard at a time. Raises `TraceError` for tokens or experts that cannot be.
    """
    texts = trace.texts()
    lowest: dict[tuple[int, int], TokenSequence] = {}
    for entry in entries:
        lowest |= _lowest(trace.read(entry), trace.specs, texts, most)
        lowest = {place: lowest[place] for place in sorted(lowest)[:most]}
    return list(lowest.values())


def _lowest(
    shard: Shard, specs: Sequence[RouterSpec], texts: Mapping[int, str], most: int
) -> dict[tuple[int, int], TokenSequence]:
    """The sequences of a shard of lowest (row, window); raises `TraceError` for tokens or experts that cannot be."""
    arrays = shard.arrays
    if shard.lengths.min(initial=0) < 0 or shard.lengths.sum() != len(arrays["token.id"]):
        raise TraceError("The lengths of a shard's sequences are not those of its tokens: make the trace again.")
    for spec in specs:
        if (most_used := int(arrays[f"{spec.name}.experts"].max(initial=0))) >= spec.n_experts:
            raise TraceError(f"The trace names expert {most_used} of {spec.n_experts}: it is damaged, make it again.")
    ends = np.cumsum(shard.lengths)
    order = np.lexsort((arrays["sequence.window"], arrays["sequence.row"]))
    sequences = {}
    for number in [n for n in order.tolist() if shard.lengths[n]][:most]:
        tokens = slice(int(ends[number] - shard.lengths[number]), int(ends[number]))
        row, window = int(arrays["sequence.row"][number]), int(arrays["sequence.window"][number])
        choices = [
            Choices(
                *(arrays[f"{s.name}.{key}"][tokens] for key in ("experts", "weights", "entropy", "selection_margin"))
            )
            for s in specs
        ]
        name = f"row {row}, window {window}" if window else f"row {row}"
        words = [texts.get(token, "") for token in arrays["token.id"][tokens].tolist()]
        sequences[row, window] = TokenSequence(name, words, choices, start=int(arrays["sequence.start"][number]))
    return sequences
