"""One writer for each output, by real processes; files of others, odd paths, and what a dead process left."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from routing_reference import make_stats

from mlx_moebench import RoutingStats, files, locks
from mlx_moebench.cli import main
from mlx_moebench.errors import InUseError, StatsError
from mlx_moebench.files import check_output, followed, forcing, opened, probe_folder, write_aside
from mlx_moebench.pair.storage import check_writable
from mlx_moebench.routing import Plan

PLAN = Plan(resamples=100)

HOLD = """
import sys
from pathlib import Path
from mlx_moebench.locks import holding
with holding(*map(Path, sys.argv[1:])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(*outputs: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, outputs)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return make_stats().save(tmp_path / "pair", PLAN)[0]


# -- locks ---------------------------------------------------------------------------------------------------------


def test_every_spelling_of_an_output_is_held_and_whoever_comes_is_told_by_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    (folder / "other.json").symlink_to("x.json")
    (folder / "x.json").write_text("")
    monkeypatch.chdir(folder)
    process = holder(folder / "x.json")
    try:
        who = rf"by process {process.pid} on {re.escape(socket.gethostname())} since"
        names = ["x", "x.json", "x.safetensors", "x.decode.json", "x.unsplit.json", "../link/x", "./x", "other.json"]
        for name in names:
            with pytest.raises(InUseError, match=who), locks.holding(Path(name)):
                pass
        with pytest.raises(InUseError, match=r"x\.json is being written"):
            make_stats().save(link / "x", PLAN)
        with locks.holding(Path("y"), link / "x.more"):
            pass
        with pytest.raises(InUseError), locks.holding(Path("y"), Path("x")):
            pass
    finally:
        process.communicate("")
    assert sorted(path.name for path in folder.iterdir()) == ["other.json", "x.json"]
    with locks.holding(Path("x")), locks.holding(Path("x.json")):
        assert (folder / ".x.moelock").exists()
    assert not (folder / ".x.moelock").exists()


def test_a_killed_holder_stops_nobody_and_its_lock_is_swept(tmp_path: Path) -> None:
    process = holder(tmp_path / "deep" / "x.json")
    process.kill()
    process.communicate()
    assert (tmp_path / "deep" / ".x.moelock").exists()
    with locks.holding(tmp_path / "deep" / "x"):
        pass
    assert list((tmp_path / "deep").iterdir()) == []
    process = holder(tmp_path / "deep" / "x.json")
    process.kill()
    process.communicate()
    probe_folder(tmp_path / "deep" / "another.json")
    assert list((tmp_path / "deep").iterdir()) == []


def test_folders_made_for_a_lock_go_with_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locks.holding(tmp_path / "a" / "b" / "x"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with locks.holding(tmp_path / "a" / "b" / "x"):
        write_aside({tmp_path / "a" / "b" / "x": b"1"})
    assert (tmp_path / "a" / "b" / "x").read_bytes() == b"1"


def test_a_forked_child_keeps_no_lock_alive(tmp_path: Path) -> None:
    code = f"""
import os, sys, time
from pathlib import Path
from mlx_moebench.locks import holding
with holding(Path({str(tmp_path / "x")!r})):
    if os.fork():
        os._exit(0)
    print("forked", flush=True)
    time.sleep(60)
    os._exit(0)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "forked\n"
    process.wait()
    try:
        with locks.holding(tmp_path / "x"):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the child
        process.stdout.close()


def test_where_there_are_no_locks_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="has no locks"), locks.holding(tmp_path / "x"):
        write_aside({tmp_path / "x": b"1"})
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_another_thread_of_a_process_may_only_write_briefly(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def take(brief: bool) -> None:
        with locks.holding(tmp_path / "x", brief=brief):
            pass

    with ThreadPoolExecutor(1) as pool, locks.holding(tmp_path / "x"):
        pool.submit(take, True).result()
        with pytest.raises(InUseError, match="another thread"):
            pool.submit(take, False).result()


# -- files of others -------------------------------------------------------------------------------------------------

FOREIGN = {
    "x.png": b"\x89PNG\r\n\x1a\n mlx-moebench", "x.svg": b"<svg>mlx-moebench</svg>", "x.pdf": b"%PDF mlx_moebench",
    "x.html": b"<html>mlx-moebench</html>", "x.htm": b"<html></html>", "x.md": b"# mlx-moebench",
    "x.csv": b"a,b\n1,2\n",
    "x.json": b'{"a": 1}', "list.json": b"[[1]]", "broken.json": b"{", "deep.json": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_others_are_refused_but_by_force(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    with pytest.raises(StatsError, match=r"holds no report of mlx-moebench: .* with --force"):
        check_output(path, path.suffix, "report", ("routers", "metric"))
    with forcing():
        check_output(path, path.suffix, "report", ("routers", "metric"))
    path.write_bytes(b"")
    check_output(path, path.suffix, "report", ("routers", "metric"))


def test_each_command_refuses_and_replaces(
    pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plots = [["plot", "load", str(pair), "-o", f"p{suffix}"] for suffix in (".png", ".svg", ".pdf")]
    reports = [["report", str(pair), "-o", f"r{suffix}"] for suffix in (".html", ".htm", ".md", ".csv")]
    others = [
        ["compare", str(pair), str(pair), "-o", "c.json", "--csv", "c.csv", "--resamples", "100"],
        ["merge", str(pair), "-o", "m.json"],
    ]
    for command in (*plots, *reports, *others):
        output = tmp_path / command[command.index("-o") + 1]
        output.write_text("mine")
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 1
        assert "--force" in capsys.readouterr().err
        assert output.read_text() == "mine"
        main([*command, "--force"])
        written = output.read_bytes()
        main(command)  # what was written here is replaced without a word
        assert len(output.read_bytes()) == pytest.approx(len(written), abs=20)
    assert not list(tmp_path.glob(".*"))


# -- odd paths -------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    links = {"dangling": "nowhere", "one": "two", "two": "one", "linked": "folder", "tube": "pipe"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "socket-file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("folder", "it is a folder; name a file in it"), ("linked", "it is a link to a folder"),
        ("pipe", "it is a pipe"), ("tube", "it is a link to a pipe"), ("zero", "it is no file of a disk"),
        ("dangling", "it is a link to nowhere, which does not exist"), ("one", "Too many levels of symbolic links"),
        ("/dev/null", "it is no file of a disk"), ("/dev/stdout", "it is no file of a disk"),
        ("x" * 256, "its name has 256 bytes, and 255 is the most"), ("é" * 128, "its name has 256 bytes"),
        ("a\0b", "null"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_said_in_a_sentence(odd: Path, name: str, words: str) -> None:
    before = sorted(odd.iterdir())
    for attempt in (followed, probe_folder, lambda path: write_aside({path: b"x"})):
        with pytest.raises(StatsError, match=words):
            attempt(odd / name)  # type: ignore[operator]
    assert sorted(odd.iterdir()) == before


@pytest.mark.parametrize("name", ["pipe", "tube", "zero", "folder", "one", "dangling", "gone"])
def test_what_cannot_be_read_neither_hangs_nor_ends(odd: Path, name: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011  # each has its own
        opened(odd / name)
    readers: list[Callable[[Path], object]] = [RoutingStats.load, _evaluation, _log, _config, _corpus, _manifest]
    for read in readers:
        with pytest.raises(Exception, match=r"^[^\n]*$") as raised:
            read(odd / name)
        assert type(raised.value).__module__ == "mlx_moebench.errors", raised.value


def _evaluation(path: Path) -> object:
    from mlx_moebench.evaluate.evaluations import read_evaluation

    path.with_name("e.json").unlink(missing_ok=True)
    path.with_name("e.json").symlink_to(path.name)
    return read_evaluation(path.with_name("e.json"))


def _log(path: Path) -> object:
    from mlx_moebench.data.training_log import read_log

    return read_log(path)


def _config(path: Path) -> object:
    from mlx_moebench.train import read_config

    return read_config(path)


def _corpus(path: Path) -> object:
    from mlx_moebench.data import read_corpus

    return read_corpus(path)


def _manifest(path: Path) -> object:
    from mlx_moebench.data.trace import read_manifest

    path.with_name("trace.json").unlink(missing_ok=True)
    path.with_name("trace.json").symlink_to(path.name)
    return read_manifest(path.parent)


def test_a_link_stays_and_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    real, link, twin = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "twin.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real.json")
    twin.hardlink_to(real)
    write_aside({link: b"new"})
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert twin.read_text() == "old", "another name of the file before is left what it was"


@pytest.mark.parametrize("name", ["n" * 240 + ".json", "a\nb.json", os.fsdecode(b"\xff\xfe.json"), "ä ' \" $.json"])
def test_names_of_every_kind(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name)
    stats = make_stats()
    report, sums = stats.save(tmp_path / name, PLAN)
    stats.save(tmp_path / name, PLAN)
    assert RoutingStats.load(report).n_tokens == stats.n_tokens
    assert sorted(tmp_path.iterdir()) == sorted([report, sums])


def test_a_stem_that_is_too_long_for_both_halves(tmp_path: Path) -> None:
    with pytest.raises(StatsError, match=r"its name has 257 bytes"):
        check_writable(tmp_path / ("n" * 245 + ".json"))


# -- what the dead left ----------------------------------------------------------------------------------------------

ASIDE = """
import os, signal, sys
from pathlib import Path
from mlx_moebench import files
files._move = lambda *_: (print("there", flush=True), sys.stdin.read())
files.write_aside({Path(sys.argv[1]): b"x" * 1000})
"""


def test_temporaries_of_the_dead_are_swept_and_of_the_living_never(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ASIDE, str(tmp_path / "x")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    mine = tmp_path / ".moe-mine.tmp"
    mine.write_text("somebody's")
    (aside,) = tmp_path.glob(f"{files._ASIDE}*")
    assert len(aside.name) < 30, "whatever name the file has"
    probe_folder(tmp_path / "y")
    assert aside.exists()
    process.kill()
    process.communicate()
    probe_folder(tmp_path / "y")
    assert [path.name for path in tmp_path.iterdir()] == [mine.name]


# -- several commands at once ----------------------------------------------------------------------------------------

SLOWLY = """
import os, sys, time
from pathlib import Path
from mlx_moebench import locks
from mlx_moebench.cli import main
take = locks._take
def slowly(place, output, brief):
    take(place, output, brief)
    while os.environ["AT"] in place.name and not Path(os.environ["GO"]).exists():
        time.sleep(0.05)
locks._take = slowly
main(sys.argv[1:])
"""


def command_of(kind: str, pair: Path, folder: Path) -> list[str]:
    """A quick command for each kind of output."""
    from mmlu_files import write_mmlu

    few = ["--max-samples", "2", "--max-length", "16", "--quiet"]
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": f"One and two are {name}."}) + "\n")
    (folder / "counts.csv").write_text("layer,expert,count\n0,0,4\n0,1,4\n")
    if kind == "evaluate":
        write_mmlu(folder / "mmlu", {"anatomy": 4})
    return {
        "pair": ["analyze", *few, "-o", "out"],
        "trace": ["analyze", *few, "-o", os.urandom(4).hex(), "--trace", "trace"],
        "profile": ["profile", *few, "--domain", "a.jsonl", "--domain", "b.jsonl", "-o", "profile"],
        "compare": ["compare", str(pair), str(pair), "--resamples", "100", "-o", "compare.json"],
        "merge": ["merge", str(pair), "--resamples", "100", "-o", "merged"],
        "import": ["import", "csv", "counts.csv", "--experts", "4", "--top-k", "2", "-o", "counts"],
        "quant": ["compare", "moebench-nano", "--quant", "4", *few, "--output-dir", "arms"],
        "loss": ["loss", *few, "-o", "loss.json"],
        "evaluate": ["evaluate", "--data", "mmlu", "--subjects", "anatomy", "--quiet", "-o", "evaluation"],
        "serve": ["serve", "--port", "0", "-o", "served"],
        "train": ["train", "--iters", "1", "--batch-size", "2", "--quiet", "--adapter-path", "adapters",
                  "--val-batches", "1", "--num-layers", "1", "--max-seq-length", "32", "--set", "routing_samples=2"],
    }[kind]  # fmt: skip


KINDS = ("pair", "trace", "profile", "compare", "merge", "import", "quant", "loss", "evaluate", "serve", "train")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("writers", [2, pytest.param(5, marks=pytest.mark.nightly)])
def test_of_several_writers_exactly_one_goes_on(pair: Path, tmp_path: Path, kind: str, writers: int) -> None:
    go = tmp_path / "go"
    environment = os.environ | {
        "GO": str(go),
        "AT": "trace" if kind == "trace" else "",
        "OMP_NUM_THREADS": "1",
        "MLX_DISABLE_COMPILE": "1",
    }
    commands = [[sys.executable, "-c", SLOWLY, *command_of(kind, pair, tmp_path)] for _ in range(writers)]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
    processes = [subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) for command in commands]
    until = time.monotonic() + 300
    while sum(process.poll() is None for process in processes) > 1 and time.monotonic() < until:
        time.sleep(0.1)
    (winner,) = [process for process in processes if process.poll() is None]
    if kind == "serve":
        winner.send_signal(signal.SIGTERM)
    go.touch()
    said = {process: process.communicate(timeout=300)[1] for process in processes}
    for process, text in said.items():
        if process is winner:
            assert process.returncode == (128 + signal.SIGTERM if kind == "serve" else 0), text
            continue
        assert process.returncode == 1, text
        (sentence,) = [line for line in text.splitlines() if line.startswith("Error: ")]
        assert f"is being written by process {winner.pid} on {socket.gethostname()} since" in sentence
        assert "Traceback" not in text
    assert not list(tmp_path.rglob(".*")), "no lock is left"


def test_the_facts_of_a_lock_name_the_command(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with locks.holding(tmp_path / "x"):
            facts = json.loads((tmp_path / ".x.moelock").read_text())
    assert facts["pid"] == os.getpid()
    assert {"host", "since", "command"} <= facts.keys()
