"""Fixtures: a tiny random model of every family, and the OLMoE among them as a checkpoint folder."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from copy import deepcopy
from functools import cache, partial
from inspect import ismodule
from pathlib import Path
from typing import Any

import pytest
from chromium import browser, open_page  # noqa: F401  # fixtures of the tests in browser/
from demo_server import demo  # noqa: F401
from family_rows import BY_TYPE, CONFIGS, FORM_OF, FORMS, Row, vocab_size
from firefox import firefox  # noqa: F401

from mlx_moebench.blas import load_fast_blas

# mx.compile on a CPU calls a C++ compiler at run time; tests that are about compiling switch it on themselves.
os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

# Nothing here is large enough for a second thread, and tests that run side by side would wait for each other's.
for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")

# Before any test imports MLX: in-process results are compared with those of the command line, bit by bit.
load_fast_blas()

EXTRAS = ("torch", "gradio", "lm_eval", "mlx_vlm", "bitsandbytes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What tests print may hold half of a surrogate pair, which a worker cannot send to the process that reports."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode("utf-8")) for name, text in report.sections
    ]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of modules that import what only an extra brings."""
    for item in items:
        names = vars(getattr(item, "module", None) or object)
        if any(getattr(value, "__name__", "").split(".")[0] in EXTRAS for value in names.values() if ismodule(value)):
            item.add_marker("extra")


NIGHTLY = (pytest.mark.slow, pytest.mark.nightly)
"""What one model of a form stands for; the others of it wait for the night."""

BY_FORM = [name if name in FORMS.values() else pytest.param(name, marks=NIGHTLY) for name in CONFIGS]
"""Every model type, of which those of one form are tried at night but for the first."""

BY_DAY = (FORMS["softmax_topk"], FORMS["sigmoid_groups"], FORMS["softmax_loop"])
"""Of the forms: the plainest, one that biases and groups its scores, one that calls its experts one by one."""

FEW_FORMS = [
    pytest.param(name, marks=() if name in BY_DAY else pytest.mark.slow if name in FORMS.values() else NIGHTLY)
    for name in CONFIGS
]
"""For what takes long of every model: `BY_DAY` by default, the other forms if slow, all others at night."""

DAY_OR_NIGHT = [pytest.param(name, marks=() if name in BY_DAY else NIGHTLY) for name in CONFIGS]
"""For many tests of each model: `BY_DAY` by default, all others at night."""

few_forms = pytest.mark.parametrize("make_form", FEW_FORMS, indirect=True)


def forms_first(names: Sequence[str]) -> list[Any]:
    """One of each form by default, the others at night: for what is a model's own, not a form's."""
    by_day = {}
    for name in names:
        by_day.setdefault(FORM_OF[name], name)
    return [name if name in by_day.values() else pytest.param(name, marks=NIGHTLY) for name in names]


TINY_CONFIG: dict[str, Any] = CONFIGS["olmoe"]


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    """The config of the tiny OLMoE: 3 layers, 8 experts, top-2."""
    return dict(TINY_CONFIG)


@pytest.fixture
def make_tiny() -> Callable[..., Any]:
    """``make_tiny(seed=0, **config)``: a tiny random OLMoE in float32, with logits spread enough to choose."""
    return build_tiny


@pytest.fixture
def tiny_model() -> Any:
    """A fresh tiny OLMoE."""
    return build_tiny()


@pytest.fixture(params=forms_first(list(CONFIGS)))
def make_any(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """As ``make_tiny``; a test that uses it runs once per family, those beyond the first of a form at night."""
    return partial(build_tiny, model_type=request.param)


@pytest.fixture(params=list(CONFIGS))
def shared_model(request: pytest.FixtureRequest) -> Any:
    """A tiny model of every family, built once for all tests: for those that leave it as it was."""
    return built(request.param)


@pytest.fixture(params=BY_FORM)
def make_form(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """As ``make_any``; a test that uses it runs once per form of routing, and for the other families at night."""
    return partial(build_tiny, model_type=request.param)


@pytest.fixture
def form_model(make_form: Callable[..., Any]) -> Any:
    """A fresh tiny model; a test that uses it runs once per form of routing, and for the other families at night."""
    return make_form()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny OLMoE in bfloat16 and a tokenizer. Shared: copy it before changing anything."""
    import mlx.core as mx

    model = build_tiny()
    model.set_dtype(mx.bfloat16)
    return save_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny", model, TINY_CONFIG)


@pytest.fixture
def cpu() -> Iterator[None]:
    """MLX on the CPU, and back to what it was."""
    from mlx_moebench.models import select_device

    import mlx.core as mx  # isort: skip

    before = mx.default_device()
    select_device("cpu")
    yield
    mx.set_default_device(before)


@pytest.fixture
def hears_ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt; a shell starts what runs in the background deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """torch on one thread: beside MLX's, more of them only wait for each other."""
    torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def module_of(model_type: str) -> str:
    """The module that defines the Model and ModelArgs of a model type."""
    from mlx_moebench.families import families

    return families()[model_type].module or f"mlx_lm.models.{model_type}"


def build_tiny(seed: int = 0, model_type: str = "olmoe", **config: Any) -> Any:
    """A tiny random model of a row, with ``config`` changed, whose routers choose and hide nothing."""
    import mlx.core as mx

    row = BY_TYPE[model_type]
    mx.random.seed(seed)
    module = importlib.import_module(module_of(model_type))
    # A copy, because some of mlx-lm's ModelArgs write into the dictionaries that they are given.
    model = module.Model(module.ModelArgs.from_dict(deepcopy(row.config | config)))
    for layer in model.layers:
        randomise(layer, row)
    model.eval()
    mx.eval(model.parameters())
    return model


@cache
def built(model_type: str) -> Any:
    """``build_tiny(model_type=...)``, shared: a test that changes a model builds its own."""
    return build_tiny(model_type=model_type)


def row_of(model: Any) -> Row:
    """The row that a tiny model was built from."""
    from mlx_moebench.instrument import config_of

    return BY_TYPE[config_of(model)["model_type"]]


def randomise(layer: Any, row: Row) -> None:
    """Draw what decides in the routers of ``layer``, if it has any: mlx-lm builds most of it as all zeros or ones."""
    from mlx_moebench.families.base import module_at

    import mlx.core as mx  # isort: skip

    def add(path: str) -> None:
        parent, _, name = path.rpartition(".")
        holder = module_at(layer, parent)
        if (before := module_at(holder, name)) is not None:
            drawn = 0.3 * mx.random.normal(before.shape)
            # About its mean, so that there are both signs.
            setattr(holder, name, (before + drawn - drawn.mean()).astype(before.dtype))

    for place in row.places:
        if (gate := module_at(layer, place.gate)) is not None:
            gate.weight = mx.random.normal(gate.weight.shape) * 2 / gate.weight.shape[-1] ** 0.5
            if place.bias:
                add(place.bias)
    if module_at(layer, row.places[0].gate) is not None:
        for path in row.random:
            add(path)


def save_checkpoint(folder: Path, model: Any, config: dict[str, Any]) -> Path:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    folder.mkdir(parents=True)
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_tokenizer(folder, vocab_size(config))
    return folder


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = "a router sends every token to the experts that score it highest and the others stay idle " * 4
    tokenizer.train_from_iterator([text], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
