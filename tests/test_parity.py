"""Parity with transformers, model by model: the same random weights, the same routing, the same logits.

What mlx-lm and transformers compute differently is a list, `mlx_moebench.families.differences`. A test fails where a
listed difference is gone, and where there is one that is not listed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_rows import ROWS as MLX_ROWS
from mended_weights import MENDED, mend
from torch_rows import BY_TYPE, ROWS, TorchRow, settings_of
from transformers_models import random_transformers, torch

from mlx_moebench import load
from mlx_moebench.errors import ModelLoadError
from mlx_moebench.families import families
from mlx_moebench.families.differences import DIFFERENCES, UNREADABLE, Difference
from mlx_moebench.instrument import capture
from mlx_moebench.routing.record import RouterSpec, Routing
from mlx_moebench.routing.tally import log_distribution
from torch_fallback.caches import cache_argument, returned_cache
from torch_fallback.capture import Capture, config_of, locate

import mlx.core as mx  # isort: skip
import mlx.nn as nn  # isort: skip
from mlx.utils import tree_flatten  # isort: skip
from mlx_lm.models.cache import make_prompt_cache  # isort: skip


NEAR_TIE = 1e-6
TOLERANCE = 1e-5
PROMPT = 11  # tokens of a row that fill the cache in one forward; the rest follow one by one

BOTH = [
    row
    for row in ROWS
    if (family := families().get(row.model_type)) and not family.only_torch and not family.unavailable
]
# MiniMax-Text-01 in transformers, MiniMax-M2 in mlx-lm.
BOTH.remove(BY_TYPE["minimax"])
# mlx-lm knows it inside qwen3_5_moe alone, with whose weights it is compared.
BOTH.remove(BY_TYPE["qwen3_5_moe_text"])

Routed = tuple[RouterSpec, Routing]

pytestmark = [pytest.mark.usefixtures("one_torch_thread", "cpu")]


def _is_listed(row: TorchRow, config: Mapping[str, Any], bias: float) -> bool:
    """Whether a difference is listed that shows in such a checkpoint."""
    settings = {**row.on_both, **config}
    return any(
        row.model_type in one.model_types and (one.bias is None or bias <= one.bias) and _within(one.shown_by, settings)
        for one in DIFFERENCES
    )


def _within(part: Any, whole: Any) -> bool:
    if not isinstance(part, Mapping):
        return bool(part == whole)
    return isinstance(whole, Mapping) and all(key in whole and _within(part[key], whole[key]) for key in part)


def _cases() -> list[Any]:
    """Every row and variant with selection biases about 0, and where there are such biases about -0.5 and -1, too."""
    cases = []
    for row in BOTH:
        biased = any(form.torch and form.torch.bias for form in families()[row.model_type].routers)
        for number, variant in enumerate(row.variants or ({},)):
            for bias in (0.0, -0.5, -1.0) if biased and number == 0 else (0.0,):
                if not _is_listed(row, variant, bias):
                    cases.append(pytest.param(row, variant, bias, id=f"{row.model_type}-{dict(variant)}-{bias:g}"))
    return cases


def _latent_epsilon(model: Any) -> None:
    """The one thing that mlx-lm has otherwise in LongCat, by no setting."""
    for name, module in model.named_modules():
        if name.endswith(("q_a_layernorm", "kv_a_layernorm")):
            module.variance_epsilon = 1e-5


ALIGNED: dict[str, Callable[[Any], None]] = {"longcat_flash": _latent_epsilon}
"""Changes of transformers' model without which a listed difference would hide all others."""


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(5).integers(3, 300, (2, 12))


def theirs_on(model: Any, ids: np.ndarray) -> tuple[np.ndarray, list[Routed]]:
    """The logits of transformers' model, and what each router did; tests/test_torch_models.py proves the reading."""
    routed: dict[int, Routed] = {}
    located, config = locate(model), config_of(model)

    def sink(number: int, logits: Any, indices: Any, _weights: Any, _shape: tuple[int, ...]) -> None:
        routing = located[number].routing(logits, indices, config)
        fields = {name: value for name, value in vars(routing).items() if isinstance(value, torch.Tensor)}
        routed[number] = (
            located[number].spec,
            replace(routing, **{name: value.numpy() for name, value in fields.items()}),
        )

    with torch.no_grad(), Capture(model, sink):
        logits = model(input_ids=torch.tensor(ids), use_cache=False).logits.numpy()
    return logits, [routed[number] for number in sorted(routed)]


