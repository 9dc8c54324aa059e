"""What is asked of a model's predictions, on torch: the losses, choices and numbers of tasks that MLX gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmlu_files import write_adapter, write_mmlu
from test_torch import run_without
from transformers_models import FORMS, random_transformers, torch

import torch_fallback
from mlx_moebench.analysis.loss import routing_uncertainty
from mlx_moebench.cli import main
from mlx_moebench.errors import DataError, EvaluationError, MoebenchError, RoutingError
from mlx_moebench.evaluate import choices, compare_answers, evaluate_mmlu
from mlx_moebench.evaluate.choices import Request
from mlx_moebench.evaluate.mmlu import answer_questions
from mlx_moebench.routing import Plan
from torch_fallback import caches
from torch_fallback.backend import BACKEND

pytestmark = pytest.mark.usefixtures("cpu", "one_torch_thread")

SIZES = {"anatomy": 12, "virology": 10}
ASKED: dict[str, Any] = {"subjects": list(SIZES), "shots": 2}
READ: dict[str, Any] = {"max_samples": 12, "max_length": 32, "plan": Plan(resamples=200)}


@pytest.fixture(scope="module")
def nano() -> Any:
    return torch_fallback.load_checkpoint(None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mmlu(tmp_path_factory.mktemp("mmlu"), SIZES)


def plain(checkpoint: Any, request: Request) -> tuple[float, bool]:
    """One forward over all tokens, without cache, batch or padding, in float64 after the logits."""
    context, continuation = request
    with torch.no_grad():
        logits = checkpoint.model(torch.tensor([context + continuation]), use_cache=False).logits[0]
    rows = logits[len(context) - 1 : -1].double().numpy()
    logs = rows - np.logaddexp.reduce(rows, axis=-1, keepdims=True)
    likely = [int(row.argmax()) for row in rows]
    return float(sum(logs[i, t] for i, t in enumerate(continuation))), likely == list(continuation)


def random_requests(shared: int, n: int = 9, vocabulary: int = 320) -> list[Request]:
    """Contexts of different lengths behind one prefix; continuations of one to three tokens, several to a context."""
    rng = np.random.default_rng(shared)

    def draw(size: int) -> tuple[int, ...]:
        return tuple(int(x) for x in rng.integers(1, vocabulary, size=size))

    prefix, requests = draw(shared), []
    for number in range(n):
        context = prefix + draw(int(rng.integers(1, 12)))
        requests += [Request(context, draw(1)), Request(context, draw(1)), Request(context, draw(1 + number % 3))]
    return requests


def assert_as_plainly(checkpoint: Any, requests: list[Request], batch_size: int = 4) -> None:
    expected = [plain(checkpoint, request) for request in requests]
    scores = choices.score(BACKEND, checkpoint, requests, batch_size)
    np.testing.assert_allclose([s.log_likelihood for s in scores], [log for log, _ in expected], atol=1e-4)
    assert [s.greedy for s in scores] == [greedy for _, greedy in expected]


@pytest.fixture
def forwards(nano: Any) -> Any:
    """The shapes that the model is run on, the prefix's included."""
    shapes: list[tuple[int, ...]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    hook = nano.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    yield shapes
    hook.remove()


# -- scores ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", FORMS)
@pytest.mark.parametrize("shared", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_scores_equal_one_forward_per_continuation(tmp_path: Path, model_type: str, shared: int) -> None:
    random_transformers(tmp_path, model_type)
    assert_as_plainly(torch_fallback.load_checkpoint(tmp_path), random_requests(shared))


def test_the_prefix_runs_once_in_parts_and_choices_of_one_token_share_a_row(
    nano: Any, forwards: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "PREFILL", 20)
    prefix = tuple(range(1, 31))
    requests = [Request((*prefix, 40 + q, 50), (60 + c,)) for q in range(6) for c in range(4)]
    choices.score(BACKEND, nano, requests, 4)
    assert forwards == [(1, 20), (1, 10), (4, 2), (2, 2)]
    assert_as_plainly(nano, requests)


def test_memory_bounds_a_batch(nano: Any, forwards: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "MEMORY", 1)
    choices.score(BACKEND, nano, [Request((1, 2, 3 + q), (9,)) for q in range(8)])
    assert forwards == [(1, 2), *[(1, 1)] * 8]
    prefix = BACKEND.new_prefix(nano)
    BACKEND.extend(nano, prefix, (1, 2, 3))
    config = nano.model.config
    heads = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    assert BACKEND.bytes_per_token(prefix) == 2 * 4 * heads * config.num_hidden_layers


def test_a_cache_that_keeps_only_a_window_is_not_shared(tmp_path: Path) -> None:
    """A window of 4 tokens would have dropped what the prefix says."""
    random_transformers(tmp_path, "mixtral")
    config = json.loads((tmp_path / "config.json").read_text()) | {"sliding_window": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = torch_fallback.load_checkpoint(tmp_path)
    assert BACKEND.new_prefix(checkpoint) is None
    assert_as_plainly(checkpoint, random_requests(7))


def test_dropout_is_off_while_a_model_in_training_answers(tmp_path: Path) -> None:
    random_transformers(tmp_path, "olmoe")
    checkpoint = torch_fallback.load_checkpoint(tmp_path)
    checkpoint.model.config.attention_dropout = 0.9
    for layer in checkpoint.model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    requests = random_requests(7)
    expected = choices.score(BACKEND, checkpoint, requests)
    checkpoint.model.train()
    assert choices.score(BACKEND, checkpoint, requests) == expected
    assert checkpoint.model.training


def test_damaged_weights_and_foreign_ids_are_one_sentence(tmp_path: Path) -> None:
    random_transformers(tmp_path, "olmoe")
    checkpoint = torch_fallback.load_checkpoint(tmp_path)
    with pytest.raises(DataError, match="another model's"):
        choices.score(BACKEND, checkpoint, [Request((1, 2), (320,))])
    checkpoint.model.lm_head.weight.data *= float("nan")
    with pytest.raises(EvaluationError, match="not finite"):
        choices.score(BACKEND, checkpoint, random_requests(1))


def test_copies_leave_the_prefix_as_it_is(nano: Any) -> None:
    prefix = BACKEND.new_prefix(nano)
    BACKEND.extend(nano, prefix, (5, 6, 7))
    copied = caches.copies(prefix, 3)
    assert (copied.layers[0].keys.shape[0], prefix.layers[0].keys.shape[0]) == (3, 1)
    torch.testing.assert_close(copied.layers[0].keys[2], prefix.layers[0].keys[0], rtol=0, atol=0)


# -- text --------------------------------------------------------------------------------------------------------


def test_tokens_after_a_prompt_end_where_the_text_does(nano: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fallback import backend

    made = list(BACKEND.tokens_after(nano, [5, 6, 7], 8))
    expected = nano.model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False)[0, 3:].tolist()
    assert made == expected[: len(made)]
    assert len(made) == 8
    monkeypatch.setattr(backend, "_ends", lambda model, tokenizer: {made[4]})
    assert list(BACKEND.tokens_after(nano, [5, 6, 7], 8)) == made[: made.index(made[4])]


def test_a_reader_of_tokens_is_not_in_inference_mode(nano: Any) -> None:
    for _ in BACKEND.tokens_after(nano, [5, 6, 7], 2):
        assert not torch.is_inference_mode_enabled()


def test_temperature_samples(nano: Any) -> None:
    torch.manual_seed(0)
    hot, again = (list(BACKEND.tokens_after(nano, [5, 6, 7], 8, temperature=5.0)) for _ in range(2))
    assert hot != again
    cold = list(BACKEND.tokens_after(nano, [5, 6, 7], 8, temperature=1e-4))
    assert cold == list(BACKEND.tokens_after(nano, [5, 6, 7], 8))


# -- loss --------------------------------------------------------------------------------------------------------


def test_losses_are_those_of_mlx() -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    from mlx_moebench.analysis import loss

    seen: dict[str, list[np.ndarray]] = {}
    examples, original = {}, loss._Losses.pairs

    def keep(watch: Any) -> Any:
        seen.setdefault(name, []).extend(watch.loss)
        return original(watch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss._Losses, "pairs", keep)
        for name in ("mlx", "torch"):
            examples[name] = routing_uncertainty(None, "math", backend=name, **READ)
    ours, theirs = (np.concatenate(seen[name]) for name in ("mlx", "torch"))
    assert len(ours) == len(theirs) > 300
    assert np.ptp(ours) > 1
    # Float32 on either side: with the CUDA build of torch a loss of 9.5 nats was 1.14e-5 off on a CPU.
    np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=2e-6)
    mlx, other = examples["mlx"], examples["torch"]
    assert (mlx["model"]["backend"], other["model"]["backend"]) == ("mlx", "torch")
    assert other["environment"]["torch"]
    assert other["mean_loss"]["value"] == pytest.approx(mlx["mean_loss"]["value"], abs=1e-5)
    for x, y in zip(mlx["routers"], other["routers"], strict=True):
        assert x["entropy"]["rho"] == pytest.approx(y["entropy"]["rho"], abs=1e-4)


def test_losses_of_a_model_object_and_of_damaged_weights(tmp_path: Path) -> None:
    random_transformers(tmp_path, "olmoe")
    model, tokenizer = torch_fallback.load(tmp_path)
    report = routing_uncertainty(model, "code", tokenizer=tokenizer, backend="torch", **READ)
    assert report["n_pairs"] > 0
    model.lm_head.weight.data *= float("nan")
    with pytest.raises(RoutingError, match="no finite loss"):
        routing_uncertainty(model, "code", tokenizer=tokenizer, backend="torch", **READ)


# -- MMLU --------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_mlx(folder: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    ours, theirs = (evaluate_mmlu(None, folder, backend=name, **ASKED) for name in ("mlx", "torch"))
    assert (ours["model"]["backend"], theirs["model"]["backend"]) == ("mlx", "torch")
    assert ours["model"]["fingerprint"] == theirs["model"]["fingerprint"]
    assert theirs["environment"]["torch"]
    for x, y in zip(ours["questions"], theirs["questions"], strict=True):
        np.testing.assert_allclose(y.pop("log_likelihoods"), x.pop("log_likelihoods"), atol=1e-4)
        np.testing.assert_allclose(y.pop("probabilities"), x.pop("probabilities"), atol=1e-4)
        assert x == y
    for key in ("results", "subjects", "data", "settings"):
        assert ours[key] == theirs[key]
    assert compare_answers(*(report | {"complete": True} for report in (ours, theirs)))["mcnemar"]["p_value"] == 1


def test_an_adapter_is_compared_as_on_mlx(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    adapter = write_adapter(tmp_path / "tuned")
    few: dict[str, Any] = {"subjects": ["anatomy"], "limit": 10, "shots": 1, "compare": adapter}
    ours, theirs = (evaluate_mmlu(None, folder, backend=name, **few) for name in ("mlx", "torch"))
    for report in (ours, theirs):
        assert report["compared"]["model"]["adapter"]["name"] == "tuned"
    x, y = ([q["log_likelihoods"] for q in report["compared"]["questions"]] for report in (ours, theirs))
    np.testing.assert_allclose(y, x, atol=1e-3)  # merged into the weights here, beside them on MLX
    assert np.abs(np.subtract(y, [q["log_likelihoods"] for q in theirs["questions"]])).max() > 0.1


@pytest.mark.parametrize("options", [{"bits": 4}, {"dtype": "bfloat16"}], ids=["4 bit", "bfloat16"])
def test_how_a_model_is_loaded_counts(folder: Path, options: dict[str, Any], nano: Any) -> None:
    if "bits" in options:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    few: dict[str, Any] = {"subjects": ["anatomy"], "limit": 2, "shots": 1, "backend": "torch", "device": "cpu"}
    whole, other = evaluate_mmlu(None, folder, **few), evaluate_mmlu(None, folder, **few, **options)
    differences = np.subtract(*(r["questions"][0]["log_likelihoods"] for r in (whole, other)))
    assert 0 < np.abs(differences).max() < 2
    assert other["model"]["weight_bits"] == (4 if "bits" in options else whole["model"]["weight_bits"])
    assert other["model"]["dtype"] == options.get("dtype", "float32")


def test_a_run_is_not_resumed_on_another_backend(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    output = tmp_path / "o.json"
    report = evaluate_mmlu(None, folder, backend="torch", output=output, **ASKED)
    output.write_text(json.dumps(report | {"complete": False}))
    with pytest.raises(EvaluationError, match=r"Cannot resume .*backend is torch, this run's is mlx"):
        evaluate_mmlu(None, folder, backend="mlx", output=output, resume=True, **ASKED)
    again = evaluate_mmlu(None, folder, backend="torch", output=output, resume=True, **ASKED)
    assert again["questions"] == report["questions"]


@pytest.mark.parametrize(
    "run",
    [
        lambda folder: evaluate_mmlu(None, folder, backend="torch", subjects=["anatomy"]),
        lambda folder: routing_uncertainty(None, "math", backend="torch", **READ),
    ],
    ids=["evaluate", "loss"],
)
def test_several_processes_are_refused(
    run: Callable[[Path], Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would answer everything and write the same file; of losses each would have its share only."""
    monkeypatch.setattr(type(BACKEND), "ranks", lambda self: (0, 2))
    with pytest.raises(MoebenchError, match="in one process; start it without torchrun"):
        run(folder)


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "o.json"
    run = ["evaluate", "--data", str(folder), "--subjects", "anatomy", "--limit", "3", "--shots", "0", "--quiet"]
    main([*run, "--backend", "torch", "--output", str(output)])
    assert "moebench-nano" in capsys.readouterr().out
    assert json.loads(output.read_text())["model"]["backend"] == "torch"
    main(["loss", "--backend", "torch", "--max-samples", "4", "--max-length", "16", "--quiet", "--json"])
    assert json.loads(capsys.readouterr().out)["model"]["backend"] == "torch"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("Accuracy", "evaluate --subjects anatomy --limit 2"),
        pytest.param("rho, routing entropy", "loss --max-samples 2 --max-length 8", marks=pytest.mark.slow),
    ],
)
def test_nothing_of_mlx_is_needed(folder: Path, tmp_path: Path, words: str, command: str) -> None:
    asked = ("--data", str(folder), "--output", str(tmp_path / "o.json")) if "evaluate" in command else ()
    done = run_without(("mlx", "mlx_lm"), "torch_fallback", *command.split(), *asked, "--quiet")
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


def test_answers_of_a_checkpoint_come_from_its_own_backend(folder: Path, nano: Any) -> None:
    from mlx_moebench.data.mmlu import read_mmlu

    data = read_mmlu(folder, subjects=["anatomy"], limit=1)
    (answer,) = answer_questions(nano, data.questions["anatomy"], data.shots["anatomy"])
    assert len(answer["log_likelihoods"]) == 4
