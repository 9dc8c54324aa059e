"""Quantising on load, adapters, and what a report says of both."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NIGHTLY, build_tiny, save_checkpoint
from family_rows import BY_TYPE, CONFIGS, FORMS, RUNNABLE, Row

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench import RoutingStats
from mlx_moebench.checkpoints import NANO
from mlx_moebench.cli import main
from mlx_moebench.errors import ModelLoadError, MoebenchError, StatsError
from mlx_moebench.families import families, family_for
from mlx_moebench.families.base import module_at, stored_weight
from mlx_moebench.instrument import attach, config_of, detach, routers_of
from mlx_moebench.measure import analyze
from mlx_moebench.models import load, load_checkpoint
from mlx_moebench.options import Loading

import jsonschema  # isort: skip
import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
import mlx_lm  # isort: skip
from mlx.utils import tree_flatten, tree_map_with_path, tree_unflatten  # isort: skip
from mlx_lm.models.switch_layers import SwitchLinear  # isort: skip
from mlx_lm.tuner.utils import linear_to_lora_layers  # isort: skip
from mlx_lm.utils import load_adapters, load_model  # isort: skip
from mlx_lm.utils import save as mlx_lm_save  # isort: skip

pytestmark = pytest.mark.usefixtures("cpu")

IDS = [[5, 17, 250, 3, 88], [301, 2, 2, 76, 130]]
SCHEMA = Path(__file__).parents[1] / "mlx_moebench" / "routing" / "schema" / "routing_stats.schema.json"
# A pack that is quantised in any case leaves nothing to choose.
ROWS = [row for row in RUNNABLE if "quantization" not in row.config]
by_form = pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=row.model_type, marks=() if row.model_type in FORMS.values() else NIGHTLY) for row in ROWS],
)
"""One model of each form by default, the others at night."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One float32 checkpoint of every family. Copy one before changing it."""
    aside = tmp_path_factory.mktemp("families")

    class Made(dict[str, Path]):
        """Each when it is asked for."""

        def __missing__(self, name: str) -> Path:
            self[name] = save_checkpoint(aside / name, build_tiny(model_type=name), CONFIGS[name])
            return self[name]

    return Made()


def gates(model: nn.Module) -> list[nn.Module]:
    """The modules that hold the routers' weights."""
    form = family_for(config_of(model)).form
    return [stored_weight(module_at(model.layers[s.layer], form(s.router).gate)) for s in routers_of(model)]


def gate_bits(model: nn.Module, bits: int) -> int:
    """What its routers have where ``bits`` are asked for: a gate that is no linear layer stays as it is."""
    form = family_for(config_of(model)).form
    return bits if all(form(spec.router).seam == "linear" for spec in routers_of(model)) else 32


def expert_weights(model: nn.Module) -> list[nn.Module]:
    form = family_for(config_of(model)).form
    experts = []
    for spec in routers_of(model):
        own = module_at(model.layers[spec.layer], form(spec.router).experts)
        experts += getattr(own, form(spec.router).one_by_one or "none", [own])
    return [module for one in experts for module in one.modules() if "weight" in module]


def counts(model: nn.Module) -> list[list[int]]:
    """Selections of every expert of every router on `IDS`, by a tap of ours."""
    with attach(model) as stats:
        model(mx.array(IDS))
    return [router["selection_counts"] for router in stats.report()["routers"]]


def check(selections: list[list[int]], row: Row) -> None:
    assert [sum(c) for c in selections] == [10 * top_k for *_, top_k in row.specs]


# -- quantising on load --------------------------------------------------------------------------------------------


