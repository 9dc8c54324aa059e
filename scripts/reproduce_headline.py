"""Hold the published table of OLMoE-1B-7B, JetMoE-8B and Qwen1.5-MoE-A2.7B against a measurement of the three.

    python scripts/reproduce_headline.py --plan                    # what it would download and hold in memory
    python scripts/reproduce_headline.py                           # on a Mac: 60 GB of downloads, one model at a time
    python scripts/reproduce_headline.py --models JetMoE-8B        # one of them
    python scripts/reproduce_headline.py --models JetMoE-8B=./tiny_jetmoe --output ./try    # a stand-in, to try it

The published protocol: 40 math prompts, 256 tokens, tau 0.40. The prompts are those of this package, since theirs are
not published. Writes a stats pair per model, headline.json and headline.md: all three shares side by side, and for
every published figure whether it is reproduced, differs, or cannot be that quantity. Started again it goes on where it
was stopped. This project has no machine for these weights: it has run the script on small stand-ins only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from leaderboard import headline_table, leaderboard_of, plan_of
from published import bits_that_fit, held_against, read_published, weights_gb

from mlx_moebench.data.importers import split_name
from mlx_moebench.errors import MoebenchError, did_you_mean
from mlx_moebench.files import write_aside
from mlx_moebench.pair.stats import RoutingStats
from mlx_moebench.pair.storage import read_report
from mlx_moebench.show.tables.doctor import memory_gb

PUBLISHED = Path(__file__).parents[1] / "results" / "published.json"


def chosen(wanted: list[str] | None, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str | None]]:
    """(published row, stand-in or None) of each NAME or NAME=STAND-IN; all rows by default."""
    by_name = {row["model"]: row for row in rows}
    picked: list[tuple[dict[str, Any], str | None]] = []
    for argument in wanted or list(by_name):
        name, value = split_name(argument)
        name, stand_in = (value, None) if name is None else (name, value)
        if name not in by_name:
            raise MoebenchError(f"{name!r} is not in the published table.{did_you_mean(name, list(by_name))}")
        picked.append((by_name[name], stand_in))
    return picked


def plan(row: dict[str, Any], stand_in: str | None, bits: str, memory: float) -> tuple[int, str]:
    """(bits to load with, what to say of it); raises `MoebenchError` where the weights do not fit."""
    if stand_in is not None:
        return (16 if bits == "auto" else int(bits)), f"a stand-in ({Path(stand_in).name})"
    fit = bits_that_fit(row["parameters"], memory) if bits == "auto" else int(bits)
    if fit is None:
        needed = weights_gb(row["parameters"], 4)
        raise MoebenchError(f"{row['model']} takes {needed:.1f} GB even at 4 bit, too much for {memory:.0f} GB.")
    size = f"{weights_gb(row['parameters'], fit):.1f} GB of weights"
    stored = weights_gb(row["parameters"], 16)
    why = f" ({stored:.1f} GB as stored are too much for {memory:.0f} GB)" if fit < 16 and bits == "auto" else ""
    return fit, f"{'as stored' if fit == 16 else f'--bits {fit}'}, {size}{why}"


def measure(row: dict[str, Any], stand_in: str | None, bits: int, settings: dict[str, Any], folder: Path) -> Path:
    """The stats pair of one model, by `analyze --resume`; the script ends as that ends where it fails."""
    pair = folder / f"routing_stats_{row['model']}_{settings['dataset']}.json"
    command = [sys.executable, "-m", "mlx_moebench", "analyze", "--output", str(pair), "--resume"]
    command += [] if stand_in == "moebench-nano" else ["--model", stand_in or row["hub_id"]]
    command += [] if bits == 16 else ["--bits", str(bits)]
    for name, value in settings.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    code = subprocess.run(command, stdout=subprocess.DEVNULL).returncode
    if code:
        sys.exit(code)
    return pair


def write(rows: list[tuple[dict[str, Any], str, Path]], published: dict[str, Any], folder: Path) -> str:
    """headline.json and headline.md; returns the latter."""
    held = []
    for row, how, pair in rows:
        entries = held_against(row, RoutingStats.load(pair), plan_of(read_report(pair)))
        held.append((row["model"], how, entries))
    text = f"# The published table, measured\n\nTheirs: {published['name']}, {published['protocol']}.\n\n"
    text += leaderboard_of([pair for _, _, pair in rows]) + "\n## Every published figure\n\n" + headline_table(held)
    stand_ins = [model for model, how, _ in held if how.startswith("a stand-in")]
    if stand_ins:
        text += f"\nRun with stand-ins for {', '.join(stand_ins)}: nothing here is about the published models.\n"
    models = [{"model": model, "how": how, "figures": entries} for model, how, entries in held]
    blob = json.dumps({"published": published, "models": models}, indent=1, allow_nan=False) + "\n"
    write_aside({folder / "headline.json": blob.encode(), folder / "headline.md": text.encode()})
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="NAME[=STAND-IN]", help="published names [all three]")
    parser.add_argument("--bits", choices=["auto", "4", "8", "16"], default="auto", help="16: as stored [what fits]")
    parser.add_argument("--memory", type=float, help="GB of this machine [asked of the system]")
    parser.add_argument("--max-samples", type=int, help="fewer prompts than published, to try it")
    parser.add_argument("--plan", action="store_true", help="say what would run, and stop")
    parser.add_argument("--output", type=Path, default=Path("runs/headline"), help="folder [runs/headline]")
    args = parser.parse_args()
    published = read_published(PUBLISHED)
    settings = dict(published["settings"]) | ({"max_samples": args.max_samples} if args.max_samples else {})
    memory = args.memory or memory_gb()
    planned = [(row, at, *plan(row, at, args.bits, memory)) for row, at in chosen(args.models, published["rows"])]
    for row, stand_in, _, how in planned:
        stored = f"; {weights_gb(row['parameters'], 16):.1f} GB to download once"
        print(f"{row['model']}: {stand_in or row['hub_id'] + stored}; {how}", file=sys.stderr)
    if args.plan:
        return
    rows = [(row, how, measure(row, at, bits, settings, args.output)) for row, at, bits, how in planned]
    print(write(rows, published, args.output))


if __name__ == "__main__":
    try:
        main()
    except MoebenchError as error:
        sys.exit(f"Error: {error}")