def ours_on(model: Any, ids: np.ndarray) -> tuple[np.ndarray, list[Routed]]:
    """The logits of our model, and what each router did."""
    routed: dict[int, Routed] = {}
    mask = mx.ones(ids.shape, dtype=mx.bool_)

    def sink(number: int, logits: mx.array, indices: mx.array, _shape: tuple[int, ...]) -> None:
        routed[number] = (taps.specs[number], taps.routing(number, logits, indices, mask))

    with capture(model, sink) as taps:
        logits = np.array(model(mx.array(ids)))
    return logits, [routed[number] for number in sorted(routed)]


def flat(array: Any) -> np.ndarray:
    """[..., N] as [T, N]."""
    whole = np.array(array)
    return whole.reshape(-1, whole.shape[-1])


def over_experts(routing: Routing, values: np.ndarray) -> np.ndarray:
    """Values per selection [T, K] as values per expert [T, E], zero where an expert was not chosen."""
    result = np.zeros(flat(routing.logits).shape)
    np.put_along_axis(result, flat(routing.indices).astype(np.int64), values, axis=-1)
    return result


def faults(ours: list[Routed], theirs: list[Routed]) -> list[str]:
    """Where two models route differently: another set of experts away from ties, z, p or g."""
    found: list[str] = []
    assert [spec.name for spec, _ in ours] == [spec.name for spec, _ in theirs]
    for (spec, our), (their_spec, their) in zip(ours, theirs, strict=True):
        same = ("n_experts", "top_k", "distribution", "kinds")
        if (what := [getattr(spec, name) for name in same]) != [getattr(their_spec, name) for name in same]:
            found.append(f"{spec.name}: {what}, {their_spec}")
            continue
        z, their_z = flat(our.logits), flat(their.logits)
        if np.abs(z - their_z).max() > TOLERANCE * max(1.0, np.abs(their_z).max()):
            found.append(f"{spec.name}: z off by {np.abs(z - their_z).max():.2g}")
        p, their_p = (log_distribution(one, spec.distribution)[1] for one in (z, their_z))
        if np.abs(p - their_p).max() > TOLERANCE:
            found.append(f"{spec.name}: p off by {np.abs(p - their_p).max():.2g}")
        scores = np.sort(flat(their.logits if their.selection is None else their.selection))[:, ::-1]
        sets = [over_experts(one, np.ones(flat(one.indices).shape)) for one in (our, their)]
        other = (sets[0] != sets[1]).any(-1)
        gaps = scores[:, spec.top_k - 1] - scores[:, spec.top_k]
        if (gaps[other] > NEAR_TIE).any():
            found.append(f"{spec.name}: other experts for {other.sum()} of {len(other)} tokens, gaps {gaps[other]}")
        g, their_g = (over_experts(one, flat(one.weights))[~other] for one in (our, their))
        if g.size and np.abs(g - their_g).max() > TOLERANCE:
            found.append(f"{spec.name}: g off by {np.abs(g - their_g).max():.2g}")
    return found


def of_logits(ours: np.ndarray, theirs: np.ndarray) -> list[str]:
    """Whether the models' logits differ."""
    assert np.abs(theirs).max() > 0.5
    worst = np.abs(ours - theirs).max()
    return [f"logits off by {worst:.2g}"] if worst > TOLERANCE * max(1.0, np.abs(theirs).max()) else []


def loaded_by_both(folder: Path, row: TorchRow, bias: float = 0.0, **config: Any) -> tuple[Any, Any]:
    """transformers' model of a row and ours, of the same random weights."""
    theirs = random_transformers(folder, row.model_type, bias=bias, **config)
    if row.model_type in MENDED:
        mend(folder, row.model_type)
    return theirs, load(folder)[0]


