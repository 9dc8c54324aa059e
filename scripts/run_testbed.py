"""The routing testbed as a study: methods and balancing scopes over seeds, at three sizes, resumable, 48 runs.

    python scripts/run_testbed.py --data DATA [--runs runs/testbed] [--jobs 2]
    python scripts/run_testbed.py --domain code=src.jsonl --domain law=law.jsonl@text ... --only testbed
    python scripts/run_testbed.py --data DATA --dry-run
    python scripts/run_testbed.py --no-training          # results/testbed from the runs that are finished
    python scripts/run_testbed.py --only-page            # the page from the testbed.json in it

DATA is a folder with the texts of `SOURCES` below, of which the script makes a file for each domain. Runs are those of
`mlx-moebench lab testbed`: a finished run is kept and one that was stopped goes on, so the script can be started again
at any time. `results/testbed` gets testbed.json, which `report` and `plot testbed` take, and a page with tables.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mlx_moebench.blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

from mlx_moebench.files import write_aside  # noqa: E402
from mlx_moebench.lab.domains import domains_of  # noqa: E402
from mlx_moebench.lab.ladder import result  # noqa: E402
from mlx_moebench.lab.methods import METHODS  # noqa: E402
from mlx_moebench.lab.testbed import MEASURED, RESULT, Testbed, prepare, read_run, run, run_folder  # noqa: E402
from mlx_moebench.pair.seal import sealed_text  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "testbed"
MOST = 48
CPU = "cpu.json"

SEEDS = {"none": 3, "sequence": 3, "micro-batch": 3, "global": 3, "lossfree": 3, "z-loss": 3, "reference": 3} | {
    "floor-sequence": 3,
    "floor-micro-batch": 3,
    "floor-global": 3,
    "random": 1,
    "hash": 1,
}
"""Seeds of every method at the smallest size. ``random`` and ``hash`` are no trained routers."""

SIZES: dict[str, dict[str, int]] = {
    "testbed": SEEDS,
    "testbed-2": {"sequence": 3, "micro-batch": 3, "global": 3, "reference": 1, "random": 1, "none": 1},
    "testbed-3": {"sequence": 1, "micro-batch": 1, "global": 1, "reference": 1},
}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _dialogue(row: dict[str, Any]) -> str:
    return "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in row["turns"])


SOURCES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "code": ("code/python_requests.jsonl", lambda row: str(row["text"])),
    "LaTeX": ("domains/latex_hott.jsonl", lambda row: str(row["text"])),
    "SQL": ("domains/sql_spider_dev.jsonl", lambda row: str(row["query"])),
    "dialogue": ("domains/chat_sgd.jsonl", _dialogue),
    "law": ("domains/law_complaints.jsonl", lambda row: str(row["text"])),
    "biomedical": ("domains/biomed_pubmedqa.jsonl", lambda row: "\n".join(row["CONTEXTS"])),
    "German": ("domains/pud_de.jsonl", lambda row: str(row["text"])),
    "Chinese": ("domains/pud_zh.jsonl", lambda row: str(row["text"])),
}
"""Domain, its file below DATA, and the text of a row; stories are text/tinystories_b.txt, split at its end tokens."""

STORIES = ("stories", "text/tinystories_b.txt", "<|endoftext|>")


class Planned(NamedTuple):
    """One run of the study."""

    preset: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.preset}/{self.method}-seed{self.seed}"


def planned(presets: Sequence[str]) -> list[Planned]:
    """All runs, seed by seed, the smallest first."""
    runs = [
        Planned(preset, method, seed)
        for preset in presets
        for seed in range(3)
        for method, seeds in SIZES[preset].items()
        if seed < seeds
    ]
    if len(runs) > MOST:
        raise SystemExit(f"That is {len(runs)} runs; at most {MOST}.")
    return runs


def make_domains(data: Path, folder: Path) -> dict[str, str]:
    """A file of texts for each domain, as they lie there if they do."""
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, Callable[[], Iterator[str]]] = {}
    for name, (file, text) in SOURCES.items():
        texts[name] = lambda file=file, text=text: map(text, _lines(data / file))  # type: ignore[misc]
    name, file, end = STORIES
    texts[name] = lambda: iter((data / file).read_text("utf-8").split(end))
    for name, read in texts.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            rows = [json.dumps({"text": text}, ensure_ascii=False) for text in read() if text.strip()]
            write_aside({path: ("\n".join(rows) + "\n").encode()})
    return domains_of(folder)


def bed_of(preset: str, runs: Path) -> Testbed:
    domains = json.loads((runs / "domains.json").read_text("utf-8"))
    return Testbed(domains=domains, preset=preset)


def one(which: Planned, runs: Path) -> None:
    """Train and measure in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    folder = runs / which.preset
    run(bed_of(which.preset, runs), METHODS[which.method], which.seed, folder, device="cpu")
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    write_aside({run_folder(folder, which.method, which.seed) / CPU: json.dumps({"seconds": seconds}).encode()})


