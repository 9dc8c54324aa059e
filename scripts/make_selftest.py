"""Write the figures that ``mlx-moebench doctor --selftest`` compares a machine with. Run it after new weights.

    python scripts/make_selftest.py

Writes mlx_moebench/models/nano/selftest.safetensors: what the embedded model did in float32 on this CPU with the
first 8 prompts of every bundled set, cut to 64 tokens, and the sha256 of the weights it did it with.
"""

from __future__ import annotations

import numpy as np

from mlx_moebench.analysis.selftest import check_model, make_figures, weights_sha256, write_figures
from mlx_moebench.data import batches, encode, read_corpus
from mlx_moebench.models import NANO, load, select_device

SETS = ("math", "code", "general")
PROMPTS, LENGTH = 8, 64


def main() -> None:
    select_device("cpu")
    model, tokenizer = load(dtype="float32")
    sequences = [s for name in SETS for s in encode(read_corpus(name, max_samples=PROMPTS), tokenizer, LENGTH)]
    (batch,) = batches(sequences, len(sequences))
    lengths = batch.mask.sum(axis=1).astype(np.uint16)
    figures = make_figures(model, batch.ids.astype(np.uint16), lengths, weights_sha256(NANO))
    path = write_figures(figures, NANO)
    for check in check_model(model, figures)[0]:
        print(f"{'pass' if check.passed else 'FAIL':<5} {check.name}: {check.words}")
    print(f"Wrote {path}: {len(lengths)} texts, {lengths.sum():,} tokens, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
