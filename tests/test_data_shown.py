"""What is said of how texts were read: in tables, in reports, from the command line."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mlx_moebench.cli import main
from mlx_moebench.show.names import read_by

FEW = ("--max-length", "16", "--resamples", "100", "--quiet")


def source(**facts: Any) -> dict[str, Any]:
    return {"name": "x", "unit": "row", "long": "truncate", "max_length": 16, "documents": 9} | facts


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (source(), "A document is a row; longer ones are cut off at 16 tokens."),
        (
            source(unit="file", long="windows"),
            "A document is a whole file; longer ones are cut into windows of 16 tokens.",
        ),
        (source(unit="file", documents=1), "A single document has no intervals; --split-on blank makes one of each"),
        (source(unit="file, row", long="truncate, windows"), "a whole file or a row; longer ones are cut off at 16"),
        (source(files=2, skipped={"hidden": 1, "binary": 3}), "Files of x: 2; left out: 1 hidden, 3 binary."),
        (source(files=2), "Files of x: 2."),
        (source(format="csv, delimiter ;", field="body"), "Read x as csv, delimiter ;; the text is body."),
    ],
)
def test_what_a_document_is(facts: dict[str, Any], line: str) -> None:
    assert line in "\n".join(read_by(facts))


def test_several_sources_are_named_where_they_differ() -> None:
    same = [source(name="a"), source(name="b")]
    assert list(read_by({"sources": same})) == ["A document is a row; longer ones are cut off at 16 tokens."]
    lines = list(read_by({"sources": [*same, source(name="c", unit="line"), {"name": "old", "max_length": 16}]}))
    assert [line.split(";")[0] for line in lines] == [
        "A document of a, b is a row",
        "A document of c is a line of a file",
    ]


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A researcher's: sources as a folder, licences as one .txt, descriptions as a .csv with semicolons."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Path("src").mkdir()
    for number in range(6):
        Path(f"src/part{number}.py").write_text(f"def part():\n    return {number}\n\n\nprint(part())\n")
    Path("licences.txt").write_text("\n\n".join(f"Permission is granted, in case {n}, to use it." for n in range(6)))
    with Path("packages.csv").open("w", newline="") as file:
        rows = [["id", "description"], *([n, f"Reads, writes and checks files of kind {n}."] for n in range(6))]
        csv.writer(file, delimiter=";").writerows(rows)
    return tmp_path


def test_from_raw_files_to_a_profile(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domains = ("--domain", "code=src/", "--domain", "licences.txt", "--domain", "packages.csv@description")
    main(["profile", *domains, "--split-on", "blank", *FEW])
    shown = capsys.readouterr().out
    assert "A document of code, licences is a paragraph of a file; longer ones are cut off at 16 tokens." in shown
    assert "A document of packages is a row;" in shown
    assert "Files of code: 6." in shown
    data = {path.stem: json.loads(path.read_text())["data"] for path in Path("profile", "moebench-nano").glob("*.json")}
    assert {name: facts["documents"] for name, facts in data.items()} == {"code": 12, "licences": 6, "packages": 6}
    assert data["packages"]["format"] == "csv, delimiter ;"
    assert (data["packages"]["field"], data["packages"]["unit"]) == ("description", "row")
    assert data["code"]["files"] == 6
    assert "skipped" not in data["code"]
    main(["report", "profile/moebench-nano/packages.json", "profile/moebench-nano/code.json", "--output", "page.html"])
    assert "csv, delimiter ;" in Path("page.html").read_text()


def test_the_table_says_how_the_text_was_read(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["analyze", "--dataset", "licences.txt", "--output", "o", *FEW])
    shown = capsys.readouterr().out
    assert "A document is a whole file; longer ones are cut into windows of 16 tokens." in shown
    main(["analyze", "--dataset", "packages.csv@description", "--long", "windows", "--output", "p", *FEW])
    assert "A document is a row; longer ones are cut into windows of 16 tokens." in capsys.readouterr().out
    main(["compare", "o.json", "p.json", "--allow", "data", "--quiet"])  # other data may be of other units
