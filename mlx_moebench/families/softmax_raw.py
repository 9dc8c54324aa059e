"""Softmax over all experts in a gate with a weight of its own; DeepSeek-V2 may limit the choice to some groups."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import after_first_dense, listed_types
from .rules import Groups, Rule
from .settings import Key

_GROUPS = Groups(
    Key("n_group", 1), Key("topk_group", 1), by="max", only=(Key("topk_method", "gready"), "group_limited_greedy")
)
_V2 = Rule("softmax", groups=_GROUPS, scale=Key("routed_scaling_factor", 1.0))

FAMILIES = (
    Family(
        name="deepseek",
        model_types=("deepseek",),
        routers=(RouterForm("mlp", "mlp.gate", "mlp.switch_mlp", Rule("softmax"), seam="raw"),),
        n_experts="n_routed_experts",
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        dense=True,
        public=("deepseek-ai/deepseek-moe-16b-base",),
    ),
    Family(
        name="deepseek_v2",
        model_types=("deepseek_v2",),
        routers=(
            RouterForm(
                "mlp",
                "mlp.gate",
                "mlp.switch_mlp",
                _V2,
                seam="raw",
                torch=InTransformers(),
            ),
        ),
        n_experts=("n_routed_experts", "num_experts"),
        top_k="num_experts_per_tok",
        layers=after_first_dense,
        dense=True,
        public=("deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-V2"),
    ),
    in_transformers(
        "deepseek_ocr2",
        "deepseek_ocr2_text",
        rule=_V2,
        n_experts=("n_routed_experts", "num_experts"),
        layers=listed_types,
    ),
    in_transformers(
        "unlimited_ocr",
        "unlimited_ocr_text",
        rule=_V2,
        n_experts=("n_routed_experts", "num_experts"),
        layers=listed_types,
    ),
)
