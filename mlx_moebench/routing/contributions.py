"""What each expert adds to a block's output: norms, weighted norms, peaks, and how alike the outputs of a token are.

Sources: REAP and EAN as in Lasby et al. 2025 (arXiv 2510.13999); super-experts as in Su et al. 2025 (arXiv 2507.23279),
whose largest output stands far above the layer's others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace

from ..types import HostArray
from .record import Array, Integers, Mask, Reals


@dataclass(frozen=True)
class TokenOutputs:
    """What the K chosen experts of each token returned, reduced, still on the device.

    norms [B, S, K]: |y|, Euclidean. peaks [B, S, K]: the largest absolute number of y. signed, relu [B, S]: mean cosine
    over the K (K - 1) / 2 pairs of a token's outputs, and of the same with each cosine at least 0; 0 where K is 1. An
    output of zeros has cosine 0 with any other.
    """

    norms: Array
    peaks: Array
    signed: Array
    relu: Array

    def arrays(self) -> list[Array]:
        """Everything to evaluate before it is read on the host."""
        return [self.norms, self.peaks, self.signed, self.relu]


def token_outputs(outputs: Array) -> TokenOutputs:
    """Reduce outputs [B, S, K, D] of the chosen experts, without their weights."""
    xp = array_namespace(outputs)
    y = xp.astype(outputs, xp.float32)
    norms = xp.sqrt(xp.sum(y * y, axis=-1))
    unit = y / xp.where(norms > 0, norms, xp.zeros_like(norms) + 1)[..., None]
    cosines = xp.matmul(unit, xp.matrix_transpose(unit))
    k = outputs.shape[-2]
    apart = 1.0 - xp.eye(k, dtype=xp.float32)
    pairs = max(k * (k - 1), 1)
    signed, relu = (xp.sum(c * apart, axis=(-2, -1)) / pairs for c in (cosines, xp.maximum(cosines, cosines * 0)))
    return TokenOutputs(norms, xp.max(xp.abs(y), axis=-1), signed, relu)


SUMS = ("tokens", "weight", "norm", "weighted_norm")
"""Of an expert: tokens that chose it, and over those the sums of g, of |y| (EAN) and of g |y|."""


@dataclass
class ContributionSums:
    """Sums of one router's experts, of N sequences.

    experts [N, 4, R]: each of `SUMS`. similarity [N, 2]: sums over tokens of `TokenOutputs.signed` and ``relu``; tokens
    [N]. peak [R]: the largest absolute number that an expert returned, 0 for one that nobody chose.
    """

    n_experts: int
    keys: list[int] = field(default_factory=list)
    experts: list[npt.NDArray[np.float64]] = field(default_factory=list)
    similarity: list[npt.NDArray[np.float64]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peak = np.zeros(self.n_experts)
        self._places: dict[int, int] = {}

    def add(
        self,
        keys: tuple[int, ...],
        mask: Mask,
        indices: Integers,
        weights: Reals,
        outputs: TokenOutputs,
        host: Callable[[Array], HostArray],
    ) -> None:
        """Count a batch: keys [B] name its sequences, of which one may come in several rows; mask [B, S]; indices and
        weights [B, S, K]. What is not finite raises `ValueError`."""
        norms, peaks = host(outputs.norms).astype(np.float64), host(outputs.peaks)
        alike = np.stack([host(outputs.signed), host(outputs.relu)], axis=-1).astype(np.float64)
        if not np.isfinite(norms[mask]).all():
            raise ValueError("an expert returned numbers that are not finite")
        np.maximum.at(self.peak, indices[mask], peaks[mask])
        for row, key in enumerate(keys):
            valid = mask[row]
            chosen, g, norm = (array[row][valid].ravel() for array in (indices, weights, norms))
            values = (np.ones_like(norm), g, norm, g * norm)
            sums = np.stack([np.bincount(chosen, weights=v, minlength=self.n_experts) for v in values])
            self._add(key, sums, alike[row][valid].sum(axis=0), int(valid.sum()))

    def _add(self, key: int, sums: HostArray, alike: HostArray, tokens: int) -> None:
        place = self._places.setdefault(key, len(self.keys))
        if place == len(self.keys):
            self.keys.append(key)
            self.experts.append(np.zeros((len(SUMS), self.n_experts)))
            self.similarity.append(np.zeros(2))
            self.tokens.append(0)
        self.experts[place] += sums
        self.similarity[place] += alike
        self.tokens[place] += tokens

    def total(self, name: str) -> npt.NDArray[np.float64]:
        """[R] one of `SUMS` over all sequences."""
        place, total = SUMS.index(name), np.zeros(self.n_experts)
        for one in self.experts:
            total += one[place]
        return total

    @property
    def reap(self) -> npt.NDArray[np.float64]:
        """[R] mean of g |y| over an expert's tokens; NaN for one that nobody chose."""
        tokens = self.total("tokens")
        return self.total("weighted_norm") / np.where(tokens > 0, tokens, np.nan)

    @property
    def ean(self) -> npt.NDArray[np.float64]:
        """[R] sum of |y| over an expert's tokens."""
        return self.total("norm")

    def super_experts(self, times: float = 10.0) -> list[int]:
        """Experts whose peak is above ``times`` the median peak of the router's chosen experts."""
        used = self.peak[self.peak > 0]
        return np.nonzero(self.peak > times * np.median(used))[0].tolist() if len(used) else []
