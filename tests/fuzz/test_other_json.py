"""Comparisons, profiles, reports of loss and of quantised arms, as report and plot read them; and evaluations."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_inputs import RESULTS
from routing_reference import make_stats

from mlx_moebench.cli.report import readable
from mlx_moebench.evaluate.evaluations import Kept, read_evaluation
from mlx_moebench.options import Plan
from mlx_moebench.pair.comparison import compare
from mlx_moebench.pair.profile import profile_document, profile_of_stats
from mlx_moebench.pair.seal import SEAL, sealed_text
from mlx_moebench.pair.verify import verified
from mlx_moebench.routing import RouterSpec
from mlx_moebench.show.export import to_csv, to_markdown
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.page.data import page_data
from mlx_moebench.show.plots import get_plot

from .mutations import changed_bytes, changed_json, json_bytes
from .outcomes import ACCEPTED, reading

SPECS = (RouterSpec(0, 0, "mlp", 4, 2), RouterSpec(1, 1, "mlp", 3, 1))
PLAN = Plan(resamples=100)


def comparison() -> Any:
    a, b = (make_stats(range(6), specs=SPECS, length=length) for length in (6, 7))
    return compare(a, b, allow=("data",), plan=PLAN).to_dict()


def profile() -> Any:
    parts = [make_stats(range(6), specs=SPECS, sha=sha * 64, length=6) for sha in "ab"]
    return profile_document([profile_of_stats(parts, PLAN)], PLAN)


def loss() -> Any:
    report = json.loads((RESULTS / "uncertainty" / "nano_math.json").read_text())
    return report | {"routers": report["routers"][:2], "tokens": report["tokens"][:3]}


def quant() -> Any:
    report = json.loads((RESULTS / "quant_drift" / "nano_math.json").read_text())
    arms = [arm | {"routers": arm["routers"][:2]} for arm in report["arms"][:2]]
    return report | {"arms": arms, "separations": []}


def evaluation() -> Any:
    question = {
        **{"subject": "virology", "row": 0, "shots": 5, "truncated": False, "tokens": 9, "choice": "A", "answer": "B"},
        **{"log_likelihoods": [-1.0, -2.0, -3.0, -4.0], "probabilities": [0.4, 0.3, 0.2, 0.1]},
        **{"correct": False, "tied": False},
    }
    return {
        "schema_version": "1",
        "task": "mmlu",
        "complete": False,
        "settings": {"shots": 5, "level": 0.95},
        "model": {"id": "x"},
        "data": {"name": "y", "sha256": "a" * 64},
        "environment": {"device": "cpu"},
        "questions": [question],
    }


SHOWN: dict[str, tuple[Callable[[], Any], str]] = {
    "comparison": (comparison, "comparison"),
    "profile": (profile, "specialisation"),
    "loss": (loss, "uncertainty"),
    "quant": (quant, "quant"),
}
"""What makes a file, and the plot that is drawn of it."""


@pytest.mark.parametrize("kind", SHOWN)
def test_what_is_shown(kind: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    make, plot = SHOWN[kind]
    whole = make()
    whole.pop(SEAL, None)
    path = tmp_path / "x.json"

    def show() -> None:
        with readable():
            inputs = read_inputs([path])
            for written in (to_markdown, to_csv):
                written(inputs)
            page_data(inputs)

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        assert reading(lambda: verified(path)) == ACCEPTED  # its verdict says what is wrong
        return reading(show)

    assert check(json_bytes(whole)) == ACCEPTED
    bare = changed_json(whole).map(json_bytes)
    sealed = changed_json(whole, sealable=True).filter(lambda made: isinstance(made, dict)).map(sealed_text)
    tried(changed_bytes(sealed_text(whole).encode()) | bare | sealed.map(str.encode), check, 1 / 6)
    assert plot


@pytest.mark.parametrize("kind", SHOWN)
def test_what_is_drawn(kind: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    """A picture takes a tenth of a second, so that fewer are tried."""
    import matplotlib.pyplot as plt

    make, plot = SHOWN[kind]
    whole = make()
    whole.pop(SEAL, None)
    path = tmp_path / "x.json"

    def draw() -> None:
        with readable():
            get_plot(plot).draw(read_inputs([path])).savefig(io.BytesIO(), format="svg")

    def check(made: Any) -> str:
        path.write_bytes(json_bytes(made))
        try:
            return reading(draw)
        finally:
            plt.close("all")

    assert check(whole) == ACCEPTED
    tried(changed_json(whole), check, 1 / 100)


def test_an_evaluation(tmp_path: Path, tried: Callable[..., None]) -> None:
    """Read, and gone on from."""
    path = tmp_path / "x.json"
    whole = evaluation()

    def go_on() -> None:
        read_evaluation(path)
        with Kept(evaluation() | {"questions": []}, path, resume=True) as kept:
            kept.check_compared({"id": "x"})

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        return reading(go_on)

    assert check(sealed_text(whole).encode()) == ACCEPTED
    sealed = changed_json(whole, sealable=True).filter(lambda made: isinstance(made, dict)).map(sealed_text)
    tried(
        changed_bytes(sealed_text(whole).encode()) | changed_json(whole).map(json_bytes) | sealed.map(str.encode),
        check,
        1 / 3,
    )
