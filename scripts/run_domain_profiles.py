"""Measure models on domains, one stats pair each, and compare the domains of every model.

    python scripts/run_domain_profiles.py                                     # the embedded model
    python scripts/run_domain_profiles.py --models allenai/OLMoE-1B-7B-0924 jetmoe/jetmoe-8b --max-samples 40 --bits 4

Writes OUT/routing_stats_MODEL_DOMAIN.json (and .safetensors) by `mlx-moebench analyze`, one model in memory at a time,
and OUT/profiles/MODEL/profile.json and profile.csv by `mlx-moebench profile`. Started again with the same options, it
goes on where it was stopped. Give other options another --output; `update_leaderboard.py --results OUT` makes a table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from mlx_moebench.data.importers import split_name

MODULE = [sys.executable, "-m", "mlx_moebench"]


def name_of(argument: str) -> tuple[str, str]:
    """(name in files, value) of NAME=VALUE, or of a value alone, whose last part is its name."""
    name, value = split_name(argument)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name or Path(value.removeprefix("hub:")).stem), value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", metavar="[NAME=]MODEL", help="folders or hub ids [the embedded model]")
    parser.add_argument("--domains", nargs="+", metavar="[NAME=]DATA", default=["math", "general", "code"])
    parser.add_argument("--max-samples", type=int, help="documents of each domain [all]")
    parser.add_argument("--max-length", type=int, default=256, help="tokens kept of a document [256]")
    parser.add_argument("--bits", choices=["4", "8"], help="quantise while loading [as stored]")
    parser.add_argument("--device", default="auto", help="auto, gpu, cpu, mps or cuda [auto]")
    parser.add_argument("--output", type=Path, default=Path("runs/profiles"), help="folder to write to [runs/profiles]")
    args = parser.parse_args()
    options = ["--max-length", str(args.max_length), "--device", args.device]
    options += ["--max-samples", str(args.max_samples)] if args.max_samples else []
    options += ["--bits", args.bits] if args.bits else []
    for argument in args.models or [None]:
        name, model = ("moebench-nano", None) if argument is None else name_of(argument)
        pairs = []
        for domain, data in map(name_of, args.domains):
            pair = args.output / f"routing_stats_{name}_{domain}.json"
            chosen = ["--model", model] if model else []
            run("analyze", *chosen, "--dataset", data, *options, "--output", str(pair), "--resume")
            pairs.append(f"{domain}={pair}")
        if len(pairs) > 1:
            run("profile", *pairs, "--output", str(args.output / "profiles" / name))


def run(*arguments: str) -> None:
    """One command of the package; the script ends as it ends where it fails."""
    code = subprocess.run([*MODULE, *arguments]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