@pytest.mark.parametrize(("row", "variant", "bias"), _cases())
def test_routing_and_logits(
    tmp_path: Path, ids: np.ndarray, row: TorchRow, variant: Mapping[str, Any], bias: float
) -> None:
    theirs, ours = loaded_by_both(tmp_path, row, bias, **variant)
    expected, their_routing = theirs_on(theirs, ids)
    logits, routing = ours_on(ours, ids)
    assert faults(routing, their_routing) + of_logits(logits, expected) == []


GROUPS = {"n_group", "num_expert_group"}


@pytest.mark.parametrize(
    "model_type", next(one.model_types for one in DIFFERENCES if one.what == "experts of dropped groups")
)
@pytest.mark.parametrize("bias", [-0.5, -1.0])
def test_without_groups_biases_of_any_sign_choose_the_same(
    tmp_path: Path, ids: np.ndarray, model_type: str, bias: float
) -> None:
    """So that what dropped groups count is all that they differ by."""
    row = BY_TYPE[model_type]
    text = settings_of(row)
    theirs, ours = loaded_by_both(tmp_path, row, bias, **{key: 1 for key in (*GROUPS, "topk_group") if key in text})
    expected, their_routing = theirs_on(theirs, ids)
    logits, routing = ours_on(ours, ids)
    assert faults(routing, their_routing) + of_logits(logits, expected) == []


@pytest.mark.parametrize("model_type", list(ALIGNED))
@pytest.mark.parametrize("bias", [0.0, -0.5, -1.0])
def test_with_what_is_listed_made_equal_there_is_nothing_else(
    tmp_path: Path, ids: np.ndarray, model_type: str, bias: float
) -> None:
    theirs, ours = loaded_by_both(tmp_path, BY_TYPE[model_type], bias)
    ALIGNED[model_type](theirs)
    expected, their_routing = theirs_on(theirs, ids)
    logits, routing = ours_on(ours, ids)
    assert faults(routing, their_routing) + of_logits(logits, expected) == []


@pytest.mark.parametrize(
    ("difference", "model_type"),
    [(one, name) for one in DIFFERENCES for name in one.model_types],
    ids=lambda value: value.what if isinstance(value, Difference) else value,
)
def test_listed_differences_are_still_there(
    tmp_path: Path, ids: np.ndarray, difference: Difference, model_type: str
) -> None:
    row = BY_TYPE[model_type]
    settings = dict(difference.shown_by)
    if "ffn_config" in settings:  # a section, of which a part is changed
        settings["ffn_config"] = {**row.config["ffn_config"], **settings["ffn_config"]}
    theirs = random_transformers(tmp_path, model_type, bias=0.0 if difference.bias is None else -1.0, **settings)
    if model_type in MENDED:
        mend(tmp_path, model_type)
    if difference.refused:
        with pytest.raises(ModelLoadError, match=r"the MLX model (is built with|builds them in)|do not fit"):
            load(tmp_path)
        return
    expected, their_routing = theirs_on(theirs, ids)
    logits, routing = ours_on(load(tmp_path)[0], ids)
    assert faults(routing, their_routing) + of_logits(logits, expected)


@pytest.mark.parametrize("model_type", [one.model_type for one in UNREADABLE])
def test_what_mlx_lm_cannot_read_is_said_so(tmp_path: Path, model_type: str) -> None:
    """Where this loads, transformers or mlx-lm has learnt it, and the entry in the list is of the past."""
    random_transformers(tmp_path, model_type)
    with pytest.raises(ModelLoadError, match="do not fit"):
        load(tmp_path)


def test_every_mended_checkpoint_is_listed() -> None:
    assert list(MENDED) == [one.model_type for one in UNREADABLE]
    assert {name for one in DIFFERENCES for name in one.model_types} <= {row.model_type for row in BOTH}


# mlx-lm's other model types: transformers has no model of that name, or cannot build it alone.
def test_what_has_no_parity_test() -> None:
    with_parity = {row.model_type for row in BOTH}
    others = {
        name
        for name, family in families().items()
        if not family.only_torch and not family.unavailable and all(form.torch for form in family.routers)
    }
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    assert {name for name in others if name in CONFIG_MAPPING} - with_parity == NOT_PARITY


