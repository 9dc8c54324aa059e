"""What a first look over all sequences finds that is no text: padding, stale rows, the same conversation twice.

The rules are about whole rows, a token's ids in all layers; `_repeats` weighs those that repeat.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...types import HostArray
from ._repeats import LONG, MANY, Seen, Shape, Stretch, stretches
from ._rows import Hashes, blank_rows, common_start, continued, row_hashes
from ._shared import CERTAIN, SharedExperts
from ._valid import MISSING

CONVERSATION = 8
"""Rows of a sequence that do not begin another one by chance; fewer are left out with others only."""

START = 4
"""First rows of all sequences that are told."""

REPEATS, SHARED = ALLOWED = ("repeats", "shared")
"""What may be counted as it is, although it is refused otherwise."""


@dataclass(frozen=True)
class Choices:
    """What the command line says of rows that are no text.

    skip_padding: leave them out. cumulative: ``last`` counts a conversation once, ``all`` each sequence; None refuses.
    shared: ids of shared experts to leave out. allow: of `ALLOWED`. omitted_prefix: read answers that lack the rows of
    their cached first tokens.
    """

    skip_padding: bool = False
    cumulative: str | None = None
    shared: tuple[int, ...] = ()
    allow: tuple[str, ...] = ()
    omitted_prefix: bool = False


@dataclass
class Survey:
    """A first look at every sequence; then `check_captured`, and `decide`, which says what is left out."""

    experts: int
    choices: Choices
    seen: list[Seen] = field(default_factory=list)
    notes: dict[str, list[str]] = field(default_factory=dict)
    omitted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._shared = SharedExperts(self.experts)

    def add(self, ids: HostArray, where: str, cluster: tuple[str, int, int], ordered: bool) -> None:
        """A sequence's ids [T, L, K] of the layers that are counted."""
        missing = (ids == MISSING).all(axis=(1, 2))
        blank = blank_rows(ids, self.experts) & ~missing
        there = np.flatnonzero(~(missing | blank))
        rows = ids[there] if len(there) < len(ids) else ids
        like = (
            (rows == rows[:, :1]).all(axis=(1, 2))
            if ids.shape[1] > 1
            else (rows == np.arange(ids.shape[2])).all((1, 2))
        )
        self._shared.add(rows[~like])  # what pads has none
        self._shape = Shape(ids.shape[1], ids.shape[2], self.experts)
        self.seen.append(
            Seen(where, cluster, len(ids), row_hashes(rows), there, like, np.flatnonzero(blank), ordered=ordered)
        )

    # -- nothing captured ------------------------------------------------------------------------------------------

    def check_captured(self) -> None:
        """Raise `DataError` where all rows of all sequences are one row, as where nothing was recorded."""
        rows = np.unique(np.concatenate([s.hashes for s in self.seen])) if self.seen else ()
        blank = sum(len(s.blank) for s in self.seen)
        live = sum(len(s.hashes) for s in self.seen)
        if not self.seen or REPEATS in self.choices.allow or len(rows) + bool(blank) != 1:
            return
        if live and live < LONG:
            return
        which = self.seen[0].where if len(self.seen) == 1 else f"Each of the {len(self.seen)} sequences"
        raise DataError(
            f"{which} has the same ids everywhere: the engine recorded nothing, as with MoE kernels that choose "
            "experts by themselves; record again with another MoE backend"
            + (", or, where the routers do choose these, count them with --allow repeats." if live else ".")
        )

    # -- padding and stale rows ------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Mark what is left out; raises `DataError` for what is not text, unless the choices say what to do with it."""
        if not self.seen:  # the files hold no sequence, which the count of them says
            return
        self._padding()
        self._fused()
        self._conversations()

    def _padding(self) -> None:
        found, told = ([], None) if REPEATS in self.choices.allow else stretches(self.seen, self._shape)
        blank = [s for s in self.seen if len(s.blank)]
        if not self.choices.skip_padding and (found or blank):
            self._refuse_padding(found, blank)
        for s in blank:
            self._leave_out(s, s.blank)
        for stretch in found:
            self._leave_out(stretch.seen, stretch.left_out())
        if told:
            warnings.warn(
                f"{told.length} equal rows of ids follow each other in {told.seen.where}, from token "
                f"{told.seen.there[told.start]} on, as where a text repeats one token: they are counted.",
                stacklevel=2,
            )
        rows = Counter[str]()
        for s in self.seen:
            if s.out is not None:
                rows[s.cluster[0]] += int(s.out.sum())
        for domain, number in rows.items():
            self._note(domain, f"{number} rows of padding left out")
        if rows:
            sequences = sum(s.out is not None for s in self.seen)
            warnings.warn(f"{rows.total():,} rows of padding in {sequences} sequences are left out.", stacklevel=2)

    def _refuse_padding(self, found: Sequence[Stretch], blank: Sequence[Seen]) -> None:
        sequences = {id(s) for s in blank} | {id(stretch.seen) for stretch in found}
        rows = sum(len(s.blank) for s in blank) + sum(len(stretch.left_out()) for stretch in found)
        if found:
            example = max(found, key=lambda stretch: stretch.length)
            first, last = example.seen.there[[example.start, example.stop - 1]].tolist()
            where = example.seen.where
        else:
            first, last, where = int(blank[0].blank[0]), int(blank[0].blank[-1]), blank[0].where
        at = Counter("the end" if s.blank[-1] == s.tokens - 1 else "the start or inside" for s in blank)
        at.update({"all": "all of them"}.get(stretch.at, f"the {stretch.at}") for stretch in found)
        allow = "; where a text repeats one token, count them with --allow repeats" if found else ""
        raise DataError(
            f"{rows} rows in {len(sequences)} of {len(self.seen)} sequences are no text but padding or a stale "
            f"buffer, the same ids again and again (at {', '.join(sorted(at))}), as tokens {first} to {last} of "
            f"{where}: leave them out with --skip-padding{allow}."
        )

    def _leave_out(self, seen: Seen, positions: npt.NDArray[np.int64]) -> None:
        if seen.out is None:
            seen.out = np.zeros(seen.tokens, dtype=bool)
        seen.out[positions] = True

    # -- shared experts --------------------------------------------------------------------------------------------

    def _fused(self) -> None:
        if SHARED in self.choices.allow:
            return
        if certain := self._shared.certain():
            options = " ".join(f"--shared-expert {expert}" for expert in certain)
            named = ", ".join(map(str, certain))
            outside = [expert for expert in certain if expert >= self.experts]
            raise DataError(
                f"Every token has expert {named} in every layer, "
                + (f"beyond the {self.experts} of --experts" if outside else "always in the same place")
                + ": a shared expert that the engine fused into the routed ones, which no router chose; leave it out "
                f"with {options}, or count it as a routed one with --allow shared"
                + (f" --experts {max(outside) + 1}." if outside else ".")
            )
        if suspicious := self._shared.suspicious():
            warnings.warn(
                f"Every token has expert {suspicious[0]} in every layer: the routers collapsed onto it, or it is a "
                "shared "
                f"expert that the engine fused, which --shared-expert {suspicious[0]} leaves out.",
                stacklevel=2,
            )

    # -- one conversation, several times ---------------------------------------------------------------------------

    def _conversations(self) -> None:
        clusters: dict[tuple[str, int, int], list[Seen]] = {}
        for s in self.seen:
            if s.ordered and len(s.there):
                clusters.setdefault(s.cluster, []).append(s)
        whole = [np.concatenate([_counted(s) for s in parts]) for parts in clusters.values()]
        if len(whole) < 2:
            return
        groups = list(clusters.values())
        into = continued(whole)
        again = np.flatnonzero(into >= 0).tolist()
        known, counts = np.unique(np.concatenate(whole), return_counts=True)
        bits = np.log2(counts.sum() / counts)
        said = {n: bits[np.searchsorted(known, whole[n])].sum() for n in again}  # by a router that collapsed: nothing
        few = [n for n in again if said[n] >= 2 * CERTAIN and len(whole[n]) > 1]
        sure = [n for n in few if len(whole[n]) >= CONVERSATION]
        if self.choices.cumulative is None and (sure or len(few) >= max(MANY, math.ceil(len(whole) / 4))):
            n = (sure or few)[0]
            raise DataError(
                f"{len(again)} of {len(whole)} sequences are the beginning of another one, or the same, as "
                f"{groups[n][0].where} of {groups[int(into[n])][0].where}: a conversation whose answers hold all of "
                "it so far counts once with --cumulative last; --cumulative all counts each of them as one of its own."
            )
        if self.choices.cumulative == "last" and again:
            per_domain = Counter[str]()
            for n in again:
                per_domain[groups[n][0].cluster[0]] += 1
                for s in groups[n]:
                    s.dropped = True
            for domain, number in per_domain.items():
                self._note(domain, f"{number} sequences that others begin with left out")
            warnings.warn(
                f"{len(again)} of {len(whole)} sequences, with which others begin, are left out.", stacklevel=2
            )
        kept = [hashes for hashes, parts in zip(whole, groups, strict=True) if not parts[0].dropped and len(hashes)]
        if len(kept) > 1 and (shared := common_start(kept)) >= START:
            warnings.warn(
                f"All {len(kept)} sequences begin with the same {shared} rows, as under one system prompt: they are "
                "counted "
                "in each of them.",
                stacklevel=2,
            )

    def _note(self, domain: str, text: str) -> None:
        self.notes.setdefault(domain, []).append(text)


def _counted(seen: Seen) -> Hashes:
    return seen.hashes if seen.out is None else seen.hashes[~seen.out[seen.there]]
