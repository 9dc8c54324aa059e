"""``training_log.jsonl``: one line per step of a training, and how it is read. Needs no MLX."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import TrainingError
from ..files import read_bytes
from ..types import Json

FILE = "training_log.jsonl"


def read_log(path: Path) -> list[Json]:
    """The lines of a log; a last line that a kill or a full disk cut short is left out.

    Raises TrainingError where it cannot be read, or a line is none of a log.
    """
    entries = []
    try:
        lines = read_bytes(path).splitlines()
    except OSError as error:
        raise TrainingError(f"Cannot read {path}: {error.strerror or error}.") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise TrainingError(
                f"{path}, line {number} is not JSON; move the file away to continue without it."
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            raise TrainingError(
                f"{path}, line {number} is not a line of a training log; move the file away to continue without it."
            )
        entries.append(entry)
    return entries


def is_log(path: Path) -> bool:
    """Whether a file that is not empty is a log, if only the start of the first line of one that a kill cut short."""
    try:
        return bool(read_log(path)) or _is_cut(read_bytes(path))
    except TrainingError:
        return False


def _is_cut(line: bytes) -> bool:
    start = b'{"step": '
    return line.startswith(start) or start.startswith(line)
