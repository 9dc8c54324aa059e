"""What findings and intervals rest on, from commands to pages: texts twice, ties, thresholds, unequal domains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import save_checkpoint

from mlx_moebench import analyze, compare, profile
from mlx_moebench.cli import main
from mlx_moebench.data import read_corpus
from mlx_moebench.errors import MoebenchError
from mlx_moebench.options import Plan, Thresholds
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.pair.storage import read_report
from mlx_moebench.routing import METRICS
from mlx_moebench.routing.domains.findings import WORDS
from mlx_moebench.show.export import to_markdown
from mlx_moebench.show.figures import answer
from mlx_moebench.show.findings import counted
from mlx_moebench.show.inputs import Inputs, read_inputs
from mlx_moebench.show.page import build_page
from mlx_moebench.show.page.provenance import provenance

FEW = ("--max-length", "32", "--resamples", "100", "--quiet")


def write(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def texts_of(dataset: str, number: int) -> list[str]:
    return [document.text for document in read_corpus(dataset, max_samples=number).documents]


def plain(text: str) -> str:
    return " ".join(text.split())


# -- texts that stand twice ----------------------------------------------------------------------------------------


def test_every_text_twice_gives_the_intervals_of_each_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = texts_of("math", 14)
    reports, printed = {}, {}
    for name, lines in (("once", texts), ("twice", texts + texts[::-1])):
        data = write(tmp_path / f"{name}.jsonl", lines)
        main(["analyze", "--dataset", str(data), *FEW, "--output", str(tmp_path / name)])
        reports[name], printed[name] = read_report(tmp_path / f"{name}.json"), plain(capsys.readouterr().out)
    once, twice = reports["once"], reports["twice"]
    assert (once["data"]["n_sequences"], twice["data"]["n_sequences"]) == (14, 28)
    assert (once["data"]["repeated_sequences"], twice["data"]["repeated_sequences"]) == (0, 14)
    assert list(once["data"]["effective_sequences"].values()) == list(twice["data"]["effective_sequences"].values())
    for a, b in zip(once["routers"], twice["routers"], strict=True):
        for name, metric in METRICS.items():
            if metric.interval == "none":
                continue
            for end in ("low", "high"):
                assert a["ci"][name][end] is not None, name
                assert b["ci"][name][end] == pytest.approx(a["ci"][name][end], rel=1e-5, abs=1e-7), name
        for end in ("low", "high"):
            assert b["token_share"][end] == pytest.approx(a["token_share"][end], rel=1e-6)
    said = "14 sequences repeat an earlier one token for token; intervals take all copies of a text together as one."
    assert said in printed["twice"]
    assert "repeat an earlier one" not in printed["once"]
    assert said in build_page(read_inputs([tmp_path / "twice.json"]))


# -- ties ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zero_router(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose routers score all experts alike: the order of the experts chooses."""
    from conftest import TINY_CONFIG, build_tiny

    model = build_tiny()
    for layer in model.layers:
        layer.mlp.gate.weight = 0 * layer.mlp.gate.weight
    return save_checkpoint(tmp_path_factory.mktemp("zero") / "zero", model, TINY_CONFIG)


def test_a_router_of_zeros_is_not_collapsed(zero_router: Path, tmp_path: Path) -> None:
    main(["analyze", "--model", str(zero_router), "--max-samples", "12", *FEW, "--output", str(tmp_path / "o")])
    for router in read_report(tmp_path / "o.json")["routers"]:
        assert router["tied_selections"] == 1
        assert router["top_share_token"] == 1
        assert router["collapsed"] is None
        assert router["collapsed_reason"] == "scores tie in 100% of the tokens, where the order of the experts decides"


