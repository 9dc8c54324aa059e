"""What ids of tokens must be, whoever recorded them: [tokens, layers, K], K different ones below E in every layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...errors import DataError
from ...routing.record import Mask
from ...types import HostArray

MISSING = -1
"""The id that engines write where they recorded none: a prefix from the cache, a padded position, a dense block."""


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


def check_array(ids: HostArray, where: str) -> None:
    if ids.ndim == 4:
        raise DataError(
            f"{where} has the shape {list(ids.shape)}, of a trainer's batch, whose padding only its attention_mask "
            "tells: save both in a .npz for import rollouts."
        )
    if ids.ndim != 3:
        raise DataError(f"{where} has the shape {list(ids.shape)}: routed experts are [tokens, layers, K].")
    if ids.dtype.kind not in "iu":
        raise DataError(f"{where} holds {ids.dtype}, and expert ids are whole numbers: save them as int16.")
    if not ids.size:
        raise DataError(f"{where} is empty: its shape is {list(ids.shape)}.")


def check_range(ids: HostArray, last: int, where: str) -> None:
    """Raise `DataError` where the type of the ids ends below the ``last`` expert, or an id is beyond int64."""
    top = np.iinfo(ids.dtype).max
    if top < last:
        raise DataError(
            f"{where} holds {ids.dtype}, which ends at {top}, but the ids of --experts go to {last}: larger ones were "
            "cut off where the ids were narrowed (engines and trainers take uint8 for up to 256 experts); keep them "
            "as int16 or wider there and record again, or check --experts."
        )
    if ids.dtype.itemsize == 8 and ids.dtype.kind == "u" and int(ids.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{where} has the id {int(ids.max())}, which is no expert's: ids are small whole numbers.")


def check_ids(
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
