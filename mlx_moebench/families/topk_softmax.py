"""Top-K of the logits, then softmax over the chosen; gpt-oss adds a bias to its logits."""

from __future__ import annotations

from .base import Family, InTransformers, RouterForm, in_transformers
from .layers import all_layers, listed_types, periodic, periodic_in_transformers
from .rules import Rule
from .settings import Key
from .writers import FULL, LINEAR, fixed

_RULE = Rule("softmax_of_chosen")
_IN_MLP = InTransformers("mlp.router")
_MAMBA = {LINEAR: "mamba", FULL: "attention"}


def _in_granite(types: list[str]) -> list[str]:
    return [_MAMBA.get(kind, kind) for kind in types]


_GRANITE = InTransformers("block_sparse_moe.router", "block_sparse_moe.experts")

FAMILIES = (
    Family(
        name="mixtral",
        model_types=("mixtral",),
        routers=(
            RouterForm("mlp", "block_sparse_moe.gate", "block_sparse_moe.switch_mlp", _RULE, torch=InTransformers()),
        ),
        n_experts=("num_local_experts", "num_experts"),
        top_k="num_experts_per_tok",
        built_in={"hidden_act": "silu", "rope_scaling": None, "sliding_window": None},
        public=("mistralai/Mixtral-8x7B-v0.1", "mistralai/Mixtral-8x22B-v0.1"),
    ),
    Family(
        name="phixtral",
        model_types=("phixtral", "phi-msft"),
        routers=(RouterForm("mlp", "moe.gate", "moe.switch_mlp", _RULE),),
        n_experts="num_local_experts",
        top_k="num_experts_per_tok",
        public=("mlabonne/phixtral-2x2_8",),
    ),
    Family(
        name="gpt_oss",
        model_types=("gpt_oss",),
        routers=(RouterForm("mlp", "mlp.router", "mlp.experts", _RULE, torch=_IN_MLP),),
        n_experts=("num_local_experts", "num_experts"),
        top_k=("num_experts_per_tok", "experts_per_token"),
        public=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    ),
    Family(
        name="jamba",
        model_types=("jamba",),
        routers=(
            RouterForm(
                "mlp",
                "feed_forward.router",
                "feed_forward.switch_mlp",
                _RULE,
                torch=InTransformers("feed_forward.router", "feed_forward.experts", rule=Rule("softmax")),
            ),
        ),
        n_experts=("num_experts", "num_local_experts"),
        top_k="num_experts_per_tok",
        layers=periodic,
        torch_layers=periodic_in_transformers,
        dense=True,
        enough=2,
        public=("ai21labs/AI21-Jamba-Mini-1.5",),
    ),
    Family(
        name="granitemoe",
        model_types=("granitemoe", "granitemoehybrid"),
        routers=(
            RouterForm("mlp", "block_sparse_moe.router.layer", "block_sparse_moe.switch_mlp", _RULE, torch=_GRANITE),
        ),
        n_experts="num_local_experts",
        top_k="num_experts_per_tok",
        layers=all_layers,
        dense=True,
        respelled={"layer_types": _in_granite},
        others={"position_embedding_type": fixed("nope")},
        public=("ibm-granite/granite-3.1-1b-a400m-base", "ibm-granite/granite-4.0-h-small"),
    ),
    in_transformers(
        "granitemoeshared", "granitemoe_swa", rule=_RULE, place=_GRANITE, n_experts="num_local_experts", dense=True
    ),
    in_transformers("aria", "aria_text", rule=_RULE, place=_IN_MLP, n_experts="moe_num_experts", top_k="moe_topk"),
    in_transformers(
        "cohere2_moe",
        # What it calls softmax is that of the chosen; the flag is one for sigmoid.
        rule=Rule(
            Key("expert_selection_fn", "softmax"),
            normalise=Key("norm_topk_prob", True),
            spellings={"softmax": "softmax_of_chosen"},
        ),
        layers=listed_types,
    ),
)
