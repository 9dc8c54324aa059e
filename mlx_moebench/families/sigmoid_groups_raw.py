"""DeepSeek-V3's form: sigmoid scores, a bias for the choice alone, groups; in a gate with a weight of its own."""

from __future__ import annotations

from dataclasses import replace

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import (
    after_first,
    after_first_dense,
    all_layers,
    flagged,
    in_pattern,
    listed_types,
)
from .rules import Groups, Rule
from .settings import Key
from .writers import (
    FULL,
    NULL,
    SLIDING,
    first_of_types,
    fixed,
    flags_of,
    flags_of_types,
    head_dim,
    rope_of,
    same_as,
)

_GROUPS = Groups(Key("n_group", 1), Key("topk_group", 1))
_RULE = Rule(
    "sigmoid",
    groups=_GROUPS,
    normalise=Key("norm_topk_prob", True),
    keeps_single=True,
    scale=Key("routed_scaling_factor", 1.0),
)
_GUARDED = replace(_RULE, epsilon=1e-20)
_BIAS = "mlp.gate.e_score_correction_bias"
# transformers never chooses from dropped groups, whatever the sign of a score, and normalises a single weight, too.
_OF_TRANSFORMERS = replace(_GUARDED, groups=replace(_GROUPS, fill=float("-inf")), keeps_single=False)
_PLACE = InTransformers(bias=_BIAS, rule=_OF_TRANSFORMERS)
_ROUTER = RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", _RULE, _BIAS, seam="raw", torch=_PLACE)
# Keys that the older writers have.
_DEEPSEEK = {
    "first_k_dense_replace": first_of_types,
    "moe_layer_freq": fixed(1),
    "topk_method": fixed("noaux_tc"),
    "scoring_func": fixed("sigmoid"),
}
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")

