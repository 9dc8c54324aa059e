"""Write the model card of a folder that train_nano.py made: held-out perplexity, baselines, routing by domain.

    python scripts/evaluate_nano.py --data ../shared/data --run runs/nano

Writes RUN/model/README.md and RUN/model/loss_curve.svg. Every number on the card is computed here, on documents
that training did not see, with the bf16 weights of the folder in float32 on MLX.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from nano_corpus import DOMAINS, HELD_OUT_BYTE, read_corpus
from tokenizers import Tokenizer

from mlx_moebench import load
from mlx_moebench.data import Sequence, batches
from mlx_moebench.instrument import LiveRoutingStats
from mlx_moebench.routing import DomainEstimates, domain_estimates

WINDOW = 256
DATA = {
    "math": "MATH (hendrycks/math, MIT), GSM8K (MIT), SVAMP (MIT)",
    "code": f"the standard library of CPython {platform.python_version()} (PSF), MBPP (CC BY 4.0), "
    "psf/requests (Apache-2.0)",
    "general": "TinyStories (CDLA-Sharing-1.0), State of the Union speeches and Tiny Shakespeare (public domain), "
    "WikiText-2 validation (CC BY-SA)",
}


def windows(tokenizer: Tokenizer, documents: list[str]) -> list[Sequence]:
    """Documents, closed by the end-of-text id, as windows of at most WINDOW tokens; the row is the document."""
    sequences = []
    for row, encoding in enumerate(tokenizer.encode_batch(documents)):
        ids = np.array([*encoding.ids, tokenizer.token_to_id("<|endoftext|>")], dtype=np.int32)
        parts = [ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW)]
        sequences += [Sequence(row, i, part, False) for i, part in enumerate(parts) if len(part) > 1]
    return sequences


def baselines(train: np.ndarray, test: list[Sequence], vocabulary: int) -> dict[str, float]:
    """Perplexity of a unigram (add-one) and of a bigram interpolated with it, both trained on the same domain.

    The interpolation weight is the best one on the held-out text itself, which favours the baseline.
    """
    unigram = np.bincount(train, minlength=vocabulary) + 1.0
    unigram /= unigram.sum()
    pairs, counts = np.unique(train[:-1] * vocabulary + train[1:], return_counts=True)
    histories = np.bincount(train[:-1], minlength=vocabulary)
    before = np.concatenate([s.ids[:-1] for s in test]).astype(np.int64)
    after = np.concatenate([s.ids[1:] for s in test]).astype(np.int64)
    at = np.minimum(np.searchsorted(pairs, before * vocabulary + after), len(pairs) - 1)
    seen = np.where(pairs[at] == before * vocabulary + after, counts[at], 0)
    bigram = seen / np.maximum(histories[before], 1)
    mixed = [float(np.exp(-np.log(w * bigram + (1 - w) * unigram[after]).mean())) for w in np.arange(0, 1, 0.02)]
    return {"unigram": float(np.exp(-np.log(unigram[after]).mean())), "bigram": min(mixed)}


def measure(model: Any, held_out: dict[str, list[Sequence]]) -> tuple[dict[str, float], LiveRoutingStats]:
    """Held-out perplexity per domain, and routing statistics whose clusters are (domain, document)."""
    import mlx.core as mx
    import mlx.nn as nn

    perplexity = {}
    with LiveRoutingStats(model, sources={domain: {"name": domain} for domain in DOMAINS}) as stats:
        for domain, sequences in held_out.items():
            loss, tokens = 0.0, 0
            for batch in batches(sequences, 16):
                ids, mask = mx.array(batch.ids), mx.array(batch.mask)
                with stats.batch(mask=batch.mask, ids=[(domain, row) for row in batch.rows]):
                    logits = model(ids)
                    losses = nn.losses.cross_entropy(logits[:, :-1], ids[:, 1:]) * mask[:, 1:]
                    loss += losses.sum().item()
                tokens += int(batch.mask[:, 1:].sum())
            perplexity[domain] = float(np.exp(loss / tokens))
    return perplexity, stats


def routing_rows(stats: LiveRoutingStats) -> list[dict[str, Any]]:
    """Per layer: what lies between domains, and each domain's busiest expert in both halves of its documents."""
    domains = np.array([sha for sha, _ in stats.clusters])
    estimates = domain_estimates([stats.sums(number) for number in range(len(stats.specs))], domains)
    rows_of = np.array([row for _, row in stats.clusters])
    rows = []
    for number, spec in enumerate(stats.specs):
        counts = stats.sums(number).counts
        busiest = {
            domain: [int(counts[(domains == domain) & (rows_of % 2 == half)].sum(axis=0).argmax()) for half in (0, 1)]
            for domain in DOMAINS
        }
        rows.append({"layer": spec.layer, "estimates": estimates[number], "busiest": busiest})
    return rows


