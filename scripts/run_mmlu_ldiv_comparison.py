"""Does an entropy floor cost accuracy? MMLU of a model, of a LoRA without and of one with L_div, several seeds.

    python scripts/run_mmlu_ldiv_comparison.py --mmlu ../shared/data/mmlu --data texts/
    python scripts/run_mmlu_ldiv_comparison.py --model allenai/OLMoE-1B-7B-0924 --data texts/ --preset 12x25 --bits 4
    python scripts/run_mmlu_ldiv_comparison.py --mmlu mmlu/ --data texts/ --ldiv-only     base and control as they are

The two LoRAs of a seed differ in the routing loss alone (weight 0 is the control). Every comparison is paired on the
same questions; mean differences over seeds get intervals for other seeds and other questions. Finished
trainings and evaluations in --runs are used again, so the script goes on where it was stopped. It writes
results/lm_eval/mmlu_ldiv_comparison.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from run_rescue import SETTINGS

from mlx_moebench.evaluate import compare_answers, evaluate_mmlu, read_evaluation
from mlx_moebench.evaluate.seeds import differences, over_seeds
from mlx_moebench.show.numbers import decimals, signed, with_interval
from mlx_moebench.train import read_config, train_adapter, training_config

ARMS = {"control": 0.0, "ldiv": 0.3}
"""Weight of the routing loss of each LoRA."""

LOSS = {"name": "entropy_floor", "signal": "load", "floor": {"fraction": 0.98}}


def adapter_of(arm: str, seed: int, args: argparse.Namespace) -> Path:
    """Train the LoRA of one arm and seed, or find it."""
    folder: Path = args.runs / "adapters" / arm / str(seed)
    if not (folder / "training_report.json").exists():
        settings = SETTINGS | {"test": False, "iters": args.iters, "model": args.model, "data": args.data}
        settings |= read_config(args.config) if args.config else {}
        loss = {**LOSS, **(settings.get("routing_loss") or {})}
        loss["weight"] = ARMS[arm] and loss.get("weight", ARMS[arm])
        settings |= {"seed": seed, "adapter_path": str(folder), "routing_loss": loss, "bits": args.bits}
        print(f"training {arm}, seed {seed}", flush=True)
        train_adapter(training_config(settings), resume=True)
    return folder


def answers(name: str, adapter: Path | None, args: argparse.Namespace) -> dict[str, Any]:
    """MMLU of the model with ``adapter``; finished or unfinished answers in --runs are used again."""
    print(f"answering: {name}", flush=True)
    return evaluate_mmlu(
        args.model,
        args.mmlu,
        preset=args.preset,
        limit=args.limit,
        shots=args.shots,
        bits=args.bits,
        adapter_path=adapter,
        output=answers_file(name, args),
        resume=True,
    )


def answers_file(name: str, args: argparse.Namespace) -> Path:
    return Path(args.runs / "answers" / f"{name}.json")


def evaluation(arm: str | None, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """MMLU of the base model or of one LoRA; with --ldiv-only the base and the control as they are in --runs."""
    name = f"{arm}-{seed}" if arm else "base"
    if args.ldiv_only and arm != "ldiv":
        return read_evaluation(answers_file(name, args))
    return answers(name, adapter_of(arm, seed, args) if arm else None, args)


def short(report: dict[str, Any]) -> dict[str, Any]:
    """An evaluation without its single answers."""
    return {key: value for key, value in report.items() if key not in ("questions", "subjects", "environment")}


def routing(folder: Path) -> dict[str, Any]:
    """How the routing ended, from the training's own report."""
    report = json.loads((folder / "training_report.json").read_text())
    keys = ("load_entropy", "n_eff", "dead_experts", "mean_entropy")
    ends: dict[str, Any] = {
        f"routing_{when}": {key: report[f"routing_{when}"][key] for key in keys} for when in ("before", "after")
    }
    return ends | {"ce": report["ce"], "warnings": report["routing_loss"]["warnings"]}


def print_table(results: dict[str, Any]) -> None:
    print(f"\n{'':14} {'macro accuracy, %':28} {'against base, points':28} against the control")
    for name, run in results["runs"].items():
        cells = [_percent(run["results"]["macro_accuracy"])]
        cells += [
            _percent(run[key]["macro_difference"], "+") for key in ("against_base", "against_control") if key in run
        ]
        print(f"{name:14} {' '.join(f'{cell:28}' for cell in cells)}".rstrip())
    for name, mean in results["over_seeds"].items():
        print(f"{name}, mean over seeds: {_percent(mean['macro'], '+')} points (macro)")


def _percent(entry: dict[str, Any], sign: str = "") -> str:
    interval = {end: 100 * entry[end] for end in ("low", "high") if entry.get(end) is not None}
    return with_interval(100 * entry["value"], interval, 2, signed if sign else decimals, ends=decimals)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or hub id [moebench-nano]")
    parser.add_argument("--data", help="folder with train.jsonl and valid.jsonl to fine-tune on [bundled prompts]")
    parser.add_argument("--config", type=Path, help="YAML settings for both LoRAs, as for mlx-moebench train")
    parser.add_argument("--mmlu", help="MMLU folder in the original layout [the hub]")
    parser.add_argument("--preset", choices=("12x25",), help="12 subjects x 25 questions [all]")
    parser.add_argument("--limit", type=int, help="questions per subject [all]")
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iters", type=int, default=60)
    parser.add_argument("--bits", type=int, choices=(4, 8), help="quantise the model while loading")
    parser.add_argument("--ldiv-only", action="store_true", help="base and control must be in --runs already")
    parser.add_argument("--runs", type=Path, default=Path("runs/mmlu_ldiv"))
    parser.add_argument("--results", type=Path, default=Path("results/lm_eval"))
    args = parser.parse_args()
    if args.ldiv_only:
        for name in ("base", *(f"control-{seed}" for seed in range(args.seeds))):
            if not (file := answers_file(name, args)).exists():
                parser.error(f"--ldiv-only needs {file}, which is not there: run once without it")
    return args


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """Every run, trained and evaluated where it is not yet, against the base and its control, and means over seeds."""
    base = evaluation(None, 0, args)
    runs: dict[str, dict[str, Any]] = {"base": short(base)}
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {
        "control against base": [],
        "ldiv against base": [],
        "ldiv against control": [],
    }
    for seed in range(args.seeds):
        reports = {arm: evaluation(arm, seed, args) for arm in ARMS}
        for arm, report in reports.items():
            against = compare_answers(base, report)
            pairs[f"{arm} against base"].append((base, report))
            runs[f"{arm}-{seed}"] = (
                short(report) | routing(args.runs / "adapters" / arm / str(seed)) | {"against_base": against}
            )
        against = compare_answers(reports["control"], reports["ldiv"])
        pairs["ldiv against control"].append((reports["control"], reports["ldiv"]))
        runs[f"ldiv-{seed}"]["against_control"] = against
    return {
        "script": "scripts/run_mmlu_ldiv_comparison.py",
        "environment": base["environment"],
        "runs": runs,
        "over_seeds": {name: over_seeds(*differences(of)) for name, of in pairs.items()},
    }


def main() -> None:
    args = arguments()
    results = compared(args)
    args.results.mkdir(parents=True, exist_ok=True)
    output = args.results / "mmlu_ldiv_comparison.json"
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print_table(results)
    print(f"Wrote {output}")


if __name__ == "__main__":
    main()
