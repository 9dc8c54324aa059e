"""Configs that are wrong in one setting: measured or refused in one sentence, never an exception of a library.

Every setting of every model's config is changed in some 20 ways (`broken_configs`). By day a seeded sample of them on a
model of each form is tried, in `slow` many more. A size of 10^9 must be refused before anything of that size is made: a
limit on the process's address space would turn it into a MemoryError.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broken_configs import Broken, broken
from conftest import build_tiny, save_checkpoint
from family_rows import FORMS, RUNNABLE

from mlx_moebench.checkpoints import find
from mlx_moebench.checkpoints.rules import check_settings
from mlx_moebench.checkpoints.shapes import check_shapes
from mlx_moebench.errors import ModelLoadError, MoebenchError
from mlx_moebench.measure import analyze

TEXTS = ("a router sends every token", "to the experts that score it highest", "and the others stay idle")
SEED = 20
ADDRESSES = 16 << 30  # above what the libraries map, below what a wrong size would


@pytest.fixture
def limited() -> Iterator[None]:
    """Less address space than a wrong size would take."""
    resource = pytest.importorskip("resource", reason="no limits on this system")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def sample(config: dict[str, Any], count: int) -> list[Broken]:
    every = list(broken(config))
    return random.Random(SEED).sample(every, min(count, len(every)))


def outcomes(folder: Path, cases: Iterable[Broken], backend: str) -> dict[str, int]:
    """How many were measured and refused; anything else is an error of the test, with the setting in it."""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    made = {"measured": 0, "refused": 0}
    for case in cases:
        (folder / "config.json").write_text(json.dumps(case.config), encoding="utf-8")
        try:
            analyze(folder, data, backend=backend, max_samples=3, max_length=12)
            made["measured"] += 1
        except MoebenchError as error:
            made["of several lines" if "\n" in str(error) else "refused"] += 1
        except Exception as error:
            raise AssertionError(f"{folder.name}: {case.key} {case.change}") from error
    return made


@pytest.fixture
def on_mlx(tmp_path: Path) -> Callable[[str], Path]:
    pytest.importorskip("mlx.core", reason="needs MLX")

    def save(model_type: str) -> Path:
        config = next(row.config for row in RUNNABLE if row.model_type == model_type)
        return save_checkpoint(tmp_path / model_type, build_tiny(model_type=model_type), config)

    return save


QUIET = [
    "ignore:Stock mlx-lm does not find",
    "ignore:.*positions",
    "ignore::RuntimeWarning",
    "ignore::UserWarning",
]


@pytest.mark.usefixtures("cpu", "limited")
@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("model_type", sorted(FORMS.values()))
def test_a_sample_on_mlx(model_type: str, on_mlx: Callable[[str], Path]) -> None:
    folder = on_mlx(model_type)
    config = json.loads((folder / "config.json").read_text())
    assert outcomes(folder, sample(config, 12), "mlx")["refused"] > 4


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.usefixtures("cpu", "limited")
@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("model_type", sorted(row.model_type for row in RUNNABLE))
def test_many_on_mlx(model_type: str, on_mlx: Callable[[str], Path]) -> None:
    folder = on_mlx(model_type)
    config = json.loads((folder / "config.json").read_text())
    assert outcomes(folder, sample(config, 100), "mlx")["refused"] > 40


def on_torch(folder: Path, model_type: str) -> dict[str, Any]:
    from transformers_models import random_transformers

    random_transformers(folder, model_type)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.filterwarnings(*QUIET)
def test_a_sample_on_torch(tmp_path: Path) -> None:
    config = on_torch(tmp_path / "model", "qwen2_moe")
    assert outcomes(tmp_path / "model", sample(config, 12), "torch")["refused"] > 3


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("sixth", range(6))
def test_many_on_torch(sixth: int, tmp_path: Path) -> None:
    """Six of the routing forms."""
    from transformers_models import FORMS as OF_TORCH

    config = on_torch(tmp_path / "model", OF_TORCH[sixth * len(OF_TORCH) // 6])
    assert outcomes(tmp_path / "model", sample(config, 100), "torch")["refused"] > 20


RULES: list[tuple[dict[str, Any], str]] = [
    ({"num_experts": "64"}, r"num_experts = '64'; it must be a whole number of 0 or more"),
    ({"hidden_size": 64.0}, r"hidden_size = 64\.0; it must be a whole number of 1 or more"),
    ({"hidden_size": True}, r"hidden_size = True; it must be a whole number of 1 or more"),
    ({"vocab_size": 2**31}, r"vocab_size = 2147483648; it must be a whole number of 1 or more"),
    ({"num_hidden_layers": -1}, r"num_hidden_layers = -1; it must be"),
    ({"n_group": {"a": 1}}, r"n_group = \{'a': 1\}; it must be"),
    ({"moe_intermediate_size": [32, None]}, r"moe_intermediate_size = \[32, None\]; it must be"),
    ({"rms_norm_eps": math.nan}, r"rms_norm_eps = nan; it must be a finite number of 0 or more"),
    ({"rms_norm_eps": "1e-5"}, r"rms_norm_eps = '1e-5'; it must be a finite number"),
    ({"rope_theta": [1.0]}, r"rope_theta = \[1\.0\]; it must be a finite number"),
    ({"rope_parameters": {"rope_theta": -1}}, r"rope_parameters\.rope_theta = -1; it must be"),
    ({"routed_scaling_factor": {"__float__": "Infinity"}}, r"routed_scaling_factor = 'Infinity'; it must be a finite"),
    ({"norm_topk_prob": "false"}, r"norm_topk_prob = 'false'; it must be true or false"),
    ({"tie_word_embeddings": 2}, r"tie_word_embeddings = 2; it must be true or false"),
    ({"scoring_func": 3}, r"scoring_func = 3; it must be a name"),
    ({"architectures": 5}, r"architectures = 5; it must be a list of names"),
    ({"text_config": [1]}, r"text_config = \[1\]; it must be a section of settings"),
    ({"text_config": {"num_experts": "8"}}, r"text_config\.num_experts = '8'; it must be"),
    ({"num_hidden_layers": 3, "layer_types": ["full_attention"]}, "a list of 3 entries, one for each block, not of 1"),
    ({"num_hidden_layers": 2, "moe_layer_freq": [1]}, "a list of 2 entries, one for each block, not of 1"),
    ({"mlp_layer_types": [1, 2]}, r"mlp_layer_types = \[1, 2\]; it must be a list of names"),
    ({"layer_types": 7}, "layer_types = 7; it must be a list with an entry for each block"),
]


@pytest.mark.parametrize(("settings", "message"), RULES)
def test_a_setting_that_breaks_a_rule_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message) as caught:
        check_settings({"model_type": "olmoe", **settings})
    assert str(caught.value).startswith("The config of this 'olmoe' model has ")


def test_what_a_config_may_leave_out_or_say_otherwise() -> None:
    settings = {
        "head_dim": None,
        "moe_layer_end_index": -1,
        "sliding_window": 0,
        "num_experts": 0,
        "moe_num_experts": [64, 64],
        "is_moe_layer": [True, False],
        "moe_layer_freq": [1, 0],
        "norm_topk_prob": 1,
        "rope_theta": 10_000_000_000,
        "layer_rope_theta": [10000.0, 0],
        "time_step_limit": [0.0, {"__float__": "Infinity"}],
        "hybrid_override_pattern": "M-E*",
        "sliding_window_pattern": 6,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "mscale_all_dim": 0.7},
        "vision_config": {"hidden_size": "whatever"},
    }
    check_settings({"model_type": "olmoe", "num_hidden_layers": 2, **settings})


def test_a_size_of_another_part_is_refused_too() -> None:
    """transformers builds a tower for pictures before it looks for its weights."""
    located = find(None, None, False, unquantised=False)
    for key in ("num_hidden_layers", "hidden_size"):
        config = located.config | {"vision_config": {"inner": {key: 10**9}}}
        with pytest.raises(ModelLoadError, match=rf"vision_config\.inner\.{key} = 1,000,000,000, and .* do not fit"):
            check_shapes(located.family, config, located.weights)


SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_experts", "num_attention_heads", "intermediate_size")


@pytest.mark.usefixtures("cpu", "limited")
@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("key", SIZES)
def test_a_size_beyond_the_weights_is_refused_by_their_headers(backend: str, key: str, tmp_path: Path) -> None:
    from mlx_moebench.checkpoints import NANO

    if backend == "torch":
        pytest.importorskip("torch", reason="the extra `torch` is not installed")
    folder = Path(shutil.copytree(NANO, tmp_path / "nano"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: 10**9}))
    with pytest.raises(ModelLoadError, match=rf"{key} = 1[,0]") as caught:
        analyze(folder, "math", backend=backend)
    assert "do not fit" in str(caught.value)
