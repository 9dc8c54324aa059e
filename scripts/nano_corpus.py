"""The three training domains of moebench-nano: math, code, general text.

Documents are read from a data folder (``math/ code/ text/``) and from the standard library of the
running Python. A document is held out when the first byte of its SHA-256 is below ``HELD_OUT_BYTE``,
so the split depends on the text alone: not on order, not on a seed.
"""

from __future__ import annotations

import hashlib
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

DOMAINS = ("math", "code", "general")
HELD_OUT_BYTE = 13  # 13/256, about 5% of the documents
# Tables of characters, generated data and test fixtures: large, repetitive, and not how people write code.
SKIPPED_STDLIB = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
    "site-packages",
    "turtledemo",
    "__pycache__",
}


def read_corpus(data: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Domain -> (training documents, held-out documents), each text once, in a fixed order."""
    readers = {"math": _math, "code": _code, "general": _general}
    corpus = {}
    for domain in DOMAINS:
        train: dict[str, None] = {}
        held_out: dict[str, None] = {}
        for text in readers[domain](data):
            text = text.replace("\r\n", "\n").strip()
            if len(text) < 40:
                continue
            first_byte = hashlib.sha256(text.encode()).digest()[0]
            (held_out if first_byte < HELD_OUT_BYTE else train)[text] = None
        if not train or not held_out:
            raise SystemExit(f"No {domain} documents under {data}: expected its math/, code/ and text/ folders.")
        corpus[domain] = (list(train), list(held_out))
    return corpus


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _math(data: Path) -> Iterator[str]:
    for row in _rows(data / "math" / "MATH_train.jsonl"):
        yield f"{row['problem']}\n\n{row['solution']}"
    for row in _rows(data / "math" / "gsm8k_train.jsonl"):
        answer = re.sub(r"<<.*?>>", "", row["answer"])  # calculator annotations are not prose
        yield f"{row['question']}\n\n{answer}"
    for row in _rows(data / "math" / "svamp.jsonl"):
        yield f"{row['Body'].rstrip('. ')}. {row['Question']} {row['Equation']} = {row['Answer']}"


def _code(data: Path) -> Iterator[str]:
    for row in _rows(data / "code" / "mbpp.jsonl"):
        yield f"# {row['text']}\n{row['code']}"
    for row in _rows(data / "code" / "python_requests.jsonl"):
        yield row["text"]
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        if not SKIPPED_STDLIB & set(path.relative_to(library).parts):
            yield path.read_text(encoding="utf-8", errors="replace")


def _general(data: Path) -> Iterator[str]:
    article: list[str] = []
    for line in (data / "text" / "wikitext2_valid.txt").read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r" = [^=].* = ", line) and article:
            yield _plain(article)
            article = []
        article.append(line.strip())
    yield _plain(article)
    stories = (data / "text" / "tinystories_b.txt").read_text(encoding="utf-8")
    yield from stories.split("<|endoftext|>")
    yield from _chunks((data / "text" / "tinyshakespeare.txt").read_text(encoding="utf-8"), 2000)
    for row in _rows(data / "text" / "state_union.jsonl"):
        yield from _chunks(row["text"], 8000)


def _chunks(text: str, characters: int) -> Iterator[str]:
    """Runs of whole paragraphs of about ``characters`` each, so that a long text is split and held out in parts."""
    chunk = ""
    for paragraph in text.split("\n\n"):
        chunk += paragraph + "\n\n"
        if len(chunk) >= characters:
            yield chunk
            chunk = ""
    yield chunk


def _plain(lines: list[str]) -> str:
    """WikiText is pre-tokenised; put the punctuation back where readers expect it."""
    text = "\n".join(line for line in lines if line)
    text = re.sub(r" @([-,.])@ ", r"\1", text)
    text = re.sub(r" ([,.;:!?)\]%]|'s\b|n't\b)", r"\1", text)
    text = re.sub(r"([(\[$]) ", r"\1", text)
    return re.sub(r'" ([^"\n]*?) "', r'"\1"', text)
