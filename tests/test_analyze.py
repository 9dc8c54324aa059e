"""Measured statistics do not depend on how the text was batched, padded, ordered or split."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Sequence as Order
from pathlib import Path
from typing import Any

import jsonschema
import mlx.core as mx
import numpy as np
import pytest

from mlx_moebench import RoutingStats, analyze, load
from mlx_moebench.data import Sequence, encode, read_corpus
from mlx_moebench.errors import MoebenchError, RoutingError
from mlx_moebench.instrument import LiveRoutingStats, attach, detach

NEAR_TIE = 1e-6
SCHEMA = Path(__file__).parents[1] / "mlx_moebench" / "routing" / "schema" / "routing_stats.schema.json"
SOURCE = {"sha": {"name": "math"}}


@pytest.fixture(scope="module")
def nano() -> tuple[Any, Any]:
    return load()


@pytest.fixture(scope="module")
def sequences(nano: tuple[Any, Any]) -> list[Sequence]:
    return encode(read_corpus("math", max_samples=24), nano[1], 128)


def measure(model: Any, rows: Order[Sequence], batch_size: int = 1, extra_padding: int = 0) -> RoutingStats:
    """Batches in the given order, padded with real ids that the mask excludes."""
    with LiveRoutingStats(model, sources=SOURCE) as stats:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            width = max(len(s.ids) for s in part) + extra_padding
            ids = np.full((len(part), width), 7, dtype=np.int32)
            mask = np.zeros((len(part), width), dtype=bool)
            for i, s in enumerate(part):
                ids[i, : len(s.ids)], mask[i, : len(s.ids)] = s.ids, True
            with stats.batch(mask=mask, ids=[s.row for s in part]):
                model(mx.array(ids))
    return stats


def near_ties(model: Any, rows: Order[Sequence]) -> list[tuple[int, int, int]]:
    """(row, layer, position) of choices that rounding could turn: gap of the K-th and next probability below 1e-6."""
    from mlx_moebench.instrument import capture

    found = []
    for s in rows:
        seen: dict[int, np.ndarray] = {}
        with capture(model, lambda number, logits, *_, seen=seen: seen.__setitem__(number, np.array(logits))):
            mx.eval(model(mx.array(s.ids[None])))
        for layer, z in seen.items():
            p = np.exp(z - z.max(-1, keepdims=True))
            p = np.sort(p / p.sum(-1, keepdims=True), axis=-1)
            found += [(s.row, layer, int(t)) for t in np.flatnonzero(p[:, -2] - p[:, -3] < NEAR_TIE)]
    return found


@pytest.fixture(scope="module")
def alone(nano: tuple[Any, Any], sequences: list[Sequence]) -> RoutingStats:
    """Every sequence in a forward of its own."""
    return measure(nano[0], sequences)


@pytest.fixture(scope="module")
def ties(nano: tuple[Any, Any], sequences: list[Sequence]) -> list[tuple[int, int, int]]:
    return near_ties(nano[0], sequences)


def assert_same(a: RoutingStats, b: RoutingStats, ties: list[tuple[int, int, int]]) -> None:
    """Counts exactly, up to the near-ties listed; sums to 1e-6 relative."""
    assert a.clusters == b.clusters
    for number in range(len(a.specs)):
        x, y = a.sums(number), b.sums(number)
        np.testing.assert_array_equal(x.n_tokens, y.n_tokens)
        moved = np.abs(x.counts - y.counts).sum()
        assert moved <= 2 * len(ties), f"layer {number}: {moved} selections moved, near-ties: {ties}"
        if not ties:
            np.testing.assert_array_equal(x.top1_counts, y.top1_counts)
            np.testing.assert_array_equal(a.pairs(number), b.pairs(number))
            np.testing.assert_allclose(x.total().p_sum, y.total().p_sum, rtol=1e-6)
            np.testing.assert_allclose(x.total().scalars, y.total().scalars, rtol=1e-6)


@pytest.mark.parametrize(("batch_size", "extra_padding"), [(5, 0), (24, 0), (1, 37)])
def test_batching_and_padding_do_not_matter(
    nano: tuple[Any, Any],
    sequences: list[Sequence],
    alone: RoutingStats,
    ties: list[tuple[int, int, int]],
    batch_size: int,
    extra_padding: int,
) -> None:
    assert_same(alone, measure(nano[0], sequences, batch_size, extra_padding), ties)


def test_order_does_not_matter(
    nano: tuple[Any, Any], sequences: list[Sequence], ties: list[tuple[int, int, int]]
) -> None:
    model = nano[0]
    assert_same(measure(model, sequences, 6), measure(model, sequences[::-1], 6), ties)


def test_merged_shards_equal_one_run(nano: tuple[Any, Any], sequences: list[Sequence], alone: RoutingStats) -> None:
    whole = alone
    parts = [measure(nano[0], sequences[i::3]) for i in range(3)]
    merged = RoutingStats.merge(parts[::-1])
    assert merged.clusters == whole.clusters
    for number in range(len(whole.specs)):
        a, b = whole.sums(number), merged.sums(number)
        for name in ("n_tokens", "counts", "top1_counts", "p_sum", "scalars"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        np.testing.assert_array_equal(whole.pairs(number), merged.pairs(number))
    np.testing.assert_array_equal(whole.transition_counts(0), merged.transition_counts(0))
    assert whole.report()["routers"] == merged.report()["routers"]


def test_windows_of_a_document_are_one_cluster(nano: tuple[Any, Any], tmp_path: Any) -> None:
    text = " ".join(d.text.replace("\n", " ") for d in read_corpus("general", max_samples=12).documents)
    (tmp_path / "long.txt").write_text(f"{text}\n\nA short second document.\n")
    stats = analyze(nano[0], tmp_path / "long.txt", tokenizer=nano[1], max_length=64, split_on="blank", long="windows")
    assert [row for _, row in stats.clusters] == [0, 1]
    tokens = len(nano[1].encode(text))
    assert stats.sums(0).n_tokens[0] == tokens
    assert stats.sources[stats.clusters[0][0]]["max_length"] == 64


def test_attach_measures_bare_forwards_bit_identically(nano: tuple[Any, Any]) -> None:
    model, tokenizer = nano
    ids = mx.array([tokenizer.encode("Prove that 2 is prime.")[:6], tokenizer.encode("Prove that 3 is prime.")[:6]])
    before = model(ids)
    classes = {path: type(module) for path, module in model.named_modules()}
    stats = attach(model)
    assert mx.array_equal(model(ids), before)
    detach(model)
    assert mx.array_equal(model(ids), before)
    assert {path: type(module) for path, module in model.named_modules()} == classes
    frame = stats.to_dataframe()
    assert set(frame["n_tokens"]) == {12}
    assert len(stats.clusters) == 2
    wanted = {"layer", "moe_layer", "router", "n_tokens", "mean_entropy", "top_share_token", "collapsed"}
    assert wanted <= set(frame.columns)


def test_the_report_of_live_statistics_fits_the_schema(nano: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = nano
    with attach(model) as stats:
        for document in read_corpus("code", max_samples=20).documents:
            model(mx.array([tokenizer.encode(document.text)]))
    path, _ = stats.save(tmp_path / "live")
    report = json.loads(path.read_text())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert report["data"]["n_sequences"] == 20
    assert report["summary"]["mean_entropy"]["low"] is not None


def test_a_failed_forward_is_not_counted(nano: tuple[Any, Any]) -> None:
    model = nano[0]
    with LiveRoutingStats(model, sources=SOURCE) as stats:
        with pytest.raises(RoutingError, match="mask has shape"), stats.batch(mask=np.ones((1, 4), bool)):
            model(mx.zeros((1, 5), dtype=mx.int32))
        with pytest.raises(RoutingError, match="2 ids"), stats.batch(ids=[0, 1]):
            model(mx.zeros((1, 5), dtype=mx.int32))
        with pytest.raises(KeyError), stats.batch(ids=[0]):
            raise KeyError(str(model(mx.zeros((1, 5), dtype=mx.int32)).shape))
    assert stats.clusters == []


def test_a_forward_that_breaks_off_counts_nowhere(nano: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that completed before an error counts; one that stopped in the middle does not, in any layer."""
    model = nano[0]
    ids = mx.zeros((2, 6), dtype=mx.int32)
    stats = attach(model)
    model(ids)
    with monkeypatch.context() as patched:
        routing = stats._capture.routing
        patched.setattr(
            stats._capture, "routing", lambda number, *rest: 1 / 0 if number == 3 else routing(number, *rest)
        )
        with pytest.raises(ZeroDivisionError):
            model(ids)
    stats.close()
    assert {int(stats.totals(n).n_tokens) for n in range(6)} == {12}
    stats.check()


