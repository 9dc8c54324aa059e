"""Experts in 4 bit on torch: the same function as quantising whole weights, fewer bytes, little memory on the way."""

from __future__ import annotations

import gc
import json
import re
import sys
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from family_rows import CONFIGS

pytest.importorskip("torch", reason="the extra `torch` is not installed")
pytest.importorskip("transformers", reason="the extra `torch` is not installed")
pytest.importorskip("bitsandbytes", reason="the extra `torch` is not installed")
pytest.importorskip("accelerate", reason="the extra `torch` is not installed")

import bitsandbytes
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize
from torch_rows import BY_TYPE, settings_of
from transformers_models import FORMS, random_model, random_transformers, router_weights
from wide_mixtral import load_elsewhere, write_wide_mixtral

from mlx_moebench.errors import MissingExtraError, ModelLoadError, UnsupportedModelError
from mlx_moebench.families import Family, families, family_for
from mlx_moebench.families.base import Keys, names_of
from torch_fallback.capture import locate
from torch_fallback.fourbit import MOST, check_experts, expert_bytes, expert_weights, load_in_4bit
from torch_fallback.reading import auto_class
from torch_fallback.weights import Stored, stored_tensors

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def ids() -> Any:
    return torch.randint(1, 320, (2, 24), generator=torch.Generator().manual_seed(5))


def sizes_of(model_type: str) -> dict[str, Any]:
    """The settings of mlx-lm's row, which transformers has, too."""
    known = settings_of(BY_TYPE[model_type])
    return {key: value for key, value in CONFIGS[model_type].items() if key in known and key != "model_type"}


def is_plain(model_type: str) -> bool:
    """Whether every matrix of a block is of a router, an expert or a linear layer, as `reference` takes it.

    Not so with convolutions, and where at tiny sizes the rank of latent attention or a number of heads is as small as
    a router's output. What lies beside the language model is not packed.
    """
    row = BY_TYPE[model_type]
    model = random_model(row, **{**row.on_both, **sizes_of(model_type)})
    routers, names = router_weights(model), dict(model.named_parameters()).keys()
    n_experts = locate(model)[0].spec.n_experts
    linear = [m for name, m in model.named_modules() if isinstance(m, nn.Linear) and f"{name}.weight" not in routers]
    convolved = any(isinstance(module, nn.Conv1d) for module in model.modules())
    small = any(1 < module.out_features <= 2 * n_experts for module in linear)
    return not row.text and not convolved and not small and "model.embed_tokens.weight" in names


PLAIN = [name for name in (*FORMS, "qwen2_moe") if is_plain(name)]


def random_checkpoint(folder: Path, model_type: str = "mixtral", **options: Any) -> Any:
    """A tiny random model in bfloat16, also written to ``folder``."""
    return random_transformers(folder, model_type, dtype=torch.bfloat16, **{**sizes_of(model_type), **options})


def kept_whole(model: Any) -> set[str]:
    """The matrices inside blocks that stay as they are: of routers, and of what gates a shared expert, a single row."""
    single = {name for name, p in model.named_parameters() if p.ndim == 2 and p.shape[0] == 1}
    return router_weights(model) | single


def load(folder: Path, dtype: Any = torch.float32, **options: Any) -> tuple[Any, Family]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return load_in_4bit(folder, config, device=CPU, dtype=dtype, **options), family_for(config)


def rounded(weight: Any) -> Any:
    """A whole weight put into 4 bit and back, by bitsandbytes alone."""
    return bitsandbytes.functional.dequantize_4bit(
        *bitsandbytes.functional.quantize_4bit(weight.contiguous(), quant_type="nf4")
    )


