"""Upcycling: what a dense llama becomes, where that computes the same, how far it is where not, and its training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_checkpoint

mx = pytest.importorskip("mlx.core", reason="needs MLX")
import make_smollm2  # noqa: E402
import mlx_lm  # noqa: E402
from mlx_lm.models import llama  # noqa: E402
from tokenizers import pre_tokenizers  # noqa: E402

from mlx_moebench import analyze, load  # noqa: E402
from mlx_moebench.cli import main  # noqa: E402
from mlx_moebench.data.training_log import FILE as LOG  # noqa: E402
from mlx_moebench.data.training_log import read_log  # noqa: E402
from mlx_moebench.errors import MoebenchError  # noqa: E402
from mlx_moebench.instrument import capture  # noqa: E402
from mlx_moebench.instrument.similarity import output_weight_similarity  # noqa: E402
from mlx_moebench.lab.llama import Model  # noqa: E402
from mlx_moebench.lab.pretrain import pretrain  # noqa: E402
from mlx_moebench.lab.routers import router_names  # noqa: E402
from mlx_moebench.lab.settings import Pretraining  # noqa: E402
from mlx_moebench.lab.upcycle import REPORT, Upcycling, is_exact, upcycle, upcycled  # noqa: E402
from mlx_moebench.train import train_adapter, training_config  # noqa: E402

from mlx.utils import tree_flatten  # isort: skip  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
    "max_position_embeddings": 64,
    "eos_token_id": 0,
}
IDS = np.random.default_rng(0).integers(0, 300, (2, 11)).astype(np.int32)

EXACT = [
    {"router": "smoe"},
    {"router": "xmoe"},
    {"router": "xmoe", "spec": "libmoe"},
    {"router": "sigma", "axes": {"norm_topk_prob": True}},
    {"router": "sigma", "spec": "libmoe"},
    {"router": "shared_v2"},
    {"router": "shared_v3"},
]
INEXACT = [
    {"router": "sigma"},
    {"router": "shared_v2", "combine": "add"},
    {"router": "shared_v3", "only_shared": True},
    {"router": "tc_moe"},
    {"router": "moepp"},
]


def dense(seed: int = 0, **config: Any) -> Any:
    """A tiny random llama, with FFNs large enough that a wrong weight would show."""
    mx.random.seed(seed)
    model = llama.Model(llama.ModelArgs.from_dict(CONFIG | config))
    for layer in model.layers:
        layer.mlp.down_proj.weight = 3 * layer.mlp.down_proj.weight
    model.eval()
    mx.eval(model.parameters())
    return model


def made(model: Any, layers: str | None = "1-2", **settings: Any) -> Model:
    return upcycled(model, Upcycling(layers=layers, router_std=0.5, **settings))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The dense llama as a checkpoint."""
    return save_checkpoint(tmp_path / "dense", dense(), CONFIG)


# -- what it computes --------------------------------------------------------------------------------------------------


def test_every_router_is_tried() -> None:
    assert {row["router"] for row in EXACT + INEXACT} == set(router_names())


@pytest.mark.parametrize("settings", EXACT, ids=lambda s: "-".join(map(str, s.values())))
def test_it_is_the_dense_model_where_theory_says_so(settings: dict[str, Any]) -> None:
    old = dense()
    new = made(old, None, **settings)
    assert is_exact(new.args)
    x = mx.random.normal((2, 11, 24), key=mx.random.key(1))
    for before, after in zip(old.layers, new.layers, strict=True):
        np.testing.assert_allclose(after.mlp(x)[0], before.mlp(x), atol=1e-5)
    np.testing.assert_allclose(new(mx.array(IDS)), old(mx.array(IDS)), atol=1e-4)


@pytest.mark.parametrize("settings", INEXACT, ids=lambda s: "-".join(map(str, s.values())))
def test_it_is_not_where_theory_says_so(settings: dict[str, Any]) -> None:
    old = dense()
    new = made(old, **settings)
    assert not is_exact(new.args, bool(settings.get("only_shared")))
    assert float(mx.abs(new(mx.array(IDS)) - old(mx.array(IDS))).max()) > 1e-3


def routed(mixture: Any, x: Any) -> tuple[Any, Any]:
    """(indices, weights) that a mixture has for x, in NumPy."""
    routing = mixture.routing(x)
    return np.array(routing.indices), np.array(routing.weights, np.float64)


