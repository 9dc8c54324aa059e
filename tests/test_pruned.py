"""Checkpoints with fewer experts: the logits of the masked model, in mlx-lm, in ours and in transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import FEW_FORMS, FORMS, build_tiny, save_checkpoint
from family_rows import BY_TYPE

from mlx_moebench.analysis.rankings import Size, random_order, sizes
from mlx_moebench.checkpoints.pruned import ORDER, export_pruned, order_lines
from mlx_moebench.checkpoints.weights import read_weights
from mlx_moebench.errors import MoebenchError
from mlx_moebench.instrument import config_of, routers_of
from mlx_moebench.instrument.changes import Without
from mlx_moebench.instrument.interventions import changing
from mlx_moebench.instrument.models import family_of
from mlx_moebench.models import load_checkpoint
from mlx_moebench.routing.record import RouterSpec

import mlx.core as mx  # isort: skip

IDS = np.random.default_rng(4).integers(1, 300, (2, 12)).astype(np.int32)
KEEP = 0.75


def masked_and_exported(model: Any, source: Path, target: Path) -> tuple[np.ndarray, list[Size]]:
    """The logits of the model without a random quarter of its experts, which a checkpoint in ``target`` lacks."""
    specs, family = routers_of(model), family_of(model)
    of_routers = sizes(family, config_of(model), specs, KEEP)
    order = {n: random_order(size.n_experts, 3, n) for n, size in enumerate(of_routers)}
    masks = {n: of_routers[n].gone(order[n], spec.n_experts) for n, spec in enumerate(specs)}
    with changing(model, Without(masks)):
        logits = np.array(model(mx.array(IDS)))
    kept = {n: size.kept(order[n]) for n, size in enumerate(of_routers)}
    facts = export_pruned(source, target, family, specs, kept, order)
    assert facts["bytes_after"] < facts["bytes_before"]
    lines = [json.loads(line) for line in (target / ORDER).read_text().splitlines()]
    assert [next(iter(line.values())) for line in lines] == list(order.values())
    return logits, of_routers


@pytest.mark.parametrize("name", FEW_FORMS)
def test_what_is_exported_has_the_logits_of_the_masked_model(name: str, tmp_path: Path) -> None:
    """Under the names of mlx-lm's own checkpoints."""
    model = build_tiny(model_type=name)
    if any(family_of(model).form(spec.router).one_by_one for spec in routers_of(model)):
        pytest.skip("its blocks call the experts one by one")
    source = save_checkpoint(tmp_path / "whole", model, BY_TYPE[name].config)
    logits, of_routers = masked_and_exported(model, source, tmp_path / "less")
    smaller = load_checkpoint(tmp_path / "less").model
    for spec, size in zip(routers_of(smaller), of_routers, strict=True):
        assert spec.n_experts == size.n_kept + (spec.kinds or ()).count("copy")
    np.testing.assert_allclose(np.array(smaller(mx.array(IDS))), logits, atol=1e-5, rtol=1e-5)


def test_layers_of_one_size_and_whole_routers_alone_are_exported(tmp_path: Path) -> None:
    model = build_tiny()
    source = save_checkpoint(tmp_path / "whole", model, BY_TYPE["olmoe"].config)
    specs, family = routers_of(model), family_of(model)
    order = {n: list(range(8)) for n in range(len(specs))}
    three = {n: [1, 5, 6] for n in range(len(specs))}

    def export(kept: dict[int, list[int]], target: str = "less") -> None:
        export_pruned(source, tmp_path / target, family, specs, kept, order)

    with pytest.raises(MoebenchError, match="3 to 4"):
        export({0: [0, 1, 2], 1: [0, 1, 2, 3], 2: [0, 1, 2, 3]})
    with pytest.raises(MoebenchError, match="1 experts would stay"):
        export({number: [5] for number in range(3)})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("mine")
    with pytest.raises(MoebenchError, match="holds something"):
        export(three, "full")
    assert not (tmp_path / "less").exists()
    weights = mx.load(str(source / "model.safetensors"))
    renamed = {name.replace("switch_mlp", "others"): array for name, array in weights.items()}
    mx.save_safetensors(str(source / "model.safetensors"), renamed)
    with pytest.raises(MoebenchError, match="cannot be exported"):
        export(three)
    assert not (tmp_path / "less").exists()


def test_bytes_are_those_of_the_kept_rows(tmp_path: Path) -> None:
    model = build_tiny()
    model.set_dtype(mx.bfloat16)
    source = save_checkpoint(tmp_path / "whole", model, BY_TYPE["olmoe"].config)
    kept = {0: [7, 1], 1: [0, 3], 2: [5, 6]}
    export_pruned(source, tmp_path / "less", family_of(model), routers_of(model), kept, kept)
    before, after = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("whole", "less"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        layer = int(name.split(".")[2]) if ".mlp." in name else None
        expected = array if layer is None else array[mx.array(sorted(kept[layer]))]
        assert after[name].dtype == mx.bfloat16
        assert mx.array_equal(after[name], expected), name
    assert read_weights(tmp_path / "less").nbytes < read_weights(source).nbytes


def test_groups_lose_as_many_experts_each() -> None:
    size = Size(8, 4, 2)
    assert size.kept([0, 1, 2, 3, 4, 5, 6, 7]) == [0, 1, 4, 5]
    assert size.gone([7, 6, 5, 4, 3, 2, 1, 0], 10).tolist() == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert Size(8, 4, 1).kept([7, 6, 5, 4, 3, 2, 1, 0]) == [4, 5, 6, 7]


def test_sizes_that_cannot_be() -> None:
    model = build_tiny()
    family, config, specs = family_of(model), config_of(model), routers_of(model)
    for keep, said in ((1.0, "between 0 and 1"), (0.99, "keeps all"), (0.1, "would choose 2 of 1")):
        with pytest.raises(MoebenchError, match=said):
            sizes(family, config, specs, keep)


@pytest.mark.parametrize("name", [FORMS["sigmoid_groups"], FORMS["softmax_groups"]])
def test_groups_compared_by_their_best_two_keep_two(name: str) -> None:
    """With one, neither mlx-lm nor transformers runs what is exported."""
    model = build_tiny(model_type=name, num_experts_per_tok=2)
    family, config, specs = family_of(model), config_of(model), routers_of(model)
    with pytest.raises(MoebenchError, match="best two"):
        sizes(family, config, specs, 0.25)
    assert all(size.n_kept == 8 for size in sizes(family, config, specs, 0.5))


def test_the_order_is_written_a_layer_a_line() -> None:
    specs = [RouterSpec(3, 0, "attention", 2, 1), RouterSpec(3, 0, "mlp", 2, 1)]
    assert order_lines(specs, {0: [1, 0], 1: [0, 1]}) == '{"3.attention": [1, 0]}\n{"3": [0, 1]}\n'
