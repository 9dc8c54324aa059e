"""The weights of a layer's experts: how alike those of two experts are, and one expert in the place of two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from ..errors import MoebenchError
from ..instrument.capture import experts_of, routers_of
from ..instrument.models import family_of
from ..routing.record import Array
from ..types import HostArray

CHUNK = 2**28
"""Bytes of weights that are unpacked at once."""


class Held(NamedTuple):
    """A parameter of all E experts of a router: [E, ...]."""

    module: nn.Module
    key: str

    @property
    def array(self) -> Array:
        return self.module[self.key]


def weight_similarity(model: nn.Module) -> list[npt.NDArray[np.float64] | str]:
    """Of each router [E, E]: the cosine of two experts' weights, all matrices and biases of an expert as one vector.

    Hidden units of an expert may stand in any order, so that experts that compute the same need not have a cosine of
    1. Where an adapter changes the experts, the reason why there is none.
    """
    return [_cosines(module, one_by_one, n) for module, one_by_one, n in _experts(model)]


def _experts(model: nn.Module) -> Iterator[tuple[nn.Module, str, int]]:
    """(the module that runs the experts, the list of them in it, how many have weights) of each router."""
    family = family_of(model)
    for module, spec in zip(experts_of(model), routers_of(model), strict=True):
        n = spec.n_experts if spec.kinds is None else spec.kinds.count("ffn")
        yield module, family.form(spec.router).one_by_one, n


def _cosines(module: nn.Module, one_by_one: str, n: int) -> npt.NDArray[np.float64] | str:
    if any("lora_a" in part for part in module.modules()):
        return "an adapter changes the experts; fuse it first"
    products = np.zeros((n, n))
    for rows in _rows(module, one_by_one, n):
        products += np.array((rows @ rows.T).astype(mx.float32), dtype=np.float64)
    norms = np.sqrt(np.diag(products))
    sizes = np.outer(norms, norms)
    return np.where(sizes > 0, products / np.where(sizes > 0, sizes, 1.0), 0.0)


def _rows(module: nn.Module, one_by_one: str, n: int) -> Iterator[Array]:
    """[E, some] float32 numbers of every expert, all of them in turn."""
    if one_by_one:
        from mlx.utils import tree_flatten

        every = [dict(tree_flatten(expert.parameters())) for expert in module[one_by_one]]
        for name in every[0]:
            yield mx.stack([one[name].reshape(-1).astype(mx.float32) for one in every])
        return
    for part, key in held(module, n):
        whole = part[key]
        packed = key == "weight" and "scales" in part
        each = max(1, CHUNK // (4 * whole.size // whole.shape[1] * (32 // part.bits if packed else 1)))
        for start in range(0, whole.shape[1], each):
            rows = slice(start, start + each)
            yield (_unpacked(part, rows) if packed else whole[:, rows]).reshape(n, -1).astype(mx.float32)


def held(module: nn.Module, n: int) -> list[Held]:
    """The weights and biases of all ``n`` experts that ``module`` runs together; scales of packed ones left out."""
    return [
        Held(part, key)
        for part in module.modules()
        for key in ("weight", "bias")
        if isinstance(array := part.get(key), mx.array) and array.ndim > 1 and array.shape[0] == n
    ]


def _unpacked(part: Any, rows: slice) -> Array:
    biases = part.get("biases")
    packing = {"group_size": part.group_size, "bits": part.bits, "mode": part.mode}
    return mx.dequantize(
        part.weight[:, rows], part.scales[:, rows], None if biases is None else biases[:, rows], **packing
    )


@contextmanager
def merged(model: nn.Module, number: int, pair: tuple[int, int], shares: Sequence[float]) -> Iterator[None]:
    """While it lasts, both experts of ``pair`` of router ``number`` compute what their weighted mean would.

    shares: the weight of each in the mean (by use, as in Li et al. 2024, arXiv 2310.01334). The router stays: a token
    that chooses both has the merged one twice, so its two weights add up. Raises `MoebenchError` for experts that are
    packed, called one by one, or under an adapter.
    """
    check_merging(model)
    module, _, n = list(_experts(model))[number]
    parts = held(module, n)
    first, second = pair
    share = shares[0] / sum(shares) if sum(shares) else 0.5
    before = [part.array for part in parts]
    try:
        for (part, key), whole in zip(parts, before, strict=True):
            mean = (share * whole[first] + (1 - share) * whole[second]).astype(whole.dtype)
            both = mx.array([number in pair for number in range(n)]).reshape(n, *[1] * (whole.ndim - 1))
            part[key] = mx.where(both, mean[None], whole)
        yield
    finally:
        for (part, key), whole in zip(parts, before, strict=True):
            part[key] = whole


def check_merging(model: nn.Module) -> None:
    """Raise `MoebenchError` for experts that `merged` cannot make one of."""
    for module, one_by_one, n in _experts(model):
        packed = any("scales" in part or "lora_a" in part for part in module.modules())
        if one_by_one or packed or not held(module, n):
            raise MoebenchError(
                "Only experts whose weights are stored together, unpacked and without an adapter, can merge; list the "
                "pairs with --no-measure."
            )


def nearest_pairs(similarity: HostArray, most: int) -> list[tuple[int, int]]:
    """The ``most`` pairs (i < j) of [E, E] that are most alike, ties by number; those that are NaN are none."""
    i, j = np.triu_indices(len(similarity), 1)
    values = np.asarray(similarity, dtype=np.float64)[i, j]
    order = [k for k in np.lexsort((j, i, -values)).tolist() if np.isfinite(values[k])]
    return [(int(i[k]), int(j[k])) for k in order[:most]]
