"""The embedded model is trained: it predicts held-out text, and its experts differ by domain."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from mlx_moebench import RoutingStats, analyze
from mlx_moebench.routing import domain_estimates

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("MOEBENCH_SHARED_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.slow
def test_experts_differ_by_domain_on_the_bundled_prompts() -> None:
    """On prompts that training never saw: MI(domain; expert) far above chance in every layer."""
    parts = [analyze(None, name, max_samples=60) for name in ("math", "general", "code")]
    merged = RoutingStats.merge(parts)
    routers = [merged.sums(number) for number in range(len(merged.specs))]
    for one in domain_estimates(routers, merged.strata):
        assert one.test is not None
        assert one.test.ratio > 2 * one.test.critical
        assert one.information.interval.low is not None
        assert 0 < one.information.interval.low < one.specialisation.value < 1
    report = merged.report()
    assert report["data"]["name"].count("+") == 2
    assert {source["name"] for source in report["data"]["sources"]} == {"math", "general", "code"}


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no data folder at {SHARED}")
def test_held_out_perplexity_beats_the_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import evaluate_nano
    from nano_corpus import DOMAINS, read_corpus
    from tokenizers import Tokenizer

    from mlx_moebench import load
    from mlx_moebench.models import NANO

    tokenizer = Tokenizer.from_file(str(NANO / "tokenizer.json"))
    corpus = read_corpus(SHARED)
    held_out = {domain: evaluate_nano.windows(tokenizer, documents) for domain, (_, documents) in corpus.items()}
    perplexity, stats = evaluate_nano.measure(load()[0], held_out)
    for domain in DOMAINS:
        stream = np.concatenate([s.ids for s in evaluate_nano.windows(tokenizer, corpus[domain][0])]).astype(np.int64)
        baseline = evaluate_nano.baselines(stream, held_out[domain], tokenizer.get_vocab_size())
        assert perplexity[domain] <= baseline["unigram"] / 2
        assert perplexity[domain] < baseline["bigram"]
    rows = evaluate_nano.routing_rows(stats)
    assert all(row["estimates"].specialisation.value > 0.05 for row in rows)
    apart = [r for r in rows if all(len({r["busiest"][d][half] for d in DOMAINS}) == len(DOMAINS) for half in (0, 1))]
    assert apart, "no layer keeps different busiest experts for the three domains in both halves"
    for name in ("nano_corpus", "evaluate_nano"):
        sys.modules.pop(name)
