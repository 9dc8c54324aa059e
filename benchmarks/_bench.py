"""What all benchmarks share: arms in turn, ratios with quartiles, the machine, and one shape of results.

A benchmark is a script with `arguments` that fills a `Results` and ends with `Results.finish`, which prints a table
and, with ``--json``, writes what `run.py` puts together::

    {"benchmark", "date", "quick", "machine": {...}, "notes": [...],
     "ratios": [{"what", "over", "unit", "value", "base", "low", "ratio", "high", "rounds"}],
     "figures": [{"what", "value", "unit"}]}  # with low and high where it is a median with quartiles

value, base: medians of the arm and of what it is held against. ratio: the median over rounds of value / base, low and
high its quartiles. Ratios of times, so less is faster, unless ``unit`` is a rate.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlx_moebench.files import write_aside

ROOT = Path(__file__).parents[1]
Arm = Callable[[], float]
"""Does one thing once and returns the seconds, or whatever is compared, of the part that counts."""


RATIO_COLUMNS = ("what", "over", "what takes", "over takes", "unit", "ratio [quartiles]", "rounds")


class Ratio(NamedTuple):
    """Median of ratios over rounds, with quartiles."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio_of(values: Sequence[float], base: Sequence[float]) -> Ratio:
    """Of each round its value over its base, and of those the quartiles: what slows a round down slows both."""
    return Ratio(*(float(q) for q in np.percentile(np.asarray(values) / np.asarray(base), (25, 50, 75))))


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What is told of a run: how long it takes, or how long it keeps processors busy, which other programs disturb less."""


def timed(work: Callable[[], object], clock: str = "wall") -> Arm:
    """An arm of all that ``work`` does, by one of `CLOCKS`."""
    now = CLOCKS[clock]

    def arm() -> float:
        start = now()
        work()
        return now() - start

    return arm


def in_turn(arms: Mapping[str, Arm], rounds: int, name: str, warm_up: int = 1) -> dict[str, list[float]]:
    """What each arm gave in each of ``rounds`` rounds, after ``warm_up`` that do not count.

    Every round runs every arm, each next round in the opposite order and begun one further, so that whatever else the
    machine does, and what an arm leaves behind, falls on all.
    """
    names = list(arms)
    given: dict[str, list[float]] = {arm: [] for arm in names}
    for number in range(-warm_up, rounds):
        start = number // 2 % len(names)
        order = names[start:] + names[:start]
        for arm in order if number % 2 else order[::-1]:
            value = arms[arm]()
            if number >= 0:
                given[arm].append(value)
        last = "" if number < 0 else ", ".join(f"{arm} {values[-1]:.3f}" for arm, values in given.items())
        say(f"{name}: {'warm-up' if number < 0 else f'round {number + 1} of {rounds}: {last}'}")
    return given


def say(line: str) -> None:
    """Progress, beside the results."""
    print(line, file=sys.stderr, flush=True)


class Worker:
    """A process that is asked for one thing after the other, and holds what it loaded: `serve_worker` is its loop.

    Libraries then share neither BLAS, threads nor allocator. threads: see `environment_of_children`.
    """

    def __init__(self, script: str, *arguments: str, threads: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment_of_children(threads),
        )

    def ask(self, what: str) -> Any:
        """The answer of the worker to one line."""
        self.send(what)
        return self.answer(what)

    def send(self, what: str) -> None:
        """Have the worker begin with something, without waiting for its `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()

    def answer(self, what: str) -> Any:
        """The answer to what was sent."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"The worker ended with status {self._process.wait()} when it was asked for {what!r}.")
        return json.loads(line)

    def arm(self, what: str) -> Arm:
        """An arm that the worker runs."""
        return lambda: float(self.ask(what))

    def close(self) -> None:
        """End the process."""
        with self._process:  # which closes what it reads and writes, and waits
            pass


def serve_worker(answers: Mapping[str, Callable[[], object]]) -> None:
    """Answer each line of the standard input, the name of an answer, with one line of JSON.

    Whatever else is printed goes to the standard error, also by libraries.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        out.write(json.dumps(answers[line.strip()]()) + "\n")
        out.flush()


THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def environment_of_children(threads: int | None = None) -> dict[str, str]:
    """So that children find this tree, and multiply matrices with so many threads; None for those of this process."""
    paths = filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))
    own = dict(os.environ) | {"PYTHONPATH": os.pathsep.join(paths)}
    return own if threads is None else own | dict.fromkeys(THREADS, str(threads))


def run_child(arguments: Sequence[str]) -> str:
    """What a Python process with these arguments prints."""
    done = subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment_of_children()
    )
    return done.stdout


def peak_mib() -> float:
    """The peak of this process's resident memory, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins, on Linux, with the peak of the process that started this one
        line = next(line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


# -- the machine ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What a reader must know to judge a figure: processor, threads, load, versions, and how fast matrices multiply."""
    facts = json.loads(run_child([__file__]))
    return {"processor": processor(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)} | facts


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def rates() -> dict[str, float]:
    """GFLOP/s of MLX in float32: of a dense product, and of the `gather_mm` by which stock mlx-lm runs experts."""
    from mlx_moebench.models import select_device

    select_device("auto")
    import mlx.core as mx

    a, experts = mx.random.normal((1024, 1024)), mx.random.normal((64, 512, 256))
    x, indices = mx.random.normal((512, 1, 1, 512)), mx.random.randint(0, 64, (512, 8))
    mx.eval(a, experts, x, indices)
    products = {
        "dense": (lambda: a @ a, 2 * 1024**3),
        "gather_mm": (lambda: mx.gather_mm(x, experts, rhs_indices=indices), 2 * 512 * 8 * 512 * 256),
    }
    found = {}
    for name, (product, operations) in products.items():
        seconds = in_turn({name: timed(lambda product=product: mx.eval(product()))}, 5, f"speed of {name}")[name]
        found[f"{name}_gflops"] = round(operations / float(np.median(seconds)) / 1e9, 1)
    return found


# -- results ----------------------------------------------------------------------------------------------------------


@dataclass
class Results:
    """What a benchmark found."""

    benchmark: str
    quick: bool
    ratios: list[dict[str, Any]] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ratio(self, what: str, over: str, values: Sequence[float], base: Sequence[float], unit: str = "s") -> Ratio:
        """Add how one arm compares with another, in the rounds of `in_turn`."""
        ratio = ratio_of(values, base)
        medians = {"value": float(np.median(values)), "base": float(np.median(base))}
        quartiles = {"low": ratio.low, "ratio": ratio.median, "high": ratio.high, "rounds": len(values)}
        self.ratios.append({"what": what, "over": over, "unit": unit} | medians | quartiles)
        return ratio

    def figure(self, what: str, value: float, unit: str) -> None:
        """Add a number that is compared with nothing."""
        self.figures.append({"what": what, "value": float(value), "unit": unit})

    def spread(self, what: str, values: Sequence[float], unit: str) -> None:
        """Add the median of what is compared with nothing, with its quartiles."""
        low, median, high = (float(q) for q in np.percentile(values, (25, 50, 75)))
        self.figures.append({"what": what, "value": median, "unit": unit, "low": low, "high": high})

    def note(self, sentence: str) -> None:
        """Add what a reader must know beside the numbers."""
        self.notes.append(sentence)

    def finish(self, path: Path | None) -> None:
        """Print the table, and write the file if there is to be one."""
        print(table(asdict(self)))
        if path is not None:
            date = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
            content = asdict(self) | {"date": date, "machine": machine()}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_aside({path: (json.dumps(content, indent=2) + "\n").encode()})


def table(results: Mapping[str, Any]) -> str:
    """Ratios, figures and notes of a file of results as Markdown."""
    parts = []
    if results["ratios"]:
        rows = [
            (r["what"], r["over"], number(r["value"]), number(r["base"]), r["unit"], quartiles(r), r["rounds"])
            for r in results["ratios"]
        ]
        parts.append(
            markdown(("what", "over", "what takes", "over takes", "unit", "ratio [quartiles]", "rounds"), rows)
        )
    if results["figures"]:
        figures = [(f["what"], _figure(f), f["unit"]) for f in results["figures"]]
        parts.append(markdown(("what", "measured", "unit"), figures))
    if results["notes"]:
        parts.append("\n".join(f"- {note}" for note in results["notes"]))
    return "\n\n".join(parts)


def _figure(figure: Mapping[str, Any]) -> str:
    value = number(figure["value"])
    return f"{value} [{number(figure['low'])}, {number(figure['high'])}]" if "low" in figure else value


def quartiles(row: Mapping[str, Any]) -> str:
    """``1.020 [1.010, 1.031]`` of one of the ratios of a file of results."""
    return str(Ratio(row["low"], row["ratio"], row["high"]))


def number(value: float) -> str:
    """Four digits, those before the point never rounded away."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def arguments(doc: str | None, rounds: int, quick_rounds: int = 2) -> argparse.ArgumentParser:
    """A parser with what every benchmark has: --rounds, --quick and --json; `parsed` reads it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"how often each arm runs, by default {rounds}")
    parser.add_argument("--quick", action="store_true", help="tiny models and two rounds: whether it runs, no figures")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here")
    parser.set_defaults(usual=(rounds, quick_rounds))
    return parser


def parsed(parser: argparse.ArgumentParser, given: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments, with the rounds that are usual, or quick, where none are given."""
    args = parser.parse_args(given)
    if args.rounds is None:
        args.rounds = args.usual[args.quick]
    return args


def _facts() -> dict[str, Any]:
    """What `machine` asks a process of its own for, so that no benchmark has these libraries loaded by it."""
    from mlx_moebench.environment import environment, package_version

    speeds = rates()
    return environment() | {name: package_version(name) for name in ("torch", "transformers")} | speeds


if __name__ == "__main__":
    print(json.dumps(_facts()))
