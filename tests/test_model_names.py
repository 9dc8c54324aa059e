"""What a model may be called: the embedded one by its name everywhere, and a typo is met before the hub is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlx_moebench
from mlx_moebench.checkpoints import NANO, NANO_NAME, find
from mlx_moebench.cli import main
from mlx_moebench.errors import ModelLoadError


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever asks the hub fails the test; the working directory is empty."""

    def asked(*arguments: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("mlx_moebench.checkpoints.hub.snapshot_download", asked)
    monkeypatch.chdir(tmp_path)


def located(model: str | Path) -> tuple[Path, str]:
    found = find(model, None, False, unquantised=False)
    return found.folder, found.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["analyze", "--max-samples", "3", "--output", "out.json"],
        ["profile", "--domain", "math", "--domain", "code", "--max-samples", "3"],
        ["loss", "--max-samples", "3", "--output", "loss.json"],
        ["compare", "moebench-nano", "--backends", "mlx,numpy", "--max-samples", "2"],
        ["train", "--iters", "1", "--num-layers", "1", "--batch-size", "1", "--val-batches", "1"],
    ],
)
def test_the_embedded_model_by_name(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    named = [] if arguments[0] == "compare" else ["--model", NANO_NAME]
    main([*arguments, *named, "--json", "--quiet"])
    assert json.loads(capsys.readouterr().out)


def test_in_python_it_is_the_same_measurement() -> None:
    named, default = (mlx_moebench.analyze(model, "math", max_samples=2) for model in (NANO_NAME, None))
    assert named.model == default.model
    assert named.model["id"] == NANO_NAME


def test_the_name_wins_over_a_folder_which_is_reached_as_a_path(tmp_path: Path) -> None:
    (tmp_path / NANO_NAME).symlink_to(NANO, target_is_directory=True)
    (tmp_path / "other").mkdir()
    assert located(NANO_NAME) == (NANO, NANO_NAME)
    assert located(f"./{NANO_NAME}")[0] == NANO.resolve()
    (tmp_path / NANO_NAME).unlink()
    (tmp_path / NANO_NAME).mkdir()
    for path in (f"./{NANO_NAME}", Path(NANO_NAME)):
        with pytest.raises(ModelLoadError, match=r"has no config\.json"):
            located(path)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("moebench-nan", NANO_NAME),
        ("moebnech-nano", NANO_NAME),
        ("chekpoint", "checkpoint"),
        ("./chekpoint", "checkpoint"),
        ("checkpoint/step-20/modle", "checkpoint/step-20/model"),
    ],
)
def test_a_typo_is_answered_with_what_is_there(typed: str, meant: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint" / "step-20" / "model").mkdir(parents=True)
    with pytest.raises(ModelLoadError, match=rf"Did you mean '{meant}'\?"):
        located(typed)


def test_a_name_without_owner_is_no_hub_id() -> None:
    with pytest.raises(
        ModelLoadError, match="'olmoe' is neither a folder nor a hub id of the form owner/name"
    ) as error:
        located("olmoe")
    assert "Did you mean" not in str(error.value)


def test_gguf_is_named(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    for path in (tmp_path / "q4.gguf", tmp_path / "only" / "q4.gguf"):
        path.write_bytes(b"GGUF")
    for model in (tmp_path / "q4.gguf", tmp_path / "only", "someone/Mixtral-GGUF/mixtral.Q4_K_M.gguf"):
        with pytest.raises(ModelLoadError, match=r"is GGUF, the format of llama\.cpp, and only safetensors are read"):
            located(model)
