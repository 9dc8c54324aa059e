"""What the routers chose for the last tokens of a request, without their text: in memory, where it was asked for."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from threading import Lock

from ..routing.record import Phase, RouterSpec
from ..routing.stats import Cluster
from ..routing.tokens import TokenBlock, ranked
from ..types import Json

REQUESTS = 16
"""Requests that are followed at a time; of more the one that was silent longest is forgotten."""

Token = tuple[Phase, list[int], list[float]]
"""Phase, first experts of all routers, and their gate weights."""


@dataclass
class _Request:
    """number: of the requests that ran since the server started. seen: tokens of it so far."""

    number: int
    last: deque[Token]
    seen: int = 0


@dataclass
class LastTokens:
    """Hears every token (`TokenSink`) and keeps the last ``most`` of each request that runs.

    Routers of early layers say much about a token, so that choices are nearly the text: ``serve`` keeps none unless it
    is told to, never writes them to disk, and never has the tokens themselves.
    """

    most: int
    routers: int
    _requests: OrderedDict[Cluster, _Request] = field(default_factory=OrderedDict)
    _began: int = 0
    _block: list[TokenBlock] = field(default_factory=list)
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, block: TokenBlock) -> None:
        """The blocks of a forward come router by router, phase by phase."""
        self._block = [block] if block.number == 0 else [*self._block, block]
        if len(self._block) < self.routers:
            return
        with self._lock:
            for row in range(len(block.mask)):
                self._add(row, self._block)
        self._block = []

    def _add(self, row: int, blocks: list[TokenBlock]) -> None:
        places = blocks[0].mask[row].nonzero()[0][-self.most :]
        if not len(places):
            return
        request = self._request(blocks[0].clusters[row], blocks[0].phase)
        request.seen += int(blocks[0].mask[row].sum())
        firsts = [ranked(b.experts[row][places], b.p[row][places], b.weights[row][places]) for b in blocks]
        for place in range(len(places)):
            experts = [int(chosen[place, 0]) for chosen, _ in firsts]
            request.last.append((blocks[0].phase, experts, [float(f"{w[place, 0]:.4g}") for _, w in firsts]))

    def _request(self, cluster: Cluster, phase: Phase) -> _Request:
        """The one that a row is of: a prompt after what was generated is that of another one."""
        found = self._requests.get(cluster)
        if found is None or (phase == "prefill" and found.last[-1][0] == "decode"):
            self._began += 1
            found = self._requests[cluster] = _Request(self._began, deque(maxlen=self.most))
        self._requests.move_to_end(cluster)
        while len(self._requests) > REQUESTS:
            self._requests.popitem(last=False)
        return found

    def answer(self, specs: tuple[RouterSpec, ...]) -> Json:
        """The latest request as JSON has it: its tokens by phase, and [T][R] experts and weights; None before any."""
        with self._lock:
            if not self._requests:
                return {"most": self.most, "latest": None}
            request = next(reversed(self._requests.values()))
            tokens = list(request.last)
            number, seen = request.number, request.seen
        return {
            "most": self.most,
            "latest": {
                "request": number,
                "first": seen - len(tokens),
                "routers": [{"layer": s.layer, "router": s.router, "n_experts": s.n_experts} for s in specs],
                "phases": [phase for phase, _, _ in tokens],
                "experts": [experts for _, experts, _ in tokens],
                "weights": [weights for _, _, weights in tokens],
            },
        }
