"""Perturbations by name: what is done to the choice of routers, and whether a router can do it. Needs no MLX."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from .errors import MoebenchError, did_you_mean

if TYPE_CHECKING:
    from .instrument.interventions import Change
    from .routing.record import RouterSpec


@dataclass(frozen=True)
class Kind:
    """name: as it is written, with = where a number follows. what: a phrase for tables. number: an example of it."""

    name: str
    what: str
    number: str = ""
    whole: bool = False


KINDS = (
    Kind("drop-top1", "ranks 2 to K+1 run (LibMoE's DropTop1)"),
    Kind("drop-top1-2", "ranks 3 to K+2 run (LibMoE's DropTop1&2)"),
    Kind("remove-top1", "ranks 2 to K run, one expert fewer"),
    Kind("random-top1", "a random expert runs in place of the first choice"),
    Kind("random", "K random experts run"),
    Kind("temperature", "logits are divided by the number", "10"),
    Kind("k", "so many experts run", "2", whole=True),
    Kind("noise", "the router's input has Gaussian noise of so many of its root mean squares", "0.1"),
)
"""Everything that can be done to a router's choice.

Sources: LibMoE, section 5 and appendix D, whose prose on temperatures has flat and peaked the wrong way round.
"""

DEFAULT = ("drop-top1", "drop-top1-2", "remove-top1", "random-top1", "temperature=10", "temperature=0.1", "noise=0.1")


@dataclass(frozen=True)
class Perturbation:
    """One of `KINDS`, with its number."""

    kind: Kind
    number: float = math.nan

    @property
    def name(self) -> str:
        """``drop-top1``, ``temperature=10``."""
        return f"{self.kind.name}={self.number:g}" if self.kind.number else self.kind.name

    @classmethod
    def named(cls, text: str) -> Self:
        """The perturbation ``text`` names; raises `MoebenchError` for none, with the nearest one.

        >>> Perturbation.named("k=3").name
        'k=3'
        """
        name, equals, value = text.strip().lower().partition("=")
        kinds = {kind.name: kind for kind in KINDS}
        if name not in kinds:
            raise MoebenchError(f"There is no perturbation {text!r}.{did_you_mean(name, list(kinds))}")
        kind = kinds[name]
        example = f"{name}={kind.number}" if kind.number else name
        if bool(kind.number) != bool(equals) or (equals and not re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", value)):
            raise MoebenchError(f"{text!r} is no perturbation: write {example}.")
        if not equals:
            return cls(kind)
        number = float(value)
        if not 0 < number < math.inf or (kind.whole and number != int(number)):
            of = "whole number" if kind.whole else "number"
            raise MoebenchError(f"{text!r} is no perturbation: it takes a {of} above 0.")
        return cls(kind, number)

    def check(self, specs: Sequence[RouterSpec], eligible: Sequence[int] = ()) -> None:
        """Raise `MoebenchError` where a router has too few experts for it.

        eligible: of each, how many a token can choose from, where that is not all of them.
        """
        for spec, columns in zip(specs, eligible or [spec.n_experts for spec in specs], strict=True):
            k = spec.top_k
            if self.kind.name == "random-top1":
                columns = spec.n_experts  # of any group
            last = {"drop-top1": k + 1, "drop-top1-2": k + 2, "random-top1": k + 1, "k": self.number}
            if last.get(self.kind.name, k) > columns:
                raise MoebenchError(
                    f"{self.name} needs {last[self.kind.name]:g} experts, and {spec.name} chooses {k} of {columns}"
                    f"{'' if columns == spec.n_experts else ', those of the groups that a token is left'}."
                )
            if self.kind.name == "remove-top1" and k == 1:
                raise MoebenchError(f"{self.name} leaves nothing of {spec.name}, which chooses 1 expert.")

    def spec(self, spec: RouterSpec) -> RouterSpec:
        """What a router is under it: K may be another."""
        if self.kind.name == "remove-top1":
            return replace(spec, top_k=spec.top_k - 1)
        return replace(spec, top_k=int(self.number)) if self.kind.name == "k" else spec

    def change(self, seed: int) -> Change:
        """What does it; draws follow ``seed``."""
        from .instrument.changes import Count, InputNoise, RandomExperts, Ranks, Temperature

        made: dict[str, Callable[[], Change]] = {
            "drop-top1": lambda: Ranks(1),
            "drop-top1-2": lambda: Ranks(2),
            "remove-top1": lambda: Ranks(1, -1),
            "random-top1": lambda: RandomExperts(seed),
            "random": lambda: RandomExperts(seed, all=True),
            "temperature": lambda: Temperature(self.number),
            "k": lambda: Count(int(self.number)),
            "noise": lambda: InputNoise(self.number, seed),
        }
        return made[self.kind.name]()


def default_for(specs: Sequence[RouterSpec], eligible: Sequence[int] = ()) -> list[Perturbation]:
    """Those of `DEFAULT` that every router can do."""
    found = []
    for one in perturbations_named(DEFAULT):
        with suppress(MoebenchError):
            one.check(specs, eligible)
            found.append(one)
    return found


def perturbations_named(texts: Sequence[str]) -> list[Perturbation]:
    """Of these names, each once, in their order; raises as `Perturbation.named` does."""
    return list(dict.fromkeys(Perturbation.named(text) for text in texts))
