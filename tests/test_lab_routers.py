"""The routers of the lab: against NumPy, by finite differences, as families, at balance. A router is one row here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")

import lab_reference as reference  # noqa: E402

from mlx_moebench.errors import ModelLoadError, TrainingError  # noqa: E402
from mlx_moebench.families import family_for  # noqa: E402
from mlx_moebench.instrument import attach, capture, config_of  # noqa: E402
from mlx_moebench.lab.decoder import Mixture, Model, ModelArgs  # noqa: E402
from mlx_moebench.lab.initial import initialise  # noqa: E402
from mlx_moebench.lab.objective import Objective  # noqa: E402
from mlx_moebench.lab.presets import PRESETS, Preset, count_parameters, model_args  # noqa: E402
from mlx_moebench.lab.routers import router_names  # noqa: E402
from mlx_moebench.lab.routers.base import route  # noqa: E402
from mlx_moebench.routing.tally import log_distribution  # noqa: E402

import mlx.nn as nn  # isort: skip  # noqa: E402
from mlx.utils import tree_flatten  # isort: skip  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")


class Case(NamedTuple):
    """A router. columns: R of ``SMALL``. gate: parameters of a gate at d = 512, N = 66, K = 8. at_balance: the balance
    loss there."""

    columns: int
    gate: int
    at_balance: float = 1.0


CASES = {
    "smoe": Case(8, 33_792),
    "xmoe": Case(8, 19_074),
    "sigma": Case(8, 33_792, 0.0),
    "shared_v2": Case(6, 32_768),
    "shared_v3": Case(6, 32_768, 0.0),
    "tc_moe": Case(20, 71_680),
    "moepp": Case(11, 43_364),
}
"""One row a router."""

SMALL = Preset(2, 16, 2, 8, 8, 4, 6, 1, 50, 12, 4, 2, 3, 0, 1.0, 1e-3)
each = pytest.mark.parametrize("name", CASES)
each_spec = pytest.mark.parametrize("spec", ["paper", "libmoe"])


def build(name: str, spec: Any = "paper", seed: int = 0, **axes: Any) -> Model:
    args = replace(model_args(SMALL, name, spec), **axes)
    model = Model(args)
    initialise(model, args, seed)
    for layer in model.layers:  # biases of both signs, gates that decide
        if args.selection_bias:
            layer.mlp.selection_bias = 0.3 * mx.random.normal((args.num_experts,), key=mx.random.key(5))
        if args.num_experts:
            layer.mlp.gate.weight = layer.mlp.gate.weight * 3
    model.eval()
    mx.eval(model.parameters())
    return model


def mixture_weights(mixture: Mixture) -> dict[str, Any]:
    return {name: np.array(value, np.float64) for name, value in tree_flatten(mixture.parameters())}


def test_every_router_is_a_row() -> None:
    assert sorted(CASES) == router_names()


@each
@each_spec
def test_a_block_is_what_the_equations_say(name: str, spec: str) -> None:
    """Forward within 1e-5: logits, choice in order, weights and output of both blocks, the second after the first."""
    model = build(name, spec)
    x = mx.random.normal((2, 5, SMALL.hidden), key=mx.random.key(1))
    before = None
    for layer in model.layers:
        routing = layer.mlp.routing(x, before)
        y, logits = layer.mlp(x, before)
        assert routing.logits.shape[-1] == CASES[name].columns
        w, k = mixture_weights(layer.mlp), model.args.num_experts_per_tok
        for row in range(2):
            for place in range(5):
                carried = None if before is None else np.array(before[row, place], np.float64)
                said = reference.block(name, spec, w, k, np.array(x[row, place], np.float64), carried)
                np.testing.assert_allclose(logits[row, place], said.logits, atol=1e-5)
                assert routing.indices[row, place].tolist() == said.chosen
                np.testing.assert_allclose(routing.weights[row, place], said.weights, atol=1e-5)
                np.testing.assert_allclose(y[row, place], said.output, atol=1e-5)
        before = logits


@each
@each_spec
def test_gradients_are_finite_differences(name: str, spec: str) -> None:
    """Of every parameter of two blocks in float64 NumPy, at the choice that was made."""
    model = build(name, spec)
    x = mx.random.normal((1, 3, SMALL.hidden), key=mx.random.key(2))
    direction = mx.random.normal((1, 3, SMALL.hidden), key=mx.random.key(3))
    first, second = (layer.mlp for layer in model.layers)

    def loss(parameters: Any) -> Any:
        first.update(parameters[0])
        second.update(parameters[1])
        y, logits = first(x)
        return ((y + second(x, logits)[0]) * direction).sum()

    parameters = [first.trainable_parameters(), second.trainable_parameters()]
    gradients = mx.grad(loss)(parameters)
    rng, k = np.random.default_rng(0), model.args.num_experts_per_tok
    w = [mixture_weights(first), mixture_weights(second)]
    points, along = np.array(x[0], np.float64), np.array(direction[0], np.float64)

    def slow() -> tuple[float, list[Any]]:
        total, chosen = 0.0, []
        for point, one in zip(points, along, strict=True):
            a = reference.block(name, spec, w[0], k, point, None)
            b = reference.block(name, spec, w[1], k, point, a.logits)
            total += float((a.output + b.output) @ one)
            chosen += [a.chosen, b.chosen]
        return total, chosen

    _, chosen = slow()
    for number, block in enumerate(gradients):
        for path, gradient in tree_flatten(block):
            values, step = w[number][path], 1e-5
            for flat in rng.choice(values.size, min(4, values.size), replace=False):
                place = np.unravel_index(flat, values.shape)
                kept, sides = values[place], []
                for side in (1, -1):
                    values[place] = kept + side * step
                    value, now = slow()
                    assert now == chosen
                    sides.append(value)
                values[place] = kept
                expected = (sides[0] - sides[1]) / (2 * step)
                assert abs(float(gradient[place]) - expected) < 1e-4 + 1e-3 * abs(expected), f"{number} {path} {place}"
    assert "selection_bias" not in dict(tree_flatten(gradients))


@each
@each_spec
def test_the_family_recomputes_what_the_block_did(name: str, spec: str) -> None:
    """Weights and scores by the declared rule, from logits and indices alone, are the router's own."""
    model, seen = build(name, spec), []
    ids = mx.random.randint(0, 50, (2, 9), key=mx.random.key(0))
    own: list[Any] = []
    for layer in model.layers:
        kind = type(layer.mlp)

        class Noting(kind):  # type: ignore[misc, valid-type]
            def routing(self, *arguments: Any) -> Any:
                own.append(super().routing(*arguments))
                return own[-1]

        layer.mlp.__class__ = Noting
    with capture(model, lambda *call: seen.append(call)) as taps:
        model(ids)
        records = [taps.routing(n, z, i, mx.ones(ids.shape, dtype=mx.bool_)) for n, z, i, _ in seen]
    assert len(records) == len(own) == SMALL.layers
    for ours, theirs, tapped in zip(records, own, taps.specs, strict=True):
        np.testing.assert_allclose(ours.weights, theirs.weights, atol=1e-6)
        assert ours.distribution == theirs.distribution == tapped.distribution
        assert tapped.n_experts == CASES[name].columns
        assert (tapped.kinds, tapped.signs) == (theirs.kinds, theirs.signs)
        assert (ours.selection is None) == (theirs.selection is None)
        if ours.selection is not None:
            np.testing.assert_allclose(ours.selection, theirs.selection, atol=1e-6)
        ranked = np.array(
            log_distribution(ours.logits, ours.distribution)[1] if ours.selection is None else ours.selection
        )
        order = np.argsort(-ranked, axis=-1, kind="stable")[..., : tapped.top_k]
        np.testing.assert_array_equal(order, np.array(ours.indices))


