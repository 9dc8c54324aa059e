"""Stats pairs: the bytes of both files, and what stands behind their seals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from routing_reference import make_stats, reseal

from mlx_moebench import RoutingStats
from mlx_moebench.files import header_of
from mlx_moebench.options import Plan
from mlx_moebench.pair.seal import SEAL, sealed_text
from mlx_moebench.pair.storage import FORMAT, read_report
from mlx_moebench.pair.verify import verified
from mlx_moebench.routing import RouterSpec

from .mutations import changed_arrays, changed_bytes, changed_json, json_bytes
from .outcomes import ACCEPTED, command, reading

SPECS = (RouterSpec(0, 0, "mlp", 4, 2), RouterSpec(1, 1, "mlp", 3, 1))
SHARE = 1 / 5
"""Of the inputs of this class, for each of its tests."""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A pair's report; its sums lie beside it."""
    make_stats(range(4), specs=SPECS, length=6).save(tmp_path / "x", Plan(resamples=100))
    return tmp_path / "x.json"


def test_bytes_of_sums(pair: Path, tried: Callable[..., None]) -> None:
    sums = pair.with_suffix(".safetensors")

    def check(blob: bytes) -> str:
        sums.write_bytes(blob)
        return reading(lambda: RoutingStats.load(sums))

    tried(changed_bytes(sums.read_bytes()), check, SHARE)


def test_bytes_of_a_report(pair: Path, tried: Callable[..., None]) -> None:
    def check(blob: bytes) -> str:
        pair.write_bytes(blob)
        return reading(lambda: read_report(pair))

    tried(changed_bytes(pair.read_bytes()), check, SHARE)


def test_fields_of_a_report(pair: Path, tried: Callable[..., None]) -> None:
    """Sealed again, where that can be; what is read is then shown, too."""

    def check(report: Any) -> str:
        try:
            pair.write_text(sealed_text(report))
        except (ValueError, AttributeError, TypeError):
            pair.write_bytes(json_bytes(report))
        outcome = reading(lambda: read_report(pair))
        assert reading(lambda: verified(pair)) == ACCEPTED  # its verdict says what is wrong
        if outcome == ACCEPTED:
            command("report", pair, "--format", "md")
        return outcome

    report = json.loads(pair.read_text())
    tried(changed_json(report, sealable=True) | changed_json(report), check, SHARE)


def test_facts_of_sums(pair: Path, tried: Callable[..., None]) -> None:
    sums = pair.with_suffix(".safetensors")
    whole = sums.read_bytes()
    facts = json.loads(header_of(whole).metadata[FORMAT])
    facts.pop(SEAL)

    def check(changed: Any) -> str:
        sums.write_bytes(whole)
        reseal(sums, facts=lambda kept: (kept.clear(), kept.update(changed)))
        return read_and_reported(sums)

    tried(changed_json(facts, sealable=True).filter(lambda made: isinstance(made, dict)), check, SHARE)


def test_arrays_of_sums(pair: Path, tried: Callable[..., None]) -> None:
    from safetensors.numpy import load

    sums = pair.with_suffix(".safetensors")
    whole = sums.read_bytes()

    def check(changed: dict[str, Any]) -> str:
        sums.write_bytes(whole)
        reseal(sums, tensors=lambda arrays: (arrays.clear(), arrays.update(changed)))
        return read_and_reported(sums)

    tried(changed_arrays(load(whole)), check, SHARE)


def read_and_reported(sums: Path) -> str:
    """Sums that are accepted give a report, or say why they have none."""

    def read() -> None:
        stats = RoutingStats.load(sums)
        reading(lambda: stats.report(Plan(method="percentile", resamples=100)))

    return reading(read)
