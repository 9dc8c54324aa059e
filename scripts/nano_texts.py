"""Training and held-out texts for the scripts that fine-tune moebench-nano, from the corpus it was trained on.

Every text is a window of a document of one domain, long enough for one training sequence. Held-out windows come from
documents that the model never saw; see nano_corpus.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from nano_corpus import DOMAINS, read_corpus
from tokenizers import Tokenizer

WINDOW = 129  # tokens: 128 positions that are predicted


def write_texts(corpus: Path, tokenizer: Path, folder: Path, train: int, held_out: int, seed: int = 0) -> Path:
    """Write train.jsonl with ``train`` windows per domain, and valid.jsonl and test.jsonl with ``held_out`` each."""
    if all((folder / f"{name}.jsonl").exists() for name in ("train", "valid", "test")):
        return folder
    encoder = Tokenizer.from_file(str(tokenizer))
    rng = np.random.default_rng(seed)
    splits: dict[str, list[dict[str, str]]] = {"train": [], "valid": [], "test": []}
    for domain, (seen, unseen) in read_corpus(corpus).items():
        splits["train"] += _windows(encoder, seen, train, domain, rng)
        rows = _windows(encoder, unseen, 2 * held_out, domain, rng)
        splits["valid"] += rows[::2]
        splits["test"] += rows[1::2]
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        if len(rows) < len(DOMAINS):
            raise SystemExit(f"There is too little text under {corpus} for {name}.jsonl.")
        order = rng.permutation(len(rows))
        text = "".join(json.dumps(rows[i], ensure_ascii=False) + "\n" for i in order)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def _windows(
    encoder: Tokenizer, documents: list[str], count: int, domain: str, rng: np.random.Generator
) -> list[dict[str, str]]:
    """At most one window of each document, of full length; fewer than ``count`` where the documents run out."""
    rows = []
    for index in rng.permutation(len(documents)):
        text = documents[index]
        offsets = encoder.encode(text[:20_000]).offsets
        if len(offsets) <= WINDOW:
            continue
        start = int(rng.integers(len(offsets) - WINDOW))
        rows.append({"text": text[offsets[start][0] : offsets[start + WINDOW][0]], "domain": domain})
        if len(rows) == count:
            break
    return rows
