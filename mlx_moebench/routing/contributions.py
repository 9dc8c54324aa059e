"""What each expert adds to a block's output: norms, weighted norms, peaks, and how alike the outputs of a token are.

Sources: REAP and EAN as in Lasby et al. 2025 (arXiv 2510.13999); super-experts as in Su et al. 2025 (arXiv 2507.23279),
whose largest output stands far above the layer's others; gate entropy and sorted weights as in Chernov 2025 (arXiv
2502.17187).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from array_api_compat import array_namespace
from scipy.special import entr

from .record import Array, Integers, Mask, Reals

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TokenOutputs:
    """What the K chosen experts of each of P tokens returned, reduced, still on the device.

    products [P, K, K]: y_a . y_b. peaks [P, K]: the largest absolute number of y.
    """

    products: Array
    peaks: Array

    def arrays(self) -> list[Array]:
        """Everything to evaluate before it is read on the host."""
        return [self.products, self.peaks]


def token_outputs(outputs: Array) -> TokenOutputs:
    """Reduce outputs [P, K, D] of the chosen experts, without their weights.

    One product and two reductions: what is read of D numbers is not written again.
    """
    xp = array_namespace(outputs)
    y = xp.astype(outputs, xp.float32)
    peaks = xp.maximum(xp.max(y, axis=-1), -xp.min(y, axis=-1))
    return TokenOutputs(xp.matmul(y, xp.matrix_transpose(y)), peaks)


SUMS = ("tokens", "weight", "norm", "weighted_norm")
"""Of an expert: tokens that chose it, and over those the sums of g, of |y| (EAN) and of g |y|."""

UNIT_SUMS = ("tokens", "entropy", "entropy_squared", "pairs", "signed", "relu")
"""Of a unit of resampling: tokens; H(g / sum g) and its square; tokens with two experts or more, and over those the
mean cosine of their pairs, and of the same with each cosine at least 0."""


@dataclass
class ContributionSums:
    """Sums of one router's experts over N units of resampling; nothing in it grows with the tokens.

    is_expert, own [R]: False for columns without weights of their own (zero, copy, constant and null experts), whose
    outputs are not looked at. scales_input: g has multiplied what the experts got, so that g |y| is |y|.
    experts [4, R]: each of `SUMS`. units [N, 6]: each of `UNIT_SUMS`. sorted_weights [K]: sums of g / sum g, largest
    first. pairs [2, R, R]: tokens that chose both, and sums of their outputs' cosines. peak [R]: the largest absolute
    number that an expert returned, 0 for one that nobody chose. chosen [N, R]: whether a unit chose it at all.
    """

    n_experts: int
    top_k: int
    n_units: int
    is_expert: Mask | None = None
    scales_input: bool = False
    own: Mask = field(init=False)
    experts: Floats = field(init=False)
    units: Floats = field(init=False)
    sorted_weights: Floats = field(init=False)
    pairs: Floats = field(init=False)
    peak: Floats = field(init=False)
    chosen: Mask = field(init=False)

    def __post_init__(self) -> None:
        r = self.n_experts
        self.experts, self.units = np.zeros((len(SUMS), r)), np.zeros((self.n_units, len(UNIT_SUMS)))
        self.sorted_weights, self.pairs, self.peak = np.zeros(self.top_k), np.zeros((2, r, r)), np.zeros(r)
        self.chosen = np.zeros((self.n_units, r), dtype=np.bool_)
        self.own = np.ones(r, dtype=np.bool_) if self.is_expert is None else self.is_expert

    def add(self, unit: Integers, indices: Integers, weights: Reals, products: Reals, peaks: Reals) -> None:
        """Count P tokens: unit [P] of each; indices, weights and peaks [P, K]; products [P, K, K].

        Raises `ValueError` where a gate weight, or what an expert returned, is not finite.
        """
        if not len(unit):
            return
        if not np.isfinite(weights).all():
            raise ValueError("the router gave weights that are not finite")
        counts = self.own[indices]
        squares = np.einsum("pkk->pk", products).astype(np.float64)
        if not np.isfinite(squares[counts]).all():
            raise ValueError("an expert returned numbers that are not finite")
        norms = np.sqrt(np.where(counts, np.maximum(squares, 0.0), 0.0))
        g = weights.astype(np.float64)
        weighted = norms if self.scales_input else g * norms
        for row, values in zip(self.experts, (None, g, norms, weighted), strict=True):
            of = None if values is None else values.ravel()
            row += np.bincount(indices.ravel(), weights=of, minlength=self.n_experts)
        np.maximum.at(self.peak, indices[counts], peaks[counts])
        self.chosen[np.repeat(unit, indices.shape[1]), indices.ravel()] = True
        total = g.sum(axis=1, keepdims=True)
        share = g / np.where(total > 0, total, 1.0)
        self.sorted_weights += -np.sort(-share, axis=1).sum(axis=0)
        self._add_units(unit, entr(np.maximum(share, 0.0)).sum(axis=1), *self._add_pairs(indices, norms, products))

    def _add_pairs(self, indices: Integers, norms: Floats, products: Reals) -> tuple[Floats, Floats, Floats]:
        """[P] whether a token has pairs of experts, and the mean cosine of them, signed and at least 0."""
        sizes = norms[:, :, None] * norms[:, None, :]
        cosines = np.where(sizes > 0, products / np.where(sizes > 0, sizes, 1.0), 0.0)
        counts = self.own[indices]
        both = counts[:, :, None] & counts[:, None, :]
        both[:, np.arange(indices.shape[1]), np.arange(indices.shape[1])] = False
        cosines = np.where(both, cosines, 0.0)
        flat = (indices[:, :, None] * self.n_experts + indices[:, None, :])[both]
        for of_pair, values in zip(self.pairs, (None, cosines[both]), strict=True):
            of_pair += np.bincount(flat, weights=values, minlength=self.n_experts**2).reshape(of_pair.shape)
        n = both.sum(axis=(1, 2))
        signed, relu = (c.sum(axis=(1, 2)) / np.maximum(n, 1) for c in (cosines, np.maximum(cosines, 0.0)))
        return (n > 0).astype(np.float64), signed, relu

    def _add_units(self, unit: Integers, entropy: Floats, pairs: Floats, signed: Floats, relu: Floats) -> None:
        values = (None, entropy, entropy**2, pairs, signed, relu)
        for column, of_token in enumerate(values):
            self.units[:, column] += np.bincount(unit, weights=of_token, minlength=self.n_units)

    def total(self, name: str) -> Floats:
        """[R] one of `SUMS` over all tokens."""
        row: Floats = self.experts[SUMS.index(name)]
        return row

    def of_units(self, name: str) -> Floats:
        """[N] one of `UNIT_SUMS`."""
        return self.units[:, UNIT_SUMS.index(name)]

    @property
    def n_tokens(self) -> int:
        """Tokens counted."""
        return int(self.of_units("tokens").sum())

    @property
    def frequency(self) -> Floats:
        """[R] share of tokens that chose an expert."""
        return self.total("tokens") / max(self.n_tokens, 1)

    @property
    def reap(self) -> Floats:
        """[R] mean of g |y| over an expert's tokens; NaN for one that nobody chose."""
        tokens = self.total("tokens")
        return self.total("weighted_norm") / np.where(tokens > 0, tokens, np.nan)

    @property
    def ean(self) -> Floats:
        """[R] sum of |y| over an expert's tokens."""
        return self.total("norm")

    @property
    def pair_similarity(self) -> Floats:
        """[R, R] mean cosine of two experts' outputs over the tokens that chose both; NaN where none did."""
        tokens, cosines = self.pairs
        return np.asarray(cosines / np.where(tokens > 0, tokens, np.nan))

    def super_experts(self, times: float = 10.0) -> tuple[float, list[int]]:
        """(threshold, experts whose peak is above it): ``times`` the median peak of the experts that were chosen.

        The threshold is NaN where none was.
        """
        used = self.peak[self.peak > 0]
        threshold = float(times * np.median(used)) if len(used) else float("nan")
        return threshold, np.nonzero(self.peak > threshold)[0].tolist()
