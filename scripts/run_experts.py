"""Which experts of the embedded model matter: results/experts, from MMLU's questions and the bundled texts.

    python scripts/run_experts.py --mmlu ../shared/data/mmlu     # about 15 minutes on one core
    python scripts/run_experts.py --mmlu FOLDER --only prune_math
    python scripts/run_experts.py --mmlu FOLDER --model ./upcycled --prefix upcycled_

Experts on all validation questions, at the last token of each and at every token; pruning a quarter of them by REAP on
each bundled domain, against random prunings, by other criteria, and exported. `python scripts/make_results.py
--only-notes` then fills in results/EXPERT_NOTES.md. What is there is gone on with.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "experts"
DOMAINS = ("math", "general", "code")
RANDOM = 10
"""Random prunings of the same size."""


def runs() -> Iterator[tuple[str, list[str]]]:
    """(name of the report, arguments of the command)."""
    for positions in ("last", "all"):
        yield f"mmlu_{positions}", ["--mmlu", "mmlu", "--split", "val", "--positions", positions]
    for domain in DOMAINS:
        arguments = ["prune", "--by", "reap", "--dataset", domain, "--random", str(RANDOM)]
        yield f"prune_{domain}", [*arguments, *(["--export", "less"] if domain == "math" else [])]
    other = ["prune", "--dataset", "math", "--random", str(RANDOM)]
    yield "prune_math_frequency", [*other, "--by", "frequency"]
    yield "prune_math_zero", [*other, "--by", "reap", "--how", "zero"]
    yield "merge_math", ["merge-candidates", "--dataset", "math"]
    asked = ["--mmlu", "mmlu", "--split", "val", "--per-subject", "10"]
    yield "reweight", ["reweight", "--dataset", "math", *asked, "--shuffled", "2"]


def run(name: str, arguments: list[str], folder: Path) -> None:
    """One command in ``folder``, so that the paths it records are the same everywhere."""
    command = [sys.executable, "-m", "mlx_moebench", "experts", *arguments, "--output", f"experts/{name}.json"]
    print(f"{name}: mlx-moebench experts {' '.join(arguments)}", flush=True)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    subprocess.run(
        [*command, "--resume", "--quiet"], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmlu", type=Path, required=True, help="folder of MMLU's CSV files with dev/ and val/")
    parser.add_argument("--model", type=Path, help="another model than the embedded one")
    parser.add_argument("--prefix", default="", help="of the names of its reports")
    parser.add_argument("--only", nargs="+", choices=[name for name, _ in runs()], help="these reports alone")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "mmlu").symlink_to(args.mmlu.resolve(), target_is_directory=True)
        (folder / "experts").symlink_to(FOLDER, target_is_directory=True)
        model = [] if args.model is None else ["--model", args.model.name]
        if args.model is not None:
            (folder / args.model.name).symlink_to(args.model.resolve(), target_is_directory=True)
        for name, arguments in runs():
            if args.only is None or name in args.only:
                run(args.prefix + name, [*arguments, *model], folder)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # the command has said why
