"""Texts in memory: what is taken, what identifies it, and what is refused."""

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pandas as pd
import pytest

import mlx_moebench
from mlx_moebench.data import Corpus, read_corpus
from mlx_moebench.errors import DataError
from mlx_moebench.options import Plan
from mlx_moebench.pair.storage import read_report

TEXTS = ["One text.", "Another text.", "A third."]
FEW = {"max_length": 8, "plan": Plan(resamples=100)}


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus.documents]


def generator() -> Iterator[str]:
    yield from TEXTS


@pytest.mark.parametrize(
    "dataset",
    [
        TEXTS,
        generator,
        [{"text": text, "n": 1} for text in TEXTS],
        [{"prompt": text, "completion": ""} for text in TEXTS],
        pd.Series(TEXTS),
        pd.DataFrame({"n": 1, "text": TEXTS}, index=[5, 6, 7]),
        {"texts": TEXTS},
    ],
    ids=["list", "generator", "dicts", "pairs", "series", "frame", "named"],
)
def test_texts_are_a_corpus_whatever_holds_them(dataset):
    corpus = read_corpus(dataset() if callable(dataset) else dataset)
    assert texts(corpus) == TEXTS
    assert (corpus.name, corpus.format, corpus.unit, corpus.long) == ("texts", "memory", "row", "truncate")


def test_equal_texts_are_the_same_data_whatever_holds_them():
    frame = pd.DataFrame({"n": [1, 2, 3], "text": TEXTS})
    same = [read_corpus(data) for data in (TEXTS, generator(), frame, {"other": TEXTS}, [{"text": t} for t in TEXTS])]
    assert len({corpus.sha256 for corpus in same}) == 1
    assert read_corpus(TEXTS, max_samples=2).sha256 == same[0].sha256
    assert read_corpus(TEXTS[:2]).sha256 != same[0].sha256
    assert read_corpus({"laws": TEXTS}).name == "laws"


def test_a_generator_without_end_is_read_as_far_as_asked_for():
    corpus = read_corpus((f"Text {number}." for number in count()), max_samples=2)
    assert texts(corpus) == ["Text 0.", "Text 1."]


def test_a_corpus_is_a_data_set():
    assert read_corpus(corpus := read_corpus("math", max_samples=1)) is corpus


def test_a_field_is_chosen_as_in_a_file():
    frame = pd.DataFrame({"text": TEXTS, "body": TEXTS[::-1]})
    assert texts(read_corpus(frame, text_field="body")) == TEXTS[::-1]
    assert texts(read_corpus((frame, "body"))) == TEXTS[::-1]
    with pytest.raises(DataError, match=r"texts, row 0 has no field 'boddy', only text, body;.*'body'"):
        read_corpus(frame, text_field="boddy")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (None, r"None is a value of type NoneType, not a data set; give a name, a path, hub:ID, or texts: a list"),
        (5, "of type int, not a data set"),
        (b"text", "of type bytes, not a data set"),
        ({"x": "one text"}, "of type str, not a data set"),
        ({"x": ("a", "b")}, "of type tuple, not a data set"),
        ([1], "texts, row 0 is a value of type int, not a text"),
        (["a", None], "texts, row 1 is a value of type NoneType, not a text"),
        ([], "texts has no document with text"),
        ({"laws": ["", " "]}, "laws has no document with text"),
        ([{"n": "a"}], "texts, row 0 has none of the usual text fields, only n"),
        ([{"role": "user", "content": "a"}], "row 0 is a single chat message; put each chat into a list"),
        ([["a"]], "not one of chat messages"),
        ([[{"role": "user", "content": "a"}]], "need a tokenizer with a chat template"),
        ({"a": ["x"], "b": ["y"]}, "one {name: texts}, not 2; give one of a, b"),
        (("One text.", "Two."), "'One text.' is neither a bundled"),
        (("a", "b", "c"), r"A tuple is \(data set, text field\); put texts into a list"),
        ({}, "one {name: texts}, not 0"),
        (pd.DataFrame({"text": ["a", None]}), "row 1: field 'text' holds"),
    ],
)
def test_anything_else_is_one_sentence(dataset, message):
    with pytest.raises(DataError, match=message) as caught:
        read_corpus(dataset)
    assert "\n" not in str(caught.value)


def test_a_data_set_of_the_library_is_read_by_its_text_alone():
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    table = datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3]})
    assert read_corpus(table).sha256 == read_corpus(TEXTS).sha256
    assert read_corpus(datasets.DatasetDict(train=table)).name == "train"
    with pytest.raises(DataError, match="give one of train, test"):
        read_corpus(datasets.DatasetDict(train=table, test=table))


def test_texts_need_no_library_of_data_sets():
    code = (
        "import sys\nfrom mlx_moebench.data import read_corpus\nread_corpus(['a'])\n"
        "assert not {'datasets', 'pandas', 'pyarrow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


# Measured


def test_texts_are_measured_as_the_same_texts_in_a_file(tmp_path):
    (tmp_path / "x.txt").write_text("\n".join(TEXTS))
    of_file = mlx_moebench.analyze(None, tmp_path / "x.txt", split_on="line", **FEW)
    of_list = mlx_moebench.analyze(None, {"laws": TEXTS}, output=tmp_path / "o", **FEW)
    assert of_list.report()["routers"] == of_file.report()["routers"]
    facts = read_report(tmp_path / "o")["data"]
    expected = ("laws", "memory", "row", "truncate", 3)
    assert tuple(facts[key] for key in ("name", "format", "unit", "long", "documents")) == expected


def test_shards_of_texts_are_merged():
    parts = [mlx_moebench.analyze(None, TEXTS, shard=f"{number}/2", **FEW) for number in (1, 2)]
    whole = mlx_moebench.analyze(None, TEXTS, **FEW)
    assert type(whole).merge(parts).clusters == whole.clusters


def test_domains_are_texts_too():
    (named,) = mlx_moebench.profile(domains={"a": TEXTS, "b": (text[::-1] for text in TEXTS)}, **FEW)
    assert list(named.reports) == ["a", "b"]
    (listed,) = mlx_moebench.profile(domains=[TEXTS, [text[::-1] for text in TEXTS]], **FEW)
    assert [report["data"]["name"] for report in listed.reports.values()] == ["texts-1", "texts-2"]
    frame = pd.DataFrame({"text": TEXTS, "body": [text.upper() for text in TEXTS]})
    (fields,) = mlx_moebench.profile(domains={"text": frame, "body": (frame, "body")}, **FEW)
    assert [report["data"]["field"] for report in fields.reports.values()] == ["text", "body"]
