"""config.json as mlx-lm reads it, as transformers 5 writes it and as older repositories wrote it: one meaning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from family_rows import BY_TYPE as MLX_ROWS
from torch_rows import BY_TYPE, ROWS, TorchRow, config_of

transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")
pytest.importorskip("torch", reason="the extra `torch` is not installed")

from mlx_moebench.families import families, family_for  # noqa: E402
from mlx_moebench.families.settings import SECTION  # noqa: E402
from mlx_moebench.models.loading import _check  # noqa: E402
from mlx_moebench.models.writers import mlx_settings  # noqa: E402
from torch_fallback.reading import as_read, check  # noqa: E402

Place = tuple[int, int, str, int, int]
"""(layer, moe_layer, router, columns, K)."""

BOTH = [
    name
    for name, family in families().items()
    if name in BY_TYPE and name in MLX_ROWS and not family.only_torch and not family.unavailable
]
BOTH.remove("minimax")  # each library has its own
BOTH.remove("bailing_hybrid")  # transformers has its other architecture, which is below
# Rows of mlx-lm show where it builds other blocks than transformers, which reads none of these but jamba's.
SAME_BLOCKS: dict[str, dict[str, Any]] = {
    "jamba": {"expert_layer_period": 2, "expert_layer_offset": 1},
    "solar_open": {"first_k_dense_replace": 0},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "mimo_v2_flash": {"moe_layer_freq": [0, 1, 1]},
}


def on_mlx(config: Mapping[str, Any]) -> list[Place]:
    """The routers of the MLX model of a config, refused where it would compute something else."""
    family = family_for(config)
    _check(family, dict(config))
    return places(family.specs({**config, **mlx_settings(family, dict(config))}))


def on_torch(config: Mapping[str, Any]) -> list[Place]:
    """The routers of transformers' model of a config."""
    family = family_for(config)
    check(family, dict(config))
    return places(family.specs(as_read(dict(config)), torch=True))


def places(specs: Any) -> list[Place]:
    return [(spec.layer, spec.moe_layer, spec.router, spec.n_experts, spec.top_k) for spec in specs]


def written(config: Any) -> dict[str, Any]:
    """What transformers writes into config.json: of a config object, or of another writer's config that it read."""
    if isinstance(config, Mapping):
        config = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    return dict(json.loads(config.to_json_string()))


@pytest.mark.parametrize("model_type", BOTH)
def test_what_mlx_lm_reads_transformers_reads_and_writes_alike(model_type: str) -> None:
    row = MLX_ROWS[model_type]
    config = {**row.config, **SAME_BLOCKS.get(model_type, {})}
    expected = on_mlx(config)
    if model_type not in SAME_BLOCKS:
        assert [place[:3] for place in expected] == [spec[:3] for spec in row.specs]
    assert on_torch(config) == expected
    again = written(config)
    # mlx-lm has more settings of its own than transformers hands on; what it routes by must be among them.
    assert on_torch(again) == expected
    assert on_mlx({**again, "architectures": config.get("architectures")}) == expected


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.model_type in families() and row.model_type in {*BOTH, "bailing_hybrid"}],
    ids=lambda row: row.model_type,
)
def test_what_transformers_writes_means_the_same_to_both(row: TorchRow) -> None:
    config = written(config_of(row, row.on_both))
    architecture = {} if row.model_type != "bailing_hybrid" else {"architectures": ["BailingHybridForCausalLM"]}
    config |= architecture
    theirs = on_torch(config)
    assert on_mlx(config) == theirs
    if not {"mlp_layer_types", "mlp_only_layers"} & row.on_both.keys():
        assert [layer for layer, *_ in theirs] == [layer for layer in row.layers for _ in family_for(config).routers]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_torch_reads_what_transformers_writes_with_and_without_its_defaults(row: TorchRow) -> None:
    """config.json leaves out what is the default; a model object's settings do not."""
    config = config_of(row)
    built = as_read({"model_type": row.model_type})["architectures"]  # as it writes them beside weights
    for settings in ({**written(config), "architectures": built}, {**config.to_dict(), "architectures": built}):
        layers = [layer for layer, *_ in on_torch(settings)]
        assert layers == [layer for layer in row.layers for _ in family_for(as_read(settings)).routers]


def _deepseek(**more: Any) -> dict[str, Any]:
    return {
        "num_hidden_layers": 4,
        "num_experts_per_tok": 3,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        **more,
    }


