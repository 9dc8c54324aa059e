"""Vocabulary specialisation: known answers, a null that holds when ids do not matter, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_tokens import vocabulary

pytest.importorskip("mlx.core", reason="needs MLX to make traces")

from mlx_moebench.analysis.vocabulary import vocabulary_report
from mlx_moebench.cli import main
from mlx_moebench.data.trace import Trace
from mlx_moebench.errors import MoebenchError, TraceError
from mlx_moebench.measure import analyze
from mlx_moebench.routing import Plan
from mlx_moebench.routing.repeats import repeated_openings
from mlx_moebench.routing.vocabulary import vocabulary_specialisation


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    analyze(
        None,
        "math",
        max_samples=20,
        max_length=64,
        output=folder / "o",
        trace=folder / "t",
        trace_predictions=True,
        plan=Plan(resamples=100),
    )
    return folder / "t"


def test_shares_by_hand() -> None:
    ids = np.array([5, 5, 7, 7, 7, 9, -1, 5])
    experts = np.array([[0, 1], [0, 2], [3, 1], [3, 2], [1, 2], [0, 1], [3, 0], [0, 3]])
    found = vocabulary_specialisation(ids, experts, [0, 0, 0, 0, 1, 1, 1, 1], 4, min_count=3, permutations=20)
    assert found.ids.tolist() == [5, 7]
    assert found.n_tokens.tolist() == [3, 3]
    np.testing.assert_allclose(found.shares, [[1, 1 / 3, 1 / 3, 1 / 3], [0, 2 / 3, 2 / 3, 2 / 3]])
    assert found.value == pytest.approx((1 + 2 / 3) / 2)
    assert 0 < found.p_value <= 1
    np.testing.assert_allclose(found.null_shares.sum(axis=1), 2)


def test_experts_that_follow_the_id() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(12, size=2000)
    experts = np.stack([ids % 6, 6 + ids % 2], axis=1)
    found = vocabulary_specialisation(ids, experts, np.repeat(np.arange(40), 50), 8, permutations=99)
    assert found.value == 1
    assert found.null_mean < 0.7
    assert found.p_value == pytest.approx(0.01)


def lingering(seed: int, sequences: int = 25, length: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids and experts that know nothing of each other, but both linger, and both depend on the sequence."""
    rng = np.random.default_rng(seed)

    def series(values: int) -> np.ndarray:
        liked = rng.dirichlet(np.full(values, 0.5), size=sequences)
        out = np.empty((sequences, length), dtype=int)
        for s in range(sequences):
            fresh = rng.choice(values, size=length, p=liked[s])
            stay = rng.random(length) < 0.6
            for t in range(length):
                out[s, t] = out[s, t - 1] if t and stay[t] else fresh[t]
        return out.ravel()

    return series(15), series(6)[:, None], np.repeat(np.arange(sequences), length)


def test_the_null_rejects_as_often_as_it_says() -> None:
    """60 sets in which ids do not matter: at 5%, 3 are expected; 9 or more happen once in 300 times."""
    p = [vocabulary_specialisation(*lingering(seed), 6, permutations=39, seed=seed).p_value for seed in range(60)]
    assert np.sum(np.array(p) <= 0.05) <= 8
    assert 0.3 < np.mean(p) < 0.7


@pytest.mark.parametrize("design", ["repeats", "openings"])
def test_the_null_holds_where_texts_share_what_they_begin_with(design: str) -> None:
    """40 sets of ids and experts that know nothing of each other, of 2 rejected at 5%: 8 or more are 1 in 600."""
    cell = dict(vocabulary())[f"{design}, S 20"]
    assert cell(40, 1)["rejected"] <= 7 / 40


def test_neighbours_tell_passages_from_ids() -> None:
    cells = dict(vocabulary())
    assert cells["passages, S 20"](5, 0)["neighbours"] > 0.7
    rng = np.random.default_rng(0)
    ids = rng.integers(12, size=2000)
    result = vocabulary_specialisation(ids, ids[:, None] % 6, np.repeat(np.arange(40), 50), 6, permutations=50)
    assert result.value == 1
    assert result.neighbours == pytest.approx(result.null_mean, abs=0.05)


def test_a_traced_text_that_occurs_twice_counts_once(tmp_path: Path) -> None:
    lines = [f"The number {n} is less than the number {n + 1}, and so on." for n in range(12)]
    reports = []
    for name, texts in (("once", lines), ("twice", lines * 2)):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        analyze(None, data, output=tmp_path / f"o_{name}", trace=tmp_path / name)
        reports.append(vocabulary_report(tmp_path / name, permutations=20, min_count=5))
    once, twice = reports
    assert twice["n_tokens"] == 2 * once["n_tokens"]
    assert twice["repeated_tokens"] == once["repeated_tokens"] + once["n_tokens"]
    for a, b in zip(once["routers"], twice["routers"], strict=True):
        assert a["n_ids"] == b["n_ids"]
        assert a["value"] == pytest.approx(b["value"])


