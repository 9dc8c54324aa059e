"""Softmax over all experts, then top-k with the chosen divided by their L1 norm; experts run in a loop."""

from __future__ import annotations

from .base import Row

ROWS = [
    Row(
        "dbrx",
        {
            "architectures": ["DbrxForCausalLM"],
            "model_type": "dbrx",
            "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10000.0},
            "d_model": 64,
            "eos_token_id": 0,
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 6, "moe_top_k": 3},
            "n_heads": 4,
            "n_layers": 3,
            "vocab_size": 320,
        },
        [("mlp", 6, 3)],
        refused={"ffn_config.moe_normalize_expert_weights": 2.0},
        block="ffn",
        gate="ffn.router.layer",
        experts="ffn.experts",
        uncompilable="Attempting to eval an array during function transformations",
        note="x is flattened before the gate; experts is a list of MLPs, each called with one token, so nothing is "
        "called with (x, indices): the choice is np.array(inds) in training, inds.tolist() otherwise",
    ),
]