def test_rows_without_an_id_are_sequences_of_their_own(nano: tuple[Any, Any]) -> None:
    model, ids = nano[0], mx.zeros((3, 5), dtype=mx.int32)
    with attach(model) as stats:
        with stats.batch(ids=[0, 1, 7]):
            model(ids)
            with stats.batch(ids=[3, 4, 5]):
                model(ids)
            model(ids)  # the outer ids hold again
        model(ids)
    assert [row for _, row in stats.clusters] == [0, 1, 3, 4, 5, 7, 8, 9, 10]
    assert stats.sums(0).n_tokens.tolist() == [10, 10, 5, 5, 5, 10, 5, 5, 5]


def test_statistics_do_not_hold_the_model(tiny_checkpoint: Path) -> None:
    model, tokenizer = load(tiny_checkpoint)
    alive = weakref.ref(model)
    stats = analyze(model, "math", tokenizer=tokenizer, max_samples=2)
    live = attach(model)
    live.close()
    del model
    gc.collect()
    assert alive() is None
    assert stats.n_tokens > 0


def test_transitions_and_pairs_are_all_pairs(nano: tuple[Any, Any], sequences: list[Sequence]) -> None:
    stats = measure(nano[0], sequences[:4], 4)
    tokens = stats.n_tokens
    for number in range(5):
        assert stats.transition_counts(number).sum() == tokens * 2 * 2
        np.testing.assert_allclose(np.nansum(stats.transition(number), axis=1).round(9) % 1, 0)
    assert stats.pairs(0).trace() == tokens * 2
    assert stats.pairs(0).sum() == tokens * 2 * 2


def test_a_model_object_needs_its_tokenizer(nano: tuple[Any, Any]) -> None:
    with pytest.raises(MoebenchError, match="tokenizer"):
        analyze(nano[0], "math")
    with pytest.raises(MoebenchError, match="brings its own"):
        analyze(None, "math", tokenizer=nano[1])
    with pytest.raises(MoebenchError, match="loaded already"):
        analyze(nano[0], "math", tokenizer=nano[1], dtype="float32")
    with pytest.raises(MoebenchError, match="tau"):
        analyze(nano[0], "math", tokenizer=nano[1], tau=1.5)
