"""LibMoE's comparison of routers at the size of a laptop: train, measure and tabulate, over seeds with paired data.

    python scripts/run_libmoe_study.py --data prose.txt plays.txt code.jsonl law.jsonl [--runs FOLDER] [--jobs 2]
    python scripts/run_libmoe_study.py --only main xmoe --dry-run
    python scripts/run_libmoe_study.py --runs FOLDER --no-training    # results/libmoe from the runs that are finished
    python scripts/run_libmoe_study.py --only-page                    # the same from the runs.json in it

Every run is `lab train` with the preset ``tiny``. Runs of one seed see the same batches in the same order and begin
with the same attention, embeddings and experts; what differs is the router, or what the part of the study changes.
A run that is finished is kept and one that was stopped goes on, so the script can be started again at any time.
Held-out blocks of the text, as many from each of its files, are what routers are measured on: at every snapshot and, at
the end, under perturbations. ``results/libmoe/runs.json`` gets what the tables and pictures beside it are made of.

Parts, in the order in which they run; 54 runs with three seeds:

    main      seven routers, a dense model of their FLOPs and one of twice as many
    xmoe      xmoe whose softmax is applied twice, as LibMoE's code does
    balance   smoe without a balance loss, and with a z-loss beside it
    init      smoe with gates that begin at a standard deviation of 0, 0.02, 0.04 and 0.06
    spec      sigma and shared_v3 as LibMoE's code trains them
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_moebench.blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

import numpy as np  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from mlx_moebench import analyze  # noqa: E402
from mlx_moebench.analysis.overlap import selection_overlap  # noqa: E402
from mlx_moebench.analysis.perturb import perturb  # noqa: E402
from mlx_moebench.data.files import read_folder  # noqa: E402
from mlx_moebench.data.training_log import FILE as LOG  # noqa: E402
from mlx_moebench.data.training_log import read_log  # noqa: E402
from mlx_moebench.files import write_aside  # noqa: E402
from mlx_moebench.lab.keep import SNAPSHOTS  # noqa: E402
from mlx_moebench.lab.presets import PRESETS  # noqa: E402
from mlx_moebench.lab.pretrain import REPORT, pretrain  # noqa: E402
from mlx_moebench.lab.settings import Pretraining  # noqa: E402
from mlx_moebench.lab.text import Blocks, load_tokenizer, pack, read_texts, train_tokenizer  # noqa: E402
from mlx_moebench.options import Plan, Reading, quiet_step  # noqa: E402
from mlx_moebench.pair.stats import RoutingStats  # noqa: E402
from mlx_moebench.types import Json  # noqa: E402

RESULTS = Path(__file__).parents[1] / "results" / "libmoe"
ROUTERS = ("smoe", "xmoe", "sigma", "shared_v2", "shared_v3", "tc_moe", "moepp")
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "main": {
        "dense": {"router": "dense"},
        **{router: {"router": router} for router in ROUTERS},
        "dense2": {"router": "dense", "flops": 2.0},
    },
    "xmoe": {"xmoe-double": {"router": "xmoe", "spec": "libmoe"}},
    "balance": {
        "smoe-unbalanced": {"router": "smoe", "axes": {"balance": "none", "balance_weight": 0.0}},
        "smoe-z": {"router": "smoe", "z_weight": 0.001},
    },
    "init": {f"smoe-std{std:g}": {"router": "smoe", "router_std": std} for std in (0.0, 0.02, 0.04, 0.06)},
    "spec": {f"{name}-libmoe": {"router": name, "spec": "libmoe"} for name in ("sigma", "shared_v3")},
}
"""Part, arm, and in what its runs differ from the others."""
MOST = 60
SNAPSHOTS_A_RUN, VALIDATIONS = 5, 5
VOCABULARY, TEXTS_A_FILE, LENGTH = 1024, 12, 128
METRICS = ("eae", "ewa", "margin_prob", "cv", "max_violation", "dead_experts")
PERTURBATIONS = ("drop-top1", "drop-top1-2", "remove-top1", "temperature=10", "temperature=0.1")
WHOLE = ("main", "xmoe")
"""Parts whose runs are measured at every snapshot and under perturbations, the others at the end alone."""
PLAN = Plan(resamples=100)
"""Intervals of single runs are not shown; those of the study are over seeds."""


@dataclass(frozen=True)
class Run:
    """One training. differs: what its arm gives `Pretraining`."""

    part: str
    arm: str
    seed: int
    differs: dict[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"


def planned(parts: Sequence[str], seeds: int) -> list[Run]:
    """The runs in order: all arms of `WHOLE` with the first seed, then with the next, then the other parts likewise."""
    runs = [
        Run(part, arm, seed, differs)
        for whole in (True, False)
        for seed in range(seeds)
        for part, arms in ARMS.items()
        if part in parts and (part in WHOLE) == whole
        for arm, differs in arms.items()
    ]
    if len(runs) > MOST:
        raise SystemExit(f"That is {len(runs)} runs; at most {MOST}: fewer --seeds or --only some parts.")
    return runs


def settings_of(run: Run, runs: Path, steps: int) -> Pretraining:
    """What `lab train` is asked for."""
    return Pretraining(
        **run.differs,
        data=str(runs / "text"),
        tokenizer=str(runs / "tokenizer"),
        seed=run.seed,
        steps=steps,
        save_every=steps,
        eval_every=max(1, steps // VALIDATIONS),
        eval_batches=4,
        snapshot_every=max(1, steps // SNAPSHOTS_A_RUN),
    )


# -- what all runs share -----------------------------------------------------------------------------------------------


def prepare(paths: Sequence[Path], runs: Path) -> None:
    """Links to the text, which is read where it is, the tokenizer, and the texts that routers are measured on.

    They are in ``text``, ``tokenizer`` and ``held_out.json`` of the runs' folder.
    """
    data = runs / "text"
    data.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if not (data / path.name).exists():
            (data / path.name).symlink_to(path.resolve(strict=True))
    if (runs / "held_out.json").exists():
        return
    corpora = read_texts(str(data), Reading())
    tokenizer = train_tokenizer(corpora, VOCABULARY)
    tokenizer.save_pretrained(str(runs / "tokenizer"))
    tokenizer = load_tokenizer(runs / "tokenizer")
    blocks = pack(corpora, tokenizer, LENGTH, Pretraining.held_out, quiet_step)
    texts: dict[str, list[str]] = {}
    for file, ends in _file_ends(data, tokenizer).items():
        inside = [n for n in blocks.valid if ends[0] <= n * LENGTH and (n + 1) * LENGTH < ends[1]]
        chosen = [inside[place] for place in np.linspace(0, len(inside) - 1, TEXTS_A_FILE).astype(int)]
        texts[file] = [tokenizer.decode(row[1:]) for row in blocks.rows(np.array(chosen))]
    facts = {"texts": texts, "tokens": len(blocks.ids), "sha256": blocks.sha256, "blocks": _sizes(blocks)}
    write_aside({runs / "held_out.json": (json.dumps(facts, ensure_ascii=False) + "\n").encode()})


def _sizes(blocks: Blocks) -> Json:
    return {"train": len(blocks.train), "held_out": len(blocks.valid)}


def _file_ends(data: Path, tokenizer: Any) -> dict[str, tuple[int, int]]:
    """File name to the range of its tokens among those of the whole folder, which is read file by file, too."""
    ranges, start = {}, 0
    for file in read_folder(data, None).files:
        texts = [document.text for corpus in read_texts(str(file), Reading()) for document in corpus.documents]
        length = sum(len(ids) + 1 for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])
        ranges[file.stem], start = (start, start + length), start + length
    return ranges


# -- one run -----------------------------------------------------------------------------------------------------------


def one(run: Run, args: argparse.Namespace) -> None:
    """Train and measure in this process."""
    folder = args.runs / run.name
    if not (folder / REPORT).exists():
        before = resource.getrusage(resource.RUSAGE_SELF)
        settings = settings_of(run, args.runs, args.steps)
        pretrain(settings, folder, resume=(folder / "config.json").exists(), device="cpu", step=quiet_step)
        after = resource.getrusage(resource.RUSAGE_SELF)
        write_aside({folder / "cpu.json": json.dumps({"seconds": after.ru_utime - before.ru_utime}).encode()})
    texts = json.loads((args.runs / "held_out.json").read_text("utf-8"))["texts"]
    measured = {} if run.differs["router"] == "dense" else measure(folder, texts, run.part in WHOLE)
    write_aside({folder / "measured.json": (json.dumps(measured) + "\n").encode()})


def measure(folder: Path, texts: dict[str, list[str]], whole_training: bool) -> Json:
    """What routers did at every snapshot, and what the last model does on each kind of text and when perturbed.

    whole_training: else of the last snapshot alone, and nothing is perturbed.
    """
    whole = {"held-out": [text for of_file in texts.values() for text in of_file]}
    choices: dict[str, Any] = {"batch_size": 16, "device": "cpu", "max_length": LENGTH, "plan": PLAN}
    snapshots: list[Json] = []
    with tempfile.TemporaryDirectory() as place:
        traces, together = [], []
        for path in sorted((folder / SNAPSHOTS).iterdir())[0 if whole_training else -1 :]:
            traces.append(Path(place) / path.name)
            stats = analyze(path, whole, trace=traces[-1], output=traces[-1].with_suffix(".json"), **choices)
            together.append(_together(stats))
            routers = [_values(stats, router, METRICS) for router in range(len(stats.specs))]
            snapshots.append({"step": int(path.name.rpartition("-")[2]), "routers": routers})
        for number, snapshot in enumerate(snapshots):
            snapshot["final"] = _overlap(traces[number], traces[-1])
            if number:
                snapshot["before"] = _overlap(traces[number - 1], traces[number])
    counts = [np.asarray(stats.totals(router).counts, dtype=float).reshape(-1) for router in range(len(stats.specs))]
    measured: Json = {
        "snapshots": snapshots,
        "similarity": similarity(folder),
        "load": [(row / row.sum()).tolist() for row in counts],
    }
    if not whole_training:
        return measured
    domains = {name: analyze(folder, {name: some}, **choices) for name, some in texts.items()}
    report = perturb(folder, whole, PERTURBATIONS, **choices)
    return measured | {
        "domains": {
            name: [_values(of, router, ("eae", "ewa")) for router in range(len(of.specs))]
            for name, of in domains.items()
        },
        "loss": report["loss"],
        "perturbations": {r["perturbation"]: {k: r[k] for k in ("loss_change", "agreement")} for r in report["runs"]},
        "coactivation": [together[len(together) // 2][-1].tolist(), together[-1][-1].tolist()],
        "coactivation_stability": [
            [_correlation(a, b) for a, b in zip(of, together[-1], strict=True)] for of in together
        ],
    }


def _correlation(a: Any, b: Any) -> float:
    """Between two matrices off their diagonals, which are NaN."""
    off = ~np.isnan(a)
    return float(np.corrcoef(a[off], b[off])[0, 1])


def _values(stats: RoutingStats, router: int, names: Sequence[str]) -> Json:
    values = stats.values(router)
    return {name: values[name] for name in names}


def _together(stats: RoutingStats) -> list[Any]:
    """Co-activation of every router, 0 where an expert was never chosen, NaN with itself."""
    made = [np.nan_to_num(stats.coactivation(router)) for router in range(len(stats.specs))]
    for matrix in made:
        np.fill_diagonal(matrix, np.nan)
    return made


def _overlap(a: Path, b: Path) -> list[Json]:
    """Of every router how many of a token's experts two traces share, and how often the first is another."""
    routers = selection_overlap(a, b, PLAN)["routers"]
    return [{name: router[name]["value"] for name in ("routing_overlap", "top1_flip")} for router in routers]


