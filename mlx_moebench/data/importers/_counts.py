"""Counts of selections per layer and expert, as statistics of one cluster per file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...environment import host_environment
from ...errors import DataError
from ...pair.stats import RoutingStats
from ...routing.record import Phase, RouterSpec
from ...routing.sums import Sums
from ...types import Facts, Json
from . import NamedFile
from ._arrays import file_bytes
from ._ranks import Layers, added, check_no_ranks, rank_of

EXACT = 2**53
"""Above this float64, in which sums are kept, does not count every whole number."""


def routers_of(layers: Sequence[int], experts: int, top_k: int) -> list[RouterSpec]:
    """The routers of these layers, one each, of which nothing says how they make p."""
    return [RouterSpec(layer, n, "mlp", experts, top_k, distribution=None) for n, layer in enumerate(layers)]


def statistics_of_counts(
    files: Sequence[NamedFile],
    read: Callable[[Path], Layers],
    specs: Callable[[Sequence[int]], Sequence[RouterSpec]],
    *,
    top1: Path | None,
    model: Facts,
    form: str,
    phase: Phase,
    ranks: bool = False,
    **settings: Any,
) -> RoutingStats:
    """Statistics of count files, each of which is one domain and one cluster.

    read: the counts of a file. specs: the routers of its layers. top1: a folder with a file of first choices for each,
    of the same name and form, or that file where there is one only. ranks: the files are those of the ranks of one run,
    and their sum is the one domain. What counts do not tell is NaN: everything of the logits, of single tokens and of
    single sequences.

    Raises `DataError` for counts that no T tokens with K distinct experts each can give.
    """
    if not files:
        raise DataError("There are no files to import.")
    domains: list[tuple[str, str, Path, Layers, Layers | None, list[str]]]
    if ranks:
        if top1:
            raise DataError(
                "--top1 names first choices of one file each, and --ranks adds the files: leave one of them out."
            )
        sha = _sha256s(files)
        layers, notes = added(files, read)
        domains = [(sha, _run_name(files), files[0].path, layers, None, notes)]
    else:
        check_no_ranks(files)
        domains = [
            (sha, file.name, file.path, read(file.path), read(_beside(file, top1, len(files))) if top1 else None, [])
            for file, sha in zip(files, _different(files), strict=True)
        ]
    stats: RoutingStats | None = None
    facts = {"revision": None, "dtype": None, "weight_bits": None, "router_bits": None, "backend": "counts", **model}
    for sha, name, path, layers, first, notes in domains:
        routers = tuple(specs(sorted(layers)))
        if stats is None:
            stats = RoutingStats(routers, phase=phase, model=facts, environment=host_environment(), **settings)
        if routers != stats.specs:
            raise DataError(
                f"{path} has layers {sorted(layers)}, but {files[0].path} has {[s.layer for s in stats.specs]}: "
                "import files of one model, with the same layers."
            )
        stats.sources[sha] = source_facts(name, form, "not known: counts only", notes)
        _add(stats, (sha, 0), path, layers, first)
    assert stats is not None
    stats.check()
    return stats


def _different(files: Sequence[NamedFile]) -> list[str]:
    """The hash of each file; raises `DataError` where two are equal."""
    seen: dict[str, str] = {}
    for file in files:
        sha = hashlib.sha256(file_bytes(file.path)).hexdigest()
        if sha in seen:
            raise DataError(f"{seen[sha]} and {file.name} are the same file: every domain needs its own.")
        seen[sha] = file.name
    return list(seen)


def _sha256s(files: Sequence[NamedFile]) -> str:
    """Of the hashes of all files, in whatever order they are named."""
    each = sorted(hashlib.sha256(file_bytes(file.path)).hexdigest() for file in files)
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _run_name(files: Sequence[NamedFile]) -> str:
    """The name that was given to the files, or what their names have in common before the rank."""
    name = files[0].name
    if name != files[0].path.stem or rank_of(files[0].path) is None:
        return name
    return re.split(r"[_.-]*(?:rank|r)[_.-]?\d", name, maxsplit=1, flags=re.IGNORECASE)[0] or "ranks"


def source_facts(name: str, form: str, padding: str, notes: Sequence[str] = ()) -> Json:
    """What is known of data that another program read; ``notes``: what was left out of it, or added up."""
    facts = {"name": name, "format": form, "field": None, "max_length": None, "padding": padding, "bos": None}
    return facts | {"imported": list(notes)} if notes else facts


def _beside(file: NamedFile, top1: Path, files: int) -> Path:
    path = top1 / file.path.name if top1.is_dir() else top1
    if not path.is_file():
        raise DataError(f"There are no first choices for {file.path}: no file {path}.")
    if files > 1 and not top1.is_dir():
        raise DataError(f"{top1} is one file, but {files} are imported: give the folder that has one for each.")
    return path


def _add(stats: RoutingStats, cluster: tuple[str, int], path: Path, layers: Layers, first: Layers | None) -> None:
    if first is not None and sorted(first) != sorted(layers):
        raise DataError(f"The first choices for {path} are of layers {sorted(first)} instead of {sorted(layers)}.")
    tokens: int | None = None
    for number, spec in enumerate(stats.specs):
        what = f"Layer {spec.layer} of {path}"
        counts = _vector(layers[spec.layer], spec, what)
        each, rest = divmod(int(counts.sum()), spec.top_k)
        if not counts.any():
            raise DataError(f"{what} has 0 selections: check the file, or leave it out.")
        if rest:
            raise DataError(
                f"{what} has {int(counts.sum())} selections, which is not a number of tokens times {spec.top_k}: "
                "check --top-k."
            )
        if counts.max() > each:
            raise DataError(
                f"{what} has {each} token{'' if each == 1 else 's'}, but an expert with {int(counts.max())} of them: a "
                "token chooses an expert once, so check --top-k."
            )
        if each != (tokens := tokens or each):
            raise DataError(f"{what} has {each} tokens, but the layers before it have {tokens}.")
        chosen = None if first is None else _first_choices(first[spec.layer], spec, what, counts, each)
        sums = Sums.from_counts(counts[None], [each], spec.top_k, None if chosen is None else chosen[None])
        stats.add_sums(number, [cluster], sums, np.zeros((spec.n_experts, spec.n_experts)))


def _first_choices(
    counted: Mapping[int, int], spec: RouterSpec, what: str, counts: npt.NDArray[np.int64], tokens: int
) -> npt.NDArray[np.int64]:
    chosen = _vector(counted, spec, f"Among the first choices, {what[0].lower()}{what[1:]}")
    if int(chosen.sum()) != tokens or (chosen > counts).any():
        raise DataError(
            f"{what} has {tokens} tokens, but the first choices given for it are {int(chosen.sum())}, or some expert "
            "is first more often than it is chosen: they are of another run."
        )
    return chosen


def _vector(counted: Mapping[int, int], spec: RouterSpec, what: str) -> npt.NDArray[np.int64]:
    """Counts [E]; the number of experts is the model's, never that of the largest id."""
    wrong = [expert for expert in counted if not 0 <= expert < spec.n_experts]
    if wrong:
        raise DataError(f"{what} counts expert {wrong[0]}, but there are {spec.n_experts} from 0 on: check --experts.")
    negative = [expert for expert, count in counted.items() if count < 0]
    if negative:
        raise DataError(f"{what} has a negative count for expert {negative[0]}.")
    if sum(counted.values()) > EXACT:
        raise DataError(
            f"{what} counts {sum(counted.values())} selections, more than the 2^53 that are counted exactly: check "
            "the file, or import parts of it and compare those."
        )
    vector = np.zeros(spec.n_experts, dtype=np.int64)
    vector[list(counted)] = list(counted.values())
    return vector
