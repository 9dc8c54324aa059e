"""A full disk, a read-only folder, too little memory: one sentence each, and nothing measured is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from routing_reference import make_stats

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.routing import Plan

PLAN = Plan(resamples=100)
NOBODY = 65534


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small file system, and not in every container")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return make_stats().save(tmp_path / "pair", PLAN)[0]


def fill(folder: Path, leave: int) -> None:
    """Leave so many bytes of a file system free."""
    with (folder / "filler").open("wb", buffering=0) as file:
        while (free := os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - leave) > 0:
            file.write(b"\0" * min(free, 65536))


def commands(pair: Path, folder: Path) -> dict[str, list[str]]:
    return {
        "merge": ["merge", str(pair), "--resamples", "100", "-o", str(folder / "m.json")],
        "compare": ["compare", str(pair), str(pair), "--resamples", "100", "-o", str(folder / "c.json")],
        "plot": ["plot", "load", str(pair), "-o", str(folder / "p.png")],
        "report": ["report", str(pair), "-o", str(folder / "r.html")],
        "csv": ["report", str(pair), "-o", str(folder / "r.csv")],
        "analyze": [
            "analyze",
            "--quiet",
            "--max-samples",
            "6",
            "--max-length",
            "16",
            "--resamples",
            "100",
            "-o",
            str(folder / "a.json"),
        ],
    }


def refused(command: list[str], capsys: pytest.CaptureFixture[str], words: str) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(command)
    printed = capsys.readouterr()
    assert stop.value.code not in (0, 70, None), printed.err
    assert printed.err.count("Error: ") == 1
    assert words in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("name", ["merge", "compare", "plot", "report", "csv", "analyze"])
def test_a_full_disk_keeps_what_is_there(
    name: str, small: Path, pair: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = commands(pair, small)[name]
    main(command)
    before = {path: path.read_bytes() for path in small.iterdir()}
    fill(small, leave=8192)
    refused(command, capsys, "No space left on device")
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(small.iterdir()) == sorted([*before, small / "filler"]), "no temporary file, and no lock"
    (small / "filler").unlink()
    main(command)


def test_a_measurement_on_a_disk_that_fills_up_keeps_the_pair_saved_last(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_moebench.measure import keep

    monkeypatch.setattr(keep, "MIN_SECONDS", 0)
    monkeypatch.setattr(keep, "SHARE", 0)
    command = ["analyze", "--quiet", "--max-samples", "12", "--max-length", "16", "--batch-size", "2"]
    command += ["-o", str(small / "a.json")]
    count, counted = keep.Keeper.count, []

    def counting(self: keep.Keeper, batch: Any) -> None:
        counted.append(1)
        if len(counted) == 4:
            fill(small, leave=8192)
        count(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(keep.Keeper, "count", counting)
        refused(command, capsys, "No space left on device")
    assert len(RoutingStats.load(small / "a.json").clusters) == 6
    (small / "filler").unlink()
    main([*command, "--resume"])
    assert len(RoutingStats.load(small / "a.json").clusters) == 12
    assert not list(small.glob(".*"))


def test_a_file_system_that_cannot_be_written(small: Path, pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    for command in commands(pair, small).values():
        refused(command, capsys, "Read-only file system")


@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT])
def test_a_broken_disk_and_a_quota(
    number: int, tmp_path: Path, pair: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No disk here breaks at a word; the kernel says so of one when what was written has to arrive."""
    command = commands(pair, tmp_path)["merge"]
    main(command)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    refused(command, capsys, os.strerror(number))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- processes -------------------------------------------------------------------------------------------------------


def run(
    command: list[str], cwd: Path, prepare: Callable[[], None] | None = None, **settings: Any
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1"}
    environment |= settings.pop("environment", {})
    return subprocess.run(
        [sys.executable, "-m", "mlx_moebench", *command], cwd=cwd, env=environment, capture_output=True, text=True,
        check=False, preexec_fn=prepare, timeout=500, **settings,
    )  # fmt: skip


def one_sentence(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode not in (0, 70), result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("Error: ") == 1, result.stderr
    for word in words:
        assert word in result.stderr


def as_nobody(command: list[str]) -> tuple[int, str]:
    """(exit status, stderr) of a child, which has the modules already, as another user without a home."""
    reader, writer = os.pipe()
    if not (child := os.fork()):
        code = 70
        try:
            os.dup2(writer, 2)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.environ |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR"), "/nonexistent")
            sys.stdout, sys.stderr = Path(os.devnull).open("w"), os.fdopen(2, "w", closefd=False)  # noqa: SIM115
            main(command)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        errors = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), errors


@pytest.mark.slow
def test_a_user_who_may_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """What can be written is, without a home; what cannot is said. MLX runs in no fork, so nothing is measured."""
    if os.geteuid():
        pytest.skip("only root can become another user")
    with TemporaryDirectory(dir="/tmp") as place:
        folder, theirs = Path(place), Path(place, "theirs")
        folder.chmod(0o755)
        theirs.mkdir()
        pair = make_stats().save(folder / "pair", PLAN)[0]
        for name, command in commands(pair, folder).items():
            if name == "analyze":
                continue
            main(command)
            for path in {*folder.glob("?.*")}:
                path.unlink()
            code, errors = as_nobody(command)
            assert (code, errors.count("Error: "), "Traceback" in errors) == (1, 1, False), errors
            assert "Permission denied" in errors
        theirs.chmod(0o777)
        for name, command in commands(pair, theirs).items():
            if name != "analyze":
                code, errors = as_nobody(command)
                assert (code, "Error" in errors) == (0, False), errors
        (theirs / "p.png").chmod(0o444)
        code, errors = as_nobody(commands(pair, theirs)["plot"])
        assert code == 1
        assert "it may not be changed" in errors
        assert not list(theirs.glob(".*"))


@pytest.mark.slow
def test_a_limit_on_the_size_of_files(tmp_path: Path, pair: Path) -> None:
    command = commands(pair, tmp_path)["merge"]
    result = run(command, tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)))
    one_sentence(result, "File too large")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pair.json", "pair.safetensors"]


@pytest.mark.slow
def test_too_little_memory_is_said_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    """A limit that is reached in the middle of a run; one that not even the libraries fit into may end them at once."""
    code = """
import resource, sys
from mlx_moebench.cli import main
from mlx_moebench.measure import keep
keep.MIN_SECONDS = keep.SHARE = 0
count, counted = keep.Keeper.count, []
def counting(self, batch):
    count(self, batch)
    counted.append(1)
    if len(counted) == 3:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))
keep.Keeper.count = counting
main(sys.argv[1:])
"""
    texts = ["A word."] * 48 + ["A word, and one more. " * 100] * 64
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    command = ["analyze", "--dataset", "texts.jsonl", "--quiet", "--max-length", "512", "--batch-size", "16"]
    command += ["--device", "cpu", "--resamples", "100", "-o", "a.json"]
    result = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1"},
    )  # fmt: skip
    assert len(RoutingStats.load(tmp_path / "a.json").clusters) == 48
    one_sentence(result, "too little memory", "ulimit -v", "measured before are in")


def test_memory_that_is_refused_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_moebench.show.tables import doctor

    errors = (
        MemoryError(),
        RuntimeError("[malloc] Unable to allocate 99 bytes."),
        RuntimeError("can't start new thread"),
    )
    for error in errors:
        monkeypatch.setattr(doctor, "examine", lambda error=error: (_ for _ in ()).throw(error))
        refused(["doctor"], capsys, "There is too little memory")
