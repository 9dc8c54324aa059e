"""``plan``: parameters and bytes that are those of the loaded model, and what follows from them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import CONFIGS, build_tiny, save_checkpoint
from family_rows import BY_TYPE, FORMS
from public_models import PUBLIC, demanded
from stand_in_hub import COMMIT, StandIn, serving
from test_hub import environment_of
from without import without

from mlx_moebench.analysis.outlook import machine_with, outlook
from mlx_moebench.analysis.plan import (
    Holding,
    Work,
    needed,
    operations,
    recommended,
    seconds,
    stored_bytes,
    ways,
    working_bytes,
)
from mlx_moebench.analysis.rates import APPLE, GIB, Machine, apple, cpu, cuda
from mlx_moebench.checkpoints import NANO
from mlx_moebench.checkpoints.described import Described, describe
from mlx_moebench.checkpoints.size import Part, active, affine_bytes, by_role, held, packed_as, total
from mlx_moebench.cli import group, main
from mlx_moebench.errors import ModelLoadError, UnsupportedModelError
from mlx_moebench.options import Loading
from mlx_moebench.show.tables.plan import duration, gigabytes

pytest.importorskip("mlx.core", reason="needs MLX")
from mlx_moebench.models import load_checkpoint
from mlx_moebench.models.blueprint import parts

import mlx.core as mx  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

pytestmark = pytest.mark.usefixtures("cpu")

JETMOE = "JetMoE-8B"

# What the makers' cards, papers and reports say of parameters a token uses, and of what they leave out.
ACTIVE = {
    "OLMoE-1B-7B": (1.3e9, False),  # OLMoE paper
    "Qwen1.5-MoE-A2.7B": (2.7e9, False),  # its name
    "Mixtral-8x7B": (12.9e9, False),  # release note
    JETMOE: (2.2e9, True),  # JetMoE report
    "Qwen3-30B-A3B": (3.3e9, False),  # model card
    "gpt-oss-120b": (5.13e9, True),  # model card: without the embedding
    "DeepSeek-V3": (37e9, False),  # DeepSeek-V3 report
}
TOTAL = {
    "OLMoE-1B-7B": 6_919_161_856,
    "Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "Mixtral-8x7B": 46_702_792_704,
    JETMOE: 8_522_237_952,
    "Qwen3-30B-A3B": 30_532_122_624,
    "gpt-oss-120b": 116_829_156_672,
    "DeepSeek-V3": 671_026_419_200,
}
STORED_AS = {
    "gpt-oss-120b": {"quantization_config": {"quant_method": "mxfp4"}},
    "DeepSeek-V3": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
}


def config_of(name: str) -> dict[str, Any]:
    """Its config.json; the sources of the numbers are in `public_models` and in the row of JetMoE."""
    config = BY_TYPE["jetmoe"].real[JETMOE].config if name == JETMOE else PUBLIC[name].config
    return demanded(config) | STORED_AS.get(name, {})


def written(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(config_of(name)))
    return place


@pytest.fixture(scope="module")
def outlooks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Each model on a Mac with 24 GB, from its config alone."""
    folder = tmp_path_factory.mktemp("configs")
    return {name: outlook(str(written(folder, name)), Loading(), Work(100_000), (24,)) for name in TOTAL}


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOTAL)
def test_parameters_are_those_of_the_published_model(outlooks: dict[str, dict[str, Any]], name: str) -> None:
    counted = outlooks[name]["parameters"]
    assert counted["total"] == TOTAL[name] == sum(counted["by_role"].values())
    published, without_embedding = ACTIVE[name]
    used = counted["active_per_token_without_embedding" if without_embedding else "active_per_token"]
    assert used == pytest.approx(published, rel=0.035)
    assert "other" not in counted["by_role"]


def test_bytes_of_bfloat16(outlooks: dict[str, dict[str, Any]]) -> None:
    sizes = {"OLMoE-1B-7B": 13.84, "Qwen1.5-MoE-A2.7B": 28.63, "Mixtral-8x7B": 93.41, JETMOE: 17.04}
    for name, size in sizes.items():
        found = outlooks[name]["bytes"]
        assert found["stored"] == found["resident"][0]["bytes"] == 2 * TOTAL[name]
        assert round(found["stored"] / 1e9, 2) == size
    assert outlooks["DeepSeek-V3"]["bytes"]["resident"][0]["bytes"] == 2 * TOTAL["DeepSeek-V3"]  # mlx-lm unpacks float8
    assert outlooks["DeepSeek-V3"]["bytes"]["stored"] == TOTAL["DeepSeek-V3"]
    # The card says 60.8 GiB of the checkpoint, which MLX holds as it is stored.
    assert round(outlooks["gpt-oss-120b"]["bytes"]["stored"] / GIB, 1) == 60.8


