"""Every mixture of experts of transformers, tiny and random: what is measured is what its experts are called with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_tokenizer
from routing_reference import validate
from torch_rows import BY_TYPE, CASES, ROWS, VOCABULARY, TorchRow, settings_of
from transformers_models import of_each_form, random_model, torch, transformers

import torch_fallback
from mlx_moebench.checkpoints import LoadedModel
from mlx_moebench.cli import main
from mlx_moebench.data import Batch
from mlx_moebench.errors import RenamedError, RoutingError
from mlx_moebench.families import families, family_for
from mlx_moebench.families.base import module_at
from mlx_moebench.families.settings import count
from mlx_moebench.routing.sums import FIELDS
from torch_fallback.backend import BACKEND
from torch_fallback.capture import Capture, Located, check_rule, config_of, layers_of, locate
from torch_fallback.readings import READINGS, at_experts

pytestmark = pytest.mark.usefixtures("one_torch_thread")

Called = tuple[np.ndarray, np.ndarray]
"""What the experts of a block were called with: indices [T, K] and weights [T, K]."""


@pytest.fixture(scope="module")
def ids() -> Any:
    return torch.tensor(np.random.default_rng(5).integers(3, 300, (2, 9)))


def watch_experts(model: Any) -> list[Called]:
    """The list to which every later forward adds each block's call of its experts, found without any declaration.

    Whatever is called `experts`, in the blocks: with (hidden states, indices, weights); with one row of hidden states
    for each pair of a token and an expert, scaled, and all 0 where it was not chosen; or with rows sorted by expert.
    """
    called: list[Called] = []

    def of_three(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        _, indices, weights = (*args, *kwargs.values())
        called.append((indices.numpy().reshape(-1, indices.shape[-1]), weights.numpy().reshape(-1, weights.shape[-1])))

    def of_scaled_rows(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        (rows,) = args
        n_experts = module.num_experts
        rows = rows.view(n_experts, -1, rows.shape[-1])
        chosen = (rows != 0).any(-1).T  # [T, E]
        top_k = int(chosen.sum(-1)[0])
        indices = chosen.nonzero()[:, 1].view(len(chosen), top_k)
        norm = rows.norm(dim=-1).T.gather(1, indices) / inputs[-1].norm(dim=-1, keepdim=True)
        called.append((indices.numpy(), norm.numpy()))

    inputs: list[Any] = []
    for layer in layers_of(model):
        if any(hasattr(module, "tid2eid") for module in layer.modules()):
            continue  # a table of token ids chooses, not a router
        for name, module in layer.named_modules():
            kind = type(module).__name__
            if name.rpartition(".")[2] != "experts" or "vision" in name or "MoA" in kind:
                continue
            if kind == "Llama4TextExperts":
                block = layer.get_submodule(name.rpartition(".")[0])
                block.register_forward_pre_hook(lambda _block, args: inputs.append(args[0].flatten(0, 1)))
                module.register_forward_pre_hook(of_scaled_rows, with_kwargs=True)
            else:
                module.register_forward_pre_hook(of_three, with_kwargs=True)
    return called


def watch_sorted_rows(model: Any) -> list[list[int]]:
    """The same of experts that are called with rows sorted by expert: how many rows each got."""
    called: list[list[int]] = []
    for name, module in model.named_modules():
        if name.endswith("input_linear") and "ParallelExperts" in type(module).__name__:
            module.register_forward_pre_hook(lambda _module, args: called.append(list(args[1])))
    return called


@pytest.mark.parametrize(
    ("row", "variant"), CASES, ids=[f"{row.model_type}-{dict(variant)}"[:90] for row, variant in CASES]
)
def test_what_is_measured_is_what_the_experts_get(row: TorchRow, variant: Mapping[str, Any], ids: Any) -> None:
    model = random_model(row, bias=-0.5, **variant)
    model = getattr(model, "language_model", model) if row.model_type == "llama4" else model
    config, routers = config_of(model), locate(model)
    family = family_for(config)
    assert [router.spec.layer for router in routers] == [layer for layer in row.layers for _ in family.routers]
    called, sizes = watch_experts(model), watch_sorted_rows(model)
    heard: dict[int, tuple[Any, Any, Any]] = {}

    def sink(number: int, logits: Any, indices: Any, weights: Any, shape: tuple[int, ...]) -> None:
        assert shape[:2] == (2, 9)
        heard[number] = (logits, indices, weights)

    with torch.no_grad(), torch_fallback.attach(model) as stats, Capture(model, sink):
        model(input_ids=ids, use_cache=False)
    assert len(heard) == len(routers)
    assert len(called or sizes) == len(routers)
    for number, router in enumerate(routers):
        spec, (logits, indices, weights) = router.spec, heard[number]
        if called:
            np.testing.assert_array_equal(indices, called[number][0])
            np.testing.assert_allclose(weights, called[number][1], atol=1e-6, rtol=0)
        else:
            assert np.bincount(indices.flatten(), minlength=spec.n_experts).tolist() == sizes[number]
        assert stats.totals(number).counts.sum() == ids.numel() * spec.top_k
        assert indices.shape == (ids.numel(), spec.top_k)
        check_routing(router, logits, indices, weights, config)
    assert stats.n_tokens == ids.numel()


def check_routing(router: Located, logits: Any, indices: Any, weights: Any, config: Any) -> None:
    """The declared rule gives the weights that the experts got, and ranks what was chosen above all others."""
    spec = router.spec
    routing = router.routing(logits, indices, config)
    given = router.given(logits, indices, config)
    torch.testing.assert_close(given, weights.float(), atol=1e-5, rtol=0)
    if router.place.scaled_after:
        factor = routing.weights / given
        assert factor.std() < 1e-5
        assert abs(float(factor.mean()) - 1.7) < 1e-5
    else:
        torch.testing.assert_close(routing.weights, given, atol=0, rtol=0)
    scores = logits if routing.selection is None else routing.selection
    assert routing.distribution == spec.distribution
    assert tuple(logits.shape) == (len(indices), spec.n_experts)
    best = scores.sort(dim=-1, descending=True).values
    if not bool((best[:, spec.top_k - 1] > best[:, spec.top_k]).all()):
        return  # tied: several may be chosen
    assert torch.equal(scores.topk(spec.top_k, -1).indices.sort().values, indices.sort().values)


def cut_short(row: TorchRow, ids: Any) -> None:
    """A measured forward after the first ends at its last router, and what is counted is the same."""
    model = random_model(row, bias=-0.5)
    model = getattr(model, "language_model", model) if row.model_type == "llama4" else model
    block = layers_of(model)[locate(model)[-1].spec.layer]
    finished: list[int] = []
    block.register_forward_hook(lambda *_: finished.append(1))
    batch = Batch(ids.numpy(), np.ones(ids.shape, bool), (0, 1), (0, 0), 0)
    runs = []
    for _ in range(2):
        with torch_fallback.attach(model) as stats, stats.batch(mask=batch.mask, ids=batch.rows):
            assert BACKEND.forward(LoadedModel(model, None), batch, logits=False) is None
        runs.append((len(finished), [stats.totals(n) for n in range(len(stats.specs))]))
    (whole, first), (cut, second) = runs
    assert (whole, cut) == (1, 1)
    for one, other in zip(first, second, strict=True):
        assert one.n_tokens == other.n_tokens == ids.numel()
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@pytest.mark.parametrize("row", of_each_form(ROWS), ids=lambda row: row.model_type)
def test_a_forward_ends_at_the_last_router_of_every_form(row: TorchRow, ids: Any) -> None:
    cut_short(row, ids)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_a_forward_ends_at_the_last_router_of_every_model(row: TorchRow, ids: Any) -> None:
    cut_short(row, ids)


def test_every_mixture_of_experts_of_transformers_is_declared() -> None:
    """Those whose sources have a class of experts, of the types that make text."""
    from transformers.models.auto import configuration_auto, modeling_auto

    makes_text = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM", "MULTIMODAL_LM")
    types = {name for kind in makes_text for name in getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING_NAMES")}
    folder = Path(transformers.__file__).parent / "models"
    found = set()
    for model_type in types:
        module = configuration_auto.model_type_to_module_name(model_type)
        file = folder / module / f"modeling_{module}.py"
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        # Not those that may have experts by a name only, as the dense models of a shared file.
        if "Experts(nn." in source or "TopKRouter(nn." in source or "SparseMLP(nn." in source:
            found.add(model_type)
    assert len(found) > 70
    assert found - families().keys() == set()


def test_every_declared_family_has_a_row_or_a_reason() -> None:
    rows = {name for row in ROWS for name in (row.model_type, row.text)}
    for family in families().values():
        if family.routers and all(form.torch for form in family.routers):
            assert rows & {*family.model_types, NAMED_OTHERWISE.get(family.name)}, family.name
        elif not family.unavailable:
            assert not family.only_torch, family.name


# transformers' model_type of what is declared under a name of our own.
NAMED_OTHERWISE = {"minimax_text_01": "minimax", "bailing_moe_v3": "bailing_hybrid", "mistral4": "mistral4"}


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "mlp_layer_types" in settings_of(row)], ids=lambda row: row.model_type
)
def test_blocks_follow_the_types_that_transformers_writes(row: TorchRow) -> None:
    """Whatever else the config says of them."""
    settings = settings_of(row)
    kinds = {"hash_moe": "dense", "moe": "sparse"}
    types = [kinds.get(kind, kind) for kind in settings["mlp_layer_types"]]
    assert tuple(layer for layer, kind in enumerate(types) if kind == "sparse") == row.layers


# -- loading and the command ------------------------------------------------------------------------------------------


def saved(folder: Path, row: TorchRow) -> None:
    """A random model of a row as a checkpoint."""
    random_model(row).save_pretrained(folder)
    save_tokenizer(folder, VOCABULARY)


def texts(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"the router chose expert {n}"}) + "\n" for n in range(6)))
    return path


def command(folder: Path, row: TorchRow) -> None:
    saved(folder / "model", row)
    output = folder / "report"
    arguments = ["--data", str(texts(folder)), "--output", str(output), "--quiet"]
    main(["analyze", "--backend", "torch", "--model", str(folder / "model"), *arguments])
    report = json.loads((folder / "report.json").read_text())
    validate(report)
    config = settings_of(row)
    family = family_for(config | {"model_type": row.model_type})
    routers = report["routers"]
    assert [router["layer"] for router in routers] == [layer for layer in row.layers for _ in family.routers]
    assert {router["top_k"] for router in routers} <= {count(config, family.top_k)}


@pytest.mark.parametrize("row", of_each_form(ROWS), ids=lambda row: row.model_type)
def test_the_command_measures_a_checkpoint_of_every_form(tmp_path: Path, row: TorchRow) -> None:
    command(tmp_path, row)


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.model_type)
def test_the_command_measures_every_model(tmp_path: Path, row: TorchRow) -> None:
    command(tmp_path, row)


# -- what is not read --------------------------------------------------------------------------------------------------


def test_scores_that_underflow_are_said() -> None:
    """A sigmoid below the smallest number of its dtype is 0, as of an expert that was not chosen."""
    scores, logits = torch.tensor([[0.5, 0.0, 0.7], [0.0, 0.0, 0.4]]), torch.zeros(2, 3)
    with pytest.raises(RoutingError, match=r"are 0 for experts that it chose; load the model in float32"):
        READINGS["scores_logits"](torch.nn.Identity(), (scores, logits))
    scores[1, 0] = 0.1
    _, indices, weights = READINGS["scores_logits"](torch.nn.Identity(), (scores, logits))
    assert indices.tolist() == [[0, 2], [0, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.7], [0.1, 0.4]]))


def test_experts_that_are_called_otherwise_are_said() -> None:
    x, indices, weights = torch.zeros(4, 8), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2)
    experts = torch.nn.Identity()
    for args, kwargs in (((x, indices, weights), {}), ((x,), {"top_k_index": indices, "top_k_weights": weights})):
        assert at_experts(experts, args, kwargs)[0] is not weights
    for args in ((x, weights, indices), (x, indices), (x, indices, weights[:, :1])):
        with pytest.raises(RenamedError, match="hidden states, indices and weights as the arguments of Identity"):
            at_experts(experts, args, {})


def test_a_rule_that_is_not_the_models_is_refused(ids: Any) -> None:
    """What a wrong declaration would do, for a block that scales after the sum."""
    row = BY_TYPE["laguna"]
    model = random_model(row)
    router = locate(model)[0]
    heard: list[Any] = []
    with torch.no_grad(), Capture(model, lambda *what: heard.append(what)):
        model(input_ids=ids, use_cache=False)
    _, logits, indices, weights, _ = heard[0]
    check_rule(router.spec, router.given(logits, indices, config_of(model)), weights)
    with pytest.raises(RoutingError, match="the family's rule for gate weights is off by"):
        check_rule(router.spec, router.routing(logits, indices, config_of(model)).weights, weights)


def scaled_after(row: TorchRow) -> bool:
    form = family_for(settings_of(row) | {"model_type": row.model_type}).routers[0]
    return form.torch is not None and form.torch.scaled_after


SCALED_AFTER = [row for row in ROWS if scaled_after(row)]


@pytest.mark.parametrize("row", SCALED_AFTER, ids=lambda row: row.model_type)
def test_g_is_what_an_experts_output_is_multiplied_with(row: TorchRow, ids: Any) -> None:
    """Experts that all return ones add the sum of g to a block's output, also where it scales their sum."""
    model = random_model(row)
    router, config = locate(model)[0], config_of(model)
    experts = module_at(router.layer, router.place.experts)
    block = module_at(router.layer, router.place.experts.rpartition(".")[0])
    heard: list[Any] = []
    inputs: list[Any] = []
    block.register_forward_pre_hook(lambda _block, args: inputs.append(args[0]))
    with torch.no_grad(), Capture(model, lambda *what: heard.append(what)):
        model(input_ids=ids, use_cache=False)
        outputs = []
        for value in (1.0, 0.0):
            experts.forward = partial(_constant, value)
            outputs.append(block(inputs[0]))
    ones, zeros = (output[0] if isinstance(output, tuple) else output for output in outputs)
    _, logits, indices, _, _ = heard[0]
    g = router.routing(logits, indices, config).weights.sum(-1)
    torch.testing.assert_close((ones - zeros).reshape(len(g), -1)[:, 0], g, atol=1e-5, rtol=0)


def _constant(value: float, x: Any, _indices: Any, weights: Any) -> Any:
    return value * weights.sum(-1, keepdim=True).expand_as(x)