@by_form
@pytest.mark.parametrize("bits", [4, 8])
def test_experts_get_the_bits_and_routers_keep_8(folders: dict[str, Path], row: Row, bits: int) -> None:
    checkpoint = load_checkpoint(folders[row.model_type], bits=bits)
    model = checkpoint.model
    assert (checkpoint.weight_bits, checkpoint.quantised_on_load, checkpoint.dtype) == (bits, True, "float32")
    assert {layer.bits for layer in expert_weights(model)} == {bits}
    assert {layer.group_size for layer in expert_weights(model)} <= {64, 32}
    assert {spec.router_bits for spec in routers_of(model)} == {gate_bits(model, 8)}
    assert {isinstance(gate, nn.QuantizedLinear) for gate in gates(model)} == {gate_bits(model, 8) == 8}
    assert {module.bits for module in model.modules() if isinstance(module, nn.QuantizedEmbedding)} <= {bits}
    with attach(model) as stats:
        assert stats.model["warnings"] == []
    check(counts(model), row)
    # Not another model: 8 bit is close, and both are what dequantised weights compute.
    exact, quantised = load(folders[row.model_type])[0](mx.array(IDS)), model(mx.array(IDS))
    assert quantised.dtype == mx.float32
    if bits == 8:
        # A token whose expert changed is another one; most are not.
        assert mx.median(mx.abs(quantised - exact)) < 0.1 * mx.abs(exact).max()


@by_form
def test_the_values_are_those_of_mlx(folders: dict[str, Path], row: Row) -> None:
    ours, stock = load(folders[row.model_type], bits=4)[0], build_tiny(model_type=row.model_type)
    kept = {id(gate) for gate in gates(stock)}
    allowed = getattr(stock, "quant_predicate", None) or (lambda path, module: True)

    def kind(path: str, module: nn.Module) -> bool | dict[str, int]:
        if not hasattr(module, "to_quantized") or module.weight.shape[-1] % 32:
            return False
        if id(module) not in kept and allowed(path, module) is False:
            return False
        return {"group_size": 32 if module.weight.shape[-1] % 64 else 64, "bits": 8 if id(module) in kept else 4}

    nn.quantize(stock, class_predicate=kind)
    for (name, a), (other, b) in zip(tree_flatten(ours.parameters()), tree_flatten(stock.parameters()), strict=True):
        assert name == other
        assert mx.array_equal(a, b), name


@by_form
def test_router_bits_can_be_chosen(folders: dict[str, Path], row: Row) -> None:
    folder = folders[row.model_type]
    low = load(folder, bits=4, router_bits=4)[0]
    bits, n = gate_bits(low, 4), len(row.specs)
    assert {spec.router_bits for spec in routers_of(low)} == {bits}
    with attach(low) as stats:
        warnings = stats.model["warnings"]
    expected = f"{n} of {n} routers have weights of 4 bit, which changes what they choose"
    assert [warning[: len(expected)] for warning in warnings] == ([expected] if bits == 4 else [])
    check(counts(low), row)
    left = load(folder, bits=4, router_bits=16)[0]
    assert {gate.weight.dtype for gate in gates(left)} == {mx.float32}
    assert all(mx.array_equal(a.weight, b.weight) for a, b in zip(gates(left), gates(load(folder)[0]), strict=True))
    assert attach(left).model["router_bits"] == 32
    check(counts(left), row)


def test_routers_alone_can_be_quantised(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint, router_bits=4)
    assert (checkpoint.weight_bits, checkpoint.quantised_on_load) == (16, True)
    assert {gate.bits for gate in gates(checkpoint.model)} == {4}
    untouched = load_checkpoint(tiny_checkpoint, router_bits=16)
    assert not untouched.quantised_on_load
    assert "quantization" not in untouched.config


@pytest.mark.parametrize(("bits", "router_bits", "least"), [(None, None, 16), (8, None, 8), (4, 16, 4)])
def test_weight_bits_are_those_before_the_cast(
    tiny_checkpoint: Path, bits: int | None, router_bits: int | None, least: int
) -> None:
    assert load_checkpoint(tiny_checkpoint, bits=bits, router_bits=router_bits).weight_bits == least


def save_sized(folder: Path, hidden: int, inner: int) -> Path:
    sizes = {"hidden_size": hidden, "intermediate_size": inner}
    return save_checkpoint(folder, build_tiny(**sizes), CONFIGS["olmoe"] | sizes)


def test_what_no_group_divides_stays(tmp_path: Path) -> None:
    """Matrices with rows of 64 are packed, those with rows of 48 stay: 2 of 3 matrices have 4 bit, 1 has 32."""
    checkpoint = load_checkpoint(save_sized(tmp_path / "odd", 64, 48), bits=4)
    experts = checkpoint.model.layers[0].mlp.switch_mlp
    assert experts.up_proj.bits == 4
    assert experts.down_proj.weight.dtype == mx.float32
    assert checkpoint.weight_bits == pytest.approx((4 + 4 + 32) / 3, abs=1e-3)
    check(counts(checkpoint.model), BY_TYPE["olmoe"])


