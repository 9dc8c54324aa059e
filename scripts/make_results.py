"""Make everything in results/ again: the measurements, then the tables and the numbers in the notes.

    python scripts/make_results.py                  # about 8 minutes on one core
    python scripts/make_results.py --only-notes     # tables and notes from the files that are there

Two runs on one machine write the same bytes. The counts of OLMoE are AllenAI's and are not part of this repository:
where the folder that MOEBENCH_SHARED_DATA names (default ../shared/data) has them, they are analysed again; elsewhere
the statistics that are there stay, and the script says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from notes import render_notes
from update_leaderboard import TABLE, table

from mlx_moebench.analysis.overlap import selection_overlap
from mlx_moebench.errors import MoebenchError
from mlx_moebench.files import write_aside
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.types import Facts

ROOT = Path(__file__).parents[1]
DOMAINS = ("math", "general", "code")
PRECISIONS = {"nano": [], "nano_8bit": ["--bits", "8"], "nano_4bit": ["--bits", "4"]}
ARMS = ("stored/8", "stored/4", "4/8", "4/4")
"""Weights/routers in bits, each beside the embedded model as it is stored."""
PROTOCOL = ["--max-samples", "40", "--max-length", "256"]  # that of the published table
OLMOE = "OLMoE-1B-7B, counts of allenai/OLMoE, scripts/routing_output, Apache-2.0"
MANIFEST = "manifest.json"


class Stage:
    """A folder in which the commands run, so that the paths they record are the same everywhere.

    results: links to where results are written. scratch, traces: what is needed on the way only.
    """

    def __init__(self, folder: Path, results: Path) -> None:
        self.folder = folder
        (folder / "results").symlink_to(results.resolve(), target_is_directory=True)
        self.environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str) -> None:
        """One command of the package."""
        print(f"mlx-moebench {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", "mlx_moebench", *arguments]
        subprocess.run(command, cwd=self.folder, env=self.environment, check=True, stdout=subprocess.DEVNULL)


def measure_nano(stage: Stage) -> None:
    """The embedded model at three precisions on three domains: pairs of the protocol, and all prompts with traces."""
    for name, bits in PRECISIONS.items():
        pairs = []
        for domain in DOMAINS:
            pair = f"results/routing_stats_{name}_{domain}.json"
            stage.run("analyze", "--dataset", domain, *PROTOCOL, *bits, "--output", pair, "--quiet")
            pairs.append(f"scratch/{name}_{domain}.json")
            traced = ["--output", pairs[-1], "--trace", f"traces/{name}_{domain}", "--quiet"]
            stage.run("analyze", "--dataset", domain, *bits, *traced)
        stage.run("profile", *pairs, "--output", f"scratch/{name}")
        keep(stage, f"scratch/{name}/profile.json", f"profiles/{name}.json")
        stage.run("merge", *pairs, "--output", f"scratch/{name}_all.json")
    for name in list(PRECISIONS)[1:]:
        sides = ["scratch/nano_all.json", f"scratch/{name}_all.json"]
        stage.run("compare", *sides, "--output", f"results/comparisons/{name}.json")
        for domain in DOMAINS:
            traces = [stage.folder / "traces" / f"{which}_{domain}" for which in ("nano", name)]
            save(stage, f"overlaps/{name}_{domain}.json", selection_overlap(*traces))


def measure_questions(stage: Stage) -> None:
    """Generated text against prompts, loss against uncertainty, words of experts, and intervals over tokens."""
    pair = "results/routing_stats_nano_generate_math.json"
    stage.run("analyze", "--dataset", "math", *PROTOCOL, "--generate", "32", "--output", pair, "--quiet")
    sides = [pair, pair.replace(".json", ".decode.json")]
    stage.run("compare", *sides, "--allow", "phase", "--output", "results/comparisons/nano_decode.json")
    for domain in DOMAINS:
        stage.run("uncertainty", "--dataset", domain, "--output", f"results/uncertainty/nano_{domain}.json", "--quiet")
        trace, output = f"traces/nano_{domain}", f"results/vocabulary/nano_{domain}.json"
        stage.run("vocabulary", trace, "--top", "1", "--output", output)
    benchmark = [sys.executable, str(ROOT / "benchmarks" / "token_intervals.py")]
    benchmark += ["--output", "results/token_intervals.json"]
    subprocess.run(benchmark, cwd=stage.folder, env=stage.environment, check=True, stdout=subprocess.DEVNULL)


def measure_quantised(stage: Stage) -> None:
    """What each quantised arm of the embedded model chooses beside the model as it is stored, token by token."""
    arms = [argument for arm in ARMS for argument in ("--quant", arm)]
    for domain in DOMAINS:
        output = ["--output", f"results/quant_drift/nano_{domain}.json", "--quiet"]
        stage.run("compare", "moebench-nano", *arms, "--dataset", domain, *output)


def analyse_olmoe(stage: Stage) -> None:
    """AllenAI's counts of OLMoE on four domains, where they are."""
    counts = Path(os.environ.get("MOEBENCH_SHARED_DATA", ROOT.parent / "shared" / "data")) / "olmoe_routing"
    if not (counts / "expert_counts").is_dir():
        print(f"There are no counts of OLMoE in {counts} (MOEBENCH_SHARED_DATA): their statistics stay as they are.")
        return
    for folder in ("expert_counts", "expert_counts_top1"):
        (stage.folder / folder).symlink_to((counts / folder).resolve(), target_is_directory=True)
    files = [f"expert_counts/{name}.json" for name in ("arxiv", "book", "c4", "github")]
    chosen = ["--top1", "expert_counts_top1", "--model-id", OLMOE]
    stage.run("import", "olmoe", *files, *chosen, "--output", "results/routing_stats_olmoe_counts.json")
    stage.run("profile", "results/routing_stats_olmoe_counts.json", "--output", "scratch/olmoe")
    keep(stage, "scratch/olmoe/profile.json", "profiles/olmoe_counts.json")


