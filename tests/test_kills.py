"""Every command is ended by every signal at a seeded random moment: nothing is lost, and nothing is left behind.

The next run arrives at what an undisturbed one wrote, bit by bit. docs/reliability.md says what was run.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main

FEW = ("--max-length", "32", "--resamples", "200", "--quiet", "--device", "cpu")
RUN = ("--dataset", "math", "--max-samples", "48", "--batch-size", "1", *FEW)
TRAIN = ("--iters", "4", "--batch-size", "2", "--save-every", "2", "--val-batches", "1", "--num-layers", "1",
         "--max-seq-length", "32", "--set", "routing_samples=4", "--quiet", "--device", "cpu")  # fmt: skip


@dataclass(frozen=True)
class Killed:
    """A command, and what goes on from what it left: nothing, the same command, or --resume."""

    words: tuple[str, ...]
    resumes: bool = False


COMMANDS = {
    "analyze": Killed(("analyze", *RUN, "-o", "out"), True),
    "trace": Killed(("analyze", *RUN, "-o", "out", "--trace", "trace"), True),
    "stream": Killed(("analyze", *RUN, "--stream", "on", "--stream-memory", "0", "-o", "out"), True),
    "generate": Killed(("analyze", "--max-samples", "8", "--generate", "4", *FEW, "-o", "out"), True),
    "train": Killed(("train", *TRAIN, "--adapter-path", "adapters"), True),
    "evaluate": Killed(("evaluate", "--data", "mmlu", "--subjects", "anatomy,virology", "--quiet", "-o", "out"), True),
    "quant": Killed(("compare", "moebench-nano", "--quant", "8", "--quant", "4", "--max-samples", "8", *FEW,
                     "--output-dir", "arms", "-o", "out.json")),
    "compare": Killed(("compare", "a.json", "b.json", "--allow", "data", "--resamples", "2000", "-o", "out.json",
                       "--csv", "out.csv", "--plot", "out.png")),
    "profile": Killed(("profile", "--max-samples", "6", *FEW, "-o", "out"), True),
    "plot": Killed(("plot", "load", "a.json", "b.json", "-o", "out.png")),
    "import": Killed(("import", "csv", "counts.csv", "--experts", "4", "--top-k", "2", "-o", "out")),
    "merge": Killed(("merge", "a.json", "b.json", "--resamples", "2000", "-o", "out")),
    "report": Killed(("report", "a.json", "--format", "csv", "-o", "out.csv")),
}  # fmt: skip

WAYS = ("KILL", "TERM", "INT", "HUP", "PIPE")
"""How a command is ended: by a signal, or because nobody reads what it prints any more."""

DRIVER = """
import os, signal, sys
from pathlib import Path
from mlx_moebench.cli import main
from mlx_moebench.measure import keep
keep.MIN_SECONDS = keep.SHARE = 0
signal.signal(signal.SIGINT, signal.default_int_handler)  # as from a terminal
Path(os.environ["BEGUN"]).touch()
main(sys.argv[1:])
"""

PASSING = {"environment", "command", "seal", "sums_sha256", "tokens_per_second", "peak_memory_gb"}
"""Of a report or a line of a log: what differs between two runs of one measurement."""


def prepare(folder: Path, inputs: Path) -> None:
    """What the commands read."""
    from mmlu_files import write_mmlu

    for path in inputs.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "counts.csv").write_text("layer,expert,count\n" + "".join(f"0,{e},{e + 2}\n" for e in range(4)))
    write_mmlu(folder / "mmlu", {"anatomy": 6, "virology": 6})


def start(words: tuple[str, ...], folder: Path, **pipes: Any) -> subprocess.Popen[bytes]:
    """A fresh process, which has imported the command line and begins."""
    begun = folder.with_name(f"{folder.name}.begun")
    environment = os.environ | {"BEGUN": str(begun), "OMP_NUM_THREADS": "1", "MLX_DISABLE_COMPILE": "1"}
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *words], cwd=folder, env=environment, **pipes)
    while not begun.exists():
        assert process.poll() is None
        time.sleep(0.01)
    begun.unlink()
    return process


def contents(folder: Path) -> dict[str, Any]:
    """Every file that a command may have written, without what passes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("mmlu/") or re.search(r"\d{7}_adapters", name):
            continue
        if path.suffix == ".safetensors":
            found[name] = {key: (a.dtype, a.shape, a.tobytes()) for key, a in load_file(path).items()}
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [_lasting(json.loads(line)) for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if key not in PASSING}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for name, dataset in (("a", "math"), ("b", "code")):
        main(["analyze", "--dataset", dataset, "--max-samples", "12", *FEW, "-o", str(folder / name)])
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Any:
    """``undisturbed(name)``: what the command writes when nothing ends it, and the seconds that takes; run once."""
    known: dict[str, tuple[dict[str, Any], float]] = {}

    def run(name: str) -> tuple[dict[str, Any], float]:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            prepare(folder, inputs)
            process = start(COMMANDS[name].words, folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            began = time.monotonic()
            _, errors = process.communicate(timeout=500)
            assert process.returncode == 0, errors
            known[name] = contents(folder), time.monotonic() - began
        return known[name]

    return run


def end(process: subprocess.Popen[bytes], how: str) -> tuple[int, str]:
    """(exit status, stderr) of a process that is ended now; its pipes are closed."""
    assert process.stdout is not None
    assert process.stderr is not None
    if how == "PIPE":
        process.stdout.close()
        said = process.stderr.read()
        process.stderr.close()
        return process.wait(500), said.decode()
    process.send_signal(signal.Signals[f"SIG{how}"])
    _, said = process.communicate(timeout=500)
    return process.returncode, said.decode()


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_ended_at_any_moment_loses_nothing(
    name: str, how: str, tmp_path: Path, inputs: Path, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seconds = undisturbed(name)
    prepare(tmp_path, inputs)
    command = COMMANDS[name]
    process = start(command.words, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(random.Random(f"{name} {how}").random() * seconds)
    code, said = end(process, how)
    number = {"KILL": -9, "PIPE": 141}.get(how) or 128 + signal.Signals[f"SIG{how}"]
    if code == 128 - number:  # while Python ended, after the command
        assert contents(tmp_path) == whole
        code = 0
    assert code in (0, number), said  # 0: it was done already, or prints nothing more
    assert "Traceback" not in said
    assert said.count("Error: ") == (1 if code not in (0, -9, 141) else 0), said
    record(name, how, code)

    hidden = [path for path in tmp_path.rglob(".*") if not path.name.endswith(".moelock")]
    assert how == "KILL" or not hidden, "only a kill leaves a temporary file"
    for path in tmp_path.rglob("*.safetensors"):
        load_file(path)  # whole
    monkeypatch.chdir(tmp_path)
    main([*command.words, *(["--resume"] if command.resumes else [])])
    assert contents(tmp_path) == whole
    assert not list(tmp_path.rglob(".*")), "the next run leaves nothing of the one before"


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("how", WAYS[:-1])
def test_a_server_that_is_ended_at_any_moment_has_its_statistics(how: str, tmp_path: Path) -> None:
    from serve_process import OURS, serving

    from mlx_moebench.checkpoints.located import NANO

    arguments = ("--model", str(NANO), "--output", "out.json", "--save-every", "0.2")
    with serving(OURS, *arguments, cwd=tmp_path) as server:
        for _ in range(3):
            server.complete(prompt="What is", max_tokens=7)
        until = time.monotonic() + 60
        while server.routing()["model"]["saved"] is None and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(random.Random(how).random())
        counted = server.routing()["phases"]["prefill"]["all"]["tokens"]
        number = signal.Signals[f"SIG{how}"]
        assert server.end(number) == (-9 if how == "KILL" else 128 + number), server.log
        assert "Traceback" not in server.log
        record("serve", how, -9 if how == "KILL" else 128 + number)
    RoutingStats.load(tmp_path / "out.json").check()
    if how != "KILL":
        assert RoutingStats.load(tmp_path / "out.json").n_tokens == counted
        assert not list(tmp_path.glob(".*"))


def record(name: str, how: str, code: int) -> None:
    """A line for the table of docs/reliability.md, where KILLS names a file for it."""
    if place := os.environ.get("KILLS"):
        with Path(place).open("a") as file:
            file.write(f"{name} {how} {code}\n")
