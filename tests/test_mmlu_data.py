"""MMLU's files and prompts: what is read, and one sentence that names file and row for what cannot be."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mmlu_files import rows, write_mmlu, write_rows

from mlx_moebench.data import mmlu as module
from mlx_moebench.data.mmlu import PRESETS, SUBJECTS, Question, prompt, read_mmlu, table_questions
from mlx_moebench.errors import DataError, MissingExtraError

SHARED = Path(os.environ.get("MOEBENCH_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data")) / "mmlu"


def test_the_subjects_and_the_preset() -> None:
    assert len(SUBJECTS) == len(set(SUBJECTS)) == 57
    assert list(SUBJECTS) == sorted(SUBJECTS)
    subjects, limit = PRESETS["12x25"]
    assert (len(set(subjects)), limit) == (12, 25)
    assert set(subjects) <= set(SUBJECTS)


@pytest.mark.parametrize("flat", [False, True])
def test_a_folder_is_read_as_it_was_written(tmp_path: Path, flat: bool) -> None:
    folder = write_mmlu(tmp_path / "set", {"anatomy": 7, "virology": 4}, flat=flat)
    found = read_mmlu(folder, subjects=["virology", "anatomy"], limit=6, shots=3)
    assert (found.name, found.format, found.split) == ("set", "folder", "val")
    assert [len(q) for q in found.questions.values()] == [4, 6]
    assert list(found.questions) == ["virology", "anatomy"]
    for number, (row, q) in enumerate(zip(rows("anatomy", 7, 2), found.questions["anatomy"], strict=False)):
        assert q == Question("anatomy", number, row[0], tuple(row[1:5]), "ABCD".index(row[5]))
    assert [shot.question for shot in found.shots["anatomy"]] == [row[0] for row in rows("anatomy", 3, 1)]
    assert any("\n" in q.question for q in found.questions["anatomy"])


def test_test_is_taken_where_it_is_complete(tmp_path: Path) -> None:
    write_mmlu(tmp_path, {"anatomy": 3, "virology": 3}, "val")
    write_mmlu(tmp_path, {"anatomy": 5}, "test")
    assert read_mmlu(tmp_path, subjects=["anatomy", "virology"]).split == "val"
    assert read_mmlu(tmp_path, subjects=["anatomy"]).split == "test"
    assert read_mmlu(tmp_path, subjects=["anatomy"], split="val").split == "val"
    with pytest.raises(DataError, match=r"virology_test\.csv is not there"):
        read_mmlu(tmp_path, subjects=["anatomy", "virology"], split="test")


def test_the_hash_is_of_everything_that_is_read(tmp_path: Path) -> None:
    folder = write_mmlu(tmp_path, {"anatomy": 3, "virology": 3})

    def sha(**options: Any) -> str:
        return read_mmlu(folder, subjects=["anatomy"], **options).sha256

    before = sha()
    assert sha(limit=1) == before
    assert sha(shots=0) != before, "without shots dev is not read"
    write_rows(folder / "val" / "virology_val.csv", rows("virology", 2, 5))
    assert sha() == before, "of another subject"
    write_rows(folder / "dev" / "anatomy_dev.csv", rows("anatomy", 5, 9))
    assert sha() != before


def test_the_prompt_is_the_original_form() -> None:
    shot = Question("high_school_physics", 0, "Which is faster?", ("light", "sound", "a snail", "mail"), 0)
    asked = Question("high_school_physics", 3, "Is 2 > 1?", ("yes", "no", "maybe", "both"), 0)
    assert prompt(asked, [shot]) == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "Which is faster?\nA. light\nB. sound\nC. a snail\nD. mail\nAnswer: A\n\n"
        "Is 2 > 1?\nA. yes\nB. no\nC. maybe\nD. both\nAnswer:"
    )


GOOD = '"Why, then?",a,b,c,d,A\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD + "too,few,columns\n", "row 2 has 3 columns"),
        (GOOD + GOOD.replace(",A", ",E"), "row 2: the answer is 'E'"),
        (GOOD.replace(",A", ","), "row 1: the answer is ''"),
        (GOOD.replace(",A", ",a"), "row 1: the answer is 'a'"),
        ("", "holds no question"),
        ("\n\n", "holds no question"),
        (GOOD + '"never closed,a,b,c,d,A\n', "row 2 is not valid CSV"),
        ("question,A,B,C,D,answer\n", "row 1: the answer is 'answer'"),
    ],
)
def test_malformed_files_are_one_sentence_with_the_row(tmp_path: Path, content: str, words: str) -> None:
    folder = write_mmlu(tmp_path, {"anatomy": 3})
    path = folder / "val" / "anatomy_val.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_mmlu(folder, subjects=["anatomy"])
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = write_mmlu(tmp_path, {"anatomy": 3})
    (folder / "val" / "anatomy_val.csv").write_bytes(GOOD.encode() + "é,a,b,c,d,A\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2 is not UTF-8"):
        read_mmlu(folder, subjects=["anatomy"])


def test_what_is_asked_for_and_not_there(tmp_path: Path) -> None:
    folder = write_mmlu(tmp_path, {"anatomy": 3})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"subjects": ["anatomi"]}, "Did you mean 'anatomy'"),
        ({"subjects": []}, "No subject"),
        ({"subjects": ["virology"]}, "virology_val.csv is not there"),
        ({"subjects": ["anatomy"], "limit": 0}, "limit is 0"),
        ({"subjects": ["anatomy"], "shots": 6}, "6 shots"),
        ({"subjects": ["anatomy"], "split": "dev"}, "no split 'dev'"),
    ]
    for options, words in cases:
        with pytest.raises(DataError, match=words):
            read_mmlu(folder, **options)
    write_rows(folder / "dev" / "anatomy_dev.csv", rows("anatomy", 2, 1))
    with pytest.raises(DataError, match="2 worked examples"):
        read_mmlu(folder, subjects=["anatomy"])
    (folder / "dev" / "anatomy_dev.csv").unlink()
    assert read_mmlu(folder, subjects=["anatomy"], shots=0).shots == {"anatomy": ()}
    for missing in (tmp_path / "nowhere", "", folder / "val" / "anatomy_val.csv"):
        with pytest.raises(DataError, match="no folder"):
            read_mmlu(missing)


# -- the hub, from a table in memory -----------------------------------------------------------------------------


def table(**changes: Any) -> Any:
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    columns: dict[str, list[Any]] = {
        "question": ["Q1", "Q2", "Q3"],
        "subject": ["anatomy", "virology", "anatomy"],
        "choices": [["a", "b", "c", "d"]] * 3,
        "answer": [0, 3, 2],
    }
    columns |= changes
    return datasets.Dataset.from_dict({k: v for k, v in columns.items() if v})


def test_a_table_of_the_hub_is_read() -> None:
    found = table_questions(table(), "hub:x")
    assert [(q.row, q.question, q.answer) for q in found["anatomy"]] == [(0, "Q1", 0), (1, "Q3", 2)]
    assert found["virology"] == [Question("virology", 0, "Q2", ("a", "b", "c", "d"), 3)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": [0, 4, 1]}, "row 2: the answer is '4'"),
        ({"choices": [["a", "b", "c", "d"], ["a"], ["a", "b", "c", "d"]]}, "row 2 has 1 choices"),
        ({"subject": []}, "row 1 has no field 'subject'"),
    ],
)
def test_odd_tables_name_the_row(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        table_questions(table(**changes), "hub:x")


def test_the_hub_gives_what_a_folder_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def split(spec: str) -> Any:
        asked.append(spec)
        return table()

    monkeypatch.setattr(module, "load_split", split)
    found = read_mmlu(subjects=["anatomy"], shots=2)
    assert asked == ["cais/mmlu:all:test", "cais/mmlu:all:dev"]
    assert (found.name, found.format, found.split) == ("cais/mmlu", "hub", "test")
    assert len(found.questions["anatomy"]) == 2
    assert read_mmlu(subjects=["anatomy"], split="val", shots=0).split == "val"
    assert asked[-1] == "cais/mmlu:all:validation"
    with pytest.raises(DataError, match="no question of astronomy"):
        read_mmlu(subjects=["astronomy"], shots=0)


def test_without_the_extra_it_says_what_to_install_or_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError) as caught:
        read_mmlu(subjects=["anatomy"])
    assert "not from a folder" in str(caught.value)
    assert "mlx-moebench[data]" in str(caught.value)


@pytest.mark.shared_data
def test_the_real_validation_split() -> None:
    if not SHARED.is_dir():
        pytest.skip("mmlu is not in MOEBENCH_SHARED_DATA")
    found = read_mmlu(SHARED)
    assert found.split == "val"
    assert sum(map(len, found.questions.values())) == 1531
    assert all(len(shots) == 5 for shots in found.shots.values())
    subjects, limit = PRESETS["12x25"]
    assert {len(q) for q in read_mmlu(SHARED, subjects=subjects, limit=limit).questions.values()} == {25}
