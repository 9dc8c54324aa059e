"""Batches fitted to memory, and memory that does not grow with the number of sequences."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_moebench import analyze
from mlx_moebench.data import Sequence, batches, grouped
from mlx_moebench.errors import DataError
from mlx_moebench.measure import fit
from mlx_moebench.options import Reading

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from conftest import FEW_FORMS, build_tiny  # noqa: E402

from mlx_moebench.checkpoints import LoadedModel  # noqa: E402
from mlx_moebench.measure.on_mlx import BACKEND  # noqa: E402

FEW: dict[str, Any] = {"max_samples": 24, "max_length": 48, "device": "cpu"}


def sequences(lengths: list[int]) -> list[Sequence]:
    return [Sequence(row, 0, np.ones(length, dtype=np.int32), False) for row, length in enumerate(lengths)]


def test_a_batch_has_as_many_rows_as_its_longest_allows() -> None:
    lengths = [3, 90, 40, 41, 8, 8, 8, 100]
    groups = grouped(sequences(lengths), lambda length: 200 // length)
    assert [[len(s.ids) for s in group] for group in groups] == [[100, 90], [41, 40, 8, 8], [8, 3]]
    assert all(batch.ids.size <= 200 for batch in batches(sequences(lengths), lambda length: 200 // length))


def test_fitted_batches_take_the_memory_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer sequences, wider blocks and logits leave room for fewer; a sequence that does not fit runs alone."""
    checkpoint = LoadedModel(build_tiny(), None)  # type: ignore[arg-type]
    fitted = Reading(batch_size="auto")
    monkeypatch.setattr(fit, "TOKENS", 10**9)
    rows, with_logits = fit.rows_of(BACKEND, checkpoint, fitted), fit.rows_of(BACKEND, checkpoint, fitted, logits=True)
    assert callable(rows)
    assert callable(with_logits)
    sizes = [rows(length) for length in (16, 64, 256, 4096, 10**6)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 4 * sizes[2]
    assert sizes[-1] == 1
    assert with_logits(64) < rows(64)
    fits = rows(64)
    monkeypatch.setattr(fit, "MEMORY", fit.MEMORY // 4)
    assert rows(64) == fits // 4
    monkeypatch.setattr(fit, "TOKENS", 2 * 64 + 1)
    assert rows(64) == 2
    assert fit.rows_of(BACKEND, checkpoint, Reading(batch_size=3)) == 3


@pytest.mark.parametrize("name", FEW_FORMS)
def test_packed_weights_count_as_what_they_unpack_to(name: str) -> None:
    import mlx.nn as nn

    model = build_tiny(model_type=name)
    before = {part.name: part.shape for part in BACKEND.parts(LoadedModel(model, None))}  # type: ignore[arg-type]
    assert any(part.role == "experts" for part in BACKEND.parts(LoadedModel(model, None)))  # type: ignore[arg-type]
    nn.quantize(model, 32, 4, class_predicate=lambda _, m: hasattr(m, "to_quantized") and m.weight.shape[-1] % 32 == 0)
    after = {part.name: part.shape for part in BACKEND.parts(LoadedModel(model, None))}  # type: ignore[arg-type]
    assert before == after


def test_fitted_batches_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    eight = analyze(None, "math", batch_size=8, **FEW)
    monkeypatch.setattr(fit, "MEMORY", fit.MEMORY // 200)
    fitted = analyze(None, "math", batch_size="auto", **FEW)
    ((_, facts),) = fitted.sources.items()
    (part,) = facts["parts"]
    assert part["batches"] > 3
    assert part["batch_size"] != 8
    assert eight.clusters == fitted.clusters
    for number in range(len(eight.specs)):
        a, b = eight.sums(number), fitted.sums(number)
        np.testing.assert_array_equal(a.counts, b.counts)
        np.testing.assert_array_equal(a.top1_counts, b.top1_counts)
        np.testing.assert_allclose(a.p_sum, b.p_sum, rtol=1e-5, atol=1e-5)


def test_a_fitted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "MEMORY", fit.MEMORY // 256)
    choices: dict[str, Any] = {"batch_size": "auto", "output": tmp_path / "out.json", **FEW}
    forward, calls = type(BACKEND).forward, []

    def failing(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(type(BACKEND), "forward", failing)
        with pytest.raises(RuntimeError):
            analyze(None, "math", **choices)
    assert analyze(None, "math", resume=True, **choices).n_tokens == analyze(None, "math", **FEW).n_tokens


def test_words_that_are_no_size_are_refused() -> None:
    with pytest.raises(DataError, match=r"batch_size is many; put at least 1 sequence into a batch, or say auto\.$"):
        Reading(batch_size="many")


def peak(sequences: int, stream: str) -> int:
    """Bytes that MLX held at most while so many sequences were measured, beyond what it held before; without Python's
    search for cycles, which would free what waits for it at times that nobody knows."""
    texts = [f"a router sends token {number} to the experts that score highest" for number in range(sequences)]
    choices: dict[str, Any] = {"batch_size": 1, "max_length": 12, "stream": stream, "stream_memory": 0}
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        stats = analyze(None, {"texts": texts}, device="cpu", **choices)
        assert stats.n_tokens == 12 * sequences
        return int(mx.get_peak_memory() - before)
    finally:
        gc.enable()


@pytest.mark.parametrize(("stream", "sequences"), [("off", (36, 96)), ("on", (8, 32))])
def test_no_logits_pile_up(stream: str, sequences: tuple[int, int]) -> None:
    """Neither those of the head, of which each sequence would leave 12 x 4,096, nor those of the routers, nor hidden
    states. In memory the tallies of 32 batches wait to be read."""
    peak(2, stream)
    few, many = (peak(number, stream) for number in sequences)
    of_routers = 6 * 12 * 16 * 4
    assert many - few < (sequences[1] - sequences[0]) * of_routers / 2


def test_where_logits_of_a_batch_are_held_the_number_is_asked_for() -> None:
    assert Reading(batch_size=3).rows == 3
    with pytest.raises(DataError, match=r"^batch_size 'auto' is for measuring routing alone; give the sequences of"):
        _ = Reading(batch_size="auto").rows
