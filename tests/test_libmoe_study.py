"""The study of results/libmoe: what it plans, what it reads out of runs, and that its page is what its files say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="needs MLX")
pytest.importorskip("matplotlib", reason="needs matplotlib")
import run_libmoe_study as study
from libmoe_pages import TEMPLATE, page, ranks, their_ranks, write_pages
from libmoe_read import NAMES, Study, survives

from mlx_moebench.show.colours import DOMAINS

RESULTS = study.RESULTS


def test_what_is_planned() -> None:
    """No arm or run twice, every arm named, at most 60 runs, and settings that `lab train` takes."""
    runs = study.planned(list(study.ARMS), 3)
    assert len({run.name for run in runs}) == len(runs) <= study.MOST
    assert {run.arm for run in runs} == NAMES.keys()
    assert [run.seed for run in runs[:20]] == [0] * 10 + [1] * 10  # every arm once before the next seed
    for run in runs:
        settings = study.settings_of(run, Path("runs"), 100).resolved()
        assert (settings.data_seed, settings.seed) == (run.seed, run.seed)
        settings.model_args(study.VOCABULARY)
    with pytest.raises(SystemExit, match="at most 60"):
        study.planned(list(study.ARMS), 4)


def test_a_dry_run_trains_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["study", "--dry-run", "--only", "xmoe", "--runs", "nowhere"])
    study.main()
    assert capsys.readouterr().out.count("xmoe-double-seed") == 3
    assert not Path("nowhere").exists()


def test_similarity_is_that_of_the_output_matrices(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    same, other = np.ones((2, 3), np.float32), np.array([[1, -1, 0], [0, 0, 0]], np.float32)
    name = "model.layers.0.mlp.experts.output_linear.weight"
    save_file({name: np.stack([same, same, other])}, tmp_path / "model.safetensors")
    assert study.similarity(tmp_path) == pytest.approx([(1 + 0 + 0) / 3])


def test_an_order_survives_where_all_seeds_and_the_interval_say_so() -> None:
    def difference(*values: float) -> Any:
        arms = {name: {seed: {"x": v} for seed, v in enumerate(of)} for name, of in (("a", values), ("b", [0.0] * 3))}
        return Study({}, {}, {}, arms, {}).paired("a", "b", lambda run: run["x"])

    assert survives(difference(1.0, 1.1, 0.9))
    assert not survives(difference(1.0, 1.1, -0.1))
    assert not survives(difference(0.1, 3.0, 0.2))
    assert not survives(difference(1.0))


def test_published_ranks_are_computed_from_their_columns() -> None:
    theirs = Study({}, {}, {}, {}, json.loads((RESULTS / "theirs.json").read_text("utf-8")))
    small, large = (their_ranks(theirs, size) for size in ("158m", "679m"))
    assert [round(of[arm], 2) for of in (small, large) for arm in ("xmoe", "sigma")] == [6.61, 4.44, 5.61, 3.67]
    for row in theirs.theirs["table2"]["158m"].values():  # as it was printed, to the last digit
        assert np.mean(list(row["tasks"].values())) == pytest.approx(row["average"], abs=0.006)


def test_the_page_is_what_the_files_say() -> None:
    made = Study.read(RESULTS)
    assert page(made, (RESULTS / TEMPLATE).read_text("utf-8")) == (RESULTS / "README.md").read_text("utf-8")
    arms = made.of(["dense", "smoe", "xmoe"])
    assert sum(np.sum(of) for of in ranks(made, arms).values()) == pytest.approx(6 * len(ranks(made, arms)["smoe"]))


def test_no_two_arms_of_a_picture_look_the_same() -> None:
    from libmoe_pictures import curves, init
    from PIL import Image

    made = Study.read(RESULTS)
    for draw in (curves, init):
        for axis in draw(made).axes:
            assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == len(axis.lines) > 4
    with Image.open(RESULTS / "curves.png") as image:
        pixels = np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0).astype(int)
    for colour in DOMAINS:
        wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert np.abs(pixels - wanted).max(axis=1).min() <= 16, f"{colour} is lost in the file"


@pytest.mark.slow
@pytest.mark.nightly
def test_two_runs_from_text_to_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_moebench.data.corpus import PROMPTS

    monkeypatch.setattr(study, "VOCABULARY", 300)
    monkeypatch.setattr(study, "TEXTS_A_FILE", 2)
    monkeypatch.setattr(study, "LENGTH", 32)
    study.prepare([PROMPTS / "math.jsonl", PROMPTS / "code.jsonl"], tmp_path)
    runs = [run for run in study.planned(["main", "xmoe"], 1) if run.arm in ("smoe", "tc_moe", "dense")]
    for run in runs:
        study.one(run, SimpleNamespace(runs=tmp_path, steps=5))
    results = tmp_path / "results"
    results.mkdir()
    for name in ("theirs.json", TEMPLATE):
        (results / name).write_text((RESULTS / name).read_text("utf-8"), "utf-8")
    (results / "runs.json").write_text(json.dumps(study.collected(runs, tmp_path)))
    write_pages(results)
    assert "3 runs of `tiny`" in (results / "README.md").read_text("utf-8")
    assert len(list(results.glob("*.png"))) == 9
