"""What a training logs of its routing: a few figures, over the tokens of the steps since the last log."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import RoutingError
from .metrics import get_metric
from .record import RouterSpec
from .stats import RoutingSums
from .sums import FIELDS, Floats, Sums
from .tally import SCALARS

LOGGED = ("mean_entropy", "max_violation", "dead_experts", "load_entropy")
"""The metrics that are logged, of every router and as the mean over routers."""

PREFIX = "routing"


class Window:
    """Sums of every router over the steps since it was last emptied, in one flat array that ranks can add up.

    steps: how many were measured.
    """

    def __init__(self, specs: Sequence[RouterSpec]) -> None:
        self.specs = tuple(specs)
        self.empty()

    def empty(self) -> None:
        """Start anew."""
        self.steps = 0
        self.sums: Floats = np.zeros(sum(sum(_sizes(spec)) for spec in self.specs))

    def add(self, stats: RoutingSums) -> None:
        """Add a step. Forwards with logits that are no numbers are left out, with a warning: the training goes on."""
        self.steps += 1
        try:
            known = bool(stats.clusters)
        except RoutingError as error:
            warnings.warn(f"Not in the routing that is logged: {error}", RuntimeWarning, stacklevel=3)
            known = bool(stats.clusters)
        if not known:
            return
        every = [stats.totals(number) for number in range(len(self.specs))]
        self.sums += np.concatenate([np.ravel(getattr(one, name)) for one in every for name in FIELDS])

    def figures(self, sums: Floats | None = None) -> dict[str, float]:
        """``routing/NAME``, the mean over routers, and ``routing/layer.N/NAME`` for `LOGGED`; none without tokens.

        sums: those of all ranks together; None for those of this one. A layer with several routers has
        ``routing/layer.N.ROUTER/NAME``.
        """
        rest = self.sums if sums is None else sums
        several = Counter(spec.layer for spec in self.specs)
        means: dict[str, list[float]] = {name: [] for name in LOGGED}
        by_layer = {}
        for spec in self.specs:
            now, rest = _read(spec, rest)
            if not now.n_tokens:
                return {}
            place = f"layer.{spec.layer}" + (f".{spec.router}" if several[spec.layer] > 1 else "")
            for name in LOGGED:
                value = float(get_metric(name).values(now))
                means[name].append(value)
                by_layer[f"{PREFIX}/{place}/{name}"] = value
        return {f"{PREFIX}/{name}": float(np.mean(values)) for name, values in means.items()} | by_layer


def _sizes(spec: RouterSpec) -> tuple[int, ...]:
    """Of the arrays of `FIELDS`."""
    return 1, spec.n_experts, spec.n_experts, spec.n_experts, len(SCALARS)


def _read(spec: RouterSpec, flat: Floats) -> tuple[Sums, Floats]:
    """The sums of one router at the start of ``flat``, and what follows."""
    tokens, *arrays = np.split(flat[: sum(_sizes(spec))], np.cumsum(_sizes(spec))[:-1])
    named = dict(zip(FIELDS, [tokens[0], *arrays], strict=True))
    return Sums(spec.n_experts, spec.top_k, spec.distribution, **named), flat[sum(_sizes(spec)) :]
