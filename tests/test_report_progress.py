"""What `report` says while it works: which input, which step, how far."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_inputs import NANO

from mlx_moebench.cli import main
from mlx_moebench.options import LISTENER, stepping
from mlx_moebench.routing import Plan
from mlx_moebench.show.inputs import read_inputs


@pytest.fixture
def told() -> list[tuple[str, int, int]]:
    """What a listener is told."""
    return []


def test_every_input_and_every_router_is_told(told: list[tuple[str, int, int]]) -> None:
    token = LISTENER.set(lambda *step: told.append(step))
    try:
        read_inputs(NANO, plan=Plan(resamples=100))
    finally:
        LISTENER.reset(token)
    assert [step for step in told if step[0].startswith("reading ")] == [
        (f"reading {path}", done, 3) for done, path in enumerate(NANO)
    ]
    steps = dict.fromkeys(what for what, _, _ in told)
    assert list(steps)[3:] == [
        "putting the runs together",
        "intervals, router by router",
        "between the domains, router by router",
    ]
    assert [step[1:] for step in told if step[0].startswith("intervals")][:6] == [(done, 6) for done in range(6)]


def test_without_a_listener_nothing_changes() -> None:
    assert list(stepping("a", iter("xyz"))) == ["x", "y", "z"]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_log_gets_a_line_where_it_takes_long(
    quiet: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if everything took long: a line for each step, unless --quiet."""
    monkeypatch.setattr("mlx_moebench.cli.report.FIRST", 0.0)
    monkeypatch.setattr("mlx_moebench.cli._progress.SECONDS", 0.0)
    arguments = [*NANO[:2], "--resamples", "100", "-o", str(tmp_path / "page.html")]
    main(["report", *arguments, *(["--quiet"] if quiet else [])])
    captured = capsys.readouterr()
    assert "Wrote" in captured.out
    lines = captured.err.splitlines()
    if quiet:
        assert lines == []
        return
    assert lines[0] == f"reading {NANO[0]}: 0 of 2"
    assert lines[1] == f"reading {NANO[1]}: 1 of 2"
    assert "intervals, router by router: 5 of 6" in lines
    assert lines[-1] == "making the page"
