"""Log-likelihoods from logits, in every library, against SciPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from mlx_moebench.measure.predictions import BLOCK, log_likelihoods


def on_mlx(array: np.ndarray) -> Any:
    return pytest.importorskip("mlx.core", reason="MLX is not installed").array(array)


def on_torch(array: np.ndarray) -> Any:
    return pytest.importorskip("torch", reason="the extra `torch` is not installed").tensor(array)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("convert", [np.asarray, on_mlx, on_torch], ids=["numpy", "mlx", "torch"])
@pytest.mark.parametrize("vocabulary", [2, BLOCK, BLOCK + 1, 4096, 50_000])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_log_likelihoods(convert: Callable[[np.ndarray], Any], vocabulary: int, offset: float) -> None:
    """Flat rows, whose sums lose most when they are added one by one, clear ones, and extreme logits."""
    rng = np.random.default_rng(vocabulary)
    spread = np.array([0.0, 0.01, 1.0, 5.0, 30.0])[:, None]
    logits = (rng.normal(size=(5, vocabulary)) * spread + offset).astype(np.float32)
    tokens = rng.integers(vocabulary, size=5).astype(np.int32)
    tokens[3] = logits[3].argmax()
    expected = log_softmax(logits.astype(np.float64), axis=-1)[np.arange(5), tokens]
    log_p, best = (np.asarray(a) for a in log_likelihoods(convert(logits), convert(tokens)))
    assert log_p.dtype == np.float32
    np.testing.assert_allclose(log_p, expected, rtol=2e-6, atol=2e-6)
    assert best.tolist() == (logits.argmax(axis=-1) == tokens).tolist()
    assert best[3]


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("convert", [np.asarray, on_mlx, on_torch], ids=["numpy", "mlx", "torch"])
def test_what_is_not_finite_stays_so(convert: Callable[[np.ndarray], Any]) -> None:
    logits = np.zeros((3, 5), np.float32)
    logits[0, 1], logits[1, 2], logits[2, 3] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        log_p, _ = log_likelihoods(convert(logits), convert(np.array([0, 0, 0])))
    assert np.isfinite(np.asarray(log_p)).tolist() == [False, False, True]
