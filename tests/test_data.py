"""Reading data sets: files, folders, the hub and the bundled prompts. No tokenizer is needed here."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_moebench.data import Corpus, bundled_names, read_corpus
from mlx_moebench.errors import DataError, MissingExtraError


def write_jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus.documents]


def rows(corpus: Corpus) -> list[int]:
    return [document.row for document in corpus.documents]


# Which field


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({"content": "c", "text": "t"}, "text", "t"),
        ({"prompt": "p", "completion": "q", "content": "c"}, "content", "c"),
        ({"problem": "a", "solution": "b", "prompt": "p", "completion": "q"}, "prompt+completion", "p\n\nq"),
        ({"question": "x", "answer": "y", "solution": "b", "problem": "a"}, "problem+solution", "a\n\nb"),
        ({"answer": "y", "question": "x", "prompt": "alone"}, "question+answer", "x\n\ny"),
    ],
)
def test_the_first_usual_field_is_taken(tmp_path, row, field, text):
    corpus = read_corpus(write_jsonl(tmp_path / "x.jsonl", row))
    assert (corpus.field, texts(corpus)) == (field, [text])


def test_text_field_wins_over_the_usual_ones_and_joins_several(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", {"text": "t", "body": "b", "a+b": "plus"})
    assert texts(read_corpus(path, text_field="body")) == ["b"]
    assert texts(read_corpus(path, text_field="body+text")) == ["b\n\nt"]
    assert texts(read_corpus(path, text_field="a+b")) == ["plus"]


def test_the_choice_of_the_first_row_holds_for_all(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", {"content": "one"}, {"text": "no", "content": "two"}, {"text": "three"})
    assert texts(read_corpus(path, max_samples=2)) == ["one", "two"]
    with pytest.raises(DataError, match=r"x\.jsonl, line 3 has no field 'content', which the first row"):
        read_corpus(path)


def test_a_missing_field_lists_what_is_there(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", {"instruction": "i", "output": "o"})
    with pytest.raises(DataError, match=r"only instruction, output; choose with --text-field"):
        read_corpus(path)
    with pytest.raises(DataError, match=r"'outputs', only instruction, output; .*Did you mean 'output'\?"):
        read_corpus(path, text_field="outputs")
    with pytest.raises(DataError) as caught:
        read_corpus(path, text_field="zzz")
    assert str(caught.value).count("instruction") == 1
    with pytest.raises(DataError, match="only no field at all"):
        read_corpus(write_jsonl(tmp_path / "y.jsonl", {}))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(3, "type int"), (None, "null"), ({"a": "b"}, "type dict"), (True, "type bool")],
)
def test_a_value_that_is_not_text_is_an_error(tmp_path, value, kind):
    path = write_jsonl(tmp_path / "x.jsonl", {"text": "fine"}, {"text": value})
    with pytest.raises(DataError, match=rf"line 2: field 'text' holds (a value of )?{kind}, not text"):
        read_corpus(path)


def test_a_list_in_a_pair_of_fields_is_not_chat(tmp_path):
    chat = [{"role": "user", "content": "hi"}]
    with pytest.raises(DataError, match="field 'prompt' holds a value of type list"):
        read_corpus(write_jsonl(tmp_path / "x.jsonl", {"prompt": chat, "completion": chat}))


# Rows and identity


def test_empty_texts_keep_their_row_numbers(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "zero"}\n\n{"text": " \\n"}\n{"text": ""}\n{"text": "three"}\n')
    corpus = read_corpus(path)
    assert (rows(corpus), texts(corpus)) == ([0, 3], ["zero", "three"])


def test_a_joined_pair_with_one_empty_part_has_no_dangling_blank_line(tmp_path):
    path = write_jsonl(tmp_path / "x.jsonl", {"question": "q", "answer": ""}, {"question": " ", "answer": "\n"})
    assert texts(read_corpus(path)) == ["q"]


def test_max_samples_counts_documents_and_leaves_rows_and_hash_alone(tmp_path):
    path = write_jsonl(
        tmp_path / "x.jsonl", {"text": ""}, {"text": "one"}, {"text": ""}, {"text": "three"}, {"text": "4"}
    )
    whole, part = read_corpus(path), read_corpus(path, max_samples=2)
    assert part.documents == whole.documents[:2]
    assert rows(part) == [1, 3]
    assert part.sha256 == whole.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_corpus(path, max_samples=99) == whole
    for wrong in (0, -1):
        with pytest.raises(DataError, match=f"max_samples is {wrong}"):
            read_corpus(path, max_samples=wrong)


def test_the_hash_does_not_depend_on_the_name_or_the_field(tmp_path):
    a = write_jsonl(tmp_path / "a.jsonl", {"text": "t", "body": "b"})
    b = write_jsonl(tmp_path / "b.jsonl", {"text": "t", "body": "b"})
    c = write_jsonl(tmp_path / "c.jsonl", {"text": "t", "body": "c"})
    assert read_corpus(a).sha256 == read_corpus(b, text_field="body").sha256 != read_corpus(c).sha256
    assert (read_corpus(a).name, read_corpus(b).name) == ("a.jsonl", "b.jsonl")


# Formats


def test_jsonl_is_split_at_line_feeds_only_and_may_have_a_byte_order_mark(tmp_path):
    path = tmp_path / "X.JSONL"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a\xe2\x80\xa8b"}\r\n{"text": "\xc3\xa9\xc2\x85"}')
    corpus = read_corpus(path)
    assert texts(corpus) == ["a\u2028b", "\xe9\x85"]
    assert (corpus.format, corpus.windowed, corpus.template) == ("jsonl", False, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": "b"\n', "line 2 is not valid JSON"),
        (b'{"text": "a"}\n["b"]\n', "line 2 is not a JSON object"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2 is not UTF-8"),
        ('{"text": "a"}'.encode("utf-16"), "line 1 is not UTF-8"),
        ('{"text": "a"}'.encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b'{"text": "\\ud83d"}\n', "line 1: the text holds half of a surrogate pair"),
        (b"[" * 100_000, "line 1 is not valid JSON"),
        (b'{"text": ' + b"1" * 5000 + b"}", "line 1 is not valid JSON"),
        (b"", "has no document with text"),
        (b'\n{"text": ""}\n', "has no document with text"),
    ],
)
def test_a_broken_jsonl_names_file_and_line(tmp_path, content, message):
    path = tmp_path / "broken.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"broken\.jsonl.*{message}"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("split_on", "expected"),
    [
        ("file", ["first\n  second \n\n\t\nthird"]),
        ("blank", ["first\n  second ", "third"]),
        ("line", ["first", "  second ", "third"]),
    ],
)
def test_what_a_document_of_a_txt_is_can_be_asked_for(tmp_path, split_on, expected):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n \nfirst\r\n  second \r\n\r\n\t\nthird\n\n")
    corpus = read_corpus(path, split_on=split_on)
    assert texts(corpus) == expected
    assert (rows(corpus), corpus.field, corpus.format) == (list(range(len(expected))), "text", "txt")
    assert (corpus.unit, corpus.long) == (split_on, "windows" if split_on == "file" else "truncate")
    with pytest.raises(DataError, match=r"x\.txt, line 3 has no field 'body', only text"):
        read_corpus(path, text_field="body")


def test_a_txt_is_one_document_unless_asked(tmp_path):
    (tmp_path / "book.txt").write_text("A paragraph.\n\n" * 30)
    assert len(read_corpus(tmp_path / "book.txt").documents) == 1


def test_one_rule_for_long_documents_in_every_format(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", {"text": "a"})
    (tmp_path / "x.txt").write_text("a")
    (tmp_path / "x.csv").write_text("text\na\n")
    for long in ("truncate", "windows"):
        for dataset in (*tmp_path.iterdir(), tmp_path, ["a"]):
            assert read_corpus(dataset, long=long).long == long
    assert read_corpus(tmp_path).long == "truncate, windows"


@pytest.mark.parametrize(("choice", "listed"), [({"split_on": "page"}, "file, blank, line"), ({"long": "cut"}, "trun")])
def test_another_unit_or_rule_is_an_error(choice, listed):
    with pytest.raises(DataError, match=f"'{next(iter(choice.values()))}'.*{listed}"):
        read_corpus("math", **choice)


def test_csv_keeps_line_ends_commas_and_quotes_inside_values(tmp_path):
    path = tmp_path / "x.csv"
    values = ["a,b", 'say "hi"', "two\r\nlines\n", "", "x" * 200_000]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "n"], *([value, 1] for value in values)])
    corpus = read_corpus(path)
    assert texts(corpus) == [value for value in values if value]
    assert (rows(corpus), corpus.format, corpus.windowed) == ([0, 1, 2, 4], "csv", False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('n,text\n1,"two\nlines"\n\n2,a,b\n', r"line 5 has 3 values but the header names 2 columns"),
        ("n,text\n1\n", r"line 2 has 1 values"),
        ('text\na\n"never closed\nb\n', r"line 3 is not valid CSV"),
        ("text\na\0b\n", r"line 2 holds a NUL byte"),
        ("text,text\na,b\n", r"line 1: two columns share a name"),
        ("first prompt\nsecond prompt\n", r"line 2 has none of the usual text fields, only first prompt"),
        ("text\n", r"has no document with text"),
        ("", r"has no document with text"),
    ],
)
def test_a_broken_csv_names_file_and_line(tmp_path, content, message):
    path = tmp_path / "broken.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"broken\.csv.*{message}"):
        read_corpus(path)


# Folders


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "corpus"
    for name in ("sub", ".cache"):
        (root / name).mkdir(parents=True)
    write_jsonl(root / "b.jsonl", {"question": "q", "answer": "r"}, {"question": "", "answer": ""})
    (root / "a.txt").write_text("one\n\ntwo\n")
    (root / "sub" / "c.csv").write_text("text\nlast\n")
    (root / "notes.md").write_text("not data")
    write_jsonl(root / ".cache" / "a.jsonl", {"text": "hidden"})
    return root


def test_a_folder_is_one_data_set_with_rows_numbered_through(folder):
    corpus = read_corpus(folder)
    assert texts(corpus) == ["one\n\ntwo", "q\n\nr", "last"]
    assert rows(corpus) == [0, 1, 3]
    assert [document.windowed for document in corpus.documents] == [True, False, False]
    assert (corpus.unit, corpus.files, corpus.skipped) == ("file, row", 3, {"hidden": 1, "of another kind": 1})
    assert texts(read_corpus(folder, split_on="blank")) == ["one", "two", "q\n\nr", "last"]
    assert (corpus.name, corpus.field, corpus.format) == ("corpus", "question+answer, text", "folder")
    assert corpus.windowed
    assert rows(read_corpus(folder, max_samples=2)) == [0, 1]


def test_a_folder_of_code_has_a_document_for_each_file(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("a.py", "lib/b.c", "LICENSE", ".git/config.py", ".hidden.md"):
        (tmp_path / name).write_text(f"{name}\n\nmore\n")
    for name in ("tool", "lib/c.py"):
        (tmp_path / name).write_bytes(b"\x7fELF\0")
    write_jsonl(tmp_path / "settings.json", {"content": "one"})
    (tmp_path / "picture.png").write_bytes(b"\0")
    corpus = read_corpus(tmp_path)
    assert texts(corpus) == ["LICENSE\n\nmore", "a.py\n\nmore", "lib/b.c\n\nmore"]
    assert corpus.skipped == {"hidden": 2, "binary": 2, "of another kind": 2}
    assert (corpus.unit, corpus.long, corpus.files) == ("file", "windows", 3)
    assert texts(read_corpus(f"{tmp_path}@content")) == texts(corpus)


def test_a_field_that_only_rows_have_chooses_the_rows_of_a_folder(tmp_path):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(name)
    write_jsonl(tmp_path / "x.jsonl", {"body": "row"})
    assert texts(read_corpus(tmp_path)) == ["a.py", "b.py"]
    assert texts(read_corpus(f"{tmp_path}@body")) == ["row"]


def test_a_folders_hash_follows_contents_and_relative_paths_only(folder, tmp_path):
    before = read_corpus(folder).sha256
    assert read_corpus(folder, max_samples=1).sha256 == before
    (folder / "notes.md").write_text("changed")
    folder = folder.rename(tmp_path / "elsewhere")
    assert read_corpus(folder).sha256 == before
    (folder / "sub" / "c.csv").write_text("text\nchanged\n")
    changed = read_corpus(folder).sha256
    (folder / "sub" / "c.csv").rename(folder / "sub" / "d.csv")
    assert len({before, changed, read_corpus(folder).sha256}) == 3


def test_files_come_in_order_of_relative_path(tmp_path):
    for name in ("b/a.txt", "a.txt", "b.txt", "a/z.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(read_corpus(tmp_path)) == ["a.txt", "a/z.txt", "b.txt", "b/a.txt"]


def test_a_folder_without_data_is_an_error(tmp_path):
    (tmp_path / "notes.doc").write_text("not data")
    with pytest.raises(DataError, match=r"has no file of \.jsonl, .*, \.txt, or of code"):
        read_corpus(tmp_path)


# Names


def test_a_bundled_name_wins_and_a_path_reads_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "own.txt").write_text("mine")
    bundled = read_corpus("math")
    assert (bundled.name, bundled.format, bundled.field) == ("math", "bundled", "text")
    assert len(bundled.documents) >= 80
    assert texts(read_corpus("./math")) == texts(read_corpus(Path("math"))) == ["mine"]


def test_an_unknown_name_says_what_is_possible(tmp_path):
    assert bundled_names() == ["code", "general", "math"]
    with pytest.raises(DataError, match=r"'maths' is neither a bundled .* path or hub:ID\. Did you mean 'math'\?"):
        read_corpus("maths")
    with pytest.raises(DataError, match="Known: code, general, math"):
        read_corpus("")
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus("x" * 5000)
    with pytest.raises(DataError, match=r"Texts themselves go into a list"):
        read_corpus("Prove that 2 is prime.")
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(DataError, match=r"x\.doc is not one of \.jsonl, .*, \.txt, nor of code"):
        read_corpus(tmp_path / "x.doc")


# The hub


@pytest.fixture
def local_hub(tmp_path, monkeypatch) -> Path:
    """A folder that ``datasets`` reads with two splits, offline and with its cache kept out of the home folder."""
    datasets = pytest.importorskip("datasets", reason="the extra `data` is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # What HF_HUB_OFFLINE=1 sets when the process starts.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    root = tmp_path / "local"
    root.mkdir()
    write_jsonl(
        root / "train.jsonl", *({"problem": f"p{i}" if i != 1 else "", "solution": "", "n": i} for i in range(4))
    )
    write_jsonl(root / "test.jsonl", {"problem": "p", "solution": "s", "n": 0})
    return root


def test_a_split_of_a_hub_data_set_is_read_by_row(local_hub):
    corpus = read_corpus(f"hub:{local_hub}::train")
    assert (texts(corpus), rows(corpus)) == (["p0", "p2", "p3"], [0, 2, 3])
    assert (corpus.field, corpus.format) == ("problem+solution", "hub")
    assert corpus.name == f"{local_hub}::train"
    part = read_corpus(f"hub:{local_hub}:default:train", max_samples=1)
    assert (part.sha256, rows(part)) == (corpus.sha256, [0])
    other_split, sliced = read_corpus(f"hub:{local_hub}::test"), read_corpus(f"hub:{local_hub}::train[:3]")
    assert len({corpus.sha256, other_split.sha256, sliced.sha256}) == 3
    assert texts(sliced) == ["p0", "p2"]


def test_a_single_split_needs_no_name_and_several_do(local_hub):
    with pytest.raises(DataError, match=r"has the splits train, test; name one: hub:.*::train"):
        read_corpus(f"hub:{local_hub}")
    (local_hub / "test.jsonl").unlink()
    assert texts(read_corpus(f"hub:{local_hub}")) == ["p0", "p2", "p3"]


def test_every_failure_of_the_hub_is_one_sentence(local_hub, tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "x.jsonl").write_bytes(b"\xff\xfe\0")
    for spec, message in [
        ("nobody/nothing", "offline"),
        (f"{local_hub}::nope", "Unknown split"),
        (f"{local_hub}:nope", "'nope' not found"),
        (str(tmp_path / "empty"), "EmptyDatasetError"),
        (str(tmp_path / "binary"), "DatasetGenerationError: .*JSON"),
    ]:
        with pytest.raises(DataError, match=f"(?i)cannot be loaded .*{message}") as caught:
            read_corpus(f"hub:{spec}")
        assert "\n" not in str(caught.value)

    def broken_connection(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.HTTPError("connection lost")

    monkeypatch.setattr(datasets, "load_dataset", broken_connection)
    with pytest.raises(DataError, match="connection lost"):
        read_corpus("hub:nobody/nothing")


def test_hub_field_errors_name_the_row(local_hub):
    with pytest.raises(DataError, match=r"hub:.*::train, row 0: field 'n' holds a value of type int"):
        read_corpus(f"hub:{local_hub}::train", text_field="n")
    with pytest.raises(DataError, match=r"no field 'problems', only .*Did you mean 'problem'\?"):
        read_corpus(f"hub:{local_hub}::train", text_field="problems")


def test_the_hub_needs_an_id_and_the_extra(monkeypatch):
    with pytest.raises(DataError, match="names no data set"):
        read_corpus("hub:")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'"mlx-moebench\[data\]"'):
        read_corpus("hub:somebody/something")


def test_data_needs_neither_mlx_nor_torch_nor_a_tokenizer_library():
    blocked = ("mlx", "mlx_lm", "torch", "transformers", "tokenizers", "datasets", "jinja2")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from mlx_moebench.data import read_corpus\n"
        "assert read_corpus('math', max_samples=3).documents\n"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
