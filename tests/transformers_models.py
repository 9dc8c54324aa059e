"""Tiny random models of transformers, as checkpoints that MLX loads, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import save_tokenizer
from family_rows import CONFIGS

# Tests that import this module are skipped where torch is absent.
torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")


def random_transformers(
    folder: Path, model_type: str, *, dtype: Any = torch.float32, fused: bool = False, **config: Any
) -> Any:
    """A tiny random model of transformers, also written to ``folder``: with a key per expert, or ``fused`` as here."""
    settings = {k: v for k, v in CONFIGS[model_type].items() if k not in ("model_type", "rope_theta")}
    # A base that is no one's default, to be sure that it is read.
    settings |= {"rope_parameters": {"rope_theta": 700.0, "rope_type": "default"}} | config
    torch.manual_seed(11)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(model_type, **settings), dtype=dtype
    )
    routers = router_weights(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Norms stay near 1 and biases matter. Router logits spread by about 2, so that choices are clear: much
            # more would turn the rounding of either library into a difference.
            spread = (2 if name in routers else 0.5) / p.shape[-1] ** 0.5
            p.copy_(torch.randn_like(p) * spread if p.ndim > 1 else torch.randn_like(p) / 5 + ("norm" in name))
    model.eval()
    model.save_pretrained(folder, save_original_format=not fused)
    save_tokenizer(folder, settings["vocab_size"])
    return model


def router_weights(model: Any) -> set[str]:
    """The names of the routers' parameters."""
    from torch_fallback.capture import locate

    routers = {id(weight) for router in locate(model) for weight in router.gate.parameters()}
    return {name for name, weight in model.named_parameters() if id(weight) in routers}
