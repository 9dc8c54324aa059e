"""Names inside transformers, torch and bitsandbytes that could be renamed: each absence is one clear sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from family_rows import CONFIGS
from test_torch import texts
from transformers_models import FORMS, random_transformers, torch, transformers

import torch_fallback
from mlx_moebench.errors import ModelLoadError, RenamedError, UnsupportedModelError
from mlx_moebench.families import family_for
from mlx_moebench.measure import analyze_generation
from torch_fallback import backend, environment
from torch_fallback.capture import locate

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_transformers(folder, "olmoe")
    return folder


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> tuple[Any, Any]:
    return torch_fallback.load(checkpoint)


@pytest.fixture
def model(loaded: tuple[Any, Any]) -> Iterator[Any]:
    model, _ = loaded
    classes = [(module, type(module)) for module in model.modules()]
    yield model
    for module, kind in classes:
        module.__class__ = kind


@pytest.fixture
def ids() -> Any:
    return torch.tensor(np.random.default_rng(1).integers(1, 320, (2, 9)))


def test_a_model_without_its_list_of_layers_is_refused(tmp_path: Path) -> None:
    model = random_transformers(tmp_path, "olmoe")
    model.model.stages = model.model.layers
    del model.model.layers
    with pytest.raises(UnsupportedModelError, match="OlmoeForCausalLM has no list of layers"):
        torch_fallback.attach(model)


REFUSED = {
    "logits_weights_indices": "no choice of experts",
    "sorted_by_expert": "no five outputs of",
    "scores_logits": "no two outputs of",
    "logits": "no logits alone from",
}


@pytest.mark.parametrize("model_type", FORMS)
def test_a_router_that_returns_something_else_is_refused(tmp_path: Path, model_type: str, ids: Any) -> None:
    model = random_transformers(tmp_path, model_type)
    router = locate(model)[0]
    gate, words = router.gate, REFUSED[router.place.output]
    kind = type(gate)

    class Other(kind):  # type: ignore[misc,valid-type]
        def forward(self, *args: Any) -> Any:
            return (super().forward(*args),)

    gate.__class__ = Other
    with (
        torch_fallback.attach(model),
        torch.no_grad(),
        pytest.raises((UnsupportedModelError, RenamedError), match=words),
    ):
        model(ids)


def test_hidden_states_are_found_under_any_name(model: Any, ids: Any) -> None:
    layer = model.model.layers[0]
    kind = type(layer)

    class Renamed(kind):  # type: ignore[misc,valid-type]
        def __call__(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, states=hidden, **kwargs)

        def forward(self, states: Any, **kwargs: Any) -> Any:
            return super().forward(states, **kwargs)

    class Moved(kind):  # type: ignore[misc,valid-type]
        def __call__(self, hidden: Any, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(None, hidden, *args, **kwargs)

        def forward(self, other: Any, states: Any, **kwargs: Any) -> Any:
            return super().forward(states, **kwargs)

    layer.__class__ = Renamed
    with torch_fallback.attach(model) as stats, torch.no_grad():
        model(ids)
        assert stats.n_tokens == 18
    layer.__class__ = Moved
    with (
        torch_fallback.attach(model),
        torch.no_grad(),
        pytest.raises(RenamedError, match="no hidden states as the first"),
    ):
        model(ids)


def test_generation_says_that_logits_were_renamed(loaded: tuple[Any, Any], model: Any, tmp_path: Path) -> None:
    kind = type(model)

    class Renamed(kind):  # type: ignore[misc,valid-type]
        def forward(self, input_ids: Any = None, cache: Any = None, **kwargs: Any) -> Any:
            return SimpleNamespace(scores=super().forward(input_ids, **kwargs).logits)

    model.__class__ = Renamed
    with pytest.raises(RenamedError, match=r"no SimpleNamespace\.logits, which the model's predictions are read from"):
        analyze_generation(model, texts(tmp_path, 1), tokenizer=loaded[1], backend="torch", max_tokens=2)


def test_renamed_ends_of_a_text_are_said(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = SimpleNamespace(eos_token_id=7)
    monkeypatch.setattr(model, "generation_config", SimpleNamespace(eos_token_id=[3, 4]))
    assert backend._ends(model, tokenizer) == {3, 4, 7}
    monkeypatch.setattr(model, "generation_config", None)
    monkeypatch.setattr(model.config, "eos_token_id", None)
    assert backend._ends(model, tokenizer) == {7}
    with pytest.raises(RenamedError, match=r"no SimpleNamespace\.eos_token_id, which says where a text ends"):
        backend._ends(model, SimpleNamespace(end_token_id=7))
    monkeypatch.setattr(model, "generation_config", SimpleNamespace(end_token_id=3))
    with pytest.raises(RenamedError, match="which says where a text ends"):
        backend._ends(model, tokenizer)


def test_options_that_transformers_does_not_know_are_refused(checkpoint: Path) -> None:
    """So that one of ours, under a name that it no longer has, does not go unheard."""
    with pytest.raises(TypeError, match="no_such_option"):
        transformers.AutoModelForCausalLM.from_pretrained(checkpoint, no_such_option=True)
    with pytest.raises(ModelLoadError, match="no_such_option"):
        torch_fallback.load(checkpoint, no_such_option=True)


def test_a_loading_report_without_its_keys_is_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = transformers.AutoModelForCausalLM.from_pretrained

    def renamed(*args: Any, **kwargs: Any) -> Any:
        network, report = read(*args, **kwargs)
        return network, {key.replace("missing", "absent"): value for key, value in report.items()}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", renamed)
    with pytest.raises(RenamedError, match="no missing_keys among what from_pretrained says"):
        torch_fallback.load(checkpoint)


def test_compiled_models_cannot_hide_behind_a_rename(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.Module, "_compiled_call_impl")
    with pytest.raises(RenamedError, match=r"^torch [\d.]+\S* has no OlmoeForCausalLM\._compiled_call_impl"):
        torch_fallback.attach(model)


def test_tf32_is_known_however_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises where the old attribute is read after the new one was set."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for value, known in (("tf32", True), ("ieee", False)):
            matmul.fp32_precision = value
            assert environment._tf32() is known
    finally:
        matmul.fp32_precision = before
    for old, known in ((SimpleNamespace(allow_tf32=True), True), (SimpleNamespace(allow_tf32=False), False)):
        monkeypatch.setattr(torch.backends.cuda, "matmul", old)
        assert environment._tf32() is known
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace())
    with pytest.raises(RenamedError, match="allow_tf32"):
        environment._tf32()


RENAMED = """
import runpy, sys, torch._dynamo
del torch._dynamo.OptimizedModule
sys.argv = ["torch_fallback", "analyze", "--max-samples", "2"]
if {python}:
    import torch_fallback
    torch_fallback.attach