NOT_PARITY = {
    "qwen3_5_moe_text",  # see above
    "minimax",  # transformers' is MiniMax-Text-01
    "llava",  # mlx-lm's and transformers' are other models but where they wrap Mistral 4, and then mistral3 is the same
    "qwen3_5",  # transformers' is dense
    "gemma4_unified",  # for mlx-lm another name of gemma4
}


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in BOTH if not _is_listed(row, {}, 0.0)], ids=lambda row: row.model_type)
def test_logits_with_a_cache(tmp_path: Path, row: TorchRow) -> None:
    ids = np.random.default_rng(5).integers(3, 300, (2, 24))
    theirs, model = loaded_by_both(tmp_path, row)
    cache, expected, logits, past = make_prompt_cache(model), [], [], None
    for part in np.split(ids, range(PROMPT, ids.shape[1]), axis=1):
        with torch.no_grad():
            output = theirs(input_ids=torch.tensor(part), use_cache=True, **{cache_argument(theirs): past})
        past = returned_cache(output)
        expected.append(output.logits.numpy())
        logits.append(np.array(model(mx.array(part), cache=cache)))
    with torch.no_grad():
        whole = theirs(input_ids=torch.tensor(ids), use_cache=False).logits.numpy()
    # As near as transformers' own are with and without a cache, which window and scale may magnify.
    near = max(TOLERANCE * np.abs(whole).max(), 2 * np.abs(np.hstack(expected) - whole).max())
    assert near < 1e-4
    np.testing.assert_allclose(np.hstack(logits), np.hstack(expected), atol=near, rtol=0)
    # Two of MLX's own, each as far from transformers'.
    np.testing.assert_allclose(np.hstack(logits), model(mx.array(ids)), atol=2 * near, rtol=0)


@pytest.mark.parametrize(
    "model_type",
    [name for name, family in families().items() if family.module and all(form.torch for form in family.routers)],
)
def test_gradients_of_our_own_port(tmp_path: Path, ids: np.ndarray, model_type: str) -> None:
    theirs = random_transformers(tmp_path, model_type)
    (theirs(input_ids=torch.tensor(ids), use_cache=False).logits ** 2).mean().backward()
    model, _ = load(tmp_path)
    _, gradients = nn.value_and_grad(model, lambda m: (m(mx.array(ids)) ** 2).mean())(model)
    expected = model.sanitize({name: mx.array(p.grad.numpy()) for name, p in theirs.named_parameters()})
    gradients = dict(tree_flatten(gradients))
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        atol = TOLERANCE * mx.abs(expected[name]).max().item()
        np.testing.assert_allclose(gradient, expected[name], atol=atol, rtol=0, err_msg=name)


# A part of a section is among the differences that are listed.
@pytest.mark.parametrize(
    ("model_type", "setting", "value"),
    [(row.model_type, *item) for row in MLX_ROWS for item in row.refused.items() if "." not in item[0]],
)
def test_what_mlx_lm_would_compute_otherwise_is_refused(
    tmp_path: Path, model_type: str, setting: str, value: Any
) -> None:
    if setting == "rope_scaling":  # as transformers 5 calls it
        setting, value = "rope_parameters", value | {"rope_theta": 700.0}
    section, _, inner = setting.rpartition(".")
    if section:
        setting, value = section, {**BY_TYPE[model_type].config[section], inner: value}
    random_transformers(tmp_path, model_type, **{setting: value})
    with pytest.raises(ModelLoadError, match="numbers would be those of another model"):
        load(tmp_path)


def test_rope_scaling_that_mlx_lm_has_reaches_it(tmp_path: Path, ids: np.ndarray) -> None:
    rope = {"rope_theta": 700.0, "rope_type": "linear", "factor": 4.0}
    theirs = random_transformers(tmp_path, "olmoe", rope_parameters=rope)
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ids), use_cache=False).logits.numpy()
    model, _ = load(tmp_path)
    np.testing.assert_allclose(ours_on(model, ids)[0], expected, atol=TOLERANCE, rtol=0)
