"""The cells of benchmarks/audit.py, by part: what is simulated, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from audit_answers import answers, seeds
from audit_domains import domains, tests_of_independence
from audit_findings import decisions, needed, thirds
from audit_metrics import Measure, coverage
from audit_sides import counts, distances
from audit_tokens import loss, overlap, vocabulary

PARTS: dict[str, Callable[[], Iterator[tuple[str, Measure]]]] = {
    "coverage": coverage,
    "domains": domains,
    "independence": tests_of_independence,
    "counts": counts,
    "distances": distances,
    "findings": decisions,
    "needed": needed,
    "thirds": thirds,
    "loss": loss,
    "overlap": overlap,
    "vocabulary": vocabulary,
    "answers": answers,
    "seeds": seeds,
}
