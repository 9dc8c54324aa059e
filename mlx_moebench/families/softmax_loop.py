"""DBRX: softmax over all experts, top-K, divided by their sum; the block calls its experts itself, one by one.

What they return is heard, but no other choice can take the place of theirs: there is no call that gets all indices.
"""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm
from .rules import Rule
from .settings import Key

_NORM = "ffn_config.moe_normalize_expert_weights"

FAMILIES = (
    Family(
        name="dbrx",
        model_types=("dbrx",),
        routers=(
            RouterForm(
                "mlp",
                "ffn.router.layer",
                "ffn",
                Rule("softmax", normalise=True),
                one_by_one="experts",
                # transformers always writes the setting; null means none, and another number another norm.
                torch=InTransformers(
                    "ffn.router", "ffn.experts", output="logits", rule=Rule("softmax", normalise=Key(_NORM, None))
                ),
            ),
        ),
        n_experts="ffn_config.moe_num_experts",
        top_k="ffn_config.moe_top_k",
        built_in={_NORM: 1.0},
        public=("databricks/dbrx-instruct",),
    ),
)
