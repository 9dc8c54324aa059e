"""Analyse JetMoE-8B at 4 bit on a Mac with 24 GB of memory, on math prompts.

    python scripts/run_jetmoe_mac.py
    python scripts/run_jetmoe_mac.py --model ./tiny_jetmoe --max-samples 4     # to try the way there on a small one

Says beforehand what the weights will take, and stops where they would not fit. JetMoE has two routers per layer, one of
its attention and one of its MLP; they are reported apart. Started again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from published import USABLE, weights_gb

from mlx_moebench.errors import MoebenchError
from mlx_moebench.show.tables.doctor import memory_gb

MODEL, PARAMETERS = "jetmoe/jetmoe-8b", 8_522_000_000
OUTPUT = Path("runs/routing_stats_jetmoe_math.json")


def parameters_of(model: str) -> int:
    """Weights of a folder of 2-byte numbers, by the size of its files; of JetMoE-8B otherwise."""
    files = list(Path(model).glob("model*.safetensors")) if Path(model).is_dir() else []
    return sum(file.stat().st_size for file in files) // 2 if files else PARAMETERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help=f"folder or hub id of a JetMoE checkpoint [{MODEL}]")
    parser.add_argument("--bits", choices=["4", "8", "16"], default="4", help="of the weights; 16: as stored [4]")
    parser.add_argument("--dataset", default="math", help="as for analyze [math]")
    parser.add_argument("--max-samples", type=int, default=40, help="documents [40]")
    parser.add_argument("--max-length", type=int, default=256, help="tokens kept of a document [256]")
    parser.add_argument("--memory", type=float, help="GB of this machine [asked of the system]")
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"stats pair [{OUTPUT}]")
    args = parser.parse_args()
    memory = args.memory or memory_gb()
    needed = weights_gb(parameters_of(args.model), int(args.bits))
    room = f"{USABLE * memory:.1f} of {memory:.1f} GB that a GPU may use"
    print(f"{args.model}: {needed:.2f} GB of weights at {args.bits} bit, of {room}.", file=sys.stderr)
    if needed > USABLE * memory:
        raise MoebenchError("The weights do not fit: take fewer --bits, or a machine with more memory.")
    command = ["analyze", "--model", args.model, "--dataset", args.dataset, "--output", str(args.output), "--resume"]
    command += ["--max-samples", str(args.max_samples), "--max-length", str(args.max_length)]
    command += [] if args.bits == "16" else ["--bits", args.bits]
    sys.exit(subprocess.run([sys.executable, "-m", "mlx_moebench", *command]).returncode)


if __name__ == "__main__":
    try:
        main()
    except MoebenchError as error:
        sys.exit(f"Error: {error}")