@each
def test_every_selection_is_counted(name: str) -> None:
    model = build(name)
    ids = mx.random.randint(0, 50, (3, 7), key=mx.random.key(0))
    with attach(model) as stats:
        model(ids)
    for number, spec in enumerate(stats.specs):
        assert stats.totals(number).counts.sum() == 21 * spec.top_k
    assert not any(warning for warning in stats.report()["model"]["warnings"] if "softmax" in warning)


@each
def test_parameters_are_those_of_the_table(name: str) -> None:
    counts = count_parameters(Model(model_args(PRESETS["158m"], name)))
    assert counts.router == CASES[name].gate
    if name == "moepp":
        experts = dict(tree_flatten(Model(model_args(PRESETS["158m"], name)).layers[1].mlp.experts.parameters()))
        assert experts["constant"].size + experts["mix"].size == 9216


def test_presets_have_the_published_numbers_of_parameters() -> None:
    for name, total, active, dense in (
        ("158m", 157_934_400, 36_299_584, 35_758_912),
        ("679m", 678_287_168, 130_930_496, 129_713_984),
    ):
        assert count_parameters(Model(model_args(PRESETS[name], "smoe")))[:2] == (total, active)
        assert count_parameters(Model(model_args(PRESETS[name], "dense"))).total == dense


