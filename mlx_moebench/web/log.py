"""The log of a server: one line for each record, whatever is in it."""

from __future__ import annotations

import logging

from ..printable import one_line


class OneLine(logging.Formatter):
    """An exception is named in the line, and has no traceback unless DEBUG is logged.

    before: writes the record, which is then made one line.
    """

    def __init__(self, before: logging.Formatter | None = None) -> None:
        super().__init__()
        self._before = before or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The record as the formatter before would write it, on one line."""
        if logging.getLogger().isEnabledFor(logging.DEBUG):
            return self._before.format(record)
        plain = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None, "stack_info": None})
        plain.msg, plain.args = record.getMessage(), ()
        if record.exc_info and (error := record.exc_info[1]) is not None and str(error) not in plain.msg:
            plain.msg += f" ({type(error).__name__}: {error})"
        return one_line(self._before.format(plain))
