"""Does an entropy floor undo a collapse? Two collapsed models, several seeds, each against its control.

    python scripts/bias_gates.py --out runs/biased --experts 2 --bias 8
    python scripts/train_nano.py --data ../shared/data --out runs/unbalanced --steps 333 --balance 0
    python scripts/run_rescue.py --corpus ../shared/data --biased runs/biased --unbalanced runs/unbalanced/model

Every variant differs from ``control`` in its routing loss alone: the same LoRA (rank 8, on the gates), the same data in
the same order, the same seed. What is compared is measured on held-out texts: load entropy H(f) and dead experts, means
over routers, and cross-entropy. Differences are paired by seed; intervals are Student's t over the seeds. Finished
runs are kept, so the script goes on where it was stopped. It writes results/ldiv_rescue.json, from
which `make results` fills in results/LDIV_NOTES.md.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from nano_texts import write_texts
from scipy.stats import t

from mlx_moebench.environment import environment
from mlx_moebench.models import NANO
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing.comparison.differences import benjamini_hochberg
from mlx_moebench.train import LOG, read_log, train_adapter, training_config

SETTINGS: dict[str, Any] = {
    "iters": 40,
    "batch_size": 8,
    "learning_rate": 5e-4,
    "max_seq_length": 129,
    "max_length": 128,
    "routing_samples": 1000,
    "steps_per_eval": 40,
    "val_batches": -1,
    "test": True,
    "test_batches": -1,
    "lora_parameters": {"rank": 8, "scale": 10.0, "dropout": 0.0, "keys": ["mlp.gate"]},
}
FLOOR = {"name": "entropy_floor", "weight": 0.3}
VARIANTS: dict[str, dict[str, Any]] = {
    "control": {**FLOOR, "weight": 0.0, "signal": "load", "floor": {"fraction": 0.95}},
    "load": {**FLOOR, "signal": "load", "floor": {"fraction": 0.95}},
    "marginal": {**FLOOR, "signal": "marginal", "floor": {"fraction": 0.95}},
    "token": {**FLOOR, "signal": "token", "floor": {"fraction": 0.8}},
    "published": {**FLOOR, "signal": "token", "floor": {"nats": 0.40}},
}
QUANTITIES = {"load_entropy": "nats", "dead_experts": "experts per router", "n_eff": "experts per router"}


def one_run(case: str, model: Path, variant: str, seed: int, texts: Path, out: Path) -> dict[str, Any]:
    """Train, or read what an earlier call trained."""
    folder = out / case / variant / str(seed)
    if not (report := folder / "training_report.json").exists():
        settings = SETTINGS | {
            "model": str(model),
            "data": str(texts),
            "routing_data": str(texts / "test.jsonl"),
            "adapter_path": str(folder),
            "seed": seed,
            "routing_loss": VARIANTS[variant],
        }
        train_adapter(training_config(settings), resume=True)
    trained: dict[str, Any] = json.loads(report.read_text())
    steps = [entry for entry in read_log(folder / LOG) if "ce" in entry]
    trained["mean_token_entropy_last"] = float(np.mean(steps[-1]["token_entropy"]))
    print(f"{case} {variant} seed {seed}: H(f) {trained['routing_after']['load_entropy']['value']:.3f} nats, "
          f"dead {trained['routing_after']['dead_experts']['value']:.2f}, test CE {trained['ce']['test_after']:.4f}",
          flush=True)  # fmt: skip
    return trained


def interval(differences: list[float]) -> dict[str, Any]:
    """Mean, 95% t interval and p over the seeds; p is null where the seeds do not differ."""
    n = len(differences)
    mean = float(np.mean(differences))
    if n < 2:
        return {"value": mean, "low": None, "high": None, "seeds": n, "reason": "one seed gives no interval"}
    error = float(np.std(differences, ddof=1)) / math.sqrt(n)
    half = float(t.ppf(0.975, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error > 0 else None
    ends = {"low": mean - half, "high": mean + half}
    return {"value": mean, **ends, "seeds": n, "p_value": p, "method": "paired t over seeds"}


def adjust(intervals: list[dict[str, Any]]) -> None:
    """Give those that are read together a ``q_value``, by Benjamini and Hochberg."""
    for entry, q in zip(intervals, benjamini_hochberg([i.get("p_value") for i in intervals]), strict=True):
        entry["q_value"] = q


def compare(runs: dict[int, dict[str, Any]], controls: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Differences variant - control, paired by seed, and how the variant itself ended."""
    seeds = sorted(runs.keys() & controls.keys())
    comparison: dict[str, Any] = {}
    for name, unit in QUANTITIES.items():
        pairs = [(runs[s]["routing_after"][name]["value"], controls[s]["routing_after"][name]["value"]) for s in seeds]
        comparison[name] = {"unit": unit, "mean": float(np.mean([a for a, _ in pairs]))}
        comparison[name]["difference"] = interval([a - b for a, b in pairs])
    ce = [(runs[s]["ce"]["test_after"], controls[s]["ce"]["test_after"]) for s in seeds]
    comparison["test_ce"] = {"unit": "nats per token", "mean": float(np.mean([a for a, _ in ce]))}
    comparison["test_ce"]["relative_difference"] = interval([a / b - 1 for a, b in ce])
    comparison["token_entropy_last_batch"] = float(np.mean([runs[s]["mean_token_entropy_last"] for s in seeds]))
    comparison["steps_fired"] = [runs[s]["routing_loss"]["steps_with_a_router_below_floor"] for s in seeds]
    comparison["warnings"] = sorted({w for s in seeds for w in runs[s]["routing_loss"]["warnings"]})
    return comparison


def by_layer(report: Path) -> list[float]:
    """Experts in effective use, layer by layer."""
    return [router["n_eff"] for router in read_report(report)["routers"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with math/, code/ and text/")
    parser.add_argument("--biased", type=Path, help="checkpoint made by bias_gates.py")
    parser.add_argument("--unbalanced", type=Path, help="checkpoint trained without a balance loss")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/rescue"))
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args()
    texts = write_texts(args.corpus, NANO / "tokenizer.json", args.runs / "texts", train=900, held_out=60)
    cases = {name: path for name, path in (("biased", args.biased), ("unbalanced", args.unbalanced)) if path}
    if not cases:
        parser.error("name a checkpoint with --biased or --unbalanced")
    variants = list(dict.fromkeys(["control", *args.variants]))
    results: dict[str, Any] = {"script": "scripts/run_rescue.py", "settings": SETTINGS, "cases": {}}
    for case, model in cases.items():
        runs = {
            variant: {seed: one_run(case, model, variant, seed, texts, args.runs) for seed in range(args.seeds)}
            for variant in variants
        }
        first = runs["control"][0]
        results["cases"][case] = {
            "n_experts": json.loads((model / "config.json").read_text())["num_experts"],
            "trained": json.loads((model / "training.json").read_text()),
            "before": {name: first["routing_before"][name]["value"] for name in QUANTITIES},
            "n_eff_by_layer_before": by_layer(args.runs / case / "control" / "0" / "routing_before.json"),
            "variants": {variant: compare(of, runs["control"]) for variant, of in runs.items()},
        }
    compared = [of for case in results["cases"].values() for of in case["variants"].values()]
    adjust([of[name]["difference"] for of in compared for name in QUANTITIES])
    adjust([of["test_ce"]["relative_difference"] for of in compared])
    results["losses"] = {variant: VARIANTS[variant] for variant in variants}
    results["environment"] = environment()
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "ldiv_rescue.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"Wrote {args.results / 'ldiv_rescue.json'}")


if __name__ == "__main__":
    main()
