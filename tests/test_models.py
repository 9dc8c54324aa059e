"""Loading: every way a checkpoint can be wrong is one clear sentence, before weights are read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny, row_of, save_checkpoint
from family_rows import CONFIGS

pytest.importorskip("mlx.core", reason="needs MLX")

from mlx_moebench.blas import CANDIDATES
from mlx_moebench.errors import ModelLoadError, MoebenchError, UnsupportedModelError
from mlx_moebench.models import load, load_checkpoint, select_device

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from huggingface_hub import HfApi, constants, snapshot_download  # isort: skip
from mlx.utils import tree_flatten  # isort: skip

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IDS = [[5, 17, 250, 3, 88], [301, 2, 2, 76, 130]]


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint to break."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def rewrite(folder: Path, weights: dict[str, mx.array]) -> None:
    mx.eval(weights)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)


def divisible(model: nn.Module, group_size: int) -> Callable[[str, nn.Module], bool]:
    """What mlx-lm's converter quantises: weights whose rows a group divides, but for those that a model excludes."""
    allowed = getattr(model, "quant_predicate", None) or (lambda path, module: True)

    def can(path: str, module: nn.Module) -> bool:
        packs = hasattr(module, "to_quantized") and module.weight.shape[-1] % group_size == 0
        return packs and allowed(path, module) is not False

    return can


def quantise(folder: Path, model: nn.Module, **kind: Any) -> None:
    """Write ``model`` quantised into ``folder``, as mlx-lm's converter would."""
    nn.quantize(model, **{"class_predicate": divisible(model, kind.get("group_size", 64)), **kind})
    rewrite(folder, dict(tree_flatten(model.parameters())))
    edit_config(folder, quantization={"group_size": 32, "bits": kind["bits"]})


@pytest.mark.usefixtures("cpu")
def test_loads_a_folder_in_float32_on_the_cpu(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert (checkpoint.name, checkpoint.path, checkpoint.revision) == ("tiny", tiny_checkpoint.resolve(), None)
    assert (checkpoint.dtype, checkpoint.weight_bits) == ("float32", 16)
    assert checkpoint.config["model_type"] == "olmoe"
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("a router")) == "a router"
    assert checkpoint.tokenizer.eos_token_ids == {0}
    assert mx.isfinite(checkpoint.model(mx.array(IDS))).all()
    assert not checkpoint.model.training


@pytest.mark.usefixtures("cpu")
def test_load_is_the_model_and_the_tokenizer(tiny_checkpoint: Path) -> None:
    model, tokenizer = load(str(tiny_checkpoint))
    assert model(mx.array([tokenizer.encode("stay idle")])).shape[-1] == 320


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_dtype_casts_what_is_floating(folder: Path, tiny_model: nn.Module, dtype: str) -> None:
    quantise(folder, tiny_model, group_size=32, bits=4)
    checkpoint = load_checkpoint(folder, dtype=dtype)
    assert checkpoint.dtype == dtype
    assert {a.dtype for _, a in tree_flatten(checkpoint.model.parameters())} == {getattr(mx, dtype), mx.uint32}
    assert checkpoint.model(mx.array(IDS)).dtype == getattr(mx, dtype)


@pytest.mark.usefixtures("cpu")
def test_unquantised_experts_need_float32_on_the_cpu(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match="unquantised experts in float32 only, not in bfloat16"):
        load(tiny_checkpoint, dtype="bfloat16")


def test_an_unknown_dtype_is_refused(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"no dtype 'bf16'"):
        load(tiny_checkpoint, dtype="bf16")


