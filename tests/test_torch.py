"""The torch backend: the same numbers as MLX and as NumPy, from transformers' own models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace
from routing_reference import assert_same, validate
from transformers_models import FORMS, random_transformers, torch
from without import without

import torch_fallback
from mlx_moebench import RoutingStats
from mlx_moebench.analysis import profile
from mlx_moebench.analysis.parity import MOST_TIES, TOLERANCE, parity
from mlx_moebench.checkpoints import NANO
from mlx_moebench.cli import main
from mlx_moebench.data.trace import read_trace
from mlx_moebench.errors import ModelLoadError, MoebenchError, RoutingError, StatsError, UnsupportedModelError
from mlx_moebench.families import families, family_for
from mlx_moebench.measure import analyze, analyze_generation
from mlx_moebench.routing import Plan, Routing, tally
from torch_fallback.capture import config_of, locate
from torch_fallback.environment import chosen_device
from torch_fallback.live import TorchRoutingStats

FEW: dict[str, Any] = {"max_samples": 12, "max_length": 24}
PLAN = Plan(resamples=100)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def nano() -> Any:
    return torch_fallback.load_checkpoint()


def texts(folder: Path, number: int = 24) -> Path:
    """Texts of a tiny tokenizer's letters, of several lengths."""
    rng = np.random.default_rng(4)
    words = ["router", "expert", "token", "idle", "score", "highest", "every"]
    path = folder / "texts.jsonl"
    lines = [" ".join(rng.choice(words, size=int(rng.integers(2, 12)))) + f" {n}." for n in range(number)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


# -- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("model_type", FORMS)
def test_mlx_torch_and_numpy_agree_on_every_form(model_type: str, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    model = random_transformers(tmp_path / "model", model_type)
    pairs, stats = parity(tmp_path / "model", texts(tmp_path), ("mlx", "torch", "numpy"), max_length=32)
    assert [(pair.a, pair.b) for pair in pairs] == [("mlx", "torch"), ("mlx", "numpy")]
    assert stats.n_tokens > 200
    for pair in pairs:
        assert len(pair.routers) == len(locate(model))
        for router in pair.routers:
            assert router.moved <= router.other == router.ties <= MOST_TIES * router.n_tokens, router.choices
            assert max(router.differences.values()) <= TOLERANCE
        assert pair.equal


@pytest.mark.usefixtures("cpu")
def test_mlx_torch_and_numpy_agree_on_nano() -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    pairs, stats = parity(None, "general", ("mlx", "torch", "numpy"), max_samples=32)
    assert stats.n_tokens > 4000
    for pair in pairs:
        assert pair.equal, [router for router in pair.routers if not router.equal]
        assert sum(router.other for router in pair.routers) <= MOST_TIES * stats.n_tokens * len(pair.routers)


@pytest.mark.usefixtures("cpu")
def test_a_torch_only_setting_is_measured_by_its_own_rule(tmp_path: Path) -> None:
    """MLX refuses such checkpoints, since mlx-lm computes another model; here weights are checked against theirs."""
    random_transformers(tmp_path / "model", "qwen2_moe", norm_topk_prob=True, decoder_sparse_step=2)
    stats = analyze(tmp_path / "model", texts(tmp_path), backend="torch")
    assert [spec.layer for spec in stats.specs] == [1]
    renormalised = stats.values(0)["topk_entropy"]
    assert 0 < renormalised < np.log(3)


@pytest.mark.usefixtures("cpu")
def test_two_reports_of_nano(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    for backend in ("mlx", "torch"):
        main(["analyze", "--backend", backend, "--max-samples", "40", "--quiet", "--output", str(tmp_path / backend)])
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("mlx", "torch"))
    for report in (ours, theirs):
        validate(report)
    assert (ours["model"].pop("backend"), theirs["model"].pop("backend")) == ("mlx", "torch")
    assert theirs["environment"]["torch"] == torch.__version__
    for report in (ours, theirs):
        del report["environment"], report["sums_sha256"], report["seal"]
    assert_close(ours, theirs, "report")
    parts = [RoutingStats.load(tmp_path / name) for name in ("mlx", "torch")]
    with pytest.raises(StatsError, match="their models differ: backend mlx and backend torch"):  # 4 bit are not alike
        RoutingStats.merge(parts)


def assert_close(a: Any, b: Any, where: str) -> None:
    """The same keys, words and whole numbers; other numbers within 1e-5."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_close(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}[{number}]")
    elif isinstance(a, float):
        assert abs(a - b) <= 1e-5, f"{where}: {a} and {b}"
    else:
        assert a == b, where


@pytest.mark.usefixtures("cpu")
def test_generated_tokens_are_those_of_mlx() -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    options: dict[str, Any] = {"max_tokens": 4, "max_samples": 4, "max_length": 24}
    ours, theirs = (analyze_generation(None, "math", backend=name, **options) for name in ("mlx", "torch"))
    for phase in ("prefill", "decode"):
        a, b = ours[phase], theirs[phase]
        assert a.clusters == b.clusters
        for number in range(len(a.specs)):
            np.testing.assert_array_equal(a.sums(number).n_tokens, b.sums(number).n_tokens)
            np.testing.assert_array_equal(a.sums(number).counts, b.sums(number).counts)
            np.testing.assert_allclose(a.sums(number).scalars, b.sums(number).scalars, atol=2e-4)


@pytest.mark.usefixtures("cpu")
def test_the_result_does_not_depend_on_the_batch_size(nano: Any) -> None:
    one, eight = (analyze(nano, "code", backend="torch", batch_size=size, **FEW) for size in (1, 8))
    assert one.clusters == eight.clusters
    for number in range(len(one.specs)):
        np.testing.assert_array_equal(one.sums(number).counts, eight.sums(number).counts)
        np.testing.assert_allclose(one.sums(number).p_sum, eight.sums(number).p_sum, atol=1e-4)


# -- the command line ------------------------------------------------------------------------------------------------

COMMAND = """
import runpy
sys.argv = [{program!r}, *{arguments!r}]
runpy.run_module({program!r}, run_name="__main__")
"""


def run_without(names: tuple[str, ...], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command line in a process that cannot import some packages."""
    code = without(*names) + COMMAND.format(program=program, arguments=list(arguments))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_everything_works_where_mlx_is_not_installed(tmp_path: Path) -> None:
    blocked = ("mlx", "mlx_lm")
    few = ("--max-samples", "6", "--max-length", "16", "--quiet")
    output, trace = str(tmp_path / "o.json"), str(tmp_path / "trace")
    done = run_without(blocked, "torch_fallback", "analyze", *few, "--output", output, "--trace", trace)
    assert done.returncode == 0, done.stderr
    assert "moebench-nano on math: 6 sequences" in done.stdout
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["environment"]["command"].startswith("python -m torch_fallback analyze --max-samples 6")
    assert report["model"]["backend"] == "torch"
    assert_same(read_trace(tmp_path / "trace"), RoutingStats.load(output))
    done = run_without(blocked, "mlx_moebench", "analyze", *few, "--output", output)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install" in done.stderr
    assert "--backend torch" in done.stderr


@pytest.mark.slow
def test_profiles_work_where_mlx_is_not_installed(tmp_path: Path) -> None:
    few = ("--max-samples", "6", "--max-length", "16", "--quiet", "--output", str(tmp_path / "profile"))
    done = run_without(("mlx", "mlx_lm"), "mlx_moebench", "profile", "--backend", "torch", *few)
    assert done.returncode == 0, done.stderr
    assert "Findings over" in done.stdout


def test_without_torch_the_error_names_the_extra(tmp_path: Path) -> None:
    done = run_without(("torch", "transformers"), "torch_fallback", "analyze", "--output", str(tmp_path / "o.json"))
    assert done.returncode == 1
    assert done.stderr == 'Error: The backend torch needs an optional dependency: pip install "mlx-moebench[torch]"\n'


@pytest.mark.slow
def test_two_processes_give_exactly_the_counts_of_one(tmp_path: Path) -> None:
    few = ["--max-samples", "21", "--max-length", "24", "--quiet", "--resamples", "100"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "torch_fallback", "analyze", *few, "--output", str(tmp_path / "two.json"), "--json"]
    command += ["--trace", str(tmp_path / "trace")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "two.json").read_text())  # one process speaks
    two = RoutingStats.load(tmp_path / "two.json")
    one = analyze(None, "math", backend="torch", max_samples=21, max_length=24)
    assert one.clusters == two.clusters
    for number in range(len(one.specs)):
        for name in ("n_tokens", "counts", "top1_counts"):
            np.testing.assert_array_equal(getattr(one.sums(number), name), getattr(two.sums(number), name))
        np.testing.assert_array_equal(one.pairs(number), two.pairs(number))
        np.testing.assert_allclose(one.sums(number).scalars, two.sums(number).scalars, atol=1e-4)
    for number in range(len(one.specs) - 1):
        np.testing.assert_array_equal(one.transition_counts(number), two.transition_counts(number))
    parts = [RoutingStats.load(tmp_path / f"two.rank-{rank}-of-2.json") for rank in (1, 2)]
    assert {row % 2 for _, row in parts[0].clusters} == {0}
    assert_same(RoutingStats.merge(parts), two)
    traces = [read_trace(tmp_path / "trace" / f"rank-{rank}-of-2") for rank in (1, 2)]
    np.testing.assert_array_equal(RoutingStats.merge(traces).totals(0).counts, two.totals(0).counts)


@pytest.mark.slow
def test_one_rank_that_fails_ends_the_run_with_its_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "torch_fallback", "analyze", "--max-samples", "1", "--quiet", "--output", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode != 0
    assert "Shard 2/2 is empty, there are only 1 documents" in done.stderr
    assert not (tmp_path / "o.json").exists()


def test_compare_backends_prints_and_exits_by_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    arguments = ["--max-samples", "6", "--max-length", "16", "--quiet", "--output", str(tmp_path / "o.json")]
    main(["compare", "moebench-nano", "--backends", "numpy,torch,mlx-cpu", *arguments])
    shown = " ".join(capsys.readouterr().out.split())
    assert "mlx-cpu against torch" in shown
    assert "numpy and torch are equal" in shown
    report = json.loads((tmp_path / "o.json").read_text())
    assert [pair["equal"] for pair in report["pairs"]] == [True, True]
    for ignored in (["--bits", "4"], ["--metric", "gini"], ["--csv", "o.csv"], ["--output-dir", "o"], ["--seed", "1"]):
        with pytest.raises(SystemExit) as stop:
            main(["compare", "moebench-nano", "--backends", "torch,numpy", *ignored])
        assert stop.value.code == 2
        assert f"leave out {ignored[0]}." in capsys.readouterr().err
    for wrong, words in (("mlx", "two backends or more"), ("mlx, cuda", "There is no backend 'cuda'")):
        with pytest.raises(SystemExit):
            main(["compare", "moebench-nano", "--backends", wrong])
        assert words in capsys.readouterr().err


@pytest.mark.usefixtures("cpu")
def test_parity_sees_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from torch_fallback import backend

    forward = backend.Torch.forward

    def changed(self: Any, checkpoint: Any, batch: Any, logits: bool) -> Any:
        gate = checkpoint.model.base_model.layers[3].mlp.gate
        gate.weight.data[0] *= 1.1
        return forward(self, checkpoint, batch, logits)

    monkeypatch.setattr(backend.Torch, "forward", changed)
    (pair,), _ = parity(None, "math", ("mlx", "torch"), **FEW)
    assert not pair.equal
    layers = {router.layer: router for router in pair.routers}
    assert layers[2].equal
    assert not layers[3].equal
    assert layers[3].other > layers[3].ties
    assert all(choice.a != choice.b for choice in layers[3].choices)


# -- hooks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FORMS)
def test_outputs_are_bit_identical_and_hooks_come_off(tmp_path: Path, model_type: str) -> None:
    model = random_transformers(tmp_path, model_type)
    ids = torch.tensor(np.random.default_rng(1).integers(1, 320, (2, 9)))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with torch_fallback.attach(model) as stats:
            during = model(input_ids=ids).logits
    assert torch.equal(before, during)
    assert stats.n_tokens == 18
    assert stats.phase_stats("unsplit").n_tokens == 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        model(input_ids=ids)
    assert stats.n_tokens == 18


def test_one_attached_inside_another_and_both_count(nano: Any) -> None:
    ids, mask = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]]), np.array([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch.no_grad(), torch_fallback.attach(nano.model) as outer:
        nano.model(ids)
        with torch_fallback.attach(nano.model) as inner, inner.batch(mask=mask):
            nano.model(ids)
        nano.model(ids)
    assert (outer.n_tokens, inner.n_tokens) == (8 + 7 + 8, 7)
    outer.check()


def test_what_a_caller_generates_is_unsplit(nano: Any) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch_fallback.attach(nano.model) as stats:
        nano.model.generate(ids, max_new_tokens=3, do_sample=False)
    assert stats.n_tokens == 0
    assert stats.phase_stats("unsplit").n_tokens in range(4, 7)
    assert len(stats.phase_stats("unsplit").clusters) == 1


def test_padding_that_nobody_described_is_said(nano: Any) -> None:
    ids, mask = torch.tensor([[5, 6, 7, 0], [5, 6, 7, 8]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch_fallback.attach(nano.model) as stats, torch.no_grad():
        with pytest.warns(RuntimeWarning, match="stats.batch"):
            nano.model(ids, attention_mask=mask)
        with stats.batch(mask=mask.numpy()):
            nano.model(ids, attention_mask=mask)
    assert stats.n_tokens == 8 + 7


class SoftmaxedRouter(torch.nn.Module):
    """A router as transformers had them until April 2026: what it calls logits are probabilities."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, hidden: Any) -> Any:
        logits, weights, indices = self.gate(hidden)
        return torch.softmax(logits.float(), -1).to(logits.dtype), weights, indices


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_probabilities_in_the_place_of_logits_are_caught(dtype: str) -> None:
    """A second softmax gives other gate weights than the block's; and where the rule does not tell, the tally does."""
    checkpoint = torch_fallback.load_checkpoint(dtype=dtype)
    for layer in checkpoint.model.base_model.layers:
        layer.mlp.gate = SoftmaxedRouter(layer.mlp.gate)
    with pytest.raises(RoutingError, match="off by"):
        analyze(checkpoint, "math", backend="torch", **FEW)
    stats = TorchRoutingStats(checkpoint.model)
    stats._proven = set(range(6))
    with stats, torch.no_grad(), pytest.raises(RoutingError, match="softmax is not applied twice"):  # noqa: PT012
        checkpoint.model(torch.arange(1, 40)[None])
        stats.phase_stats("prefill")


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_the_tally_refuses_probabilities_whoever_gives_them(namespace: str) -> None:
    rng = np.random.default_rng(0)
    z = rng.standard_normal((1, 12, 4)).astype(np.float32)
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    chosen = np.argsort(-z, -1)[..., :2]
    arrays = [z, p, chosen, np.ones((1, 12), bool)]
    logits, shares, indices, mask = arrays if namespace == "numpy" else map(torch.tensor, arrays)
    weights = array_namespace(shares).take_along_axis(shares, indices, axis=-1)
    from mlx_moebench.routing import RouterSpec

    stats = RoutingStats([RouterSpec(0, 0, "mlp", 4, 2)], sources={"a" * 64: {"name": "x"}})
    stats.add(0, [("a" * 64, 0)], tally(Routing(logits, indices, weights, mask)))
    with pytest.raises(RoutingError, match="where logits are expected: each of 12 tokens"):
        stats.add(0, [("a" * 64, 1)], tally(Routing(shares, indices, weights, mask)))


def test_the_tally_makes_every_array_on_the_device_of_the_logits() -> None:
    """No GPU here: on torch's meta device, too, an operation with an array of the CPU is an error."""
    make = torch.zeros
    logits, weights = make(2, 9, 6, device="meta"), make(2, 9, 2, device="meta")
    indices = make(2, 9, 2, dtype=torch.int64, device="meta")
    mask = make(2, 9, dtype=torch.bool, device="meta")
    result = tally(Routing(logits, indices, weights, mask, "sigmoid_normalised"))
    assert {array.device.type for array in [*result.arrays(), result.selected]} == {"meta"}


def test_wrong_models_are_refused_with_what_is_wrong(tmp_path: Path, nano: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="not a model of transformers"):
        torch_fallback.attach("model")
    gate = nano.model.base_model.layers[2].mlp.gate
    nano.model.base_model.layers[2].mlp.gate = torch.nn.Identity()
    try:
        with pytest.raises(UnsupportedModelError, match=r"Layer 2: 'mlp.gate' should score 16 experts"):
            locate(nano.model)
    finally:
        nano.model.base_model.layers[2].mlp.gate = gate
    with pytest.raises(MoebenchError, match="needs its tokenizer"):
        analyze(nano.model, "math", backend="torch")
    with pytest.raises(MoebenchError, match="loaded by torch"):
        analyze(nano, "math", backend="mlx")
    with pytest.raises(MoebenchError, match="There is no backend 'jax'"):
        analyze(None, "math", backend="jax")


# -- loading ---------------------------------------------------------------------------------------------------------


def test_facts_are_those_of_mlx(nano: Any) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.models import load_checkpoint

    ours = load_checkpoint()
    for name in ("name", "fingerprint", "weight_bits", "dtype", "revision", "quantised_on_load", "adapter"):
        assert getattr(nano, name) == getattr(ours, name), name


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("model_type", FORMS)
def test_the_fingerprint_is_that_of_mlx_for_every_form(tmp_path: Path, model_type: str) -> None:
    """Also where a router has biases: of its logits, or of the choice, in the module that MLX calls the gate or not."""
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.models import load_checkpoint

    random_transformers(tmp_path, model_type, bias=-0.5)
    printed = torch_fallback.load_checkpoint(tmp_path).fingerprint
    assert printed == load_checkpoint(tmp_path).fingerprint
    random_transformers(tmp_path, model_type, bias=0.5)
    biased = any(form.bias.startswith(f"{form.gate}.") for form in families()[model_type].routers)
    assert (torch_fallback.load_checkpoint(tmp_path).fingerprint != printed) == biased


def random_adapter(folder: Path, model: Path, theirs: Any) -> None:
    """What mlx_lm.lora writes of the routers and of whatever has a weight of its own in transformers, too."""
    import mlx.core as mx
    import mlx.nn
    from mlx.utils import tree_flatten, tree_map
    from mlx_lm.tuner.utils import linear_to_lora_layers

    from mlx_moebench.models import load

    ours, config = load(model)[0], config_of(theirs)
    family, shapes = family_for(config), {name: tuple(p.shape) for name, p in theirs.named_parameters()}
    layer = family.specs(config)[-1].layer
    keys = {form.gate for form in family.routers}
    for name, module in ours.layers[layer].named_modules():
        same = [shape for key, shape in shapes.items() if key.endswith(f".{layer}.{name}.weight")]
        if isinstance(module, mlx.nn.Linear) and same == [tuple(module.weight.shape)]:
            keys.add(name)
    assert len(keys) > len(family.routers)
    parameters = {"rank": 4, "scale": 6.0, "dropout": 0.0, "keys": sorted(keys)}
    ours.freeze()
    linear_to_lora_layers(ours, 3, parameters)
    mx.random.seed(1)
    trained = tree_map(lambda a: 0.2 * mx.random.normal(a.shape), ours.trainable_parameters())
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(trained)))
    settings = {"fine_tune_type": "lora", "num_layers": 3, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")


LINEAR = [name for name in FORMS if all(form.seam == "linear" for form in families()[name].routers)]


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("model_type", [*LINEAR[:3], *(pytest.param(n, marks=pytest.mark.slow) for n in LINEAR[3:])])
def test_adapters_of_mlx_lm_are_merged(tmp_path: Path, model_type: str) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    theirs = random_transformers(tmp_path / "model", model_type)
    random_adapter(tmp_path / "adapter", tmp_path / "model", theirs)
    options = {"adapter_path": tmp_path / "adapter"}
    data = texts(tmp_path)
    (pair,), _ = parity(tmp_path / "model", data, ("mlx", "torch"), **options)
    assert pair.equal, pair
    with_it, without = (
        analyze(tmp_path / "model", data, backend="torch", **chosen).values(0)["mean_entropy"]
        for chosen in (options, {})
    )
    assert abs(with_it - without) > 1e-3


def test_adapters_that_cannot_be_merged_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from test_precision import write_adapter

    random_transformers(tmp_path / "model", "olmoe")
    for kind, words in (("lora", "experts are fused"), ("full", "torch merges LoRA only")):
        adapter = write_adapter(tmp_path / kind, "olmoe", kind)
        with pytest.raises(ModelLoadError, match=words):
            torch_fallback.load(tmp_path / "model", adapter_path=adapter)


def test_a_spread_model_gives_the_same_numbers(tmp_path: Path) -> None:
    """As device_map='auto' does with a model larger than its GPU; here some layers wait on disk."""
    random_transformers(tmp_path / "model", "mixtral")
    layers = {f"model.layers.{number}": "disk" if number == 1 else "cpu" for number in range(3)}
    names = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head")
    spread = layers | dict.fromkeys(names, "cpu")
    data = texts(tmp_path)
    whole, auto, pieces = (
        torch_fallback.load_checkpoint(tmp_path / "model", device_map=chosen, **more)
        for chosen, more in ((None, {}), ("auto", {}), (spread, {"offload_folder": str(tmp_path / "off")}))
    )
    assert "disk" in pieces.model.hf_device_map.values()
    first, second, third = (analyze(c, data, backend="torch") for c in (whole, auto, pieces))
    for other in (second, third):
        for number in range(3):
            np.testing.assert_array_equal(first.sums(number).counts, other.sums(number).counts)
            np.testing.assert_array_equal(first.sums(number).p_sum, other.sums(number).p_sum)


def test_bad_checkpoints_and_options_are_one_sentence(tmp_path: Path) -> None:
    random_transformers(tmp_path / "short", "olmoe")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "short" / "model.safetensors")
    lost = next(name for name in weights if "gate.weight" in name)
    del weights[lost]
    save_file(weights, tmp_path / "short" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"1 missing keys, such as model\.layers.*gate\.weight"):
        torch_fallback.load(tmp_path / "short")
    config = json.loads((NANO / "config.json").read_text())
    (tmp_path / "packed").mkdir()
    block = {"bits": 4, "group_size": 64}
    (tmp_path / "packed" / "config.json").write_text(json.dumps(config | {"quantization": block}))
    packed = load_file(NANO / "model.safetensors")
    name = "lm_head.weight" if "lm_head.weight" in packed else "model.embed_tokens.weight"
    rows, columns = packed[name].shape
    packed[name] = torch.zeros((rows, columns // 8), dtype=torch.uint32)
    packed |= {name.replace("weight", what): torch.ones((rows, columns // 64)) for what in ("scales", "biases")}
    save_file(packed, tmp_path / "packed" / "model.safetensors")
    for options, words in (
        ({"model": tmp_path / "packed"}, "quantised by MLX"),
        ({"model": tmp_path / "nowhere"}, "No such folder"),
        ({"bits": 8}, "to 4 bit"),
        ({"router_bits": 8}, "routers are never quantised"),
        ({"dtype": "float8"}, "There is no dtype"),
    ):
        with pytest.raises(ModelLoadError, match=words):
            torch_fallback.load(**options)
    if not torch.cuda.is_available():
        with pytest.raises(MoebenchError, match="torch sees no CUDA device here"):
            chosen_device("cuda")
    assert chosen_device("cpu").type == "cpu"


@pytest.mark.usefixtures("cpu")
def test_profiles_and_bfloat16(nano: Any) -> None:
    (found,) = profile([None], ["math", "code"], backend="torch", plan=PLAN, dtype="bfloat16", **FEW)
    assert found.merged.model["dtype"] == "bfloat16"
    assert found.merged.model["router_bits"] == 16
    assert sorted(found.merged.by_domain()) == ["code", "math"]


def test_ids_in_vllms_form_import_to_the_counts_of_the_run(tmp_path: Path) -> None:
    """int16 [tokens, layers, k], one file for each sequence, of a run of the torch backend."""
    from mlx_moebench.data.trace import Trace

    options = ["--max-samples", "9", "--max-length", "20", "--quiet", "--resamples", "100"]
    where = ["--output", str(tmp_path / "run.json"), "--trace", str(tmp_path / "trace")]
    main(["analyze", "--backend", "torch", *options, *where])
    trace, folder = Trace(tmp_path / "trace"), tmp_path / "ids"
    folder.mkdir()
    for entry in trace.entries("prefill"):
        shard = trace.read(entry)
        chosen = np.stack([shard.arrays[f"{spec.name}.experts"] for spec in trace.specs], axis=1)
        ends = np.cumsum(shard.arrays["sequence.n_tokens"])
        for row, ids in zip(shard.arrays["sequence.row"], np.split(chosen, ends[:-1]), strict=True):
            np.save(folder / f"{row}.npy", ids.astype(np.int16))
    main(["import", "vllm", f"math={folder}", "--experts", "16", "--phase", "prefill", "-o", str(tmp_path / "served")])
    run, served = RoutingStats.load(tmp_path / "run"), RoutingStats.load(tmp_path / "served")
    assert len(served.clusters) == len(run.clusters) == 9
    for number in range(len(run.specs)):
        np.testing.assert_array_equal(run.sums(number).counts, served.sums(number).counts)
        np.testing.assert_array_equal(run.pairs(number), served.pairs(number))
    for number in range(len(run.specs) - 1):
        np.testing.assert_array_equal(run.transition_counts(number), served.transition_counts(number))