def keep(stage: Stage, source: str, name: str) -> None:
    write_aside({stage.folder / "results" / name: (stage.folder / source).read_bytes()})


def save(stage: Stage, name: str, report: Facts) -> None:
    write_aside({stage.folder / "results" / name: sealed_text(report).encode()})


def rendered(results: Path) -> dict[str, str]:
    """Every page that is made from the files in ``results``, by name: the table, and notes/NAME.in.md as NAME.md."""
    pages = {TABLE: table(results)}
    for template in sorted((results / "notes").glob("*.in.md")):
        pages[template.name.replace(".in.md", ".md")] = render_notes(template, results)
    return pages


def measured(results: Path) -> list[Path]:
    """The files that measurements wrote, by which the manifest vouches for the numbers in the pages."""
    folders = (
        "comparisons", "experts", "libmoe", "lm_eval", "overlaps",
        "profiles", "quant_drift", "uncertainty", "vocabulary",
    )  # fmt: skip
    single = ("token_intervals.json", "published.json", "ldiv_rescue.json", "ablation_comparison.csv")
    files = [*results.glob("routing_stats_*"), *(results / name for name in single)]
    return sorted([*files, *(path for folder in folders for path in (results / folder).glob("*.json"))])


def manifest(results: Path) -> str:
    """{file: sha256} of `measured`, as JSON."""
    hashes = {p.relative_to(results).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in measured(results)}
    return json.dumps(hashes, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-notes", action="store_true", help="no measurements")
    args = parser.parse_args()
    results = ROOT / "results"
    if not args.only_notes:
        with tempfile.TemporaryDirectory() as folder:
            stage = Stage(Path(folder), results)
            measure_nano(stage)
            measure_questions(stage)
            measure_quantised(stage)
            analyse_olmoe(stage)
    pages = {results / name: text.encode() for name, text in rendered(results).items()}
    write_aside(pages | {results / MANIFEST: manifest(results).encode()})
    print(f"Wrote {', '.join(sorted(path.name for path in pages))}")


if __name__ == "__main__":
    try:
        main()
    except MoebenchError as error:
        sys.exit(f"Error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)  # the command has said why