def test_nothing_quantised_is_no_success(tmp_path: Path) -> None:
    folder = save_sized(tmp_path / "odd", 48, 40)
    with pytest.raises(ModelLoadError, match="No expert of odd can be quantised"):
        load(folder, bits=4)


@by_form
def test_what_was_quantised_on_load_can_be_saved_and_loaded(folders: dict[str, Path], row: Row, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(folders[row.model_type], bits=4)
    expected = checkpoint.model(mx.array(IDS))
    mlx_lm_save(tmp_path / "saved", checkpoint.path, checkpoint.model, checkpoint.tokenizer, checkpoint.config, False)
    again = load_checkpoint(tmp_path / "saved")
    assert (again.weight_bits, again.quantised_on_load) == (4, False)
    assert {spec.router_bits for spec in routers_of(again.model)} == {gate_bits(again.model, 8)}
    assert mx.array_equal(again.model(mx.array(IDS)), expected)


# -- quantised by others -------------------------------------------------------------------------------------------


@pytest.fixture
def four_bit(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny OLMoE as ``mlx_lm.convert -q`` would write it, with its routers at 4 bit too."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    nn.quantize(checkpoint.model, 64, 4, class_predicate=divisible)
    config = checkpoint.config | {"quantization": {"group_size": 64, "bits": 4}}
    mlx_lm_save(tmp_path / "tiny-4bit", tiny_checkpoint, checkpoint.model, checkpoint.tokenizer, config)
    return tmp_path / "tiny-4bit"


def divisible(path: str, module: nn.Module) -> bool:
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 64 == 0


def test_a_quantised_checkpoint_loads_as_it_is_and_warns(four_bit: Path) -> None:
    stats = analyze(four_bit, "math", max_samples=3)
    assert stats.model["weight_bits"] == pytest.approx((4 + 4 + 32) / 3, abs=1e-3)  # rows of 32 were left
    assert (stats.model["router_bits"], stats.model["quantised_on_load"]) == (4, False)
    assert stats.model["warnings"][0].startswith("3 of 3 routers have weights of 4 bit")
    report = stats.report()
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert {router["router_bits"] for router in report["routers"]} == {4}
    assert mx.array_equal(load(four_bit)[0](mx.array(IDS)), mlx_lm.load(str(four_bit))[0](mx.array(IDS)))


@pytest.mark.parametrize("asked", [{"bits": 4}, {"bits": 8}, {"router_bits": 8}, {"bits": 4, "router_bits": 16}])
def test_quantising_twice_is_refused(four_bit: Path, asked: dict[str, int]) -> None:
    with pytest.raises(ModelLoadError, match=r"tiny-4bit is quantised already \(4 bit\) and is used as stored"):
        load(four_bit, **asked)


# -- unquantised routers in a quantised checkpoint ------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano_at_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with weights and routers at 4 bit, as mlx-lm quantises and saves it."""
    folder = tmp_path_factory.mktemp("quantised") / "nano-4bit"
    network, config = load_model(NANO)
    network, config = mlx_lm.utils.quantize_model(network, config, 64, 4)
    mlx_lm_save(folder, NANO, network, mlx_lm.utils.load_tokenizer(NANO), config)
    return folder


def test_routers_come_from_the_original(nano_at_4: Path) -> None:
    stored, nano = load_checkpoint(nano_at_4), load_checkpoint()
    mended = load_checkpoint(nano_at_4, router_bits=16, routers_from="moebench-nano")
    for name, array in tree_flatten(mended.model.parameters()):
        of = nano if ".gate." in name else stored
        assert mx.array_equal(array, dict(tree_flatten(of.model.parameters()))[name]), name
    assert {gate.bits for gate in gates(stored.model)} == {4}
    assert {spec.router_bits for spec in routers_of(mended.model)} == {32}
    assert mended.routers_from == mended.origin["routers_from"] == "moebench-nano"
    assert mended.fingerprint != stored.fingerprint
    packing = mended.config["quantization"]
    assert packing["bits"] == 4
    assert [path for path, packed in packing.items() if packed is False] == [
        f"model.layers.{layer}.mlp.gate" for layer in range(6)
    ]
    stats = analyze(mended, "math", max_samples=3)
    assert (stats.model["router_bits"], stats.model["warnings"]) == (32, [])
    jsonschema.validate(stats.report(), json.loads(SCHEMA.read_text()))


@by_form
def test_every_family_gives_its_routers(folders: dict[str, Path], row: Row, tmp_path: Path) -> None:
    original = folders[row.model_type]
    if families()[row.model_type].module:
        pytest.skip("mlx-lm, which saves here, lacks this model")
    network, config = load_model(original)
    # All of one group size: some models ask for 64, which does not divide their tiny rows.
    same = {"quant_predicate": lambda path, module: not path.endswith("res_proj")}
    network, config = mlx_lm.utils.quantize_model(network, config, 32, 4, **same)
    bits = gate_bits(network, 4)  # saving takes the weights away
    mlx_lm_save(tmp_path / "low", original, network, mlx_lm.utils.load_tokenizer(original), config)
    if bits == 32:
        with pytest.raises(ModelLoadError, match="routers of low are unquantised as they are"):
            load(tmp_path / "low", routers_from=original)
        return
    mended, exact = load(tmp_path / "low", routers_from=original)[0], load(original)[0]
    for a, b in zip(gates(mended), gates(exact), strict=True):
        assert mx.array_equal(a.weight, b.weight)
    check(counts(mended), row)


def test_routers_that_are_not_at_hand(nano_at_4: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(NANO, tmp_path / "other")
    weights = mx.load(str(other / "model.safetensors"))
    gate = "model.layers.3.mlp.gate.weight"
    mx.save_safetensors(str(other / "model.safetensors"), weights | {gate: weights[gate][::-1]})
    for folder, asked, said in (
        (nano_at_4, {"router_bits": 16}, "6 of 6 routers of nano-4bit are stored at 4 bit.*--routers-from MODEL"),
        (nano_at_4, {"routers_from": nano_at_4}, "routers of nano-4bit are quantised, too"),
        (nano_at_4, {"routers_from": tiny_checkpoint}, "has 6 routers and tiny 3"),
        (nano_at_4, {"routers_from": other}, r"layers\.3\.mlp\.gate of other is no original"),
        (None, {"routers_from": NANO}, "unquantised as they are"),
    ):
        with pytest.raises(ModelLoadError, match=said):
            load(folder, **asked)
    for asked, said in (
        ({"bits": 4}, "--routers-from is for a model that is quantised already"),
        ({"router_bits": 8}, "--router-bits 8 asks for others"),
        ({"backend": "torch"}, "On torch routers are never quantised"),
    ):
        with pytest.raises(ModelLoadError, match=said):
            Loading(routers_from="moebench-nano", **asked)


def test_routers_that_are_unquantised_as_stored_are_taken_so(nano_at_4: Path, tmp_path: Path) -> None:
    mended = load_checkpoint(nano_at_4, routers_from="moebench-nano")
    folder = tmp_path / "mixed"
    mlx_lm_save(folder, nano_at_4, mended.model, mended.tokenizer, mended.config)
    again = load(folder, router_bits=16)[0]
    assert all(mx.array_equal(a.weight, b.weight) for a, b in zip(gates(again), gates(load()[0]), strict=True))


def test_bits_that_do_not_exist_are_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match="bits = 3 is not offered; choose 4 or 8"):
        load(tiny_checkpoint, bits=3)
    with pytest.raises(ModelLoadError, match="router_bits = 2 is not offered; choose 4 or 8 or 16"):
        load(tiny_checkpoint, router_bits=2)
    with pytest.raises(MoebenchError, match="loaded already; give bits and adapter_path when loading it"):
        analyze(load_checkpoint(tiny_checkpoint), bits=4, adapter_path="x")


def test_quantised_experts_may_compute_in_bfloat16(tiny_checkpoint: Path) -> None:
    assert load(tiny_checkpoint, bits=4, dtype="bfloat16")[0](mx.array(IDS)).dtype == mx.bfloat16


# -- adapters ------------------------------------------------------------------------------------------------------


def adapter_keys(model_type: str, *, experts: bool = True) -> list[str]:
    """What an adapter changes in a block: every gate, the first and last linear layer beside them, and an expert's."""
    block = build_tiny(model_type=model_type).layers[BY_TYPE[model_type].layers[-1]]
    family = family_for(CONFIGS[model_type])
    left = {form.gate for form in family.routers} | set(family.uncalled)
    keys = {form.gate for form in family.routers if form.seam == "linear"}
    linear, switched = (
        sorted(name for name, module in block.named_modules() if isinstance(module, kind) and name not in left)
        for kind in (nn.Linear, SwitchLinear)
    )
    return sorted({*keys, linear[0], linear[-1], *switched[: 1 if experts else 0]})


def write_adapter(folder: Path, model_type: str = "olmoe", kind: str = "lora", **config: Any) -> Path:
    """What mlx_lm.lora writes after training: here with random numbers in place of trained ones."""
    model = build_tiny(model_type=model_type)
    mx.random.seed(1)
    config = {
        "fine_tune_type": kind,
        "num_layers": 3,
        "lora_parameters": {"rank": 4, "scale": 6.0, "dropout": 0.5, "keys": adapter_keys(model_type)},
    } | config
    model.freeze()
    if kind == "full":
        for gate in gates(model):
            gate.unfreeze()
    else:
        linear_to_lora_layers(model, config["num_layers"], config["lora_parameters"], use_dora=kind == "dora")
    trained = tree_map_with_path(
        lambda name, a: a if name.endswith(("lora_a", ".m")) else a + 0.3 * mx.random.normal(a.shape),
        model.trainable_parameters(),
    )
    folder.mkdir()
    mx.save_safetensors(str(folder / "adapters.safetensors"), dict(tree_flatten(trained)))
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def stock(folder: Path, model_type: str, adapter: Path | None = None) -> nn.Module:
    """The model as mlx-lm loads it; JetMoE, which it lacks, by its functions on our port."""
    if own := families()[model_type].module:
        port = importlib.import_module(own)
        model, _ = load_model(folder, get_model_classes=lambda config: (port.Model, port.ModelArgs))
        if adapter is not None:
            model = load_adapters(model, str(adapter))
            model.eval()
        return model
    return mlx_lm.load(str(folder), adapter_path=adapter and str(adapter))[0]


def close(a: mx.array, b: mx.array) -> bool:
    return bool(np.allclose(np.array(a), np.array(b), atol=1e-5, rtol=1e-5))


@by_form
def test_adapters_load_as_in_mlx_lm_and_count_after_lora(folders: dict[str, Path], row: Row, tmp_path: Path) -> None:
    folder, adapter = folders[row.model_type], write_adapter(tmp_path / "adapter", row.model_type)
    ours, theirs = load_checkpoint(folder, adapter_path=adapter), stock(folder, row.model_type, adapter)
    assert not any(module.training for module in ours.model.modules())  # dropout is off
    assert close(ours.model(mx.array(IDS)), theirs(mx.array(IDS)))
    assert ours.adapter is not None
    assert (ours.adapter["name"], ours.adapter["fine_tune_type"], ours.adapter["scale"]) == ("adapter", "lora", 6.0)
    assert ours.fingerprint == load_checkpoint(folder).fingerprint

    recorded = counts(ours.model)
    check(recorded, row)
    assert recorded != counts(stock(folder, row.model_type))
    # Fusing leaves one weight: nothing but the sum of both can be recorded then.
    fused = [(name, m.fuse()) for name, m in theirs.named_modules() if hasattr(m, "fuse")]
    theirs.update_modules(tree_unflatten(fused))
    assert not any(hasattr(gate, "lora_a") for gate in gates(theirs))
    assert recorded == counts(theirs)


@by_form
def test_a_tap_survives_an_adapter_that_comes_later(folders: dict[str, Path], row: Row, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", row.model_type)
    model = load(folders[row.model_type], bits=4)[0]
    with attach(model) as stats:
        load_adapters(model, str(adapter))
        model.eval()
        model(mx.array(IDS))
        tapped = [router["selection_counts"] for router in stats.report()["routers"]]
    detach(model)
    assert tapped == counts(load(folders[row.model_type], bits=4, adapter_path=adapter)[0])
    assert {spec.router_bits for spec in routers_of(model)} == {gate_bits(model, 8)}


@pytest.mark.parametrize("kind", ["dora", "full"])
def test_other_fine_tunes_load_too(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["mlp.gate"]}
    adapter = write_adapter(tmp_path / kind, kind=kind, lora_parameters=parameters)
    ours = load_checkpoint(folders["olmoe"], adapter_path=adapter)
    assert ours.adapter is not None
    assert ours.adapter["fine_tune_type"] == kind
    assert close(ours.model(mx.array(IDS)), stock(folders["olmoe"], "olmoe", adapter)(mx.array(IDS)))
    check(counts(load(folders["olmoe"], bits=4, adapter_path=adapter)[0]), BY_TYPE["olmoe"])


def test_an_adapter_on_a_quantised_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """Quantised on load with the adapter, or saved quantised and given the adapter then: the same model."""
    adapter = write_adapter(tmp_path / "adapter")
    plain = load_checkpoint(folders["olmoe"], bits=4)
    mlx_lm_save(tmp_path / "saved", plain.path, plain.model, plain.tokenizer, plain.config, False)
    together = load_checkpoint(folders["olmoe"], bits=4, adapter_path=adapter)
    assert {gate.bits for gate in gates(together.model)} == {8}
    assert together.weight_bits == 4
    assert close(together.model(mx.array(IDS)), stock(tmp_path / "saved", "olmoe", adapter)(mx.array(IDS)))
    with pytest.raises(ModelLoadError, match="experts with an adapter in float32 only"):
        load(folders["olmoe"], bits=4, adapter_path=adapter, dtype="bfloat16")


def no_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()


def no_weights(adapter: Path) -> None:
    (adapter / "adapters.safetensors").unlink()


def of_peft(adapter: Path) -> None:
    (adapter / "adapters.safetensors").rename(adapter / "adapter_model.safetensors")


def truncated(adapter: Path) -> None:
    file = adapter / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def empty(adapter: Path) -> None:
    (adapter / "adapters.safetensors").write_bytes(b"")


def broken_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"num_layers"', encoding="utf-8")


def list_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("[]", encoding="utf-8")


def set_config(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")


def alpha_for_scale(adapter: Path) -> None:
    set_config(adapter, lora_parameters={"rank": 4, "alpha": 8, "dropout": 0.0})


def no_number_of_layers(adapter: Path) -> None:
    set_config(adapter, num_layers=None)


def unknown_kind(adapter: Path) -> None:
    set_config(adapter, fine_tune_type="vera")


def of_fewer_layers(adapter: Path) -> None:
    set_config(adapter, num_layers=1)


def of_another_rank(adapter: Path) -> None:
    set_config(adapter, lora_parameters={"rank": 8, "scale": 6.0, "dropout": 0.5, "keys": adapter_keys("olmoe")})


def of_packed_numbers(adapter: Path) -> None:
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {"model.x.lora_a": mx.zeros((4, 4), mx.int8)})


def of_endless_scale(adapter: Path) -> None:
    set_config(adapter, lora_parameters={"rank": 4, "scale": float("inf"), "dropout": 0.0})


def of_another_model(adapter: Path) -> None:
    shutil.rmtree(adapter)
    write_adapter(adapter, "mixtral")


def without_tensors(adapter: Path) -> None:
    mx.save_safetensors(str(adapter / "adapters.safetensors"), {})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "There is no adapter folder"),
        (no_config, r"has no adapter_config\.json"),
        (no_weights, r"has no adapters\.safetensors; give the folder"),
        (of_peft, r"has no adapters\.safetensors \(adapter_model\.safetensors is PEFT's form"),
        (truncated, r"adapters\.safetensors is truncated: \d+ bytes instead of \d+"),
        (empty, r"adapters\.safetensors is not a safetensors file"),
        (broken_config, r"adapter_config\.json is not valid JSON"),
        (list_config, r"adapter_config\.json holds no settings"),
        (alpha_for_scale, "has scale = None, where mlx-lm needs a number"),
        (no_number_of_layers, "has num_layers = None, where mlx-lm needs a number"),
        (unknown_kind, "fine_tune_type = 'vera'; mlx-lm knows lora, dora, full"),
        (of_fewer_layers, r"does not fit olmoe \(.*not an adapter parameter in the model.*\); give the model"),
        (of_another_rank, r"has '.*lora_a' of the shape .*, and adapter_config\.json says rank = 8: they do not fit"),
        (of_packed_numbers, r"has 'model\.x\.lora_a' as I8, and adapters are plain numbers"),
        (of_endless_scale, "has scale = inf, where mlx-lm needs a number"),
        (of_another_model, r"does not fit olmoe \(.*block_sparse_moe.*\); give the model"),
        (without_tensors, "holds no tensors"),
    ],
)
def test_every_broken_adapter_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    damage(adapter)
    with pytest.raises(ModelLoadError, match=message) as raised:
        load(folders["olmoe"], adapter_path=adapter)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("path", ["", "~nosuchuser/adapter", "nowhere"])
