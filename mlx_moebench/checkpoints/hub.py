"""From what the user typed to a folder: a path, or a model on the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import errors, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as HubTransportError  # type: ignore[attr-defined]  # of httpx or httpx2

from ..errors import ModelLoadError

# Newer versions tell a snapshot with files missing from one that is not there at all; older ones raise nothing of it.
_IncompleteSnapshotError: type[Exception] | tuple[()] = getattr(errors, "IncompleteSnapshotError", ())

WEIGHTS = "model*.safetensors"
_SETTINGS = ("*.json", "tokenizer.model", "*.tiktoken", "*.txt", "*.jsonl", "*.jinja")
_CODE = "*.py"


def local_folder(model: str | Path) -> Path | None:
    """The existing folder that ``model`` names, or None where it must be a hub id.

    Raises ModelLoadError for something that looks like a path and is no folder.
    """
    text = str(model)
    if not text:
        raise ModelLoadError("The model's name is empty; give a folder or a hub id of the form owner/name.")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # the home of a user that does not exist
        raise ModelLoadError(f"No such folder: {text}") from error
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise ModelLoadError(f"{text} is a file; give the folder that holds config.json and the weights.")
    separators = (os.sep, "/")
    if isinstance(model, Path) or text.startswith((".", "~", *separators)) or text.endswith(separators):
        raise ModelLoadError(f"No such folder: {text}")
    if text.count("/") > 1:
        raise ModelLoadError(f"No such folder: {text} (a hub id has the form owner/name).")
    return None


def fetch(model_id: str, revision: str | None, *, weights: bool, code: bool) -> Path:
    """The local snapshot of a hub model: settings and tokenizer, with ``weights`` the safetensors files too.

    Pickled weights are never fetched, and Python files only with ``code``. HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE
    and HF_TOKEN mean what they mean everywhere. Raises ModelLoadError with one sentence for each way to fail.
    """
    patterns = [*_SETTINGS, *([WEIGHTS] if weights else []), *([_CODE] if code else [])]
    try:
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise ModelLoadError(f"{model_id!r} is neither a folder nor a hub id of the form owner/name.") from error
    except GatedRepoError as error:
        raise ModelLoadError(
            f"{model_id!r} is gated: accept its conditions on its model page, then log in with `hf auth login` or set "
            "HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelLoadError(
            f"There is no folder and no public hub model {model_id!r}; check the spelling, or log in with "
            "`hf auth login` if it is private."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelLoadError(
            f"{model_id!r} has no revision {revision!r} on the hub; leave it out or name one."
        ) from error
    except _IncompleteSnapshotError as error:
        raise ModelLoadError(
            f"Only part of {model_id!r} is in the cache and the hub cannot be reached; run once with a network and "
            "without HF_HUB_OFFLINE to fetch the rest."
        ) from error
    except LocalEntryNotFoundError as error:
        if isinstance(error.__cause__, OfflineModeIsEnabled):
            raise ModelLoadError(
                f"{model_id!r} is not in the cache and HF_HUB_OFFLINE is set; unset it to download, or give a folder."
            ) from error
        raise ModelLoadError(
            f"{model_id!r} is not in the cache and the hub cannot be reached; check the network, or give a folder."
        ) from error
    except HfHubHTTPError as error:
        raise ModelLoadError(
            f"The hub answered {error.response.status_code} for {model_id!r}; try again later, or give a folder."
        ) from error
    except (HubTransportError, OSError) as error:
        raise ModelLoadError(f"Downloading {model_id!r} failed ({error}); run again to continue from here.") from error


def commit_of(folder: Path) -> str | None:
    """The commit hash of a folder inside the hub cache, which keeps each under ``snapshots/<commit>``."""
    return folder.name if folder.parent.name == "snapshots" else None