def plot_loss(log: list[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "moebench-nano", "font.size": 9}):
        figure = Figure(figsize=(6, 3), layout="constrained")
        axis = figure.subplots()
        width = 25
        for domain in DOMAINS:
            values = np.array([entry[f"ce_{domain}"] for entry in log])
            blocks = values[: len(values) // width * width].reshape(-1, width).mean(axis=1)
            axis.plot(np.arange(len(blocks)) * width + width / 2, blocks, label=domain, linewidth=1)
        axis.set(xlabel="step (6,144 tokens each)", ylabel="training cross-entropy, nats per token")
        axis.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def row(*cells: object) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> list[str]:
    return [row(*header), "|---" * len(header) + "|", *(row(*cells) for cells in rows), ""]


def card(
    trained: dict[str, Any],
    log: list[dict[str, Any]],
    scores: dict[str, dict[str, Any]],
    routing: list[dict[str, Any]],
    parameters: int,
    c: dict[str, Any],
) -> str:
    lines = [*_introduction(trained, parameters, c), *_data(trained), *_perplexity(scores)]
    return "\n".join([*lines, *_routing(routing), *_loss(log)])


def _introduction(trained: dict[str, Any], parameters: int, c: dict[str, Any]) -> list[str]:
    return f"""---
license: apache-2.0
language: en
tags: [mixture-of-experts, olmoe, mlx]
---
# moebench-nano

A small Mixture-of-Experts language model for trying routing measurements in seconds. It is a real trained OLMoE and
a poor writer: use it to study and test routers, never for its text.

- Architecture: OLMoE, {c["num_hidden_layers"]} layers, width {c["hidden_size"]}, {c["num_attention_heads"]} heads,
  {c["num_experts"]} experts of width {c["intermediate_size"]}, top-{c["num_experts_per_tok"]}; vocabulary
  {c["vocab_size"]:,}, tied embeddings; {parameters:,} parameters, stored in bf16.
- Training: {trained["tokens"]:,} tokens in {trained["steps"]:,} steps of 24 rows of {WINDOW}, 8 rows of each domain;
  AdamW, cosine schedule, seed {trained["seed"]}; Switch balance loss 0.01 over the whole mixed batch, router z-loss
  0.001; float32 weights, bf16 matrix products.
- Made by `scripts/train_nano.py`, this card by `scripts/evaluate_nano.py`. Loads in mlx-lm and in transformers.
- Context: trained on {WINDOW} tokens; later positions are untrained.
""".splitlines()


def _data(trained: dict[str, Any]) -> list[str]:
    return [
        "",
        "## Data",
        "",
        *table(
            ("domain", "unique tokens", "sources"), [(d, f"{trained['unique_tokens'][d]:,}", DATA[d]) for d in DOMAINS]
        ),
        *f"""Documents whose SHA-256 starts with a byte below {HELD_OUT_BYTE} (about 5%) were held out. The texts
are not part of this package; the licences of the sources stand as named.
""".splitlines(),
    ]


def _perplexity(scores: dict[str, dict[str, Any]]) -> list[str]:
    header = ("domain", "documents", "tokens", "moebench-nano", "interpolated bigram", "unigram")
    rows: list[tuple[object, ...]] = [
        (d, f"{t['documents']:,}", f"{t['tokens']:,}", *(f"{t[k]:.2f}" for k in ("nano", "bigram", "unigram")))
        for d, t in scores.items()
    ]
    return [
        *("", "## Held-out perplexity per token", ""),
        *table(header, rows),
        *f"""Windows of {WINDOW} tokens, the first token of each not scored. The baselines are trained on the same
domain's training tokens; the bigram's interpolation weight is the best one on the held-out text, which favours it.
""".splitlines(),
    ]


def _routing(routing: list[dict[str, Any]]) -> list[str]:
    header = ("layer", "MI, nats", "95% interval", "MI / ln 3", "p", *(f"busiest, {d}" for d in DOMAINS))
    rows: list[tuple[object, ...]] = [
        (
            r["layer"],
            *_information(r["estimates"]),
            *(" / ".join(str(e) for e in r["busiest"][d]) for d in DOMAINS),
        )
        for r in routing
    ]
    apart = [str(r["layer"]) for r in routing if all(_all_differ(r["busiest"], half) for half in (0, 1))]
    return [
        *f"""
## Routing on the held-out documents

MI(domain; expert) over three equally weighted domains, at most ln 3 = {float(np.log(3)):.4f} nats, corrected for its
bias where it has an interval; intervals and p over documents. Busiest: most selections in even / odd rows of the
domain's documents.
""".splitlines(),
        "",
        *table(header, rows),
        *(f"No intervals: {reason}." for reason in sorted({r["estimates"].reason for r in routing} - {None})),
        f"Layers whose busiest experts differ between all three domains in both halves: {', '.join(apart) or 'none'}.",
        "",
    ]


def _information(one: DomainEstimates) -> list[str]:
    """MI, its interval, MI / ln D, and p of the test that all domains route alike."""
    interval, test = one.information.interval, one.test
    ends = "n/a" if interval.low is None else f"{interval.low:.4f} to {interval.high:.4f}"
    p = "n/a" if test is None else f"{test.p_value:.4f}"
    return [f"{one.information.value:.4f}", ends, f"{one.specialisation.value:.4f}", p]


def _all_differ(busiest: dict[str, list[int]], half: int) -> bool:
    """Whether no two domains have the same busiest expert in that half of their documents."""
    return len({busiest[domain][half] for domain in DOMAINS}) == len(DOMAINS)


def _loss(log: list[dict[str, Any]]) -> list[str]:
    keys = ("ce_math", "ce_code", "ce_general", "balance")
    rows: list[tuple[object, ...]] = []
    for start in (*(len(log) * k // 6 for k in range(6)), len(log) - 50):
        part = log[start : start + 50]
        rows.append(
            (f"{start}-{start + len(part) - 1}", *(f"{np.mean([entry[key] for entry in part]):.3f}" for key in keys))
        )
    return [
        *("## Loss", "", "![Training loss by domain](loss_curve.svg)", ""),
        *table(("steps", "math", "code", "general", "balance (1 = even)"), rows),
        *("Mean training cross-entropy in nats per token over the steps named.", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder that train_nano.py was given")
    parser.add_argument("--run", type=Path, default=Path("runs/nano"), help="the folder that train_nano.py wrote")
    args = parser.parse_args()
    folder = args.run / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, _ = load(folder)
    corpus = read_corpus(args.data)
    held_out = {domain: windows(tokenizer, documents) for domain, (_, documents) in corpus.items()}
    perplexity, stats = measure(model, held_out)
    scores = {}
    for domain, (train, documents) in corpus.items():
        stream = np.concatenate([s.ids for s in windows(tokenizer, train)]).astype(np.int64)
        tokens = sum(len(s.ids) for s in held_out[domain])
        scores[domain] = {"documents": len(documents), "tokens": tokens, "nano": perplexity[domain]}
        scores[domain] |= baselines(stream, held_out[domain], tokenizer.get_vocab_size())
    log = [json.loads(line) for line in (args.run / "log.jsonl").read_text().splitlines()]
    from mlx.utils import tree_flatten

    parameters = sum(p.size for _, p in tree_flatten(model.parameters()))
    trained = json.loads((folder / "training.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    plot_loss(log, folder / "loss_curve.svg")
    (folder / "README.md").write_text(
        card(trained, log, scores, routing_rows(stats), parameters, config), encoding="utf-8"
    )
    print((folder / "README.md").read_text())


if __name__ == "__main__":
    main()
