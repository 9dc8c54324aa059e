"""``mlx-moebench profile`` on the embedded model: pairs, table, JSON, CSV, picture, resuming, and mistakes."""

from __future__ import annotations

import csv
import json
import math
import shutil
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from referencing import Registry, Resource
from routing_reference import SCHEMA, make_stats
from safetensors.numpy import save_file

from mlx_moebench import RoutingStats, analyze, profile
from mlx_moebench.analysis.profile import domain_names, model_names, planned
from mlx_moebench.cli import main
from mlx_moebench.errors import DataError, MoebenchError, StatsError
from mlx_moebench.measure.on_mlx import MLX
from mlx_moebench.models import Checkpoint, load_checkpoint
from mlx_moebench.pair.profile import PROFILE_VERSION, Profile, profile_of_stats, profile_settings
from mlx_moebench.routing import METRICS, Plan, RouterSpec
from mlx_moebench.routing.domains.information import domain_information
from mlx_moebench.show.plots.specialisation import plot_specialisation
from mlx_moebench.show.tables.profile import COLUMNS, tidy_csv, tidy_rows

PROFILE_SCHEMA = json.loads(
    files("mlx_moebench.routing").joinpath("schema/profile.schema.json").read_text(encoding="utf-8")
)
FEW = ("--max-samples", "12", "--max-length", "32", "--resamples", "100", "--quiet")


def validate_profile(whole: Any) -> None:
    registry = Registry().with_resource("routing_stats.schema.json", Resource.from_contents(SCHEMA))
    jsonschema.Draft202012Validator(PROFILE_SCHEMA, registry=registry).validate(whole)


