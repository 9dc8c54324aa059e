"""results/: every number on its pages is that of the file it came from, and those files are what was measured.

Four links make the chain, each tested: a page is rendered again from the JSON files and must be the same to the byte,
so that no number of it can be typed or mended by hand; its template holds no number of its own, but for names, levels
and the like listed below; the JSON files are those that `manifest.json` has the hashes of, so that no number in one can
be changed alone; and the reports among them are computed again from the sums beside them, so that not even both can be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from leaderboard import plan_of
from notes import render_notes

from mlx_moebench import RoutingStats
from mlx_moebench.errors import DataError
from mlx_moebench.pair.seal import sealed_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


OTHERS: dict[str, Callable[[Path], str]] = {}
"""Pages that neither the table nor a template in notes/ makes: name, and what renders it from the folder."""

ALLOWED = (
    r"OLMoE-1B-7B|Qwen1\.5-MoE-A2\.7B|JetMoE-8B|SmolLM2-135M",  # names of models
    r"\bfloat(16|32)\b|\bbfloat16\b",
    r"Apache-2\.0",
    r"\b(8 and )?[48] bit\b",  # what was asked for; what was used stands in the report
    r"\bn_eff90\b|\bn90\b|\btop-1\b",
    r"\bs?ha256\b",
    r"leaves? out 0\b|lie within 0\.1 of",  # bounds that a claim() beside the sentence checks
    r"\^2",
    r"\b95% (t )?intervals\b|\bthe limit of 1%",  # a level, and a bound that a claim() checks
    r"max\(0, tau - H\)",
)
"""Digits that may stand in a template, because they are no measurement."""


def rendered(results: Path) -> dict[str, str]:
    """All pages, by name."""
    pages: dict[str, str] = import_module("make_results").rendered(results)
    return pages | {name: of(results) for name, of in OTHERS.items() if (results / name).exists()}


def problems(results: Path) -> Iterator[str]:
    """What is wrong with the pages of a folder of results."""
    pages = rendered(results)
    for page in results.glob("*.md"):
        if page.name not in pages:
            yield f"{page.name}: no template in notes/ and no line in OTHERS makes it"
        elif page.read_text(encoding="utf-8") != pages[page.name]:
            yield f"{page.name}: not what the files beside it say; run scripts/make_results.py --only-notes"
    make_results = import_module("make_results")
    if (results / "manifest.json").read_text(encoding="utf-8") != make_results.manifest(results):
        yield "manifest.json: a measured file has changed; run scripts/make_results.py"


def digits_outside(template: str) -> list[str]:
    """Digits of a template that come neither from a file nor from `ALLOWED`, with what stands around them."""
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|<!--.*?-->|`[^`]*`|\]\([^)]*\)", "", template, flags=re.DOTALL)
    for pattern in ALLOWED:
        text = re.sub(pattern, "", text)
    return [text[max(0, m.start() - 20) : m.end() + 20] for m in re.finditer(r"\d+", text)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the results that may be changed."""
    return Path(shutil.copytree(RESULTS, tmp_path / "results", ignore=shutil.ignore_patterns("scratch")))


def test_pages_are_what_the_files_say() -> None:
    assert list(problems(RESULTS)) == []


def test_there_are_the_pages_that_the_readme_links() -> None:
    names = {"ROUTING_PROFILE_TABLE.md", "ANALYSIS_NOTES.md", "CROSS_MODEL_NOTES.md"}
    assert names <= {page.name for page in RESULTS.glob("*.md")}
    assert "results/ROUTING_PROFILE_TABLE.md" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_intervals_in_the_readme_are_those_of_the_pages() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = " ".join(readme.partition("\n## Results\n")[2].partition("\n## ")[0].split())
    quoted = re.findall(r"[+-]?[\d.]+ \[[^\]]*\d\]", section)
    pages = " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in RESULTS.glob("*.md"))
    assert len(quoted) >= 2
    assert [number for number in quoted if number not in pages] == []


@pytest.mark.parametrize("template", sorted((RESULTS / "notes").glob("*.in.md")), ids=lambda path: path.name)
def test_templates_hold_no_numbers_of_their_own(template: Path) -> None:
    assert digits_outside(template.read_text(encoding="utf-8")) == []