def test_a_router_of_zeros_gets_no_word(zero_router: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "profile"
    domains = ("--domain", "math", "--domain", "code", "--max-samples", "24")
    main(["profile", "--model", str(zero_router), *domains, *FEW, "--output", str(output)])
    (model,) = json.loads((output / "profile.json").read_text())["models"]
    for router in model["routers"]:
        assert router["findings"]["word"] == "open"
        for finding in router["findings"]["findings"].values():
            assert finding["answer"] == "open"
            assert "scores tie in 100% of the tokens" in finding["reason"]
    assert "every layer: collapsed, dominated, idle, specialised open (scores tie in 100% of the tokens" in plain(
        capsys.readouterr().out
    )


# -- thresholds ----------------------------------------------------------------------------------------------------


def profiled(folder: Path, *options: str) -> dict[str, Any]:
    domains = ("--domain", "math", "--domain", "code", "--max-samples", "20")
    main(["profile", *domains, *FEW, *options, "--output", str(folder)])
    whole: dict[str, Any] = json.loads((folder / "profile.json").read_text())
    return whole


def words(whole: dict[str, Any]) -> set[str]:
    return {router["findings"]["word"] for router in whole["models"][0]["routers"]}


def test_thresholds_of_the_command_line_decide_and_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual = profiled(tmp_path / "usual")
    other = profiled(tmp_path / "other", "--threshold", "used=0.99", "--threshold", "specialisation=0.9")
    assert usual["settings"]["thresholds"]["used"] == 0.5
    assert other["settings"]["thresholds"] == usual["settings"]["thresholds"] | {"used": 0.99, "specialisation": 0.9}
    assert "collapsed" not in words(usual)
    assert "collapsed" in words(other), "all experts in effective use is less than r = 0.99"
    report = read_report(tmp_path / "other" / "moebench-nano" / "math.json")
    assert "thresholds" not in report["settings"], "one domain has no findings"
    assert "collapsed: r < 0.99 and s < 0.9" in plain(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("odds", "write NAME=VALUE"),
        ("odds=many", "write NAME=VALUE"),
        ("odds=1", "odds is a multiple above 1"),
        ("used=0", "used lies between 0 and 1"),
        ("use=0.3", "There is no threshold 'use'. Did you mean 'used'?"),
    ],
)
def test_what_is_no_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["profile", "--threshold", option, "--output", str(tmp_path / "p")])
    assert stop.value.code in (1, 2)
    assert message in plain(capsys.readouterr().err)


def test_thresholds_in_python() -> None:
    plan = Plan(resamples=100, thresholds=Thresholds(odds=1.0001, used=0.01))
    (found,) = profile(domains=("math", "code"), max_samples=20, max_length=32, plan=plan)
    for router in found.report()["routers"]:
        assert router["findings"]["findings"]["collapsed"]["parts"]["used"]["threshold"] == 0.01
        dominated = router["findings"]["findings"]["dominated"]
        assert dominated["threshold"] == pytest.approx(1.0001 / 7 / (1 + 1.0001 / 7))
    with pytest.raises(MoebenchError, match="between 0 and 1"):
        Thresholds(used=2)


def agrees(inputs: Inputs, level: float, used: float) -> None:
    """The answer, the words of the run, the legend, the notes and the provenance are of one plan."""
    ((name, profile),) = inputs.profiles.items()
    (run,) = inputs.runs
    for settings in (profile["settings"], run.report["settings"]):
        assert settings["ci"]["level"] == level
        assert settings["thresholds"]["used"] == used
    assert profile["words_by_router"] == run.report["words_by_router"]
    for a, b in zip(profile["routers"], run.report["routers"], strict=True):
        assert a["findings"] == b["findings"]
    words = counted(profile["words_by_router"]["mlp"])
    found = {word for word, n in profile["words_by_router"]["mlp"].items() if n}
    assert found == {word for word in WORDS if f"({word}" in answer(inputs).sentences[0]}
    shown = to_markdown(inputs)
    assert shown.count(words) == 1, "below the run"
    assert f"r < {used:g}" in shown
    assert f"{100 * level:g}% intervals" in shown
    assert ("settings thresholds used", str(used)) in dict(provenance(inputs))[name]
    assert ("settings ci level", str(level)) in dict(provenance(inputs))[name]


