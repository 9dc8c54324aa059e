"""`RoutingSums`: per-sequence sums of what every router of a model said, and where they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import RoutingError, StatsError
from ..options import Flag, Thresholds
from ..types import Facts, HostArray, Json
from .metrics import coactivation, coactivation_lift, compute, get_metric, transition
from .record import Dropped, Phase, RouterSpec
from .sums import FIELDS, Numbers, Sums
from .tally import SCALARS, Tally

if TYPE_CHECKING:
    import pandas as pd

Kind = TypeVar("Kind", bound="RoutingSums")
"""The class of the statistics that are made: `RoutingSums`, or one with more methods."""

Cluster = tuple[str, int]
"""(sha256 of the data set, row in it): the sequence that tokens belong to and that is resampled."""

MOST_TIES = Thresholds().most_ties

FEWEST = 8
"""Tokens of a tally from which it is no accident that all their logits are shares."""


class RoutingSums:
    """Sufficient statistics of all routers of one model over sequences of one phase.

    Merging is associative and free of order; every metric and interval is recomputed from the sums. The report and the
    files are those of `RoutingStats` (`pair/stats.py`), which is this and knows them.

    specs: the routers, in the order they run. tau in (0, 1) and collapse_on (see `options.Flag`) define `collapsed`.
    model, environment: provenance. sources: {sha256: facts about that data set}. texts: {sequence: `text_hash` of what
    the model was given}, where that is known.
    """

    def __init__(
        self,
        specs: Sequence[RouterSpec],
        *,
        phase: Phase = "prefill",
        tau: float = 0.40,
        collapse_on: str = "top_share_token",
        model: Facts | None = None,
        sources: Mapping[str, Facts] | None = None,
        environment: Facts | None = None,
    ) -> None:
        Flag(tau, collapse_on)  # refuses what is none
        self.specs = tuple(specs)
        self.phase: Phase = phase
        self.tau = tau
        self.collapse_on = collapse_on
        self.model = dict(model or {})
        self.sources = {sha: dict(facts) for sha, facts in (sources or {}).items()}
        self.environment = dict(environment or {})
        self.texts: dict[Cluster, int] = {}
        self.dropped: dict[str, Dropped] = {}
        """What is not recorded of what ran, by the reason, of which a warning spoke once."""
        self._rows: dict[Cluster, int] = {}
        self._sums = [_Accumulator(spec.n_experts) for spec in self.specs]
        # From router i to the next one; there is none after the last.
        self._transitions = [
            np.zeros((a.n_experts, b.n_experts), dtype=np.int64)
            for a, b in zip(self.specs, self.specs[1:], strict=False)
        ]

    def __repr__(self) -> str:
        model, names = self.model.get("id", "a model"), "+".join(str(s.get("name")) for s in self.sources.values())
        tokens = int(self._sums[0].arrays(len(self._rows))["n_tokens"].sum()) if self._sums else 0
        return (
            f"{type(self).__name__}({model} on {names or 'no data'}: {len(self._rows):,} sequences, {tokens:,} tokens, "
            f"{len(self.specs)} routers, {self.phase})"
        )

    # -- measuring ---------------------------------------------------------------------------------------------

    def add(self, router: int, clusters: Sequence[Cluster], tally: Tally) -> None:
        """Add one router's tally of a batch whose rows belong to ``clusters`` (a cluster may own several rows).

        Raises `RoutingError` as `checked` does; nothing is added then.
        """
        self.add_sums(router, clusters, self.checked(router, clusters, tally), np.asarray(tally.pairs))

    def checked(self, router: int, clusters: Sequence[Cluster], tally: Tally) -> Sums:
        """The tally on the host, first axis ``clusters``, without adding it.

        Raises `RoutingError` for non-finite logits, for probabilities in the place of logits, and for counts that are
        not tokens x K.
        """
        spec = self.specs[router]
        host = {name: np.asarray(getattr(tally, name)) for name in FIELDS}
        bad = int(np.asarray(tally.non_finite).sum())
        if bad:
            raise RoutingError(
                f"Layer {spec.layer} ({spec.router}) gave non-finite router logits or weights for {bad} of "
                f"{int(host['n_tokens'].sum())} tokens: check the checkpoint, or load it with --dtype float32."
            )
        tokens = int(host["n_tokens"].sum())
        if tokens >= FEWEST and int(np.asarray(tally.normalised).sum()) == tokens:
            raise RoutingError(
                f"Layer {spec.layer} ({spec.router}) gave probabilities where logits are expected: each of {tokens} "
                "tokens has scores of 0 or more that sum to 1, and softmax is not applied twice. Older versions of "
                "transformers give such router_logits: update it, or take the logits from the gate itself."
            )
        if host["counts"].shape != (len(clusters), spec.n_experts):
            raise RoutingError(
                f"Layer {spec.layer} ({spec.router}) gave counts of shape {host['counts'].shape}, "
                f"but {len(clusters)} sequences and {spec.n_experts} experts were expected."
            )
        _check_counts(spec, host["counts"], host["n_tokens"])
        return Sums(spec.n_experts, spec.top_k, spec.distribution, **host)

    def add_sums(self, router: int, clusters: Sequence[Cluster], sums: Sums, pairs: npt.ArrayLike) -> None:
        """Add sums that already lie on the host, first axis ``clusters``; pairs [R, R] as in `Tally`."""
        _check_counts(self.specs[router], sums.counts, sums.n_tokens)
        index = np.array([self._rows.setdefault(cluster, len(self._rows)) for cluster in clusters], dtype=np.int64)
        host = {name: getattr(sums, name) for name in FIELDS} | {"top1_counts": recorded(sums.top1_counts)}
        self._sums[router].add(index, len(self._rows), host, np.asarray(pairs))

    def add_transition(self, router: int, counts: npt.ArrayLike) -> None:
        """Add `transition_counts` [R1, R2] from this router to the next one."""
        self._transitions[router] += np.rint(np.asarray(counts)).astype(np.int64)

    def include(self, part: RoutingSums) -> None:
        """Add all the sums of statistics of the same routers, but none of their facts and without a check."""
        self.texts |= part.texts
        for why, lost in part.dropped.items():
            self._lose(why, lost)
        for number in range(len(self.specs)):
            self.add_sums(number, part.clusters, part.sums(number), part.pairs(number))
        for number, counts in enumerate(part._transitions):
            self.add_transition(number, counts)

    def handed_over(self, kind: type[Kind]) -> Kind:
        """These sums as plain statistics of ``kind``, not copied: nothing may be added here afterwards."""
        self._sync()
        plain = kind(self.specs, **self.facts())
        plain.texts, plain.dropped = self.texts, self.dropped
        plain._rows, plain._sums, plain._transitions = self._rows, self._sums, self._transitions
        return plain

    # -- reading -----------------------------------------------------------------------------------------------

    @property
    def clusters(self) -> list[Cluster]:
        """Every sequence seen, sorted: the order of all per-sequence arrays."""
        self._sync()
        return sorted(self._rows)

    @property
    def strata(self) -> list[str]:
        """The domain of each cluster: the name of its data set."""
        return [str(self.sources.get(sha, {}).get("name", sha)) for sha, _ in self.clusters]

    @property
    def n_tokens(self) -> int:
        """Valid tokens counted (of the first router; all routers of a model see the same ones)."""
        return int(self.totals(0).n_tokens) if self.specs and self.clusters else 0

    def sums(self, router: int) -> Sums:
        """Per-cluster sums of one router, first axis in the order of `clusters`."""
        spec = self.specs[router]
        order = np.array([self._rows[cluster] for cluster in self.clusters], dtype=np.int64)
        arrays = {name: array[order] for name, array in self._sums[router].arrays(len(self._rows)).items()}
        # Every token has one first choice: a sequence with tokens but no first choice is one where none was recorded.
        unknown = (arrays["n_tokens"] > 0) & (arrays["top1_counts"].sum(axis=1) == 0)
        if unknown.any():
            arrays["top1_counts"] = np.where(unknown[:, None], np.nan, arrays["top1_counts"])
        return Sums(spec.n_experts, spec.top_k, spec.distribution, **{name: arrays[name] for name in FIELDS})

    def totals(self, router: int) -> Sums:
        """Sums of one router over all clusters."""
        return self.sums(router).total()

    def pairs(self, router: int) -> npt.NDArray[np.int64]:
        """Tokens that chose both experts, [R, R]; the diagonal is the counts."""
        self._sync()
        return self._sums[router].pairs

    def transition_counts(self, router: int) -> npt.NDArray[np.int64]:
        """Pairs (expert here, expert at the next router) [R1, R2]; raises `StatsError` for the last router."""
        if not 0 <= router < len(self._transitions):
            raise StatsError(f"Router {router} has no next router: the model has {len(self.specs)}, counted from 0.")
        self._sync()
        return self._transitions[router]

    def coactivation(self, router: int) -> npt.NDArray[np.float64]:
        """`metrics.coactivation` [R, R] of one router; NaN where not all pairs were recorded."""
        return coactivation(self._all_pairs(router))

    def coactivation_lift(self, router: int) -> npt.NDArray[np.float64]:
        """`metrics.coactivation_lift` [R, R] of one router; NaN where not all pairs were recorded."""
        return coactivation_lift(self._all_pairs(router), int(self.totals(router).n_tokens))

    def pairs_known(self, router: int) -> bool:
        """Whether `pairs` are those of every token: every selection stands in K of them, one of which is with itself.

        They are not where counts were imported, which pair an expert with itself only, and where statistics of one
        domain are among those that were merged, see `by_domain`.
        """
        return int(self.pairs(router).sum()) == self.specs[router].top_k * int(self.totals(router).counts.sum())

    def transitions_known(self, router: int) -> bool:
        """The same of `transition_counts`: K here x K at the next router of every token."""
        selections = int(self.totals(router).counts.sum())
        return int(self.transition_counts(router).sum()) == selections * self.specs[router + 1].top_k

    def _all_pairs(self, router: int) -> npt.NDArray[np.float64]:
        """`pairs`, or NaN if some are missing."""
        pairs = self.pairs(router)
        known = self.pairs_known(router)
        return np.asarray(pairs if known else np.full(pairs.shape, np.nan), dtype=np.float64)

    def transition(self, router: int) -> npt.NDArray[np.float64]:
        """`metrics.transition` [R1, R2] from one router to the next; NaN where not all were recorded.

        The last router has none.
        """
        counts: npt.NDArray[np.float64] = self.transition_counts(router).astype(np.float64)
        if not self.transitions_known(router):
            counts[:] = np.nan
        return transition(counts, self.specs[router + 1].top_k)

    def collapsed(self, router: int, share: float, tied: float = 0.0) -> tuple[bool | None, str | None]:
        """(flag, reason): whether the busiest share exceeds tau; null where even routing already would.

        tied: share of tokens whose last choice was a tie, which the order of the experts decided. Null, too, where the
        flag does not stand without them.
        """
        spec = self.specs[router]
        even = get_metric(self.collapse_on).low(spec.n_experts, spec.top_k)
        if even >= self.tau:
            return None, f"even routing already gives {even:.3g} >= tau = {self.tau:g}"
        if not np.isfinite(share):
            return None, f"{self.collapse_on} is not defined"
        flag = bool(share > self.tau)
        if tied >= MOST_TIES or (flag and tied > 0 and share - tied <= self.tau):
            return None, f"scores tie in {tied:.0%} of the tokens, where the order of the experts decides"
        return flag, None

    @property
    def several_domains(self) -> bool:
        """Whether findings are made, and no flag."""
        return len(set(self.strata)) > 1

    def flag(self, router: int, values: Mapping[str, float]) -> tuple[bool | None, str | None]:
        """`collapsed` of a router with these metrics."""
        tied = values.get("tied_selections", 0.0)
        return self.collapsed(router, values[self.collapse_on], 0.0 if math.isnan(tied) else tied)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per router: layer, moe_layer, router, n_experts, top_k, n_tokens, every metric, collapsed.

        Values are plug-in ones; a report has them corrected. There is no ``collapsed`` of several domains.
        """
        import pandas as pd

        rows, several = [], self.several_domains
        for number, spec in enumerate(self.specs):
            values = self.values(number)
            flag = {} if several else {"collapsed": self.flag(number, values)[0]}
            identity = {k: getattr(spec, k) for k in ("layer", "moe_layer", "router", "n_experts", "top_k")}
            rows.append({**identity, "n_tokens": int(self.totals(number).n_tokens), **values, **flag})
        return pd.DataFrame(rows)

    def values(self, router: int) -> dict[str, float]:
        """Every metric of one router by name; undefined ones are NaN."""
        return {name: float(value) for name, value in compute(self.totals(router)).items()}

    def facts(self) -> Json:
        """Everything that the constructor takes but the routers."""
        names = ("phase", "tau", "collapse_on", "model", "sources", "environment")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Selections are tokens x K for every router and sequence, and all routers saw the same tokens.

        Raises `RoutingError` otherwise.
        """
        first: Numbers | None = None  # of one router at a time: a merge of many pairs has no room for all
        for number, spec in enumerate(self.specs):
            sums = self.sums(number)
            _check_counts(spec, sums.counts, sums.n_tokens)
            first = sums.n_tokens if first is None else first
            if not np.array_equal(sums.n_tokens, first):
                raise RoutingError(
                    f"Layer {spec.layer} ({spec.router}) counted {int(sums.n_tokens.sum())} tokens where the first "
                    f"router counted {self.n_tokens}: a forward pass was recorded in part."
                )

    def _lose(self, why: str, lost: Dropped) -> None:
        before = self.dropped.get(why, Dropped(0, 0))
        self.dropped[why] = Dropped(before.forwards + lost.forwards, before.positions + lost.positions)

    def _sync(self) -> None:
        """Bring in what a live measurement has not added yet; nothing here."""


class _Accumulator:
    """Growing per-cluster arrays of one router."""

    def __init__(self, n_experts: int) -> None:
        wide, integer = (0, n_experts), np.int64
        self._arrays: dict[str, HostArray] = {
            "n_tokens": np.zeros(0, integer),
            "counts": np.zeros(wide, integer),
            "top1_counts": np.zeros(wide, integer),
            "p_sum": np.zeros(wide),
            "scalars": np.zeros((0, len(SCALARS))),
        }
        self.pairs = np.zeros((n_experts, n_experts), integer)

    def add(self, index: HostArray, clusters: int, host: Mapping[str, HostArray], pairs: HostArray) -> None:
        self._grow(clusters)
        for name, array in self._arrays.items():
            np.add.at(array, index, host[name].astype(array.dtype))
        self.pairs += np.rint(pairs).astype(np.int64)

    def arrays(self, clusters: int) -> dict[str, HostArray]:
        self._grow(clusters)
        return {name: array[:clusters] for name, array in self._arrays.items()}

    def _grow(self, clusters: int) -> None:
        have = len(self._arrays["n_tokens"])
        if clusters > have:
            more = max(clusters, 2 * have) - have
            for name, array in self._arrays.items():
                self._arrays[name] = np.concatenate([array, np.zeros((more, *array.shape[1:]), array.dtype)])


def recorded(top1_counts: HostArray) -> npt.NDArray[np.int64]:
    """First choices as they are kept: integers, 0 for all experts of a sequence where none was recorded (NaN)."""
    return np.asarray(np.nan_to_num(top1_counts), dtype=np.int64)


def _check_counts(spec: RouterSpec, counts: HostArray, n_tokens: HostArray) -> None:
    selections, expected = counts.sum(axis=-1), n_tokens * spec.top_k
    if not np.array_equal(selections, expected):
        raise RoutingError(
            f"Layer {spec.layer} ({spec.router}) counted {int(selections.sum())} selections for "
            f"{int(n_tokens.sum())} tokens x {spec.top_k} experts: the captured indices are not distinct experts "
            f"below {spec.n_experts}."
        )