runpy.run_module("torch_fallback", run_name="__main__")
"""


@pytest.mark.parametrize("python", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["command line", "Python"])
def test_an_import_that_an_installed_library_lacks_is_no_missing_extra(python: bool) -> None:
    command = [sys.executable, "-c", RENAMED.format(python=python)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"torch \S+ has no torch\._dynamo\.OptimizedModule, which this package imports: up", done.stderr)
    assert "pip install" not in done.stderr
    assert python or done.stderr.count("\n") == 1


# -- 4 bit -----------------------------------------------------------------------------------------------------------


def test_4_bit_says_what_transformers_no_longer_has(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import core_model_loading

    monkeypatch.delattr(core_model_loading, "rename_source_key")
    for name in ("torch_fallback.fourbit", "torch_fallback.weights"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(RenamedError, match=r"no transformers\.core_model_loading\.rename_source_key"):
        torch_fallback.load(checkpoint, bits=4)


def test_4_bit_says_what_a_model_no_longer_says(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    monkeypatch.delattr(transformers.PreTrainedModel, "_get_dtype_plan")
    with pytest.raises(RenamedError, match=r"no OlmoeForCausalLM\._get_dtype_plan, which loading in 4 bit needs"):
        torch_fallback.load(checkpoint, bits=4)


def test_a_packed_weight_without_its_state_is_refused(checkpoint: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from torch_fallback.fourbit import expert_bytes

    model, _ = torch_fallback.load(checkpoint, bits=4)
    family = family_for(CONFIGS["olmoe"])
    taken, full = expert_bytes(model, family)
    assert 0 < taken < 0.3 * full
    held = model.model.layers[1].mlp.experts.parametrizations.down_proj[0]
    held.state_of_quant = held.quant_state
    del held.quant_state
    with pytest.raises(RenamedError, match=r"^bitsandbytes [\d.]+ has no Bnb4bitParametrization\.quant_state"):
        expert_bytes(model, family)
