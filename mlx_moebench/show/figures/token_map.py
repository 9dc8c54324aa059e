"""The first expert of every token at every layer, from the data of a token view."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...errors import TraceError
from ...routing.sums import Floats
from ...types import Facts, HostArray
from ..colours import expert_colours
from .base import labels, router_id
from .river import Counts, RiverSeries


@dataclass(frozen=True)
class TokenMap:
    """One sequence of T tokens at L routers.

    texts: [T]. experts, weights: [T, L] the expert of largest probability, and its gate weight. first: of each router
    how many of all tokens shown have each expert first [E]. total: tokens of the sequence, of which T are here.
    """

    model: str
    data: str
    phase: str
    name: str
    start: int
    total: int
    layers: tuple[str, ...]
    texts: tuple[str, ...]
    experts: Counts
    weights: Floats
    first: tuple[Counts, ...]

    @property
    def colours(self) -> list[list[str]]:
        """Of each router's experts: the busiest have their own, all others are `OTHER`."""
        return [expert_colours(counts) for counts in self.first]

    def changed(self, other: TokenMap) -> npt.NDArray[np.bool_]:
        """[T, L] where the same token at the same place has another first expert there; both at as many routers."""
        both = min(len(self.texts), len(other.texts))
        same = np.array([a == b for a, b in zip(self.texts[:both], other.texts[:both], strict=True)], dtype=bool)
        changed = np.zeros(self.experts.shape, dtype=bool)
        if self.experts.shape[1] == other.experts.shape[1]:
            changed[:both] = same[:, None] & (self.experts[:both] != other.experts[:both])
        return changed


def token_map(view: Facts, sequence: int, most: int) -> TokenMap:
    """The first ``most`` tokens of one sequence of a view; raises `TraceError` where it has no such sequence."""
    sequences = view["sequences"]
    if not 0 <= sequence < len(sequences):
        raise TraceError(f"There is no sequence {sequence}: the view of the trace has {len(sequences)}, from 0.")
    start = sum(one["n_tokens"] for one in sequences[:sequence])
    one = sequences[sequence]
    tokens = slice(start, start + min(most, one["n_tokens"]))
    ids = _array(view["tokens"], "<u4")[tokens]
    routers = view["routers"]
    experts = [_slots(r, "experts", "u1" if r["bytes"] == 1 else "<u2")[tokens, 0] for r in routers]
    weights = [_slots(r, "weights", "<f2")[tokens, 0] for r in routers]
    return TokenMap(
        str(view["model"]),
        str(view["data"]),
        str(view["phase"]),
        str(one["name"]),
        int(one["start"]),
        int(one["n_tokens"]),
        tuple(labels([router_id(r) for r in routers])),
        tuple(view["texts"][i] for i in ids),
        np.stack(experts, axis=1).astype(np.int64),
        np.stack(weights, axis=1).astype(np.float64),
        tuple(np.array(r["first"], dtype=np.int64) for r in routers),
    )


def river_nodes(tokens: TokenMap, series: RiverSeries) -> Counts | None:
    """[T, C] the node of each token's first expert in every column of a river; None of other routers."""
    routers = [column.router for column in series.columns]
    theirs = [len(counts) for counts in tokens.first]
    if tokens.layers != tuple(labels(routers)) or theirs != [router.n_experts for router in routers]:
        return None
    nodes = np.empty(tokens.experts.shape, dtype=np.int64)
    for place, column in enumerate(series.columns):
        node_of = np.full(column.router.n_experts, len(column.experts) - 1)  # the merged ones, which stand last
        for node, expert in enumerate(column.experts):
            if expert is not None:
                node_of[expert] = node
        nodes[:, place] = node_of[tokens.experts[:, place]]
    return nodes


def _slots(router: Facts, name: str, kind: str) -> HostArray:
    """[T, K] what a router's slots hold."""
    return _array(router[name], kind).reshape(-1, router["top_k"])


def _array(text: str, kind: str) -> HostArray:
    return np.frombuffer(base64.b64decode(text), dtype=kind)
