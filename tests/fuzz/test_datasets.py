"""Data sets: every kind of file, plain and packed, with fields named and chat rendered by a template."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st

from mlx_moebench.data import read_corpus

from .mutations import changed_bytes, changed_json, json_bytes
from .outcomes import ACCEPTED, reading

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
ROWS = [
    {"text": "one", "id": 1, "messages": CHAT},
    {"text": "two\r\nlines", "id": 2, "messages": CHAT[:1]},
    {"text": "", "id": None, "messages": []},
    {"text": "Zürich \N{OWL}", "id": 3.5, "messages": CHAT},
]
QUESTIONS = [{"question": "x", "answer": "y"}, {"question": "z", "answer": ""}]
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] + '' }}{% endfor %}"


class Chat:
    """What a tokenizer does of a chat, as transformers does: its template in a sandbox of jinja."""

    has_chat_template = True

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def apply_chat_template(self, messages: Any, *, tokenize: bool) -> str:
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        made: str = ImmutableSandboxedEnvironment().from_string(self.chat_template).render(messages=messages)
        return made


def lines(rows: Any) -> bytes:
    return b"\n".join(map(json_bytes, rows if isinstance(rows, list) else [rows])) + b"\n"


def table(delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    rows = [["text", "id"], ["one", "1"], ['two, or "three"\nlines', "2"], ["", ""], ["four", "4"]]
    csv.writer(stream, delimiter=delimiter).writerows(rows)
    return stream.getvalue().encode()


def parquet(rows: list[dict[str, Any]] = [row | {"id": 1} for row in ROWS]) -> bytes:  # noqa: B006  # never changed
    pa = pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


class Form(NamedTuple):
    """A file. inputs: its bytes, changed; the first ``whole`` is what they are made of."""

    name: str
    whole: Callable[[], bytes]
    content: Any = None
    written: Callable[[Any], bytes] = json_bytes
    about: dict[str, Any] = {}  # noqa: RUF012  # of a tuple

    def inputs(self) -> st.SearchStrategy[bytes]:
        made = changed_bytes(self.whole())
        return made if self.content is None else made | changed_json(self.content).map(self.written)


TEXT = "# A title\n\nA line.\r\nAnother.\n\n   \nThe end \N{OWL}".encode()
FORMS = {
    "jsonl": Form("x.jsonl", lambda: lines(ROWS), ROWS, lines),
    "jsonl of chats": Form("x.jsonl", lambda: lines(ROWS), ROWS, lines, {"text_field": "messages"}),
    "jsonl of pairs": Form("x.jsonl", lambda: lines(QUESTIONS), QUESTIONS, lines),
    "json": Form("x.json", lambda: json_bytes(ROWS), ROWS, json_bytes, {"text_field": "text"}),
    "json of texts": Form("x.json", lambda: json_bytes({"data": ["a", "b"]}), {"data": ["a", "b"]}),
    "csv": Form("x.csv", lambda: table(",")),
    "csv of semicolons": Form("x.csv", lambda: table(";"), about={"text_field": "id+text"}),
    "tsv": Form("x.tsv", lambda: table("\t")),
    "txt": Form("x.txt", lambda: TEXT, about={"split_on": "blank", "long": "windows"}),
    "code": Form("x.py", lambda: TEXT, about={"split_on": "line"}),
    "parquet": Form("x.parquet", parquet),
    "jsonl, packed": Form("x.jsonl.gz", lambda: gzip.compress(lines(ROWS), mtime=0)),
    "csv, packed": Form("x.csv.gz", lambda: gzip.compress(table(","), mtime=0)),
    "parquet, packed": Form("x.parquet.gz", lambda: gzip.compress(parquet(), mtime=0)),
}
SHARE = 1 / (len(FORMS) + 1)


@pytest.mark.parametrize("form", FORMS)
def test_data_sets(form: str, tmp_path: Path, tried: Callable[..., None]) -> None:
    one = FORMS[form]
    path = tmp_path / one.name

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        return reading(lambda: read_corpus(path, tokenizer=Chat(TEMPLATE), **one.about))  # type: ignore[arg-type]

    assert check(one.whole()) == ACCEPTED
    tried(one.inputs(), check, SHARE)


def test_templates(tmp_path: Path, tried: Callable[..., None]) -> None:
    """Of a tokenizer: what a chat template may say in the place of text."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(lines([{"messages": CHAT}]))

    def check(template: bytes) -> str:
        chat = Chat(template.decode("utf-8", "replace"))
        return reading(lambda: read_corpus(path, tokenizer=chat))  # type: ignore[arg-type]

    written = st.sampled_from(
        [
            "{{ x.y }}",
            "{{ 1 / 0 }}",
            "{{ messages[9].role.x }}",
            "{{ raise_exception('x') }}",
            "{% for %}",
            "{{ 'a' * 9 }}",
        ]
    )
    tried(changed_bytes(TEMPLATE.encode()) | written.map(str.encode), check, SHARE)
