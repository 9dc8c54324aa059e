"""A model that is read layer by layer gives the numbers of one that is in memory, bit by bit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_rows import BY_TYPE, CONFIGS, ROWS

from mlx_moebench import RoutingStats, analyze, profile
from mlx_moebench.data import Batch
from mlx_moebench.errors import ModelLoadError, MoebenchError, StatsError
from mlx_moebench.options import Loading, Plan, Saving
from mlx_moebench.routing.sums import FIELDS

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from conftest import build_tiny, forms_first, save_checkpoint  # noqa: E402

from mlx_moebench.families import families  # noqa: E402
from mlx_moebench.instrument import LiveRoutingStats, config_of  # noqa: E402
from mlx_moebench.instrument.replay import put_together, taken_apart  # noqa: E402
from mlx_moebench.measure import keep_layers, streaming  # noqa: E402
from mlx_moebench.measure.keep import PROGRESS, check_replaceable, work_folder  # noqa: E402
from mlx_moebench.models.streamed import StreamedModel  # noqa: E402

TEXTS = {"texts": ["the experts that score highest " * n for n in (3, 1, 4, 2, 5)]}
PLAN = Plan(resamples=100)
FEW: dict[str, Any] = {"max_length": 24, "batch_size": 2, "device": "cpu"}


def assert_same(a: Any, b: Any) -> None:
    """Every sum of both is the same, bit by bit."""
    assert a.clusters == b.clusters
    assert a.specs == b.specs
    for number in range(len(a.specs)):
        x, y = a.sums(number), b.sums(number)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(x, name), getattr(y, name), err_msg=f"router {number}, {name}")
        np.testing.assert_array_equal(a.pairs(number), b.pairs(number))
        if number + 1 < len(a.specs):
            np.testing.assert_array_equal(a.transition_counts(number), b.transition_counts(number))
            assert a.transition_counts(number).any()


def both_ways(model: Any) -> tuple[LiveRoutingStats, LiveRoutingStats]:
    """The statistics of a model that runs whole, and of the same one layer by layer, which takes its weights away."""
    from mlx_moebench.checkpoints.weights import Weights
    from mlx_moebench.routing.forwards import Part

    rng = np.random.default_rng(0)
    batches = []
    for first, length in ((0, 24), (3, 17), (6, 9)):
        mask = np.ones((3, length), dtype=bool)
        mask[1, length - 4 :] = False
        rows = (first, first + 1, first + 2)
        batches.append(Batch(rng.integers(1, 200, (3, length), dtype=np.int32), mask, rows, (0, 0, 0), 0))
    whole = LiveRoutingStats(model)
    with whole:
        for batch in batches:
            with whole.batch(mask=batch.mask, ids=batch.rows):
                model(mx.array(batch.ids))
    by_layer, layers = LiveRoutingStats(model), StreamedModel(model, Weights(Path(), (), {}))
    states: list[Any] = [(None, None)] * len(batches)
    with by_layer, layers:
        for layer in range(streaming.EMBEDDINGS, by_layer.specs[-1].layer + 1):
            numbers = streaming.routers_of(by_layer, layer)
            for place, batch in enumerate(batches):
                before, chosen = states[place]
                part = Part(numbers, chosen)
                with by_layer.batch(mask=batch.mask, ids=batch.rows, part=part):
                    state = (layers.run(batch, layer, before), part.after if numbers else chosen)
                    layers.evaluate(state)
                states[place] = layers.unpacked(*layers.packed(state))
            layers.drop(layer)
    assert not by_layer.dropped
    return whole, by_layer


@pytest.mark.parametrize("name", forms_first(list(CONFIGS)))
def test_every_family_is_streamed_to_the_same_numbers(name: str) -> None:
    """Each with every weight of a layer gone, and those of the trunk, once all batches have been through it."""
    for config in ({}, *BY_TYPE[name].variants):
        model = build_tiny(model_type=name, **config)
        own = [type(layer) for layer in model.layers]
        assert families()[name].unstreamed(config_of(model)) is None
        assert_same(*both_ways(model))
        assert [type(layer) for layer in model.layers] == own


CANNOT = [
    (row.model_type, key)
    for row in ROWS
    if row.model_type in CONFIGS and row.model_type in families()
    for key in families()[row.model_type].whole
    if key in row.config
]


@pytest.mark.parametrize(("name", "key"), CANNOT)
def test_what_cannot_be_streamed_is_refused(name: str, key: str, tmp_path: Path) -> None:
    changed = {key: 1 if key.startswith("num") else 16}
    model = build_tiny(model_type=name, **changed)
    assert families()[name].unstreamed(config_of(model)) == families()[name].whole[key]
    folder = save_checkpoint(tmp_path / "model", model, BY_TYPE[name].config | changed)
    with pytest.raises(ModelLoadError, match=r"cannot be streamed, because .* use --stream off\.$"):
        analyze(folder, TEXTS, stream="on", **FEW)
    assert analyze(folder, TEXTS, **FEW).n_tokens  # auto


def test_there_are_families_that_cannot_be_streamed() -> None:
    assert CANNOT


@pytest.fixture(scope="module")
def resident(tiny_checkpoint: Path) -> RoutingStats:
    return analyze(tiny_checkpoint, TEXTS, stream="off", **FEW)


@pytest.mark.parametrize("memory", [None, 0, 10_000])
def test_hidden_states_may_lie_on_the_disk(
    memory: int | None, resident: RoutingStats, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.json"
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, stream="on", stream_memory=memory, output=output, **FEW))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.safetensors"]
    assert_same(resident, RoutingStats.load(output))


def test_without_an_output_no_file_is_left(
    resident: RoutingStats, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, stream="on", stream_memory=0, **FEW))
    assert list(tmp_path.iterdir()) == []


def test_bits_are_made_layer_by_layer(tiny_checkpoint: Path) -> None:
    for bits, router_bits in ((4, None), (8, 16), (None, 4)):
        choices: dict[str, Any] = {"bits": bits, "router_bits": router_bits, **FEW}
        whole, streamed = (analyze(tiny_checkpoint, TEXTS, stream=stream, **choices) for stream in ("off", "on"))
        assert_same(whole, streamed)
        assert whole.model == streamed.model


def test_a_weight_is_read_once_and_those_behind_the_last_router_never(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    monkeypatch.setattr(StreamedModel, "read", lambda self, layer: read.append(layer))
    analyze(tiny_checkpoint, TEXTS, stream="on", **FEW)
    assert read == [-1, 0, 1]  # of 3 layers; of the last one what its router needs


def test_one_layer_is_in_memory_at_a_time(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx.utils import tree_flatten

    held: list[int] = []
    run = StreamedModel.run

    def run_and_look(self: Any, ids: Any, layer: int, before: Any) -> Any:
        after = run(self, ids, layer, before)
        blocks = [tree_flatten(block.parameters()) for block in self._blocks]
        held.append(sum(any(bool(mx.isnan(a).any()) for _, a in block) for block in blocks))
        return after

    monkeypatch.setattr(StreamedModel, "run", run_and_look)
    analyze(tiny_checkpoint, TEXTS, stream="on", **FEW)
    assert held == [0] * 6 + [1] * 3 + [2] * 3


def test_auto_streams_what_does_not_fit_and_says_so(
    tiny_checkpoint: Path, resident: RoutingStats, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, tell=said.append, **FEW))
    assert said == []
    ran: list[int] = []
    run = StreamedModel.run
    monkeypatch.setattr(StreamedModel, "run", lambda self, *args: ran.append(args[1]) or run(self, *args))
    monkeypatch.setattr("mlx_moebench.models.room.free_memory", lambda: 1000)
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, tell=said.append, **FEW))
    assert sorted(set(ran)) == [-1, 0, 1, 2]
    assert len(said) == 1
    assert "they are read layer by layer (--stream off" in said[0]
    analyze(tiny_checkpoint, TEXTS, tell=said.append, stream="off", **FEW)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"trace": "trace", "output": "out.json"}, r"--trace .*, and --stream on reads its layers one by one"),
        ({"backend": "torch"}, r"On torch a model is loaded whole; leave --stream on out"),
    ],
)
def test_what_needs_all_layers_is_refused_by_name(
    choices: dict[str, Any], words: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MoebenchError, match=words):
        analyze(tiny_checkpoint, TEXTS, stream="on", **FEW | choices)
    assert list(tmp_path.iterdir()) == []


def test_generation_and_models_in_memory_are_refused_by_name(tiny_checkpoint: Path) -> None:
    from mlx_moebench import load
    from mlx_moebench.measure.run import analyze_generation

    choices = {key: value for key, value in FEW.items() if key != "batch_size"}
    with pytest.raises(MoebenchError, match=r"--generate runs the whole model for every token"):
        analyze_generation(tiny_checkpoint, TEXTS, max_tokens=2, stream="on", **choices)
    model, tokenizer = load(tiny_checkpoint)
    with pytest.raises(MoebenchError, match=r"in memory already; to stream its layers, name its folder"):
        analyze(model, TEXTS, tokenizer=tokenizer, stream="on", **FEW)


@pytest.mark.parametrize("memory", [None, 0])
def test_arms_are_streamed_to_the_same_numbers(memory: int | None, tiny_checkpoint: Path) -> None:
    """Reference and arm, one layer of each at a time; tokens are paired layer by layer."""
    from mlx_moebench.analysis.quant import quant_drift

    whole, streamed = (
        quant_drift(tiny_checkpoint, ["4/8", "stored/4"], TEXTS, stream=stream, stream_memory=memory, plan=PLAN, **FEW)
        for stream in ("off", "on")
    )
    assert json.dumps(streamed) == json.dumps(whole)
    assert any(router["own"]["exact_set_rate"]["value"] < 1 for router in whole["arms"][1]["routers"])


def test_arms_are_streamed_where_not_both_models_fit(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference fits alone, and the arm beside it does not: then neither is held."""
    from mlx_moebench.analysis.quant import quant_drift

    choices: dict[str, Any] = {"plan": PLAN, **FEW}
    whole = quant_drift(tiny_checkpoint, ["4/8", "4/4"], TEXTS, **choices)
    asked, said = iter([2**40]), []
    monkeypatch.setattr("mlx_moebench.models.room.free_memory", lambda: next(asked, 1000))
    streamed = quant_drift(tiny_checkpoint, ["4/8", "4/4"], TEXTS, tell=said.append, **choices)
    assert json.dumps(streamed) == json.dumps(whole)
    assert len(said) == 1  # of the arm; from then on it is meant


