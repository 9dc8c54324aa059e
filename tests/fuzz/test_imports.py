"""Imports: every format in each form of file that it reads, its bytes, arrays, JSON and lines changed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from mlx_moebench.data.importers import importer, named_files

from .mutations import changed_array, changed_arrays, changed_bytes, changed_json, json_bytes
from .outcomes import command, reading

E, K, LAYERS = 8, 2, 3
IDS = {"experts": E}
BOTH = {"experts": E, "top_k": K}


def ids(seed: int, tokens: int = 12) -> np.ndarray:
    """[tokens, layers, K] int16, K different experts each."""
    scores = np.random.default_rng(seed).random((tokens, LAYERS, E))
    return np.argsort(scores, axis=-1)[..., :K].astype(np.int16)


def table(seed: int) -> np.ndarray:
    """[layers, experts] of the ids of that seed."""
    chosen = ids(seed)
    return np.stack([np.bincount(chosen[:, layer].ravel(), minlength=E) for layer in range(LAYERS)])


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(arrays: dict[str, np.ndarray], packed: bool = False) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **arrays)
    return stream.getvalue()


def text(array: np.ndarray) -> str:
    return base64.b64encode(npy(array)).decode()


def lines(answers: Any) -> bytes:
    return b"\n".join(map(json_bytes, answers if isinstance(answers, list) else [answers]))


USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}
VLLM = [
    {"usage": USAGE, "choices": [{"routed_experts": ids(1).tolist()}]},
    {"usage": USAGE, "choices": [{"routed_experts": text(ids(2)[8:])}], "prompt_routed_experts": text(ids(2)[:8])},
    {"choices": [{"routed_experts": text(ids(3))}]},
]
FLAT = [base64.b64encode(ids(seed).astype("<i4").tobytes()).decode() for seed in (4, 5)]
SGLANG = [
    {"meta_info": {"prompt_tokens": 8, "completion_tokens": 5, "cached_tokens": 2, "routed_experts": FLAT[0]}},
    {"usage": USAGE, "choices": [{"sgl_ext": {"routed_experts": FLAT[1]}}]},
]
SLIME = {"tokens": list(range(13)), "response_length": 5, "rollout_routed_experts": ids(5).tolist()}
SKYRL = {
    "prompt_token_ids": list(range(8)),
    "response_ids": list(range(5)),
    "rollout_expert_indices": ids(6).tolist(),
}
BATCH = {
    "routed_experts": np.stack([ids(7), ids(8)]),
    "attention_mask": np.array([[0] * 2 + [1] * 10, [1] * 12]),
    "responses": np.zeros((2, 4), np.int64),
}
NUMBERED = {"0.tokens": np.arange(13), "0.response_length": np.array(5), "0.rollout_routed_experts": ids(9)}
PLACE = np.tile(np.arange(E), (LAYERS, 1))
PASSES = {
    "0.global_physical_count": table(1),
    "1.global_physical_count": table(2),
    "last_physical_to_logical_map": PLACE,
}
PER_TOKEN = {
    "0.topk_ids_of_layer": ids(3).transpose(1, 0, 2).astype(np.int32),
    "0.forward_mode": np.array(1),
    "0.extend_seq_lens": np.array([7, 5]),
    "0.positions": np.concatenate([np.arange(7), np.arange(5)]),
    "1.topk_ids_of_layer": ids(4)[:4].transpose(1, 0, 2).astype(np.int32),
    "1.forward_mode": np.array(2),
    "last_physical_to_logical_map": PLACE,
}
COUNTS = [{str(expert): int(count) for expert, count in enumerate(row)} for row in table(1)]
CSV = "layer,expert,count\n" + "".join(f"{n},{e},{c}\n" for n, row in enumerate(table(1)) for e, c in enumerate(row))
EACH = "layer,expert\n" + "".join(f"{n},{e}\n" for row in ids(1) for n, chosen in enumerate(row) for e in chosen)

Write = Callable[[Any], bytes]


class Form(NamedTuple):
    """A file of a format. whole: what is in it; ``written`` makes its bytes of that. about: options of the import."""

    format: str
    name: str
    whole: Any
    written: Write
    about: dict[str, Any]

    def mutated(self) -> st.SearchStrategy[bytes]:
        """Its bytes, changed, and those of changed contents."""
        inner: st.SearchStrategy[Any]
        if isinstance(self.whole, np.ndarray):
            inner = changed_array(self.whole)
        elif isinstance(self.whole, dict) and any(isinstance(value, np.ndarray) for value in self.whole.values()):
            inner = changed_arrays(self.whole)
        elif isinstance(self.whole, str):
            inner = changed_lines(self.whole)
        else:
            inner = changed_json(self.whole)
        return changed_bytes(self.written(self.whole)) | inner.map(self.written)


@st.composite
def changed_lines(draw: st.DrawFn, whole: str) -> str:
    """A table with a cell replaced, or a line removed, repeated or made longer."""
    rows = [line.split(",") for line in whole.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.integers(0, len(rows) - 1))
        what = draw(st.sampled_from(["cell", "cell", "cell", "remove", "repeat", "longer", "header"]))
        if what == "remove" and len(rows) > 1:
            del rows[row]
        elif what == "repeat":
            rows.insert(row, rows[row])
        elif what == "longer":
            rows[row] = [*rows[row], "1"]
        else:
            at = 0 if what == "header" else row
            cells = list(rows[at]) or [""]
            odd = st.sampled_from(["", "-1", "1.5", "nan", "9" * 30, "9" * 5000, "x", '"', "٣", " 1 ", "\x00", "1_0"])
            cells[draw(st.integers(0, len(cells) - 1))] = draw(odd)
            rows[at] = cells
    return "\n".join(map(",".join, rows))


ENCODED: Write = str.encode
FORMS = {
    "vllm npy": Form("vllm", "x.npy", ids(0), npy, IDS),
    "vllm npz": Form("vllm", "x.npz", {"a": ids(0), "b": ids(1)}, npz, IDS),
    "vllm packed npz": Form("vllm", "x.npz", {"a": ids(0), "b": ids(1)}, partial(npz, packed=True), IDS),
    "vllm json": Form("vllm", "x.json", VLLM, json_bytes, IDS),
    "vllm jsonl": Form("vllm", "x.jsonl", VLLM, lines, IDS | {"omitted_prefix": True}),
    "sglang stat": Form("sglang", "x.npz", {"logical_count": np.stack([table(1), table(2)])}, npz, BOTH),
    "sglang json": Form("sglang", "x.json", {"logical_count": table(1).tolist()}, json_bytes, BOTH),
    "sglang passes": Form("sglang", "x.npz", PASSES, npz, BOTH),
    "sglang tokens": Form("sglang", "x.npz", PER_TOKEN, npz, BOTH),
    "sglang prefill": Form("sglang", "x.npz", PER_TOKEN, npz, BOTH | {"phase": "prefill"}),
    "sglang answers": Form("sglang", "x.jsonl", SGLANG, lines, BOTH),
    "rollouts batch": Form("rollouts", "x.npz", BATCH, npz, IDS),
    "rollouts numbered": Form("rollouts", "x.npz", NUMBERED, npz, IDS | {"phase": "prefill"}),
    "rollouts samples": Form("rollouts", "x.jsonl", [SLIME, SKYRL], lines, IDS),
    "olmoe": Form("olmoe", "x.json", COUNTS, json_bytes, {**BOTH, "layers": (0, 1, 2)}),
    "csv counts": Form("csv", "x.csv", CSV, ENCODED, BOTH),
    "csv selections": Form("csv", "x.csv", EACH, ENCODED, BOTH),
}


@pytest.mark.parametrize("form", FORMS)
def test_imports(form: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    """With what is left out, or counted, by an option, and without."""
    one = FORMS[form]
    path = tmp_path / one.name
    read = importer(one.format).read

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        return reading(lambda: read(named_files([str(path)]), **one.about))

    path.write_bytes(one.written(one.whole))
    read(named_files([str(path)]), **one.about)
    tried(one.mutated(), check, 1 / len(FORMS))


@pytest.mark.parametrize("form", ["vllm npz", "sglang json", "rollouts samples", "olmoe", "csv counts"])
def test_the_command(form: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    """The subcommand as a whole, a few of each format."""
    one = FORMS[form]
    path = tmp_path / one.name
    about = one.about | ({"layers": "0,1,2"} if "layers" in one.about else {})
    options = [word for name, value in about.items() for word in (f"--{name.replace('_', '-')}", str(value))]

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        return command("import", one.format, path, *options, "-o", tmp_path / "out.json", "--quiet")

    tried(one.mutated(), check, 1 / 100)
