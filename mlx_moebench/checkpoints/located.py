"""From what the user typed to a complete checkpoint of a sparse model, without reading a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelLoadError
from ..families import Family, family_for
from ..types import Json
from .folder import check_tokenizer, check_weights, read_config
from .hub import GGUF, NANO_NAME, WEIGHTS, commit_of, fetch, holds_only_gguf, local_folder, only_gguf

NANO = Path(__file__).parents[1] / "models" / "nano"
"""The small trained model that ships in the package."""


@dataclass(frozen=True)
class Located:
    """A checkpoint that passed every check that needs no weights.

    name: the hub id, the folder's name, or ``moebench-nano``. revision: the commit, where the folder is a snapshot
    of the hub cache, else the revision asked for.
    """

    folder: Path
    name: str
    config: Json
    family: Family
    revision: str | None


def find(
    model: str | Path | None,
    revision: str | None,
    trust_remote_code: bool,
    *,
    unquantised: bool,
    check: Callable[[Family, Json], None] = lambda family, config: None,
) -> Located:
    """The checkpoint that ``model`` names: a folder, a hub id, or the embedded model, as None or by its name.

    The name wins over a folder ``moebench-nano`` in the working directory, so that a command means the same everywhere;
    ``./moebench-nano``, or a Path, is the folder.


    unquantised: whether it must be. check: what a backend refuses, from the family and config.json.
    Raises ModelLoadError and UnsupportedModelError.
    """
    embedded = model is None or model == NANO_NAME
    folder = NANO if model is None or embedded else local_folder(model)
    if folder is not None:
        name = NANO_NAME if embedded else folder.name
        if not any(folder.glob(WEIGHTS)) and any(folder.glob(f"*{GGUF}")):
            raise only_gguf(folder)
        config = read_config(folder)
        family = family_for(config)
    else:
        # The settings first: no one should download gigabytes to be told that the model is dense.
        name = str(model)
        settings = fetch(name, revision, weights=False, code=trust_remote_code)
        if not (settings / "config.json").is_file() and holds_only_gguf(name, commit_of(settings)):
            raise only_gguf(name)
        config = read_config(settings)
        family = family_for(config)
        if unquantised:
            check_unquantised(config, name)
        folder = fetch(name, commit_of(settings) or revision, weights=True, code=trust_remote_code)
        if not any(folder.glob(WEIGHTS)) and holds_only_gguf(name, commit_of(folder)):
            raise only_gguf(name)
    family.specs(config)  # the settings that routers need are there
    check(family, config)
    check_weights(folder)
    check_tokenizer(folder)
    if config.get("model_file") is not None and not trust_remote_code:
        raise refused_code(folder, config["model_file"])
    if unquantised:
        check_unquantised(config, name)
    return Located(folder, name, config, family, commit_of(folder) or revision)


def check_unquantised(config: Json, name: str) -> None:
    """Raises ModelLoadError where ``config`` says that the weights of ``name`` are quantised already."""
    stored = config.get("quantization") or config.get("quantization_config")
    if not stored:
        return
    bits = stored.get("bits") if isinstance(stored, dict) else None
    raise ModelLoadError(
        f"{name} is quantised already{f' ({bits} bit)' if bits else ''} and is used as stored: leave --bits and "
        "--router-bits out, or give the unquantised model."
    )


def refused_code(folder: Path, what: str) -> ModelLoadError:
    """The error for a checkpoint that brings Python code, which the user did not allow."""
    return ModelLoadError(
        f"{folder} runs its own Python code ({what}); read it, and if you trust it pass --trust-remote-code."
    )
