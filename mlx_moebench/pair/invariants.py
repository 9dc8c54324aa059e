"""What must hold of the sums of any measurement: a file in which it does not is damaged or made up.

Bounds follow from the definitions: a token chooses K distinct of R experts, p sums to 1, entropy is concave, so that
the mean of entropies is at most the entropy of the mean. Sums are made in 32 bit; `ROUNDING` is what that may cost.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..errors import StatsError
from ..routing.record import RouterSpec
from ..routing.stats import Cluster
from ..routing.sums import Floats, Sums, entropy
from ..types import Facts, HostArray

ROUNDING = 1e-4
"""Part of a token by which a sum over one token may miss its bound."""


def expect(holds: bool, what: str) -> None:
    """Raise `StatsError` that says ``what`` is wrong unless it ``holds``."""
    if not holds:
        raise StatsError(what)


def check_specs(specs: Sequence[RouterSpec]) -> None:
    """Raise `StatsError` for routers that cannot be: two of one name, or K of E that nobody can choose.

    What each of their facts may be alone is said in `pair/format/facts.py`.
    """
    names = [spec.name for spec in specs]
    expect(len(set(names)) == len(names), "two routers have one name")
    for spec in specs:
        expect(spec.top_k <= spec.n_experts, f"{spec.name} chooses {spec.top_k} of {spec.n_experts} experts a token")
        for what in (spec.kinds, spec.signs):
            expect(what is None or len(what) == spec.n_experts, f"{spec.name} says what {spec.n_experts} experts are")


def check_facts(sources: Facts, clusters: Sequence[Cluster]) -> None:
    """Raise `StatsError` where the sources say that less was measured than there are sequences, or more than all."""
    expect(all(row >= 0 for _, row in clusters), "a sequence has a negative number")
    measured = Counter(sha for sha, _ in clusters)
    for sha, facts in sources.items():
        truncated = facts.get("truncated_sequences", 0)
        if "parts" not in facts:
            continue
        for part in facts["parts"]:
            for what in ("sequences", "batches"):
                some, whole = part[f"{what}_done"], part[what]
                expect(0 <= some <= whole, f"{some} of {whole} {what} are done")
        done = sum(part["sequences_done"] for part in facts["parts"])
        expect(measured[sha] <= done, f"it has {measured[sha]} sequences where {done} were measured")
        expect(truncated <= done, f"{truncated} of {done} sequences are truncated")


def check_sums(spec: RouterSpec, sums: Sums, pairs: HostArray, clusters: int) -> None:
    """Raise `StatsError` unless sums [clusters, ...] and pairs [R, R] are those of a router like ``spec``."""
    _check_arrays(spec, sums, pairs, clusters)
    _check_counts(spec, sums)
    _check_distribution(spec, sums)
    _check_scalars(spec, sums)
    _check_pairs(spec, pairs, sums.counts.sum(axis=0), int(sums.n_tokens.sum()))


def check_transition(a: RouterSpec, b: RouterSpec, moves: HostArray, counts: tuple[HostArray, HostArray]) -> None:
    """Raise `StatsError` unless moves [R1, R2] are those of tokens that chose ``counts`` at routers ``a`` and ``b``.

    Every selection of one router meets all K of the other. Where moves were not recorded all are 0.
    """
    what = f"{a.name}.transition"
    expect(moves.shape == (a.n_experts, b.n_experts), f"{what} has shape {moves.shape}")
    expect(moves.dtype.kind == "i" and bool(np.all(moves >= 0)), f"{what} has negative or broken counts")
    fits = np.array_equal(moves.sum(axis=1), b.top_k * counts[0])
    fits = fits and np.array_equal(moves.sum(axis=0), a.top_k * counts[1])
    expect(fits or not moves.any(), f"{what} does not fit the counts of its two routers")


def _check_arrays(spec: RouterSpec, sums: Sums, pairs: HostArray, clusters: int) -> None:
    wide = (clusters, spec.n_experts)
    shapes = {"n_tokens": wide[:1], "counts": wide, "top1_counts": wide, "p_sum": wide}
    for name, shape in shapes.items():
        array = getattr(sums, name)
        expect(array.shape == shape, f"{spec.name}.{name} has shape {array.shape} instead of {shape}")
        expect(array.dtype.kind == ("f" if name == "p_sum" else "i"), f"{spec.name}.{name} is of {array.dtype}")
        if name != "p_sum":
            expect(bool(np.all(array >= 0)), f"{spec.name}.{name} has negative counts")
            # Sums of these are made in 64 bit and scaled by K.
            expect(float(array.sum(dtype=np.float64)) * spec.top_k < 2**62, f"{spec.name}.{name} is beyond 64 bit")
    expect(pairs.shape == (spec.n_experts, spec.n_experts), f"{spec.name}.pairs has shape {pairs.shape}")
    expect(pairs.dtype.kind == "i", f"{spec.name}.pairs is of {pairs.dtype}")
    expect(not np.isinf(sums.p_sum).any() and not np.isinf(sums.scalars).any(), f"{spec.name} has infinite sums")


def _check_counts(spec: RouterSpec, sums: Sums) -> None:
    tokens, counts, first = sums.n_tokens, sums.counts, sums.top1_counts
    expect(
        np.array_equal(counts.sum(axis=1), tokens * spec.top_k),
        f"{spec.name}.counts are not {spec.top_k} of every token",
    )
    expect(bool(np.all(counts <= tokens[:, None])), f"{spec.name} has an expert chosen twice by one token")
    expect(bool(np.all(first <= counts)), f"{spec.name} has an expert that is first more often than it is chosen")
    firsts = first.sum(axis=1)
    expect(bool(np.all((firsts == tokens) | (firsts == 0))), f"{spec.name} has not one first choice a token")


def _check_distribution(spec: RouterSpec, sums: Sums) -> None:
    p, tokens = sums.p_sum, sums.n_tokens
    missing = np.isnan(p)
    unknown: npt.NDArray[np.bool_] = np.asarray(missing.all(axis=1))
    expect(bool(np.all(unknown == missing.any(axis=1))), f"{spec.name}.p_sum is there for some experts only")
    known, slack = p[~unknown], ROUNDING * tokens[~unknown]
    expect(bool(np.all(known >= 0)), f"{spec.name}.p_sum is negative")
    expect(bool(np.all(np.abs(known.sum(axis=1) - tokens[~unknown]) <= slack)), f"{spec.name}.p_sum is not 1 a token")
    expect(bool(np.all(known <= tokens[~unknown, None] + slack[:, None])), f"{spec.name}.p_sum is above 1 a token")
    of_p = sums.scalar("entropy")
    expect(
        bool(np.all(np.isnan(of_p[tokens > 0]) == unknown[tokens > 0])),
        f"{spec.name} has p or its entropy, and not both",
    )
    at_most = tokens[~unknown] * entropy(sums.mean_p[~unknown])
    expect(
        bool(np.all((of_p[~unknown] <= at_most + slack) | (tokens[~unknown] == 0))),
        f"{spec.name}.entropy is above that of the mean of p",
    )


def _check_scalars(spec: RouterSpec, sums: Sums) -> None:
    """The range of every sum of one number a token, and what ties some of them to each other."""
    r, k, tokens = spec.n_experts, spec.top_k, sums.n_tokens
    following = np.nan_to_num(sums.scalar("adjacent_pairs"))
    none: Floats = np.zeros(len(tokens))
    each: Floats = tokens.astype(np.float64)
    limits: dict[str, tuple[Floats, Floats]] = {
        "entropy": (none, each * math.log(r)),
        "topk_entropy": (none, each * math.log(k)),
        "margin_prob": (none, each),
        "margin_weight": (none, each * float(k > 1)),
        "z_squared": (none, np.full(len(tokens), np.inf)),
        "adjacent_pairs": (none, each),
        "adjacent_shared": (following * max(0, 2 * k - r), following * k),
        "tied": (none, each * float(k < r)),
    }
    for name, (low, high) in limits.items():
        value, slack = sums.scalar(name), ROUNDING * tokens
        inside = (value >= low - slack) & (value <= high + slack)
        expect(bool(np.all(inside | np.isnan(value))), f"{spec.name}.{name} is out of its range")
    for name in ("adjacent_pairs", "adjacent_shared", "tied"):
        value = sums.scalar(name)
        expect(bool(np.all(np.isnan(value) | (value == np.rint(value)))), f"{spec.name}.{name} counts no whole tokens")
    for margin, of, columns in (("margin_prob", "entropy", r), ("margin_weight", "topk_entropy", k)):
        high = most_entropy(sums.scalar(margin) / np.maximum(tokens, 1), columns) * tokens
        fits = sums.scalar(of) <= high + ROUNDING * tokens
        unknown = np.isnan(sums.scalar(of)) | np.isnan(sums.scalar(margin))
        expect(bool(np.all(fits | unknown)), f"{spec.name}.{of} is above what its {margin} leaves")
    rival, tied = sums.scalar("selection_margin"), sums.scalar("tied")
    expect(k < r or bool(np.all(np.isnan(rival) | (tokens == 0))), f"{spec.name} has a rival where all are chosen")
    every = (tied == tokens) & ~np.isnan(rival)
    expect(bool(np.all(rival[every] == 0)), f"{spec.name}.selection_margin is not 0 where every choice is a tie")


def most_entropy(margin: Floats, columns: int) -> Floats:
    """Highest H(p) [...], nats, of p over ``columns`` whose two largest differ by ``margin`` [...] in [0, 1].

    All but the largest are (1 - margin) / columns then. Concave in the margin, so it bounds means as well.

    >>> float(most_entropy(np.array(0.0), 4)) == math.log(4)
    True
    """
    rest = np.clip(1 - margin, 0, 1) / columns
    return entropy(np.stack([1 - (columns - 1) * rest, *[rest] * (columns - 1)], axis=-1))


def _check_pairs(spec: RouterSpec, pairs: HostArray, counts: HostArray, tokens: int) -> None:
    """Where pairs were not recorded all are 0, or only an expert with itself is counted."""
    what, diagonal = f"{spec.name}.pairs", np.diagonal(pairs)
    if not pairs.any():
        return
    expect(np.array_equal(pairs, pairs.T), f"{what} is not symmetric")
    expect(np.array_equal(diagonal, counts), f"{what} does not have the counts on its diagonal")
    fewest = np.maximum(counts[:, None] + counts[None] - tokens, 0)
    together = pairs - np.diag(diagonal)
    if not together.any():
        return
    np.fill_diagonal(fewest, 0)
    inside = (together >= fewest) & (together <= np.minimum(counts[:, None], counts[None]))
    expect(bool(np.all(inside)), f"{what} has two experts together too often or not often enough")
    expect(np.array_equal(pairs.sum(axis=1), spec.top_k * counts), f"{what} does not sum to {spec.top_k} a selection")
