"""Dumps of SGLang's expert distribution recorder, as counts or as sequences; `sglang` has their form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...routing.record import Phase
from ...types import HostArray
from ._arrays import RESPONSES, Array, arrays_of, integers, json_of, summed
from ._ids import Recorded
from ._ranks import Layers
from ._valid import MISSING

STAT = "logical_count"
PER_PASS = "global_physical_count"
PER_TOKEN = "topk_ids_of_layer"
MAP = "last_physical_to_logical_map"

EXTEND, DECODE = 1, 2
"""``forward_mode`` of a pass over prompts, and of one that adds a token to each of several requests."""

OTHER = {"prefill": DECODE, "decode": EXTEND}

Record = Mapping[str, Array]


def counts_of(path: Path, experts: int, layers: tuple[int, ...] | None) -> Layers:
    """{layer: {expert: count}} of a dump of mode stat, stat_approx or per_pass, or of JSON, summed over its steps."""
    table = _table(path, experts)
    if table.ndim != 2 or table.dtype.kind not in "iu" or not table.size:
        raise DataError(
            f"{path} has no counts [layers, experts] of whole numbers, but {table.dtype} {list(table.shape)}."
        )
    width, counted = table.shape
    if counted != experts:
        raise DataError(f"{path} counts {counted} experts a layer, but --experts says {experts}.")
    numbers = layers or tuple(range(width))
    if len(numbers) != width and max(numbers) >= width:
        raise DataError(f"{path} has {width} layers, which --layers does not fit: its last is {max(numbers)}.")
    rows = dict(zip(numbers, table if len(numbers) == width else table[list(numbers)], strict=True))
    _check_routers([layer for layer, row in rows.items() if not row.any()], numbers, path)
    return {layer: dict(enumerate(row.tolist())) for layer, row in rows.items()}


def _check_routers(empty: list[int], layers: Sequence[int], path: Path) -> None:
    """Raises `DataError` where some of the layers are ``empty``, but not all of them."""
    if empty and len(empty) < len(layers):
        rest = ",".join(str(layer) for layer in layers if layer not in empty)
        raise DataError(
            f"{path} has no count in layer{'' if len(empty) == 1 else 's'} {', '.join(map(str, empty))}, as blocks "
            f"without a router have none: leave them out with --layers {rest}."
        )


def _table(path: Path, experts: int) -> Array:
    """Selections [layers, logical experts]."""
    if path.suffix.lower() in RESPONSES:
        counts = integers(json_of(path)[STAT], str(path))
        return summed(counts, str(path)) if counts.ndim == 3 else summed(counts[None], str(path))
    arrays = arrays_of(path)
    if STAT in arrays:
        return summed(arrays[STAT] if arrays[STAT].ndim == 3 else arrays[STAT][None], str(path))
    physical = [_field(record, PER_PASS, f"pass {n} of {path}") for n, record in _records(arrays)]
    if len({counts.shape for counts in physical}) != 1 or physical[0].ndim != 2:
        raise DataError(f"{path} has passes whose counts are not all [layers, physical experts] of one shape.")
    total = summed(np.stack(physical), str(path))
    if MAP not in arrays:
        return np.asarray(total)
    place = _map(arrays, len(total), path)
    if place.shape != total.shape or place.max(initial=0) >= experts:
        raise DataError(
            f"{path} maps {place.shape[1]} physical experts, of which it counts {total.shape[1]}, to the logical ones "
            f"up to {place.max(initial=0)}, but --experts says {experts}."
        )
    logical = np.zeros((len(total), experts), dtype=total.dtype)
    np.add.at(logical, (np.arange(len(total))[:, None], place), total)
    return logical


def sequences_of(path: Path, top_k: int, phase: Phase) -> list[Recorded]:
    """What a dump of mode per_token tells of one phase.

    Prefill: a stretch of each request and pass is a sequence; where one goes on where a stretch of the pass before it
    ended, as chunks of a long prompt do, both are one cluster. Decode and unsplit: tokens of unknown requests, which
    are one cluster together. Raises `DataError` for passes that mix the phases, when only one of them is wanted.
    """
    arrays = arrays_of(path)
    stretches: list[Recorded] = []
    sequences = 0
    ends: dict[int, int] = {}  # of the pass before: where its stretches ended, and which sequences they are of
    for number, record in _records(arrays):
        where = f"pass {number} of {path}"
        ids = _logical(_field(record, PER_TOKEN, where), arrays, top_k, where, path)
        mode = _field(record, "forward_mode", where).tolist()
        if not len(ids) or mode == OTHER.get(phase):
            continue
        if phase != "unsplit" and mode not in (EXTEND, DECODE):
            raise DataError(
                f"{where} is of forward_mode {mode}, neither prefill ({EXTEND}) nor decode ({DECODE}): import all with "
                "--phase unsplit, or record without speculative decoding and mixed chunks."
            )
        if phase == "prefill":
            before, ends = ends, {}
            for start, part in _stretches(record, ids, where):
                # A prefix from the cache may end there, too: one cluster too few is safer than one too many.
                sequence = before.get(start, sequences) if start else sequences
                sequences = max(sequences, sequence + 1)
                ends[start + len(part)] = sequence
                stretches.append(Recorded(where, part, sequence=sequence))
        else:
            stretches.append(Recorded(where, ids, ordered=False))
    return stretches


def _stretches(record: Record, ids: HostArray, where: str) -> Iterator[tuple[int, HostArray]]:
    """(position of its first token, ids) of every request in a prefill pass; what is padded behind them has no ids."""
    lengths, positions = (_field(record, name, where).ravel() for name in ("extend_seq_lens", "positions"))
    if lengths.dtype.kind not in "iu" or positions.dtype.kind not in "iu" or len(positions) < len(ids):
        raise DataError(f"{where} has extend_seq_lens or positions that are not whole numbers: convert the dump again.")
    ends = np.cumsum(lengths)
    if (lengths < 0).any() or ends[-1:].sum() > len(ids) or (ids[ends[-1:].sum() :] != MISSING).any():
        raise DataError(f"{where} has ids of {len(ids)} tokens, but sequences of {int(lengths.sum())} in all.")
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        if length:
            yield int(positions[end - length]), ids[end - length : end]


def _records(arrays: Mapping[str, Array]) -> Iterator[tuple[int, dict[str, Array]]]:
    """(number, record) of each pass, in their order."""
    records: dict[int, dict[str, Array]] = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"(\d+)\.(\w+)", name):
            records.setdefault(int(match[1]), {})[match[2]] = array
    yield from sorted(records.items())


def _field(record: Record, name: str, where: str) -> Array:
    if name not in record:
        raise DataError(f"{where} has no {name}: convert the dump again, or record with another mode.")
    return record[name]


def _logical(physical: Array, arrays: Mapping[str, Array], top_k: int, where: str, path: Path) -> npt.NDArray[np.int64]:
    """Logical ids [tokens, layers, K] of physical ones [layers, tokens, slots], of which those beyond K are empty."""
    if physical.ndim != 3 or physical.dtype.kind not in "iu":
        raise DataError(
            f"{where} has ids of shape {list(physical.shape)} and {physical.dtype}: convert the dump again."
        )
    if physical.shape[2] < top_k or (physical[..., top_k:] != MISSING).any():
        raise DataError(f"{where} does not have {top_k} experts a token: check --top-k.")
    ids = physical[..., :top_k].astype(np.int64)
    if MAP in arrays:
        place = _map(arrays, len(ids), path)
        if ids.max(initial=0) >= place.shape[1] or ids.min(initial=0) < MISSING:
            raise DataError(f"{where} names physical expert {ids.max()}, but there are {place.shape[1]} from 0 on.")
        there = np.take_along_axis(place, np.maximum(ids, 0).reshape(len(ids), -1), axis=1).reshape(ids.shape)
        ids = np.where(ids == MISSING, MISSING, there)
    return ids.transpose(1, 0, 2)


def _map(arrays: Mapping[str, Array], layers: int, path: Path) -> npt.NDArray[np.int64]:
    """The logical expert [layers, physical experts] that each physical one is a copy of."""
    place = arrays[MAP]
    if place.ndim != 2 or len(place) != layers or place.dtype.kind not in "iu" or place.min(initial=0) < 0:
        raise DataError(f"{path} has a {MAP} of shape {list(place.shape)}, which does not fit its {layers} layers.")
    return place.astype(np.int64)