def test_what_a_24_gb_mac_is_recommended(outlooks: dict[str, dict[str, Any]]) -> None:
    best = {name: one["machines"][0]["recommended"] for name, one in outlooks.items()}
    found = {name: (way["how"], way["precision"]) if way else None for name, way in best.items()}
    assert found == {
        "OLMoE-1B-7B": ("resident", "bfloat16"),
        "Qwen1.5-MoE-A2.7B": ("streamed", "bfloat16"),
        "Mixtral-8x7B": ("streamed", "bfloat16"),
        JETMOE: ("streamed", "bfloat16"),
        "Qwen3-30B-A3B": ("streamed", "bfloat16"),
        "gpt-oss-120b": ("streamed", "as stored (MXFP4)"),
        "DeepSeek-V3": None,  # one of its blocks is 23 GB in bfloat16
    }
    fits = {way["precision"]: way["fits"] for way in outlooks["Qwen1.5-MoE-A2.7B"]["machines"][0]["ways"][2:]}
    assert fits == {"8 bit, routers 8 bit": True, "4 bit, routers 8 bit": True}
    assert not any(way["fits"] for way in outlooks["Mixtral-8x7B"]["machines"][0]["ways"] if way["how"] == "resident")
    for one in outlooks.values():
        (machine,) = one["machines"]
        assert machine["usable_bytes"] == 16 * GIB
        for way in machine["ways"]:
            assert way["fits"] == (way["memory_bytes"] <= machine["usable_bytes"])
            assert 0 < way["seconds"]["low"] < way["seconds"]["high"]


def test_blocks_in_few_bits_where_one_whole_block_is_too_large(tmp_path: Path) -> None:
    config = config_of("DeepSeek-V3")
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (machine,) = outlook(str(tmp_path), Loading(), Work(1000), (24,))["machines"]
    assert machine["recommended"]["how"] == "streamed"
    assert machine["recommended"]["precision"].startswith("4 bit")
    assert machine["recommended"]["command"].endswith("--bits 4 --stream on")


def test_nothing_is_computed(tmp_path: Path) -> None:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    outlook(str(written(tmp_path, "DeepSeek-V3")), Loading(), Work(1000), (24,))
    assert mx.get_peak_memory() - before < 1e6, "bytes that MLX allocated"


def test_bytes_are_those_of_the_loaded_model(make_form: Any, tmp_path: Path) -> None:
    model_type = make_form.keywords["model_type"]
    folder = save_checkpoint(tmp_path / "m", make_form(), CONFIGS[model_type])
    described = describe(folder)
    packed = "quantization" in CONFIGS[model_type]  # is used as it is stored
    for bits, router_bits in ((None, None), *(() if packed else ((4, None), (8, 16), (None, 8)))):
        model = load_checkpoint(folder, bits=bits, router_bits=router_bits).model
        real = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        counted = parts(described, Loading(bits=bits, router_bits=router_bits), "float32")
        assert held(counted) == real
        assert "routers" in by_role(counted)
        assert "experts" in by_role(counted)


def test_a_quantised_checkpoint_is_counted_as_it_is_stored(tmp_path: Path) -> None:
    from mlx_lm.utils import quantize_model

    config = CONFIGS["olmoe"]
    folder = save_checkpoint(tmp_path / "plain", build_tiny(), config)
    model, packed = quantize_model(build_tiny(), config, 32, 4)
    place = tmp_path / "packed"
    place.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (place / file.name).write_bytes(file.read_bytes())
    mx.save_safetensors(str(place / "model.safetensors"), dict(tree_flatten(model.parameters())), {"format": "mlx"})
    (place / "config.json").write_text(json.dumps(packed))
    real = sum(array.nbytes for _, array in tree_flatten(load_checkpoint(place).model.parameters()))
    with_headers = describe(place)
    counted = parts(with_headers, Loading(), "float32")
    assert held(counted) == real
    assert total(counted) == total(parts(describe(folder), Loading(), "float32"))
    (place / "model.safetensors").unlink()
    assert held(parts(describe(place), Loading(), "float32")) == real
    with pytest.raises(ModelLoadError, match="is quantised already"):
        parts(with_headers, Loading(bits=8), "float32")