@pytest.mark.usefixtures("cpu")
def test_a_quantised_checkpoint_stays_quantised(folder: Path, tiny_model: nn.Module) -> None:
    quantise(folder, tiny_model, group_size=32, bits=4)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.weight_bits == 4
    assert checkpoint.model.layers[0].mlp.switch_mlp.up_proj.weight.dtype == mx.uint32
    np.testing.assert_allclose(checkpoint.model(mx.array(IDS)), tiny_model(mx.array(IDS)), atol=1e-5)


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize("quantised", [False, True])
def test_every_family_loads_from_its_own_folder(
    make_any: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantised: bool
) -> None:
    monkeypatch.setenv("MLX_MOEBENCH_CPU_PATH", "off")  # bit for bit is asked for, and grouped experts round otherwise
    model = make_any()
    config = CONFIGS[row_of(model).model_type]
    folder = save_checkpoint(tmp_path / "any", model, config)
    if quantised and "quantization" in config:
        pytest.skip("its checkpoints are packed already")
    if quantised:
        quantise(folder, model, group_size=32, bits=8)
    checkpoint = load_checkpoint(folder)
    assert checkpoint.weight_bits == (8 if quantised else 32)
    assert mx.array_equal(checkpoint.model(mx.array(IDS)), model(mx.array(IDS)))


@pytest.mark.usefixtures("cpu")
def test_jetmoe_may_have_an_output_matrix_of_its_own(tmp_path: Path) -> None:
    model = build_tiny(model_type="jetmoe", tie_word_embeddings=False)
    folder = save_checkpoint(tmp_path / "untied", model, CONFIGS["jetmoe"] | {"tie_word_embeddings": False})
    assert mx.array_equal(load(folder)[0](mx.array(IDS)), model(mx.array(IDS)))
    # Where it is tied, a copy that a checkpoint may bring is not a parameter.
    edit_config(folder, tie_word_embeddings=True)
    assert "lm_head" not in load(folder)[0]


@pytest.mark.usefixtures("cpu")
def test_jetmoe_of_another_activation_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "gelu", build_tiny(model_type="jetmoe"), CONFIGS["jetmoe"])
    edit_config(folder, activation_function="gelu")
    with pytest.raises(ModelLoadError, match="JetMoE is built with activation 'silu' only, not 'gelu'"):
        load(folder)


@pytest.mark.usefixtures("cpu")
def test_weight_bits_are_the_mean_over_the_experts(folder: Path, tiny_model: nn.Module) -> None:
    def kind(path: str, module: nn.Module) -> bool | dict[str, Any]:
        expert = "switch_mlp" in path and hasattr(module, "to_quantized")
        return expert and {"group_size": 32, "bits": 8 if "down_proj" in path else 2}

    quantise(folder, tiny_model, bits=2, class_predicate=kind)
    assert load_checkpoint(folder).weight_bits == 4


@pytest.mark.usefixtures("cpu")
def test_one_tensor_per_expert_as_on_the_hub(folder: Path, tiny_checkpoint: Path) -> None:
    weights: dict[str, mx.array] = {}
    for name, array in mx.load(str(tiny_checkpoint / "model.safetensors")).items():
        before, found, after = name.partition(".switch_mlp.")
        if found:
            weights |= {f"{before}.experts.{e}.{after}": array[e] for e in range(array.shape[0])}
        else:
            weights[name] = array
    rewrite(folder, weights)
    ids = mx.array(IDS)
    assert mx.array_equal(load(folder)[0](ids), load(tiny_checkpoint)[0](ids))
    del weights["model.layers.1.mlp.experts.5.up_proj.weight"]
    rewrite(folder, weights)
    with pytest.raises(ModelLoadError, match=r"'model\.layers\.1\.mlp\.experts\.5\.up_proj\.weight' is missing"):
        load(folder)