def similarity(folder: Path) -> list[float]:
    """Of every layer the mean cosine between the output matrices of two of its experts."""
    weights = load_file(folder / "model.safetensors")
    means = []
    for layer in range(sum(name.endswith("experts.output_linear.weight") for name in weights)):
        flat = weights[f"model.layers.{layer}.mlp.experts.output_linear.weight"]
        flat = flat.reshape(len(flat), -1)
        unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        cosines = unit @ unit.T
        means.append(float(cosines[~np.eye(len(cosines), dtype=bool)].mean()))
    return means


# -- all runs ----------------------------------------------------------------------------------------------------------


def train_all(runs: list[Run], args: argparse.Namespace) -> list[str]:
    """Run what is not finished, some at a time; the names of those that failed."""
    todo = [run for run in runs if not (args.runs / run.name / "measured.json").exists()]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} are finished", flush=True)

    def work(run: Run) -> str | None:
        common = ["--seeds", str(args.seeds), "--runs", str(args.runs), "--steps", str(args.steps)]
        command = [sys.executable, __file__, "--one", run.name, *common]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(f"{run.name} ended with status {done.returncode}: {done.stdout[-2000:]}", flush=True)
            return run.name
        report = json.loads((args.runs / run.name / REPORT).read_text("utf-8"))
        said = f"CE {report['ce']['validation']:.4f}, {report['tokens_per_second']:,.0f} tokens/s"
        print(f"{run.name}: {said}", flush=True)
        return None

    with ThreadPoolExecutor(args.jobs) as pool:
        return [name for name in pool.map(work, todo) if name]


