"""The table of models: one row each, from which the tests build a tiny random model of it, and its real ones.

One module for every form of routing, named as in ``mlx_moebench/families/`` and found by listing this folder.
`CONFIGS` and `RUNNABLE` lack what no CPU can run.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from .base import SIZES, Place, Real, Row, vocab_size

__all__ = ["BY_TYPE", "CONFIGS", "FORMS", "FORM_OF", "ROWS", "RUNNABLE", "SIZES", "Place", "Real", "Row", "vocab_size"]

_NAMES = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")

ROWS: list[Row] = [row for name in _NAMES for row in importlib.import_module(f"{__name__}.{name}").ROWS]
RUNNABLE = [row for row in ROWS if not row.unrunnable]
BY_TYPE = {row.model_type: row for row in ROWS}
CONFIGS: dict[str, dict[str, Any]] = {row.model_type: row.config for row in RUNNABLE}

FORM_OF: dict[str, str] = {
    row.model_type: name for name in _NAMES for row in importlib.import_module(f"{__name__}.{name}").ROWS
}
"""The form of routing of every model type, by the name of its module."""

FORMS: dict[str, str] = {}
"""One model type of every form of routing: the first of its module that runs."""

for _name in CONFIGS:
    FORMS.setdefault(FORM_OF[_name], _name)
