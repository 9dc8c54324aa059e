"""Experts in the order of what they are worth, and which of them stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import MoebenchError
from ..families import Config, Family
from ..families.settings import value_of
from ..routing.contributions import ContributionSums
from ..routing.record import RouterSpec
from ..types import HostArray

By = Literal["frequency", "reap", "ean", "accuracy"]
CRITERIA: tuple[By, ...] = ("frequency", "reap", "ean", "accuracy")

PRIOR = 30
"""Questions, answered as right as all are, that are added to those of an expert before its accuracy ranks or weighs it:
without them the first and last would be experts that a handful of questions chose."""


def shrunk_accuracy(
    chosen: npt.NDArray[np.bool_], correct: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], float]:
    """([R] accuracy of each expert's questions with `PRIOR` more at the accuracy of all, that accuracy)."""
    whole = float(correct.mean())
    right, n = chosen[correct].sum(axis=0), chosen.sum(axis=0)
    return (right + PRIOR * whole) / (n + PRIOR), whole


def scores(
    by: By, sums: ContributionSums, labels: npt.NDArray[np.intp], correct: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.float64]:
    """[R] by which experts are ranked; minus infinity for one that nobody chose. labels: the unit of each question."""
    if by == "accuracy":
        if correct is None:
            raise MoebenchError("Accuracy is of answers: give questions.")
        values, _ = shrunk_accuracy(sums.chosen[labels], correct)
    else:
        values = {"frequency": sums.total("tokens"), "reap": sums.reap, "ean": sums.ean}[by]
    return np.where(sums.total("tokens") > 0, values, -np.inf)


def ranked(values: HostArray) -> list[int]:
    """Experts from the largest value to the smallest, ties by number."""
    return [int(e) for e in np.lexsort((np.arange(len(values)), -np.asarray(values, dtype=np.float64)))]


def random_order(n: int, seed: int, number: int) -> list[int]:
    """The experts of router ``number``, shuffled."""
    return [int(e) for e in np.random.default_rng((seed, number)).permutation(n)]


@dataclass(frozen=True)
class Size:
    """How many of a router's ``n_experts`` stay: ``n_kept``, as many in each of ``groups`` groups of neighbours."""

    n_experts: int
    n_kept: int
    groups: int

    def kept(self, order: Sequence[int]) -> list[int]:
        """The experts that stay of ``order``, the best first; in ascending order."""
        each, size = self.n_kept // self.groups, self.n_experts // self.groups
        stay = [[e for e in order if e // size == group][:each] for group in range(self.groups)]
        return sorted(e for one in stay for e in one)

    def gone(self, order: Sequence[int], columns: int) -> npt.NDArray[np.bool_]:
        """[R] True for the experts that go; columns behind the experts stay."""
        mask = np.zeros(columns, dtype=np.bool_)
        mask[: self.n_experts] = True
        mask[self.kept(order)] = False
        return mask


class Limit(NamedTuple):
    """A router chooses from ``kept`` of ``number`` groups of neighbours, which have ``at_least`` experts each."""

    number: int = 1
    kept: int = 1
    at_least: int = 1

    def eligible(self, n_experts: int) -> int:
        """Experts that one token can choose from."""
        return n_experts // self.number * self.kept


def groups_of(family: Family, config: Config, spec: RouterSpec) -> Limit:
    """The limit of a router's choice; one group where it has none."""
    groups = family.form(spec.router).rule.groups
    if groups is None or not groups.dropped(config):
        return Limit()
    least = 2 if groups.by == "top2" else 1
    return Limit(int(value_of(config, groups.number)), int(value_of(config, groups.kept)), least)


def sizes(family: Family, config: Config, specs: Sequence[RouterSpec], keep: float) -> list[Size]:
    """Of each router; where it limits its choice to groups of experts, each group loses as many.

    Raises `MoebenchError` for a share that keeps all, or fewer than a router chooses.
    """
    if not 0 < keep < 1:
        raise MoebenchError(f"Keep is a share of the experts between 0 and 1, got {keep:g}.")
    made = []
    for spec in specs:
        groups, of_these, at_least = groups_of(family, config, spec)
        n = spec.n_experts if spec.kinds is None else spec.kinds.count("ffn")
        each = max(1, round(n * keep / groups))
        if each * groups >= n:
            raise MoebenchError(f"Keeping {keep:g} of {n} experts of {spec.name} keeps all of them; keep fewer.")
        if each * of_these < spec.top_k:
            raise MoebenchError(f"{spec.name} would choose {spec.top_k} of {each * of_these} experts; keep more.")
        if each < at_least:
            raise MoebenchError(
                f"{spec.name} would have 1 expert in each of {groups} groups, which it compares by their best two; "
                "keep more."
            )
        made.append(Size(n, each * groups, groups))
    return made
