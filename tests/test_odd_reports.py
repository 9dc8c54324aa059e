"""Reports, exports and pictures of odd inputs: damaged, unfinished, of two kinds of router, without intervals."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from page_inputs import NANO, QUICK, RESULTS, drawings, training_folder
from routing_reference import make_stats

from mlx_moebench.cli import group
from mlx_moebench.errors import StatsError
from mlx_moebench.pair.seal import sealed_text
from mlx_moebench.routing import RouterSpec
from mlx_moebench.show.export import to_card, to_csv, to_markdown
from mlx_moebench.show.figures import Line, Points, answer, styles_of
from mlx_moebench.show.inputs import read_inputs
from mlx_moebench.show.numbers import percent
from mlx_moebench.show.page import build_page
from mlx_moebench.show.page.data import page_data
from mlx_moebench.show.page.provenance import provenance
from mlx_moebench.show.plots import get_plot

TWO_KINDS = tuple(
    RouterSpec(layer, layer, kind, experts, 2) for layer in range(3) for kind, experts in (("attention", 4), ("mlp", 8))
)


def pair(folder: Path, name: str = "a.json", **settings: Any) -> Path:
    make_stats(**settings).save(folder / name, QUICK)
    return folder / name


def changed(folder: Path, change: dict[str, Any], name: str = "alone.json") -> Path:
    """A report without its sums, with other entries."""
    report = json.loads(pair(folder, "whole.json").read_text())
    for path, value in change.items():
        holder: Any = report
        *parents, last = path.split(".")
        for key in parents:
            holder = holder[int(key) if key.isdigit() else key]
        holder[last] = value
    (folder / name).write_text(sealed_text(report))
    return folder / name


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(group, list(map(str, arguments)))


# -- inputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": "9"}, "schema version 9"),
        ({"routers": []}, "holds no router"),
        ({"routers.1.selection_counts": [1, 2]}, "layer 1 has 8 experts, and counts of 2"),
        ({"settings": {"tau": 0.4}}, "missing required field `collapse_on`"),
    ],
)
def test_a_report_that_cannot_be_shown_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(StatsError, match=words):
        read_inputs([changed(tmp_path, change)])


@pytest.mark.parametrize("command", [["report", "--format", "md"], ["plot", "load", "-o", "p.png"]])
@pytest.mark.parametrize(
    ("change", "name"), [({"settings.tau": None}, "a.json"), ({"routers": ["x"]}, "b.json"), ({}, "deep.json")]
)
def test_a_damaged_input_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], change: dict[str, Any], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = changed(tmp_path, change, name)
    if not change:
        path.write_text("[" * 200_000)
    result = run(*command, path)
    assert isinstance(result.exception, StatsError)
    assert ("is damaged or from another version" if change else "it is nested too deeply") in str(result.exception)


def test_half_of_a_surrogate_pair_can_be_exported(tmp_path: Path) -> None:
    change = {"model.id": "half \ud800", "data.name": "\udfff", "environment.command": "cmd \ud83d"}
    inputs = read_inputs([changed(tmp_path, change)])
    for export in (to_markdown, to_card, to_csv):
        text = export(inputs)
        assert text.encode()
        assert "ud800" in text.lower()


# -- what is written over --------------------------------------------------------------------------------------------


def test_a_table_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("metric,value,unit\n")
    result = run("report", pair(tmp_path), "-o", tmp_path / "mine.csv")
    assert "exists and holds no report" in str(result.exception)
    assert (tmp_path / "mine.csv").read_text() == "metric,value,unit\n"
    again = [run("report", tmp_path / "a.json", "-o", tmp_path / "own.csv").exit_code for _ in range(2)]
    assert again == [0, 0]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    result = run("report", pair(tmp_path), "-o", tmp_path / "pipe.html")
    assert "it is a pipe; name a file" in str(result.exception)


# -- the answer ------------------------------------------------------------------------------------------------------


def test_the_answer_tells_two_kinds_of_router_apart(tmp_path: Path) -> None:
    inputs = read_inputs([pair(tmp_path, specs=TWO_KINDS)])
    (sentence,) = answer(inputs).sentences
    assert "No attention router can be flagged: even routing" in sentence  # K/E is 0.5: above tau
    assert "no mlp router is flagged" in sentence
    most = max(r["top_share_token"] for r in inputs.runs[0].report["routers"])
    assert f"of the attention router of layer 0, with {most:.0%} [" in sentence


def test_the_answer_names_the_kind_of_the_layer_it_speaks_of(tmp_path: Path) -> None:
    paths = [pair(tmp_path, f"{letter}.json", specs=TWO_KINDS, sha=letter * 64) for letter in "ab"]
    (sentence,) = answer(read_inputs(paths, plan=QUICK)).sentences
    assert sentence.count(" attention routers") == 2  # what was found, and the sizes


def test_a_training_without_its_report_is_not_called_one_without_a_loss(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "floor")
    (folder / "training_report.json").unlink()
    sentence = answer(read_inputs([folder])).sentences[0]
    assert "not finished: 30 steps" in sentence
    assert "without a routing loss" not in sentence


def test_the_title_of_a_training_names_it_once(tmp_path: Path) -> None:
    inputs = read_inputs([training_folder(tmp_path / "floor")])
    assert "<title>Routing of the training floor</title>" in build_page(inputs)


def test_a_training_that_diverged_keeps_the_steps_before(tmp_path: Path) -> None:
    folder = training_folder(tmp_path / "floor")
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()[:30]]
    for line in lines[20:]:
        line |= {"ce": None, "routing_loss": None, "token_entropy": [None] * 3, "load_entropy": [1.0, None, 2.0]}
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = read_inputs([folder])
    said = answer(inputs)
    assert said.verdicts[0].state == "bad"
    assert "loss of the training batches is no number any more; at the start it was" in said.verdicts[0].sentence
    assert said.sentences[0] == "Training floor, with entropy_floor, weight 0.5: 30 steps on 3,000 tokens."
    entropies = drawings(page_data(inputs), "training")[2]["lines"]
    assert entropies[0]["values"][19:21] == [[1.8, 1.8, 1.8], [None, None, None, None]]
    assert entropies[2]["values"][20] == [1.5, 1.0, 2.0]


@pytest.mark.parametrize("name", ["ce", "routing_loss", "load_entropy"])
def test_a_figure_beyond_what_squares_hold_is_no_error(tmp_path: Path, name: str) -> None:
    folder = training_folder(tmp_path / "floor")
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()[:30]]
    lines[0][name] = [1e308] * 3 if name == "load_entropy" else 1e308
    lines[1][name] = lines[0][name]
    (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = read_inputs([folder])
    assert answer(inputs).verdicts[0].parts
    assert len(drawings(page_data(inputs), "training")) == 4


def test_what_a_comparison_allowed_is_said_as_such() -> None:
    cautions = answer(read_inputs([RESULTS / "comparisons" / "nano_decode.json"])).cautions
    assert "Compared although the sides differ: prefill and decode." in cautions


# -- what stands beside the numbers ----------------------------------------------------------------------------------


def test_a_level_is_not_rounded_to_certainty(tmp_path: Path) -> None:
    assert [percent(level) for level in (0.9, 0.95, 0.995, 0.999)] == ["90%", "95%", "99.5%", "99.9%"]
    result = run("report", *NANO, "--level", "0.995", "--resamples", 400, "--format", "md")
    assert "99.5% intervals over sequences" in result.output
    assert "100%" not in result.output


def test_the_method_of_an_interval_that_is_not_there_is_not_given(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(read_inputs([changed(tmp_path, {})])))))
    assert {row["method"] for row in rows if not row["low"]} == {""}


def test_provenance_has_the_command_of_every_domain(tmp_path: Path) -> None:
    ((_, rows),) = provenance(read_inputs(NANO, plan=QUICK))
    commands = {value for name, value in rows if name.startswith("command")}
    assert all(any(f"--dataset {domain}" in command for command in commands) for domain in ("math", "general", "code"))


def test_two_runs_without_intervals_claim_none(tmp_path: Path) -> None:
    few = [pair(tmp_path, name, rows=range(4)) for name in ("a.json", "b.json")]
    found = read_inputs([few[0], RESULTS / "uncertainty" / "nano_math.json"])
    assert "intervals over sequences" in get_plot("uncertainty").draw(found).get_suptitle()
    for curves in (
        router[score] for router in found.uncertainties[0]["routers"] for score in ("entropy", "selection_margin")
    ):
        for part in curves["calibration"]:
            part["loss"] |= {"low": None, "high": None, "reason": "too few"}
    assert get_plot("uncertainty").draw(found).get_suptitle() == "no intervals: too few; dotted: mean loss"
    small = read_inputs([few[0], f"other={few[1]}"], plan=QUICK)
    assert "no intervals: " in get_plot("comparison").draw(small).get_suptitle()


# -- pictures --------------------------------------------------------------------------------------------------------


def uncut(axis: Any) -> bool:
    """Whether every point of every line is inside the panel."""
    low, high = axis.get_ylim()
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axis.get_lines()])
    known = values[np.isfinite(values)]
    return bool(low <= known.min() and known.max() <= high)


def test_rows_with_one_axis_are_not_cut(tmp_path: Path) -> None:
    paths = [pair(tmp_path, f"{letter}.json", specs=TWO_KINDS, sha=letter * 64) for letter in "ab"]
    inputs = read_inputs(paths, plan=QUICK)
    between = next(iter(inputs.profiles.values()))["routers"]
    for router in between:
        router["domain_information"]["value"] = 0.5 if router["router"] == "mlp" else 0.01
    figure = get_plot("domains").draw(inputs)
    panels = [axis for axis in figure.axes if "Information of domain" in axis.get_title()]
    assert len(panels) == 2
    assert all(uncut(axis) for axis in panels)


def test_trainings_with_one_axis_are_not_cut(tmp_path: Path) -> None:
    folders = [training_folder(tmp_path / name) for name in ("weak", "strong")]
    log = folders[1] / "training_log.jsonl"
    log.write_text(
        log.read_text().replace('"routing_loss": 0.1', '"routing_loss": 7.0').replace("2.0, 2.0", "9.0, 9.0")
    )
    figure = get_plot("training").draw(read_inputs(folders))
    assert all(uncut(axis) for axis in figure.axes)


def test_a_training_without_a_step_is_not_drawn(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "training_log.jsonl").write_text("")
    inputs = read_inputs([tmp_path / "new"])
    assert "0 steps" in build_page(inputs)
    with pytest.raises(StatsError, match="holds no step yet"):
        get_plot("training").draw(inputs)


def test_more_lines_than_colours_differ_by_their_markers() -> None:
    lines = [Line(str(number), Points((), (), ()), ()) for number in range(40)]
    assert len({(style.hue, style.marker) for style in styles_of(lines)}) == 40


def test_a_line_of_a_domain_has_its_colour_and_no_two_look_the_same() -> None:
    names = ["", "a", "b", "", "a", "b", *map(str, range(8))]
    lines = [Line(name, Points((), (), ()), (), domain=name) for name in names]
    styles = styles_of(lines, ["b"])
    assert [style.hue for style in styles[:6]] == [None, 1, 0, None, 1, 0], "those of the page come first"
    assert len(set(styles)) == len(styles)
    assert len({(style.hue, style.dash) for style in styles}) == len(styles), "also where there are no markers"


def test_no_heading_of_provenance_over_nothing(tmp_path: Path) -> None:
    """A profile of stats pairs that lie elsewhere does not hold what they were measured with."""
    assert run("profile", *NANO, "--output", tmp_path / "profile", "--quiet").exit_code == 0
    result = run("report", tmp_path / "profile", "--format", "md")
    assert "specialised" in result.output
    assert "Provenance" not in result.output
    assert all(rows for _, rows in provenance(read_inputs([tmp_path / "profile"])))