def train_all(todo: Sequence[Planned], args: argparse.Namespace) -> list[str]:
    """Run what is not finished, some at a time; the names of those that failed."""

    def work(which: Planned) -> str | None:
        command = [sys.executable, __file__, "--one", *map(str, which), "--runs", str(args.runs)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(f"{which.name} ended with status {done.returncode}: {done.stdout[-2000:]}", flush=True)
            return which.name
        measured = read_run(run_folder(args.runs / which.preset, which.method, which.seed) / MEASURED)
        s = sum(router["specialisation"] for router in measured["routers"]) / len(measured["routers"])
        print(f"{which.name}: loss {measured['loss']:.4f}, MI / ln D {s:.3f}", flush=True)
        return None

    with ThreadPoolExecutor(args.jobs) as pool:
        return [name for name in pool.map(work, todo) if name]


def collected(runs: Path) -> dict[str, Any]:
    """What the finished runs say together."""
    measured: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {}
    for which in planned(list(SIZES)):
        place = run_folder(runs / which.preset, which.method, which.seed)
        if (place / MEASURED).exists():
            measured.append(read_run(place / MEASURED))
            if (place / CPU).exists():
                seconds.setdefault(which.preset, []).append(json.loads((place / CPU).read_text())["seconds"])
    if not measured:
        raise SystemExit(f"No run in {runs} is finished.")
    made = result(bed_of("testbed", runs), measured)
    for size in made["sizes"]:
        size["cpu_seconds"] = seconds.get(size["preset"], [])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the texts that the script knows")
    parser.add_argument("--domain", action="append", default=[], metavar="NAME=DATA", help="a domain of your own")
    parser.add_argument("--runs", type=Path, default=Path("runs/testbed"), help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", choices=SIZES, default=list(SIZES), help="these sizes")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--dry-run", action="store_true", help="name the runs and whether they are finished")
    parser.add_argument("--no-training", action="store_true", help="take the runs that are finished")
    parser.add_argument("--only-page", action="store_true", help="read no run but testbed.json")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(Planned(args.one[0], args.one[1], int(args.one[2])), args.runs)
        return
    runs = planned(args.only)
    done = {r for r in runs if (run_folder(args.runs / r.preset, r.method, r.seed) / MEASURED).exists()}
    if args.dry_run:
        for which in runs:
            print(f"{which.name:36} {'finished' if which in done else ''}".rstrip())
        return
    failed: list[str] = []
    if not args.only_page:
        if not args.no_training:
            failed = _trained(runs, done, args, parser)
        args.results.mkdir(parents=True, exist_ok=True)
        write_aside({args.results / RESULT: sealed_text(collected(args.runs)).encode()})
    from testbed_page import write_page

    write_page(args.results)
    if failed:
        raise SystemExit(f"{', '.join(failed)} failed; start again to go on.")


def _trained(
    runs: Sequence[Planned], done: set[Planned], args: argparse.Namespace, parser: argparse.ArgumentParser
) -> list[str]:
    if not args.domain and args.data is None:
        parser.error("name the texts with --data, or your own with --domain NAME=DATA")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"  # several runs share the cores
    own = dict(entry.split("=", 1) for entry in args.domain)
    domains = own or make_domains(args.data, args.runs / "domains")
    write_aside({args.runs / "domains.json": (json.dumps(domains, indent=1) + "\n").encode()})
    for preset in args.only:
        prepare(bed_of(preset, args.runs), args.runs / preset)
    print(f"{len(runs)} runs, {len(done)} are finished", flush=True)
    return train_all([which for which in runs if which not in done], args)


if __name__ == "__main__":
    main()
