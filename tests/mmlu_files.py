"""Small MMLU folders of our own questions, and an adapter for the embedded model."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def rows(subject: str, n: int, seed: int) -> list[list[str]]:
    """Questions as the CSV files hold them; some have commas, quotes and line breaks."""
    rng = np.random.default_rng([seed, *subject.encode()])
    found = []
    for number in range(n):
        a, b = (int(x) for x in rng.integers(2, 60, size=2))
        texts = [f"What is {a} + {b}?", f'One says "{a}, or {b}".\nWhat is the sum?', f"{a} and {b} make"]
        wrong = [a + b + int(x) for x in rng.permutation([-3, -1, 2, 7])[:3]]
        answer = int(rng.integers(4))
        choices = [str(x) for x in wrong]
        choices.insert(answer, str(a + b))
        found.append([texts[number % 3], *choices, "ABCD"[answer]])
    return found


def write_rows(path: Path, questions: list[list[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(questions)
    return path


def write_mmlu(folder: Path, sizes: Mapping[str, int], split: str = "val", flat: bool = False) -> Path:
    """Five worked examples and so many questions of each subject."""
    for subject, n in sizes.items():
        for part, size, seed in (("dev", 5, 1), (split, n, 2)):
            place = folder if flat else folder / part
            write_rows(place / f"{subject}_{part}.csv", rows(subject, size, seed))
    return folder


def write_adapter(folder: Path, scale: float = 20.0) -> Path:
    """What mlx_lm.lora writes for the embedded model, with random numbers in place of trained ones."""
    from mlx_moebench.models import load

    import mlx.core as mx  # isort: skip
    from mlx.utils import tree_flatten  # isort: skip
    from mlx_lm.tuner.utils import linear_to_lora_layers  # isort: skip

    model, _ = load(None)
    mx.random.seed(1)
    parameters = {"rank": 4, "scale": scale, "dropout": 0.0, "keys": ["self_attn.v_proj", "self_attn.o_proj"]}
    model.freeze()
    linear_to_lora_layers(model, 6, parameters)
    trained = {k: 0.1 * mx.random.normal(a.shape) for k, a in tree_flatten(model.trainable_parameters())}
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
    config = {"fine_tune_type": "lora", "num_layers": 6, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
