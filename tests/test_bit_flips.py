"""One flipped bit in a file is refused by whatever reads it, or it stands where no number is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from routing_reference import make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.errors import MoebenchError
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.pair.storage import read_report
from mlx_moebench.pair.verify import verified
from mlx_moebench.routing import Plan
from mlx_moebench.show.inputs import read_inputs

SEED = 20260401
PLAN = Plan(resamples=100)
FEW = ["--resamples", "100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of one model, their profile and their comparison."""
    place = tmp_path_factory.mktemp("flips")
    for name, sha in (("x", "a"), ("y", "b")):
        make_stats(range(6), sha=sha * 64).save(place / name, PLAN)
    pairs = [str(place / "x.json"), str(place / "y.json")]
    main(["compare", *pairs, "--allow", "data", "--output", str(place / "comparison.json"), *FEW])
    main(["profile", *pairs, "--output", str(place / "profile"), *FEW])
    return place


def flipped(path: Path, chance: random.Random) -> None:
    """Flip one bit, in the header of a file of sums as often as in the data behind it."""
    blob = bytearray(path.read_bytes())
    end = len(blob)
    if path.suffix == ".safetensors" and chance.random() < 0.5:
        end = 8 + int.from_bytes(blob[:8], "little")
    blob[chance.randrange(end)] ^= 1 << chance.randrange(8)
    path.write_bytes(blob)


READ: dict[str, Callable[[Path], Any]] = {
    "x.json": read_report,
    "x.safetensors": lambda path: RoutingStats.load(path).report(PLAN),
    "comparison.json": lambda path: read_inputs([path]).comparisons,
    "profile/profile.json": lambda path: read_inputs([path]).profiles,
}


@pytest.mark.parametrize("name", READ)
def test_no_flipped_bit_changes_what_is_read(folder: Path, name: str) -> None:
    path = folder / name
    whole, expected = path.read_bytes(), READ[name](path)
    chance, refused = random.Random(SEED), 0
    try:
        for _ in range(40):
            flipped(path, chance)
            try:
                assert READ[name](path) == expected
            except (MoebenchError, ValueError):
                refused += 1
                assert any(verdict.wrong for verdict in verified(path))
            path.write_bytes(whole)
    finally:
        path.write_bytes(whole)
    assert refused >= 30  # the others are in spaces, or in the name of the seal


def stdout_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str | None:
    """What a command prints; None where it refuses."""
    capsys.readouterr()
    try:
        main(arguments)
    except SystemExit as stop:
        if stop.code:
            said = capsys.readouterr().err
            assert said.count("Error:") == 1, said
            assert "unforeseen" not in said, said
            return None
    return capsys.readouterr().out


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "report": lambda f: ["report", f"{f}/x.json", "--format", "csv"],
    "merge": lambda f: ["merge", f"{f}/x.json", f"{f}/y.json", "-o", f"{f}/whole.json", "--json", *FEW],
    "compare": lambda f: ["compare", f"{f}/x.json", f"{f}/y.json", "--allow", "data", "--json", *FEW],
    "profile": lambda f: ["profile", f"{f}/x.json", f"{f}/y.json", "--output", f"{f}/made", "--json", *FEW],
    "plot": lambda f: ["plot", "load", f"{f}/x.json", "-o", f"{f}/load.svg"],
    "verify": lambda f: ["verify", f"{f}/x.json"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_flipped_bit_changes_what_a_command_gives(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand over the commands, half of them in either file of a pair."""
    monkeypatch.setattr("sys.argv", ["mlx-moebench", command])
    for name, sha in (("x", "a"), ("y", "b")):
        make_stats(range(6), sha=sha * 64).save(tmp_path / name, PLAN)
    arguments = COMMANDS[command](tmp_path)
    picture = tmp_path / "load.svg"

    def given() -> Any:
        printed = stdout_of(arguments, capsys)
        return printed if printed is None or not picture.exists() else (printed, picture.read_bytes())

    expected = given()
    assert expected is not None
    chance, refused = random.Random(SEED), 0
    for number in range(170):
        path = tmp_path / ("x.json" if number % 2 else "x.safetensors")
        whole = path.read_bytes()
        flipped(path, chance)
        now = given()
        refused += now is None
        assert now in (None, expected), f"{command}, flip {number} of {path.name}"
        path.write_bytes(whole)
    assert refused >= 150


def test_an_edited_report_is_said_to_be(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.json", "x.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "x.json"
    report = json.loads(path.read_text())
    report["routers"][0]["n_eff"] += 1
    path.write_text(json.dumps(report))
    for command in ("report", "verify"):
        with pytest.raises(SystemExit):
            main([command, str(path)])
        said = "".join(capsys.readouterr())
        assert "its seal does not fit what it holds" in said
        assert "`mlx-moebench merge x.safetensors -o NEW.json` makes their report" in said
    main(["merge", str(tmp_path / "x.safetensors"), "-o", str(tmp_path / "new.json"), *FEW])
    capsys.readouterr()
    main(["verify", str(tmp_path / "new.json"), "--intervals"])
    assert "as it was written" in capsys.readouterr().out
    # Sealed again by somebody who knows how, it is not the report of its sums.
    path.write_text(sealed_text(report))
    with pytest.raises(SystemExit):
        main(["verify", str(path)])
    assert "layer.0.mlp: n_eff is not that of its sums" in capsys.readouterr().out


def test_damaged_sums_are_not_made_good(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing advises to make a report of them."""
    for name in ("x.json", "x.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    for arguments in (["report", str(path)], ["merge", str(path), "-o", str(tmp_path / "new.json")]):
        with pytest.raises(SystemExit):
            main(arguments)
        said = capsys.readouterr().err
        assert "Measure again, or take it from a copy." in said
        assert "makes their report" not in said
