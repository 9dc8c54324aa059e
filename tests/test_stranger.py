"""What CONTRIBUTING.md promises to those who add something, tried in a copy of the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stranger import Outcome, copy_tree, insert, run_script, run_tests

pytest.importorskip("mlx.core", reason="needs MLX")
pytest.importorskip("bitsandbytes", reason="the extra `torch` is not installed")

# mlx-lm reads num_experts here, where transformers 5 writes num_local_experts.
FAMILY = '''"""Qwen3-MoE: softmax over all experts, then top-k; the chosen are renormalised where the config says so."""

from __future__ import annotations

from .base import Family, RouterForm, every_nth_layer, probabilities_of_chosen

FAMILY = Family(
    name="qwen3_moe",
    model_types=("qwen3_moe",),
    routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", "softmax", probabilities_of_chosen),),
    n_experts=("num_experts", "num_local_experts"),
    top_k="num_experts_per_tok",
    layers=every_nth_layer,
    built_in={"hidden_act": "silu", "rope_scaling": None, "use_sliding_window": False},
)
'''
ROW = """    Row(
        "qwen3_moe",
        _SIZES
        | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            "decoder_sparse_step": 1,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "mlp_only_layers": [0],
            "moe_intermediate_size": 32,
            "norm_topk_prob": False,
            "num_attention_heads": 4,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 2,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        [("mlp", 8, 3)],
        layers=(1, 2),
        variants=({"norm_topk_prob": True},),
        refused={"hidden_act": "gelu", "rope_scaling": _LINEAR_ROPE, "use_sliding_window": True},
        real={
            # config.json of Qwen/Qwen3-30B-A3B
            "Qwen3-30B-A3B": Real(
                {
                    "model_type": "qwen3_moe",
                    "decoder_sparse_step": 1,
                    "head_dim": 128,
                    "hidden_size": 2048,
                    "intermediate_size": 6144,
                    "max_position_embeddings": 40960,
                    "mlp_only_layers": [],
                    "moe_intermediate_size": 768,
                    "norm_topk_prob": True,
                    "num_attention_heads": 32,
                    "num_experts": 128,
                    "num_experts_per_tok": 8,
                    "num_hidden_layers": 48,
                    "num_key_value_heads": 4,
                    "rms_norm_eps": 1e-6,
                    "rope_theta": 1000000.0,
                    "tie_word_embeddings": False,
                    "vocab_size": 151936,
                },
                [("mlp", 128, 8)],
                30_532_122_624,
            ),
        },
    ),
"""


METRIC = '''

@metric(
    "load", "ratio", "plugin", low=lambda e, k: 1 / e, high=lambda e, k: 1 / k,
    label="Concentration of the load", even=Even("even load, 1/E", lambda e, k: 1 / e),
)  # fmt: skip
def hhi(s: Sums) -> Floats:
    """Herfindahl-Hirschman index of the load.

    Formula: sum_i f_i^2.
    Unit: ratio.
    Range: [1/E, 1/K]; 1/E when even.
    Null: no token.
    Source: Herfindahl 1950.
    """
    return np.asarray((s.load**2).sum(axis=-1))
'''


@pytest.mark.slow
def test_a_metric_is_one_function_and_one_row(tmp_path: Path) -> None:
    """With what is generated made again, the quick core passes, and the metric is in reports, tables and figures."""
    tree = copy_tree(tmp_path / "tree")
    home = tree / "mlx_moebench" / "routing" / "metrics" / "load.py"
    home.write_text(home.read_text(encoding="utf-8") + METRIC, encoding="utf-8")
    insert(
        tree / "tests" / "test_metrics.py",
        '    "n_eff": math.exp(H_LOAD),\n',
        '    "hhi": 0.16 + 0.09 + 0.04 + 0.01,\n',
    )
    for script in ("make_schemas.py", "make_definitions.py"):
        run_script(tree, script)
    outcome = run_tests(tree, "-m", "not slow and not browser and not extra")
    assert not outcome.failed, outcome.log
    assert len(outcome.passed) > 1000
    assert {name for name in outcome.passed if "hhi" in name} >= {"tests.test_metrics::test_known_answer[hhi]"}
    assert '"hhi"' in (tree / "mlx_moebench" / "routing" / "schema" / "routing_stats.schema.json").read_text("utf-8")
    assert "**`hhi`**" in (tree / "docs" / "definitions.md").read_text("utf-8")


def passed_for(outcome: Outcome, model_type: str) -> set[str]:
    """The tests, without their parameters, that passed for a family."""
    with_parameters = (re.fullmatch(r"([^\[]+)\[(.*)\]", name) for name in outcome.passed)
    return {match[1] for match in with_parameters if match and re.search(rf"\b{model_type}\b", match[2])}


@pytest.mark.slow
def test_a_family_is_one_file_and_one_row(tmp_path: Path) -> None:
    """Every test that runs for a family of the table runs for the new one, in every file; none fails for its sake."""
    tree = copy_tree(tmp_path / "tree")
    (tree / "mlx_moebench" / "families" / "qwen3_moe.py").write_text(FAMILY, encoding="utf-8")
    insert(tree / "tests" / "family_rows.py", "]\n\nCONFIGS", ROW)
    outcome = run_tests(tree, "-k", "qwen3_moe or mixtral or test_families or test_supported or test_layout")
    assert not outcome.failed, outcome.log
    assert not [name for name in outcome.skipped if "qwen3_moe" in name], outcome.log
    for_mixtral, for_the_new = passed_for(outcome, "mixtral"), passed_for(outcome, "qwen3_moe")
    assert for_mixtral - for_the_new == set()
    files = {name.partition("::")[0].rpartition(".")[2] for name in for_the_new}
    assert {"test_families", "test_instrument", "test_parity", "test_precision", "test_torch", "test_fourbit"} <= files
    assert len(for_the_new) >= 40