def test_a_number_typed_into_a_template_is_seen() -> None:
    assert digits_outside("The mean is 2.218 nats {{ x.value | num(3) }} in OLMoE-1B-7B at 4 bit.")


@pytest.mark.parametrize(
    "page", ["ROUTING_PROFILE_TABLE.md", "ANALYSIS_NOTES.md", "CROSS_MODEL_NOTES.md", "QUANT_DRIFT.md"]
)
def test_an_edited_page_is_seen(copy: Path, page: str) -> None:
    text = (copy / page).read_text(encoding="utf-8")
    last = list(re.finditer(r"\d\.\d+", text))[-1]
    digit = "1" if text[last.end() - 1] == "2" else "2"
    (copy / page).write_text(text[: last.end() - 1] + digit + text[last.end() :], encoding="utf-8")
    (problem,) = problems(copy)
    assert problem.startswith(page)


def test_an_edited_json_is_seen_even_with_a_new_manifest(copy: Path) -> None:
    file = copy / "profiles" / "nano.json"
    content = json.loads(file.read_text())
    content["models"][0]["routers"][0]["domain_information"]["value"] += 0.01
    file.write_text(sealed_text(content))
    assert sorted(problem.partition(":")[0] for problem in problems(copy)) == ["ANALYSIS_NOTES.md", "manifest.json"]
    (copy / "manifest.json").write_text(import_module("make_results").manifest(copy))
    assert [problem.partition(":")[0] for problem in problems(copy)] == ["ANALYSIS_NOTES.md"]


def test_a_page_that_nothing_makes_is_seen(copy: Path) -> None:
    (copy / "MORE.md").write_text("The effect is 3.14 nats.\n")
    (problem,) = problems(copy)
    assert problem.startswith("MORE.md: no template")


@pytest.mark.parametrize("pair", sorted(RESULTS.glob("routing_stats_*.json")), ids=lambda path: path.stem)
def test_reports_are_computed_again_from_their_sums(pair: Path) -> None:
    kept = json.loads(pair.read_text())
    again: Any = RoutingStats.load(pair).report(plan_of(kept))
    assert kept.pop("sums_sha256")
    assert kept.pop("seal")
    assert kept.keys() <= again.keys()  # what a later version adds is not in a kept report
    for key in ("model", "data", "settings"):
        assert again[key] == kept[key]
    for of_again, of_kept in zip(again["routers"], kept["routers"], strict=True):
        assert_close(of_again, of_kept, pair.name)
    assert_close(again["summary_by_router"], kept["summary_by_router"], pair.name)


