"""The JSON files of this package as classes, from which their schemas in ``routing/schema`` are made.

`checked` holds a file to its class; scripts/make_schemas.py writes the schemas. What a schema requires of a model or an
environment beside the fields of its class (``REQUIRED``) may be missing from statistics that somebody made by hand.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from .comparison import ComparisonFile
from .dynamics import DynamicsFile
from .experts import ExpertsFile
from .facts import SumsFacts, TraceManifest
from .profile import ProfileFile
from .quant import QuantFile
from .report import Report
from .testbed import TestbedFile

FILES: dict[str, tuple[str, Any]] = {
    "routing_stats": ("Routing statistics report", Report),
    "profile": ("Profile", ProfileFile),
    "comparison": ("Comparison", ComparisonFile),
    "dynamics": ("Routers over a training", DynamicsFile),
    "experts": ("Experts", ExpertsFile),
    "testbed": ("Routing testbed", TestbedFile),
    "quant_drift": ("Drift of routing under quantisation", QuantFile),
}
"""{name of the schema: (title, class)}."""

FACTS: dict[str, Any] = {"sums": SumsFacts, "trace": TraceManifest}
"""{what `checked` knows it as: class} of the JSON that stands beside arrays, for which there is no schema."""

FOLDER = Path(__file__).parents[2] / "routing" / "schema"


def checked(name: str, content: Any) -> None:
    """Raise ValueError, which names the place, where ``content`` is no such file of this version or one before."""
    try:
        msgspec.convert(content, FACTS[name] if name in FACTS else FILES[name][1])
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def schema_text(name: str) -> str:
    """The JSON schema of a file, as it stands in ``FOLDER``."""
    title, whole = FILES[name]
    (_,), components = msgspec.json.schema_components([whole], ref_template="#/$defs/{name}")
    for one in _structs(whole):
        component = components[one.__name__]
        component |= getattr(one, "RULES", {})
        if "description" in component:  # of the docstring, which Python dedents itself from 3.13 on
            component["description"] = inspect.cleandoc(component["description"])
        component["required"] = [*component.get("required", ()), *getattr(one, "REQUIRED", ())]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | components.pop(whole.__name__)
    return json.dumps(schema | {"title": title, "$defs": dict(sorted(components.items()))}, indent=2) + "\n"


def _structs(whole: Any) -> list[Any]:
    """Every class that a file is made of."""
    (_,), components = msgspec.json.schema_components([whole])
    known = {one.__name__: one for one in _subclasses(msgspec.Struct)}
    return [known[name] for name in components]


def _subclasses(base: Any) -> list[Any]:
    return [one for direct in base.__subclasses__() for one in (direct, *_subclasses(direct))]
