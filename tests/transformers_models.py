"""Tiny random models of transformers, as checkpoints that MLX loads, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
from conftest import save_tokenizer
from torch_rows import BY_TYPE, ROWS, VOCABULARY, TorchRow, config_of

# Tests that import this module are skipped where torch is absent.
torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `torch` is not installed")

BASE = 700.0  # of rotary embeddings: no one's default, to be sure that it is read


def random_model(row: TorchRow, *, dtype: Any = None, bias: float = 0.0, **config: Any) -> Any:
    """A tiny random model of transformers in eval mode. bias: what selection biases are about, with a spread of 0.3."""
    from torch_fallback.reading import auto_class

    settings = config_of(row, config)
    for rope in _ropes(settings.get_text_config()):
        if "rope_parameters" not in config:
            rope["rope_theta"] = BASE
    torch.manual_seed(11)
    builder = transformers.AutoModelForImageTextToText if row.text else auto_class(settings)
    model = builder.from_config(settings, dtype=dtype or torch.float32, attn_implementation="eager")
    routers = router_weights(model)
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if not p.is_floating_point():
                continue
            if name in routers or p.ndim > 1:
                # Router logits spread by about 2, so that choices are clear: much more would turn the rounding of
                # either library into a difference.
                spread = (2 if name in routers else 0.5) / p.shape[-1] ** 0.5
                p.copy_(torch.randn_like(p) * spread)
            elif _of_choice(name):
                p.copy_(torch.randn_like(p) * 0.3 + bias)
            elif name.endswith("A_log"):
                # Slow decay: where a state holds the last token alone, a norm of nearly nothing magnifies rounding.
                p.copy_(torch.randn_like(p) / 5 - 1)
            elif isinstance(p, torch.nn.Parameter):
                # Norms and scales stay near 1, or 0 where they are counted from there, and other biases matter.
                p.copy_(p.round().clamp(-3, 3).nan_to_num() + torch.randn_like(p) / 5)
    return model.eval()


def random_transformers(
    folder: Path, model_type: str, *, dtype: Any = None, fused: bool = False, bias: float = 0.0, **config: Any
) -> Any:
    """`random_model` of what mlx-lm has too, and written to ``folder``: with a key per expert, or ``fused`` as here."""
    row = BY_TYPE[model_type]
    model = random_model(row, dtype=dtype, bias=bias, **{**row.on_both, **config})
    model.save_pretrained(folder, save_original_format=not fused)
    save_tokenizer(folder, VOCABULARY)
    # Of one that only computes with pictures, too, the language model.
    inner = getattr(model, "language_model", None)
    return inner if isinstance(inner, transformers.PreTrainedModel) and hasattr(inner, "lm_head") else model


def of_each_form(rows: Iterable[TorchRow]) -> list[TorchRow]:
    """The first row of every file of families, that is of every form of routing."""
    first: dict[str, TorchRow] = {}
    folder = import_module("mlx_moebench.families").__path__
    for name in sorted(module.name for module in iter_modules(folder)):
        declared = getattr(import_module(f"mlx_moebench.families.{name}"), "FAMILIES", ())
        types = {model_type for family in declared for model_type in family.model_types}
        if row := next((row for row in rows if row.model_type in types), None):
            first[name] = row
    return list(first.values())


def router_weights(model: Any) -> set[str]:
    """The names of the routers' matrices."""
    from torch_fallback.capture import locate

    routers = {id(router.weight) for router in locate(model)}
    return {name for name, weight in model.named_parameters() if id(weight) in routers}


def _of_choice(name: str) -> bool:
    return name.rpartition(".")[2] in ("e_score_correction_bias", "expert_bias", "balancing_biases")


def _ropes(config: Any) -> Iterator[dict[str, Any]]:
    """Every rotary setting of a config, one for all layers or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" in rope:
        yield rope
    yield from (inner for inner in rope.values() if isinstance(inner, dict) and "rope_theta" in inner)


def _both() -> Iterator[TorchRow]:
    from mlx_moebench.families import families
    from mlx_moebench.families.differences import DIFFERENCES, UNREADABLE

    other = {one.model_type for one in UNREADABLE}
    other |= {name for one in DIFFERENCES if not one.shown_by and one.bias is None for name in one.model_types}
    for row in ROWS:
        family = families().get(row.model_type)
        named = family is not None and not family.only_torch and not family.unavailable
        if named and row.model_type not in other and row.model_type != "minimax":  # of which each has its own
            yield row


FORMS = [row.model_type for row in of_each_form(list(_both()))]
"""A model type of every form of routing that both libraries read and compute alike, whatever its checkpoint holds."""
