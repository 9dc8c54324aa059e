"""MMLU: the CSV files that evaluate reads, and rows of the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmlu_files import write_mmlu

from mlx_moebench.data.mmlu import prompt, read_mmlu, table_questions

from .mutations import changed_bytes, changed_json
from .outcomes import reading

SUBJECT = "philosophy"
ROWS: Any = [
    {"question": "x?", "subject": SUBJECT, "choices": ["a", "b", "c", "d"], "answer": 2},
    {"question": "y?", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 0},
]


def test_files(tmp_path: Path, tried: Callable[..., None]) -> None:
    write_mmlu(tmp_path, {SUBJECT: 3})
    path = tmp_path / "dev" / f"{SUBJECT}_dev.csv"

    def read() -> None:
        mmlu = read_mmlu(tmp_path, subjects=[SUBJECT])
        for question in mmlu.questions[SUBJECT]:
            prompt(question, mmlu.shots[SUBJECT]).encode()

    def check(blob: bytes) -> str:
        path.write_bytes(blob)
        return reading(read)

    tried(changed_bytes(path.read_bytes()), check, 1 / 2)


def test_rows(tried: Callable[..., None]) -> None:
    """Of a table, as the package ``datasets`` gives it."""

    def check(rows: Any) -> str:
        return reading(lambda: table_questions(rows, "hub:x"))

    tried(changed_json(ROWS).filter(lambda rows: isinstance(rows, list)), check, 1 / 2)