@pytest.mark.parametrize("settings", [{"router": "tc_moe"}, {"router": "sigma"}])
def test_copies_whose_weights_do_not_sum_to_1_scale_the_ffn(settings: dict[str, Any]) -> None:
    """All experts give the same, so that the block gives it times sum_k sign_k g_k, null experts without."""
    old = dense()
    new = made(old, **settings)
    x = mx.random.normal((2, 11, 24), key=mx.random.key(2))
    mixture = new.layers[1].mlp
    indices, weights = routed(mixture, x)
    sign = np.array([{"ffn": 1, "neg": -1, "null": 0}[kind] for kind in new.args.kinds])
    factor = (sign[indices] * weights).sum(axis=-1, keepdims=True)
    assert factor.std() > 1e-3
    np.testing.assert_allclose(mixture(x)[0], factor * np.array(old.layers[1].mlp(x)), atol=1e-5)


def test_moepp_gives_some_of_the_ffn_some_of_the_input_and_some_of_a_constant() -> None:
    old = dense()
    new = made(old, router="moepp", top_k=3)
    x = mx.random.normal((2, 11, 24), key=mx.random.key(3))
    mixture, kinds = new.layers[1].mlp, np.array(new.args.kinds)
    assert list(kinds) == ["ffn"] * 4 + ["constant", "copy", "zero"]
    indices, weights = routed(mixture, x)
    share = {kind: np.where(kinds[indices] == kind, weights, 0).sum(-1, keepdims=True) for kind in set(kinds)}
    assert all(part.max() > 0 for kind, part in share.items() if kind != "zero")
    assert share["zero"].max() == 0
    rows = np.array(x, np.float64)
    mix = rows @ np.array(mixture.experts.mix, np.float64).T
    a = np.exp(mix) / np.exp(mix).sum(-1, keepdims=True)
    constant = a[..., :1] * rows + a[..., 1:] * np.array(mixture.experts.constant[0], np.float64)
    expected = share["ffn"] * np.array(old.layers[1].mlp(x)) + share["copy"] * rows + share["constant"] * constant
    np.testing.assert_allclose(mixture(x)[0], expected, atol=1e-5)


@pytest.mark.parametrize("router", ["shared_v2", "shared_v3"])
def test_with_only_the_shared_expert_the_dense_ffn_is_all_that_is_not_drawn(router: str) -> None:
    old = dense()
    new = made(old, router=router, only_shared=True)
    mixture = new.layers[2].mlp
    x = mx.random.normal((1, 5, 24), key=mx.random.key(4))
    np.testing.assert_allclose(mixture.shared(x), old.layers[2].mlp(x), atol=1e-6)
    experts = mixture.experts.ffn
    assert float(mx.abs(experts.up_proj.weight[0] - experts.up_proj.weight[1]).max()) > 0.1
    # N(0, 2 / (L D)) and N(0, 2 / (L N h)), as a model that is trained from scratch has them.
    assert float(mx.std(experts.up_proj.weight)) == pytest.approx((2 / 4 / 24) ** 0.5, rel=0.1)
    assert float(mx.std(experts.down_proj.weight)) == pytest.approx((2 / 4 / (4 * 40)) ** 0.5, rel=0.1)


def test_half_weighs_both_alike_whatever_the_preset_does() -> None:
    args = made(dense(), router="shared_v3").args
    assert (args.routed_scaling_factor, args.shared_scale, args.shared_experts) == (0.5, 0.5, 1)
    assert (args.num_experts, args.num_experts_per_tok) == (4, 2)
    assert made(dense(), router="shared_v3", combine="add").args.routed_scaling_factor == 2.5


def test_copies_are_alike_and_what_is_drawn_is_not() -> None:
    alike = [output_weight_similarity(made(dense(), **row).layers[1].mlp.experts) for row in EXACT]
    assert alike == pytest.approx([1.0] * len(EXACT))
    drawn = made(dense(), router="shared_v2", only_shared=True).layers[1].mlp.experts
    assert output_weight_similarity(drawn) == pytest.approx(0, abs=0.1)


