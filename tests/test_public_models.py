"""Sixty public models, built by mlx-lm at their real size without one weight in memory."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import pytest
from public_models import PUBLIC, Public, demanded

from mlx_moebench.families import family_for

mx = pytest.importorskip("mlx.core", reason="needs MLX")
from mlx.utils import tree_flatten  # noqa: E402
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP  # noqa: E402
from mlx_lm.utils import _get_classes  # noqa: E402  # mlx-lm's own table of model types, aliases included


class Built(NamedTuple):
    """parameters: of the whole model. sparse: (layer, E) of every block with experts, in running order."""

    parameters: int
    sparse: list[tuple[int, int]]


def build(config: dict[str, Any]) -> Built:
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(demanded(config)))
    return Built(sum(array.size for _, array in tree_flatten(model.parameters())), sorted(sparse_blocks(model)))


def sparse_blocks(model: Any) -> list[tuple[int, int]]:
    """Found by the experts alone: independent of what a family declares."""
    found = []
    for name, module in model.named_modules():
        layer = re.search(r"(?:layers|blocks)\.(\d+)\.", name)
        if isinstance(module, SwitchGLU | SwitchMLP):
            weights = [array for key, array in tree_flatten(module.parameters()) if key.endswith("weight")]
            (experts,) = {array.shape[0] for array in weights}
        elif isinstance(module.get("experts"), list):  # DBRX runs them in a loop
            experts = len(module["experts"])
        else:
            continue
        assert layer is not None, name
        found.append((int(layer[1]), experts))
    return found


@pytest.fixture(scope="module")
def built() -> dict[str, Built]:
    return {name: build(public.config) for name, public in PUBLIC.items()}


every = pytest.mark.parametrize(("name", "public"), PUBLIC.items(), ids=list(PUBLIC))


@every
def test_parameters(built: dict[str, Built], name: str, public: Public) -> None:
    parameters = built[name].parameters
    assert parameters == public.built
    assert abs(parameters - public.published) <= max(public.published // 100, public.rounded_to // 2)


@every
def test_sparse_blocks(built: dict[str, Built], name: str, public: Public) -> None:
    assert built[name].sparse == [(layer, public.experts) for layer in public.layers]


@every
def test_routers_of_the_family(name: str, public: Public) -> None:
    specs = family_for(public.config).specs(public.config)
    expected = [(n, layer, public.experts, public.top_k) for n, layer in enumerate(public.layers)]
    experts = [spec.n_experts if spec.kinds is None else spec.kinds.count("ffn") for spec in specs]
    assert [(s.moe_layer, s.layer, e, s.top_k) for s, e in zip(specs, experts, strict=True)] == expected


def test_nothing_is_evaluated() -> None:
    """The largest has 2.8e12 parameters."""
    largest = max(PUBLIC.values(), key=lambda public: public.built)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    build(largest.config)
    assert mx.get_peak_memory() - before < 1e6, "bytes that MLX allocated"


def test_one_percent_is_enough_but_for_a_rounded_figure() -> None:
    coarse = {name for name, public in PUBLIC.items() if abs(public.built - public.published) > public.published // 100}
    assert coarse == {name for name, public in PUBLIC.items() if public.rounded_to}