def test_a_report_keeps_the_thresholds_and_intervals_of_the_pair_that_it_is_of(tmp_path: Path) -> None:
    profiled(tmp_path / "p")
    pairs = [str(tmp_path / "p" / "moebench-nano" / f"{name}.json") for name in ("math", "code")]
    options = ("--threshold", "used=0.985", "--threshold", "specialisation=0.9", "--level", "0.9", "--resamples", "100")
    main(["merge", *pairs, "-o", str(tmp_path / "both.json"), *options])
    kept = read_inputs([tmp_path / "both.json"])
    assert kept.runs[0].report == read_report(tmp_path / "both.json")
    agrees(kept, 0.9, 0.985)
    agrees(read_inputs([tmp_path / "both.json"], plan=Plan(level=0.8), chosen=["level"]), 0.8, 0.985)
    agrees(read_inputs([tmp_path / "both.json"], plan=Plan(level=0.8, thresholds=Thresholds(used=0.7))), 0.8, 0.7)


def test_a_report_keeps_the_thresholds_and_intervals_of_a_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = profiled(tmp_path / "p", "--threshold", "used=0.985", "--threshold", "specialisation=0.9", "--level", "0.9")
    kept = read_inputs([tmp_path / "p"])
    assert next(iter(kept.profiles.values()))["routers"] == made["models"][0]["routers"]
    agrees(kept, 0.9, 0.985)
    agrees(read_inputs([tmp_path / "p"], plan=Plan(level=0.8), chosen=["level"]), 0.8, 0.985)
    capsys.readouterr()
    main(["report", str(tmp_path / "p"), "--format", "md", "--level", "0.8"])
    shown = capsys.readouterr().out
    assert "r < 0.985" in shown
    assert "- [low, high]: 80% intervals over sequences" in shown


def test_a_profile_from_before_findings_has_them_made_again_of_the_pairs_beside_it(tmp_path: Path) -> None:
    made = profiled(tmp_path / "p", "--level", "0.9")
    old = {"schema_version": "1", "settings": {"ci": made["settings"]["ci"]}, "models": made["models"]}
    for model in old["models"]:
        model["verdicts_by_router"] = model.pop("words_by_router")
    (tmp_path / "p" / "profile.json").write_text(sealed_text(old))
    agrees(read_inputs([tmp_path / "p"]), 0.9, 0.5)


# -- domains that differ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        (lambda texts: texts[:10], lambda texts: texts[:41], "large has 41 sequences, small 10"),
        (lambda texts: [t[:14] for t in texts[:12]], lambda texts: texts[:12], "tokens a sequence"),
    ],
    ids=["in number", "in length"],
)
def test_domains_that_differ_much_are_warned_of(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    small: Callable[[list[str]], list[str]],
    large: Callable[[list[str]], list[str]],
    said: str,
) -> None:
    made = {"small": small(texts_of("math", 41)), "large": large(texts_of("code", 41))}
    paths = [write(tmp_path / f"{name}.jsonl", texts) for name, texts in made.items()]
    main(["profile", *(x for path in paths for x in ("--domain", str(path))), *FEW, "--output", str(tmp_path / "p")])
    assert said in plain(capsys.readouterr().out)
    (model,) = json.loads((tmp_path / "p" / "profile.json").read_text())["models"]
    assert any(said in sentence for sentence in model["data"]["unequal_domains"])
    assert said in build_page(read_inputs([tmp_path / "p"]))


def test_copies_make_no_text_longer(tmp_path: Path) -> None:
    made = {"once": texts_of("math", 12), "often": texts_of("code", 12) * 5}
    paths = [write(tmp_path / f"{name}.jsonl", texts) for name, texts in made.items()]
    main(["profile", *(x for path in paths for x in ("--domain", str(path))), *FEW, "--output", str(tmp_path / "p")])
    (model,) = json.loads((tmp_path / "p" / "profile.json").read_text())["models"]
    assert model["data"]["repeated_sequences"] == 48
    assert model["data"]["unequal_domains"] == ["often has 60 sequences, once 12."]  # and nothing of their length
    often, once = sorted((tmp_path / "p" / "moebench-nano").glob("*.json"))
    notes = compare(often, once, allow=["data"], plan=Plan(resamples=100)).notes
    assert not any("tokens a sequence" in note for note in notes)


def test_domains_that_differ_little_are_not(tmp_path: Path) -> None:
    assert "unequal_domains" not in profiled(tmp_path / "p")["models"][0]["data"]
    assert "unequal_domains" not in analyze(max_samples=12, max_length=16).report(Plan(resamples=100))["data"]
