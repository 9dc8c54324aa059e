"""The benchmarks themselves: what they compute from times, what they write, and that every script still runs."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # at the end: their names hide no others

_bench: Any = importlib.import_module("_bench")
_models: Any = importlib.import_module("_models")
run: Any = importlib.import_module("run")

MACHINE = {
    "processor": "made up",
    "cores": 2,
    "load": 0.5,
    "threads": 2,
    "device": "cpu",
    "blas": "libmadeup",
    "dense_gflops": 125.0,
    "gather_mm_gflops": 5.5,
} | dict.fromkeys(("mlx", "mlx_lm", "torch", "transformers"), "1.0")


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two ratios, of which one is of times, a figure, and a median with quartiles."""
    monkeypatch.setattr(_bench, "machine", lambda: MACHINE)
    made = _bench.Results("peers", False)
    made.ratio("analyze", "theirs", [2.0, 4.0, 6.0, 8.0, 10.0], [2.0] * 5)
    made.ratio("rate", "theirs", [1.0], [4.0], "tokens/s, more is faster")
    made.figure("peak", 12345.6, "MiB")
    made.spread("page", [1.0, 2.0, 3.0, 4.0, 5.0], "s")
    made.note("A sentence.")
    return made


def test_a_ratio_is_the_median_over_rounds_with_quartiles() -> None:
    # Of each round its own ratio, 3, 1, 5, 2 and 4; the ratio of the medians would be 20 / 10.
    assert _bench.ratio_of([30, 1, 20, 20, 40], [10, 1, 4, 10, 10]) == (2.0, 3.0, 4.0)
    assert str(_bench.Ratio(0.9876, 1.0, 1.0124)) == "1.000 [0.988, 1.012]"


@pytest.mark.parametrize("count", [2, 3])
def test_arms_take_turns(count: int) -> None:
    """Each runs once a round, each is first in some rounds and last in others, and the warm-up does not count."""
    calls: list[str] = []
    names = "abc"[:count]

    def arm(name: str) -> Any:
        return lambda: calls.append(name) or float(len(calls))

    rounds = 4 * count
    times = _bench.in_turn({name: arm(name) for name in names}, rounds, "test", warm_up=1)
    every = [calls[start : start + count] for start in range(0, len(calls), count)]
    assert len(every) == rounds + 1
    assert all(sorted(one) == list(names) for one in every)
    assert {one[0] for one in every} == {one[-1] for one in every} == set(names)
    for name in names:
        assert times[name] == [calls_of + 1.0 for calls_of, who in enumerate(calls) if who == name][1:]