def test_no_such_adapter(tiny_checkpoint: Path, path: str) -> None:
    with pytest.raises(ModelLoadError, match="There is no adapter folder"):
        load(tiny_checkpoint, adapter_path=path)
    with pytest.raises(ModelLoadError, match=r"config\.json is a file; give the adapter's folder"):
        load(tiny_checkpoint, adapter_path=tiny_checkpoint / "config.json")


# -- reports -------------------------------------------------------------------------------------------------------


def test_different_precision_is_never_merged(folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter")
    text = tmp_path / "one.txt"
    text.write_text("a router sends every token to the experts")

    def measure(**precision: Any) -> RoutingStats:
        return analyze(load_checkpoint(folders["olmoe"], **precision), text)

    parts = [measure(), measure(bits=4), measure(bits=8), measure(bits=4, router_bits=4), measure(adapter_path=adapter)]
    set_config(adapter, lora_parameters={"rank": 4, "scale": 5.0, "dropout": 0.5, "keys": adapter_keys("olmoe")})
    parts.append(measure(adapter_path=adapter))  # the same weights, multiplied otherwise
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            with pytest.raises(StatsError, match="their models differ"):
                RoutingStats.merge([a, b])


def test_a_report_names_the_adapter(folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "floor")
    stats = analyze(folders["olmoe"], "math", max_samples=3, bits=4, adapter_path=adapter)
    report = stats.report()
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert report["model"]["adapter"]["name"] == "floor"
    assert len(report["model"]["adapter"]["sha256"]) == 64
    assert report["model"]["quantised_on_load"]
    assert analyze(folders["olmoe"], "math", max_samples=3).model["adapter"] is None


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    main(["analyze", "--quiet", "--max-samples", "3", *arguments])
    printed = capsys.readouterr()
    return printed.out, printed.err


def test_command_line(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = write_adapter(tmp_path / "floor")
    model = ("--model", str(folders["olmoe"]), "--output", str(tmp_path / "out"))
    out, err = run(capsys, *model, "--4bit", "--bits", "4", "--adapter-path", str(adapter))
    assert out.startswith("olmoe at 4 bits per expert weight with floor on math: 3")
    assert err == ""
    assert "Warning" not in out
    out, err = run(capsys, *model, "--4bit", "--router-bits", "4")
    assert err.startswith("Warning: 3 of 3 routers have weights of 4 bit, ")
    assert err.count("\n") == 1
    assert "Warning: 3 of 3 routers" in out
    out, err = run(capsys, *model, "--bits", "8", "--router-bits", "4", "--json")
    assert err.startswith("Warning: ")
    assert json.loads(out)["model"]["warnings"] == [err.removeprefix("Warning: ").rstrip()]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--4bit", "--bits", "8"], "--4bit means --bits 4 and contradicts --bits 8"),
        (["--bits", "5"], "'5' is not one of '4', '8'"),
        (["--router-bits", "3"], "'3' is not one of '4', '8', '16'"),
        (["--adapter-path", "nowhere"], "There is no adapter folder 'nowhere'"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(capsys, *arguments)
    assert stop.value.code in (1, 2)
    assert words in capsys.readouterr().err


def test_the_default_output_says_what_was_changed(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(tmp_path / "floor")
    monkeypatch.chdir(tmp_path)
    run(capsys, "--model", str(folders["olmoe"]), "--bits", "8", "--router-bits", "16", "--adapter-path", str(adapter))
    assert (tmp_path / "routing_stats_olmoe_8bit_router16bit_floor_math.json").exists()