def as_json(found: Profile) -> dict[str, Any]:
    settings = profile_settings(found.plan)
    return {"schema_version": PROFILE_VERSION, "settings": settings, "models": [found.report()]}


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["profile", *map(str, arguments)])
    assert stop.value.code == code
    error = capsys.readouterr().err
    assert code != 1 or (error.startswith("Error: ") and error.count("\n") == 1)
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run over math and code."""
    folder = tmp_path_factory.mktemp("profile") / "out"
    main(["profile", "--domain", "math", "--domains", "program=code", "--output", str(folder), *FEW])
    return folder


# -- what it writes ------------------------------------------------------------------------------------------------


def test_one_pair_per_domain_and_what_lies_between_them(folder: Path) -> None:
    assert sorted(path.name for path in (folder / "moebench-nano").iterdir()) == [
        "math.json",
        "math.safetensors",
        "program.json",
        "program.safetensors",
    ]
    whole = json.loads((folder / "profile.json").read_text())
    validate_profile(whole)
    (model,) = whole["models"]
    assert [d["name"] for d in model["domains"]] == ["math", "program"]
    assert whole["settings"]["ci"]["resamples"] == 100
    parts = [RoutingStats.load(folder / "moebench-nano" / name) for name in ("math", "program")]
    for number, router in enumerate(model["routers"]):
        counts = np.stack([part.totals(number).counts for part in parts])
        info = router["domain_information"]
        assert info["plugin"] == pytest.approx(float(domain_information(counts)))
        assert info["relative"] == pytest.approx(info["value"] / math.log(2))
        assert info["low"] <= info["value"] <= min(info["plugin"], info["high"])
        assert 0 < info["p_value"] <= info["q_value"] <= 1
        (divergence,) = router["jensen_shannon"]
        assert divergence["domains"] == ["math", "program"]
        # The information of two domains is their divergence; only its lower end is that of the test, too.
        assert {key: divergence[key] for key in ("value", "plugin")} == pytest.approx(
            {key: info[key] for key in ("value", "plugin")}
        )
        for part, name in zip(parts, ("math", "program"), strict=True):
            shares = router["domain_specialisation"]["shares"][name]
            assert sum(shares) == pytest.approx(router["top_k"])
            assert max(shares) == pytest.approx(part.values(number)["top_share_token"])
            overlap = router["adjacent_overlap"]["domains"][name]
            assert overlap["value"] == pytest.approx(part.values(number)["adjacent_overlap"])
            assert overlap["low"] < overlap["value"] < overlap["high"]
    words = [router["findings"]["word"] for router in model["routers"]]
    assert {word: words.count(word) for word in set(words)} == {
        word: count for word, count in model["words_by_router"]["mlp"].items() if count
    }
    assert len(words) == 6


def test_the_tidy_table_has_every_number_once(folder: Path) -> None:
    with (folder / "profile.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    fixed = "model layer moe_layer router domain phase metric value low high n_tokens n_sequences"
    assert COLUMNS[:12] == tuple(fixed.split())  # others read the table by these; more may follow
    keys = [tuple(row[k] for k in ("model", "layer", "router", "domain", "phase", "metric")) for row in rows]
    assert len(set(keys)) == len(keys) == 6 * (2 * len(METRICS) + 10)
    report = json.loads((folder / "moebench-nano" / "program.json").read_text())
    for row in rows:
        assert row["unit"]
        assert row["reason"] or (row["value"] and row["low"] and row["high"])
        if row["domain"] == "program" and row["metric"] == "mean_entropy":
            router = report["routers"][int(row["layer"])]
            assert float(row["value"]) == router["mean_entropy"]
            assert float(row["low"]) == router["ci"]["mean_entropy"]["low"]
            assert (row["n_sequences"], row["n_tokens"]) == ("12", str(router["n_tokens"]))
    between = [row for row in rows if "|" in row["domain"]]
    assert {row["domain"] for row in between} == {"math|program"}
    assert {row["n_sequences"] for row in between} == {"24"}


def test_the_same_as_merging_the_pairs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [folder / "moebench-nano" / "math.json", f"program={folder / 'moebench-nano' / 'program.safetensors'}"]
    main(["profile", *map(str, pairs), "--output", str(tmp_path), "--resamples", "100", "--json"])
    (again,) = json.loads(capsys.readouterr().out)["models"]
    (model,) = json.loads((folder / "profile.json").read_text())["models"]
    assert again["routers"] == model["routers"]
    assert (tmp_path / "profile.csv").read_text() == (folder / "profile.csv").read_text()


def test_tables_and_picture(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--domain", "math", "--domains", "program=code", *FEW, "--resume")
    main(["profile", *options, "--output", str(folder), "--plot", str(tmp_path / "p.png")])
    printed = capsys.readouterr().out
    assert "moebench-nano, prefill, top-2 of 16" in printed
    assert "Findings over math, program" in printed
    assert str(tmp_path / "p.png") in printed.replace("\n", "")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


# -- resuming ------------------------------------------------------------------------------------------------------


def test_resume_measures_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, forwards = MLX.forward, []

    def counting(*arguments: Any) -> None:
        forwards.append(1)
        forward(*arguments)

    monkeypatch.setattr(MLX, "forward", counting)
    arguments = ["profile", "--domain", "math", "--domain", "code", *FEW, "--output", str(tmp_path / "out")]
    main(arguments)
    first, table = (tmp_path / "out" / "profile.json").read_text(), (tmp_path / "out" / "profile.csv").read_text()
    assert len(forwards) == 4  # 2 domains x 12 sequences in batches of 8
    (tmp_path / "out" / "moebench-nano" / "code.json").unlink()
    (tmp_path / "out" / "moebench-nano" / "code.safetensors").unlink()
    main([*arguments, "--resume"])
    assert len(forwards) == 6
    assert (tmp_path / "out" / "profile.csv").read_text() == table
    assert json.loads((tmp_path / "out" / "profile.json").read_text()) == json.loads(first)
    capsys.readouterr()
    assert "its max samples is 12, this run's is 11" in fails(
        capsys, *arguments[1:], "--resume", "--max-samples", "11", "--output", tmp_path / "out"
    )


# -- in Python -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(None)


def test_in_python_without_files(checkpoint: Checkpoint) -> None:
    (found,) = profile(domains=["math", "general"], max_samples=10, max_length=24, plan=Plan(resamples=100))
    validate_profile(as_json(found))
    assert repr(found) == "Profile(moebench-nano on math, general: 6 routers)"
    assert list(found.reports) == ["math", "general"]
    single = analyze(checkpoint, "math", max_samples=10, max_length=24)
    np.testing.assert_array_equal(found.merged.by_domain()["math"].sums(0).counts, single.sums(0).counts)


def test_two_models(tmp_path: Path) -> None:
    from mlx_moebench.models import NANO

    output = tmp_path / "out"
    arguments = ["--model", f"other={NANO}", "--model", str(NANO), "--output", str(output), *FEW]
    main(["profile", *arguments, "--domain", "math", "--domain", "code", "--plot", str(tmp_path / "p.svg")])
    whole = json.loads((output / "profile.json").read_text())
    validate_profile(whole)
    assert [model["name"] for model in whole["models"]] == ["other", "nano"]
    assert whole["models"][0]["routers"] == whole["models"][1]["routers"]
    assert {path.name for path in tmp_path.glob("p*.svg")} == {"p.svg", "p.nano.svg"}
    assert (output / "other" / "code.json").exists()


@pytest.mark.parametrize(("field", "reads"), [("text", 1), ("messages", 2)])
def test_data_is_read_once_unless_the_tokenizer_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str, reads: int
) -> None:
    """For two models; chat messages are written by the template of each."""
    module = import_module("mlx_moebench.analysis.profile")
    from mlx_moebench.models import NANO

    texts: list[Any] = ["a text of some words", "and another one"]
    if field == "messages":
        texts = [[{"role": "user", "content": text}] for text in texts]
    for name in ("one", "two"):
        lines = [json.dumps({field: text, "of": name}) for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    for name in ("a", "b"):
        shutil.copytree(NANO, tmp_path / name)
        settings = tmp_path / name / "tokenizer_config.json"
        template = f"{name}: {{{{ messages[0]['content'] }}}}"
        settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": template}))
    seen: list[str] = []
    read_corpus = module.read_corpus

    def counted(dataset: str, **settings: Any) -> Any:
        seen.append(Path(dataset).name)
        return read_corpus(dataset, **settings)

    monkeypatch.setattr(module, "read_corpus", counted)
    both = module.profile([tmp_path / "a", tmp_path / "b"], [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")])
    assert seen == ["one.jsonl", "two.jsonl"] * reads
    templates = {facts["template"] for found in both for facts in found.merged.sources.values()}
    assert len(templates) == reads


def test_kinds_of_router_and_shapes_are_kept_apart(tmp_path: Path) -> None:
    specs = (RouterSpec(0, 0, "attention", 16, 2), RouterSpec(0, 0, "mlp", 8, 1), RouterSpec(1, 1, "mlp", 4, 2))
    parts = [make_stats(range(12), sha=x * 64, specs=specs) for x in "ab"]
    found = profile_of_stats(parts, Plan(resamples=100))
    whole = as_json(found)
    validate_profile(whole)
    (model,) = whole["models"]
    assert set(model["words_by_router"]) == {"attention", "mlp"}
    plot_specialisation(model | {"settings": whole["settings"]}, tmp_path / "p.png")
    rows = tidy_csv(tidy_rows(model, found.reports)).decode().splitlines()
    assert len(rows) == 1 + 3 * (2 * len(METRICS) + 10)


def test_few_sequences_have_no_interval_and_no_null() -> None:
    found = profile_of_stats([make_stats(range(4), sha=x * 64) for x in "ab"])
    whole = as_json(found)
    validate_profile(whole)
    info = whole["models"][0]["routers"][0]["domain_information"]
    assert info["value"] > 0
    assert info["low"] is info["high"] is info["p_value"] is info["q_value"] is None
    assert "4 sequences of data-a are too few" in info["reason"]


# -- mistakes ------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert model_names([None, "org/model", "x=./path/y"]) == {
        "moebench-nano": None,
        "model": "org/model",
        "x": "./path/y",
    }
    assert domain_names(["math", "law=a/b.jsonl@body", "./c d.txt", "hub:org/set:config", ("x", "field")]) == {
        "math": ("math", None),
        "law": ("a/b.jsonl", "body"),
        "c d": ("./c d.txt", None),
        "set:config": ("hub:org/set:config", None),
        "x": ("x", "field"),
    }
    assert domain_names({"a": "math", "b": ["text"]}) == {"a": ("math", None), "b": ({"b": ["text"]}, None)}
    with pytest.raises(MoebenchError, match="Two models are named 'm'"):
        model_names(["a/m", "b/m"])
    with pytest.raises(DataError, match="Two domains are named 'x'"):
        domain_names(["a/x.txt", "b/x.csv"])
    with pytest.raises(DataError, match="math is given as two domains"):
        domain_names(["math", "other=math"])
    with pytest.raises(DataError, match="give two or more --domain, not 1"):
        domain_names(["math"])


def test_no_two_pairs_at_one_place(tmp_path: Path) -> None:
    pairs = planned(["..", None], ["文件.txt", "数学.txt", "a b"], tmp_path).pairs
    places = {path.relative_to(tmp_path) for path in pairs.values() if path}
    names = ("文件", "数学", "a-b")
    assert places == {Path(model, f"{name}.json") for model in ("-", "moebench-nano") for name in names}
    for one, other in (("a b.txt", "a-b=code"), ("A=math", "a=code")):
        with pytest.raises(MoebenchError, match="would both be written to"):
            planned([None], [one, other], tmp_path)
        assert len(planned([None], [one, other], None).pairs) == 2


def test_bad_arguments(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = folder / "moebench-nano" / "math.json"
    assert "have only math" in fails(capsys, pair, "--output", tmp_path)
    assert "There is no nothing.json" in fails(capsys, "nothing.json", "--output", tmp_path)
    assert "not both" in fails(capsys, pair, "--domain", "math", code=2)
    assert "--max-samples is for measuring" in fails(capsys, pair, "--max-samples", 3, "--output", tmp_path, code=2)
    assert "A plot ends in .png, .svg or .pdf" in fails(capsys, pair, "--plot", "x.jpg", "--output", tmp_path)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"fine_tune_type": "full"}')
    save_file({"weight": np.zeros(1, np.float32)}, adapter / "adapters.safetensors")
    several = ("--model", "some/a", "--model", "some/b", "--adapter-path", adapter, "--output", tmp_path)
    assert "belongs to one model" in fails(capsys, *several, code=2)
    out = ("--output", tmp_path / "out", "--quiet")
    assert "is neither a bundled data set" in fails(capsys, "--domain", "math", "--domain", "cod", *out)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("The same text.")
    same = ("--domain", tmp_path / "a.txt", "--domain", tmp_path / "b.txt")
    assert "a and b are the same data" in fails(capsys, *same, *out)
    assert not (tmp_path / "out").exists(), "mistakes are found before anything is measured"
    for name, text in (("profile.json", '{"settings": 1}'), ("profile.csv", "name,age\n")):
        (tmp_path / name).write_text(text)
        code = folder / "moebench-nano" / "code.json"
        assert "exists and holds no profile" in fails(capsys, pair, code, "--output", tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(MoebenchError, match="Only a profile with an output can be resumed"):
        profile(resume=True)
    with pytest.raises(StatsError, match="Row 0 of data-a"):
        profile_of_stats([make_stats(range(2)), make_stats(range(2))])