@pytest.mark.parametrize("model_type", [FORMS[form] for form in ("softmax_topk", "topk_softmax")])
def test_the_arithmetic_of_packing_is_mlx_s(model_type: str, tmp_path: Path) -> None:
    """Of models that leave no weight out: what is said where MLX is not there to ask."""
    described = describe(save_checkpoint(tmp_path / "m", build_tiny(model_type=model_type), CONFIGS[model_type]))
    plain = parts(described, Loading(), "float32")
    for bits, router_bits in ((4, 8), (8, 16)):
        counted = parts(described, Loading(bits=bits, router_bits=router_bits), "float32")
        assert [part.nbytes for part in packed_as(plain, bits, router_bits, 4)] == [part.nbytes for part in counted]
    assert affine_bytes((10, 96), 4) == 10 * 96 // 2 + 10 * 3 * 4
    assert affine_bytes((10, 33), 4) == 660


# -- arithmetic --------------------------------------------------------------------------------------------------------


def tiny(**config: Any) -> Described:
    return describe_config(CONFIGS["olmoe"] | config)


def describe_config(config: dict[str, Any]) -> Described:
    from mlx_moebench.families import family_for

    return Described("m", config, family_for(config), None, None)


def test_what_is_run_ends_with_the_last_router() -> None:
    every = parts(tiny(), Loading(), "float32")
    run = needed(tiny(), every)
    left_out = {part.name for part in every} - {part.name for part in run}
    assert {"lm_head.weight", "model.norm.weight", "model.layers.2.mlp.switch_mlp.up_proj.weight"} <= left_out
    assert all(part.layer == 2 for part in every if part.name in left_out and part.layer is not None)
    assert "model.layers.2.mlp.gate.weight" in {part.name for part in run}
    a_layer = sum(part.active for part in every if part.layer == 0 and len(part.shape) > 1)
    gate = sum(part.numbers for part in run if part.layer == 2 and part.role in ("routers", "attention"))
    assert operations(run, 10) == 20 * (2 * a_layer + gate)
    assert active(every) == total(every) - sum(part.numbers * 3 // 4 for part in every if part.role == "experts")


def test_streaming_holds_one_block_and_spills_what_is_left() -> None:
    described = describe_config(config_of("OLMoE-1B-7B"))
    holding = Holding("bfloat16", "bfloat16", parts(described, Loading(), "bfloat16"))
    stored = stored_bytes(described, holding)[0]

    def streamed(memory: int, tokens: int) -> Any:
        found = ways(described, apple(memory), [holding], Work(tokens), stored=stored, model="m", streams=True)
        return found[1]

    few, many = streamed(24 * GIB, 10_000), streamed(24 * GIB, 10_000_000)
    assert few.weights == many.weights < held(holding.parts) / 8
    assert few.spilled == 0
    assert many.hidden + many.spilled == 1000 * (few.hidden + few.spilled) == 2 * 10_000_000 * 2048 * 2
    assert many.fits
    assert few.reads == many.reads < stored
    assert many.seconds.high > few.seconds.high
    assert not streamed(2 * GIB, 10_000).fits
    resident = ways(described, apple(24 * GIB), [holding], Work(10_000), stored=stored, model="m", streams=False)
    assert [way.how for way in resident] == ["resident"]
    assert recommended(resident) == resident[0]
    assert recommended([]) is None


@pytest.mark.parametrize("batch", [(8, 64), (1, 256), (16, 16)])
def test_working_memory_is_an_estimate_from_above(batch: tuple[int, int]) -> None:
    model, described = load_checkpoint(None).model, describe(None)
    sequences, length = batch
    ids = mx.zeros((sequences, length), dtype=mx.int32)
    before = mx.set_cache_limit(0)
    mx.eval(model.parameters())
    base = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(model.model(ids))
    peak = mx.get_peak_memory() - base
    mx.set_cache_limit(before)
    holding = Holding("float32", "float32", parts(described, Loading(), "float32"))
    estimate = working_bytes(described, cpu(8 * GIB, 2), holding, Work(sequences * length, sequences, length))
    assert peak <= estimate <= 4 * peak


def test_times_are_between_everything_at_once_and_one_after_the_other() -> None:
    span = seconds(APPLE, flops=16 * 10**12, traffic=10**9, reads=60 * 10**9)
    assert span.low == pytest.approx(10)  # 60 GB at 6 GB/s; the rest meanwhile
    assert span.high == pytest.approx(8 + 0.01 + 60)
    work = Work(10_001, 4, 100)
    assert (work.batch, work.batches) == (400, 26)
    assert Work(10).batch == 10


def test_machines() -> None:
    """What Metal says on Macs of 16, 32 and 64 GB, as `rates.apple` names the sources."""
    known = {16: 10922.67, 32: 21845.34, 64: 49152.0}
    for size, mebibytes in known.items():
        assert apple(size * GIB).usable / 2**20 == pytest.approx(mebibytes, rel=1e-4)
    assert apple(24 * GIB, 17 * GIB).usable == 17 * GIB
    assert cuda(80 * GIB).usable == 76 * GIB
    assert cuda(8 * GIB).usable == 7 * GIB
    assert machine_with(24, Loading()).kind == "apple_gpu"
    assert (
        machine_with(24, Loading(backend="torch")).kind == machine_with(24, Loading(device="cuda")).kind == "cuda_gpu"
    )
    assert machine_with(24, Loading(device="cpu")).kind == "cpu"
    slow, fast = cuda(24 * GIB).rates.flops, cuda(80 * GIB).rates.flops
    assert slow.high < fast.high
    for machine in (apple(24 * GIB), cuda(24 * GIB), cuda(80 * GIB), cpu(8 * GIB, 4)):
        assert all(0 < span.low < span.high for span in (machine.rates[0], machine.rates[1], machine.rates[2]))


def test_shown_numbers_have_their_unit() -> None:
    assert gigabytes(99_000_000) == "99.00 MB"
    assert duration(90, 10_000) == "1.5 min to 2.8 h"
    assert duration(0.5, 40) == "1 s to 40 s"
    assert duration(86_400, 864_000) == "1 d to 10 d"


# -- the command -------------------------------------------------------------------------------------------------------


def planned(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    main(["plan", *map(str, arguments), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, "Mixtral-8x7B")
    main(["plan", str(folder), "--memory", "24", "--memory", "192"])
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("46,702,792,704", "93.41 GB", "Mac with 24 GiB", "Mac with 192 GiB", "32 routers, 2 of 8 experts"):
        assert words in printed
    assert f"Recommended: mlx-moebench analyze --model {folder} --stream on" in printed.replace("- ", "-")
    found = planned(capsys, folder / "config.json", "--memory", "192", "--tokens", "5000", "--max-length", "512")
    (machine,) = found["machines"]
    assert machine["recommended"]["command"] == f"mlx-moebench analyze --model {folder} --max-length 512"
    assert found["work"] == {"tokens": 5000, "batch_sequences": 8, "max_length_tokens": 512, "batches": 2}
    assert found["model"]["source"] == "config.json"
    assert len(planned(capsys, folder, "--bits", "4", "--memory", "24")["bytes"]["resident"]) == 1


def test_every_number_names_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    units = ("bytes", "seconds", "second", "tokens", "total", "active_per_token", "count", "experts", "top_k")

    def check(value: Any, path: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                check(one, (*path, key))
        elif isinstance(value, list):
            for one in value:
                check(one, path)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            assert any(unit in key for key in path for unit in units) or path[0] in ("parameters", "work"), path

    check(planned(capsys), ())


def test_the_recommended_commands_are_ones_that_there_are(outlooks: dict[str, dict[str, Any]]) -> None:
    analyze = group.get_command(click.Context(group), "analyze")
    assert analyze is not None
    known = {flag for option in analyze.params for flag in option.opts}
    for one in outlooks.values():
        for way in one["machines"][0]["ways"]:
            name, command, *rest = shlex.split(way["command"])
            assert (name, command) == ("mlx-moebench", "analyze")
            assert {word for word in rest if word.startswith("--")} <= known


def test_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = planned(capsys, "--device", "cpu")
    (machine,) = found["machines"]
    assert machine["kind"] == "cpu"
    assert machine["ways"][0]["precision"] == "float32"
    assert found["model"]["name"] == "moebench-nano"
    assert found["parameters"]["total"] == 5_651_584
    assert found["bytes"]["stored_from"] == "headers"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *map(str, arguments)])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_is_refused_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    assert "is dense" in refused(capsys, tmp_path)
    config.write_text(json.dumps(CONFIGS["mixtral"] | {"model_type": "mixtrall"}))
    assert "no family describes its routers" in refused(capsys, config)
    config.write_text(json.dumps(CONFIGS["olmoe"] | {"clip_qkv": 8.0}))
    assert "clip_qkv = 8.0" in refused(capsys, tmp_path)
    config.write_text(json.dumps(CONFIGS["olmoe"] | {"num_hidden_layers": "x"}))
    assert "num_hidden_layers = 'x'" in refused(capsys, tmp_path)
    config.unlink()
    assert "has no config.json" in refused(capsys, tmp_path)
    assert "No such folder" in refused(capsys, tmp_path / "nowhere")
    config.write_text("{")
    assert "is not valid JSON" in refused(capsys, config)
    config.write_text(json.dumps(CONFIGS["olmoe"]))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 12345}, "weight_map": {}}))
    assert planned(capsys, tmp_path)["bytes"]["stored"] == 12345
    index.write_text(json.dumps({"metadata": {}, "weight_map": {}}))
    assert "has no total_size" in refused(capsys, tmp_path)
    with pytest.raises(UnsupportedModelError):
        parts(describe_config(CONFIGS["olmoe"] | {"model_type": "muse_spark"}), Loading(), "float32")