def test_repeated_openings() -> None:
    texts = [[1, 2, 3, 4], [1, 2, 9], [], [1, 2, 3, 4], [7], [1, 2, 3], [300, 2], [300, 1]]
    shared = repeated_openings([np.array(text, dtype=np.int32) for text in texts])
    assert shared.sum() == 10, "2 of [1, 2, 9], 3 and 4 of the chain [1, 2, 3] and its continuations, 1 of 300"
    distinct = {tuple(text[: n + 1]) for text in texts for n in range(len(text))}
    assert sum(map(len, texts)) - shared.sum() == len(distinct)


def test_nothing_often_enough_and_mistakes() -> None:
    found = vocabulary_specialisation([1, 2, 3], np.zeros((3, 1), int), [0, 0, 0], 2)
    assert len(found.ids) == 0
    assert np.isnan([found.value, found.null_mean, found.p_value]).all()
    with pytest.raises(MoebenchError, match="1 or more"):
        vocabulary_specialisation([1], np.zeros((1, 1), int), [0], 2, permutations=0)


def test_report_of_a_trace(trace: Path) -> None:
    report = vocabulary_report(trace, permutations=20)
    json.dumps(report, allow_nan=False)
    assert [r["layer"] for r in report["routers"]] == list(range(6))
    (shard,) = Trace(trace).shards()
    ids, experts = shard.arrays["token.id"], shard.arrays["layer.2.mlp.experts"]
    parts = np.split(ids, np.cumsum(shard.lengths)[:-1])
    fresh = np.concatenate([np.arange(len(p)) >= n for p, n in zip(parts, repeated_openings(parts), strict=True)])
    assert report["repeated_tokens"] == (~fresh).sum() > 0, "some of these prompts begin with the same word"
    assert all(r["q_value"] >= r["p_value"] for r in report["routers"])
    two = report["routers"][2]
    for expert in two["experts"]:
        for token in expert["tokens"]:
            own = fresh & (ids == token["id"])
            assert own.sum() == token["n_tokens"] >= 10
            assert (experts[own] == expert["expert"]).any(axis=1).mean() == pytest.approx(token["share"])
            assert Trace(trace).texts()[token["id"]] == token["text"]
    assert two["value"] > two["null"]["high"], "a trained router knows its tokens"
    assert two["low"] is None
    assert "resampling" in two["reason"]


def test_next_and_predicted_ids(trace: Path) -> None:
    (shard,) = Trace(trace).shards()
    following = vocabulary_report(trace, "next", layers=[1], permutations=5)
    assert following["n_tokens"] == len(shard.arrays["token.id"]) - shard.n_sequences
    predicted = vocabulary_report(trace, "predicted", layers=[1], permutations=5)
    assert predicted["n_tokens"] == len(shard.arrays["token.id"])
    parts = np.split(shard.arrays["token.id"], np.cumsum(shard.lengths)[:-1])
    fresh = np.concatenate([np.arange(len(p)) >= n for p, n in zip(parts, repeated_openings(parts), strict=True)])
    counts = np.bincount(shard.arrays["token.predicted"][fresh])
    assert predicted["routers"][0]["n_ids"] == (counts >= 10).sum()


def test_refusals(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no router in layer 9; it has layers 0, 1"):
        vocabulary_report(trace, layers=[9])
    with pytest.raises(TraceError, match="input, next or predicted"):
        vocabulary_report(trace, "output")  # type: ignore[arg-type]
    analyze(None, "math", max_samples=2, max_length=8, output=tmp_path / "o", trace=tmp_path / "t")
    with pytest.raises(TraceError, match="holds no predictions"):
        vocabulary_report(tmp_path / "t", "predicted")
    report = vocabulary_report(tmp_path / "t")
    assert {r["value"] for r in report["routers"]} == {None}
    assert report["routers"][0]["reason"] == "no id occurs often enough"


def test_command_line(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments: list[Any] = ["vocabulary", str(trace), "--permutations", "20", "--layer", "3"]
    main([*arguments, "--output", str(tmp_path / "v.json")])
    shown = capsys.readouterr().out
    assert "Layer 3" in shown
    assert "specialisation" in shown
    report = json.loads((tmp_path / "v.json").read_text())
    main([*arguments, "--json", "--output", str(tmp_path / "v.json")])
    assert json.loads(capsys.readouterr().out) == report
    main(["vocabulary", str(trace), "--min-count", "100000"])
    assert "no id occurs 100000 times" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["vocabulary", str(tmp_path)])
    assert stop.value.code == 1
    assert "name the folder that analyze --trace wrote" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text('{"routers": []}')
    with pytest.raises(SystemExit):
        main([*arguments, "--output", str(other)])
    assert "exists and holds no report of vocabulary" in capsys.readouterr().err
    assert other.read_text() == '{"routers": []}'