_DENSE_FIRST = {"num_hidden_layers": 4, "num_experts": 16, "num_experts_per_tok": 4, "num_dense_layers": 2}
OLDER: list[tuple[str, dict[str, Any], list[int], int, int]] = [
    # (model_type, what its first repositories wrote, sparse blocks, columns, K)
    ("qwen3_moe", {"num_hidden_layers": 3, "num_experts": 12, "num_experts_per_tok": 3}, [0, 1, 2], 12, 3),
    ("qwen3_moe", {"num_hidden_layers": 4, "num_experts": 12, "decoder_sparse_step": 2}, [1, 3], 12, 8),
    ("mixtral", {"num_hidden_layers": 2, "num_local_experts": 8, "rope_theta": 1e6}, [0, 1], 8, 2),
    ("gpt_oss", {"num_hidden_layers": 2, "num_local_experts": 32, "experts_per_token": 4}, [0, 1], 32, 4),
    ("deepseek_v3", _deepseek(n_routed_experts=16, first_k_dense_replace=1), [1, 2, 3], 16, 3),
    ("deepseek_v3", _deepseek(n_routed_experts=16, first_k_dense_replace=1, moe_layer_freq=1), [1, 2, 3], 16, 3),
    ("deepseek_v32", _deepseek(n_routed_experts=16, first_k_dense_replace=2, moe_layer_freq=1), [2, 3], 16, 3),
    ("glm4_moe", _deepseek(n_routed_experts=16, first_k_dense_replace=1), [1, 2, 3], 16, 3),
    ("glm4_moe_lite", _deepseek(n_routed_experts=16, first_k_dense_replace=1), [1, 2, 3], 16, 3),
    ("dots1", _deepseek(n_routed_experts=16, first_k_dense_replace=1), [1, 2, 3], 16, 3),
    (
        "deepseek_v2",
        {"num_hidden_layers": 3, "n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1},
        [1, 2],
        64,
        6,
    ),
    (
        "exaone_moe",
        _deepseek(num_experts=16, is_moe_layer=[False, True, True, True], first_k_dense_replace=1),
        [1, 2, 3],
        16,
        3,
    ),
    (
        "kimi_linear",
        {
            "num_hidden_layers": 4,
            "num_experts": 16,
            "num_experts_per_token": 3,
            "first_k_dense_replace": 1,
            "moe_layer_freq": 1,
            "linear_attn_config": {
                "kda_layers": [1, 2, 3],
                "full_attn_layers": [4],
                "head_dim": 16,
                "num_heads": 4,
                "short_conv_kernel_size": 4,
            },
        },
        [1, 2, 3],
        16,
        3,
    ),
    (
        "ernie4_5_moe",
        {
            "num_hidden_layers": 4,
            "moe_num_experts": 16,
            "moe_k": 6,
            "moe_layer_start_index": 1,
            "moe_layer_end_index": 3,
            "moe_layer_interval": 1,
        },
        [1, 2, 3],
        16,
        6,
    ),
    (
        "lfm2_moe",
        _DENSE_FIRST,
        [2, 3],
        16,
        4,
    ),
    (
        "afmoe",
        _DENSE_FIRST,
        [2, 3],
        16,
        4,
    ),
    (
        "granitemoehybrid",
        {
            "num_hidden_layers": 2,
            "num_local_experts": 8,
            "num_experts_per_tok": 3,
            "layer_types": ["mamba", "attention"],
        },
        [0, 1],
        8,
        3,
    ),
    ("dbrx", {"n_layers": 2, "ffn_config": {"moe_num_experts": 16, "moe_top_k": 4}}, [0, 1], 16, 4),
    (
        "longcat_flash",
        {"num_layers": 2, "n_routed_experts": 16, "zero_expert_num": 8, "moe_topk": 4},
        [0, 1],
        24,
        4,
    ),
    (
        "jamba",
        {
            "num_hidden_layers": 4,
            "num_experts": 16,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
        },
        [1, 3],
        16,
        2,
    ),
]


@pytest.mark.parametrize(("model_type", "config", "layers", "columns", "top_k"), OLDER)
def test_what_older_repositories_wrote(
    model_type: str, config: dict[str, Any], layers: list[int], columns: int, top_k: int
) -> None:
    config = {"model_type": model_type, **config}
    expected = [(layer, n, "mlp", columns, top_k) for n, layer in enumerate(layers)]
    assert on_torch(config) == expected
    assert on_torch(written(config)) == expected
    if (model_type in BOTH and "num_experts_per_tok" in config) or "num_experts_per_token" in config:
        assert on_mlx(config) == expected
    assert on_mlx({**written(config), **_SPELLED_OUT.get(model_type, {})}) == expected


# mlx-lm has no default for what transformers leaves out because it is its own.
_SPELLED_OUT: dict[str, dict[str, Any]] = {}


@pytest.mark.parametrize(
    "model_type", [name for name in BOTH if "rope_theta" in MLX_ROWS[name].config.get(SECTION, MLX_ROWS[name].config)]
)
def test_the_rotary_base_reaches_mlx_however_it_is_written(model_type: str) -> None:
    """Beside the other settings as long ago, or in rope_parameters, which count before it."""
    row = MLX_ROWS[model_type]
    text = row.config.get(SECTION, row.config)
    family = family_for(row.config)
    for rope in ({"rope_theta": 321.0, "rope_type": "default"}, {"rope_theta": 321.0}):
        changed = {**text, "rope_theta": 5.0, "rope_parameters": rope}
        config = {**row.config, SECTION: changed} if SECTION in row.config else changed
        settings = mlx_settings(family, config)
        assert settings.get(SECTION, settings)["rope_theta"] == 321.0


# -- one name, two models --------------------------------------------------------------------------------------------

MINIMAX: dict[str, Any] = {
    "model_type": "minimax",
    "num_hidden_layers": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def test_minimax_is_told_apart_by_its_architecture() -> None:
    from mlx_moebench.errors import UnsupportedModelError

    text_01 = {**MINIMAX, "architectures": ["MiniMaxForCausalLM"]}
    m2 = {**MINIMAX, "architectures": ["MiniMaxM2ForCausalLM"], "attn_type_list": [1, 1]}
    assert {spec.distribution for spec in family_for(text_01).specs(text_01, torch=True)} == {"softmax"}
    assert {spec.distribution for spec in family_for(m2).specs(m2)} == {"sigmoid_normalised"}
    assert on_torch(text_01) == on_mlx(m2) == [(0, 0, "mlp", 8, 2), (1, 1, "mlp", 8, 2)]
    with pytest.raises(UnsupportedModelError, match=r"has no 'minimax_text_01' \(model_type 'minimax'\); .* torch"):
        on_mlx(text_01)
    with pytest.raises(
        UnsupportedModelError, match=r"builds MiniMaxForCausalLM, .* call it 'minimax_m2' in config.json"
    ):
        on_torch(m2)
    assert on_torch({**m2, "model_type": "minimax_m2"}) == on_mlx(m2)


def test_ling_3_and_ling_2_5_are_told_apart_by_their_architecture() -> None:
    from mlx_moebench.errors import UnsupportedModelError

    config = MLX_ROWS["bailing_hybrid"].config
    assert family_for({**config, "architectures": ["BailingMoeV3ForCausalLM"]}).name == "bailing_moe_v3"
    assert family_for({**config, "architectures": ["BailingHybridForCausalLM"]}).name == "bailing_moe_v3"
    with pytest.raises(UnsupportedModelError, match=r"builds BailingHybridForCausalLM, .* is another model"):
        on_torch({**config, "architectures": ["BailingMoeV2_5ForCausalLM"]})


def test_what_only_one_library_has_is_sent_to_it() -> None:
    from mlx_moebench.errors import UnsupportedModelError

    with pytest.raises(UnsupportedModelError, match="mlx-lm has no 'flex_olmo'; measure it with the backend torch"):
        on_mlx({"model_type": "flex_olmo", "num_hidden_layers": 2, "num_experts": 8, "num_experts_per_tok": 2})
    with pytest.raises(UnsupportedModelError, match="has no model_type 'Klear': measure it with the backend mlx, or"):
        on_torch(MLX_ROWS["Klear"].config)
    with pytest.raises(UnsupportedModelError, match=r"kernel .*; measure it with the backend torch"):
        on_mlx(MLX_ROWS["muse_spark"].config)


@pytest.mark.parametrize(
    "model_type", [name for name, family in families().items() if family.unavailable and not family.routers]
)
def test_what_routes_otherwise_says_so_on_both(model_type: str) -> None:
    from mlx_moebench.errors import UnsupportedModelError

    reason = families()[model_type].unavailable
    for measure in (on_mlx, on_torch):
        with pytest.raises(UnsupportedModelError) as caught:
            measure({"model_type": model_type, "num_experts": 8})
        assert str(caught.value) == f"model_type {model_type!r} cannot be measured: {reason}."