def test_a_dense_baseline_of_twice_the_flops_has_twice_the_products() -> None:
    def products(args: ModelArgs) -> int:
        sizes = dict(tree_flatten(Model(args).parameters()))
        return sum(v.size for name, v in sizes.items() if v.ndim == 2 and "embed" not in name)

    one, two = (products(model_args(PRESETS["tiny"], "dense", flops=flops)) for flops in (1.0, 2.0))
    assert abs(two / one - 2) < 0.005
    with pytest.raises(TrainingError, match="flops = 2 is for the dense baseline"):
        model_args(SMALL, "smoe", flops=2)


# -- what single routers promise ---------------------------------------------------------------------------------------


def test_tc_moe_takes_off_and_leaves_out() -> None:
    """A column that takes off gives minus what its twin gives; a token that chose null experts alone gets nothing."""
    mixture = build("tc_moe").layers[0].mlp
    n, x = SMALL.experts, mx.random.normal((1, 1, SMALL.hidden), key=mx.random.key(0))
    rows = np.array(mixture.gate.weight) * 0
    axis = np.array(x[0, 0]) / float((x * x).sum())
    outputs = {}
    for what, columns in {"adds": range(4), "takes off": range(n, n + 4), "null": range(2 * n, 2 * n + 4)}.items():
        rows[:] = 0
        for place, column in enumerate(columns):
            rows[column] = axis * (40 + place)
        mixture.gate.weight = mx.array(rows)
        outputs[what] = np.array(mixture(x)[0])
        assert sorted(mixture.routing(x).indices[0, 0].tolist()) == list(columns)
    np.testing.assert_allclose(outputs["adds"], -outputs["takes off"], atol=1e-6)
    assert np.abs(outputs["adds"]).max() > 1e-2
    assert not outputs["null"].any()


def test_null_experts_start_with_few_of_the_picks() -> None:
    """With all logits alike but for the offsets, N + N e^-1 + K e^-10: nulls have about 4e-6 e^-10's worth each."""
    args = model_args(PRESETS["158m"], "tc_moe")
    offsets = build("tc_moe").layers[0].mlp.gate._offsets
    assert offsets.tolist() == [0.0] * 8 + [-1.0] * 8 + [-10.0] * 4
    z = np.array([0.0] * 66 + [-1.0] * 66 + [-10.0] * 8)
    p = np.exp(z) / np.exp(z).sum()
    assert args.kinds.count("null") == 8
    assert p[132:].sum() == pytest.approx(4.0e-6, rel=0.01)


def test_moepp_carries_logits_with_gradient() -> None:
    """The loss of the second block alone reaches the first router, and only through what is carried."""
    model = build("moepp")
    first, second = (layer.mlp for layer in model.layers)
    x = mx.random.normal((1, 4, SMALL.hidden), key=mx.random.key(0))

    def loss(weight: Any, carried: bool) -> Any:
        first.gate.weight = weight
        logits = first.routing(x).logits
        return mx.square(second(x, logits if carried else mx.stop_gradient(logits))[0]).sum()

    assert mx.abs(mx.grad(loss)(first.gate.weight, True)).max() > 1e-4
    assert mx.abs(mx.grad(loss)(first.gate.weight, False)).max() == 0
    assert "carry" not in first.gate
    assert second.gate.carry.shape == (11, 11)


def test_moepp_zero_experts_have_no_weight_and_may_be_all_there_is() -> None:
    axes = build("moepp", num_experts_per_tok=1).args
    z = np.zeros((1, 1, 11), np.float32)
    z[..., -1] = 9  # the zero expert
    routing = route(axes, mx.array(z))
    assert routing.indices.tolist() == [[[10]]]
    assert routing.weights.tolist() == [[[0.0]]]


def test_double_softmax_pins_the_weights_and_a_single_one_does_not() -> None:
    """H(g) / ln K of XMoE's K weights: above 0.99 whatever the logits where softmax is applied twice."""

    def evenness(spec: str) -> float:
        args = replace(model_args(PRESETS["158m"], "xmoe", spec), num_hidden_layers=1)  # type: ignore[arg-type]
        model = Model(args)
        initialise(model, args, 0)
        g = np.array(model.layers[0].mlp.routing(mx.random.normal((1, 64, 512), key=mx.random.key(0))).weights, float)
        return float((-(g * np.log(g)).sum(-1)).mean() / np.log(g.shape[-1]))

    assert evenness("libmoe") > 0.99 > evenness("paper")


