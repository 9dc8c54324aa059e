"""Checkpoints with fewer experts, as transformers writes and reads them: one set of logits in all libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")

import mlx_lm
from conftest import NIGHTLY
from test_pruned import IDS, masked_and_exported
from transformers_models import FORMS, random_transformers, torch, transformers

from mlx_moebench.instrument import routers_of
from mlx_moebench.instrument.models import family_of
from mlx_moebench.models import load_checkpoint
from mlx_moebench.models.writers import mlx_settings
from torch_fallback.reading import auto_class

import mlx.core as mx  # isort: skip

by_form = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if not n else pytest.mark.slow if n < 4 else NIGHTLY) for n, name in enumerate(FORMS)],
)


def in_transformers(folder: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(folder)
    settings = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = auto_class(config).from_pretrained(folder, **settings)
    with torch.no_grad():
        return model.eval()(torch.tensor(IDS.astype(np.int64)), use_cache=False).logits.numpy()


@by_form
def test_transformers_and_mlx_lm_load_it_alike(name: str, tmp_path: Path, one_torch_thread: None) -> None:
    random_transformers(tmp_path / "whole", name)
    model = load_checkpoint(tmp_path / "whole").model
    if any(family_of(model).form(spec.router).one_by_one for spec in routers_of(model)):
        pytest.skip("its blocks call the experts one by one")
    logits, _ = masked_and_exported(model, tmp_path / "whole", tmp_path / "less")
    ours = np.array(load_checkpoint(tmp_path / "less").model(mx.array(IDS)))
    np.testing.assert_allclose(ours, logits, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(in_transformers(tmp_path / "less"), logits, atol=1e-5, rtol=1e-5)
    family, place = family_of(model), tmp_path / "less" / "config.json"
    if not family.module:
        config = json.loads(place.read_text())
        place.write_text(json.dumps(config | mlx_settings(family, config)))  # what stock mlx-lm does not look for
        stock, _ = mlx_lm.load(str(tmp_path / "less"))
        np.testing.assert_allclose(np.array(stock(mx.array(IDS))), logits, atol=1e-5, rtol=1e-5)


@by_form
def test_experts_stored_together_are_the_same_ones(name: str, tmp_path: Path, one_torch_thread: None) -> None:
    """As transformers 5 stores them, which not every model of mlx-lm reads."""
    random_transformers(tmp_path / "single", name)
    random_transformers(tmp_path / "fused", name, fused=True)
    model = load_checkpoint(tmp_path / "single").model
    if any(family_of(model).form(spec.router).one_by_one for spec in routers_of(model)):
        pytest.skip("its blocks call the experts one by one")
    logits, _ = masked_and_exported(model, tmp_path / "fused", tmp_path / "less")
    np.testing.assert_allclose(in_transformers(tmp_path / "less"), logits, atol=1e-5, rtol=1e-5)
