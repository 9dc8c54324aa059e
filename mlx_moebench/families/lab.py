"""Models of the lab: any router of ``mlx_moebench/lab/routers/``, as the settings of config.json say."""

from __future__ import annotations

from dataclasses import dataclass, replace

from array_api_compat import array_namespace

from ..routing.record import Array, Kind
from .base import Family, RouterForm
from .layers import listed
from .rules import Groups, Parameters, Rule
from .settings import Config, Key, count, value_of

MODEL_TYPE = "moebench_lab"
UPCYCLED = "moebench_lab_llama"
"""A dense llama of which some blocks got a router of the lab."""

N_SPECIAL = Key("num_special_experts", 0)
SPECIAL = Key("special_experts", None)
"""How many columns stand behind the experts, and the kind of each."""


@dataclass(frozen=True)
class LabRule(Rule):
    """A `Rule` that knows columns without an expert of their own.

    A zero expert has weight 0, and the other chosen ones share the whole (MoE++). Null experts are all there for every
    token, chosen or not, so that what the chosen ones are divided by holds all their scores (TC-MoE).
    """

    def weights(self, z: Array, indices: Array, config: Config, parameters: Parameters | None = None) -> Array:
        """As `Rule.weights`; every weight is positive, also that of an expert whose output is taken off."""
        kinds = value_of(config, SPECIAL) or ()
        if not {"zero", "null"} & set(kinds):
            return super().weights(z, indices, config, parameters)
        xp, n_experts = array_namespace(z), count(config, "num_experts")
        ffn: Kind = "ffn"
        of_column = (ffn,) * n_experts + tuple(kinds)
        scores = self.scores(z, config)
        chosen = xp.take_along_axis(scores, indices, axis=-1)
        chosen = xp.where(_is_any(indices, of_column, "zero"), xp.zeros_like(chosen), chosen)
        if value_of(config, self.normalise):
            without_null = xp.where(_is_any(indices, of_column, "null"), xp.zeros_like(chosen), chosen)
            nulls = [scores[..., n : n + 1] for n, kind in enumerate(of_column) if kind == "null"]
            total = xp.sum(without_null, axis=-1, keepdims=True) + sum(nulls, start=0.0)
            chosen = chosen / xp.maximum(total, xp.zeros_like(total) + SMALLEST)
        factor = value_of(config, self.scale)
        return chosen if factor in (None, 1) else chosen * factor


SMALLEST = 1e-20
"""What weights are at least divided by: a token may choose nothing but zero experts."""


def _is_any(indices: Array, kinds: tuple[Kind, ...], kind: Kind) -> Array:
    """Where ``indices`` name a column of this kind; columns of a kind are neighbours."""
    if kind not in kinds:
        return indices < 0
    first = kinds.index(kind)
    return (indices >= first) & (indices < first + kinds.count(kind))


_SCRATCH = Family(
    name=MODEL_TYPE,
    model_types=(MODEL_TYPE,),
    routers=(
        RouterForm(
            "mlp",
            "mlp.gate",
            "mlp.experts",
            LabRule(
                Key("scoring_func", "softmax"),
                groups=Groups(Key("n_group", 1), Key("topk_group", 1), fill=-float("inf")),
                normalise=Key("norm_topk_prob", True),
                scale=Key("routed_scaling_factor", 1.0),
            ),
            bias="mlp.selection_bias",
            extra=N_SPECIAL,
            extra_kinds=SPECIAL,
        ),
    ),
    n_experts="num_experts",
    top_k="num_experts_per_tok",
    dense=True,
    module="mlx_moebench.lab.decoder",
)

FAMILIES = (
    _SCRATCH,
    replace(
        _SCRATCH,
        name=UPCYCLED,
        model_types=(UPCYCLED,),
        layers=listed,
        dense=False,
        module="mlx_moebench.lab.llama",
    ),
)
