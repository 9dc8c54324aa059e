"""One small file per routing form; found by listing this folder, and by entry point. Needs no MLX.

A new family is one file here that defines ``FAMILIES``, or one entry in the file of its form, and one row in
``tests/family_rows/``. A package of its own names it in the entry point group ``mlx_moebench.families``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from functools import cache
from importlib.metadata import entry_points
from typing import NamedTuple

from ..errors import MoebenchError, UnsupportedModelError
from .base import Family, InTransformers, RouterForm
from .rules import Groups, Rule
from .settings import SECTION, Config, Key, setting, value_of

__all__ = [
    "ENTRY_POINTS",
    "GUIDE",
    "Config",
    "Family",
    "Form",
    "Groups",
    "InTransformers",
    "Key",
    "RouterForm",
    "Rule",
    "built_as",
    "by_model_type",
    "families",
    "family_for",
    "forms",
    "setting",
]

GUIDE = "see CONTRIBUTING.md, 'Adding a family'"

ENTRY_POINTS = "mlx_moebench.families"
"""The group of entry points by which other packages bring families: each names a `Family` or several."""

_HELPERS = {"base", "differences", "layers", "rules", "settings", "vlm", "writers"}

_BY_ARCHITECTURE = {
    ("bailing_hybrid", "BailingMoeV3ForCausalLM"): "bailing_moe_v3",
    ("bailing_hybrid", "BailingHybridForCausalLM"): "bailing_moe_v3",
    ("minimax", "MiniMaxForCausalLM"): "minimax_text_01",
    ("minimax", "MiniMaxText01ForCausalLM"): "minimax_text_01",
}
"""Models that share a model_type with others, which ``architectures`` tells apart, and the name of their family here.

The first as in mlx-lm. The others transformers builds under the name that mlx-lm gives another model.
"""

# Any of these, with a value other than null, 0 or an empty list, marks the config of a sparse model.
_EXPERT_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_moe_experts",
    "ffn_config.moe_num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_top_k",
    "moe_topk",
    "moe_k",
)


class Form(NamedTuple):
    """A routing form. name: of the file, or of the package, that declares its families; title: what it is."""

    name: str
    title: str
    families: tuple[Family, ...]


@cache
def families() -> dict[str, Family]:
    """Every known ``model_type`` and the family that serves it: those of this folder and of installed packages.

    Raises MoebenchError for a package whose families cannot be read.
    """
    return by_model_type(family for form in forms() for family in form.families)


@cache
def forms() -> tuple[Form, ...]:
    """Every routing form, by name, those of installed packages last; raises as `families` does."""
    return (*_own(), *_of_packages())


def _own() -> Iterator[Form]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _HELPERS)
    for name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        yield Form(name, (module.__doc__ or name).strip().splitlines()[0].rstrip("."), module.FAMILIES)


def _of_packages() -> Iterator[Form]:
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.value
        try:
            loaded = point.load()
        except (ImportError, AttributeError) as error:
            raise MoebenchError(
                f"The package {package} names families that cannot be imported ({point.value}: {error}); update or "
                "uninstall it."
            ) from error
        several = (loaded,) if isinstance(loaded, Family) else tuple(loaded) if isinstance(loaded, Iterable) else ()
        if not several or not all(isinstance(family, Family) for family in several):
            raise MoebenchError(
                f"The package {package} names {point.value} as families, which is neither a Family nor several; "
                "update or uninstall it."
            )
        yield Form(package, f"Of the package {package}", several)


def by_model_type(every: Iterable[Family]) -> dict[str, Family]:
    """Index families by ``model_type``; MoebenchError where two claim the same one."""
    index: dict[str, Family] = {}
    for family in every:
        for model_type in family.model_types:
            if model_type in index:
                raise MoebenchError(
                    f"model_type {model_type!r} is claimed by {index[model_type].name} and {family.name}; where one of "
                    "them comes from a package, uninstall it."
                )
            index[model_type] = family
    return index


def built_as(model_type: str, module: str) -> str:
    """The name under which the family of a model is found that mlx-lm built from a file called ``module``."""
    return (
        module
        if any(kind == model_type and module == name for (kind, _), name in _BY_ARCHITECTURE.items())
        else model_type
    )


def family_for(config: Config) -> Family:
    """The family that serves ``config["model_type"]``.

    Raises UnsupportedModelError for a dense model, and for a sparse one that no family describes.
    """
    model_type, known = config.get("model_type"), families()
    architectures = config.get("architectures")
    for architecture in architectures if isinstance(architectures, list | tuple) else ():
        model_type = _BY_ARCHITECTURE.get((str(model_type), str(architecture)), model_type)
    if isinstance(model_type, str) and model_type in known:
        return known[model_type]
    from .vlm import served  # which needs this module

    if model_type in served():
        raise UnsupportedModelError(
            f"mlx-lm has no model_type {model_type!r}, and mlx-vlm has: load it with mlx_vlm.load and measure it with "
            "mlx_moebench.vlm.measure, as docs/vlm.md says."
        )
    counts = {key: value for key in _EXPERT_COUNTS if (value := value_of(config, Key(key, None)))}
    if not counts:
        raise UnsupportedModelError(
            f"model_type {model_type!r} is dense: its config names no experts (none of {', '.join(_EXPERT_COUNTS)} is "
            "set), so it has no router to measure; choose a sparse model (mlx-moebench models lists them)."
        )
    inner = value_of(config, Key(f"{SECTION}.model_type", None))
    if isinstance(inner, str) and inner in known:
        raise UnsupportedModelError(
            f"model_type {model_type!r} wraps a language model of type {inner!r}, which is known, in another that is "
            f"not; convert the language model alone, or {GUIDE}."
        )
    nearest = known[max(sorted(known), key=lambda name: SequenceMatcher(None, str(model_type), name).ratio())]
    looked_for = " and ".join(f"'{form.gate}' with '{form.experts}'" for form in nearest.routers)
    raise UnsupportedModelError(
        f"model_type {model_type!r} is a mixture of experts ({', '.join(f'{k}={v}' for k, v in counts.items())}), but "
        f"no family describes its routers (mlx-moebench models lists {len(known)}); the nearest, {nearest.name!r}, "
        f"looks for {looked_for} in each sparse block; {GUIDE}."
    )
