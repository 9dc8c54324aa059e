"""docs/dependencies.md against the code, the tests and the installed libraries; and renames in MLX and the harness."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_moebench.errors import MoebenchError, RenamedError, missing_package, renamed

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    *("transformers", "torch", "bitsandbytes", "accelerate", "mlx", "mlx_lm"),
    *("lm_eval", "mlx_vlm", "datasets", "huggingface_hub", "gradio"),
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "dependencies.md").read_text("utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| name |")
]
QUOTED = [(row, name) for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])]
NAMES = [name for _, name in QUOTED if "." in name and name.split(".")[0] in LIBRARIES]


def resolved(name: str) -> Any:
    """What a dotted name leads to; ``()`` makes an instance. Arguments in brackets at its end must be known."""
    path, _, arguments = re.fullmatch(r"(.*?)(\(([\w, ]+)\))?", name).groups()  # type: ignore[union-attr]
    first, *parts = path.split(".")
    found: Any = importlib.import_module(first)
    for part in parts:
        bare = part.removesuffix("()")
        inner = inspect.ismodule(found) and is_module(f"{found.__name__}.{bare}")
        found = importlib.import_module(f"{found.__name__}.{bare}") if inner else getattr(found, bare)
        found = found() if part.endswith("()") else found
    if arguments:
        known = inspect.signature(found).parameters
        assert not (missing := [a for a in arguments.split(", ") if a not in known]), f"{path} takes no {missing}"
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_a_listed_name_is_there(name: str) -> None:
    library = name.split(".")[0]
    for needed in {"mlx": ["mlx.core"], "transformers": ["torch", "transformers"]}.get(library, [library]):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    resolved(name)


def test_a_name_that_is_gone_would_be_noticed() -> None:
    for wrong in ("json.loads(no_such)", "json.no_such", "json.JSONDecoder().no_such", "json.no_such.decoder"):
        with pytest.raises((AssertionError, AttributeError, ModuleNotFoundError)):
            resolved(wrong)
    assert resolved("json.decoder.JSONDecoder().decode(s)")


def test_the_tests_of_the_list_exist() -> None:
    assert {len(row) for row in ROWS} == {4}
    named = [name for row in ROWS for name in re.findall(r"`(test_\w+\.test_\w+)`", row[3])]
    assert len(named) > 30
    for name in named:
        module, _, test = name.partition(".")
        assert f"def {test}(" in (ROOT / "tests" / f"{module}.py").read_text("utf-8"), name
    for row, name in QUOTED:  # what cannot be looked up is loud by itself, or harmless, or tested
        assert name in NAMES or row[3] or "nothing else changes" in row[2] or "`KeyError`" in row[2], row


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("mlx_moebench", "torch_fallback"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text("utf-8"))


def test_every_name_that_the_code_imports_is_listed() -> None:
    listed = {re.sub(r"\(.*", "", name) for name in NAMES}
    imported = {name: path for path, tree in sources() for name, _ in imported_names(tree) if not is_module(name)}
    assert len(imported) > 50
    for name, path in imported.items():
        assert any(known == name or known.startswith(f"{name}.") for known in listed), f"{path} imports {name}"


def imported_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, what the file calls it) of all that a file imports from a library's modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and str(node.module).split(".")[0] in LIBRARIES:
            yield from ((f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):  # ValueError: a part of a compiled module
        return False


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_attributes_of_imported_modules_are_there() -> None:
    """``mx.take_along_axis``, ``nn.Linear``, ``dist.all_gather``, ``gr.Blocks``: whatever the code writes out."""
    chains = {pair for _, tree in sources() for pair in written_out(tree)}
    assert len(chains) > 100
    for module, chain in sorted(chains):
        if is_module(module) and (is_module("torch") or not module.startswith("transformers")):
            found = importlib.import_module(module)
            for part in chain.split("."):
                assert hasattr(found, part), f"{module}.{chain}"
                found = getattr(found, part)


def written_out(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, attributes) of what a file writes of modules that it imports from a library."""
    modules = {called: name for name, called in imported_names(tree) if is_module(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                if first in LIBRARIES:
                    modules[alias.asname or first] = alias.name if alias.asname else first
    for node in ast.walk(tree):
        parts: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id in modules:
            yield modules[inner.id], ".".join(reversed(parts))


def test_what_is_said_of_a_failing_import() -> None:
    def of(code: str) -> ImportError:
        with pytest.raises(ImportError) as caught:
            exec(code, {})
        return caught.value

    assert str(renamed(of("from numpy import no_such"))).startswith("numpy ")
    assert "has no numpy.no_such, which this package imports: update" in str(renamed(of("from numpy import no_such")))
    assert "has no numpy.no_such, which" in str(renamed(of("import numpy.no_such")))
    assert renamed(of("import no_such_package")) is None
    assert missing_package(of("import no_such_package")) == "no_such_package"
    assert missing_package(of("import numpy.no_such")) is None
    assert renamed(of("from mlx_moebench.errors import no_such")) is None  # a bug of ours
    assert renamed(ImportError("libcuda.so.1 cannot be opened")) is None


# -- MLX -------------------------------------------------------------------------------------------------------------


class OwnCache:
    """A cache that mlx-lm's layers can use, under another name of the method that they call."""

    def __init__(self, cache: Any) -> None:
        self.inner, self.store = cache, cache.update_and_fetch

    def __getattr__(self, name: str) -> Any:
        if name == "update_and_fetch":
            raise AttributeError(name)
        return getattr(self.inner, name)


def with_own_caches(model: Any) -> list[OwnCache]:
    """Let the blocks of ``model`` take `OwnCache`; one for each."""
    from mlx_lm.models.cache import make_prompt_cache

    kind = type(model.layers[0])

    class Block(kind):  # type: ignore[misc,valid-type]
        def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            theirs = [getattr(value, "inner", value) for value in args]
            return super().__call__(x, *theirs, **{key: getattr(v, "inner", v) for key, v in kwargs.items()})

    for layer in model.layers:
        layer.__class__ = Block
    return [OwnCache(cache) for cache in make_prompt_cache(model)]


def test_a_cache_of_another_kind_is_said_and_not_recorded(make_tiny: Any) -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_lm.models.cache import make_prompt_cache

    from mlx_moebench.instrument import attach

    model = make_tiny()
    own, ids = with_own_caches(model), mx.array([[1, 2, 3, 4]])
    with attach(model) as stats:
        with pytest.warns(RuntimeWarning, match=r"KV cache \((argument 2|cache)\) that is not one of mlx-lm's"):
            model(ids, cache=own)
        assert stats.n_tokens == stats.phase_stats("unsplit").n_tokens == 0
        with stats.batch(prompt_lengths=[3]):  # who says what runs is believed
            model(ids, cache=own)
        model(ids)
        model(ids, cache=make_prompt_cache(model))
    assert stats.n_tokens == 3 + 4
    assert stats.phase_stats("decode").n_tokens == 1
    assert stats.phase_stats("unsplit").n_tokens == 4


def test_caches_of_mlx_lm_are_known_by_their_class() -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_lm.models.cache import ArraysCache, BatchKVCache, BatchRotatingKVCache, KVCache, RotatingKVCache

    from mlx_moebench.instrument.caches import caches_among, is_batched, unknown_cache

    for cache in (KVCache(), RotatingKVCache(8), ArraysCache(1), BatchKVCache([0, 1]), BatchRotatingKVCache(8, [0, 1])):
        given = {"mask": "causal", "memory": cache}
        assert caches_among(given) is cache
        assert caches_among({"cache": [None, cache]}) == [None, cache]
        assert unknown_cache(given) is None
        assert is_batched(cache) == type(cache).__name__.startswith("Batch")
    assert is_batched(ArraysCache(1, left_padding=[0, 1]))
    plain = {"mask": mx.zeros((2, 2)), "cache": None, "scale": 1.0, "sizes": (1, 2), "causal": True}
    assert caches_among(plain) is None
    assert unknown_cache(plain) is None
    assert unknown_cache({"x": SimpleNamespace(offset=3)}) == "x"
    assert unknown_cache({"kv_cache": [1, 2]}) == "kv_cache"


def test_bits_of_a_packed_weight_are_never_guessed() -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    import mlx.nn as nn

    from mlx_moebench.instrument.capture import bits_of

    layer = nn.Linear(64, 8)
    assert bits_of(layer) == 32
    layer.set_dtype(mx.bfloat16)
    assert bits_of(layer) == 16
    packed = layer.to_quantized(bits=4)
    assert bits_of(packed) == 4
    packed.width = packed.bits
    del packed.bits
    with pytest.raises(RenamedError, match=r"^mlx [\d.]+ has no QuantizedLinear\.bits, which says how"):
        bits_of(packed)


def test_layers_that_no_longer_quantise_are_said(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlx.nn as nn

    from mlx_moebench.models.precision import quantise

    monkeypatch.delattr(nn.Linear, "to_quantized")
    with pytest.raises(RenamedError, match=r"no Linear\.to_quantized"):
        quantise(tiny_model, [], 4, None)


def test_a_conversion_under_another_name_is_noticed(tiny_model: Any) -> None:
    import mlx.core as mx

    from mlx_moebench.errors import RoutingError
    from mlx_moebench.instrument import attach

    with attach(tiny_model):
        for layer in tiny_model.layers:  # as a method would whose name the tap does not know
            gate = layer.mlp.gate
            layer.mlp.gate = type(gate)._moebench_base.to_quantized(gate)
        with pytest.raises(RoutingError, match="tapped gate did not"):
            tiny_model(mx.array([[1, 2, 3]]))


def test_memory_of_a_gpu_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.models import device_facts

    monkeypatch.setattr(mx, "is_available", lambda device: True)
    for info, memory in (
        ({"memory_size": 2**34}, 16.0),
        ({"memory_size": 1, "max_recommended_working_set_size": 2**33}, 8.0),
        ({"bytes": 2**34}, None),
    ):
        monkeypatch.setattr(mx, "device_info", lambda device, info=info: info)
        assert device_facts() == {"device": "gpu", "gpu": None, "gpu_memory_gb": memory}


def test_the_methods_that_say_what_a_batch_runs_are_there() -> None:
    module = pytest.importorskip("mlx_lm.generate", reason="MLX is not installed")
    module = importlib.import_module("mlx_lm.generate")  # the package has a function of that name
    for owner, names in {
        "PromptProcessingBatch": ["prompt"],
        "GenerationBatch": ["__init__", "_step"],
        "BatchGenerator": ["_next"],
    }.items():
        assert all(name in vars(getattr(module, owner)) for name in names)


def test_a_model_that_does_not_say_its_vocabulary_is_refused(tiny_model: Any) -> None:
    from mlx_moebench.checkpoints import LoadedModel
    from mlx_moebench.evaluate.choices import Request, score
    from mlx_moebench.measure.on_mlx import BACKEND

    tiny_model.args.n_vocab = tiny_model.args.vocab_size
    del tiny_model.args.vocab_size
    with pytest.raises(MoebenchError, match="lacks 'vocab_size'"):
        score(BACKEND, LoadedModel(tiny_model, None), [Request((1, 2), (3,))])  # type: ignore[arg-type]


# -- training --------------------------------------------------------------------------------------------------------


def test_a_trainer_that_reports_nothing_is_said(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.train import run, train_adapter, training_config

    (tmp_path / "data").mkdir()
    for name in ("train", "valid"):
        (tmp_path / "data" / f"{name}.jsonl").write_text('{"text": "a router sends every token"}\n' * 4)
    config = training_config(
        {
            "model": str(tiny_checkpoint),
            "data": str(tmp_path / "data"),
            "adapter_path": str(tmp_path / "adapter"),
            **{"iters": 1, "batch_size": 4, "save_every": 1, "routing_samples": 2},
        }
    )
    monkeypatch.setattr(run, "train", lambda *args, **options: None)
    with pytest.raises(RenamedError, match="no report of the last step to its training_callback"):
        train_adapter(config, device="cpu")
    monkeypatch.delattr(run.TrainingCallback, "on_train_loss_report")
    with pytest.raises(RenamedError, match=r"no TrainingCallback\.on_train_loss_report, which is called"):
        train_adapter(config, device="cpu", resume=True)


def test_prompts_that_are_not_masked_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.train import data, training_config

    class Rows(list[Any]):
        def process(self, row: Any) -> tuple[list[int], int]:
            return [1, 2, 3, 4], 0

    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    monkeypatch.setattr(data, "create_dataset", lambda rows, tokenizer, settings: Rows(rows))
    tokenizer = SimpleNamespace(has_chat_template=True)
    for masked in (False, True):
        config = training_config({"model": "m", "data": str(tmp_path), "mask_prompt": masked})
        if not masked:
            assert data.load_tokens(config, tokenizer, lambda *_: None)["train"].n_tokens == 4
            continue
        with pytest.raises(RenamedError, match="no mask_prompt among the settings of create_dataset"):
            data.load_tokens(config, tokenizer, lambda *_: None)


# -- the harness -----------------------------------------------------------------------------------------------------


def test_results_of_the_harness_under_other_names_are_said() -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    from mlx_moebench.evaluate.harness import _results, _task_facts

    found: dict[str, Any] = {
        "results": {"sums": {"alias": "sums", "acc,none": 0.5, "acc_stderr,none": 0.05}, "group": {"alias": "group"}},
        "versions": {"sums": 1},
        "n-shot": {"sums": 0},
        "n-samples": {"sums": {"original": 90, "effective": 80}},
    }
    assert _results(found)["sums"]["acc"]["method"] == "normal"
    assert _task_facts(found)["sums"] == {"version": 1, "shots": 0, "n": 80}
    assert _task_facts(found)["group"] == {"version": None, "shots": None, "n": None}
    for key in ("results", "versions", "n-shot", "n-samples"):
        other = {f"{name}s" if name == key else name: value for name, value in found.items()}
        with pytest.raises(RenamedError, match=rf"^lm_eval [\d.]+ has no '{key}' in its results"):
            _task_facts(other)
    with pytest.raises(RenamedError, match="no 'effective' in its results"):
        _results(found | {"n-samples": {"sums": {"used": 80}}})
    with pytest.raises(RenamedError, match="no 'acc_stderr,none' in its results"):
        _results(found | {"results": {"sums": {"acc,none": 0.5, "acc_se,none": 0.05}}})
    with pytest.raises(RenamedError, match="no 'METRIC,FILTER' among the results of sums"):
        _results(found | {"results": {"sums": {"alias": "sums", "acc|none": 0.5, "acc_stderr|none": 0.05}}})


def test_generation_settings_of_a_task() -> None:
    pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")
    from mlx_moebench.evaluate.harness import _generation

    assert _generation({"until": "\n", "max_gen_toks": 4}) == (["\n"], 4, 0.0)
    assert _generation({}) == ([], 256, 0.0)
    for name in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
        assert _generation({"until": ["a", ""], name: 7})[:2] == (["a"], 7)
    assert _generation({"do_sample": True, "temperature": 0.5})[2] == 0.5
    assert _generation({"do_sample": False, "temperature": 0.0, "top_p": 0.9})[2] == 0.0
    with pytest.warns(UserWarning, match="The task sets top_p, which is not used"):
        _generation({"do_sample": True, "temperature": 0.5, "top_p": 0.9})