def assert_close(a: Any, b: Any, where: str) -> None:
    """The values that ``b`` has, equal in ``a``, floats to rounding."""
    if isinstance(a, dict):
        assert b.keys() <= a.keys(), where
        for key in b:
            assert_close(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_close(x, y, f"{where}/{number}")
    elif isinstance(a, float):
        assert b == pytest.approx(a, rel=1e-6, abs=1e-9), where
    else:
        assert a == b, where


@pytest.mark.shared_data
def test_olmoe_is_what_its_counts_say() -> None:
    counts = Path(os.environ.get("MOEBENCH_SHARED_DATA", ROOT.parent / "shared" / "data")) / "olmoe_routing"
    if not counts.is_dir():
        pytest.skip(f"no folder {counts.name} in the folder named by MOEBENCH_SHARED_DATA")
    kept = RoutingStats.load(RESULTS / "routing_stats_olmoe_counts.json")
    names = ("arxiv", "book", "c4", "github")
    for domain, part in kept.by_domain().items():
        assert domain in names
        for folder, column in (("expert_counts", "counts"), ("expert_counts_top1", "top1_counts")):
            layers = json.loads((counts / folder / f"{domain}.json").read_text())
            for number, layer in enumerate(layers):
                found = getattr(part.totals(number), column)
                assert {expert: int(n) for expert, n in enumerate(found) if n} == {int(e): n for e, n in layer.items()}
    assert "allenai" in kept.model["id"]
    assert "Apache-2.0" in kept.model["id"]


def test_without_the_counts_their_statistics_stay(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOEBENCH_SHARED_DATA", str(tmp_path / "absent"))
    make_results = import_module("make_results")
    (tmp_path / "stage").mkdir()
    make_results.analyse_olmoe(make_results.Stage(tmp_path / "stage", copy))
    assert "their statistics stay as they are" in capsys.readouterr().out
    assert list(problems(copy)) == []


def test_published_rows_state_their_source_and_their_ranges() -> None:
    published = json.loads((RESULTS / "published.json").read_text())
    assert published["url"].startswith("https://")
    for row in published["rows"]:
        assert row["top_k"] < row["n_experts"]
        for figure in row["figures"].values():
            printed = float(re.search(r"[\d.]+", figure["printed"])[0])  # type: ignore[index]
            assert figure["value"] == pytest.approx(printed / 100 if "%" in figure["printed"] else printed)
    text = " ".join(published["ambiguities"])
    forms = {row["model"]: (row["top_k"], row["n_experts"]) for row in published["rows"]}
    assert f"1/K = {100 / forms['OLMoE-1B-7B'][0]:.1f}%" in text
    k, experts = forms["JetMoE-8B"]
    assert f"K/E = {100 * k / experts:.0f}%" in text


# -- the renderer --------------------------------------------------------------------------------------------------


def page(tmp_path: Path, text: str, **content: Any) -> str:
    (tmp_path / "x.json").write_text(sealed_text(content))
    (tmp_path / "x.in.md").write_text(text)
    return render_notes(tmp_path / "x.in.md", tmp_path)


def test_numbers_show_their_interval_or_why_there_is_none(tmp_path: Path) -> None:
    found = {"value": 2.0, "low": 1.5, "high": 2.5}
    assert page(tmp_path, "{{ read('x.json').of | ci(1) }}", of=found) == "2.0 [1.5, 2.5]\n"
    assert page(tmp_path, "{{ read('x.json').of | percent }}", of=found) == "200.0 [150.0, 250.0]%\n"
    gone = {"value": 2.0, "low": None, "high": None, "reason": "1 text"}
    assert page(tmp_path, "{{ read('x.json').of | ci(1) }}", of=gone) == "2.0 (no interval: 1 text)\n"
    nothing = {"value": None, "low": None, "reason": "K = 1"}
    assert page(tmp_path, "{{ read('x.json').of | ci }}", of=nothing) == "null (K = 1)\n"
    effect = {"effect": -0.0001, "low": -1.0, "high": 0.5}
    assert page(tmp_path, "{{ read('x.json').of | ci(2) }}", of=effect) == "0.00 [-1.00, +0.50]\n"
    assert page(tmp_path, "{{ 0.0004 | p }} {{ 0.04 | p }} {{ 12300 | num(0) }}") == "< 0.001 0.040 12,300\n"


def test_paragraphs_are_wrapped_and_tables_are_not(tmp_path: Path) -> None:
    words, row = "word " * 60, f"| {'cell | ' * 40}"
    lines = page(tmp_path, f"# Head\n\n\n{words}\nend\n{row}\n- item\n").splitlines()
    assert lines[:2] == ["# Head", ""]
    assert max(len(line) for line in lines if line.startswith(("word", "end"))) <= 120
    assert row.strip() in lines
    assert lines[-1] == "- item"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("first\n{{ claim(read('x.json').n > 1) }}", "line 2.*claim"),
        ("{{ read('x.json').missing | num }}", "line 1"),
        ("{{ read('absent.json') }}", "absent.json"),
        ("{% if %}", "cannot be filled in"),
    ],
)
def test_what_cannot_be_filled_in_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        page(tmp_path, text, n=1)


def test_the_page_of_upcycling_is_what_its_file_says() -> None:
    folder = RESULTS / "upcycling"
    template = folder / "README.in.md"
    assert (folder / "README.md").read_text(encoding="utf-8") == render_notes(template, folder)
    assert digits_outside(template.read_text(encoding="utf-8")) == []