@pytest.mark.usefixtures("cpu")
def test_shards_named_by_an_index(folder: Path, tiny_checkpoint: Path) -> None:
    weights = mx.load(str(folder / "model.safetensors"))
    mx.eval(weights)
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    names = sorted(weights)
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        mx.save_safetensors(str(folder / shard), {name: weights[name] for name in part})
    weight_map = {name: shards[i % 2] for i, name in enumerate(names)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    ids = mx.array(IDS)
    assert mx.array_equal(load(folder)[0](ids), load(tiny_checkpoint)[0](ids))
    (folder / shards[1]).unlink()
    with pytest.raises(ModelLoadError, match=r"lacks 1 of 2 weight files .*\(model-00002-of-00002\.safetensors\)"):
        load(folder)
    index.write_text("{}", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="has no weight_map"):
        load(folder)


@pytest.mark.usefixtures("cpu")
def test_none_is_the_embedded_model(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_moebench.checkpoints.located.NANO", tiny_checkpoint)
    checkpoint = load_checkpoint()
    assert (checkpoint.name, checkpoint.path) == ("moebench-nano", tiny_checkpoint)


@pytest.mark.parametrize("path", ["./nope", "../nope", "~/nope-nope", "/nope", "nope/", "a/b/c", Path("nope")])
def test_what_looks_like_a_path_is_never_looked_up_on_the_hub(path: str | Path) -> None:
    with pytest.raises(ModelLoadError, match=rf"^No such folder: {path}"):
        load(path)


def test_a_file_is_not_a_folder(tiny_checkpoint: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json is a file; give the folder"):
        load(tiny_checkpoint / "config.json")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "olm', encoding="utf-8")


def binary_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def list_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]", encoding="utf-8")


def nameless_config(folder: Path) -> None:
    edit_config(folder, model_type=None)


def incomplete_config(folder: Path) -> None:
    edit_config(folder, num_experts=None)


def other_sizes(folder: Path) -> None:
    edit_config(folder, hidden_size=32)


def too_few_layers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=2)


def too_many_layers(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=9)


def no_required_setting(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 1000)


def truncated_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.truncate(100)


def longer_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def pointer_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.example/spec/v1\n", encoding="utf-8")


def broken_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((12).to_bytes(8, "little") + b'{"a": "b"}  ')


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def list_of_generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[]", encoding="utf-8")


def tokenizer_of_a_wrong_length(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"model_max_length": "x"}', encoding="utf-8")


def own_code(folder: Path) -> None:
    edit_config(folder, model_file="modeling.py")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (no_config, r"has no config\.json; give the folder"),
        (broken_config, r"config\.json is not valid JSON"),
        (binary_config, r"config\.json is not valid JSON"),
        (list_config, r"names no model_type"),
        (nameless_config, r"names no model_type"),
        (incomplete_config, r"lacks 'num_experts'"),
        (
            other_sizes,
            r"has 'model\.embed_tokens\.weight' of the shape \[320, 64\], and hidden_size = 32 of config\.json",
        ),
        (too_few_layers, r"do not fit \(Received \d+ parameters not in model"),
        (too_many_layers, r"has num_hidden_layers = 9, and the weights have 3 blocks: they do not fit"),
        (no_required_setting, r"do not fit \(.*'vocab_size'\)"),
        (no_weights, r"holds no model\*\.safetensors, and only safetensors are read; convert it"),
        (pickled_weights, r"only pickled weights \(pytorch_model\.bin\), and only safetensors are read; convert it"),
        (truncated_weights, r"model\.safetensors is truncated: \d+ bytes instead of \d+"),
        (truncated_header, r"model\.safetensors is truncated: 100 bytes instead of \d+"),
        (longer_weights, r"model\.safetensors is longer than its header says: \d+ bytes instead of \d+"),
        (empty_weights, r"not a safetensors file \(0 bytes\)"),
        (pointer_weights, r"not a safetensors file .*git lfs pull"),
        (broken_header, r"broken safetensors header"),
        (no_tokenizer, r"has no tokenizer"),
        (broken_tokenizer, r"the tokenizer cannot be loaded"),
        (tokenizer_of_a_wrong_length, r"the tokenizer cannot be loaded"),
        (list_of_generation, r"generation_config\.json holds no settings; fetch it again"),
        (own_code, r"runs its own Python code \(modeling\.py\).*--trust-remote-code"),
    ],
)
@pytest.mark.usefixtures("cpu")
def test_a_broken_checkpoint_is_one_sentence(folder: Path, break_it: Callable[[Path], None], message: str) -> None:
    break_it(folder)
    with pytest.raises(ModelLoadError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(folder)) * 2


