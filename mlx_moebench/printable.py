r"""Text that others wrote, as it may be shown: what acts on a terminal, or hides or turns text, becomes an escape.

Ids of models, names of data sets and files, tokens, and what libraries say of them can hold anything. Every character
that is not seen where it stands is shown as Python and JSON write it: ``\x1b``, ``\u202e``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

_ISOLATED = re.compile("\u2068[^\u2066-\u2069\u202a-\u202e]+\u2069")
"""What `names.isolated` makes of a right-to-left name: it turns nothing but itself."""

_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode's categories of controls, format characters (bidi, zero-width, tags), lone surrogates, line separators."""

_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u034f\u180b\u180c\u180d\u180f\u2800")
"""Letters and marks that are drawn as nothing."""

_FORMULA = tuple("=+-@＝＋－＠")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:inf|nan)", re.ASCII)


def printable(text: object, kept: str = "\n\t") -> str:
    r"""``text`` with an escape for every character that is not seen, but those of ``kept``.

    Escapes are those of JSON but for the controls below U+0020, which no JSON text holds raw: printed JSON stays JSON,
    and holds the same strings. Isolates around a right-to-left name stay.

    >>> printable("a\x1b[2Jb\u202ec\x7f")
    'a\\x1b[2Jb\\u202ec\\u007f'
    """
    text = str(text)
    if text.isascii() and text.isprintable():  # as most are
        return text
    parts, end = [], 0
    for isolate in _ISOLATED.finditer(text):
        parts += [_escaped(text[end : isolate.start()], kept), "\u2068", _escaped(isolate[0][1:-1], kept), "\u2069"]
        end = isolate.end()
    return "".join([*parts, _escaped(text[end:], kept)])


def one_line(text: object) -> str:
    r"""``text`` for a sentence: as `printable`, line ends and tabs too.

    >>> one_line("a file\nof two lines.txt")
    'a file\\nof two lines.txt'
    """
    return printable(text, kept="")


def csv_cell(value: Any) -> Any:
    """``value`` as a cell that no spreadsheet runs: text that would begin a formula stands behind an apostrophe.

    Numbers stay numbers, also as text. Line ends in a name would end a row in many readers.

    >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell(-0.5), csv_cell("-x")
    ("'=1+1", '-0.5', -0.5, "'-x")
    """
    if not isinstance(value, str):
        return value
    text = one_line(value)
    # Spaces before it do not stop all of them, and the wide forms are the same to some.
    begins = value.lstrip().startswith(_FORMULA) or value.startswith(("\t", "\r"))
    return f"'{text}" if begins and not _NUMBER.fullmatch(value) else text


def _escaped(text: str, kept: str) -> str:
    return "".join(c if c in kept or not _unseen(c) else _escape(c) for c in text)


def _unseen(character: str) -> bool:
    # Variation selectors are of no such category, and 256 of them can hide any bytes behind a letter.
    selects = "\ufe00" <= character <= "\ufe0e" or "\U000e0100" <= character <= "\U000e01ef"
    return unicodedata.category(character) in _UNSEEN or character in _BLANK or selects


def _escape(character: str) -> str:
    return repr(character)[1:-1] if character < " " else json.dumps(character)[1:-1]
