"""How routers choose and weigh: one declaration per routing form, run by NumPy, MLX and torch alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from array_api_compat import array_namespace

from ..errors import ModelLoadError
from ..routing.record import Array, Distribution
from ..routing.tally import log_softmax, softplus
from .settings import Config, Key, value_of

Score = Literal["softmax", "sigmoid", "sqrt_softplus", "softmax_of_chosen", "sparsemixer"]

DISTRIBUTIONS: dict[str, Distribution] = {
    "softmax": "softmax",
    "sigmoid": "sigmoid_normalised",
    "sqrt_softplus": "sqrt_softplus_normalised",
    "softmax_of_chosen": "softmax_then_topk_derived",
    "sparsemixer": "softmax_then_topk_derived",
}
"""The distribution p that belongs to each score."""

SPELLINGS = {"sqrtsoftplus": "sqrt_softplus"}
"""What most configs call a score, where it is not our name."""

NEVER = -1e30
"""The logit of an expert that cannot be chosen: in float32 e^z is 0, and it is a number, so that 0 times it is none."""

Parameters = Mapping[str, Array]
"""``bias`` [R], added to the scores for the choice alone; ``expert_scale`` [R], a learned factor of each weight."""


@dataclass(frozen=True)
class Groups:
    """A limit of the choice to some groups of neighbouring experts.

    number: groups; kept: how many of them may be chosen from. by: a group counts as much as its best expert
    (``max``) or as its two best together (``top2``). fill: the score of experts in dropped groups. With 0.0, experts
    of kept groups whose biased score is negative lose to those that were dropped.
    only: a setting and the value that it must have for the limit to hold.
    """

    number: Key
    kept: Key
    by: Literal["top2", "max"] = "top2"
    fill: float = 0.0
    only: tuple[Key, object] | None = None

    def dropped(self, config: Config) -> int:
        """How many groups cannot be chosen from."""
        if self.only is not None and value_of(config, self.only[0]) != self.only[1]:
            return 0
        number = value_of(config, self.number) or 1
        return int(number - value_of(config, self.kept)) if number > 1 else 0


@dataclass(frozen=True)
class Rule:
    """How one router makes scores, a choice and gate weights of its logits z [..., R].

    score: ``softmax`` and ``sigmoid`` of z over all R; ``sqrt_softplus``, sqrt(ln(1 + e^z)); ``softmax_of_chosen``,
        top-K of z and then softmax over those; ``sparsemixer`` of Phi-3.5-MoE. Or the setting that names it, and
        spellings: what that calls a score, where it is not our name.
    groups: the limit of the choice, if any.
    normalise: whether the chosen scores are divided by their sum plus ``epsilon``, at least ``floor``; a number p other
        than 1 means their p-norm. keeps_single: but not with K = 1.
    biased: what a selection bias is added to, the scores or the logits.
    scale: a factor of every weight, after that. soft_cap: c of c tanh(z / c), applied to z first; temperature: z is
        divided by it. jitter: the width of sparsemixer's band.
    """

    score: Score | Key
    groups: Groups | None = None
    normalise: bool | Key = False
    biased: Literal["scores", "logits"] = "scores"
    keeps_single: bool = False
    epsilon: float = 0.0
    floor: float | Key = 0.0
    scale: float | Key = 1.0
    soft_cap: float | Key = 0.0
    temperature: float | Key = 1.0
    jitter: float | Key = 0.0
    spellings: Mapping[str, str] = field(default_factory=lambda: SPELLINGS)

    def score_name(self, config: Config) -> str:
        """The score by our name. Raises ModelLoadError for one that nobody here has heard of."""
        name = value_of(config, self.score)
        name = self.spellings.get(name, name)
        if name not in DISTRIBUTIONS:
            raise ModelLoadError(
                f"The routers of this {config.get('model_type')!r} model score by {name!r}; known are "
                f"{', '.join(DISTRIBUTIONS)}."
            )
        return str(name)

    def distribution(self, config: Config) -> Distribution:
        """The rule that makes p of the `effective` logits."""
        return DISTRIBUTIONS[self.score_name(config)]

    def effective(self, logits: Array, config: Config) -> Array:
        """z as the scores see it: after soft cap and temperature."""
        xp = array_namespace(logits)
        cap, temperature = value_of(config, self.soft_cap) or 0.0, value_of(config, self.temperature)
        if cap > 0:
            logits = xp.where(logits > NEVER / 2, cap * xp.tanh(logits / cap), logits)
        return logits if temperature == 1 else logits / temperature

    def scores(self, z: Array, config: Config) -> Array:
        """[..., R] of effective z; for scores of the chosen alone, z itself, which is what is ranked."""
        xp, name = array_namespace(z), self.score_name(config)
        if name == "softmax":
            return log_softmax(z)[1]
        if name == "sigmoid":
            return xp.exp(-softplus(-z))
        return xp.sqrt(softplus(z)) if name == "sqrt_softplus" else z

    def selection(self, z: Array, config: Config, parameters: Parameters) -> Array | None:
        """The scores [..., R] that were ranked, of effective z; None where they rank as p does."""
        dropped = 0 if self.groups is None else self.groups.dropped(config)
        bias = parameters.get("bias")
        if bias is None and not dropped:
            return None
        scores = z if self.biased == "logits" else self.scores(z, config)
        scores = scores if bias is None else scores + bias
        return scores if self.groups is None or not dropped else _limited(scores, self.groups, config)

    def weights(self, z: Array, indices: Array, config: Config, parameters: Parameters | None = None) -> Array:
        """The gate weights g [..., K] of effective z [..., R] and the chosen ``indices`` [..., K]."""
        xp, name = array_namespace(z), self.score_name(config)
        if name == "sparsemixer":
            return _sparsemixer(z, indices, value_of(config, self.jitter))
        chosen = xp.take_along_axis(self.scores(z, config), indices, axis=-1)
        if name == "softmax_of_chosen":
            chosen = log_softmax(chosen)[1]
        elif (p := value_of(config, self.normalise)) and not (self.keeps_single and indices.shape[-1] == 1):
            total = xp.sum(chosen if p == 1 else chosen**p, axis=-1, keepdims=True)
            total = (total if p == 1 else total ** (1 / p)) + self.epsilon
            floor = value_of(config, self.floor)
            chosen = chosen / (xp.maximum(total, xp.zeros_like(total) + floor) if floor else total)
        scale = (parameters or {}).get("expert_scale")
        if scale is not None:
            chosen = chosen * xp.take(scale, xp.reshape(indices, (-1,)), axis=0).reshape(indices.shape)
        factor = value_of(config, self.scale)
        return chosen if factor in (None, 1) else chosen * factor

    def sentence(self) -> str:
        """The rule in words, for a list of families."""
        score = f"the {self.score.keys} setting's score" if isinstance(self.score, Key) else _WORDS[self.score]
        parts = [f"g = {score}"]
        if self.groups is not None:
            parts.append(f"of the kept groups only (dropped ones count {self.groups.fill:g})")
        if self.normalise:
            when = f" where {_key(self.normalise)} is true" if isinstance(self.normalise, Key) else ""
            parts.append(f"divided by their sum{when}")
        if self.scale != 1.0:
            parts.append(f"times {_key(self.scale) if isinstance(self.scale, Key) else self.scale}")
        return ", ".join(parts)


_WORDS = {
    "softmax": "softmax over all, at the chosen ones",
    "sigmoid": "sigmoid, at the chosen ones",
    "sqrt_softplus": "sqrt(softplus), at the chosen ones",
    "softmax_of_chosen": "softmax over the chosen logits only",
    "sparsemixer": "sparsemixer: softmax over those in a band below the best that is left",
}


def _key(key: Key) -> str:
    return key.keys if isinstance(key.keys, str) else key.keys[0]


def _limited(scores: Array, groups: Groups, config: Config) -> Array:
    """Scores [..., R] with the experts of dropped groups at the fill."""
    xp, number = array_namespace(scores), int(value_of(config, groups.number))
    split = xp.reshape(scores, (*scores.shape[:-1], number, -1))
    best = xp.sort(split, axis=-1)
    of_group = best[..., -1] if groups.by == "max" or split.shape[-1] == 1 else best[..., -1] + best[..., -2]
    rank = xp.argsort(xp.argsort(of_group, axis=-1), axis=-1)
    limited = xp.where((rank < groups.dropped(config))[..., None], xp.zeros_like(split) + groups.fill, split)
    return xp.reshape(limited, scores.shape)


def _sparsemixer(z: Array, indices: Array, jitter: float) -> Array:
    """g of sparsemixer at inference: choice after choice, softmax over the logits within 2 jitter |.| of the best left.

    Source: Liu et al. 2023 (arXiv 2310.00811), as transformers and mlx-lm run it.
    """
    xp = array_namespace(z)
    minus, left, weights = xp.zeros_like(z) - float("inf"), z, []
    for k in range(indices.shape[-1]):
        chosen = indices[..., k : k + 1]
        best = xp.take_along_axis(z, chosen, axis=-1)
        factor = xp.maximum(xp.abs(z), best)
        band = xp.where((best - z) / factor > 2 * jitter, minus, left)
        weights.append(xp.take_along_axis(log_softmax(band)[1], chosen, axis=-1))
        is_chosen = xp.arange(z.shape[-1], dtype=chosen.dtype, **_where(z)) == chosen
        left = xp.where(is_chosen, minus, left)
    return xp.concat(weights, axis=-1)


def _where(like: Array) -> dict[str, object]:
    """MLX has one memory, and no devices of arrays."""
    return {} if getattr(like, "device", None) is None else {"device": like.device}