def test_a_profile_is_streamed_to_the_same_numbers(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domains = {"a": TEXTS["texts"], "b": ["a router sends every token"] * 3}
    whole, streamed = (
        profile([tiny_checkpoint], domains, stream=stream, output=tmp_path / stream, **FEW)[0]
        for stream in ("off", "on")
    )
    assert_same(whole.merged, streamed.merged)
    assert not list((tmp_path / "on").rglob("*.stream"))
    ran = killed_at(monkeypatch, 99, 0)
    profile([tiny_checkpoint], domains, stream="on", output=tmp_path / "on", resume=True, **FEW)
    assert ran == []


def test_a_layer_is_read_once_for_all_domains(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    own = StreamedModel.read
    monkeypatch.setattr(StreamedModel, "read", lambda self, layer: read.append(layer) or own(self, layer))
    profile([tiny_checkpoint], {"a": TEXTS["texts"], "b": ["others"] * 3}, stream="on", **FEW)
    assert read == [-1, 0, 1]


@pytest.mark.parametrize(("layer", "batch"), [(0, 4), (1, 2), (1, 4), (2, 4)])
def test_a_profile_that_ended_goes_on_at_its_layer(
    layer: int, batch: int, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three batches of the first domain and two of the second; what a domain has behind it is not run again."""
    domains = {"a": TEXTS["texts"], "b": ["a router sends every token"] * 3}
    (whole,) = profile([tiny_checkpoint], domains, stream="off", **FEW)
    choices: dict[str, Any] = {"output": tmp_path, "stream_memory": 0, **FEW}
    with monkeypatch.context() as patch:
        before = killed_at(patch, layer, batch)
        with pytest.raises(KilledError):
            profile([tiny_checkpoint], domains, stream="on", **choices)
    ran = killed_at(monkeypatch, 99, 0)
    (streamed,) = profile([tiny_checkpoint], domains, resume=True, **choices | {"stream": "on"})
    assert_same(whole.merged, streamed.merged)
    done = before.count(layer) // 3 * 3  # the first domain had this layer behind it, or not
    assert ran.count(layer) == 5 - done
    assert not any(at < layer for at in ran if layer > 0 and at >= 0)
    assert not list(tmp_path.rglob("*.stream"))


def test_the_experts_after_the_last_router_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where experts are grouped on a CPU they are run when they are called, unless nobody reads what they return."""
    from mlx_moebench.instrument import cpu_path

    ran: list[Any] = []
    own = cpu_path.grouped_experts
    monkeypatch.setattr(cpu_path, "WORTH_IT", 1)
    monkeypatch.setattr(cpu_path, "grouped_experts", lambda *args, **more: ran.append(1) or own(*args, **more))
    analyze(stream="on", max_samples=2, max_length=16, device="cpu")
    assert len(ran) == (5 if cpu_path.has_cpu_path() else 0)  # of 6 layers, one batch


def test_words_and_sizes_that_are_none_are_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"choose auto, on, off\.$"):
        Loading(stream="yes")
    with pytest.raises(ModelLoadError, match=r"give 0 bytes or more"):
        Loading(stream_memory=-1)


# -- going on ----------------------------------------------------------------------------------------------------------


class KilledError(RuntimeError):
    """Stands for the end of a process."""


def killed_at(monkeypatch: pytest.MonkeyPatch, layer: int, batch: int) -> list[int]:
    """End the run when this batch comes to this layer; returns the layers that run, batch by batch."""
    ran: list[int] = []
    run = StreamedModel.run

    def run_until(self: Any, ids: Any, at: int, before: Any) -> Any:
        if at == layer and ran.count(at) == batch:
            raise KilledError
        ran.append(at)
        return run(self, ids, at, before)

    monkeypatch.setattr(StreamedModel, "run", run_until)
    return ran


@pytest.mark.parametrize(("layer", "batch"), [(0, 1), (1, 0), (1, 2), (2, 0), (2, 1)])
def test_a_run_that_ended_goes_on_at_its_layer(
    layer: int,
    batch: int,
    resident: RoutingStats,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out.json"
    choices: dict[str, Any] = {"output": output, "stream_memory": 0, **FEW}
    with monkeypatch.context() as patch:
        killed_at(patch, layer, batch)
        with pytest.raises(KilledError) as error:
            analyze(tiny_checkpoint, TEXTS, stream="on", **choices)
    folder = work_folder(output)
    assert folder.exists() == (layer > 0)
    if layer:
        assert f"The {layer} of 3 layers measured before are in {folder}" in "".join(error.value.__notes__)
        with pytest.raises(StatsError, match=r"layers of a run that did not finish: continue with --resume"):
            check_replaceable(output)
        with pytest.raises(MoebenchError, match=r"began with --stream on; go on with the same"):
            analyze(tiny_checkpoint, TEXTS, stream="off", resume=True, **choices)
    ran = killed_at(monkeypatch, 99, 0)
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, stream="auto" if layer else "on", resume=True, **choices))
    assert ran == [at for at in range(layer or -1, 3) for _ in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.safetensors"]


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_to_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, by SIGKILL in the middle of a layer. Finished layers are not run again."""
    output = tmp_path / "out.json"
    words = ("analyze", "--max-samples", "24", "--batch-size", "1", "--max-length", "64", "--device", "cpu", "--quiet")
    command = [sys.executable, "-m", "mlx_moebench", *words, "--stream", "on", "--stream-memory", "0", "-o", output]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    progress = work_folder(output) / PROGRESS
    while not (progress.exists() and json.loads(progress.read_text())["done"] >= 2):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -9
    done = json.loads(progress.read_text())["done"]
    ran = killed_at(monkeypatch, 99, 0)
    choices: dict[str, Any] = {"max_samples": 24, "batch_size": 1, "max_length": 64, "device": "cpu"}
    assert_same(analyze(stream="off", **choices), analyze(output=output, resume=True, **choices))
    assert ran == [layer for layer in range(done, 6) for _ in range(24)]
    assert_same(analyze(stream="off", **choices), RoutingStats.load(output))


def begun(checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that ended in layer 2."""
    with monkeypatch.context() as patch:
        killed_at(patch, 2, 1)
        with pytest.raises(KilledError):
            analyze(checkpoint, TEXTS, stream="on", output=output, **FEW)
    return work_folder(output)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("max length", {"max_length": 12}),
        ("batch size", {"batch_size": 3}),
        ("model's router_bits|model's .*", {"bits": 4}),
        ("data set", {"texts": {"texts": ["others"]}}),
    ],
)
def test_only_the_same_run_goes_on(
    what: str, change: dict[str, Any], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    folder = begun(tiny_checkpoint, output, monkeypatch)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    texts = change.pop("texts", TEXTS)
    with pytest.raises(StatsError, match=rf"^Cannot resume {folder}: its ({what}) is "):
        analyze(tiny_checkpoint, texts, resume=True, output=output, **FEW | change)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("pattern", ["progress.json", "sums-0001*", "state-0001-000001*"])
def test_a_changed_file_is_told(
    pattern: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    folder = begun(tiny_checkpoint, output, monkeypatch)
    (path,) = folder.glob(pattern)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(StatsError, match=rf"{path.name}.*(changed|not JSON|go on|read)"):
        analyze(tiny_checkpoint, TEXTS, resume=True, output=output, **FEW)
    path.unlink()
    if pattern != PROGRESS:
        with pytest.raises(StatsError, match=rf"{path.name}.*to start again\.$"):
            analyze(tiny_checkpoint, TEXTS, resume=True, output=output, **FEW)


def test_files_of_two_generations_at_most(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    keep = keep_layers.LayerKeeper.keep

    def look(self: Any, layer: int) -> None:
        keep(self, layer)
        seen.append({path.name[:10] for path in self.folder.glob("state-*")})

    monkeypatch.setattr(keep_layers.LayerKeeper, "keep", look)
    analyze(tiny_checkpoint, TEXTS, stream="on", output=tmp_path / "out.json", **FEW)
    assert seen == [{"state-inpu", "state-0000"}, {"state-0000", "state-0001"}, {"state-0001"}]


def test_a_run_that_was_killed_before_its_folder_was_removed_is_finished(
    resident: RoutingStats, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    with monkeypatch.context() as patch:
        patch.setattr(keep_layers.LayerKeeper, "finish", lambda self: None)
        analyze(tiny_checkpoint, TEXTS, stream="on", output=output, **FEW)
    assert work_folder(output).exists()
    ran = killed_at(monkeypatch, 0, 0)
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, resume=True, output=output, **FEW))
    assert ran == []
    assert not work_folder(output).exists()


def test_a_run_that_had_the_model_in_memory_goes_on_so(
    resident: RoutingStats, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_moebench.measure.on_mlx import MLX

    output, forward = tmp_path / "out.json", MLX.forward
    calls: list[int] = []

    def failing(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KilledError
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MLX, "forward", failing)
        with pytest.raises(KilledError):
            analyze(tiny_checkpoint, TEXTS, output=output, **FEW)
    with pytest.raises(MoebenchError, match=r"began with --stream off; go on with the same"):
        analyze(tiny_checkpoint, TEXTS, stream="on", output=output, resume=True, **FEW)
    monkeypatch.setattr("mlx_moebench.models.room.free_memory", lambda: 1000)
    assert_same(resident, analyze(tiny_checkpoint, TEXTS, output=output, resume=True, **FEW))


def test_ctrl_c_says_how_to_go_on(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, run = tmp_path / "out.json", StreamedModel.run

    def stopped(self: Any, ids: Any, layer: int, before: Any) -> Any:
        if layer == 1:
            raise KeyboardInterrupt
        return run(self, ids, layer, before)

    monkeypatch.setattr(StreamedModel, "run", stopped)
    with pytest.raises(KeyboardInterrupt) as error:
        analyze(tiny_checkpoint, TEXTS, stream="on", output=output, **FEW)
    folder = work_folder(output)
    assert str(error.value) == (
        f"Stopped by Ctrl-C after 1 of 3 layers; they are in {folder}, and --resume continues from there."
    )


@pytest.mark.parametrize("early", [True, False])
def test_a_full_disk_is_one_sentence(
    early: bool, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if (self.parent / PROGRESS).exists() and self.suffix == ".part":
            raise OSError(28, "No space left on device")
        return write(self, content)

    output = tmp_path / "out.json"
    if early:
        usage = shutil.disk_usage(tmp_path)._replace(free=100)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    words = r"Hidden states between two layers take up to" if early else r"Cannot write .*No space left on device"
    with pytest.raises(StatsError, match=words):
        analyze(tiny_checkpoint, TEXTS, stream="on", output=output, **FEW)
    assert work_folder(output).exists() != early  # layer 0 is done, and gone on from when there is room


# -- what goes between layers ------------------------------------------------------------------------------------------


class Blocks:
    def __init__(self) -> None:
        self.raw, self.eps = mx.arange(4), 0.5


def test_a_state_comes_back_from_json_and_arrays() -> None:
    value = ((mx.zeros(3), [None, 2, "x"], {"a": mx.ones(2), "b": {"c": 1.5}}), [], Blocks())
    arrays, skeleton = taken_apart(value, __name__)
    back = put_together(arrays, json.loads(json.dumps(skeleton)), __name__)
    assert back[0][1:] == ([None, 2, "x"], {"a": arrays[1], "b": {"c": 1.5}})
    assert type(back[0]) is tuple
    assert back[0][0] is arrays[0]
    assert (back[1], back[2].raw, back[2].eps) == ([], arrays[2], 0.5)
    with pytest.raises(MoebenchError, match=r"returned a PosixPath; run it with --stream off"):
        taken_apart(Path(), __name__)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "uint16", "int64", "bool_"])
def test_every_dtype_goes_through_the_host_unchanged(dtype: str, tiny_model: Any) -> None:
    from mlx_moebench.checkpoints.weights import Weights

    layers = StreamedModel(tiny_model, Weights(Path(), (), {}))
    array = (mx.random.normal((3, 5)) * 3).astype(getattr(mx, dtype))
    arrays, facts = layers.packed((array, None))
    back, nothing = layers.unpacked(arrays, json.loads(json.dumps(facts)))
    assert nothing is None
    assert back.dtype == array.dtype
    assert mx.array_equal(back, array)


def test_a_run_says_where_it_is(tiny_checkpoint: Path) -> None:
    said: list[tuple[str, int, int]] = []
    analyze(tiny_checkpoint, TEXTS, stream="on", step=lambda *args: said.append(args), **FEW)
    batches = [one for one in said if one[0].startswith("layer 3 of 3") and one[0].endswith("left, batches")]
    assert [one[1:] for one in batches] == [(0, 3), (1, 3), (2, 3)]


def test_how_a_run_is_meant() -> None:
    assert streaming.stream_of(Loading(), Saving(), None) == "auto"
    assert streaming.stream_of(Loading(), Saving(), "why") == "off"
    assert streaming.stream_of(Loading(stream="on"), Saving(), None) == "on"
