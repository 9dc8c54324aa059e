"""Run the benchmarks that a laptop can take, and put what they say together: ``make bench``.

python benchmarks/run.py [--only peers page] [--skip serve] [--quick] [--moewatch FOLDER] [--folder results/benchmarks]
python benchmarks/run.py --only-page    # the table and the picture again, from the files that are there

Each part is a script in this folder, found by its name in `PARTS`, that writes its results with ``--json`` in the shape
of `_bench.Results`. One that fails, or is not there, costs the others nothing. Beside the files go README.md, with all
tables, ratios.svg, and the table of peers in docs/benchmarks.md. For figures, let nothing else run; on two cores all
parts take some 50 minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _bench import ROOT, environment_of_children, say, table

from mlx_moebench.files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = ROOT / "results" / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- written by benchmarks/run.py -->\n", "<!-- until here -->\n"


@dataclass(frozen=True)
class Part:
    """A benchmark: its title, its script and arguments, minutes on two cores, and whether its ratios are drawn."""

    title: str
    script: str
    arguments: tuple[str, ...] = ()
    minutes: float = 1
    drawn: bool = False


PARTS: Mapping[str, Part] = {
    "peers": Part("Against other ways to the same", "peers.py", ("--rounds", "5"), 5, True),
    "overhead": Part("What measuring adds to a forward", "overhead.py", ("--part", "nano", "torch"), 1, True),
    "overhead_width": Part(
        "The same at real width", "overhead.py", ("--part", "width", "--rounds", "4", "--tokens", "512"), 3, True
    ),
    "experts": Part("What hearing every expert adds to a forward", "experts.py", (), 2, True),
    "cpu_path": Part("Experts on a CPU", "cpu_path.py", (), 3, True),
    "less_work": Part("What analyze leaves out", "less_work.py", (), 5, True),
    "streaming": Part("Layer by layer against in memory", "streaming.py", (), 6, True),
    "batches": Part("Batches fitted to memory", "batches.py", (), 3, True),
    "ranks": Part("Two ranks against one process", "ranks.py", (), 5, True),
    "memory": Part("Memory against tokens, experts and layers", "memory.py", (), 3),
    "bootstrap": Part("Statistics of a large model", "statistics_speed.py", (), 1),
    "merge": Part("Merging many pairs", "merge.py", (), 5),
    "page": Part("Pages", "page.py", (), 1),
    "startup": Part("Start-up", "startup.py", ("--rounds", "5"), 1.5),
    "serve": Part("Serving", "serve.py", ("--part", "nano", "--rounds", "12", "--tokens", "64"), 2),
    "lab_step": Part(
        "An update of `lab train` against PyTorch", "lab_step.py", ("--rounds", "12", "--clock", "cpu"), 1
    ),
}
"""In the order of the page."""


def run(name: str, part: Part, folder: Path, args: argparse.Namespace) -> str | None:
    """Run a part; the reason where it gave nothing."""
    script = Path(__file__).parent / part.script
    if not script.is_file():
        return f"{part.script} is not in this tree"
    given = ["--quick"] if args.quick else list(part.arguments)
    if part.script == "peers.py" and args.moewatch:
        given += ["--moewatch", str(args.moewatch)]
    say(f"\n{name}: {part.script} {' '.join(given)}, about {part.minutes:g} min")
    start = time.perf_counter()
    command = [sys.executable, str(script), *given, "--json", str(folder / f"{name}.json")]
    status = subprocess.run(command, stdout=subprocess.DEVNULL, env=environment_of_children()).returncode
    say(f"{name}: {time.perf_counter() - start:.0f} s")
    return f"{part.script} ended with status {status}" if status else None


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of results in ``folder``, by part."""
    paths = {name: folder / f"{name}.json" for name in PARTS}
    return {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.is_file()}


def said_of(results: Mapping[str, Any]) -> str:
    """When and where a file of results was made."""
    at = results["machine"]
    load = f"{at['cores']} cores, {at['threads']} threads, load {at['load']:g} at the end"
    versions = ", ".join(f"{name} {at[name.replace('-', '_')]}" for name in ("mlx", "mlx-lm", "torch", "transformers"))
    speed = f"dense products {at['dense_gflops']:g} GFLOP/s, gather_mm {at['gather_mm_gflops']:g}"
    said = f"{results['date'][:10]}: {at['processor']}, {load}, {at['device']}; {versions}; {at['blas']}; {speed}."
    return said + (" **A quick run: these are no figures.**" if results["quick"] else "")


