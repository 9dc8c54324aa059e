"""Shared experts that an engine fuses into the routed ones: every token has them, and no router chose them.

SGLang and vLLM compute them in the same kernel: they append the ids from E on, in columns of their own (DeepSeek's,
GLM's; ``num_fused_shared_experts``), and some write one of several copies, another one for each token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...routing.record import Mask
from ...types import HostArray
from ._rows import like_padding

CERTAIN = 20.0
"""Bits of a coincidence that is none: 1 in 10^6."""

PLACES = 8
"""Tokens x layers in which an id from E on always stands, and which no wrong --experts explains."""

SAME_IN_EVERY_LAYER = 8.0
"""Bits by which routers that each collapsed onto an expert hardly collapsed onto one of the same number: 1 in 256."""


def without_shared(ids: HostArray, shared: Sequence[int], experts: int, where: str) -> npt.NDArray[np.int64]:
    """[T, L, K - c] of ids [T, L, K], of which c in every token are of ``shared``; ids above a shared one below E fall.

    Rows of one number, rows like padding and blocks without a router have no shared expert, and lose columns alike.
    Raises `DataError` where another token has fewer, or one of ``shared`` is nowhere.
    """
    found = np.isin(ids, shared)
    number = found.sum(axis=2)
    each = int(number.max())
    absent = [expert for expert in shared if not (ids == expert).any()]
    if not each or absent:
        raise DataError(
            f"{where} has expert {absent[0] if absent else shared[0]} in no token: leave out --shared-expert."
        )
    few = number != each
    none = (number == 0).all(axis=1)
    few[
        [row for row in np.flatnonzero(none).tolist() if like_padding(ids[row]) or (ids[row] == ids[row, 0, 0]).all()]
    ] = False
    few[:, _idle(ids[~none])] = False
    if few.any():
        token, layer = (int(x) for x in np.argwhere(few)[0])
        raise DataError(
            f"{where} has, at token {token} in column {layer} of the layers, {ids[token, layer].tolist()}: a shared "
            f"expert is in every token, so leave out --shared-expert {shared[0]}."
        )
    if each == ids.shape[2]:
        raise DataError(f"{where} has no expert but those of --shared-expert: name only what the engine added.")
    routed = np.argsort(found, axis=2, kind="stable")[..., : ids.shape[2] - each]
    left = np.take_along_axis(ids, routed, axis=2).astype(np.int64)
    inside = np.array(sorted(expert for expert in shared if expert < experts), dtype=np.int64)
    return np.asarray(left - np.searchsorted(inside, left))


def routed_experts(experts: int, shared: Sequence[int]) -> int:
    """E of the routers: --experts without the shared ones that it counts."""
    return experts - sum(expert < experts for expert in shared)


def _idle(ids: HostArray) -> Mask:
    """[L]: layers of one number, as blocks without a router have."""
    return np.asarray((ids == ids[:1, :, :1]).all(axis=(0, 2)), dtype=bool)


class SharedExperts:
    """Looks for experts that every token has in every layer that has a router."""

    def __init__(self, experts: int) -> None:
        self.experts = experts
        self._columns: dict[int, set[int]] | None = None  # of each expert that was everywhere: where it always stood
        self._beyond: set[int] = set()  # columns that held nothing but ids from E on
        self._named: set[int] = set()  # those ids
        self._places = 0  # tokens x layers seen
        self._layers = 0
        self._top_k = 1

    def add(self, ids: HostArray) -> None:
        """Rows [T, L, K] of tokens."""
        if not len(ids):
            return
        ids = ids[:, ~_idle(ids)] if ids.shape[2] > 1 else ids
        if not ids.shape[1]:
            return
        width = range(ids.shape[2])
        self._places += ids.shape[0] * ids.shape[1]
        self._layers, self._top_k = ids.shape[1], ids.shape[2]
        if self._columns is None:
            self._columns = {int(expert): set(width) for expert in ids[0, 0].tolist()}
            self._beyond = set(width)
        # An expert that is not shared is missing soon: the first rows tell of nearly all.
        for rows in (ids[:16], ids):
            everywhere = [e for e in self._columns if (rows == e).any(axis=2).all()]
            self._columns = {e: self._columns[e] for e in everywhere}
            self._beyond = {c for c in self._beyond if (rows[..., c] >= self.experts).all()}
        self._columns = {e: {c for c in self._columns[e] if (ids[..., c] == e).all()} for e in self._columns}
        for column in self._beyond:
            self._named |= set(np.unique(ids[..., column]).tolist())

    def certain(self) -> list[int]:
        """Shared experts, ascending: from E on; or of one number, in one column, by no chance."""
        if self._top_k < 2 or len(self._everywhere()) == self._top_k:  # of equal rows nothing can be told apart
            return []
        beyond = {e for e in self._columns or () if e >= self.experts} | (self._named if self._beyond else set())
        if beyond and self._places >= PLACES:
            return sorted(beyond)
        if self._places * math.log2(max(self.experts, self._top_k + 1) / self._top_k) < CERTAIN:
            return []
        return [e for e in self._everywhere() if self._agreement(e) >= SAME_IN_EVERY_LAYER]

    def suspicious(self) -> list[int]:
        """Experts of every token in every layer that may be shared ones, or those of routers that collapsed."""
        known = self.certain()
        everywhere = self._everywhere() if self._places > CERTAIN else []
        return [e for e in everywhere if e not in known] if len(everywhere) < self._top_k else []

    def _everywhere(self) -> list[int]:
        return sorted(e for e, columns in (self._columns or {}).items() if columns)

    def _agreement(self, expert: int) -> float:
        """Bits of all layers having chosen one number; of the last expert, for that number, too."""
        last = expert >= self.experts - len(self._everywhere())
        return (self._layers - 1 + last) * math.log2(self.experts)
