"""What the user named as a series of checkpoints: which folders, in which order, at which steps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from ..checkpoints.hub import fetch
from ..data.importers import split_name
from ..errors import MoebenchError
from ..pair.seal import read_json

SERIES = ("steps/step-*", "checkpoint-*")
"""Where a training leaves checkpoints inside its folder: ``lab train --snapshot-every``, transformers' Trainer."""

LAST = "lab_report.json"
"""Beside the last checkpoint of the lab: what says at which step it is."""

_STEP = re.compile(r"step[-_ ]?(\d+)", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True)
class Stage:
    """One checkpoint of a series: its name, where it is, and the step of the training, None where it does not say."""

    name: str
    place: str
    step: int | None


def stages(arguments: Sequence[str | Path]) -> list[Stage]:
    """The checkpoints that arguments name, in the order in which they come.

    Each is [NAME=]PLACE: a model's folder, ID or ID@REVISION of the hub, or the folder of a training, which stands for
    the copies in it, by step, and after them for the model that it ended with. The step is read off the name: the
    number after ``step``, else the last one; where not all have one, or they do not rise, none has.

    Raises MoebenchError for fewer than two checkpoints, and for a place or a name that comes twice.
    """
    found: list[Stage] = []
    for argument in arguments:
        name, place = split_name(str(argument))
        folder = Path(place).expanduser()
        copies = _copies(folder)
        if copies:
            found += [
                Stage(f"{name} {copy.name}" if name else copy.name, str(copy), _step(copy.name)) for copy in copies
            ]
            found += _ended_with(folder, name, found[-1].step)
        else:
            shown = name or folder.name or place
            found.append(Stage(shown, place, _step(shown)))
    if len(found) < 2:
        raise MoebenchError(
            "Name two or more checkpoints of one training, in its order, or a folder with copies in steps/ "
            "(lab train --snapshot-every)."
        )
    places = [stage.place for stage in found]
    if len(set(places)) < len(places):
        raise MoebenchError(f"{max(places, key=places.count)} is named twice: a checkpoint has one place in a series.")
    names = [stage.name for stage in found]
    if len(set(names)) < len(names):
        raise MoebenchError(f"Two checkpoints are called {max(names, key=names.count)}: name them, as NAME=PLACE.")
    steps = [stage.step for stage in found]
    if any(a is None or b is None or a >= b for a, b in pairwise(steps)):
        return [Stage(stage.name, stage.place, None) for stage in found]
    return found


def folder_of(stage: Stage) -> str:
    """Where it can be loaded from; a revision of the hub is fetched."""
    model, at, revision = stage.place.rpartition("@")
    if not at or Path(stage.place).expanduser().exists():
        return stage.place
    return str(fetch(model, revision, weights=True, code=False))


def _copies(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    for pattern in SERIES:
        copies = [path for path in folder.glob(pattern) if (path / "config.json").is_file()]
        if copies:
            return sorted(copies, key=lambda path: (_step(path.name) or 0, path.name))
    return []


def _ended_with(folder: Path, name: str | None, last: int | None) -> list[Stage]:
    """The model of a training of the lab that is finished, unless its last copy is that."""
    if not (folder / LAST).is_file() or not (folder / "config.json").is_file():
        return []
    report = read_json(folder / LAST)
    settings = report.get("settings") if isinstance(report, dict) else None
    step = settings.get("steps") if isinstance(settings, dict) else None
    if not isinstance(step, int) or (last is not None and step <= last):
        return []
    return [Stage(f"{name} step-{step:07d}" if name else f"step-{step:07d}", str(folder), step)]


def _step(name: str) -> int | None:
    match = _STEP.search(name) or _NUMBER.search(name)
    return None if match is None else int(match[1])
