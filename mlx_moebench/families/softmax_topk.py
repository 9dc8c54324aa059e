"""Softmax over all experts, then top-K. The chosen probabilities are divided by their sum, or not, or by a flag."""

from __future__ import annotations

from dataclasses import replace

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import all_layers, between, every_nth_layer, listed_types
from .rules import Rule
from .settings import Key
from .writers import fixed, head_dim, interval_of_full

_EXPERTS = ("num_experts", "num_local_experts")
_BY_FLAG = Rule("softmax", normalise=Key("norm_topk_prob", False))
_BY_FLAG_OR_YES = Rule("softmax", normalise=Key("norm_topk_prob", True))
_ALWAYS = Rule("softmax", normalise=True)
_ROUTER = RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", _BY_FLAG, torch=InTransformers())
_SUMS_TO_1 = InTransformers(rule=_ALWAYS)
_ERNIE = Rule("softmax", normalise=True, floor=Key("moe_norm_min", 1e-12))
_ERNIE_BIAS = "gate.moe_statics.e_score_correction_bias"

FAMILIES = (
    Family(
        name="olmoe",
        model_types=("olmoe",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        built_in={"clip_qkv": None, "hidden_act": "silu"},
        public=("allenai/OLMoE-1B-7B-0924",),
    ),
    Family(
        name="qwen3_moe",
        model_types=("qwen3_moe",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=every_nth_layer,
        dense=True,
        others={"head_dim": head_dim},
        public=("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-235B-A22B"),
    ),
    # transformers has no flag here, and writes none, where mlx-lm asks for one.
    Family(
        name="qwen3_vl_moe",
        model_types=("qwen3_vl_moe",),
        routers=(replace(_ROUTER, rule=_BY_FLAG_OR_YES, torch=_SUMS_TO_1),),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=every_nth_layer,
        others={"norm_topk_prob": fixed(True), "head_dim": head_dim},
        dense=True,
        public=("Qwen/Qwen3-VL-30B-A3B-Instruct",),
    ),
    Family(
        name="mellum",
        model_types=("mellum",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        others={"head_dim": head_dim},
        public=("JetBrains/Mellum2-12B-A2.5B",),
    ),
    # mlx-lm never renormalises and keeps no norm_topk_prob in a model's arguments; transformers does where it is set.
    Family(
        name="qwen2_moe",
        model_types=("qwen2_moe",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=every_nth_layer,
        built_in={"hidden_act": "silu", "norm_topk_prob": False, "rope_scaling": None, "use_sliding_window": False},
        public=("Qwen/Qwen1.5-MoE-A2.7B", "Qwen/Qwen2-57B-A14B"),
    ),
    Family(
        name="qwen3_next",
        model_types=("qwen3_next",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=every_nth_layer,
        dense=True,
        others={"partial_rotary_factor": fixed(1.0), "full_attention_interval": interval_of_full},
        public=("Qwen/Qwen3-Next-80B-A3B-Instruct",),
    ),
    Family(
        name="qwen3_5",
        model_types=("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "prism_hadamard_qwen35"),
        wrapped={"qwen3_5_moe_text": "qwen3_5_moe"},
        fuses_experts=True,
        routers=(replace(_ROUTER, rule=_BY_FLAG_OR_YES, torch=_SUMS_TO_1),),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        dense=True,
        others={"full_attention_interval": interval_of_full},
        public=("Qwen/Qwen3.5-35B-A3B",),
    ),
    Family(
        name="hunyuan",
        model_types=("hunyuan",),
        routers=(RouterForm("mlp", "mlp.gate.wg", "mlp.switch_mlp", Rule("softmax")),),
        n_experts="num_experts",
        top_k=("moe_topk", "num_experts_per_tok"),
        layers=all_layers,
        by_layer=True,
        dense=True,
        enough=2,
        public=("tencent/Hunyuan-A52B-Instruct", "tencent/Hunyuan-A13B-Instruct"),
    ),
    Family(
        name="ernie4_5_moe",
        model_types=("ernie4_5_moe",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate",
                "mlp.switch_mlp",
                Rule(Key("moe_gate_act", "softmax"), normalise=True, floor=1e-12),
                torch=InTransformers(bias=f"mlp.{_ERNIE_BIAS}", rule=_ERNIE),
            ),
        ),
        n_experts=("moe_num_experts", "num_experts"),
        top_k=("moe_k", "num_experts_per_tok"),
        layers=between,
        public=("baidu/ERNIE-4.5-21B-A3B-PT",),
    ),
    in_transformers("flex_olmo", rule=_BY_FLAG, public=("allenai/FlexOlmo-7x7B-1T",)),
    in_transformers("lara_mini", rule=_BY_FLAG),
    in_transformers("qwen4_exp", "qwen4_exp_text", rule=_BY_FLAG),
    in_transformers("qwen3_omni_moe_thinker", "qwen3_omni_moe_text", rule=_BY_FLAG, layers=every_nth_layer),
    in_transformers("hunyuan_v1_moe", rule=_ALWAYS, top_k=("moe_topk", "num_experts_per_tok"), by_layer=True),
    # MiniMax-Text-01: mlx-lm calls MiniMax-M2 `minimax`.
    in_transformers("minimax_text_01", rule=_ALWAYS, public=("MiniMaxAI/MiniMax-Text-01-hf",)),
    # Its vision tokens have a router of their own, which text never reaches.
    in_transformers(
        "ernie4_5_vl_moe",
        "ernie4_5_vl_moe_text",
        rule=_ERNIE,
        place=InTransformers("mlp.text_moe.gate", "mlp.text_moe.experts", f"mlp.text_moe.{_ERNIE_BIAS}"),
        n_experts=("moe_num_experts", "num_experts"),
        top_k=("moe_k", "num_experts_per_tok"),
        layers=listed_types,
        public=("baidu/ERNIE-4.5-VL-28B-A3B-PT",),
    ),
)
