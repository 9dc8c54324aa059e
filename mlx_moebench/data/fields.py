"""Which fields of a row are its text, and that text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from textwrap import shorten

from ..errors import DataError, did_you_mean
from ..types import Tokenizer
from .rows import Row

CANDIDATES: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("content",),
    ("messages",),
    ("prompt", "completion"),
    ("problem", "solution"),
    ("question", "answer"),
)
"""Fields tried in this order where the user names none; the parts of a pair are joined by a blank line."""

_OF_A_PROGRAM = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError)
"""What a chat template may raise beside its own errors: it is a program that came with a model."""

IMAGES = ("image", "images")
"""Fields that hold what is not read here."""


def choose_fields(where: str, keys: Iterable[str], text_field: str | None) -> tuple[str, ...]:
    """The fields that hold the text of every row of one source.

    where: file or hub id, with the row, for messages. keys: the fields of its first row. text_field: the user's
    choice, one field or several joined by ``+``, or None for the first of CANDIDATES that is there.
    Raises DataError that lists the keys when the field asked for, or every candidate, is missing, and for rows with
    images where nobody chose their text alone.
    """
    keys = list(keys)
    listed = shorten(", ".join(keys), 300, placeholder=" ...") or "no field at all"
    if text_field is None:
        if any(field in keys for field in IMAGES):
            raise DataError(
                f"{where} has images beside its texts, which this does not read: measure both with "
                "mlx_moebench.vlm.measure (docs/vlm.md), or choose the texts alone with --text-field."
            )
        for fields in CANDIDATES:
            if all(field in keys for field in fields):
                return fields
        raise DataError(f"{where} has none of the usual text fields, only {listed}; choose with --text-field.")
    fields = (text_field,) if text_field in keys else tuple(text_field.split("+"))
    for field in fields:
        if field not in keys:
            hint = did_you_mean(field, keys)
            raise DataError(
                f"{where} has no field {field!r}, only {listed}; choose one of them with --text-field."
                + (hint if "Did you mean" in hint else "")
            )
    return fields


def text_of(row: Row, fields: tuple[str, ...], tokenizer: Tokenizer | None) -> tuple[str, bool]:
    """(text of one row, whether it is chat rendered with the tokenizer's template); blank text means no document.

    Raises DataError when a field is missing, holds neither text nor chat messages, or is not valid Unicode.
    """
    parts = []
    chat = False
    for field in fields:
        if field not in row.values:
            raise DataError(
                f"{row.where} has no field {field!r}, which the first row of {row.source} has; "
                "give every row the same fields or choose another with --text-field."
            )
        value = row.values[field]
        if isinstance(value, list) and len(fields) == 1:
            value, chat = _render_chat(row.where, field, value, tokenizer), True
        if not isinstance(value, str):
            raise DataError(
                f"{row.where}: field {field!r} holds {_kind(value)}, not text; "
                "choose a field of text with --text-field or correct the row."
            )
        if value.strip():
            parts.append(value)
    text = "\n\n".join(parts)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{row.where}: the text holds half of a surrogate pair; write valid Unicode.") from error
    return text, chat


def template_sha256(tokenizer: Tokenizer | None) -> str | None:
    """sha256 of the chat template's text (of its JSON where there are several named ones); None where there is no
    text, as when mlx-lm renders the chat in code."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def renders_chat(tokenizer: Tokenizer) -> bool:
    """Whether it has a chat template; mlx-lm's wrapper may render in code, and then has no text of one."""
    return bool(getattr(tokenizer, "has_chat_template", False) or getattr(tokenizer, "chat_template", None))


def _kind(value: object) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"


def _render_chat(where: str, field: str, messages: list[dict[str, str]], tokenizer: Tokenizer | None) -> str:
    from jinja2 import TemplateError

    for message in messages:
        if not (isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))):
            raise DataError(
                f"{where}: field {field!r} is a list but not one of chat messages; "
                "each must be an object with the texts 'role' and 'content'."
            )
    if not messages:
        return ""
    if tokenizer is None or not renders_chat(tokenizer):
        raise DataError(
            f"{where}: field {field!r} holds chat messages, which need a tokenizer with a chat template; "
            "take one that has it or choose a field of text with --text-field."
        )
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, *_OF_A_PROGRAM) as error:
        raise DataError(
            f"{where}: the tokenizer's chat template refuses these messages ({error}); correct their roles and order."
        ) from error
