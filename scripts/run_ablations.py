"""What matters in an entropy floor: signal x scope x floor x weight, on a model whose routing was collapsed.

    python scripts/bias_gates.py --out runs/biased --experts 2 --bias 8
    python scripts/run_ablations.py --corpus ../shared/data --model runs/biased

Every combination is trained as in run_rescue.py, but shorter, with the same seeds as the control without a floor, and
compared with it pair by pair. Finished runs are kept, so the script goes on where it was stopped. It writes
results/ablation_comparison.csv, one row per combination, differences with 95% t intervals over the seeds, p, and q over
the combinations: the largest of many differences is larger than it would be in another run.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

from nano_texts import write_texts
from run_rescue import SETTINGS, adjust, interval

from mlx_moebench.models import NANO
from mlx_moebench.train import train_adapter, training_config

SIGNALS = ("marginal", "token", "load")
SCOPES = ("sequence", "batch", "window")
FLOORS = (0.8, 0.95)  # of ln E
WEIGHTS = (0.1, 1.0)
SHORTER = {"iters": 16, "steps_per_eval": 16, "val_batches": 1, "routing_samples": 60, "test_batches": 8}
WINDOW = 8  # micro-batches, half of the run


def combinations() -> list[dict[str, Any]]:
    """The control first."""
    control = {"signal": "load", "scope": "batch", "floor": 0.95, "weight": 0.0}
    names = ("signal", "scope", "floor", "weight")
    grid = itertools.product(SIGNALS, SCOPES, FLOORS, WEIGHTS)
    return [control, *(dict(zip(names, values, strict=True)) for values in grid)]


def one_run(combination: dict[str, Any], seed: int, model: Path, texts: Path, runs: Path) -> dict[str, Any]:
    """Train, or read what an earlier call trained."""
    name = "-".join(str(value) for value in combination.values())
    folder = runs / name / str(seed)
    if not (report := folder / "training_report.json").exists():
        before = [runs / "before" / f"routing_before.{suffix}" for suffix in ("json", "safetensors")]
        folder.mkdir(parents=True, exist_ok=True)
        for file in before:
            if file.exists():
                shutil.copy(file, folder / file.name)  # the model is the same in every run
        loss = {
            "name": "entropy_floor",
            "weight": combination["weight"],
            "signal": combination["signal"],
            "scope": combination["scope"],
            "floor": {"fraction": combination["floor"]},
            **({"window": WINDOW} if combination["scope"] == "window" else {}),
        }
        settings = SETTINGS | SHORTER | {"model": str(model), "data": str(texts), "adapter_path": str(folder)}
        settings |= {"routing_data": str(texts / "test.jsonl"), "seed": seed, "routing_loss": loss}
        train_adapter(training_config(settings), resume=True)
        (runs / "before").mkdir(exist_ok=True)
        for file in before:
            shutil.copy(folder / file.name, file)
    trained: dict[str, Any] = json.loads(report.read_text())
    return trained


def row(combination: dict[str, Any], of: list[dict[str, Any]], controls: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table."""
    line: dict[str, Any] = {**combination, "seeds": len(of)}
    for name in ("load_entropy", "n_eff", "dead_experts", "mean_entropy"):
        ends = [[r["routing_after"][name]["value"] for r in side] for side in (of, controls)]
        difference = interval([a - b for a, b in zip(*ends, strict=True)])
        line |= {name: sum(ends[0]) / len(of), f"{name}_difference": difference["value"]}
        line |= {f"{name}_{key}": difference[key] for key in ("low", "high")}
        line[f"{name}_p"] = difference.get("p_value")
    relative = interval([a["ce"]["test_after"] / b["ce"]["test_after"] - 1 for a, b in zip(of, controls, strict=True)])
    line |= {f"test_ce_relative_{key}": relative[key] for key in ("value", "low", "high")}
    line["test_ce_relative_p"] = relative.get("p_value")
    fired = [r["routing_loss"]["steps_with_a_router_below_floor"] / r["routing_loss"]["steps"] for r in of]
    return line | {"steps_fired": sum(fired) / len(fired)}


def with_q(rows: list[dict[str, Any]]) -> None:
    """Every combination is one of many: of each quantity, p adjusted over the rows stands beside it as q."""
    for name in [key for key in rows[0] if key.endswith("_p")]:
        entries = [{"p_value": line[name]} for line in rows]
        adjust(entries)
        for line, entry in zip(rows, entries, strict=True):
            line[name.removesuffix("p") + "q"] = entry["q_value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with math/, code/ and text/")
    parser.add_argument("--model", type=Path, required=True, help="checkpoint made by bias_gates.py")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--output", type=Path, default=Path("results/ablation_comparison.csv"))
    args = parser.parse_args()
    texts = write_texts(args.corpus, NANO / "tokenizer.json", args.runs / "texts", train=900, held_out=60)
    rows: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    every = combinations()
    for number, combination in enumerate(every):
        of = [one_run(combination, seed, args.model, texts, args.runs) for seed in range(args.seeds)]
        controls = controls or of
        rows.append(row(combination, of, controls))
        ended, ce = rows[-1]["load_entropy"], rows[-1]["test_ce_relative_value"]
        print(f"{number + 1}/{len(every)} {combination}: H(f) {ended:.3f} nats, test CE {ce:+.2%}", flush=True)
    with_q(rows)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with args.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in line.items()} for line in rows
        )
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