# -- the hub -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StandIn]:
    folder = tmp_path / "repository"
    folder.mkdir()
    for file in NANO.iterdir():
        if file.is_file():
            (folder / file.name).write_bytes(file.read_bytes())
    with serving(folder) as hub:
        yield hub


def plan_of(hub: StandIn, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mlx_moebench", "plan", "someone/tiny", "--json", *options],
        env=environment_of(hub) | environment, capture_output=True, text=True, check=False, cwd=hub.folder.parent,
        timeout=120,
    )  # fmt: skip


def test_a_hub_model_is_described_by_its_headers_and_not_downloaded(hub: StandIn) -> None:
    size = (hub.folder / "model.safetensors").stat().st_size
    result = plan_of(hub)
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["parameters"]["total"] == 5_651_584
    assert found["model"]["source"] == "config.json and the headers of the weights"
    assert found["model"]["revision"] == COMMIT
    assert found["bytes"]["stored_from"] == "headers"
    assert 0 < size - found["bytes"]["stored"] < 100_000  # but for the header
    assert hub.sent < 200_000 < size
    assert {name for name, _ in hub.ranges} <= {"config.json", "model.safetensors"}
    offline = plan_of(hub, HF_HUB_OFFLINE="1")
    assert json.loads(offline.stdout)["model"]["source"] == "config.json"