def test_gates_follow_from_the_seed() -> None:
    old = dense()
    gates = [upcycled(old, Upcycling(seed=seed)).layers[0].mlp.gate.weight for seed in (42, 42, 43)]
    assert bool((gates[0] == gates[1]).all())
    assert not bool((gates[0] == gates[2]).any())
    assert float(mx.std(gates[0])) == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize("router", ["smoe", "moepp"])
def test_token_by_token_is_all_at_once(router: str) -> None:
    """Dense blocks pass on what a router may carry, also with a cache."""
    new = made(dense(), "0,2", router=router)
    whole, cache = new(mx.array(IDS)), new.make_cache()
    steps = [new(mx.array(IDS[:, n : n + 1]), cache) for n in range(IDS.shape[1])]
    np.testing.assert_allclose(mx.concatenate(steps, axis=1), whole, atol=1e-4)


def test_carried_logits_come_from_the_router_before() -> None:
    new = made(dense(), "0,2", router="moepp")
    seen: dict[int, Any] = {}
    with capture(new, lambda number, logits, *_: seen.setdefault(number, logits)):
        mx.eval(new(mx.array(IDS)))
    gate = new.layers[2].mlp.gate
    gate.carry = mx.zeros_like(gate.carry)
    alone: dict[int, Any] = {}
    with capture(new, lambda number, logits, *_: alone.setdefault(number, logits)):
        mx.eval(new(mx.array(IDS)))
    np.testing.assert_array_equal(seen[0], alone[0])
    assert float(mx.abs(seen[1] - alone[1]).max()) > 0.01


def test_sliding_windows_and_an_untied_head_stay() -> None:
    old = dense(
        layer_types=["full_attention", "sliding_attention"] * 2, sliding_window=4, tie_word_embeddings=False
    )  # fmt: skip
    np.testing.assert_allclose(made(old)(mx.array(IDS)), old(mx.array(IDS)), atol=1e-4)


# -- the folder, and its training --------------------------------------------------------------------------------------


def test_the_command_makes_a_model_that_everything_takes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new"
    main(["lab", "upcycle", str(folder), "--layers", "1,3", "-o", str(out), "--device", "cpu", "--quiet"])
    assert "should be 0 but for rounding" in capsys.readouterr().out
    report = json.loads((out / REPORT).read_text())
    assert report["deviation"]["exact"]
    assert report["deviation"]["difference"] < 1e-4
    assert report["deviation"]["ce"] == pytest.approx(report["deviation"]["dense_ce"], abs=1e-5)
    # 3 more experts of 3 matrices and a gate of 4 rows, in 2 blocks; 2 of 4 experts are idle.
    more, expert = 2 * (3 * 3 * 24 * 40 + 4 * 24), 3 * 24 * 40
    assert report["parameters"]["total"] == report["parameters"]["dense"] + more
    assert report["parameters"]["active"] == report["parameters"]["total"] - 2 * 2 * expert
    model, _ = load(out)
    np.testing.assert_allclose(model(mx.array(IDS)), dense()(mx.array(IDS)), atol=1e-4)
    stats = analyze(out, "math", max_samples=4, max_length=32, device="cpu")
    assert list(stats.to_dataframe()["layer"]) == [1, 3]


@pytest.fixture
def started(folder: Path, tmp_path: Path) -> Path:
    upcycle(folder, tmp_path / "start", Upcycling(layers="1-2", router="shared_v3"), device="cpu")
    return tmp_path / "start"


SHORT: dict[str, Any] = {
    "data": "math", "max_samples": 12, "seq_length": 16, "batch_size": 4, "micro_batch_size": 2, "eval_batches": 1,
    "eval_every": 0, "steps": 4, "freeze": True,
}  # fmt: skip


def weights(folder: Path) -> dict[str, Any]:
    arrays: Any = mx.load(str(folder / "model.safetensors"))
    return dict(arrays)


