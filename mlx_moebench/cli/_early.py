"""What needs no model to be refused is refused while options are read, before torch or MLX is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


def check_models(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Click callback: every model is the embedded one, a folder, or can be a hub id; NAME=MODEL where several are."""
    if context.resilient_parsing:  # a shell asks what could follow
        return value
    for model in _each(value):
        from ..checkpoints import NANO_NAME
        from ..checkpoints.hub import local_folder

        if model != NANO_NAME:
            local_folder(model)
    return value


def check_data(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Click callback: every data set is bundled, on the hub, or there; NAME=DATASET where several are."""
    if context.resilient_parsing:
        return value
    for dataset in _each(value):
        from ..data import bundled_names, read_corpus

        name = dataset.rpartition("@")[0] or dataset  # DATASET@FIELD
        known = dataset.startswith("hub:") or {dataset, name} & {*bundled_names()}
        if not known and not _there(dataset) | _there(name):
            read_corpus(dataset)  # which says what is wrong
    return value


def check_adapter(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Click callback: an adapter's folder, complete."""
    if value is not None and not context.resilient_parsing:
        from ..checkpoints import read_adapter

        read_adapter(value)
    return value


def _each(value: Any) -> tuple[str, ...]:
    if isinstance(value, tuple):
        from ..data.importers import split_name

        return tuple(split_name(one)[1] for one in value)
    return () if value is None else (value,)


def _there(path: str | Path) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError):  # no path at all, or the home of a user that does not exist
        return False
