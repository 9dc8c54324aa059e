"""Strategies that change something valid: bytes, JSON, and arrays by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

DEEP, TWICE = "@deep@", "@twice@"
"""Marks in JSON that `json_text` replaces: a list nested beyond what `json` reads, and a key that is there again."""

TOO_DEEP = "[" * 20_000 + "]" * 20_000

ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 255, 1.5, -0.0, 1e-300, 1e308, 2**31, 2**63, 10**30, -(10**30), 10**400),
    *(math.nan, math.inf, -math.inf, "", "0", "1", "nan", "a" * 5000, "\ud800", "a\nb", "\x00\x1b[2J", "\u202eabc"),
    *("../../etc", "é" * 200, [], {}, [[]], [None], {"": None}, [1, 2, 3], ["a"], {"a": 1}, [[[[[[[[1]]]]]]]]),
]
"""What no key expects."""

SEALABLE = [value for value in ODD if not (isinstance(value, float) and not math.isfinite(value))]
"""Of `ODD`, what a file with a seal can hold."""

PIECES = [
    b"\x00",
    b"\xff",
    b"\xff\xfe",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\",
    b"\n",
    b",",
    b"-",
    b"1e999",
    b"\xed\xa0\x80",
    b"\r",
]


@st.composite
def changed_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """``whole`` with one to three flips, cuts, insertions or repetitions."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.sampled_from([1, 2, 8, 64, 100_000]))
        what = draw(st.sampled_from(["flip", "set", "insert", "cut", "truncate", "repeat", "move"]))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif what == "insert":
            data[at:at] = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
        elif what == "cut":
            del data[at : at + length]
        elif what == "truncate":
            del data[at:]
        elif what == "repeat":
            data[at:at] = data[at : at + min(length, 1000)]
        else:
            part = data[at : at + length]
            del data[at : at + length]
            data += part
    return bytes(data)


@st.composite
def changed_json(draw: st.DrawFn, document: Any, most: int = 2, sealable: bool = False) -> Any:
    """``document`` with one to ``most`` values replaced, removed, repeated, wrapped or exchanged; itself untouched.

    sealable: only with what a file with a seal can hold.
    """
    for _ in range(draw(st.integers(1, most))):
        document = _changed(draw, document, document, sealable)
    return document


