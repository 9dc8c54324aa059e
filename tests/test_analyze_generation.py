"""analyze --generate: prompts and generated tokens apart, saved and resumed together."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from mlx_moebench import RoutingStats, analyze
from mlx_moebench.cli import main
from mlx_moebench.errors import DataError, MoebenchError, StatsError
from mlx_moebench.measure import analyze_generation, decode_output

SCHEMA = Path(__file__).parents[1] / "mlx_moebench" / "routing" / "schema" / "routing_stats.schema.json"
FIELDS = ("n_tokens", "counts", "top1_counts", "p_sum", "scalars")


def test_prompts_count_as_without_generating(tmp_path: Path) -> None:
    found = analyze_generation(None, "code", max_tokens=5, max_samples=4, max_length=40)
    plain = analyze(None, "code", batch_size=1, max_samples=4, max_length=40)
    assert list(found) == ["prefill", "decode"]
    for number in range(6):
        a, b = found["prefill"].sums(number), plain.sums(number)
        np.testing.assert_array_equal(a.n_tokens, b.n_tokens)
        # A prompt run in two pieces rounds otherwise, which may turn a near-tie.
        assert np.abs(a.counts - b.counts).sum() <= 2
        np.testing.assert_allclose(a.scalars[:, 0], b.scalars[:, 0], rtol=1e-5)
    decode = found["decode"]
    assert decode.phase == "decode"
    assert decode.clusters == found["prefill"].clusters
    assert all(1 <= n <= 5 for n in decode.sums(0).n_tokens)


def test_command_line_writes_both_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--max-samples", "12", "--max-length", "24", "--generate", "3", "--quiet"]
    plot = tmp_path / "load.svg"
    main(["analyze", *arguments, "--output", str(tmp_path / "o.json"), "--plot", str(plot)])
    shown = capsys.readouterr().out
    assert "prefill" in shown
    assert "decode" in shown
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        *("o.json", "o.safetensors", "o.decode.json", "o.decode.safetensors"),
        *("load.svg", "load.decode.svg"),
    }
    for name, phase in (("o.json", "prefill"), ("o.decode.json", "decode")):
        report = json.loads((tmp_path / name).read_text())
        jsonschema.validate(report, json.loads(SCHEMA.read_text()))
        assert report["data"]["phase"] == phase
        assert report["data"]["generation"] == {"max_tokens": 3, "sampling": "greedy"}
        assert report["data"]["complete"] is True
        for router in report["routers"]:
            assert sum(router["selection_counts"]) == router["n_tokens"] * router["top_k"]
    main(["analyze", *arguments, "--output", str(tmp_path / "o.json"), "--resume", "--json"])
    both = json.loads(capsys.readouterr().out)
    assert set(both) == {"prefill", "decode"}
    assert both["decode"] == json.loads((tmp_path / "o.decode.json").read_text())


def test_an_interrupted_generation_resumes_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_moebench.measure.on_mlx import MLX

    options = {"max_tokens": 4, "max_samples": 6, "max_length": 24}
    whole = analyze_generation(None, "math", **options)
    calls = 0
    forward = MLX.generate

    def third_time_unlucky(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        forward(*arguments)

    monkeypatch.setattr(MLX, "generate", third_time_unlucky)
    with pytest.raises(KeyboardInterrupt, match="after 2 of 6"):
        analyze_generation(None, "math", output=tmp_path / "x", **options)
    monkeypatch.setattr(MLX, "generate", forward)
    assert RoutingStats.load(decode_output(tmp_path / "x")).clusters
    with pytest.raises(StatsError, match="its generation is"):
        analyze_generation(None, "math", output=tmp_path / "x", resume=True, **{**options, "max_tokens": 5})
    resumed = analyze_generation(None, "math", output=tmp_path / "x", resume=True, **options)
    for phase, stats in whole.items():
        assert stats.clusters == resumed[phase].clusters
        for number in range(6):
            for name in FIELDS:
                np.testing.assert_array_equal(
                    getattr(stats.sums(number), name), getattr(resumed[phase].sums(number), name)
                )


def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "--generate", "3", "--batch-size", "4", "--output", str(tmp_path / "o")])
    assert stop.value.code == 2
    assert "leave out --batch-size" in capsys.readouterr().err
    with pytest.raises(MoebenchError, match="at least 1"):
        analyze_generation(None, "math", max_tokens=0)
    with pytest.raises(MoebenchError, match="batch_size"):
        analyze_generation(None, "math", max_tokens=2, batch_size=4)
    with pytest.raises(DataError, match="1024 positions"):
        analyze_generation(None, "math", max_tokens=1020, max_samples=2)