def test_a_hub_that_refuses_or_has_no_config_is_one_sentence(hub: StandIn) -> None:
    (hub.folder / "config.json").unlink()
    result = plan_of(hub)
    assert result.returncode == 1
    assert "has no config.json on the hub" in result.stderr
    hub.status, hub.code = 403, "GatedRepo"
    result = plan_of(hub)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "is gated" in result.stderr


# -- without MLX, and on torch ----------------------------------------------------------------------------------------


def planned_without(blocked: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"{without(*blocked)}from mlx_moebench.cli import main\nmain(['plan', *{list(arguments)!r}])\n"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_any_library_the_headers_are_counted(tmp_path: Path) -> None:
    blocked = ("mlx", "mlx_lm", "torch", "transformers")
    found = json.loads(planned_without(blocked, "moebench-nano", "--memory", "8", "--json").stdout)
    whole = outlook(None, Loading(), Work(100_000), (8,))
    assert found["model"]["counted_by"] == "the headers of the weights"
    assert found["parameters"]["by_role"]["experts"] == whole["parameters"]["by_role"]["experts"]
    assert found["parameters"]["total"] == whole["parameters"]["total"]
    assert found["bytes"]["resident"] == whole["bytes"]["resident"]
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["olmoe"]))
    alone = planned_without(blocked, str(tmp_path))
    assert alone.returncode == 1
    assert "here is config.json alone" in alone.stderr


def test_part_of_roles() -> None:
    part = Part("x", "experts", 0, (4, 10, 3), 240, 0.5)
    assert (part.numbers, part.active) == (120, 60)
    machine = Machine("cpu", 100, 85, "why", 2)
    assert machine.rates.flops.low < machine.rates.flops.high