def collected(runs: list[Run], folder: Path) -> Json:
    """What pages are made of, from the files of all finished runs."""
    made: list[Json] = []
    for run in runs:
        at = folder / run.name
        if not (at / "measured.json").exists():
            continue
        report, log = json.loads((at / REPORT).read_text("utf-8")), read_log(at / LOG)
        updates = [entry for entry in log if "ce" in entry]
        cpu, measured = at / "cpu.json", json.loads((at / "measured.json").read_text("utf-8"))
        if run.seed:
            measured.pop("coactivation", None)  # drawn of the first seed alone
        made.append({
            "part": run.part,
            "arm": run.arm,
            "seed": run.seed,
            **{key: report[key] for key in ("parameters", "tokens_trained", "tokens_per_second", "peak_memory_gb")},
            "cpu_seconds": json.loads(cpu.read_text("utf-8"))["seconds"] if cpu.exists() else None,
            "validation": [[entry["step"], entry["val_ce"]] for entry in log if "val_ce" in entry],
            "curve": [_point(updates[max(0, n - 9) : n + 1]) for n in range(9, len(updates), 10)],
            "measured": measured,
        })  # fmt: skip
    if not made:
        raise SystemExit(f"No run in {folder} is finished.")
    held_out = json.loads((folder / "held_out.json").read_text("utf-8"))
    data = {key: held_out[key] for key in ("tokens", "sha256", "blocks")} | {"files": list(held_out["texts"])}
    keys = ("preset", "steps", "batch_size", "seq_length", "learning_rate", "clip", "weight_decay")
    first = json.loads((folder / f"{made[0]['arm']}-seed{made[0]['seed']}" / REPORT).read_text("utf-8"))
    preset = PRESETS["tiny"]
    settings = {key: first["settings"][key] for key in keys} | {
        "vocab_size": VOCABULARY,
        "texts": TEXTS_A_FILE * len(held_out["texts"]),
        "own_std": (2 / (preset.layers * preset.hidden)) ** 0.5,
    }
    return _rounded({"settings": settings, "data": data, "environment": first["environment"], "runs": made})


