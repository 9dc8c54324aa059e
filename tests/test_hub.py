"""The command line and a hub: the real client, in a process of its own, against a stand-in on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand_in_hub import COMMIT, StandIn, serving

from mlx_moebench.checkpoints import NANO

MODEL = "someone/tiny"
FETCHED = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandIn]:
    folder = shutil.copytree(NANO, tmp_path / "repository")
    with serving(folder) as hub:
        yield hub


def environment_of(hub: StandIn) -> dict[str, str]:
    """Nothing of this user's hub, and a cache of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(hub.folder.parent / "home"), "HF_HUB_DISABLE_XET": "1"}


def run(hub: StandIn, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``analyze`` of the hub's model."""
    home = hub.folder.parent
    arguments = ["analyze", "--model", MODEL, "--max-samples", "2", "--output", str(home / "out.json"), *options]
    return subprocess.run(
        [sys.executable, "-m", "mlx_moebench", *arguments],
        env=environment_of(hub) | environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        timeout=120,
    )


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr of a run that failed."""
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    return line


def test_a_model_is_downloaded_once_and_then_used_offline(hub: StandIn) -> None:
    first = run(hub, "--quiet")
    assert (first.returncode, first.stderr) == (0, "")
    assert sorted({name for name, _ in hub.ranges} & set(FETCHED)) == FETCHED
    bodies = len(hub.ranges)
    again = run(hub, "--quiet", "--json", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stderr) == (0, "")
    assert COMMIT in again.stdout
    assert len(hub.ranges) == bodies


@pytest.mark.slow
def test_a_download_that_breaks_off_goes_on_where_it_was(hub: StandIn) -> None:
    """Without a word: the client's lines about it say nothing that a user could act on."""
    hub.cut, hub.cuts = 11_000_000, 1  # the client keeps what it has in chunks of 10 MiB
    result = run(hub, "--quiet")
    assert (result.returncode, result.stderr) == (0, "")
    starts = [start for name, start in hub.ranges if name == "model.safetensors"]
    assert len(starts) == 2
    assert starts[0] == 0 < starts[1] < hub.cut


@pytest.mark.slow
def test_progress_of_a_download_is_on_stderr(hub: StandIn) -> None:
    """Every step of it, which a log shows every half minute."""
    code = (
        "from mlx_moebench.cli import _progress, main\n_progress.SECONDS = 0\n"
        f"main(['analyze', '--model', {MODEL!r}, '--max-samples', '2', '--output', 'out.json', '--json'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment_of(hub),
        capture_output=True,
        text=True,
        check=False,
        cwd=hub.folder.parent,
    )
    assert result.returncode == 0, result.stderr
    size = (hub.folder / "model.safetensors").stat().st_size // 10**6
    assert any(line.startswith(f"downloading {MODEL}, MB: {size} of ") for line in result.stderr.splitlines())
    assert "%|" not in result.stderr


SEVERAL = """
import sys
from mlx_moebench.cli import main
for _ in sys.stdin:
    try:
        main(sys.argv[1:])
    except SystemExit as stop:
        print(stop.code, flush=True)
"""
"""One run for every line on stdin: on stdout its status, after what it printed."""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StandIn, subprocess.Popen[str]]]:
    """A hub, and a process that asks it as often as it is told to."""
    folder = tmp_path_factory.mktemp("several")
    with serving(shutil.copytree(NANO, folder / "repository")) as hub:
        arguments = ["analyze", "--model", MODEL, "--max-samples", "2", "--output", str(folder / "out.json")]
        process = subprocess.Popen(
            [sys.executable, "-c", SEVERAL, *arguments],
            env=environment_of(hub),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
        )
        with process:
            yield hub, process
            assert process.stdin is not None
            process.stdin.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"status": 401, "code": "GatedRepo"}, "'someone/tiny' is gated: accept its conditions"),
        ({"status": 403, "code": "GatedRepo"}, "'someone/tiny' is gated: accept its conditions"),
        ({"status": 404, "code": "RepoNotFound"}, "There is no folder and no public hub model 'someone/tiny'"),
        ({"status": 403}, "The hub refuses 'someone/tiny' (403): log in"),
        ({"status": 500}, "The hub answered 500 for 'someone/tiny'; try again later"),
    ],
)
def test_a_refusal_is_one_sentence(
    several: tuple[StandIn, subprocess.Popen[str]], answer: dict[str, Any], expected: str
) -> None:
    hub, process = several
    vars(hub).update({"status": 200, "code": ""} | answer)
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    assert process.stdout.readline().startswith(f"Error: {expected}")
    assert process.stdout.readline() == "1\n"


def test_offline_asks_nothing(hub: StandIn) -> None:
    line = sentence(run(hub, HF_HUB_OFFLINE="1"))
    assert line.startswith("Error: 'someone/tiny' is not in the cache and HF_HUB_OFFLINE is set")
    assert hub.asked == 0


def test_no_network(hub: StandIn) -> None:
    line = sentence(run(hub, HF_ENDPOINT="http://127.0.0.1:9"))
    assert line.startswith("Error: 'someone/tiny' is not in the cache and the hub cannot be reached")


@pytest.mark.slow
def test_a_hub_that_does_not_answer_in_time(hub: StandIn) -> None:
    hub.slow = 600
    line = sentence(run(hub, HF_HUB_ETAG_TIMEOUT="1", HF_HUB_DOWNLOAD_TIMEOUT="1"))
    assert line.startswith("Error: The hub did not answer in time for 'someone/tiny'")


@pytest.mark.slow
def test_a_repository_of_gguf_is_named(hub: StandIn) -> None:
    for file in hub.folder.glob("*.safetensors"):
        file.unlink()
    (hub.folder / "tiny.Q4_K_M.gguf").write_bytes(b"GGUF")
    assert sentence(run(hub, "--quiet")).startswith("Error: someone/tiny is GGUF, the format of llama.cpp")
    (hub.folder / "config.json").unlink()
    assert sentence(run(hub, "--quiet", HF_HOME=str(hub.folder.parent / "other"))).startswith(
        "Error: someone/tiny is GGUF, the format of llama.cpp"
    )
