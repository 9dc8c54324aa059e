"""The ``model`` section of a report on a model object, and where such an object came from."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

from ..routing.record import RouterSpec, router_warnings
from ..types import Facts, Json

_ORIGINS: dict[int, tuple[weakref.ref[object], Json]] = {}
"""By the id of a model object that lives: MLX's modules are dictionaries, which have no hash."""


def remember(model: object, facts: Facts) -> None:
    """Keep what `origin` says of ``model`` for as long as it lives."""
    key = id(model)
    _ORIGINS[key] = weakref.ref(model, lambda _: _ORIGINS.pop(key, None)), dict(facts)


def origin(model: object) -> Json:
    """What was remembered of a model object: its id, revision, weight_bits and adapter; empty for a stranger."""
    entry = _ORIGINS.get(id(model))
    return dict(entry[1]) if entry is not None and entry[0]() is model else {}


def named(place: str) -> Json:
    """The id and revision that a folder or hub id gives to what was loaded from it; empty for none."""
    folder = Path(place)
    if not place:
        return {}
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return {"id": repository.removeprefix("models--").replace("--", "/", 1), "revision": folder.name}
    return {"id": folder.name if folder.is_absolute() or folder.is_dir() else place}


def object_section(
    model: object,
    specs: Sequence[RouterSpec],
    *,
    model_type: str,
    backend: str,
    dtype: str | None,
    weight_bits: float | int | None = None,
    place: str = "",
    revision: str | None = None,
) -> Json:
    """The section of a model object: what it shows now, and where it came from if that is known.

    weight_bits: of its experts as they are; None where that is not read. place, revision: the folder or hub id, and the
    commit, that it names itself.
    """
    known = origin(model)
    return {
        "id": model_type,
        "revision": revision,
        "model_type": model_type,
        "dtype": dtype,
        "router_bits": min(spec.router_bits for spec in specs if spec.router_bits is not None),
        "backend": backend,
        "warnings": router_warnings(specs),
        **named(place),
        **known,
        "weight_bits": _bits(weight_bits, known.get("weight_bits")),
    }


def _bits(now: float | int | None, loaded: float | int | None) -> float | int | None:
    """Those on loading where experts are as they were then, cast or not; else those that they have now."""
    if now is None or (loaded is not None and now >= 16 and loaded >= 16):
        return loaded
    return now