def page(every: Mapping[str, Mapping[str, Any]]) -> str:
    """README.md of the folder."""
    parts = [
        "# Benchmarks\n\nWritten by `make bench`; a file of the same name has each part's numbers, with the machine. "
        "Ratios are medians over rounds in which the arms take turns, with quartiles: read them rather than the times. "
        "[docs/benchmarks.md](../../docs/benchmarks.md) says how each is made.\n\n![ratios](ratios.svg)"
    ]
    for name, results in every.items():
        part = PARTS[name]
        call = " ".join(["python", f"benchmarks/{part.script}", *part.arguments])
        parts.append(f"## {part.title}\n\n`{call}`: {said_of(results)}\n\n{table(results)}")
    return "\n\n".join(parts) + "\n"


def block(peers: Mapping[str, Any]) -> str:
    """What stands between the marks of docs/benchmarks.md."""
    return f"{BEGIN}\n{said_of(peers)}\n\n{table(peers)}\n\n{END}"


def with_block(text: str, peers: Mapping[str, Any]) -> str:
    """docs/benchmarks.md with the table of peers as it was measured last."""
    before, _, rest = text.partition(BEGIN)
    return before + block(peers) + rest.partition(END)[2]


def draw(every: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Every ratio of times with its quartiles, on one logarithmic axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    from mlx_moebench.show.colours import DOMAINS
    from mlx_moebench.show.plots.base import WIDTH, plain

    drawn = {
        name: [row for row in results["ratios"] if row["unit"] == "s"]
        for name, results in every.items()
        if PARTS[name].drawn
    }
    drawn = {name: rows for name, rows in drawn.items() if rows}
    count = sum(len(rows) + 1 for rows in drawn.values())
    figure = Figure(figsize=(WIDTH, 0.7 + 0.17 * count), layout="constrained")
    axis = figure.subplots()
    place, ticks = 0, []
    for number, (name, rows) in enumerate(drawn.items()):
        ticks.append((place, PARTS[name].title, True))
        for row in rows:
            place += 1
            colour = DOMAINS[number % len(DOMAINS)]
            axis.plot([row["low"], row["high"]], [place, place], color=colour)
            axis.plot(row["ratio"], place, "o", color=colour)
            ticks.append((place, f"{plain(row['what'], 50)} / {plain(row['over'], 50)}", False))
        place += 1
    axis.set_xscale("log")
    low, high = axis.get_xlim()
    known = [step for step in STEPS if low <= step <= high]
    axis.xaxis.set_major_locator(FixedLocator(known))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.axvline(1, color="0.4", lw=0.8, ls="--")
    axis.set_yticks([at for at, _, _ in ticks], [text for _, text, _ in ticks])
    for label, (_, _, bold) in zip(axis.get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if bold else "normal")
    axis.set_ylim(place - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    axis.set_xlabel("ratio of times, logarithmic: below 1 the first is faster")
    figure.suptitle("Medians over rounds, lines: quartiles")
    return figure


STEPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.5, 2, 3, 5, 10, 20, 50)


def put_together(folder: Path, docs: Path | None) -> None:
    """README.md, ratios.svg, and the block of ``docs``, from the files in ``folder``."""
    from mlx_moebench.show.plots.base import picture

    every = read(folder)
    contents = {folder / "README.md": page(every).encode(), folder / "ratios.svg": picture(".svg", lambda: draw(every))}
    if docs is not None and "peers" in every:
        contents[docs] = with_block(docs.read_text("utf-8"), every["peers"]).encode()
    write_aside(contents)


def main(given: Sequence[str] | None = None) -> int:
    parts = [f"  {name:15} {part.minutes:4g} min  {part.title}" for name, part in PARTS.items()]
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog="\n".join(["parts:", *parts]), formatter_class=layout)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help="these parts; the files of others stay"
    )
    parser.add_argument("--skip", nargs="+", choices=PARTS, metavar="PART", default=[], help="not these")
    parser.add_argument("--quick", action="store_true", help="tiny models: whether all run, no figures; needs --folder")
    parser.add_argument("--moewatch", type=Path, metavar="FOLDER", help="see peers.py")
    parser.add_argument("--folder", type=Path, help="where the files go, by default results/benchmarks")
    parser.add_argument("--only-page", action="store_true", help="measure nothing")
    args = parser.parse_args(given)
    if args.quick and args.folder is None:
        parser.error("--quick gives no figures: name a --folder for them that is not results/benchmarks")
    folder = (args.folder or FOLDER).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [] if args.only_page else [name for name in args.only or PARTS if name not in args.skip]
    missing = {name: reason for name in chosen if (reason := run(name, PARTS[name], folder, args))}
    put_together(folder, PAGE if folder == FOLDER else None)
    for name, reason in missing.items():
        say(f"{name} was left out: {reason}.")
    return int(any("status" in reason for reason in missing.values()))


if __name__ == "__main__":
    sys.exit(main())