def _point(entries: list[Json]) -> Json:
    """Means over a few updates."""
    means = {key: float(np.mean([entry[key] for entry in entries])) for key in ("ce", "routing_loss")}
    routers = {
        key: float(np.mean([entry[key] for entry in entries]))
        for key in ("load_cv", "max_violation")
        if entries[0][key]
    }
    return {"step": entries[-1]["step"], **means, **routers}


def _rounded(value: Any) -> Any:
    """Numbers to five digits: more would say nothing, and take room."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(of) for key, of in value.items()}
    return [_rounded(of) for of in value] if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", help="files of text, each a kind of its own")
    parser.add_argument("--runs", type=Path, default=Path("runs/libmoe"), help="where runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), help="these parts")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="updates of a run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--dry-run", action="store_true", help="name the runs and whether they are finished")
    parser.add_argument("--no-training", action="store_true", help="take the runs that are finished")
    parser.add_argument("--only-page", action="store_true", help="read no run but runs.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    runs = planned(args.only, args.seeds)
    if args.dry_run:
        for run in runs:
            done = (args.runs / run.name / "measured.json").exists()
            print(f"{run.part:8} {run.name:24} {'finished' if done else run.differs}")
        return
    failed: list[str] = []
    if not args.only_page:
        if args.one:
            one(next(run for run in runs if run.name == args.one), args)
            return
        if not args.no_training:
            if args.data is None:
                parser.error("name the text to train on with --data")
            for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
                os.environ[name] = "1"  # several runs share the cores
            prepare(args.data, args.runs)
            failed = train_all(runs, args)
        args.results.mkdir(parents=True, exist_ok=True)
        content = json.dumps(collected(planned(list(ARMS), args.seeds), args.runs), separators=(",", ":"))
        write_aside({args.results / "runs.json": (content + "\n").encode()})
    from libmoe_pages import write_pages

    write_pages(args.results)
    if failed:
        raise SystemExit(f"{', '.join(failed)} failed; start again to go on.")


if __name__ == "__main__":
    main()
