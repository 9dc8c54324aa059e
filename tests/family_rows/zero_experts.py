"""Softmax over all experts, among them some that return their input, with a selection bias."""

from __future__ import annotations

from .base import LATENT, SIZES, Row

_LONGCAT = {
    key: value for key, value in (SIZES | LATENT).items() if key not in ("intermediate_size", "num_hidden_layers")
} | {
    "attention_bias": False,
    "expert_ffn_hidden_size": 32,
    "ffn_hidden_size": 32,
    "max_position_embeddings": 512,
    "mla_scale_kv_lora": True,
    "mla_scale_q_lora": True,
    "moe_topk": 3,
    "n_routed_experts": 8,
    "norm_topk_prob": False,
    "num_layers": 3,
    "rope_theta": 10000.0,
    "routed_scaling_factor": 1.7,
    "router_bias": False,
    "zero_expert_num": 4,
    "zero_expert_type": "identity",
}
_PATHS = {
    "gate": "mlp.router.classifier",
    "bias": "mlp.router.e_score_correction_bias",
    "zero_experts": 4,
}
_VARIANTS = ({"norm_topk_prob": True}, {"router_bias": True})

ROWS = [
    Row(
        "longcat_flash",
        _LONGCAT
        | {"architectures": ["LongcatFlashForCausalLM"], "model_type": "longcat_flash", "attention_method": "MLA"},
        [("mlp", 8, 3)],
        variants=_VARIANTS,
        **_PATHS,
        note="indices of zero experts are 8 and more; the experts are called with 0 in their place and weight 0, so "
        "what they are called with is not the choice; the softmax is not in float32; the block's output is added "
        "after a second attention; a layer's cache is a pair",
    ),
    Row(
        "longcat_flash_ngram",
        _LONGCAT
        | {
            "model_type": "longcat_flash_ngram",
            "emb_neighbor_num": 3,
            "emb_split_num": 2,
            "ngram_vocab_size_ratio": 1,
        },
        [("mlp", 8, 3)],
        variants=_VARIANTS,
        **_PATHS,
        note="as longcat_flash; the cache has one entry more than there are layers, the first",
    ),
]