def test_groups_that_are_dropped_are_not_chosen_from() -> None:
    axes = build("shared_v3", n_group=3, topk_group=2, selection_bias=False).args
    z = mx.array([[[3.0, 2.9, 5.0, -9.0, 1.0, 0.9]]])
    assert sorted(route(axes, z).indices[0, 0].tolist()) == [0, 1]  # the best expert is in the worst group
    limited = build("smoe", n_group=4, topk_group=2, num_experts_per_tok=3).args
    z = mx.random.normal((1, 40, 8), key=mx.random.key(0))
    for chosen in route(limited, z).indices[0].tolist():
        assert len({one // 2 for one in chosen}) <= 2


def test_expert_dropout_is_of_training_alone() -> None:
    model = build("sigma", expert_dropout=0.5)
    mixture, x = model.layers[0].mlp, mx.random.normal((1, 200, SMALL.hidden), key=mx.random.key(0))
    still = mixture.routing(x).indices
    assert mx.array_equal(still, mixture.routing(x).indices)
    mixture.train()
    mx.random.seed(0)
    assert mx.mean(mx.any(mixture.routing(x).indices != still, axis=-1)) > 0.5


def test_rows_of_sigma_begin_with_one_norm() -> None:
    args = model_args(PRESETS["tiny"], "sigma")
    model = Model(args)
    initialise(model, args, 0)
    norms = np.linalg.norm(np.array(model.layers[0].mlp.gate.weight), axis=-1)
    np.testing.assert_allclose(norms, (2 / args.num_hidden_layers) ** 0.5, rtol=1e-5)


def test_models_of_one_seed_differ_in_their_routers_alone() -> None:
    a, b = (dict(tree_flatten(build(name, seed=3).parameters())) for name in ("smoe", "sigma"))
    assert all(mx.array_equal(a[name], b[name]) == ("gate" not in name) for name in a)
    other = dict(tree_flatten(build("smoe", seed=4).parameters()))
    assert not mx.array_equal(a["lm_head.weight"], other["lm_head.weight"])


def test_a_config_whose_columns_do_not_add_up_is_one_clear_sentence() -> None:
    config = config_of(build("moepp"))
    for change in ({"num_special_experts": 2}, {"special_experts": ["constant", "copy", "ghost"]}):
        with pytest.raises(ModelLoadError, match=r"must name the kind .* of each of the"):
            family_for(config).specs(config | change)


# -- losses ------------------------------------------------------------------------------------------------------------


@each
def test_the_balance_loss_is_its_coefficient_at_balance(name: str) -> None:
    """f and P of every column alike; of TC-MoE of every expert, both of its columns together."""
    from mlx_moebench.train.losses import TokenSums

    model = build(name)
    r, objective = CASES[name].columns, Objective(model)
    even = TokenSums(
        p=mx.full((1, r), 30 / r), counts=mx.full((1, r), 120 / r), entropy=mx.zeros(1), z_squared=mx.zeros(1),
        n=mx.array([30.0]),
    )  # fmt: skip
    assert float(objective._balance(0, even, even, even)) == pytest.approx(CASES[name].at_balance, abs=1e-5)
    objective.close()


@each
def test_the_loss_is_cross_entropy_and_the_coefficients_times_the_losses(name: str) -> None:
    model = build(name)
    ids = mx.random.randint(0, 50, (3, 13), key=mx.random.key(0))
    objective = Objective(model, z_weight=0.1)
    loss, measured = objective(ids)
    args = model.args
    expected = measured.ce + args.balance_weight * measured.balance.sum() + 0.1 * measured.z.sum()
    nulls = 0.0
    if args.reward:
        first = args.kinds.index("null")
        nulls = sum(float(one.p[0, first:].sum() / one.n[0]) for one in measured.sums)
    assert float(loss) == pytest.approx(float(expected) - args.reward * nulls, rel=1e-6)
    plain = nn.losses.cross_entropy(model(ids[:, :-1]), ids[:, 1:], reduction="mean")
    assert float(measured.ce) == pytest.approx(float(plain), rel=1e-6)
    objective.close()


def test_half_and_half_keeps_equal_experts_what_they_were() -> None:
    """Every expert and half of the shared FFN the same network: the block's output is that network's."""
    from mlx_moebench.lab.routers import halved

    args = model_args(SMALL, "shared_v2")
    args = replace(halved(args), shared_experts=1)  # type: ignore[type-var]
    model = Model(args)  # type: ignore[arg-type]
    initialise(model, args, 0)  # type: ignore[arg-type]
    mixture = model.layers[0].mlp
    for name in ("input_linear", "output_linear"):
        one = mixture.shared[name].weight
        mixture.experts[name].weight = mx.broadcast_to(one, (args.num_experts, *one.shape))
    x = mx.random.normal((1, 4, SMALL.hidden), key=mx.random.key(0))
    np.testing.assert_allclose(mixture(x)[0], mixture.shared(x), atol=1e-5)


def test_the_bias_is_saved_and_has_no_gradient() -> None:
    mixture = build("shared_v3").layers[0].mlp
    assert "selection_bias" in mixture.parameters()
    assert "selection_bias" not in mixture.trainable_parameters()
