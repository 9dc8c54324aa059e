"""How much too narrow an interval is that takes tokens as independent, on the embedded model: a ratio per layer.

python benchmarks/token_intervals.py [--dataset math general code] [--max-length 256] [--output FILE.json]

Width of the 95% BCa interval over sequences, as reports give it, of the mean entropy and of the share of tokens of one
expert, the busiest; over the width when every token counts as one draw, 2 x 1.96 s / sqrt(T).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_moebench.data import batches, encode, pad_id, read_corpus
from mlx_moebench.instrument import capture
from mlx_moebench.models import load, select_device
from mlx_moebench.routing import Plan, Sums
from mlx_moebench.routing.intervals.bootstrap import mean_intervals, metrics_of
from mlx_moebench.routing.tally import SCALARS, log_distribution, selection_matrix

import mlx.core as mx  # isort: skip  # after the package, which loads a fast BLAS first


class Tokens:
    """What every router said of every valid token: entropy [T] and the experts chosen [T, E], in running order."""

    def __init__(self, routers: int) -> None:
        self.mask: np.ndarray = np.zeros(0, bool)
        self.entropy: list[list[np.ndarray]] = [[] for _ in range(routers)]
        self.chosen: list[list[np.ndarray]] = [[] for _ in range(routers)]

    def sink(self, number: int, logits: mx.array, indices: mx.array, shape: tuple[int, ...]) -> None:
        log_p, p, _ = log_distribution(logits.astype(mx.float32), "softmax")
        valid = self.mask.reshape(-1)
        entropy = -(p * log_p).sum(axis=-1)
        self.entropy[number].append(np.array(entropy).reshape(-1)[valid].astype(np.float64))
        chosen = np.array(selection_matrix(indices, logits.shape[-1]))
        self.chosen[number].append(chosen.reshape(len(valid), -1)[valid])


def tokens_of(dataset: str, max_length: int) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """([(entropy [T], chosen [T, E]) per router], sequence of each token [T])."""
    model, tokenizer = load()
    sequences = encode(read_corpus(dataset, tokenizer=tokenizer), tokenizer, max_length)
    tokens, rows = Tokens(len(model.layers)), []
    with capture(model, tokens.sink):
        for batch in batches(sequences, 8, pad_id(tokenizer)):
            tokens.mask = batch.mask
            model(mx.array(batch.ids))
            rows += [np.repeat(batch.rows, batch.mask.sum(axis=1))]
    both = zip(tokens.entropy, tokens.chosen, strict=True)
    return [(np.concatenate(h), np.concatenate(s)) for h, s in both], np.concatenate(rows)


def ratios(entropy: np.ndarray, chosen: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """(of the mean entropy, of the busiest expert's share): sequence width over token width."""
    _, labels = np.unique(rows, return_inverse=True)
    tokens = np.bincount(labels)
    scalars, metric = np.full((len(tokens), len(SCALARS)), np.nan), metrics_of(["mean_entropy"])
    busiest = chosen[:, chosen.mean(axis=0).argmax()].astype(np.float64)
    widths = []
    for values in (entropy, busiest):  # both are means of a value per token, so the mean's interval serves both
        scalars[:, SCALARS.index("entropy")] = np.bincount(labels, values)
        counts = np.stack([np.bincount(labels, column) for column in chosen.T], axis=1)
        sums = Sums(chosen.shape[1], 2, "softmax", tokens, counts, counts, counts * 0.0, scalars)
        ci = mean_intervals([sums], np.zeros(len(tokens)), Plan(), metric).rows[0]["mean_entropy"]
        assert ci.low is not None
        assert ci.high is not None
        widths.append((ci.high - ci.low) / (2 * 1.96 * float(values.std()) / np.sqrt(len(values))))
    return widths[0], widths[1]


def report(dataset: str, widths: Sequence[tuple[float, float]]) -> None:
    for name, column in zip(("mean entropy", "busiest expert's share"), zip(*widths, strict=True), strict=True):
        print(f"{dataset}: {name}: " + " ".join(f"{x:.2f}" for x in column) + f" (mean {np.mean(column):.2f})")


def _columns(by_dataset: dict[str, list[tuple[float, float]]]) -> dict[str, tuple[list[float], list[float]]]:
    return {name: ([h for h, _ in rows], [s for _, s in rows]) for name, rows in by_dataset.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", default=["math", "general", "code"])
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--output", type=Path, help="write the ratios as JSON")
    args = parser.parse_args()
    select_device("cpu")
    every, by_dataset = [], {}
    for dataset in args.dataset:
        routers, rows = tokens_of(dataset, args.max_length)
        every.append((routers, rows))
        by_dataset[dataset] = [ratios(entropy, chosen, rows) for entropy, chosen in routers]
        report(dataset, by_dataset[dataset])
    if len(every) > 1:
        # All texts as one sample, as a mixed evaluation set would be: sequences then differ by domain, too.
        rows = np.concatenate([rows + 1_000_000 * i for i, (_, rows) in enumerate(every)])
        layers = zip(*(routers for routers, _ in every), strict=True)
        pooled = [tuple(np.concatenate(parts) for parts in zip(*layer, strict=True)) for layer in layers]
        by_dataset["all as one set"] = [ratios(entropy, chosen, rows) for entropy, chosen in pooled]
        report("all as one set", by_dataset["all as one set"])
    if args.output:
        layers_of = {name: {"mean_entropy": h, "top_share_token": s} for name, (h, s) in _columns(by_dataset).items()}
        args.output.write_text(json.dumps({"max_length": args.max_length, "ratios": layers_of}, indent=1) + "\n")


if __name__ == "__main__":
    main()
