"""Expert ids of single tokens, as statistics of one cluster per sequence.

Ids tell who was chosen, in which token and layer: counts, co-activation, the overlap of adjacent tokens and transitions
between layers are exact. They tell neither p nor g nor, as engines do not order them by weight, the first choice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...environment import host_environment
from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import Mask, Phase
from ...routing.sums import Sums
from ...types import Facts, HostArray, Json
from ..trace import pair_counts
from . import NamedFile
from ._arrays import arrays_of, files_in
from ._counts import routers_of, source_facts

MISSING = -1
"""The id that engines write where they recorded none: a prefix from the cache, a padded position, a dense block."""

BATCH = 8192  # tokens counted at a time


@dataclass(frozen=True)
class Recorded:
    """One sequence.

    where: its name in messages. ids: [T, L, K] integers, the experts of each token and layer, tokens in their order.
    prompt: how many of the first tokens are the prompt's, or None where that is not known. sequence: its number in the
    file; what bears the same is one cluster. ordered: False where the tokens are of several sequences, mixed, so that
    a token's neighbour is not known.
    """

    where: str
    ids: HostArray
    prompt: int | None = None
    sequence: int = 0
    ordered: bool = True


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
    for each sequence, or None. top_k: K, or None where the arrays say it.
    """

    experts: int
    layers: tuple[int, ...] | None
    phase: Phase
    prompts: tuple[int, ...] | None = None
    top_k: int | None = None


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
    tally = _Tally(reading, dict(model), settings)
    seen: dict[str, Path] = {}
    for name, members in domains:
        paths = [path for file in members for path in files_in(file.path)]
        sha = _sha256(paths, seen)
        missing, tokens = tally.add_domain(sha, paths, read)
        padding = f"{missing} of {tokens} positions without ids left out" if missing else "none"
        tally.sources[sha] = source_facts(name, form, padding)
    return tally.finished()


def _sha256(paths: Sequence[Path], seen: dict[str, Path]) -> str:
    """Of the file, or of the hashes of several; raises `DataError` for a file that was ``seen``."""
    digests = []
    for path in paths:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}).") from error
        if digest in seen:
            raise DataError(f"{seen[digest]} and {path} are the same file: its sequences would count twice.")
        seen[digest] = path
        digests.append(digest)
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class _Tally:
    """Statistics in the making, `BATCH` tokens at a time."""

    def __init__(self, reading: Reading, model: Json, settings: Facts) -> None:
        self.reading = reading
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
        ids, where = recorded.ids, recorded.where
        _check_array(ids, where)
        if self._stats is None:
            self._width, top_k = ids.shape[1:]
            _check_top_k(top_k, self.reading, where)
            self._stats = self._empty(columns(ids, self.reading.layers, where), top_k, recorded.ordered)
        if ids.shape[1:] != (self._width, self._stats.specs[0].top_k):
            raise DataError(
                f"{where} has {ids.shape[1]} layers with {ids.shape[2]} experts a token, the sequences before it have "
                f"{self._width} with {self._stats.specs[0].top_k}: import files of one model."
            )
        prompt = self._prompt(recorded)
        self._sequences += 1
        position = np.arange(len(ids))
        if prompt is not None and self.reading.phase != "unsplit":
            part = slice(prompt) if self.reading.phase == "prefill" else slice(prompt, None)
            ids, position = ids[part], position[part]
        layers = [spec.layer for spec in self._stats.specs]
        chosen = ids[:, columns(recorded.ids, self.reading.layers, where)].astype(np.int64)
        there = (chosen != MISSING).any(axis=(1, 2))
        _check_ids(chosen[there], position[there], layers, self.reading.experts, where)
        return _Part(cluster, chosen[there], position[there], int((~there).sum()), recorded.ordered)

    def _prompt(self, recorded: Recorded) -> int | None:
        lengths = self.reading.prompts
        if lengths is None:
            prompt = recorded.prompt
        elif recorded.prompt is not None:
            raise DataError(f"{recorded.where} tells the length of its prompt: leave --prompt-tokens out.")
        else:
            prompt = lengths[min(self._sequences, len(lengths) - 1)]
        if prompt is not None and prompt > len(recorded.ids):
            raise DataError(f"{recorded.where} has {len(recorded.ids)} tokens, fewer than its prompt of {prompt}.")
        return prompt

    def _empty(self, chosen: Sequence[int], top_k: int, ordered: bool) -> RoutingStats:
        specs = routers_of(self.reading.layers or tuple(chosen), self.reading.experts, top_k)
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


