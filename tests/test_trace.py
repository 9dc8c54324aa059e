"""Traces: every token can be found again, the statistics come back exactly, and no kill tears trace and pair apart."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from routing_reference import assert_same, random_routing, validate
from safetensors.numpy import load_file, save_file

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench import RoutingStats
from mlx_moebench.cli import main
from mlx_moebench.data.trace import (
    MANIFEST,
    Trace,
    import_trace,
    read_trace,
    sequence_layout,
    token_layout,
    trace_bytes,
)
from mlx_moebench.errors import MoebenchError, RoutingError, TraceError
from mlx_moebench.instrument import capture
from mlx_moebench.measure import analyze, analyze_generation, keep
from mlx_moebench.measure import trace as tracing
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import Plan, RouterSpec, tally
from mlx_moebench.routing.tally import SCALARS
from mlx_moebench.routing.tokens import ranked, token_routing

import mlx.core as mx  # isort: skip

from mlx_moebench.measure.on_mlx import MLX

PLAN = Plan(resamples=100)
SETTINGS: dict[str, Any] = {"max_samples": 16, "max_length": 24, "batch_size": 2, "plan": PLAN}
RUN = ["--max-samples", "16", "--max-length", "24", "--batch-size", "2", "--resamples", "100"]
SMALL = 16_000  # bytes of a shard, so that a short run writes several


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save after every batch, in shards of two or three batches."""
    monkeypatch.setattr(keep, "MIN_SECONDS", 0)
    monkeypatch.setattr(keep, "SHARE", 0)
    monkeypatch.setattr(tracing, "SHARD_BYTES", SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Path:
    """The folder with pair ``o`` and trace ``t`` of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracing, "SHARD_BYTES", SMALL)
        analyze(checkpoint, "math", output=folder / "o", trace=folder / "t", **SETTINGS)
    return folder


def assert_equal_traces(a: Path, b: Path) -> None:
    """The same files with the same bytes, and the same trace.json but for the environment and its seal."""
    names = [sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) for folder in (a, b)]
    assert names[0] == names[1]
    for name in set(names[0]) - {MANIFEST}:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    facts = [json.loads((folder / MANIFEST).read_text()) for folder in (a, b)]
    for fact in facts:
        del fact["environment"], fact["seal"]
    assert facts[0] == facts[1]


# -- what is in it ---------------------------------------------------------------------------------------------------


def test_slots_are_ordered_by_p_then_index() -> None:
    r = random_routing(3, (4, 50), experts=12, top_k=4)
    r.logits[0, :10, :] = 0.0  # ties everywhere
    found = token_routing(r)
    experts, p, weights = ranked(found.experts, found.p, found.p, found.weights)
    assert (np.diff(p, axis=-1) <= 0).all()
    tied = np.diff(p, axis=-1) == 0
    assert tied.any()
    assert (np.diff(experts, axis=-1)[tied] > 0).all()
    counted = tally(r).top1_counts
    first = np.stack([np.bincount(row, minlength=12) for row in experts[..., 0]])
    np.testing.assert_array_equal(first, counted)
    np.testing.assert_array_equal(np.sort(weights, axis=-1), np.sort(r.weights, axis=-1))


def test_every_token_can_be_found_again(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Ids, rows and positions against the encoded text; experts, weights and entropy against a forward of our own."""
    from mlx_moebench.data import encode, read_corpus

    analyze(checkpoint, "math", output=tmp_path / "o", trace=tmp_path / "t", **SETTINGS | {"batch_size": 5})
    trace = Trace(tmp_path / "t")
    assert trace.complete
    texts = trace.texts()
    sequences = {s.row: s.ids for s in encode(read_corpus("math", max_samples=16), checkpoint.tokenizer, 24)}
    (shard,) = trace.shards()
    seen = 0
    for number, row in enumerate(shard.arrays["sequence.row"]):
        here = shard.sequence == number
        ids = sequences.pop(int(row))
        np.testing.assert_array_equal(shard.arrays["token.id"][here], ids)
        np.testing.assert_array_equal(shard.position[here], np.arange(len(ids)))
        assert all(texts[int(i)] == checkpoint.tokenizer.decode([int(i)]) for i in ids)
        if number % 5 == 0:
            logits: dict[int, Any] = {}
            with capture(checkpoint.model, lambda n, z, i, s, to=logits: to.__setitem__(n, (z, i))):
                mx.eval(checkpoint.model(mx.array(ids[None])))
            for n, spec in enumerate(trace.specs):
                z, indices = (np.array(a).reshape(len(ids), -1) for a in logits[n])
                p = np.exp(z.astype(np.float64))
                p /= p.sum(axis=1, keepdims=True)
                experts = shard.arrays[f"{spec.name}.experts"][here]
                np.testing.assert_array_equal(np.sort(experts), np.sort(indices))
                chosen = np.take_along_axis(p, experts.astype(int), axis=1)
                np.testing.assert_allclose(shard.arrays[f"{spec.name}.weights"][here], chosen, rtol=1e-3)
                entropy = -(p * np.log(p)).sum(axis=1)
                np.testing.assert_allclose(shard.arrays[f"{spec.name}.entropy"][here], entropy, rtol=1e-4)
                gap = np.sort(p)[:, -2] - np.sort(p)[:, -3]
                np.testing.assert_allclose(shard.arrays[f"{spec.name}.selection_margin"][here], gap, atol=1e-5)
                seen += 1
    assert not sequences
    assert seen == 4 * 6


def test_predictions_are_the_arguments_of_the_maxima(tmp_path: Path, checkpoint: Checkpoint) -> None:
    options = SETTINGS | {"batch_size": 1, "max_samples": 3}
    analyze(checkpoint, "math", output=tmp_path / "o", trace=tmp_path / "t", trace_predictions=True, **options)
    trace = Trace(tmp_path / "t")
    (shard,) = trace.shards()
    for number in range(3):
        here = shard.sequence == number
        logits = checkpoint.model(mx.array(shard.arrays["token.id"][here][None]))
        np.testing.assert_array_equal(shard.arrays["token.predicted"][here], np.array(mx.argmax(logits, -1))[0])
    assert set(shard.arrays["token.predicted"].tolist()) <= trace.texts().keys()


def test_windows_of_a_document(tmp_path: Path, checkpoint: Checkpoint) -> None:
    (tmp_path / "long.txt").write_text("A router sends a token to two experts. " * 12 + "\n\nShort.")
    text = tmp_path / "long.txt"
    paragraphs: dict[str, Any] = {"split_on": "blank", "long": "windows", "max_length": 16, "batch_size": 3}
    analyze(checkpoint, text, output=tmp_path / "o", trace=tmp_path / "t", plan=PLAN, **paragraphs)
    (shard,) = Trace(tmp_path / "t").shards()
    rows, windows = shard.arrays["sequence.row"], shard.arrays["sequence.window"]
    assert sorted(windows[rows == 0]) == list(range((rows == 0).sum()))
    assert (rows == 0).sum() > 5
    assert_same(read_trace(tmp_path / "t"), RoutingStats.load(tmp_path / "o"))


# -- statistics from it ----------------------------------------------------------------------------------------------


def test_a_trace_gives_the_statistics_of_its_run(whole: Path) -> None:
    """Sums, pairs and transitions bit by bit, and the report but for the command."""
    assert len(list((whole / "t").glob("*.safetensors"))) > 2
    assert_same(read_trace(whole / "t"), RoutingStats.load(whole / "o"))


def test_tokens_agree_with_the_sums_they_are_stored_with(whole: Path) -> None:
    """The per-token entropies and margins are float32: their sums are the run's to 1e-5."""
    trace = Trace(whole / "t")
    for shard in trace.shards():
        for spec in trace.specs:
            for name in ("entropy", "selection_margin"):
                tokens = shard.arrays[f"{spec.name}.{name}"].astype(np.float64)
                by_row = np.bincount(shard.sequence, weights=tokens)
                np.testing.assert_allclose(
                    by_row, shard.arrays[f"{spec.name}.scalars"][:, SCALARS.index(name)], rtol=1e-5
                )


def test_a_trace_from_before_a_scalar_was_kept_is_read(tmp_path: Path, whole: Path) -> None:
    """What the tokens give back is counted from them; `tied_selections` is."""
    folder = tmp_path / "t"
    shutil.copytree(whole / "t", folder)
    manifest = json.loads((folder / "trace.json").read_text())
    assert manifest["scalars"].pop() == "tied"
    for entry in manifest["phases"]["prefill"]["shards"]:
        arrays = load_file(folder / entry["file"])
        arrays |= {key: np.ascontiguousarray(a[:, :-1]) for key, a in arrays.items() if key.endswith(".scalars")}
        save_file(arrays, folder / entry["file"])
        entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    (folder / "trace.json").write_text(sealed_text(manifest))
    assert_same(read_trace(folder), RoutingStats.load(whole / "o"))


def test_import_writes_the_pair(tmp_path: Path, whole: Path) -> None:
    (report,) = import_trace(whole / "t", tmp_path / "again", PLAN)
    assert report == tmp_path / "again.json"
    validate(read_report(report))
    assert read_report(report) == read_report(whole / "o")


def test_generated_tokens_are_a_phase_of_their_own(tmp_path: Path, checkpoint: Checkpoint) -> None:
    options: dict[str, Any] = {"max_tokens": 5, "max_samples": 3, "max_length": 20, "plan": PLAN}
    made = analyze_generation(checkpoint, "code", output=tmp_path / "o", trace=tmp_path / "t", **options)
    trace = Trace(tmp_path / "t")
    assert trace.phases == ("prefill", "decode")
    for phase in trace.phases:
        assert_same(read_trace(tmp_path / "t", phase), made[phase])
    (prompt,), (more,) = (list(trace.shards(phase)) for phase in trace.phases)
    np.testing.assert_array_equal(prompt.arrays["sequence.row"], more.arrays["sequence.row"])
    np.testing.assert_array_equal(more.arrays["sequence.start"], prompt.lengths)
    reports = import_trace(tmp_path / "t", tmp_path / "p", PLAN)
    assert [path.name for path in reports] == ["p.json", "p.decode.json"]
    ids = prompt.arrays["token.id"][prompt.sequence == 0]
    greedy = int(mx.argmax(checkpoint.model(mx.array(ids[None]))[0, -1]))
    assert more.arrays["token.id"][0] == greedy
    with pytest.raises(TraceError, match="no phase 'unsplit'"):
        read_trace(tmp_path / "t", "unsplit")


def test_every_family(tmp_path: Path, make_any: Callable[..., Any], tiny_checkpoint: Path) -> None:
    tokenizer, model = load_checkpoint(tiny_checkpoint).tokenizer, make_any()
    stats = analyze(
        model, "math", tokenizer=tokenizer, output=tmp_path / "o", trace=tmp_path / "t", **SETTINGS | {"batch_size": 3}
    )
    assert_same(read_trace(tmp_path / "t"), stats)


def test_more_than_256_experts_take_two_bytes(tmp_path: Path, make_tiny: Callable[..., Any], checkpoint: Any) -> None:
    model = make_tiny(num_experts=300, vocab_size=4096)
    options = SETTINGS | {"max_samples": 4}
    stats = analyze(
        model, "math", tokenizer=checkpoint.tokenizer, output=tmp_path / "o", trace=tmp_path / "t", **options
    )
    (shard,) = Trace(tmp_path / "t").shards()
    assert shard.arrays["layer.0.mlp.experts"].dtype == np.uint16
    assert shard.arrays["layer.0.mlp.experts"].max() > 255
    assert_same(read_trace(tmp_path / "t"), stats)
    one = token_layout([RouterSpec(0, 0, "mlp", 256, 2)])["layer.0.mlp.experts"][0]
    assert one == np.uint8


def test_shards_of_a_data_set(tmp_path: Path, checkpoint: Checkpoint) -> None:
    parts = []
    for i in (1, 2):
        analyze(checkpoint, "math", shard=f"{i}/2", output=tmp_path / f"o{i}", trace=tmp_path / f"t{i}", **SETTINGS)
        parts.append(read_trace(tmp_path / f"t{i}"))
        assert_same(parts[-1], RoutingStats.load(tmp_path / f"o{i}"))
    assert len(RoutingStats.merge(parts).clusters) == 16


# -- size ------------------------------------------------------------------------------------------------------------


def test_the_budget_is_what_is_written(
    tmp_path: Path, checkpoint: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["analyze", *RUN, "--output", str(tmp_path / "o"), "--trace", str(tmp_path / "t")]
    main(arguments)
    printed = capsys.readouterr().err
    trace = Trace(tmp_path / "t")
    (entry,) = trace.entries("prefill")
    expected = trace_bytes(trace.specs, entry["n_tokens"], entry["n_sequences"])
    assert entry["array_bytes"] == expected
    assert f"{entry['n_tokens']:,} tokens x 6 routers x 2: {tracing.format_bytes(expected)}" in printed
    header = (tmp_path / "t" / entry["file"]).stat().st_size - expected
    assert 0 < header < 5000
    arrays = load_file(tmp_path / "t" / entry["file"])
    assert arrays.keys() == token_layout(trace.specs).keys() | sequence_layout(trace.specs).keys()
    for key in ("o.json", "o.safetensors"):
        (tmp_path / key).unlink()
    shutil.rmtree(tmp_path / "t")
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--trace-limit", f"{(expected - 1) / 1000}kB"])
    assert stop.value.code == 1
    assert "raise --trace-limit" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    main([*arguments, "--trace-limit", str(expected), "--quiet"])
    assert "trace:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2_000_000_000), ("1.5 mb", 1_500_000), ("7", 7), ("10k", 10_000), ("3B", 3)]
)
def test_sizes(text: str, size: int) -> None:
    from mlx_moebench.cli._values import size_in_bytes

    assert size_in_bytes(None, None, text) == size  # type: ignore[arg-type]  # it names them in its error only


def test_memory_does_not_grow_with_the_run(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in memory never exceeds one shard and one batch, and no shard exceeds its size."""
    monkeypatch.setattr(tracing, "SHARD_BYTES", SMALL)
    held: list[int] = []
    count = tracing.TraceWriter.count

    def counting(self: tracing.TraceWriter, *arguments: Any) -> None:
        count(self, *arguments)
        held.extend(phase.size for phase in self._phases.values())
        assert not any(phase.blocks for phase in self._phases.values())

    monkeypatch.setattr(tracing.TraceWriter, "count", counting)
    analyze(checkpoint, "math", output=tmp_path / "o", trace=tmp_path / "t", **SETTINGS | {"max_samples": 60})
    assert len(held) == 30
    assert max(held) <= SMALL
    sizes = [entry["array_bytes"] for entry in Trace(tmp_path / "t").entries("prefill")]
    assert len(sizes) > 10
    assert max(sizes) <= SMALL


# -- killed and resumed ----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """No code of ours catches it."""


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize(
    "rename", [n if 7 <= n <= 12 else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 18)]
)
def test_resumed_after_a_kill_at_any_rename(
    tmp_path: Path, whole: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    """Five or six renames a save: shard, texts, trace.json, sums, report, and now and then a full shard.

    Those of about one save by default.
    """
    replace, calls = Path.replace, []

    def killing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) >= rename:
            raise Killed
        return replace(self, target)

    options: dict[str, Any] = {"output": tmp_path / "o", "trace": tmp_path / "t", **SETTINGS}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killing)
        with pytest.raises(Killed):
            analyze(checkpoint, "math", **options)
    if (tmp_path / "t" / MANIFEST).exists():
        list(Trace(tmp_path / "t").shards())  # whatever is listed is there, and whole
        if (tmp_path / "o.safetensors").exists():
            assert len(read_trace(tmp_path / "t").clusters) >= len(RoutingStats.load(tmp_path / "o").clusters)
    analyze(checkpoint, "math", resume=True, **options)
    assert_equal_traces(tmp_path / "t", whole / "t")
    assert_same(RoutingStats.load(tmp_path / "o"), RoutingStats.load(whole / "o"))


DRIVER = """
import os, signal, sys
from pathlib import Path
from mlx_moebench.measure import keep, trace
from mlx_moebench.cli import main
keep.MIN_SECONDS = keep.SHARE = 0
trace.SHARD_BYTES = int(sys.argv[2])
replace, calls = Path.replace, []
def killing(self, target):
    calls.append(1)
    if len(calls) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = killing
main(sys.argv[3:])
"""


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_kill_9_in_earnest(tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyze", *RUN, "--quiet", "--output", str(tmp_path / "o"), "--trace", str(tmp_path / "t")]
    process = subprocess.run(
        [sys.executable, "-c", DRIVER, "20", str(SMALL), *arguments], capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    orphan = next(tmp_path.rglob(".*.tmp"))  # temporary files of the save that was cut short are no obstacle
    orphan.rename(tmp_path / "t" / orphan.name)
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--resume" in capsys.readouterr().err
    main([*arguments, "--resume"])
    assert_equal_traces(tmp_path / "t", whole / "t")
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.usefixtures("often")
def test_an_interrupted_generation(tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"max_tokens": 4, "max_samples": 6, "max_length": 24, "plan": PLAN}
    analyze_generation(checkpoint, "math", output=tmp_path / "a", trace=tmp_path / "ta", **options)
    forward, calls = MLX.generate, []

    def unlucky(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(MLX, "generate", unlucky)
        with pytest.raises(KeyboardInterrupt, match="after 3 of 6"):
            analyze_generation(checkpoint, "math", output=tmp_path / "b", trace=tmp_path / "tb", **options)
    analyze_generation(checkpoint, "math", output=tmp_path / "b", trace=tmp_path / "tb", resume=True, **options)
    assert_equal_traces(tmp_path / "ta", tmp_path / "tb")


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path, whole: Path, checkpoint: Checkpoint) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tracing, "SHARD_BYTES", SMALL)
        analyze(checkpoint, "math", output=tmp_path / "o", trace=tmp_path / "t", resume=True, **SETTINGS)
    assert_equal_traces(tmp_path / "t", whole / "t")


def test_non_finite_logits_leave_the_trace_before_them(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_checkpoint(None).model
    calls = 0
    forward = MLX.forward

    def breaking(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            gate = model.layers[2].mlp.gate
            gate.weight = gate.weight * float("nan")
        return forward(*arguments)

    monkeypatch.setattr(MLX, "forward", breaking)
    with pytest.raises(RoutingError, match="Layer 2"):
        analyze(model, "math", tokenizer=checkpoint.tokenizer, output=tmp_path / "o", trace=tmp_path / "t", **SETTINGS)
    assert len(read_trace(tmp_path / "t").clusters) == 4
    assert not Trace(tmp_path / "t").complete
    assert_same(read_trace(tmp_path / "t"), RoutingStats.load(tmp_path / "o"))


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole / "t", tmp_path / "t")


def edit(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST
    path.write_text(sealed_text(json.loads(path.read_text()) | changes))


@pytest.mark.slow
def test_no_flipped_bit_is_resumed_from(
    tmp_path: Path, whole: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred, in either file of the pair and in any of the trace: refused, or the numbers are those of before."""
    monkeypatch.setattr(tracing, "SHARD_BYTES", SMALL)
    chance, refused = random.Random(18), 0
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    for number in range(100):
        folder = shutil.copytree(whole, tmp_path / str(number))
        damaged = folder / names[number % len(names)]
        blob = bytearray(damaged.read_bytes())
        blob[chance.randrange(len(blob))] ^= 1 << chance.randrange(8)
        damaged.write_bytes(blob)
        try:
            analyze(checkpoint, "math", output=folder / "o", trace=folder / "t", resume=True, **SETTINGS)
            assert (folder / "o.safetensors").read_bytes() == (whole / "o.safetensors").read_bytes(), damaged
            assert_same(read_trace(folder / "t"), read_trace(whole / "t"))
        except MoebenchError:
            refused += 1
        shutil.rmtree(folder)
    assert refused >= 70


def test_bad_traces_are_refused(broken: Path, tmp_path: Path) -> None:
    shard = Trace(broken).entries("prefill")[1]
    path = broken / shard["file"]
    blob = path.read_bytes()
    path.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
    with pytest.raises(TraceError, match="sha256 differs"):
        read_trace(broken)
    path.unlink()
    with pytest.raises(TraceError, match=f"lacks its shard {shard['file']}"):
        import_trace(broken, tmp_path / "p")
    assert not (tmp_path / "p.json").exists()
    for changes, words in (
        ({"version": 99}, "version 99"),
        ({"format": "other"}, "not of a routing trace"),
        ({"routers": []}, "damaged"),
        ({"routers": [{"nonsense": 1}]}, "damaged"),
        ({"phases": {"later": {}}}, "damaged"),
        ({"phases": {"prefill": {"shards": [{"file": "x"}]}}}, "damaged"),
        ({"phases": {"prefill": {"shards": [shard | {"file": "../" + shard["file"]}]}}}, "damaged"),
        ({"phases": {"prefill": {"shards": ["x"]}}}, "damaged"),
    ):
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / MANIFEST).write_text((broken / MANIFEST).read_text())
        edit(tmp_path / "copy", **changes)
        with pytest.raises(TraceError, match=words):
            Trace(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")
    (broken / MANIFEST).write_text("{")
    with pytest.raises(TraceError, match="not JSON"):
        Trace(broken)
    with pytest.raises(TraceError, match="No trace in"):
        Trace(tmp_path / "nowhere")


def test_a_trace_of_other_routers_or_with_impossible_experts(broken: Path) -> None:
    specs = [asdict(spec) for spec in Trace(broken).specs]
    edit(broken, routers=[spec | {"top_k": 3} for spec in specs])
    with pytest.raises(TraceError, match="does not hold layer"):
        read_trace(broken)
    edit(broken, routers=specs)
    for name, value, words in (
        ("layer.3.mlp.experts", 16, "names expert 16 of 16"),
        ("layer.3.mlp.entropy", 5, "layer.3.mlp in .* contradict"),
        ("layer.3.mlp.experts", None, "layer.3.mlp in .* contradict"),
    ):
        facts = json.loads((broken / MANIFEST).read_text())
        entry = facts["phases"]["prefill"]["shards"][0]
        before = (broken / entry["file"]).read_bytes()
        arrays = load_file(broken / entry["file"])
        arrays[name][0] = arrays[name][1] if value is None else value
        save_file(arrays, broken / entry["file"])
        entry["sha256"] = hashlib.sha256((broken / entry["file"]).read_bytes()).hexdigest()
        edit(broken, phases=facts["phases"])
        with pytest.raises(TraceError, match=words):
            read_trace(broken)
        (broken / entry["file"]).write_bytes(before)


def test_resume_refuses_what_does_not_fit(
    tmp_path: Path, whole: Path, checkpoint: Checkpoint, broken: Path, make_tiny: Callable[..., Any]
) -> None:
    for name in ("o.json", "o.safetensors"):
        shutil.copy(whole / name, tmp_path / name)
    options: dict[str, Any] = {"output": tmp_path / "o", "resume": True, **SETTINGS}
    with pytest.raises(TraceError, match="without one"):
        analyze(checkpoint, "math", trace=tmp_path / "new", **options)
    with pytest.raises(TraceError, match="trace-predictions differs"):
        analyze(checkpoint, "math", trace=broken, trace_predictions=True, **options)
    facts = json.loads((broken / MANIFEST).read_text())
    edit(broken, model=facts["model"] | {"fingerprint": "f" * 64})
    with pytest.raises(TraceError, match="its model differs"):
        analyze(checkpoint, "math", trace=broken, **options)
    edit(broken, model=facts["model"], phases={"prefill": {"shards": facts["phases"]["prefill"]["shards"][:1]}})
    with pytest.raises(TraceError, match="sequences where the stats pair holds 16"):
        analyze(checkpoint, "math", trace=broken, **options)


def test_folders_and_arguments_that_do_not_fit(tmp_path: Path, checkpoint: Checkpoint, broken: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    options: dict[str, Any] = {"output": tmp_path / "o", **SETTINGS}
    for folder, words in (("file", "it is a file"), ("full", "other files")):
        with pytest.raises(TraceError, match=words):
            analyze(checkpoint, "math", trace=tmp_path / folder, **options)
    edit(broken, complete=False)
    with pytest.raises(TraceError, match="did not finish"):
        analyze(checkpoint, "math", trace=broken, **options)
    with pytest.raises(TraceError, match="its data set differs"):  # no pair, but another run's unfinished trace
        analyze(checkpoint, "code", trace=broken, resume=True, **options)
    with pytest.raises(MoebenchError, match="name an output"):
        analyze(checkpoint, "math", trace=tmp_path / "t2", **SETTINGS)
    with pytest.raises(MoebenchError, match="name its folder"):
        analyze(checkpoint, "math", trace_predictions=True, **SETTINGS)
    with pytest.raises(MoebenchError, match="predictions already"):
        analyze_generation(
            checkpoint, "math", max_tokens=2, trace=tmp_path / "t3", trace_predictions=True, output=tmp_path / "o"
        )
    assert not (tmp_path / "o.json").exists()
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_finished_trace_is_replaced_by_the_next_run(tmp_path: Path, checkpoint: Checkpoint, broken: Path) -> None:
    options = SETTINGS | {"max_samples": 4}
    stats = analyze(checkpoint, "code", trace=broken, output=tmp_path / "o", **options)
    assert_same(read_trace(broken), stats)
    assert len(list(broken.glob("*.safetensors"))) == 1


def test_the_import_command_gives_the_report_of_the_run(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="needs MLX")
    from mlx_moebench.cli import main
    from mlx_moebench.pair.storage import read_report

    common = ["--model", tiny_checkpoint, "--max-samples", "12", "--max-length", "16", "--device", "cpu", "--quiet"]
    for name in ("math", "code"):
        paths = ["--output", tmp_path / f"{name}.json", "--trace", tmp_path / name]
        main([str(a) for a in ("analyze", "--dataset", name, *common, *paths, "--resamples", "200")])
    output = tmp_path / "again.json"
    main(["import", "trace", str(tmp_path / "math"), "-o", str(output), "--resamples", "200"])
    run, again = read_report(tmp_path / "math.json"), read_report(output)
    assert again["routers"] == run["routers"]
    assert again["summary"] == run["summary"]
    main(["import", "trace", *(str(tmp_path / name) for name in ("math", "code")), "-o", str(output)])
    assert "findings" in read_report(output)["routers"][0]
