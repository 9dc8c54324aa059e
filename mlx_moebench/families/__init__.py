"""One small file per routing form; found by listing this folder. Needs no MLX.

A new family is one file here that defines ``FAMILY`` and one row in ``tests/family_rows.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cache

from ..errors import UnsupportedModelError
from .base import Config, Family, RouterForm, setting

__all__ = ["GUIDE", "Config", "Family", "RouterForm", "by_model_type", "families", "family_for", "setting"]

GUIDE = "see CONTRIBUTING.md, 'Adding a family'"

# Any of these, with a value other than null, 0 or an empty list, marks the config of a sparse model.
_EXPERT_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_top_k",
)


@cache
def families() -> dict[str, Family]:
    """Every supported ``model_type`` and the family that serves it."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")
    return by_model_type(importlib.import_module(f"{__name__}.{name}").FAMILY for name in names)


def by_model_type(every: Iterable[Family]) -> dict[str, Family]:
    """Index families by ``model_type``; ValueError where two claim the same one."""
    index: dict[str, Family] = {}
    for family in every:
        for model_type in family.model_types:
            if model_type in index:
                raise ValueError(f"model_type {model_type!r} is claimed by {index[model_type].name} and {family.name}")
            index[model_type] = family
    return index


def family_for(config: Config) -> Family:
    """The family that serves ``config["model_type"]``.

    Raises UnsupportedModelError for a dense model, and for a sparse one that no family describes.
    """
    model_type, known = config.get("model_type"), families()
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    scopes = (config, config.get("text_config") or {})
    counts = {key: scope[key] for scope in scopes for key in _EXPERT_COUNTS if scope.get(key)}
    if not counts:
        raise UnsupportedModelError(
            f"model_type {model_type!r} is dense: its config names no experts (none of {', '.join(_EXPERT_COUNTS)} is "
            f"set), so it has no router to measure; choose a sparse model (supported: {', '.join(sorted(known))})."
        )
    nearest = known[max(sorted(known), key=lambda name: SequenceMatcher(None, str(model_type), name).ratio())]
    looked_for = " and ".join(f"'{form.gate}' with '{form.experts}'" for form in nearest.routers)
    raise UnsupportedModelError(
        f"model_type {model_type!r} is a mixture of experts ({', '.join(f'{k}={v}' for k, v in counts.items())}), but "
        f"no family describes its routers (supported: {', '.join(sorted(known))}); the nearest, {nearest.name!r}, "
        f"looks for {looked_for} in each sparse block; {GUIDE}."
    )