@pytest.mark.usefixtures("cpu")
def test_a_tokenizer_that_is_code_needs_trust(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, extra: dict[str, Any], eos_token_ids: Any) -> None:
        assert extra == {"trust_remote_code": False}
        raise ValueError("The repository contains custom code ...\nPlease pass trust_remote_code=True.")

    monkeypatch.setattr("mlx_moebench.models.loading.load_tokenizer", refuse)
    with pytest.raises(ModelLoadError, match=r"runs its own Python code \(its tokenizer\).*--trust-remote-code"):
        load(tiny_checkpoint)


def test_the_family_is_checked_before_the_weights(folder: Path) -> None:
    no_weights(folder)
    edit_config(folder, model_type="brandnew")
    with pytest.raises(UnsupportedModelError, match="no family describes its routers"):
        load(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(UnsupportedModelError, match="'llama' is dense"):
        load(folder)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name in ("model_info", "list_repo_files"):
        monkeypatch.setattr(f"mlx_moebench.checkpoints.hub.{name}", getattr(HfApi(endpoint=url), name))
    monkeypatch.setattr("mlx_moebench.checkpoints.hub.snapshot_download", partial(snapshot_download, endpoint=url))


@pytest.fixture
def offline(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return hub_cache


@pytest.mark.usefixtures("cpu")
def test_offline_a_cached_model_loads_with_its_commit(offline: Path, tiny_checkpoint: Path) -> None:
    repository = offline / "models--someone--tiny"
    shutil.copytree(tiny_checkpoint, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    checkpoint = load_checkpoint("someone/tiny")
    assert (checkpoint.name, checkpoint.revision) == ("someone/tiny", COMMIT)


def test_offline_and_not_cached(offline: Path) -> None:
    with pytest.raises(ModelLoadError, match="'someone/else' is not in the cache and HF_HUB_OFFLINE is set"):
        load("someone/else")


def test_an_impossible_hub_id(offline: Path) -> None:
    with pytest.raises(ModelLoadError, match="'some one' is neither a folder nor a hub id"):
        load("some one")


def test_no_network(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ModelLoadError, match="not in the cache and the hub cannot be reached; check the network"):
        load("someone/else")


class Hub:
    """A hub on this machine with one repository, ``someone/tiny``, that fails with ``status`` and ``code`` if set."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.status, self.code = folder, 200, ""
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                if hub.status != 200:
                    self.reply(b"{}", status=hub.status, **{"X-Error-Code": hub.code})
                elif "/resolve/" in self.path:
                    name = self.path.rsplit("/", 1)[1]
                    if self.command == "GET":
                        hub.fetched.append(name)
                    self.reply((hub.folder / name).read_bytes(), ETag=f'"{name}"', **{"X-Repo-Commit": COMMIT})
                elif "/tree/" in self.path:
                    files = [
                        {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name}
                        for f in hub.folder.iterdir()
                    ]
                    self.reply(json.dumps(files).encode())
                else:
                    self.reply(json.dumps({"id": "someone/tiny", "sha": COMMIT}).encode())

            def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def hub(hub_cache: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub(folder)
    for name in ("pytorch_model.bin", "modeling.py", "weights.pkl"):
        (folder / name).write_bytes(b"never fetched")
    use_endpoint(monkeypatch, hub.url)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    thread = Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield hub
    hub.server.shutdown()
    thread.join()
    hub.server.server_close()


@pytest.mark.usefixtures("cpu")
def test_a_hub_model_is_fetched_without_pickles_and_code(hub: Hub) -> None:
    checkpoint = load_checkpoint("someone/tiny")
    assert (checkpoint.name, checkpoint.revision, checkpoint.weight_bits) == ("someone/tiny", COMMIT, 16)
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_code_is_fetched_with_trust_only(hub: Hub) -> None:
    no_weights(hub.folder)
    with pytest.raises(ModelLoadError, match="only safetensors are read"):
        load("someone/tiny", trust_remote_code=True)
    assert "modeling.py" in hub.fetched
    assert not {"pytorch_model.bin", "weights.pkl"} & set(hub.fetched)


def test_no_weights_are_fetched_for_a_model_that_cannot_be_measured(hub: Hub) -> None:
    edit_config(hub.folder, model_type="llama", num_experts=0, num_experts_per_tok=0)
    with pytest.raises(UnsupportedModelError, match="is dense"):
        load("someone/tiny")
    assert "model.safetensors" not in hub.fetched


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "no folder and no public hub model 'someone/tiny'"),
        (404, "RevisionNotFound", "'someone/tiny' has no revision 'v9'"),
        (403, "GatedRepo", "'someone/tiny' is gated: accept its conditions"),
        (403, "", r"The hub refuses 'someone/tiny' \(403\): log in"),
        (503, "", "The hub answered 503 for 'someone/tiny'; try again later"),
    ],
)
def test_what_the_hub_refuses(hub: Hub, status: int, code: str, message: str) -> None:
    hub.status, hub.code = status, code
    with pytest.raises(ModelLoadError, match=message) as caught:
        load("someone/tiny", revision="v9")
    assert "\n" not in str(caught.value)


def test_devices() -> None:
    before = mx.default_device()
    try:
        assert select_device("cpu") == "cpu"
        assert mx.default_device() == mx.Device(mx.cpu)
        assert select_device("auto") == ("gpu" if mx.is_available(mx.Device(mx.gpu)) else "cpu")
    finally:
        mx.set_default_device(before)
    with pytest.raises(MoebenchError, match=r"no device 'cpuu'\. Did you mean 'cpu'\?"):
        select_device("cpuu")


@pytest.mark.skipif(mx.is_available(mx.Device(mx.gpu)), reason="there is a GPU")
@pytest.mark.parametrize("name", ["gpu", "mps", "cuda"])
def test_a_gpu_that_is_not_there(name: str) -> None:
    with pytest.raises(MoebenchError, match=r"MLX sees no (GPU|CUDA device) here; .*--device"):
        select_device(name)


def blas_after(setting: str | None, code: str = "") -> list[str]:
    """What a fresh process prints of ``load_fast_blas`` and, with MLX in use, ``blas_in_use``."""
    environment = {k: v for k, v in os.environ.items() if k != "MLX_MOEBENCH_BLAS"}
    if setting is not None:
        environment["MLX_MOEBENCH_BLAS"] = setting
    code += """
from mlx_moebench.blas import blas_in_use, load_fast_blas
print(load_fast_blas())
import mlx.core as mx
mx.eval(mx.ones((4, 4)) @ mx.ones((4, 4)))
print(blas_in_use())
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True, text=True)
    return run.stdout.split("\n")


@pytest.mark.skipif(sys.platform != "linux", reason="MLX on macOS has Accelerate")
def test_fast_blas() -> None:
    slow = "reference BLAS bundled with mlx (slow): "
    assert blas_after("off")[:2] == ["None", slow + "MLX_MOEBENCH_BLAS=off"]
    loaded, used = blas_after("libnope.so")[:2]
    assert (loaded, used.startswith(slow + "'libnope.so', named by")) == ("None", True)
    loaded, used = blas_after(None, "import mlx.core")[:2]
    assert (loaded, used) == ("None", slow + "none of " + ", ".join(CANDIDATES) + " was loaded before MLX")
    loaded, used = blas_after(None)[:2]
    if loaded == "None":
        assert used.startswith(slow)
    else:
        assert loaded in CANDIDATES
        assert used.startswith(("libopenblas", "libmkl_rt"))
        assert blas_after(loaded)[:2] == [loaded, used]


def test_without_mlx_no_blas_takes_the_place_of_torchs() -> None:
    """torch would call the threads of OpenBLAS beside its own, and take two to three times as long."""
    code = """
import sys
import mlx_moebench.analysis, mlx_moebench.evaluate, mlx_moebench.measure
from mlx_moebench import blas
print(blas._loaded, "mlx.core" in sys.modules)
import mlx.core
print(blas._loaded == blas.load_fast_blas() is not None)
"""
    environment = {key: value for key, value in os.environ.items() if key != "MLX_MOEBENCH_BLAS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)
    before, after = done.stdout.splitlines()
    assert before == "None False", done.stderr
    assert after == str(blas_after(None)[0] != "None")