def _changed(draw: st.DrawFn, node: Any, whole: Any, sealable: bool) -> Any:
    """A copy of ``node`` along the path to what is changed."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not keys or (node is not whole and draw(st.integers(0, 3)) == 0):
        return _odd(draw, node, whole, sealable)
    key = draw(st.sampled_from(keys))
    copy = dict(node) if isinstance(node, dict) else list(node)
    what = draw(st.sampled_from(["descend"] * 8 + ["delete", "repeat", "exchange"]))
    if what == "descend":
        copy[key] = _changed(draw, node[key], whole, sealable)
    elif what == "delete":
        del copy[key]
    elif what == "exchange":
        other = draw(st.sampled_from(keys))
        copy[key], copy[other] = node[other], node[key]
    elif isinstance(copy, dict):
        copy[f"other {key}" if sealable else f"{TWICE}{key}"] = node[key]
    else:
        copy.insert(key, node[key])
    return copy


def _odd(draw: st.DrawFn, node: Any, whole: Any, sealable: bool) -> Any:
    what = draw(st.sampled_from(["odd"] * 6 + ["text", "wrapped", "keyed", "near", "other", "deep"]))
    if what == "text":
        return str(node)
    if what == "wrapped":
        return [node]
    if what == "keyed":
        return {"x": node}
    if what == "near" and isinstance(node, int | float) and not isinstance(node, bool):
        return draw(st.sampled_from([node + 1, node - 1, -node, node // 2, min(max(node, -1e300), 1e300) / 2]))
    if what == "other" and isinstance(whole, dict) and whole:
        return whole[draw(st.sampled_from(list(whole)))]
    if what == "deep" and not sealable:
        return DEEP
    return draw(st.sampled_from(SEALABLE if sealable else ODD))


def json_text(document: Any, **options: Any) -> str:
    """As JSON, with what the marks stand for."""
    text = json.dumps(document, **options)
    return text.replace(f'"{DEEP}"', TOO_DEEP).replace(f'"{TWICE}', '"')


def json_bytes(document: Any, **options: Any) -> bytes:
    """As a file of JSON."""
    return json_text(document, **options).encode("utf-8", "surrogatepass")


DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "?"]


@st.composite
def changed_arrays(draw: st.DrawFn, arrays: Mapping[str, Any], dtypes: Sequence[str] = DTYPES) -> dict[str, Any]:
    """``arrays`` with one to three dtypes, shapes or values changed, or an array removed, added or exchanged."""
    made = dict(arrays)
    for _ in range(draw(st.integers(1, 3))):
        if not made:
            return made
        name = draw(st.sampled_from(sorted(made)))
        what = draw(st.sampled_from(["dtype", "shape", "value", "value", "value", "remove", "add", "exchange"]))
        if what == "remove":
            del made[name]
        elif what == "add":
            made[draw(st.sampled_from(["x", "0", "layer.0.mlp.counts", f"{name}.x"]))] = made[name]
        elif what == "exchange":
            other = draw(st.sampled_from(sorted(made)))
            made[name], made[other] = made[other], made[name]
        else:
            change = {"dtype": _cast, "shape": _reshaped, "value": _with_value}[what]
            made[name] = change(draw, np.asarray(made[name]), dtypes)
    return made


@st.composite
def changed_array(draw: st.DrawFn, array: Any, dtypes: Sequence[str] = DTYPES) -> Any:
    """One array, changed once or twice."""
    for _ in range(draw(st.integers(1, 2))):
        array = draw(st.sampled_from([_cast, _reshaped, _with_value, _with_value]))(draw, np.asarray(array), dtypes)
    return array


Change = Callable[[st.DrawFn, Any, Sequence[str]], Any]


def _cast(draw: st.DrawFn, array: Any, dtypes: Sequence[str]) -> Any:
    real = array.real if array.dtype.kind == "c" else array
    with np.errstate(all="ignore"):
        return real.astype(draw(st.sampled_from(dtypes)))


def _reshaped(draw: st.DrawFn, array: Any, dtypes: Sequence[str]) -> Any:
    what = draw(st.sampled_from(["less", "none", "flat", "turned", "more", "twice", "scalar", "narrow"]))
    if what == "flat" or not array.ndim:
        return array.reshape(-1)
    made = {
        "less": array[:-1],
        "none": array[:0],
        "turned": array.T,
        "more": array[None],
        "twice": np.concatenate([array, array]),
        "scalar": np.asarray(array.flat[0] if array.size else 0, array.dtype),
        "narrow": array[..., :-1],
    }
    return made[what]


def _with_value(draw: st.DrawFn, array: Any, dtypes: Sequence[str]) -> Any:
    if not array.size or array.dtype.kind not in "iufb":
        return array
    made = np.array(array)
    if made.dtype.kind == "b":
        values: list[Any] = [True, False]
    elif made.dtype.kind == "f":
        values = [math.nan, math.inf, -math.inf, -1.0, 0.0, 0.5, 1.0, 1e300 if made.itemsize > 4 else 6e4, 1e-30]
    else:
        info = np.iinfo(made.dtype)
        values = [0, 1, info.max, info.min, info.max // 2, info.max if info.min == 0 else -1, min(8, info.max)]
    value = draw(st.sampled_from(values))
    where = draw(st.sampled_from(["one", "row", "all"]))
    if where == "all" or not made.ndim:
        made[...] = value
    elif where == "row":
        made[draw(st.integers(0, len(made) - 1))] = value
    else:
        made.flat[draw(st.integers(0, made.size - 1))] = value
    return made