def test_the_file_of_results(results: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "peers.json"
    results.finish(path)
    file = json.loads(path.read_text())
    assert file["machine"] == MACHINE
    assert file["notes"] == ["A sentence."]
    assert file["ratios"][0] == {
        "what": "analyze",
        "over": "theirs",
        "unit": "s",
        "value": 6.0,
        "base": 2.0,
        "low": 2.0,
        "ratio": 3.0,
        "high": 4.0,
        "rounds": 5,
    }
    assert file["figures"][1] == {"what": "page", "value": 3.0, "unit": "s", "low": 2.0, "high": 4.0}
    printed = capsys.readouterr().out
    assert "| analyze | theirs | 6 | 2 | s | 3.000 [2.000, 4.000] | 5 |" in printed
    assert "| peak | 12,346 | MiB |\n| page | 3 [2, 4] | s |" in printed


def test_a_worker_answers_and_keeps_what_libraries_print_apart(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        f"import sys\nsys.path.append({str(ROOT / 'benchmarks')!r})\nfrom _bench import serve_worker\n"
        "serve_worker({'two': lambda: print('noise') or 2.5, 'fails': lambda: 1 / 0})\n"
    )
    worker = _bench.Worker(str(script))
    assert worker.arm("two")() == 2.5
    assert worker.ask("two") == 2.5
    with pytest.raises(SystemExit, match="The worker ended with status 1 when it was asked for 'fails'"):
        worker.ask("fails")
    worker.close()


def test_both_libraries_read_the_same_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    import mlx.core as mx

    import mlx_moebench
    from torch_fallback.loading import load_checkpoint

    folder = _models.write_checkpoint(tmp_path / "model", _models.TINY)
    ids = _models.random_ids(_models.TINY, 2, 32)
    ours, _ = mlx_moebench.load(folder)
    theirs = load_checkpoint(folder).model
    assert sum(p.numel() for p in theirs.parameters()) == _models.TINY.parameters
    with torch.inference_mode():
        expected = theirs(torch.as_tensor(ids, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(np.array(ours(mx.array(ids))), expected, atol=1e-4)


def test_texts_are_the_ids_that_they_were_made_of() -> None:
    ids = _models.random_ids(_models.TINY, 2, 32)
    np.testing.assert_array_equal([_models.Numbers().encode(text) for text in _models.as_texts(ids)], ids)
    assert ids.min() > 0


# -- what is put together ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(results: Any, tmp_path: Path) -> Path:
    """One with the results of the peers."""
    results.finish(tmp_path / "peers.json")
    return tmp_path


def test_the_page_and_the_picture(folder: Path) -> None:
    docs = folder / "docs.md"
    docs.write_text(f"before\n{run.BEGIN}old\n{run.END}after\n")
    run.put_together(folder, docs)
    page, picture = (folder / "README.md").read_text(), (folder / "ratios.svg").read_text()
    assert "## Against other ways to the same" in page
    assert "made up, 2 cores, 2 threads, load 0.5 at the end, cpu" in page
    assert "gather_mm 5.5" in page
    assert "3.000 [2.000, 4.000]" in page
    assert "<svg" in picture
    block = docs.read_text()
    assert block.startswith(f"before\n{run.BEGIN}")
    assert block.endswith(f"{run.END}after\n")
    assert "old" not in block
    assert "3.000 [2.000, 4.000]" in block
    run.put_together(folder, docs)
    assert docs.read_text() == block


def test_ratios_of_times_alone_are_drawn(folder: Path) -> None:
    axis = run.draw(run.read(folder)).axes[0]
    texts = [label.get_text() for label in axis.get_yticklabels()]
    assert texts == ["Against other ways to the same", "analyze / theirs"]
    assert axis.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in axis.lines if list(line.get_xdata()) == [1, 1]] == [1]


def test_a_part_that_fails_costs_the_others_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "absent": run.Part("Absent", "absent.py"),
        "page": run.Part("Page", "page.py"),
        "peers": run.PARTS["peers"],
    }
    monkeypatch.setattr(run, "PARTS", parts)
    monkeypatch.setattr(run.subprocess, "run", lambda *_args, **_kw: subprocess.CompletedProcess([], 3))
    assert run.main(["--only", "absent", "page", "--folder", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "absent was left out: absent.py is not in this tree." in said
    assert "page was left out: page.py ended with status 3." in said
    assert "3.000 [2.000, 4.000]" in (folder / "README.md").read_text()
    assert run.main(["--only", "absent", "--folder", str(folder)]) == 0


def test_a_quick_run_replaces_no_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--quick"])
    assert "--quick gives no figures: name a --folder" in capsys.readouterr().err


def test_the_documentation_says_what_was_measured_last() -> None:
    docs = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    every = run.read(run.FOLDER)
    assert run.with_block(docs, every["peers"]) == docs
    assert run.page(every) == (run.FOLDER / "README.md").read_text("utf-8")
    assert not any(results["quick"] for results in every.values())


# -- every script ------------------------------------------------------------------------------------------------------

SCRIPTS = sorted({part.script for part in run.PARTS.values() if (ROOT / "benchmarks" / part.script).is_file()})


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.extra
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs(script: str, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--quick", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=_bench.environment_of_children(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    file = json.loads(path.read_text())
    assert file["quick"]
    assert file["machine"]["dense_gflops"] > 0
    assert file["ratios"] or file["figures"]
    for row in file["ratios"]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["rounds"] >= 1
    assert _bench.table(file) in done.stdout
