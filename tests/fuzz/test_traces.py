"""Traces: the manifest behind its seal, the shards that it lists, and the texts of tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import ENVIRONMENT, MODEL, random_routing

from mlx_moebench.data.importers import importer, named_files
from mlx_moebench.data.trace import FORMAT, MANIFEST, TEXTS, VERSION, read_trace
from mlx_moebench.pair.seal import SEAL, sealed_text
from mlx_moebench.routing import RouterSpec, tally
from mlx_moebench.routing.tally import SCALARS
from mlx_moebench.routing.tokens import ranked, token_routing
from mlx_moebench.show.tokens import token_data

from .mutations import changed_arrays, changed_bytes, changed_json, json_bytes
from .outcomes import ACCEPTED, reading

SPECS = (RouterSpec(0, 0, "mlp", 6, 2), RouterSpec(1, 1, "mlp", 4, 1))
LENGTHS = (5, 6, 7)
SHARE = 1 / 5


def shard_arrays() -> dict[str, np.ndarray]:
    """Three sequences of random routing, as a shard holds them."""
    arrays: dict[str, np.ndarray] = {
        "token.id": np.arange(sum(LENGTHS), dtype=np.int32),
        "sequence.row": np.arange(len(LENGTHS)),
        "sequence.window": np.zeros(len(LENGTHS), np.int32),
        "sequence.start": np.zeros(len(LENGTHS), np.int32),
        "sequence.n_tokens": np.array(LENGTHS, np.int32),
    }
    for spec in SPECS:
        parts: dict[str, list[np.ndarray]] = {}
        for row, length in enumerate(LENGTHS):
            routing = random_routing(10 * spec.layer + row, (1, length), spec.n_experts, spec.top_k)
            tokens, sums = token_routing(routing), tally(routing)
            experts, weights = ranked(tokens.experts, tokens.p, tokens.weights)
            for name, array in (
                ("experts", experts[0].astype(np.uint8)),
                ("weights", weights[0].astype(np.float16)),
                ("entropy", tokens.entropy[0].astype(np.float32)),
                ("selection_margin", tokens.selection_margin[0].astype(np.float32)),
                ("p_sum", np.asarray(sums.p_sum, np.float64)),
                ("scalars", np.asarray(sums.scalars, np.float64)),
            ):
                parts.setdefault(name, []).append(array)
        arrays |= {f"{spec.name}.{name}": np.concatenate(each) for name, each in parts.items()}
    return arrays


def saved(arrays: dict[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    blob: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return blob


def manifest_of(blob: bytes) -> dict[str, Any]:
    entry = {
        "file": "prefill-00000.safetensors",
        "sha256": hashlib.sha256(blob).hexdigest(),
        "n_tokens": sum(LENGTHS),
        "n_sequences": len(LENGTHS),
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "complete": True,
        "model": MODEL,
        "data": {"sha256": "a" * 64, "name": "x", "max_length": 64, "padding": "right, masked", "bos": None},
        "environment": ENVIRONMENT,
        "tau": 0.4,
        "collapse_on": "top_share_token",
        "predictions": False,
        "scalars": list(SCALARS),
        "routers": [asdict(spec) for spec in SPECS],
        "phases": {"prefill": {"n_sequences": len(LENGTHS), "n_tokens": sum(LENGTHS), "shards": [entry]}},
    }


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A whole trace."""
    blob = saved(shard_arrays())
    (tmp_path / "prefill-00000.safetensors").write_bytes(blob)
    (tmp_path / MANIFEST).write_text(sealed_text(manifest_of(blob)))
    (tmp_path / TEXTS).write_text(json.dumps({str(token): f" t{token}" for token in range(sum(LENGTHS))}))
    read_trace(tmp_path)
    token_data(tmp_path)
    return tmp_path


def read(folder: Path) -> str:
    """As statistics, by the importer, and as a view of tokens."""
    first = reading(lambda: importer("trace").read(named_files([str(folder)])))
    reading(lambda: token_data(folder))
    return first


def with_shard(folder: Path, blob: bytes) -> None:
    """The manifest knows the changed shard."""
    (folder / "prefill-00000.safetensors").write_bytes(blob)
    (folder / MANIFEST).write_text(sealed_text(manifest_of(blob)))


def test_bytes_of_the_manifest(trace: Path, tried: Callable[..., None]) -> None:
    def check(blob: bytes) -> str:
        (trace / MANIFEST).write_bytes(blob)
        return read(trace)

    tried(changed_bytes((trace / MANIFEST).read_bytes()), check, SHARE)


def test_fields_of_the_manifest(trace: Path, tried: Callable[..., None]) -> None:
    def check(manifest: Any) -> str:
        try:
            (trace / MANIFEST).write_text(sealed_text(manifest))
        except (ValueError, AttributeError, TypeError):
            (trace / MANIFEST).write_bytes(json_bytes(manifest))
        return read(trace)

    manifest = json.loads((trace / MANIFEST).read_text())
    del manifest[SEAL]
    tried(changed_json(manifest, sealable=True) | changed_json(manifest), check, SHARE)


def test_bytes_of_a_shard(trace: Path, tried: Callable[..., None]) -> None:
    def check(blob: bytes) -> str:
        with_shard(trace, blob)
        return read(trace)

    tried(changed_bytes((trace / "prefill-00000.safetensors").read_bytes()), check, SHARE)


def test_arrays_of_a_shard(trace: Path, tried: Callable[..., None]) -> None:
    def check(arrays: dict[str, np.ndarray]) -> str:
        with_shard(trace, saved(arrays))
        return read(trace)

    tried(changed_arrays(shard_arrays()), check, SHARE)


def test_texts_of_tokens(trace: Path, tried: Callable[..., None]) -> None:
    """Only the view of tokens needs them."""

    def check(blob: bytes) -> str:
        (trace / TEXTS).write_bytes(blob)
        assert reading(lambda: read_trace(trace)) == ACCEPTED
        return reading(lambda: token_data(trace))

    texts = json.loads((trace / TEXTS).read_text())
    tried(changed_bytes((trace / TEXTS).read_bytes()) | changed_json(texts).map(json_bytes), check, SHARE)
