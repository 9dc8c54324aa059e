"""Which loads of a short text the demo colours: tests against enumerations and scipy's, and no glow of 7 tokens."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

pytest.importorskip("mlx.core", reason="needs MLX to route texts")

from mlx_moebench.demo.chance import against_even, apart, moved, stands_out
from mlx_moebench.demo.routed import Models, show


def test_p_values_are_scipys() -> None:
    chosen, others = np.array([0, 1, 3, 7, 9, 4]), np.array([2, 0, 3, 1, 9, 11])
    even = against_even(chosen, 12)
    for count, p in zip(chosen, even, strict=True):
        assert p == pytest.approx(binomtest(int(count), 12, 24 / (12 * 6)).pvalue)
    for a, b, p in zip(chosen, others, apart(chosen, others, (12, 15)), strict=True):
        assert p == pytest.approx(fisher_exact([[a, 12 - a], [b, 15 - b]]).pvalue)
    for a, b, p in zip(chosen, others, moved(chosen, others), strict=True):
        assert p == pytest.approx(binomtest(int(a), int(a + b), 0.5).pvalue if a + b else 1.0)


def test_nothing_to_test_is_nothing_found() -> None:
    assert against_even(np.array([0, 0]), 0).tolist() == [1.0, 1.0]
    assert not stands_out(np.full((2, 3), np.nan)).any()


def test_of_random_choices_hardly_ever_a_cell_stands_out() -> None:
    """With tokens that are independent the rate of pictures with any false cell is at most the level."""
    rng = np.random.default_rng(7)
    false = 0
    for _ in range(200):
        tokens, p = 24, []
        for _ in range(6):
            chosen = np.argsort(rng.random((tokens, 16)), axis=1)[:, :2]
            p.append(against_even(np.bincount(chosen.ravel(), minlength=16), tokens))
        false += bool(stands_out(np.array(p)).any())
    assert false <= 20  # 10 are expected at most


def test_a_text_that_is_one_token_again_and_again_stands_out() -> None:
    shown = show(Models(), "moebench-nano", "one text", ("the" + " the" * 59, ""), 64)
    assert shown.heatmap.count('class="real"') > 6
    found, cells = re.search(r"gives 60 tokens: ([\d,]+) of ([\d,]+) \(exact binomial", shown.heatmap).groups()  # type: ignore[union-attr]
    assert int(found) == shown.heatmap.count('class="real"')
    assert int(cells) == 6 * 16


def test_differences_of_seven_tokens_are_grey_and_say_how_few_they_are() -> None:
    shown = show(Models(), "moebench-nano", "two texts", ("Two experts for every", "def area(width): return"), 7)
    difference = shown.heatmap.split("<figcaption>")[3]
    assert difference.startswith("text B minus text A")
    assert 'class="real"' not in difference
    assert difference.count("chance gives as much</title>") == 6 * 16
    assert re.search(r"more than chance gives \d tokens and \d tokens: 0 of 96 \(Fisher", difference)
    assert "no interval" in shown.table
    assert shown.table.count("7 tokens") >= 1
