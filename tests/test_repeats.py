"""Texts that stand twice in a data set: found by their tokens, and one cluster wherever sequences are drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from routing_reference import make_stats, random_routing

from mlx_moebench.data import Sequence, text_hashes
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.routing import Sums, tally
from mlx_moebench.routing.repeats import text_hash, text_units, units_of
from mlx_moebench.routing.sums import FIELDS


def document(row: int, *windows: list[int]) -> list[Sequence]:
    return [Sequence(row, number, np.array(ids, dtype=np.int32), False) for number, ids in enumerate(windows)]


def test_equal_tokens_are_one_text_and_windows_count() -> None:
    documents = [[1, 2, 3, 4]], [[1, 2, 3, 5]], [[1, 2, 3, 4]], [[1, 2], [3, 4]], [[1, 2, 3], [4]], [[1, 2], [3, 4]]
    sequences = [part for row, windows in enumerate(documents) for part in document(row, *windows)]
    hashes = text_hashes(sequences[::-1])  # in whatever order they come
    assert list(units_of(hashes[row] for row in range(6)).labels) == [0, 1, 0, 2, 3, 2]


def test_the_hash_is_the_same_on_every_machine_and_never_0() -> None:
    assert text_hash([np.array([1, 2, 3], dtype=np.int32)]) == text_hash([np.array([1, 2, 3], dtype=np.int64)])
    assert text_hash([np.array([1, 2, 3])]) == KNOWN
    assert text_hash([]) != 0


KNOWN = -7084117270309708722
"""Of [1, 2, 3]: pairs on disk hold such numbers."""


def test_grouped_sums_add_up() -> None:
    result = tally(random_routing(0, (5, 20), 8, 2, "softmax"))
    sums = Sums(8, 2, "softmax", *(np.asarray(getattr(result, name)) for name in FIELDS))
    labels = np.array([0, 1, 0, 2, 1])
    grouped = sums.grouped(labels)
    for name in FIELDS:
        each, whole = getattr(sums, name), getattr(grouped, name)
        assert whole.dtype == each.dtype
        expected = np.stack([each[labels == group].sum(axis=0) for group in range(3)])
        np.testing.assert_allclose(whole, expected, rtol=1e-6)


def test_texts_travel_with_the_statistics(tmp_path: Path) -> None:
    stats = make_stats()
    stats.texts = {cluster: 1 + number % 5 for number, cluster in enumerate(stats.clusters[:-1])}
    stats.save(tmp_path / "o")
    loaded = RoutingStats.load(tmp_path / "o")
    assert loaded.texts == stats.texts
    assert text_units(loaded).repeated == 11 - 5
    assert RoutingStats.merge([loaded]).texts == stats.texts
    (part,) = loaded.by_domain().values()
    assert part.texts == stats.texts


def test_units_of_two_sides_are_texts_that_both_have_alike() -> None:
    a, b = make_stats(), make_stats()
    rows = list(range(len(a.clusters)))
    a.texts = {cluster: 1 + number % 6 for number, cluster in enumerate(a.clusters)}
    b.texts = {cluster: 1 + number % 4 for number, cluster in enumerate(b.clusters)}
    assert len(text_units(a, b, rows=[rows, rows]).first) == 12
    b.texts = dict(a.texts)
    assert len(text_units(a, b, rows=[rows, rows]).first) == 6


@pytest.mark.parametrize("known", [False, True])
def test_a_text_in_two_domains_is_two(known: bool) -> None:
    math, code = make_stats(sha="a" * 64), make_stats(sha="b" * 64)
    math.sources["a" * 64]["name"], code.sources["b" * 64]["name"] = "math", "code"
    if known:
        for part in (math, code):
            part.texts = {cluster: 1 + number for number, cluster in enumerate(part.clusters)}
    assert text_units(RoutingStats.merge([math, code])).repeated == 0