def reference(folder: Path, dtype: Any) -> Any:
    """transformers' own model of ``folder`` with every weight rounded that should be in 4 bit."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = auto_class(config).from_pretrained(folder, dtype=dtype).eval()
    kept = kept_whole(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and name not in kept and not name.endswith(("embed_tokens.weight", "lm_head.weight")):
                p.copy_(rounded(p))
    return model


def logits(model: Any, ids: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", PLAIN)
def test_computes_what_weights_rounded_to_4_bit_compute(tmp_path: Path, ids: Any, model_type: str, dtype: Any) -> None:
    random_checkpoint(tmp_path, model_type)
    model, family = load(tmp_path, dtype)
    expected = logits(reference(tmp_path, dtype), ids)
    atol = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits(model, ids), expected, atol=atol, rtol=0)
    assert not model.training
    assert expected.abs().max() > 0.5
    taken, full = expert_bytes(model, family)
    assert 0.25 < taken / full <= MOST


@pytest.mark.parametrize("model_type", PLAIN)
def test_only_experts_and_linear_layers_are_in_4_bit(tmp_path: Path, model_type: str) -> None:
    whole = random_checkpoint(tmp_path, model_type)
    original, routers = dict(whole.named_parameters()), kept_whole(whole)
    model, _ = load(tmp_path, torch.bfloat16)
    kept = {name: p for name, p in model.named_parameters() if p.dtype != torch.uint8}
    packed = {name.replace("parametrizations.", "").removesuffix(".original") for name, _ in model.named_parameters()}
    assert packed == original.keys()
    assert len(routers) >= len(BY_TYPE[model_type].layers)
    norms = [name for name, p in original.items() if p.ndim == 1]
    assert kept.keys() == {*routers, *norms, "model.embed_tokens.weight", "lm_head.weight"} & original.keys()
    for name, p in kept.items():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, original[name]), name


def test_buffers_that_no_checkpoint_holds_are_computed(tmp_path: Path) -> None:
    original = random_checkpoint(tmp_path)
    model, _ = load(tmp_path)
    assert torch.equal(model.model.rotary_emb.inv_freq, original.model.rotary_emb.inv_freq)
    assert not any(value.is_meta for value in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize("model_type", PLAIN)
def test_a_checkpoint_with_fused_keys_loads_to_the_same_model(tmp_path: Path, ids: Any, model_type: str) -> None:
    random_checkpoint(tmp_path / "split", model_type)
    random_checkpoint(tmp_path / "fused", model_type, fused=True)
    keys = [set(stored_tensors(tmp_path / name)) for name in ("split", "fused")]
    per_expert = any(re.search(r"\.experts\.\d+\.", key) for key in keys[0])  # some are stored fused by everybody
    assert (keys[0] != keys[1]) == per_expert
    assert torch.equal(*(logits(load(tmp_path / name)[0], ids) for name in ("split", "fused")))


def test_a_sharded_checkpoint(tmp_path: Path, ids: Any) -> None:
    model = random_checkpoint(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size=40_000)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    assert torch.equal(*(logits(load(tmp_path / name)[0], ids) for name in ("whole", "shards")))
    shard = sorted((tmp_path / "shards").glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelLoadError, match=f"lacks 1 of 9 weight files .*{shard.name}"):
        load(tmp_path / "shards")


@pytest.mark.parametrize("stored", ["both", "model.embed_tokens.weight", "lm_head.weight"])
def test_tied_embeddings(tmp_path: Path, ids: Any, stored: str) -> None:
    original = random_checkpoint(tmp_path, tie_word_embeddings=True)
    weight = original.model.embed_tokens.weight.detach()

    def keep(tensors: dict[str, Any]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors.pop(name, None)
            if stored in ("both", name):
                tensors[name] = weight.clone()

    change(tmp_path, keep)
    model, _ = load(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(logits(model, ids), logits(reference(tmp_path, torch.float32), ids), atol=1e-5, rtol=0)


def test_slices_give_the_weights_that_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fallback import fourbit

    monkeypatch.setattr(fourbit, "_SLICE", 128)
    for shape in ((3, 64, 32), (5, 7, 10), (1, 2, 10)):  # the last two end within a block
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        packed, state = fourbit._quantise(weight, CPU, torch.float32)
        expected, theirs = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4")
        assert torch.equal(packed, expected)
        assert torch.equal(state.absmax, theirs.absmax)
        assert torch.equal(bitsandbytes.functional.dequantize_4bit(packed, state), rounded(weight))


_ATTENTION = {"head_dim": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
OTHERS: dict[str, tuple[Keys, dict[str, Any]]] = {
    "deepseek_v3": ("n_routed_experts", _HEADS | _LATENT | {"first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}),
    "ernie4_5_moe": ("moe_num_experts", _HEADS),
    "glm4_moe": ("n_routed_experts", _ATTENTION | {"first_k_dense_replace": 1}),
    "gpt_oss": ("num_local_experts", _ATTENTION),  # experts with biases, transposed
    "granitemoe": ("num_local_experts", _HEADS),
    "jamba": ("num_experts", _HEADS | {"mamba_d_state": 8}),  # a linear layer not called
    "llama4_text": ("num_local_experts", _ATTENTION | {"intermediate_size_mlp": 48}),  # all experts in one product
    "longcat_flash": (
        "n_routed_experts",
        _HEADS | _LATENT | {"ffn_hidden_size": 48, "num_layers": 2, "expert_ffn_hidden_size": 32, "head_dim": 8},
    ),  # experts without weights have room in one of the two
    "minimax": ("num_local_experts", _ATTENTION),
    "qwen3_moe": (("num_experts", "num_local_experts"), _ATTENTION),
}
"""Architectures beside those of the package: the keys of E in their config, and what makes them tiny."""


@pytest.mark.parametrize("model_type", [name for name in OTHERS if name not in families()])
def test_other_architectures_need_no_names(
    tmp_path: Path, ids: Any, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    keys, settings = OTHERS[model_type]
    sizes = {"hidden_size": 64, "intermediate_size": 48, "moe_intermediate_size": 32, "num_hidden_layers": 3}
    sizes |= {"vocab_size": 320, "num_experts_per_tok": 2, "max_position_embeddings": 128, "pad_token_id": 0}
    config = transformers.AutoConfig.for_model(model_type, **(sizes | settings | {names_of(keys)[0]: 8}))
    torch.manual_seed(3)
    original = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, p in original.named_parameters():
            p.copy_(
                torch.randn_like(p) / p.shape[-1] ** 0.5 if p.ndim > 1 else torch.randn_like(p) / 5 + ("norm" in name)
            )
    original.save_pretrained(tmp_path)
    fused = [name for name, p in original.named_parameters() if p.ndim == 3 and "conv" not in name]
    layers = sorted({int(name.split(".")[2]) for name in fused})
    family = Family(model_type, (model_type,), (), keys, "", layers=lambda _: layers)
    monkeypatch.setitem(families(), model_type, family)
    model, _ = load(tmp_path)
    taken, full = expert_bytes(model, family)
    assert 0.25 < taken / full <= MOST
    assert full == 2 * sum(original.get_parameter(name).numel() for name in fused) > 0
    in_4_bit = {name for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert not [name for name in in_4_bit if "router" in name or "mlp.gate." in name]
    expected = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    found, unrounded = logits(model, ids), logits(expected, ids)
    with torch.no_grad():
        for name, p in expected.named_parameters():
            path, _, leaf = name.rpartition(".")
            if f"{path}.parametrizations.{leaf}.original" in in_4_bit:
                p.copy_(rounded(p))
    torch.testing.assert_close(found, logits(expected, ids), atol=1e-4, rtol=0)
    assert (found - unrounded).abs().max() > 0.1
    count = Count(model)
    logits(model, ids)
    assert set(count.calls.values()) == {1}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).state_dict()
    ours = load(tmp_path, torch.bfloat16)[0].state_dict()
    assert {n: v.dtype for n, v in ours.items() if n in theirs and v.dtype != torch.uint8} == {
        name: theirs[name].dtype for name in theirs if ours[name].dtype != torch.uint8
    }


class Count:
    """How often each 4-bit weight of a model was dequantised."""

    def __init__(self, model: Any) -> None:
        self.calls: Counter[str] = Counter()
        for path, module in model.named_modules():
            if parametrize.is_parametrized(module):
                for name, parametrization in module.parametrizations.items():
                    parametrization[0].register_forward_hook(self.counter(f"{path}.{name}"))

    def counter(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.update([name])


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
@pytest.mark.parametrize("model_type", PLAIN)
def test_a_forward_dequantises_every_weight_once(
    tmp_path: Path, ids: Any, model_type: str, implementation: str
) -> None:
    random_checkpoint(tmp_path, model_type)
    model, family = load(tmp_path)
    if model._can_set_experts_implementation():  # others have one, which takes expert after expert
        model.set_experts_implementation(implementation)
    count = Count(model)
    for forwards in (1, 2):
        logits(model, ids)
        assert set(count.calls.values()) == {forwards}
        assert {weight.full_name for weight in expert_weights(model, family)} < count.calls.keys()
    assert not parametrize._cache, "nothing stays dequantised"


def test_a_block_that_uses_the_weights_of_another_module_dequantises_once() -> None:
    from torch_fallback.fourbit import Weight, _cache_in_blocks, _fill_in_4bit

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1 = nn.Parameter(torch.randn(4 * 8, 16))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = Holder()

        def forward(self, x: Any) -> Any:
            return sum(x @ self.mlp.w1[8 * e : 8 * e + 8].T for e in range(4))

    model = nn.Sequential(Block())
    weight = Weight(model[0].mlp, "0.mlp", "w1", (32, 16), 0)
    x, expected = torch.randn(3, 16), rounded(model[0].mlp.w1.detach())
    _fill_in_4bit(weight, model[0].mlp.w1.detach(), CPU, torch.float32)
    _cache_in_blocks(model, [weight])
    count = Count(model)
    torch.testing.assert_close(model(x), sum(x @ expected[8 * e : 8 * e + 8].T for e in range(4)))
    assert count.calls == {"0.mlp.w1": 1}
    with pytest.raises(RuntimeError):
        model(torch.randn(3, 15))
    assert not parametrize._cache_enabled, "a forward that fails leaves nothing behind"


def test_what_bitsandbytes_alone_does_is_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.bfloat16, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True)
    )
    family = family_for(CONFIGS["mixtral"])
    taken, full = expert_bytes(theirs, family)
    assert taken == full == 3 * 4 * 3 * 64 * 32 * 2
    with pytest.raises(ModelLoadError, match=r"not in 4 bit: they take 147,456 bytes, 1\.00 .* 6 of their 6 weights"):
        check_experts(theirs, family)


def test_a_single_weight_at_full_precision_is_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path, num_hidden_layers=40)
    model, family = load(tmp_path)
    experts = model.model.layers[7].mlp.experts
    parametrize.remove_parametrizations(experts, "down_proj", leave_parametrized=False)
    experts.down_proj = nn.Parameter(torch.zeros(4, 64, 32, dtype=torch.bfloat16))
    taken, full = expert_bytes(model, family)
    assert taken / full < MOST, "the sum alone would not show it"
    with pytest.raises(ModelLoadError, match="1 of their 80 weights were not reduced"):
        check_experts(model, family)


def test_a_layer_in_which_no_experts_are_found_is_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    model, family = load(tmp_path)
    del model.model.layers[1].mlp
    with pytest.raises(ModelLoadError, match="found in 2 of the 3 sparse layers of this mixtral model"):
        check_experts(model, family)


def test_experts_are_found_by_shape_and_place(tmp_path: Path) -> None:
    """A list of linear layers and matrices on top of each other are experts; what has such a shape by chance is not."""
    model = random_checkpoint(tmp_path)
    family = family_for(CONFIGS["mixtral"])
    before = {weight.full_name for weight in expert_weights(model, family)}
    layer = model.model.layers[2]
    layer.other = nn.ModuleDict({"experts": nn.ModuleList(nn.Linear(8, 6) for _ in range(4))})
    layer.stacked_experts = nn.ParameterDict({"w1": nn.Parameter(torch.zeros(4 * 10, 8))})
    layer.mixer = nn.ParameterDict({"A_log": nn.Parameter(torch.zeros(4 * 10, 8))})
    layer.conv = nn.Conv1d(4, 4, 3)
    layer.heads = nn.Linear(8, 40)
    model.outside = nn.ParameterDict({"table": nn.Parameter(torch.zeros(4, 3, 3))})
    found = {weight.full_name for weight in expert_weights(model, family)} - before
    added = {f"other.experts.{n}.weight" for n in range(4)} | {"stacked_experts.w1"}
    assert found == {f"model.layers.2.{name}" for name in added}


def test_a_block_list_as_long_as_there_are_experts_is_no_list_of_experts(tmp_path: Path) -> None:
    model = random_checkpoint(tmp_path, num_hidden_layers=4)
    assert {weight.name for weight in expert_weights(model, family_for(CONFIGS["mixtral"]))} == {
        "gate_up_proj",
        "down_proj",
    }


def test_progress_is_told_layer_by_layer(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    told: list[tuple[str, int, int]] = []
    load(tmp_path, step=lambda *args: told.append(args))
    assert [(done, total) for _, done, total in told] == [(n, 3) for n in range(4)]


@pytest.mark.parametrize(("fused", "most"), [(False, 2 * 4), (True, 1)])
def test_one_weight_at_a_time_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fused: bool, most: int) -> None:
    """What becomes one fused weight is read, and gone before the next: two matrices of 4 experts, or the whole."""
    random_checkpoint(tmp_path, fused=fused)
    read, seen, alive = Stored.read, [], []

    def watched(self: Stored) -> Any:
        tensor = read(self)
        if tensor.ndim == 3 or tensor.shape in ((32, 64), (64, 32)):
            seen.append(weakref.ref(tensor))
        alive.append(sum(reference() is not None for reference in seen))
        return tensor

    monkeypatch.setattr(Stored, "read", watched)
    gc.disable()
    try:
        load(tmp_path)
    finally:
        gc.enable()
    assert len(alive) == len(stored_tensors(tmp_path))
    assert max(alive) == most


def test_missing_keys_are_refused_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_checkpoint(tmp_path)
    change(tmp_path, lambda t: t.pop("model.layers.1.self_attn.q_proj.weight"))
    monkeypatch.setattr(Stored, "read", lambda self: pytest.fail("a weight was read"))
    with pytest.raises(ModelLoadError, match=r"lacks 'model\.layers\.1\.self_attn\.q_proj\.weight' of a 'mixtral'"):
        load(tmp_path)


def test_missing_experts_are_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    change(tmp_path, lambda t: t.pop("model.layers.1.block_sparse_moe.experts.2.w2.weight"))
    with pytest.raises(ModelLoadError, match=r"down_proj' is \[3, 64, 32\] in the checkpoint and \[4, 64, 32\] by"):
        load(tmp_path)
    change(tmp_path, lambda t: t.pop("model.layers.1.block_sparse_moe.experts.3.w1.weight"))
    with pytest.raises(ModelLoadError, match=r"cannot be made into 'model\.layers\.1\.mlp\.experts\.gate_up_proj'"):
        load(tmp_path)


def test_unexpected_keys_are_refused(tmp_path: Path, ids: Any) -> None:
    random_checkpoint(tmp_path)
    # Checkpoints of years ago hold a buffer of each layer that is computed today.
    change(tmp_path, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    load(tmp_path)
    change(tmp_path, lambda t: t.update({"model.layers.3.mlp.gate.weight": torch.ones(4, 64)}))
    with pytest.raises(ModelLoadError, match=r"holds 'model\.layers\.3\.mlp\.gate\.weight', which a 'mixtral' model"):
        load(tmp_path)


def test_another_shape_is_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 300}), encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"\[320, 64\] in the checkpoint and \[300, 64\] by its config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("key", ["quantization_config", "quantization"])
def test_a_quantised_checkpoint_is_refused(tmp_path: Path, key: str) -> None:
    random_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8")) | {key: {"quant_method": "awq", "bits": 4}}
    with pytest.raises(ModelLoadError, match=r"quantised already \(awq\)"):
        load_in_4bit(tmp_path, config, device=CPU, dtype=torch.float32)


def test_other_number_formats_are_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    change(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.float8_e4m3fn)}))
    with pytest.raises(ModelLoadError, match=r"'lm_head\.weight' as F8_E4M3, which is no plain number format"):
        load(tmp_path)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for content, message in ((whole[:-10], "truncated"), (whole[:50], "truncated"), (b"", "not a safetensors")):
        file.write_bytes(content)
        with pytest.raises(ModelLoadError, match=message):
            load(tmp_path)
    file.unlink()
    with pytest.raises(ModelLoadError, match="only safetensors are read"):
        load(tmp_path)


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="dense"):
        load_in_4bit(tmp_path, {"model_type": "llama"}, device=CPU, dtype=torch.float32)


def test_code_that_a_checkpoint_brings_runs_only_where_it_is_trusted(
    tmp_path: Path, ids: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # transformers copies such code to the user's cache and puts that on the path.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    random_checkpoint(tmp_path, fused=True)  # transformers converts nothing for code that is not its own
    expected = logits(load(tmp_path)[0], ids)
    (tmp_path / "own_mixtral.py").write_text(
        "from transformers import MixtralConfig, MixtralForCausalLM\n\n\n"
        "class OwnConfig(MixtralConfig):\n    pass\n\n\n"
        "class OwnModel(MixtralForCausalLM):\n    config_class = OwnConfig\n",
        encoding="utf-8",
    )
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config |= {
        "auto_map": {"AutoConfig": "own_mixtral.OwnConfig", "AutoModelForCausalLM": "own_mixtral.OwnModel"},
        "model_type": "own_mixtral",
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    trusted = {"device": CPU, "dtype": torch.float32, "trust_remote_code": True}
    with pytest.raises(ModelLoadError, match="if you trust it pass --trust-remote-code"):
        load_in_4bit(tmp_path, CONFIGS["mixtral"], **(trusted | {"trust_remote_code": False}))
    model = load_in_4bit(tmp_path, CONFIGS["mixtral"], **trusted)
    assert type(model).__name__ == "OwnModel"
    torch.testing.assert_close(logits(model, ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("module", ["bitsandbytes", "accelerate"])
def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"4-bit loading needs .*mlx-moebench\[torch\]"):
        load_in_4bit(tmp_path, CONFIGS["mixtral"], device=CPU, dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from Linux' /proc")
def test_2_gb_never_stand_in_memory_whole(tmp_path: Path) -> None:
    size = write_wide_mixtral(tmp_path)
    assert size > 2e9
    loaded = load_elsewhere(tmp_path, "here")
    assert loaded.finite
    assert loaded.expert_bytes <= MOST * loaded.expert_bf16
    assert loaded.expert_bytes < loaded.stays <= loaded.peak <= 0.5 * size