def test_freezing_trains_gates_and_experts_alone(started: Path, tmp_path: Path) -> None:
    settings = Pretraining(start=str(started), axes={"bias_update": 0.01}, snapshot_every=2, **SHORT | {"steps": 5})
    report = pretrain(settings, tmp_path / "run", device="cpu")
    assert report["config"]["router"] == "shared_v3"
    assert report["config"]["bias_update"] == 0.01
    before, after = weights(started), weights(tmp_path / "run")
    moved = {name for name in before if not bool((before[name] == after[name]).all())}
    inside = {name for name in before if name.startswith(("model.layers.1.mlp.", "model.layers.2.mlp."))}
    assert moved == inside
    for layer in (1, 2):
        assert float(mx.abs(after[f"model.layers.{layer}.mlp.selection_bias"]).max()) <= 5 * 0.01 + 1e-6
    assert len(list((tmp_path / "run" / "steps").iterdir())) == 3
    load(tmp_path / "run" / "steps" / "step-0000002")


def test_stopped_and_resumed_is_never_stopped(started: Path, tmp_path: Path) -> None:
    """The checkpoint holds what is trained; the rest is the model's own."""
    settings = Pretraining(start=str(started), save_every=2, **SHORT)
    whole = pretrain(settings, tmp_path / "whole", device="cpu")

    class CutError(Exception):
        pass

    def step(what: str, done: int, total: int) -> None:
        if done == 3 and total == 4:
            raise CutError

    with pytest.raises(CutError):
        pretrain(settings, tmp_path / "cut", device="cpu", step=step)
    resumed = pretrain(settings, tmp_path / "cut", resume=True, device="cpu")
    assert resumed["ce"] == whole["ce"]
    for (name, a), b in zip(weights(tmp_path / "whole").items(), weights(tmp_path / "cut").values(), strict=True):
        assert bool((a == b).all()), name
    ces = [[entry["ce"] for entry in read_log(tmp_path / run / LOG) if "ce" in entry] for run in ("whole", "cut")]
    assert ces[0] == ces[1]


def test_an_entropy_floor_is_put_on_its_gates(started: Path, tmp_path: Path) -> None:
    settings = {
        "model": str(started), "adapter_path": str(tmp_path / "floor"), "iters": 2, "batch_size": 2, "num_layers": -1,
        "max_seq_length": 16, "max_length": 16, "val_batches": 1, "routing_samples": 4, "learning_rate": 1e-2,
        "lora_parameters": {"rank": 2, "scale": 10.0, "dropout": 0.0, "keys": ["mlp.gate"]},
        "routing_loss": {"name": "entropy_floor", "signal": "load", "weight": 1.0, "floor": {"fraction": 1.0}},
    }  # fmt: skip
    train_adapter(training_config(settings), device="cpu")
    adapted: Any = mx.load(str(tmp_path / "floor" / "adapters.safetensors"))
    assert {name.rpartition(".")[0] for name in adapted} == {f"model.layers.{n}.mlp.gate" for n in (1, 2)}


