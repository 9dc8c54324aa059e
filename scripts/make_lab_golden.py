"""The first losses of every router of the lab, seeded, which tests/test_lab_train.py holds new code against.

python scripts/make_lab_golden.py        after a change that is meant to change them
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mlx_moebench.blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

from mlx_moebench.data.training_log import FILE as LOG  # noqa: E402
from mlx_moebench.data.training_log import read_log  # noqa: E402
from mlx_moebench.lab.pretrain import pretrain  # noqa: E402
from mlx_moebench.lab.routers import router_names  # noqa: E402
from mlx_moebench.lab.settings import Pretraining  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "tests" / "data" / "lab_golden.json"
STEPS = 50
SHORT: dict[str, Any] = {
    "data": "math", "max_samples": 12, "vocab_size": 300, "seq_length": 16, "batch_size": 4, "micro_batch_size": 2,
    "eval_batches": 1, "eval_every": 0,
}  # fmt: skip
"""Settings of a training of ``tiny`` that takes seconds."""


def first_losses(router: str, folder: Path) -> list[float]:
    """The cross-entropies of the first steps with seed 0, nats a token; ``folder`` gets the model."""
    pretrain(Pretraining(router=router, steps=STEPS, **SHORT), folder, device="cpu")
    return [entry["ce"] for entry in read_log(folder / LOG) if "ce" in entry]


def main() -> None:
    curves = {}
    for router in [*router_names(), "dense"]:
        with tempfile.TemporaryDirectory() as place:
            curves[router] = [round(ce, 5) for ce in first_losses(router, Path(place) / "run")]
        print(router, curves[router][0], curves[router][-1])
    GOLDEN.write_text(json.dumps(curves) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
