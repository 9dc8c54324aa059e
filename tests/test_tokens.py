"""The token view: its data are the trace's and the model's, its page takes any text for text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX to route texts")

from mlx_moebench import RoutingStats
from mlx_moebench.data.pieces import piece_texts
from mlx_moebench.data.trace import MANIFEST, TEXTS, Trace
from mlx_moebench.errors import DataError, TraceError
from mlx_moebench.measure import analyze, analyze_generation
from mlx_moebench.measure.text import route_text
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.routing import Plan, RouterSpec
from mlx_moebench.routing.tokens import Choices, TokenSequence
from mlx_moebench.show.tokens import MAX_TEXT, script_json, token_data, token_data_of, token_page

HOSTILE = "</script><img src=x onerror=alert(1)>"
MIXED = HOSTILE + " שלום עולם naïve 😀 日本\r\n\ttab\x00\x07 a\u202eb e\u0301 & <!-- \u2028 end"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    settings: dict[str, Any] = {"max_samples": 12, "max_length": 40, "plan": Plan(resamples=100)}
    analyze(checkpoint, "general", output=folder / "o", trace=folder / "t", **settings)
    return folder / "t"


def numbers(text: str, dtype: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype)


def sequence(name: str = "s", tokens: int = 5, experts: int = 8, k: int = 2, seed: int = 0) -> TokenSequence:
    """Random choices of one router."""
    rng = np.random.default_rng(seed)
    chosen = np.argsort(rng.random((tokens, experts)), axis=1)[:, :k]
    scalars = rng.random((2, tokens)).astype(np.float32)
    weights = rng.random((tokens, k)).astype(np.float32)
    return TokenSequence(name, [f"w{i}" for i in range(tokens)], [Choices(chosen, weights, *scalars)])


SPEC = RouterSpec(layer=3, moe_layer=0, router="mlp", n_experts=8, top_k=2)


def data_of(*sequences: TokenSequence, spec: RouterSpec = SPEC, **limits: Any) -> dict[str, Any]:
    return token_data_of([spec], sequences, model={"id": "m"}, name="d", **limits)


def test_the_data_are_those_of_the_trace(trace: Path) -> None:
    data = token_data(trace)
    (shard,) = Trace(trace).shards()
    arrays, texts = shard.arrays, Trace(trace).texts()
    order = np.argsort(arrays["sequence.row"])
    ends = np.cumsum(shard.lengths)
    places = np.concatenate([np.arange(ends[n] - shard.lengths[n], ends[n]) for n in order])
    assert [s["name"] for s in data["sequences"]] == [f"row {row}" for row in range(12)]
    assert [s["n_tokens"] for s in data["sequences"]] == shard.lengths[order].tolist()
    shown = [data["texts"][i] for i in numbers(data["tokens"], "<u4")]
    assert shown == [texts[i] for i in arrays["token.id"][places].tolist()]
    for spec, router in zip(Trace(trace).specs, data["routers"], strict=True):
        experts = numbers(router["experts"], "u1").reshape(-1, spec.top_k)
        np.testing.assert_array_equal(experts, arrays[f"{spec.name}.experts"][places])
        np.testing.assert_array_equal(numbers(router["weights"], "<f2"), arrays[f"{spec.name}.weights"][places].ravel())
        for ours, theirs in (("entropy", "entropy"), ("margin", "selection_margin")):
            stored = arrays[f"{spec.name}.{theirs}"][places]
            np.testing.assert_allclose(numbers(router[ours], "<f2"), stored, rtol=1e-3, atol=1e-6)
    assert data["left_out"] == {"sequences": 0, "tokens": 0, "sentence": ""}


def test_what_is_left_out_is_said(trace: Path) -> None:
    data = token_data(trace, max_sequences=3, max_tokens=50)
    assert [s["name"] for s in data["sequences"]] == ["row 0", "row 1"]
    assert sum(s["n_tokens"] for s in data["sequences"]) == 50
    assert data["sequences"][1]["total"] > data["sequences"][1]["n_tokens"]
    every = sum(entry["n_tokens"] for entry in Trace(trace).entries("prefill"))
    assert data["left_out"]["tokens"] == every - 50
    assert data["left_out"]["sentence"] == (
        f"Shown: 2 sequences of 12, 50 tokens of {every:,}; counts here are of those."
    )


def test_bytes_are_limited() -> None:
    spec = RouterSpec(layer=0, moe_layer=0, router="mlp", n_experts=300, top_k=8)
    data = data_of(sequence(tokens=500, experts=300, k=8), spec=spec, max_bytes=10_000)
    arrays = [data["routers"][0][key] for key in ("experts", "weights", "entropy", "margin")]
    assert 9_900 < sum(map(len, arrays)) <= 10_016
    assert data["routers"][0]["bytes"] == 2
    assert numbers(arrays[0], "<u2").max() > 255
    with pytest.raises(TraceError, match="shows nothing"):
        data_of(sequence(), max_bytes=10)
    with pytest.raises(TraceError, match="shows nothing"):
        data_of(sequence(), max_sequences=0)
    with pytest.raises(TraceError, match="no token"):
        data_of(sequence(tokens=0))


def test_a_trace_without_the_phase_or_without_tokens(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no phase 'decode'"):
        token_data(trace, phase="decode")
    with pytest.raises(TraceError, match="No trace in"):
        token_data(tmp_path)


def test_phases_and_runs_that_go_on_are_said(tmp_path: Path, checkpoint: Checkpoint) -> None:
    limits: dict[str, Any] = {"max_samples": 2, "max_length": 16, "plan": Plan(resamples=100)}
    analyze_generation(checkpoint, "general", max_tokens=3, output=tmp_path / "o", trace=tmp_path / "t", **limits)
    data = token_data(tmp_path / "t")
    generated = sum(entry["n_tokens"] for entry in Trace(tmp_path / "t").entries("decode"))
    assert data["phase"] == "prefill"
    assert data["left_out"]["sentence"] == (
        f"{generated} tokens of phase decode not shown: --trace-phase decode shows those."
    )
    decode = token_data(tmp_path / "t", phase="decode")
    assert sum(s["n_tokens"] for s in decode["sequences"]) == generated
    assert decode["sequences"][0]["start"] == 16
    manifest = json.loads((tmp_path / "t" / MANIFEST).read_text())
    (tmp_path / "t" / MANIFEST).write_text(sealed_text(manifest | {"complete": False}))
    assert token_data(tmp_path / "t")["left_out"]["sentence"].endswith("has not ended: more tokens will follow.")


@pytest.mark.parametrize(("array", "value"), [("experts", 16), ("sequence.n_tokens", 1)])
def test_a_shard_that_cannot_be_is_refused(trace: Path, tmp_path: Path, array: str, value: int) -> None:
    from safetensors.numpy import load_file, save_file

    for file in trace.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (entry,) = manifest["phases"]["prefill"]["shards"]
    arrays = load_file(tmp_path / entry["file"])
    arrays[f"{Trace(trace).specs[0].name}.experts" if array == "experts" else array].flat[0] = value
    save_file(arrays, tmp_path / entry["file"])
    entry["sha256"] = hashlib.sha256((tmp_path / entry["file"]).read_bytes()).hexdigest()
    (tmp_path / MANIFEST).write_text(sealed_text(manifest))
    with pytest.raises(TraceError, match="make"):
        token_data(tmp_path)


def test_the_view_counts_what_was_measured(trace: Path) -> None:
    data, measured = token_data(trace), RoutingStats.load(trace.parent / "o")
    assert sum(s["n_tokens"] for s in data["sequences"]) == measured.n_tokens
    for number, router in enumerate(data["routers"]):
        experts = numbers(router["experts"], "u1").reshape(-1, 2)
        totals, values = measured.totals(number), measured.values(number)
        np.testing.assert_array_equal(np.bincount(experts.ravel(), minlength=16), totals.counts)
        np.testing.assert_array_equal(np.bincount(experts[:, 0], minlength=16), totals.top1_counts)
        assert numbers(router["entropy"], "<f2").mean(dtype=float) == pytest.approx(values["mean_entropy"], rel=1e-4)
        assert numbers(router["margin"], "<f2").mean(dtype=float) == pytest.approx(values["selection_margin"], rel=1e-3)


def test_margins_of_nothing_left_to_choose_are_nan() -> None:
    whole = sequence(experts=2)
    choices = [Choices(c.experts, c.weights, c.entropy, np.full(5, np.nan)) for c in whole.choices]
    spec = RouterSpec(layer=0, moe_layer=0, router="mlp", n_experts=2, top_k=2)
    data = data_of(TokenSequence("s", whole.texts, choices), spec=spec)
    assert np.isnan(numbers(data["routers"][0]["margin"], "<f2")).all()
    json.dumps(data, allow_nan=False)


def test_a_page_holds_hostile_text_as_data(trace: Path, tmp_path: Path) -> None:
    for file in trace.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    texts = json.loads((tmp_path / TEXTS).read_text(encoding="utf-8"))
    texts[next(iter(texts))] = MIXED
    (tmp_path / TEXTS).write_text(json.dumps(texts), encoding="utf-8")
    data = token_data(tmp_path)
    assert MIXED in data["texts"]
    page = token_page(data, title=HOSTILE)
    assert HOSTILE not in page
    assert page.count("</script>") == 2
    assert json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0]) == json.loads(json.dumps(data))
    assert "http:" not in page
    assert "https:" not in page


def test_the_page_allows_its_own_script_and_style_only() -> None:
    page = token_page(data_of(sequence()))
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)[0]
    for tag in ("script", "style"):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_json_in_a_script_element() -> None:
    text = script_json({"a": MIXED + "\ud800"})
    assert not set("<>&\u2028") & set(text)
    assert text.isascii()
    assert json.loads(text)["a"] == MIXED + "\ud800"


def test_a_long_token_is_cut() -> None:
    long = TokenSequence("s", ["x" * 10_000], sequence(tokens=1).choices)
    assert data_of(long)["texts"] == ["x" * MAX_TEXT + "…"]


@pytest.mark.parametrize("text", [MIXED, "plain words", "😀😀", "שלום", "e\u0301", "\x00\x01", "\u202e"])
def test_pieces_of_characters_are_put_together(checkpoint: Checkpoint, text: str) -> None:
    ids = checkpoint.tokenizer.encode(text)
    texts, continued = piece_texts(checkpoint.tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(t for i, t in enumerate(texts) if i not in continued) == text
    for position in continued:
        assert texts[position] == texts[position - 1]


def test_bytes_that_are_no_character_stay_single(checkpoint: Checkpoint) -> None:
    smile = checkpoint.tokenizer.encode("😀")
    words = checkpoint.tokenizer.encode("ab cd")
    texts, continued = piece_texts(checkpoint.tokenizer, [*smile[:2], *words])
    assert texts[:2] == ["\ufffd", "\ufffd"]
    assert "".join(texts[2:]) == "ab cd"
    assert continued == []


def test_a_tokenizer_that_takes_the_first_space_away_keeps_the_others() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {"▁one": 0, "▁two": 1, "s": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert piece_texts(tokenizer, [0, 1, 2, 1]) == (["one", " two", "s", " two"], [])


def test_a_routed_text_is_a_measured_one(checkpoint: Checkpoint, tmp_path: Path) -> None:
    text = "Every token is sent to two of sixteen experts."
    routed = route_text(checkpoint, text)
    (tmp_path / "one.jsonl").write_text(json.dumps({"text": text}))
    measured = analyze(checkpoint, tmp_path / "one.jsonl")
    assert routed.stats.n_tokens == measured.n_tokens == len(routed.tokens.texts)
    assert "".join(routed.tokens.texts) == text
    assert routed.cut == ""
    for number, choices in enumerate(routed.tokens.choices):
        ours, theirs = routed.stats.totals(number), measured.totals(number)
        np.testing.assert_array_equal(ours.counts, theirs.counts)
        np.testing.assert_array_equal(ours.top1_counts, theirs.top1_counts)
        np.testing.assert_array_equal(np.bincount(choices.experts.ravel(), minlength=16), ours.counts)
        np.testing.assert_array_equal(np.bincount(choices.experts[:, 0], minlength=16), ours.top1_counts)
        assert choices.entropy.mean() == pytest.approx(routed.stats.values(number)["mean_entropy"], rel=1e-5)
        assert choices.margin.mean() == pytest.approx(routed.stats.values(number)["selection_margin"], rel=1e-5)


def test_a_long_text_is_cut_and_that_is_said(checkpoint: Checkpoint) -> None:
    routed = route_text(checkpoint, "word " * 20, name="text A", max_tokens=8)
    assert len(routed.tokens.texts) == routed.stats.n_tokens == 8
    assert re.fullmatch(r"Text A has \d+ tokens; the first 8 were run\.", routed.cut)
    huge = route_text(checkpoint, "word " * 1_000_000, max_tokens=8)
    assert re.fullmatch(r"Text has more than \d+ tokens; the first 8 were run\.", huge.cut)
    beyond = route_text(checkpoint, "word " * 2_000, max_tokens=100_000)
    assert beyond.stats.n_tokens == checkpoint.config["max_position_embeddings"]


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_an_empty_text_is_one_sentence(checkpoint: Checkpoint, text: str) -> None:
    with pytest.raises(DataError, match="type some words"):
        route_text(checkpoint, text)


def test_lone_surrogates_and_hostile_text_are_routed(checkpoint: Checkpoint) -> None:
    assert "".join(route_text(checkpoint, "a \ud800 b").tokens.texts) == "a ? b"
    assert route_text(checkpoint, MIXED).stats.n_tokens > 20
