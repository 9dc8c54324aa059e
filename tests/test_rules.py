"""Rules against formulas written out a second time, token by token in float64, one for each form of routing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from family_rows import BY_TYPE, FORMS

from mlx_moebench.errors import ModelLoadError
from mlx_moebench.families import Groups, Key, Rule, family_for
from mlx_moebench.routing.tally import log_distribution

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Reference = Callable[[Numbers, Mapping[str, Any], Numbers, Numbers], tuple[Numbers, Numbers]]
"""Of one token's logits, the config, the bias and the experts' scales: what is ranked, and every expert's factor
before it is divided by the sum over the chosen."""


def softmax(z: Numbers) -> Numbers:
    return np.array([1 / sum(math.exp(other - one) for other in z) for one in z])


def sigmoid(z: Numbers) -> Numbers:
    return np.array([1 / (1 + math.exp(-one)) if one > -700 else 0.0 for one in z])


def limited(scores: Numbers, n_group: int, kept: int, fill: float) -> Numbers:
    """Only the groups whose two best scores add up to most keep them."""
    if n_group == 1:
        return scores
    groups = scores.reshape(n_group, -1)
    sums = [sum(sorted(group)[-2:]) for group in groups]
    best = sorted(range(n_group), key=lambda group: -sums[group])[:kept]
    return np.concatenate([group if n in best else np.full(len(group), fill) for n, group in enumerate(groups)])


def divided(scores: Numbers, chosen: Numbers, yes: bool = True) -> Numbers:
    return scores / scores[chosen].sum() if yes else scores


# Each: (z, config, bias, scales, chosen) -> (ranked, g of every expert).
def _softmax(z: Numbers, c: Mapping[str, Any], bias: Numbers, scales: Numbers, i: Numbers) -> tuple[Numbers, Numbers]:
    return softmax(z), divided(softmax(z), i, c.get("norm_topk_prob", False))


def _of_chosen(z: Numbers, c: Mapping[str, Any], bias: Numbers, scales: Numbers, i: Numbers) -> tuple[Numbers, Numbers]:
    return z, divided(softmax(z), i)


def _sigmoid_groups(
    z: Numbers, c: Mapping[str, Any], bias: Numbers, scales: Numbers, i: Numbers
) -> tuple[Numbers, Numbers]:
    score = softmax if c.get("score_func") == "softmax" else sigmoid
    scale = c.get("routed_scaling_factor") or c["route_scale"]
    norm = c["norm_topk_prob"] if "norm_topk_prob" in c else c["route_norm"]
    return limited(score(z) + bias, c["n_group"], c["topk_group"], 0.0), scale * divided(score(z), i, norm)


def _capped(z: Numbers, c: Mapping[str, Any], bias: Numbers, scales: Numbers, i: Numbers) -> tuple[Numbers, Numbers]:
    cap = c["moe_router_logit_softcapping"]
    z = np.array([cap * math.tanh(one / cap) for one in z]) if cap else z
    score = sigmoid(z)
    if c.get("moe_router_score_func") == "sqrtsoftplus":
        score = np.array([math.sqrt(math.log1p(math.exp(one))) for one in z])
    return score + bias, c["moe_routed_scaling_factor"] * divided(score, i)


def _sparsemixer(
    z: Numbers, c: Mapping[str, Any], bias: Numbers, scales: Numbers, chosen: Numbers
) -> tuple[Numbers, Numbers]:
    g, left = np.zeros(len(z)), set(range(len(z)))
    for i in chosen:
        near = [j for j in left if (z[i] - z[j]) / max(abs(z[j]), z[i]) <= 2 * c["router_jitter_noise"]]
        g[i] = 1 / sum(math.exp(z[j] - z[i]) for j in near)
        left.remove(i)
    return z, g


def _lab(z: Numbers, c: Mapping[str, Any], bias: Numbers, scales: Numbers, i: Numbers) -> tuple[Numbers, Numbers]:
    score = sigmoid(z) if c.get("scoring_func") == "sigmoid" else softmax(z)
    ranked = limited(score + bias, c.get("n_group", 1), c.get("topk_group", 1), -math.inf)
    return ranked, c.get("routed_scaling_factor", 1.0) * divided(score, i, c.get("norm_topk_prob", True))


FORMULAS: dict[str, Callable[..., tuple[Numbers, Numbers]]] = {
    "softmax_topk": _softmax,
    "softmax_raw": _softmax,
    "softmax_loop": lambda z, c, bias, scales, i: (softmax(z), divided(softmax(z), i)),
    "softmax_groups": lambda z, c, bias, scales, i: (
        limited(softmax(z), c["n_group"], c["topk_group"], 0.0),
        c["routed_scaling_factor"] * divided(softmax(z), i, c["norm_topk_prob"]),
    ),
    "zero_experts": lambda z, c, bias, scales, i: (
        softmax(z) + bias,
        c["routed_scaling_factor"] * divided(softmax(z), i, c["norm_topk_prob"]),
    ),
    "topk_softmax": _of_chosen,
    "two_routers": _of_chosen,
    "topk_softmax_scaled": lambda z, c, bias, scales, i: (z, scales * divided(softmax(z), i)),
    "sigmoid_bias": lambda z, c, bias, scales, i: (sigmoid(z) + bias, divided(sigmoid(z), i)),
    "sigmoid_groups": _sigmoid_groups,
    "sigmoid_groups_raw": _sigmoid_groups,
    "sigmoid_input": lambda z, c, bias, scales, i: (sigmoid(z), sigmoid(z)),
    "softplus": _capped,
    "sparsemixer": _sparsemixer,
    "lab": _lab,
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pytest.param(name, change, id=f"{name}-{n}" if n else name)
        for name, model_type in FORMS.items()
        for n, change in enumerate(({}, *BY_TYPE[model_type].variants))
    ],
)
def test_weights_and_ranks_by_a_second_implementation(name: str, change: dict[str, Any]) -> None:
    row, rng = BY_TYPE[FORMS[name]], np.random.default_rng(0)
    config, formula = row.config | change, FORMULAS[name]
    for form, spec in zip(family_for(config).routers, family_for(config).specs(config), strict=False):
        n, rule = spec.n_experts, form.rule
        bias = 0.3 * rng.normal(size=n) if form.bias else np.zeros(n)
        scales = rng.uniform(0.5, 1.5, n) if form.expert_scale else np.ones(n)
        logits = rng.normal(0, 2, (40, n)).astype(np.float32)
        parameters = {"bias": bias.astype(np.float32), "expert_scale": scales.astype(np.float32)}
        parameters = {name: value for name, value in parameters.items() if getattr(form, name)}
        z = rule.effective(logits, config)
        ranked, selection = log_distribution(z, rule.distribution(config))[1], rule.selection(z, config, parameters)
        ranked = ranked if selection is None else selection
        for token in range(len(logits)):
            one, everything = logits[token].astype(float), np.arange(n)
            scores, _ = formula(one, config, bias, scales, everything[: spec.top_k])
            order = np.argsort(-scores, kind="stable")
            chosen = order[: spec.top_k]
            _, g = formula(one, config, bias, scales, chosen)
            ours = rule.weights(z[token : token + 1], chosen[None], config, parameters)[0]
            np.testing.assert_allclose(ours, g[chosen], rtol=2e-5, atol=1e-7)
            np.testing.assert_array_equal(np.argsort(-ranked[token], kind="stable")[: spec.top_k], chosen)
            if selection is not None:
                np.testing.assert_allclose(selection[token], scores, rtol=1e-5, atol=1e-6)


def test_every_form_has_a_second_implementation() -> None:
    assert FORMULAS.keys() == FORMS.keys()


@pytest.mark.parametrize("model_type", FORMS.values())
def test_extreme_logits_give_finite_weights(model_type: str) -> None:
    config = BY_TYPE[model_type].config
    for form, spec in zip(family_for(config).routers, family_for(config).specs(config), strict=False):
        z = np.linspace(-1e4, 1e4, spec.n_experts, dtype=np.float32)[None]
        best = np.argsort(-z)[..., : spec.top_k]
        assert np.isfinite(form.rule.weights(form.rule.effective(z, config), best, config)).all()


def test_a_group_counts_as_much_as_its_best_or_its_two_best() -> None:
    z = np.log([[0.30, 0.01, 0.20, 0.19, 0.15, 0.15]])
    config = {"n": 3, "kept": 1}
    ranked = {
        by: Rule("softmax", groups=Groups(Key("n", 1), Key("kept", 1), by=by, fill=-1.0)).selection(z, config, {})
        for by in ("max", "top2")
    }
    np.testing.assert_allclose(ranked["max"], [[0.30, 0.01, -1, -1, -1, -1]])
    np.testing.assert_allclose(ranked["top2"], [[-1, -1, 0.20, 0.19, -1, -1]])


def test_a_limit_may_hang_on_a_setting() -> None:
    groups = Groups(Key("n", 1), Key("kept", 1), only=(Key("method", "greedy"), "grouped"))
    assert [groups.dropped({"n": 4, "kept": 1, "method": m}) for m in ("grouped", "greedy")] == [3, 0]
    assert groups.dropped({"n": 4, "kept": 1}) == 0
    assert Groups(Key("n", 1), Key("kept", 1)).dropped({"n": None, "kept": 1}) == 0


def test_dropped_experts_at_zero_outrank_kept_ones_below_it() -> None:
    """A bias of -1 makes every kept score negative: mlx-lm then chooses from the dropped groups."""
    z, config = np.array([[3.0, 2.0, -1.0, -2.0]]), {"n": 2, "kept": 1}
    for fill, best in ((0.0, {2, 3}), (-math.inf, {0, 1})):
        rule = Rule("sigmoid", groups=Groups(Key("n", 1), Key("kept", 1), fill=fill))
        scores = rule.selection(z, config, {"bias": -np.ones(4)})
        assert set(np.argsort(-scores[0])[:2].tolist()) == best


def test_a_single_expert_may_keep_its_weight() -> None:
    z, one = np.array([[0.0, 1.0]]), np.array([[1]])
    for keeps, expected in ((True, 1 / (1 + math.exp(-1))), (False, 1.0)):
        g = Rule("sigmoid", normalise=True, keeps_single=keeps).weights(z, one, {})
        np.testing.assert_allclose(g, [[expected]])


def test_temperature_and_cap_change_the_logits_first() -> None:
    z = np.array([[2.0, -4.0]])
    np.testing.assert_allclose(Rule("softmax", temperature=Key("t", 1.0)).effective(z, {"t": 2.0}), [[1.0, -2.0]])
    capped = Rule("softmax", soft_cap=Key("cap", 0.0)).effective(z, {"cap": 1.5})
    np.testing.assert_allclose(capped, [[1.5 * math.tanh(2 / 1.5), 1.5 * math.tanh(-4 / 1.5)]])
    assert Rule("softmax", soft_cap=Key("cap", 0.0)).effective(z, {"cap": None}) is z


def test_a_score_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="'x' model score by 'relu'; known are softmax, sigmoid"):
        Rule(Key("score_func", "sigmoid")).distribution({"model_type": "x", "score_func": "relu"})
