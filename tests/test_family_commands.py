"""`analyze` and `train` through the command line, in this process, for every model type on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="needs MLX")

from conftest import built, forms_first, row_of, save_checkpoint, save_tokenizer  # noqa: E402
from family_rows import BY_TYPE, CONFIGS, ROWS, Row  # noqa: E402

from mlx_moebench.cli import main  # noqa: E402
from mlx_moebench.errors import UnsupportedModelError  # noqa: E402
from mlx_moebench.families import family_for  # noqa: E402
from mlx_moebench.families.base import module_at, stored_weight  # noqa: E402
from mlx_moebench.instrument import routers_of  # noqa: E402
from mlx_moebench.models import load  # noqa: E402
from mlx_moebench.train import LOG, read_log  # noqa: E402

pytestmark = pytest.mark.usefixtures("cpu")

SCHEMA = json.loads(
    (Path(__file__).parents[1] / "mlx_moebench/routing/schema/routing_stats.schema.json").read_text(encoding="utf-8")
)
SEAMS = {name: {form.seam for form in family_for(config).routers} for name, config in CONFIGS.items()}
VALIDATOR = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
LOOPED = [name for name, config in CONFIGS.items() if family_for(config).routers[0].one_by_one]
ADAPTED = [n for n in CONFIGS if SEAMS[n] == {"linear"} and n not in LOOPED]
RAW = [n for n in CONFIGS if SEAMS[n] != {"linear"}]


@pytest.fixture(autouse=True)
def _one_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture of a training takes four times as long as the training: it is drawn of one model."""
    if f"[{ADAPTED[0]}]" not in request.node.name:
        monkeypatch.setattr("mlx_moebench.show.plots.training.plot_training", lambda log, report, path: path)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in words that the tiny tokenizer knows."""
    words = "a router sends every token to the experts that score it highest and others idle".split()  # noqa: SIM905
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("few_texts")
    for name in ("train", "valid"):
        lines = [json.dumps({"text": " ".join(rng.choice(words, 10))}) for _ in range(4)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def settings(texts: Path, tmp_path: Path) -> Path:
    """A YAML file of a training of two steps with a loss on the routing."""
    path = tmp_path / "floor.yaml"
    loss = {"name": "entropy_floor", "weight": 0.5, "signal": "load", "floor": {"fraction": 0.98}}
    lines = {
        "iters": 2,
        "save_every": 2,
        "batch_size": 2,
        "max_seq_length": 12,
        "learning_rate": 1e-2,
        "val_batches": 1,
    }
    lines |= {"data": str(texts), "adapter_path": str(tmp_path / "adapters"), "routing_loss": loss}
    path.write_text(json.dumps(lines), encoding="utf-8")
    return path


def saved(folder: Path, model_type: str) -> Path:
    """The tiny model of a row as a checkpoint."""
    return save_checkpoint(folder / model_type, built(model_type), CONFIGS[model_type])


def router_weights(model: Any) -> list[Any]:
    form = family_for(CONFIGS[row_of(model).model_type]).form
    found = [stored_weight(module_at(model.layers[s.layer], form(s.router).gate)) for s in routers_of(model)]
    return [np.array(gate.weight) for gate in found]


@pytest.mark.parametrize("model_type", forms_first(list(CONFIGS)))
def test_analyze(model_type: str, tmp_path: Path) -> None:
    folder, out = saved(tmp_path, model_type), tmp_path / "out"
    main(["analyze", "--quiet", "--model", str(folder), "--max-samples", "2", "--max-length", "12", "-o", str(out)])
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    VALIDATOR.validate(report)
    specs = family_for(CONFIGS[model_type]).specs(CONFIGS[model_type])
    assert report["model"]["model_type"] == model_type
    n_tokens = {router["n_tokens"] for router in report["routers"]}
    assert len(n_tokens) == 1
    for router, spec in zip(report["routers"], specs, strict=True):
        assert (router["layer"], router["router"], router["n_experts"]) == (spec.layer, spec.router, spec.n_experts)
        assert sum(router["selection_counts"]) == n_tokens.copy().pop() * spec.top_k
        assert router["distribution"] == spec.distribution


@pytest.mark.parametrize("row", [row for row in ROWS if row.unrunnable], ids=lambda row: row.model_type)
def test_what_cannot_run_is_refused_before_weights_are_read(
    row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_checkpoint(tmp_path / "known", built(row.model_type), row.config)
    for command in ("analyze", "train"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--model", str(folder), "--quiet"])
        assert stop.value.code == 1
        assert f"model_type '{row.model_type}' cannot be measured: " in capsys.readouterr().err
    with pytest.raises(UnsupportedModelError, match="Metal kernel"):
        load(folder)


@pytest.mark.parametrize("model_type", forms_first(ADAPTED))
def test_train_adapts_every_router(model_type: str, settings: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path, model_type)
    main(["train", "--quiet", "-c", str(settings), "--model", str(folder)])
    steps = [entry for entry in read_log(tmp_path / "adapters" / LOG) if "ce" in entry]
    specs = family_for(CONFIGS[model_type]).specs(CONFIGS[model_type])
    assert (tmp_path / "adapters" / "training.png").exists() == (model_type == ADAPTED[0])
    assert len(steps) == 2
    assert len(steps[0]["load_entropy"]) == len(specs)
    weights: Any = mx.load(str(tmp_path / "adapters" / "adapters.safetensors"))
    moved = {
        name.removesuffix(".lora_b") for name, array in weights.items() if name.endswith(".lora_b") and array.any()
    }
    for spec in specs:
        gate = f".{spec.layer}.{family_for(CONFIGS[model_type]).form(spec.router).gate}"
        assert any(name.endswith(gate) for name in moved), gate
    ids = mx.array([[5, 17, 3]])
    adapted = load(folder, adapter_path=tmp_path / "adapters")[0]
    assert not np.allclose(np.array(load(folder)[0](ids)), np.array(adapted(ids)))


@pytest.mark.parametrize("model_type", [*RAW, *LOOPED])
def test_where_no_adapter_reaches_the_routers_train_says_so_at_once(
    model_type: str, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "unread"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[model_type]), encoding="utf-8")
    save_tokenizer(folder, 320)
    mx.save_safetensors(str(folder / "model.safetensors"), {"none.of.this.model": mx.zeros(1)})
    with pytest.raises(SystemExit) as stop:
        main(["train", "--quiet", "-c", str(settings), "--model", str(folder)])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    if BY_TYPE[model_type].no_gradient:
        assert "has no gradient: mlx-lm takes the scores" in error
    elif model_type in LOOPED:
        assert "does not say in training which expert a token goes to" in error
    else:
        assert "outside of a linear layer, where LoRA cannot adapt them" in error
        assert "use --fine-tune-type full, or leave the loss out" in error


@pytest.mark.parametrize("model_type", forms_first([n for n in RAW if not BY_TYPE[n].no_gradient]))
def test_full_training_changes_the_routers_that_no_adapter_reaches(
    model_type: str, settings: Path, tmp_path: Path
) -> None:
    folder = saved(tmp_path, model_type)
    command = ["train", "--quiet", "-c", str(settings), "--model", str(folder), "--fine-tune-type", "full"]
    main(command)
    before, after = load(folder)[0], load(folder, adapter_path=tmp_path / "adapters")[0]
    for one, other in zip(router_weights(before), router_weights(after), strict=True):
        assert np.abs(one - other).max() > 1e-4