FAMILIES = (
    Family(
        name="deepseek_v3",
        model_types=(
            "deepseek_v3",
            "deepseek_v32",
            "glm_moe_dsa",
            "kimi_k2",
            "kimi_k25",
            "kimi_vl",
            "joyai_llm_flash",
        ),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        dense=True,
        others=_DEEPSEEK,
        public=("deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2", "moonshotai/Kimi-K2-Instruct", "zai-org/GLM-5"),
    ),
    Family(
        name="glm4_moe",
        model_types=("glm4_moe",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        dense=True,
        others={"head_dim": head_dim, "partial_rotary_factor": fixed(0.5), "rope_scaling": fixed(NULL)},
        public=("zai-org/GLM-4.5-Air", "zai-org/GLM-4.6"),
    ),
    Family(
        name="solar_open",
        model_types=("solar_open",),
        routers=(_ROUTER,),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        torch_layers=all_layers,
        dense=True,
        others={
            "intermediate_size": same_as("moe_intermediate_size"),  # of dense blocks, which it does not have
            "first_k_dense_replace": fixed(0),
            "partial_rotary_factor": fixed(1.0),
        },
        public=("upstage/Solar-Open-100B",),
    ),
    Family(
        name="glm4_moe_lite",
        model_types=("glm4_moe_lite",),
        routers=(replace(_ROUTER, rule=_GUARDED),),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=after_first(1),
        dense=True,
        others={"first_k_dense_replace": first_of_types},
        public=("zai-org/GLM-4.7-Flash",),
    ),
    Family(
        name="mimo_v2_flash",
        model_types=("mimo_v2_flash",),
        routers=(replace(_ROUTER, rule=_GUARDED),),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=flagged("moe_layer_freq"),
        others={
            "moe_layer_freq": flags_of_types,
            "hybrid_layer_pattern": flags_of(SLIDING),
            "add_swa_attention_sink_bias": fixed(True),
            "add_full_attention_sink_bias": fixed(False),
            "sliding_window_size": same_as("sliding_window"),
            "layernorm_epsilon": same_as("rms_norm_eps"),
            "topk_method": fixed("noaux_tc"),
            "scoring_func": fixed("sigmoid"),
            "rope_theta": rope_of(FULL, "rope_theta"),
            "swa_rope_theta": rope_of(SLIDING, "rope_theta"),
            "partial_rotary_factor": rope_of(FULL, "partial_rotary_factor"),
            "swa_num_attention_heads": same_as("num_attention_heads"),
            # transformers doubles them in sliding layers.
            "swa_num_key_value_heads": lambda config: 2 * config["num_key_value_heads"],
            "swa_head_dim": same_as("head_dim"),
            "swa_v_head_dim": same_as("v_head_dim"),
            "n_shared_experts": fixed(NULL),
        },
        public=("XiaomiMiMo/MiMo-V2-Flash",),
    ),
    Family(
        name="exaone_moe",
        model_types=("exaone_moe",),
        routers=(replace(_ROUTER, rule=_GUARDED),),
        n_experts="num_experts",
        top_k="num_experts_per_tok",
        layers=flagged("is_moe_layer"),
        others={"is_moe_layer": flags_of_types, "head_dim": head_dim},
        public=("LGAI-EXAONE/K-EXAONE-236B-A23B",),
    ),
    Family(
        name="dots1",
        model_types=("dots1",),
        routers=(replace(_ROUTER, experts="mlp.experts"),),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        public=("rednote-hilab/dots.llm1.inst",),
    ),
    Family(
        name="nemotron_h",
        model_types=("nemotron_h",),
        routers=(
            RouterForm(
                "mlp",
                "mixer.gate",
                "mixer.switch_mlp",
                replace(_GUARDED, normalise=Key("norm_topk_prob", False)),
                "mixer.gate.e_score_correction_bias",
                seam="raw",
                torch=InTransformers(
                    "mixer.gate", "mixer.experts", "mixer.gate.e_score_correction_bias", rule=_OF_TRANSFORMERS
                ),
            ),
        ),
        n_experts=_EXPERTS,
        top_k="num_experts_per_tok",
        layers=in_pattern,
        dense=True,
        public=("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B",),
    ),
    Family(
        name="bailing_moe_v3",
        model_types=("bailing_moe_v3",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate",
                "mlp.switch_mlp",
                Rule(
                    "sigmoid",
                    groups=Groups(Key("n_group", 8), Key("topk_group", 4), fill=float("-inf")),
                    normalise=True,
                    epsilon=1e-20,
                    scale=Key("routed_scaling_factor", 2.5),
                ),
                "mlp.gate.expert_bias",
                seam="raw_float32",
                torch=InTransformers(
                    bias=_BIAS,
                    rule=replace(
                        _OF_TRANSFORMERS,
                        groups=replace(_GROUPS, number=Key(("num_expert_group", "n_group"), 1), fill=float("-inf")),
                        normalise=Key(("moe_renormalize", "norm_topk_prob"), True),
                    ),
                ),
            ),
        ),
        n_experts=("num_experts", "num_local_experts"),
        top_k=("num_experts_per_tok", "num_experts_per_token"),
        layers=after_first(1),
        # The name by which mlx-lm knows it.
        respelled={"architectures": fixed(["BailingMoeV3ForCausalLM"])},
        others={
            "n_group": same_as("num_expert_group"),
            "moe_shared_expert_intermediate_size": same_as("moe_intermediate_size"),
        },
        public=("inclusionAI/Ling-3.0-Flash",),
    ),
    *(
        in_transformers(*names, rule=_OF_TRANSFORMERS, place=_PLACE, n_experts=_EXPERTS, layers=layers)
        for names, layers in (
            (("axk1",), listed_types),
            (("hy_v4",), listed_types),
            (("hy_v4_vl", "hy_v4_vl_text"), listed_types),
            (("dots3_note", "dots3_note_text"), listed_types),
            (("glm5_next", "glm5_next_text"), listed_types),
            (("glm4v_moe", "glm4v_moe_text"), after_first_dense),
            (("sarvam_moe",), after_first_dense),
            (("sarvam_mla",), after_first_dense),
        )
    ),
    in_transformers(
        "axk2",
        rule=replace(_OF_TRANSFORMERS, groups=_GROUPS),
        place=InTransformers(bias=_BIAS),
        n_experts=_EXPERTS,
        layers=listed_types,
    ),
    in_transformers(
        "beam",
        rule=_OF_TRANSFORMERS,
        place=InTransformers(bias=_BIAS, scaled_after=True),
        layers=listed_types,
    ),
)
