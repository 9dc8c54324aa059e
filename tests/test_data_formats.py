"""Kinds of files: CSV dialects, TSV, JSON arrays, Parquet, gzip; and a text field that a data set brings along."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest

from mlx_moebench.data import Corpus, read_corpus, split_field
from mlx_moebench.errors import DataError, MissingExtraError

VALUES = ['Hello, world; and | more\tof "it"', "two\nlines", "last"]


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus.documents]


def write_table(path: Path, delimiter: str, quoting: int = csv.QUOTE_MINIMAL) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [["id", "text"], *([number, value] for number, value in enumerate(VALUES))]
        csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize(
    ("delimiter", "form"),
    [(",", "csv"), (";", "csv, delimiter ;"), ("\t", "csv, delimiter tab"), ("|", "csv, delimiter |")],
)
def test_the_delimiter_of_a_csv_is_found_and_said(tmp_path, delimiter, form, quoting):
    corpus = read_corpus(write_table(tmp_path / "x.csv", delimiter, quoting))
    assert (texts(corpus), corpus.format, corpus.field) == (VALUES, form, "text")


def test_a_semicolon_csv_with_commas_in_its_texts(tmp_path):
    """Its second column was taken for nothing, and its ids for text."""
    (tmp_path / "x.csv").write_text("id;text\n1;Yes, but no, maybe\n2;No, and yes, perhaps\n")
    assert texts(read_corpus(tmp_path / "x.csv")) == ["Yes, but no, maybe", "No, and yes, perhaps"]


def test_a_csv_of_one_column_has_no_delimiter(tmp_path):
    (tmp_path / "x.csv").write_text("text\na;b\nc|d\n")
    assert (texts(corpus := read_corpus(tmp_path / "x.csv")), corpus.format) == (["a;b", "c|d"], "csv")


def test_the_delimiter_is_found_where_the_sample_ends_inside_a_value(tmp_path):
    value = "line, of text\n" * 3000
    with (tmp_path / "x.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["id", "text"], *([number, value] for number in range(3))])
    assert texts(read_corpus(tmp_path / "x.csv")) == [value] * 3


def test_a_broken_dialect_names_its_delimiter(tmp_path):
    (tmp_path / "x.csv").write_text("id;text\n1;a\n2;b;c\n")
    with pytest.raises(DataError, match=r"line 3 has 3 values .* values that hold ;\."):
        read_corpus(tmp_path / "x.csv")


def test_tsv(tmp_path):
    corpus = read_corpus(write_table(tmp_path / "x.tsv", "\t"))
    assert (texts(corpus), corpus.format) == (VALUES, "tsv")


@pytest.mark.parametrize(
    "content",
    [VALUES, [{"text": value, "n": 1} for value in VALUES], {"data": VALUES}, {"data": [{"text": v} for v in VALUES]}],
)
def test_a_json_array_of_texts_or_objects(tmp_path, content):
    (tmp_path / "x.json").write_text(json.dumps(content, indent=1))
    corpus = read_corpus(tmp_path / "x.json")
    assert (texts(corpus), corpus.format, corpus.unit) == (VALUES, "json", "row")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "row 0 is neither a text nor a JSON object"),
        ('{"text": "a"}', r"is not a JSON array; write an array of texts .* \{\"data\""),
        ('["a",', "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "has no document with text"),
    ],
)
def test_a_broken_json_is_one_sentence(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=rf"x\.json.*{message}"):
        read_corpus(tmp_path / "x.json")


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    import pyarrow.parquet as pq

    chat = [{"role": "user", "content": "a"}]
    columns = {"text": VALUES, "image": [b"\xff"] * 3, "picture": [{"bytes": b"\xff"}] * 3, "messages": [chat] * 3}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    corpus = read_corpus(tmp_path / "x.parquet")
    assert (texts(corpus), corpus.format, corpus.field) == (VALUES, "parquet", "text")
    with pytest.raises(DataError, match="no field 'image', only text, messages;"):
        read_corpus(tmp_path / "x.parquet", text_field="image")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"x\.parquet cannot be read as Parquet"):
        read_corpus(tmp_path / "x.parquet")


def test_parquet_names_the_extra_that_it_needs(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'Reading \.parquet .*"mlx-moebench\[data\]"'):
        read_corpus(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("x.jsonl.gz", '{"text": "a"}\n', "jsonl, gzip"),
        ("x.json.GZ", '["a"]', "json, gzip"),
        ("x.csv.gz", "n;text\n1;a\n", "csv, delimiter ;, gzip"),
        ("x.txt.gz", "a\n", "txt, gzip"),
        ("x.py.gz", "a\n", "py, gzip"),
    ],
)
def test_gzip_of_any_kind(tmp_path, name, content, form):
    (tmp_path / name).write_bytes(gzip.compress(content.encode()))
    assert (texts(corpus := read_corpus(tmp_path / name)), corpus.format) == (["a"], form)
    assert texts(read_corpus(tmp_path)) == ["a"]


def test_parquet_in_gzip(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": VALUES}), tmp_path / "x.parquet")
    (tmp_path / "y.parquet.gz").write_bytes(gzip.compress((tmp_path / "x.parquet").read_bytes()))
    assert texts(read_corpus(tmp_path / "y.parquet.gz")) == VALUES


@pytest.mark.parametrize(
    "content", [b"not gzip", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-20]], ids=["other", "cut off"]
)
def test_a_broken_gzip_is_one_sentence(tmp_path, content):
    (tmp_path / "x.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jsonl\.gz is not whole or not gzip"):
        read_corpus(tmp_path / "x.jsonl.gz")


# A field of its own


def test_a_data_set_may_bring_its_text_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x.jsonl").write_text('{"text": "t", "body": "b", "more": "m"}\n')
    assert texts(read_corpus("x.jsonl@body")) == ["b"]
    assert texts(read_corpus("./x.jsonl@body+more", text_field="text")) == ["b\n\nm"]
    with pytest.raises(DataError, match="no field 'boddy'"):
        read_corpus("x.jsonl@boddy")


def test_a_path_with_an_at_that_exists_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("x@body").mkdir()
    Path("x@body/a.txt").write_text("a")
    assert split_field("x@body") == ("x@body", None)
    assert split_field("x@body@text") == ("x@body", "text")
    assert split_field("hub:org/set:config@text") == ("hub:org/set:config", "text")
    assert [split_field(name) for name in ("@", "x@", "@x", "x" * 5000)] == [
        (name, None) for name in ("@", "x@", "@x", "x" * 5000)
    ]
    assert texts(read_corpus("x@body")) == ["a"]
