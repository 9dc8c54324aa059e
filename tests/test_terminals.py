"""Any terminal: of another encoding, of few columns; and what a shell completes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete
from rich.console import Console

from mlx_moebench.cli import group, main
from mlx_moebench.routing import METRICS
from mlx_moebench.show.plots import plots
from mlx_moebench.show.tables.base import plain_table
from mlx_moebench.show.tables.metrics import INTERVALS, described

# -- encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", [pytest.param("latin-1", marks=pytest.mark.slow), "ascii"])
def test_what_a_terminal_cannot_show_is_a_question_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "量子.txt").write_text("One text.\n\nAnother text, of the same file.\n", encoding="utf-8")
    code = (
        "import sys\nfrom mlx_moebench.cli import main\n"
        "main(sys.argv[1:])\nprint('then', flush=True)\nmain([*sys.argv[1:], '--json'])"
    )
    command = [sys.executable, "-c", code, "analyze", "--dataset", "量子.txt", "--output", "out.json"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    result = subprocess.run(command, capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    table, _, report = result.stdout.partition(b"then\n")
    assert b"??" in table
    assert json.loads(report)["data"]["name"].startswith("量子")


def test_json_is_escaped_where_it_cannot_be_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, expected in ((["metrics", "n90"], "?"), (["metrics", "n90", "--json"], r"\u91cf\ud83d\ude00")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        monkeypatch.setattr(sys, "stdout", stream)
        main(arguments)
        stream.write("量😀")
        stream.flush()
        assert expected in stream.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]


# -- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_table_loses_nothing_at_any_width(width: int) -> None:
    table = plain_table("A title")
    names = [f"column{number}" for number in range(9)]
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left", no_wrap=number == 3)
    rows = [[f"licence-texts-of-packages-{row}", *(f"{row}.{number}" for number in range(1, 9))] for row in range(3)]
    for row in rows:
        table.add_row(*row)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    together = re.sub(r"\s", "", shown)  # a word may be folded
    for word in [*names, *(cell for row in rows for cell in row[1:])]:
        assert word in together, word
    if width >= 60:
        assert all(row[0] in shown for row in rows)
    assert together.startswith("Atitle")


def test_the_metrics_at_40_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    main(["metrics"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in METRICS)
    assert "…" not in shown


# -- metrics ---------------------------------------------------------------------------------------------------------


def test_every_metric_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    main(["metrics", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed == described()
    assert sorted(one["name"] for one in listed) == sorted(METRICS)
    for one in listed:
        metric = METRICS[one["name"]]
        assert (one["label"], one["unit"], one["interval"]) == (metric.label, metric.unit, metric.interval)
        assert one["range"]
        assert one["meaning"].endswith(".")
        assert one["interval"] in INTERVALS


def test_metrics_are_in_the_help_that_takes_them(capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert all(name in shown for name in METRICS)
    main(["plot", "--help"])
    assert "mlx-moebench metrics" in re.sub(r"\s+", " ", capsys.readouterr().out)


# -- completion ------------------------------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    *before, typed = words
    complete = ShellComplete(group, {}, "mlx-moebench", "_MLX_MOEBENCH_COMPLETE")
    return [item.value for item in complete.get_completions(before, typed)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    (tmp_path / "runs" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "model" / "config.json").write_text("{}")
    (tmp_path / "mine.jsonl").write_text("{}")
    (tmp_path / "before.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_what_is_completed() -> None:
    assert completed("analyze", "--model", "") == ["moebench-nano", "checkpoint", "runs/"]
    assert completed("loss", "--model", "moe") == ["moebench-nano"]
    assert completed("evaluate", "--model", "runs/") == ["runs/model"]
    assert completed("profile", "--model", "tuned=ch") == ["tuned=checkpoint"]
    assert completed("analyze", "--dataset", "m") == ["math", "mine.jsonl"]
    assert completed("profile", "--domain", "law=mi") == ["law=mine.jsonl"]
    assert completed("compare", "be") == ["before.json"]
    assert completed("compare", "--metric", "gi") == ["gini"]
    assert completed("metrics", "margin_") == ["margin_prob", "margin_weight"]
    assert completed("plot", "") == list(plots())
    assert completed("analyze", "--collapse-on", "top_share_tok") == ["top_share_token"]
    assert "metrics" in completed("m")


@pytest.mark.parametrize("shell", [BashComplete, ZshComplete, FishComplete])
def test_each_shell_gets_a_script_and_answers(
    shell: type[ShellComplete], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BashComplete, "_check_version", staticmethod(lambda: None))
    complete = shell(group, {}, "mlx-moebench", "_MLX_MOEBENCH_COMPLETE")
    assert "_MLX_MOEBENCH_COMPLETE" in complete.source()
    words = "mlx-moebench analyze --model moe"
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", "moe" if shell is FishComplete else "3")
    assert "moebench-nano" in complete.complete()


# -- names of one idea -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "typed", "name", "value"),
    [
        ("analyze", ["--limit", "3", "--max-seq-length", "64", "--data", "code"], "dataset", "code"),
        ("evaluate", ["--max-samples", "3"], "limit", 3),
        ("demo", ["--max-tokens", "64"], "max_tokens", 64),
        ("profile", ["--data", "math", "--domain", "code"], "domains", ("math", "code")),
    ],
)
def test_other_names_set_the_same_and_are_not_shown(
    command: str, typed: list[str], name: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    found = group.get_command(click.Context(group), command)
    assert found is not None
    context = found.make_context(command, typed)
    assert context.params[name] == value
    shown = re.findall(r"--[a-z-]+", found.get_help(context))
    assert not [flag for flag in typed if flag in shown and flag not in ("--domain",)]
