"""From what the user typed to a complete checkpoint of a sparse model, without reading a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelLoadError
from ..families import Family, family_for
from ..types import Json
from .folder import check_tokenizer, read_config
from .foreign import said
from .hub import GGUF, NANO_NAME, WEIGHTS, commit_of, fetch, holds_only_gguf, local_folder, only_gguf
from .packing import check_packing
from .rules import check_settings
from .shapes import check_shapes
from .weights import Weights, read_weights

NANO = Path(__file__).parents[1] / "models" / "nano"
"""The small trained model that ships in the package."""


@dataclass(frozen=True)
class Located:
    """A checkpoint that passed every check that needs no weights.

    name: the hub id, the folder's name, or ``moebench-nano``. revision: the commit, where the folder is a snapshot
    of the hub cache, else the revision asked for. weights: what its files hold, by their headers.
    """

    folder: Path
    name: str
    config: Json
    family: Family
    revision: str | None
    weights: Weights


def find(
    model: str | Path | None,
    revision: str | None,
    trust_remote_code: bool,
    *,
    unquantised: bool,
    check: Callable[[Family, Json], object] = Family.specs,
) -> Located:
    """The checkpoint that ``model`` names: a folder, a hub id, or the embedded model, as None or by its name.

    The name wins over a folder ``moebench-nano`` in the working directory, so that a command means the same everywhere;
    ``./moebench-nano``, or a Path, is the folder.

    unquantised: whether it must be. check: raises what a backend refuses, from the family and
    config.json; that the settings are there which routers need is the least.
    Raises ModelLoadError and UnsupportedModelError.
    """
    embedded = model is None or model == NANO_NAME
    folder = NANO if model is None or embedded else local_folder(model)
    if folder is not None:
        name = NANO_NAME if embedded else folder.name
        if not any(folder.glob(WEIGHTS)) and any(folder.glob(f"*{GGUF}")):
            raise only_gguf(folder)
        config = read_config(folder)
    else:
        name = str(model)
        folder, config = _fetched(name, revision, trust_remote_code, unquantised)
    family = family_for(config)
    check_settings(config)
    weights = read_weights(folder)
    check_shapes(family, config, weights)  # first, or a size beyond all bounds would be built from
    check_packing(config, weights, name)
    with said(f"{folder / 'config.json'} is none of a {config['model_type']!r} model", "mend it or fetch it again"):
        check(family, config)
    check_tokenizer(folder)
    if config.get("model_file") is not None and not trust_remote_code:
        raise refused_code(folder, config["model_file"])
    if unquantised:
        check_unquantised(config, name)
    return Located(folder, name, config, family, commit_of(folder) or revision, weights)


def _fetched(name: str, revision: str | None, code: bool, unquantised: bool) -> tuple[Path, Json]:
    """(the folder of a model of the hub, its config.json). The settings come first, and decide whether the rest does:
    no one should download gigabytes to be told that the model is dense."""
    settings = fetch(name, revision, weights=False, code=code)
    if not (settings / "config.json").is_file() and holds_only_gguf(name, commit_of(settings)):
        raise only_gguf(name)
    config = read_config(settings)
    family_for(config)
    check_settings(config)
    if unquantised:
        check_unquantised(config, name)
    folder = fetch(name, commit_of(settings) or revision, weights=True, code=code)
    if not any(folder.glob(WEIGHTS)) and holds_only_gguf(name, commit_of(folder)):
        raise only_gguf(name)
    return folder, config


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
