"""Seals: one SHA-256 over everything in a file, kept in it, by which every reader notices a change.

A seal tells damage and editing by hand. It is no signature: whoever writes a file anew can seal it anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MoebenchError, StatsError
from ..files import read_text
from ..types import Facts, HostArray, Json

SEAL = "seal"
"""The key under which a JSON file, or the facts of a file of sums, hold their seal."""


def strict_json(text: str | bytes) -> Any:
    """What JSON holds; ValueError for what `json` lets pass and this package never writes: a key twice, NaN, infinity,
    be it as 1e999.

    >>> strict_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' stands there twice
    """
    try:
        return json.loads(
            text, object_pairs_hook=_without_repetition, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path, kind: type[MoebenchError] = StatsError, instead: str = "") -> Any:
    """What a file of JSON holds, as `strict_json`; its seal is not looked at.

    Raises ``kind`` where it cannot be read or is no JSON; the sentence ends with ``instead``, which says what to give.
    """
    try:
        return strict_json(read_text(path))
    except OSError as error:
        raise kind(f"Cannot read {path}: {error.strerror or error}{instead}.") from error
    except ValueError as error:
        raise kind(f"{path} is not JSON: {error}{instead}.") from error


def json_seal(content: Facts) -> str:
    """SHA-256, hexadecimal, of ``content`` without its seal: as JSON in UTF-8 with sorted keys and no spaces."""
    return hashlib.sha256(_canonical(content)).hexdigest()


def sums_seal(facts: Facts, tensors: Mapping[str, HostArray]) -> str:
    """SHA-256, hexadecimal, of facts without their seal and of every array's name, type, shape and bytes."""
    digest = hashlib.sha256(_canonical(facts))
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def sealed_text(content: Facts) -> str:
    """A JSON file of ``content`` with its seal; ValueError for NaN and infinity, which JSON does not have."""
    unsealed = {key: value for key, value in content.items() if key != SEAL}
    # As it will be read: keys that are numbers are text then.
    seal = json_seal(json.loads(json.dumps(unsealed, allow_nan=False)))
    return json.dumps(unsealed | {SEAL: seal}, indent=1, allow_nan=False) + "\n"


def check_json_seal(content: Facts, name: str, *, required: bool = False) -> bool:
    """Whether ``content`` has a seal; raises `StatsError` where it does not fit, or where a required one is missing."""
    if SEAL not in content:
        if required:
            raise StatsError(f"{name} was changed after it was written: its seal is missing.")
        return False
    if content[SEAL] != json_seal(content):
        raise StatsError(f"{name} was changed after it was written: its seal does not fit what it holds.")
    return True


def warn_unsealed(name: str) -> None:
    """Say that nobody can tell whether a file was changed."""
    warnings.warn(
        f"{name} is unsealed, as an earlier version wrote it: whether it was changed since cannot be told.",
        stacklevel=3,
    )


def _canonical(content: Facts) -> bytes:
    unsealed = {key: value for key, value in content.items() if key != SEAL}
    return json.dumps(unsealed, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _without_repetition(pairs: list[tuple[str, Any]]) -> Json:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is larger than a number can be")
    return number