def columns(ids: HostArray, layers: tuple[int, ...] | None, where: str) -> list[int]:
    """Which columns of ids [T, L, K] are the layers: all, or of an array with every block those that are named."""
    width = ids.shape[1]
    if layers is None or len(layers) == width:
        return list(range(width))
    if len(layers) < width and max(layers) < width:
        return list(layers)
    raise DataError(
        f"{where} has {width} layers, which --layers does not fit: it names {len(layers)}, the last of them "
        f"{max(layers)}; name each of the {width}, or those of blocks 0 to {width - 1} that have a router."
    )


def _check_array(ids: HostArray, where: str) -> None:
    if ids.ndim != 3:
        raise DataError(f"{where} has the shape {list(ids.shape)}: routed experts are [tokens, layers, K].")
    if ids.dtype.kind not in "iu":
        raise DataError(f"{where} holds {ids.dtype}, and expert ids are whole numbers: save them as int16.")
    if not ids.size:
        raise DataError(f"{where} is empty: its shape is {list(ids.shape)}.")


def _check_top_k(top_k: int, reading: Reading, where: str) -> None:
    if reading.top_k not in (None, top_k):
        raise DataError(f"{where} has {top_k} experts a token, but --top-k says {reading.top_k}.")
    if top_k > reading.experts:
        raise DataError(f"{where} has {top_k} experts a token, but there are {reading.experts}: check --experts.")


def _check_ids(
    ids: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
    layers: Sequence[int],
    experts: int,
    where: str,
) -> None:
    """Raise `DataError` unless every token [K] of ids [T, L, K] has K different experts below E."""
    low, high = ids < 0, ids >= experts
    ordered = np.sort(ids, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    bad = low.any(axis=-1) | high.any(axis=-1) | twice
    if not bad.any():
        return
    token, layer = _first_bad(ids, bad, layers, where)
    what = f"{where} has, at token {position[token]} and layer {layers[layer]},"
    if high[token, layer].any():
        raise DataError(f"{what} expert {ids[token, layer].max()}, but there are {experts} from 0 on: check --experts.")
    if low[token, layer].any():
        raise DataError(
            f"{what} the id {ids[token, layer].min()}: only {MISSING} stands for no id, and only in all layers."
        )
    raise DataError(f"{what} the same expert twice, {ids[token, layer].tolist()}: a token chooses an expert once.")


def _first_bad(ids: npt.NDArray[np.int64], bad: Mask, layers: Sequence[int], where: str) -> tuple[int, int]:
    """(token, place of its layer) of what is ``bad`` [T, L] in a layer that has a router, else of what is anywhere.

    Raises `DataError` where it is only layers that never had one, or all of them.
    """
    idle = [n for n in range(len(layers)) if (ids[:, n] == ids[0, n, 0]).all() and ids[0, n, 0] in (0, MISSING)]
    if idle and len(idle) == len(layers):
        raise DataError(
            f"{where} has the id {ids[0, 0, 0]} everywhere: the engine recorded nothing, as with MoE kernels that "
            "choose experts by themselves; record again with another MoE backend."
        )
    if idle and not np.delete(bad, idle, axis=1).any():
        rest = ",".join(str(layer) for n, layer in enumerate(layers) if n not in idle)
        raise DataError(
            f"{where} has the same id in every token of layer{'' if len(idle) == 1 else 's'} "
            f"{', '.join(str(layers[n]) for n in idle)}, as blocks without a router have: leave them out with "
            f"--layers {rest}."
        )
    # What is wrong in a layer that has a router says more than what is wrong in one that may have none.
    token, layer = min(np.argwhere(bad).tolist(), key=lambda at: (at[1] in idle, at))
    return token, layer