def test_training_lowers_the_loss(folder: Path, tmp_path: Path) -> None:
    upcycle(folder, tmp_path / "start", Upcycling(), device="cpu")
    settings = Pretraining(start=str(tmp_path / "start"), **SHORT | {"steps": 25, "learning_rate": 1e-2, "clip": 1.0})
    pretrain(settings, tmp_path / "run", device="cpu")
    ce = [entry["ce"] for entry in read_log(tmp_path / "run" / LOG) if "ce" in entry]
    assert np.mean(ce[-5:]) < np.mean(ce[:5]) - 0.3


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layers": "2-9"}, "none of this model's 4"),
        ({"layers": "a"}, "none of this model's 4"),
        ({"layers": "3-1"}, "none of this model's 4"),
        ({"router": "smo"}, "Did you mean"),
        ({"top_k": 5}, "cannot be chosen"),
        ({"combine": "half"}, "has none"),
        ({"only_shared": True}, "has none"),
        ({"axes": {"nothing": 1}}, "no axis"),
        ({"router_std": float("nan")}, "must be 0 or more"),
    ],
)
def test_bad_settings_are_one_clear_sentence(
    settings: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(MoebenchError, match=sentence):
        upcycle(folder, tmp_path / "new", Upcycling(**settings), device="cpu")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gemma"}, "only those that mlx-lm computes as a llama"),
        ({"mlp_bias": True}, "biases"),
        ({"quantization": {"bits": 4, "group_size": 32}}, "quantised already"),
        ({"hidden_size": 48}, "do not fit"),
    ],
)
def test_other_models_are_one_clear_sentence(
    change: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    model = folder if "mlp_bias" not in change else save_checkpoint(tmp_path / "biased", dense(mlp_bias=True), CONFIG)
    (model / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(MoebenchError, match=sentence):
        upcycle(model, tmp_path / "new", device="cpu")


def test_no_model_is_replaced_and_the_embedded_one_is_refused(started: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MoebenchError, match="holds a model already"):
        upcycle(folder, started, device="cpu")
    with pytest.raises(MoebenchError, match="mixture of experts already"):
        upcycle("moebench-nano", tmp_path / "new", device="cpu")


def test_what_goes_on_has_its_own_router(started: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    for settings, sentence in (
        (Pretraining(start=str(started), router="xmoe"), "router is for a new model"),
        (Pretraining(start=str(started), axes={"num_experts": 8}), "the model's own and stays"),
        (Pretraining(freeze=True), "give it as start"),
        (Pretraining(start=str(tiny_checkpoint)), "no model of the lab"),
    ):
        with pytest.raises(MoebenchError, match=sentence):
            pretrain(settings, tmp_path / "run", device="cpu")


def test_parameters_are_those_of_the_dense_model_elsewhere() -> None:
    old = dict(tree_flatten(dense().parameters()))
    new = dict(tree_flatten(made(dense()).parameters()))
    for name in old.keys() & new.keys():
        np.testing.assert_array_equal(old[name], new[name])
    assert len(old.keys() - new.keys()) == 2 * 3


# -- the script that unpacks the dense model ---------------------------------------------------------------------------


def as_gguf(model: Any, path: Path) -> None:
    """A tiny llama as GGUF holds one: its names, and rows of queries and keys that turn together as neighbours."""
    names = {value: key for key, value in make_smollm2.NAMES.items()}
    arrays = {}
    for name, value in tree_flatten(model.parameters()):
        place, part = name.removesuffix(".weight"), ""
        if place.startswith("model.layers."):
            number, _, place = place.removeprefix("model.layers.").partition(".")
            part = f"blk.{number}."
        heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(place)
        if heads:
            rows, width = value.shape
            value = value.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)
        arrays[f"{part}{names[place]}.weight"] = value
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|endoftext|>", *alphabet, "th", *(f"<unused{n}>" for n in range(42))]
    sizes = {
        "embedding_length": 24, "feed_forward_length": 40, "block_count": 4, "attention.head_count": 4,
        "attention.head_count_kv": 2, "context_length": 64, "vocab_size": 300,
    }  # fmt: skip
    facts: dict[str, Any] = {f"llama.{key}": mx.array(value, dtype=mx.uint32) for key, value in sizes.items()}
    facts |= {
        "llama.attention.layer_norm_rms_epsilon": mx.array(1e-5),
        "llama.rope.freq_base": mx.array(10000.0),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.token_type": mx.array([3] + [1] * 299, dtype=mx.int32),
        "tokenizer.ggml.bos_token_id": mx.array(0, dtype=mx.uint32),
        "tokenizer.ggml.eos_token_id": mx.array(0, dtype=mx.uint32),
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    mx.save_gguf(str(path), arrays, facts)


def test_a_gguf_file_becomes_the_model_that_it_was(tmp_path: Path) -> None:
    old = dense()
    as_gguf(old, tmp_path / "tiny.gguf")
    make_smollm2.write(tmp_path / "tiny.gguf", tmp_path / "tiny")
    model, tokenizer = mlx_lm.load(str(tmp_path / "tiny"))[:2]
    np.testing.assert_allclose(model(mx.array(IDS)), old(mx.array(IDS)), atol=1e-6)
    ids = tokenizer.encode("the 12")
    assert [tokenizer.convert_ids_to_tokens(n) for n in ids] == ["th", "e", "\u0120", "1", "2"]
    assert tokenizer.eos_token == "<|endoftext|>"


def test_packed_weights_are_unpacked() -> None:
    weight = mx.random.normal((6, 64), key=mx.random.key(5))
    for bits in (4, 8):  # half a step of what is spread over some 5 deviations
        packed = dict(
            zip(("w.weight", "w.scales", "w.biases"), mx.quantize(weight, group_size=32, bits=bits), strict=True)
        )
        np.testing.assert_allclose(make_smollm2.unpacked(packed, "w"), weight, atol=0.3 if bits == 4 else 0.03)
