"""What `mlx-moebench demo` runs and shows: its numbers are those of analyze, its errors one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX to route texts")

from mlx_moebench.cli import main
from mlx_moebench.demo.main_thread import MainThread
from mlx_moebench.demo.routed import MODES, Models, show
from mlx_moebench.demo.table import COLUMNS
from mlx_moebench.errors import DataError, MoebenchError
from mlx_moebench.measure import analyze
from mlx_moebench.measure.text import route_text
from mlx_moebench.models import Checkpoint, load_checkpoint

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mmlu_files import write_adapter

    return write_adapter(tmp_path_factory.mktemp("demo") / "adapter<b>")


def test_one_text(checkpoint: Checkpoint) -> None:
    models = Models()
    assert models.modes == list(MODES[:2])
    shown = show(models, "moebench-nano", "one text", (HOSTILE, ""), 32)
    assert "one sequence" in shown.message
    assert HOSTILE not in shown.heatmap + shown.table + shown.tokens
    assert shown.heatmap.count("<figure>") == 1
    assert shown.heatmap.count("<title>") == 6 * 16
    assert shown.table.count("<tr>") == 1 + 6
    assert "difference" not in shown.table


def test_heatmap_and_table_are_those_of_analyze(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = "Sum the squares: 1 + 4 + 9 = 14.\nfor i in range(3): pass"
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text}))
    measured = analyze(checkpoint, tmp_path / "one.jsonl")
    shown = show(Models(), "moebench-nano", "one text", (text, ""), 64)
    cells = re.findall(r"layer (\d+), expert (\d+): ([\d.]+) x even, (\d+) of (\d+) selections", shown.heatmap)
    assert len(cells) == 6 * 16
    for layer, expert, load, chosen, of in cells:
        counts = measured.totals(int(layer)).counts
        assert (int(chosen), int(of)) == (counts[int(expert)], counts.sum())
        assert float(load) == pytest.approx(16 * counts[int(expert)] / counts.sum(), abs=5.1e-3)
    rows = re.findall(r'<th scope="row">(\d+)</th>(.*?)</tr>', shown.table)
    assert len(rows) == 6
    for layer, cells_of_row in rows:
        values = measured.values(int(layer))
        found = [float(cell) for cell in re.findall(r"<td>(.*?)</td>", cells_of_row)]
        assert found == [pytest.approx(values[metric], abs=5.1e-4) for metric in COLUMNS]


@pytest.mark.usefixtures("cpu")
def test_torch_shows_what_mlx_shows() -> None:
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    ours, theirs = (
        show(Models(backend=name), "moebench-nano", "one text", ("A router chooses.", ""), 32)
        for name in ("mlx", "torch")
    )
    assert ours.heatmap == theirs.heatmap
    assert ours.table == theirs.table


def test_two_texts_and_what_differs() -> None:
    models = Models()
    shown = show(models, "moebench-nano", "two texts", ("two words", "for i in range(10): pass"), 32)
    data = json.loads(shown.tokens)
    assert [s["name"] for s in data["sequences"]] == ["text A", "text B"]
    assert shown.heatmap.count("<figure>") == 3
    assert "text B minus text A" in shown.heatmap
    assert shown.table.count("difference") == 5
    same = show(models, "moebench-nano", "two texts", ("two words", "two words"), 32)
    changes = re.findall(r'<td class="aside">([+-]?[\d.]+)</td>', same.table)
    assert len(changes) == 5 * 6
    assert set(changes) <= {"+0.000", "+0", "0.000", "0"}
    with pytest.raises(DataError, match=r"^Text B: "):
        show(models, "moebench-nano", "two texts", ("two words", " "), 32)


def test_before_and_after_an_adapter(adapter: Path) -> None:
    models = Models(adapter_path=adapter)
    assert models.modes == list(MODES)
    shown = show(models, "moebench-nano", "before and after the adapter", ("Every token counts.", ""), 32)
    data = json.loads(shown.tokens)
    assert [s["against"] for s in data["sequences"]] == [None, 0]
    assert "experts kept" in shown.table
    before = route_text(models.get("moebench-nano"), "Every token counts.")
    after = route_text(models.get("moebench-nano", adapted=True), "Every token counts.")
    kept = [
        np.mean([len({*x} & {*y}) / 2 for x, y in zip(a.experts, b.experts, strict=True)])
        for a, b in zip(before.tokens.choices, after.tokens.choices, strict=True)
    ]
    assert min(kept) < 1
    rows = re.findall(r"<td>[\d.]+</td><td>([\d.]+)</td>", shown.table.partition("<tbody>")[2])
    assert [float(row) for row in rows[:1]] == [pytest.approx(kept[0], abs=5e-4)]
    with pytest.raises(MoebenchError, match="--adapter-path"):
        show(Models(), "moebench-nano", "before and after the adapter", ("a", ""), 8)


def test_models_are_loaded_once_and_named_once(adapter: Path) -> None:
    models = Models()
    assert models.get("moebench-nano") is models.get("moebench-nano")
    with pytest.raises(MoebenchError, match="moebench-nano"):
        models.get("moebench-nan")
    with pytest.raises(MoebenchError, match="one --model"):
        Models([None, "other"], adapter_path=adapter)
    with pytest.raises(MoebenchError, match="twice"):
        Models(["a", "a"])


def test_jobs_run_in_the_thread_that_serves() -> None:
    serving = MainThread()
    found: list[Any] = []

    def ask() -> None:
        found.append(serving.call(threading.get_ident))
        try:
            serving.call(lambda: 1 // 0)
        except ZeroDivisionError as error:
            found.append(error)
        serving.stop()

    asker = threading.Thread(target=ask)
    asker.start()
    serving.serve()
    asker.join()
    assert found[0] == threading.get_ident()
    assert isinstance(found[1], ZeroDivisionError)


def test_whoever_waits_is_told_when_the_serving_is_stopped() -> None:
    serving = MainThread()
    found: list[Exception] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    def ask() -> None:
        try:
            serving.call(interrupt)
        except MoebenchError as error:
            found.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    with pytest.raises(KeyboardInterrupt):
        serving.serve()
    asker.join()
    assert len(found) == 1


def test_without_gradio_the_extra_is_named() -> None:
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'gradio':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from mlx_moebench.cli import main\n"
        "main(['demo', '--no-browser'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == 'Error: The demo needs an optional dependency: pip install "mlx-moebench[demo]"\n'


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--adapter-path", "no-such-folder"], "no-such-folder"),
        (["--host", "203.0.113.1", "--model", "no-such/model"], "Cannot serve at 203.0.113.1 ("),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed (extra demo)")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--no-browser", *arguments])
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert sentence in said.err.splitlines()[-1]
    assert "Serving" not in said.out
