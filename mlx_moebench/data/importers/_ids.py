"""Expert ids of single tokens, as statistics of one cluster per sequence.

Ids tell who was chosen, in which token and layer: counts, co-activation, the overlap of adjacent tokens and transitions
between layers are exact. They tell neither p nor g nor, as engines do not order them by weight, the first choice.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...environment import host_environment
from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import Phase
from ...routing.sums import Sums
from ...types import Facts, HostArray, Json
from ..trace import pair_counts
from . import NamedFile
from ._arrays import arrays_of, file_bytes, files_in
from ._counts import routers_of, source_facts
from ._repeats import Seen
from ._shared import routed_experts, without_shared
from ._survey import Choices, Survey
from ._valid import MISSING, check_array, check_ids, check_range, columns

BATCH = 8192  # tokens counted at a time


@dataclass(frozen=True)
class Recorded:
    """One sequence.

    where: its name in messages. ids: [T, L, K] integers, the experts of each token and layer, tokens in their order.
    prompt: how many of the first tokens are the prompt's, or None where that is not known. sequence: its number in the
    file; what bears the same is one cluster. ordered: False where the tokens are of several sequences, mixed, so that
    a token's neighbour is not known. omitted: how many tokens of the prompt,
    its first, have no row; ``prompt`` is without them.
    """

    where: str
    ids: HostArray
    prompt: int | None = None
    sequence: int = 0
    ordered: bool = True
    omitted: int = 0


Reader = Callable[[Path], Sequence[Recorded]]


def sequences_in(path: Path) -> list[Recorded]:
    """The arrays of a .npy or .npz, each of which is one sequence."""
    arrays = arrays_of(path)
    return [
        Recorded(str(path) if len(arrays) == 1 else f"{name} of {path}", array, sequence=number)
        for number, (name, array) in enumerate(arrays.items())
    ]


@dataclass(frozen=True)
class Reading:
    """How ids are read.

    experts: E. layers: their blocks, or None for all. phase: which to count. prompts: their lengths, one for all or one
    for each sequence, or None. top_k: K, or None where the arrays say it. choices: of rows that
    are no text.
    """

    experts: int
    layers: tuple[int, ...] | None
    phase: Phase
    prompts: tuple[int, ...] | None = None
    top_k: int | None = None
    choices: Choices = field(default_factory=Choices)

    @property
    def width(self) -> int:
        """K in the files, where ``top_k`` is given: with the shared experts."""
        return (self.top_k or 0) + len(self.choices.shared)

    @property
    def routed(self) -> int:
        """E of the routers."""
        return routed_experts(self.experts, self.choices.shared)


def statistics_of_ids(
    files: Sequence[NamedFile],
    read: Reader,
    reading: Reading,
    *,
    data: str | None,
    model: Facts,
    form: str,
    **settings: Any,
) -> RoutingStats:
    """Statistics of files of ids; each of them, or folder of them, is one domain, or all are of the domain ``data``.

    Raises `DataError` for ids that no router with E experts gives, and for sequences that do not fit together.
    """
    if reading.prompts and reading.phase == "unsplit":
        raise DataError(
            "--prompt-tokens splits sequences into prompts and what was generated: say which to count, with --phase "
            "prefill or --phase decode."
        )
    if reading.layers and list(reading.layers) != sorted(reading.layers):
        raise DataError("The layers of ids run one after the other: give --layers in ascending order.")
    domains = [(data, files)] if data else [(file.name, [file]) for file in files]
    members = {name: [path for file in of_domain for path in files_in(file.path)] for name, of_domain in domains}
    survey = Survey(reading.routed, reading.choices)
    for name, paths in members.items():
        _look(survey, name, paths, read, reading)
    survey.check_captured()
    if omitted := sum(survey.omitted.values()):
        warnings.warn(
            f"{omitted:,} prompt tokens, the first of their sequences, have no rows: what was recorded of one "
            "conversation "
            "in several answers counts as several sequences.",
            stacklevel=2,
        )
    seen: dict[str, Path] = {}
    hashes = {name: _sha256(paths, seen) for name, paths in members.items()}
    survey.decide()
    tally = _Tally(reading, dict(model), settings, survey.seen)
    for name, paths in members.items():
        missing, tokens = tally.add_domain(hashes[name], paths, read)
        padding = f"{missing} of {tokens} positions without ids left out" if missing else "none"
        notes = [f"shared expert {expert} left out" for expert in reading.choices.shared] + survey.notes.get(name, [])
        tally.sources[hashes[name]] = source_facts(name, form, padding, notes)
    return tally.finished()


def _look(survey: Survey, name: str, paths: Sequence[Path], read: Reader, reading: Reading) -> None:
    """Let the survey see every sequence of a domain."""
    for number, path in enumerate(paths):
        for recorded in read(path):
            ids = _chosen(recorded, reading)
            survey.add(ids, recorded.where, (name, number, recorded.sequence), recorded.ordered)
            survey.omitted[name] += recorded.omitted


def _chosen(recorded: Recorded, reading: Reading) -> HostArray:
    """The ids of the layers that are counted, without those of shared experts."""
    ids, where, shared = recorded.ids, recorded.where, reading.choices.shared
    check_array(ids, where)
    check_range(ids, max(reading.experts - 1, *shared, 0), where)
    ids = ids[:, columns(ids, reading.layers, where)]
    ids = without_shared(ids, shared, reading.experts, where) if shared else ids
    if ids.shape[2] > reading.routed:
        raise DataError(f"{where} has {ids.shape[2]} experts a token, but there are {reading.routed}: check --experts.")
    return ids


def _sha256(paths: Sequence[Path], seen: dict[str, Path]) -> str:
    """Of the file, or of the hashes of several; raises `DataError` for a file that was ``seen``."""
    digests = []
    for path in paths:
        digest = hashlib.sha256(file_bytes(path)).hexdigest()
        if digest in seen:
            raise DataError(f"{seen[digest]} and {path} are the same file: its sequences would count twice.")
        seen[digest] = path
        digests.append(digest)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class _Tally:
    """Statistics in the making, `BATCH` tokens at a time."""

    def __init__(self, reading: Reading, model: Json, settings: Facts, seen: Sequence[Seen]) -> None:
        self.reading = reading
        self._seen = seen
        self.sources: dict[str, Json] = {}
        self._model = model
        self._settings = settings
        self._stats: RoutingStats | None = None
        self._width = 0
        self._sequences = 0

    def add_domain(self, sha: str, paths: Sequence[Path], read: Reader) -> tuple[int, int]:
        """Count the sequences of a domain; returns its positions without ids, and all of them."""
        missing = tokens = first = waiting = 0
        batch: list[_Part] = []
        for path in paths:
            last = -1
            for recorded in read(path):
                last = max(last, recorded.sequence)
                part = self._part(recorded, (sha, first + recorded.sequence))
                missing, tokens = missing + part.missing, tokens + part.missing + len(part.ids)
                if len(part.ids):
                    batch.append(part)
                    waiting += len(part.ids)
                if waiting >= BATCH:
                    self._count(batch)
                    batch, waiting = [], 0
            first += last + 1
        if batch:
            self._count(batch)
        return missing, tokens

    def finished(self) -> RoutingStats:
        """The statistics; raises `DataError` when nothing was counted, or not by every sequence's rule."""
        stats, prompts = self._stats, self.reading.prompts
        if prompts and len(prompts) not in (1, self._sequences):
            raise DataError(
                f"--prompt-tokens has {len(prompts)} numbers, but there are {self._sequences} sequences: give one for "
                "each, in their order, or one for all."
            )
        if stats is None or not stats.n_tokens:
            which = "" if self.reading.phase == "unsplit" else f" of phase {self.reading.phase}"
            raise DataError(f"The files hold no token{which} with expert ids.")
        stats.sources.update(self.sources)
        for number, spec in enumerate(stats.specs):
            if self.reading.layers is None and spec.top_k == 1 and stats.totals(number).counts[1:].sum() == 0:
                raise DataError(
                    f"Layer {spec.layer} has expert 0 in every token, as a block without a router has: name the layers "
                    "that have one with --layers."
                )
        stats.check()
        return stats

    def _part(self, recorded: Recorded, cluster: tuple[str, int]) -> _Part:
        ids, where, seen = _chosen(recorded, self.reading), recorded.where, self._seen[self._sequences]
        if self._stats is None:
            self._width = recorded.ids.shape[1]
            _check_top_k(ids.shape[2], self.reading, where)
            chosen = columns(recorded.ids, self.reading.layers, where)
            self._stats = self._empty(chosen, ids.shape[2], recorded.ordered)
        top_k = self._stats.specs[0].top_k
        if (recorded.ids.shape[1], ids.shape[2]) != (self._width, top_k):
            raise DataError(
                f"{where} has {recorded.ids.shape[1]} layers with {ids.shape[2]} experts a token, the sequences "
                f"before it have {self._width} with {top_k}: import files of one model."
            )
        prompt = self._prompt(recorded, seen)
        self._sequences += 1
        if seen.dropped:
            return _Part(cluster, np.zeros((0, *ids.shape[1:]), np.int64), np.zeros(0, np.int64), 0, recorded.ordered)
        position = np.arange(len(ids))
        counted = np.ones(len(ids), dtype=bool) if seen.out is None else ~seen.out
        part, omitted = slice(None), recorded.omitted
        if prompt is not None and self.reading.phase != "unsplit":
            prefill = self.reading.phase == "prefill"
            part, omitted = (slice(prompt), omitted) if prefill else (slice(prompt, None), 0)
        ids, position, counted = ids[part][counted[part]].astype(np.int64), position[part][counted[part]], counted[part]
        there = (ids != MISSING).any(axis=(1, 2))
        layers = [spec.layer for spec in self._stats.specs]
        check_ids(ids[there], position[there], layers, self.reading.routed, where)
        return _Part(cluster, ids[there], position[there], omitted + int((~there).sum()), recorded.ordered)

    def _prompt(self, recorded: Recorded, seen: Seen) -> int | None:
        """How many of the first rows are the prompt's; those of padding before it are not among its tokens."""
        lengths = self.reading.prompts
        if lengths is None:
            prompt = recorded.prompt
        elif recorded.prompt is not None:
            raise DataError(f"{recorded.where} tells the length of its prompt: leave --prompt-tokens out.")
        else:
            padding = 0 if seen.out is None or seen.out.all() else int((~seen.out).argmax())
            prompt = lengths[min(self._sequences, len(lengths) - 1)] + padding
        if prompt is not None and prompt > len(recorded.ids):
            raise DataError(f"{recorded.where} has {len(recorded.ids)} tokens, fewer than its prompt of {prompt}.")
        return prompt

    def _empty(self, chosen: Sequence[int], top_k: int, ordered: bool) -> RoutingStats:
        specs = routers_of(self.reading.layers or tuple(chosen), self.reading.routed, top_k)
        facts = dict.fromkeys(("revision", "dtype", "weight_bits", "router_bits"))
        if not ordered:
            self._model["backend"] = "counts"  # what is no sequence must not be called one
        return RoutingStats(
            specs,
            phase=self.reading.phase,
            model=facts | self._model,
            environment=host_environment(),
            **self._settings,
        )

    def _count(self, batch: Sequence[_Part]) -> None:
        stats = self._stats
        assert stats is not None
        ids = np.concatenate([part.ids for part in batch])
        position = np.concatenate([part.position for part in batch])
        lengths = np.array([len(part.ids) for part in batch])
        sequence = np.repeat(np.arange(len(batch)), lengths)
        adjacent = (sequence[1:] == sequence[:-1]) & (np.diff(position) == 1)
        unordered = [number for number, part in enumerate(batch) if not part.ordered]
        clusters = [part.cluster for part in batch]
        for number, spec in enumerate(stats.specs):
            experts = ids[:, number]
            flat = (sequence[:, None] * spec.n_experts + experts).ravel()
            counts = np.bincount(flat, minlength=len(batch) * spec.n_experts).reshape(len(batch), spec.n_experts)
            sums = Sums.from_counts(counts, lengths, spec.top_k, distribution=None)
            shared = (experts[1:, :, None] == experts[:-1, None, :]).sum(axis=(1, 2))
            for name, per_token in (("adjacent_shared", shared * adjacent), ("adjacent_pairs", adjacent)):
                column = sums.scalar(name)
                column[:] = np.bincount(sequence[1:], weights=per_token, minlength=len(batch))
                column[unordered] = np.nan
            stats.add_sums(number, clusters, sums, pair_counts(experts, experts, spec, spec))
            if number:
                before = stats.specs[number - 1]
                stats.add_transition(number - 1, pair_counts(ids[:, number - 1], experts, before, spec))


@dataclass(frozen=True)
class _Part:
    """What is counted of a sequence: ids [T, L, K] and positions [T] of the tokens that have them."""

    cluster: tuple[str, int]
    ids: npt.NDArray[np.int64]
    position: npt.NDArray[np.int64]
    missing: int
    ordered: bool


def _check_top_k(top_k: int, reading: Reading, where: str) -> None:
    if reading.top_k not in (None, top_k):
        raise DataError(f"{where} has {top_k} experts a token, but --top-k says {reading.top_k}: check it.")
