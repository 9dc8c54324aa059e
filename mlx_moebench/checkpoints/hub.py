"""From what the user typed to a folder: a path, or a model on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import (
    constants,
    errors,
    get_safetensors_metadata,
    hf_hub_download,
    list_repo_files,
    model_info,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.errors import HTTPError as HubTransportError  # type: ignore[attr-defined]  # of httpx or httpx2
from huggingface_hub.utils.logging import get_verbosity, set_verbosity
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    tqdm,
)

from ..errors import ModelLoadError
from ..options import LISTENER, Step

# Newer versions tell a snapshot with files missing from one that is not there at all; older ones raise nothing of it.
_IncompleteSnapshotError: type[Exception] | tuple[()] = getattr(errors, "IncompleteSnapshotError", ())

WEIGHTS = "model*.safetensors"
_SETTINGS = ("*.json", "tokenizer.model", "*.tiktoken", "*.txt", "*.jsonl", "*.jinja")
_CODE = "*.py"
_COMMIT = re.compile("[0-9a-f]{40}")

NANO_NAME = "moebench-nano"
"""The embedded model, wherever a model is named; a folder of that name is ./moebench-nano."""


def local_folder(model: str | Path) -> Path | None:
    """The existing folder that ``model`` names, or None where it must be a hub id.

    Raises ModelLoadError for something that looks like a path and is no folder, or that can be no hub id.
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
    if path.suffix.lower() == GGUF:
        raise only_gguf(text)
    if path.exists():
        raise ModelLoadError(f"{text} is a file; give the folder that holds config.json and the weights.")
    separators = (os.sep, "/")
    if isinstance(model, Path) or text.startswith((".", "~", *separators)) or text.endswith(separators):
        raise ModelLoadError(f"No such folder: {text}{similar(path)}")
    if text.count("/") > 1:
        raise ModelLoadError(f"No such folder: {text} (a hub id has the form owner/name).{similar(path)}")
    if "/" not in text:  # no sparse model's id has no owner, so the hub need not be asked
        raise ModelLoadError(f"{text!r} is neither a folder nor a hub id of the form owner/name.{similar(path)}")
    return None


def similar(path: Path) -> str:
    """`` Did you mean 'x'?``, of the folders beside ``path`` and the embedded model; empty where none is close."""
    try:
        names = [folder.name for folder in path.parent.iterdir() if folder.is_dir()]
    except OSError:
        names = []
    known = names if path.name != str(path) else [NANO_NAME, *names]
    close = get_close_matches(path.name, known, n=1, cutoff=0.75)
    return f" Did you mean {str(path.with_name(close[0]))!r}?" if close else ""


GGUF = ".gguf"


def only_gguf(name: str | Path) -> ModelLoadError:
    """The error for weights in the format of llama.cpp."""
    return ModelLoadError(
        f"{name} is GGUF, the format of llama.cpp, and only safetensors are read; give the model's original "
        "checkpoint, with --bits 4 if memory is short."
    )


def holds_only_gguf(model_id: str, commit: str | None) -> bool:
    """Whether a hub model that lacks something has GGUF files and no safetensors."""
    try:
        files = list_repo_files(model_id, revision=commit)
    except (HubTransportError, OSError):
        return False  # what is lacking is said instead
    suffixes = {Path(file).suffix for file in files}
    return GGUF in suffixes and ".safetensors" not in suffixes


def fetch(model_id: str, revision: str | None, *, weights: bool, code: bool) -> Path:
    """The local snapshot of a hub model: settings and tokenizer, with ``weights`` the safetensors files too.

    Pickled weights are never fetched, and Python files only with ``code``. HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE
    and HF_TOKEN mean what they mean everywhere. Raises ModelLoadError with one sentence for each way to fail.
    """
    patterns = [*_SETTINGS, *([WEIGHTS] if weights else []), *([_CODE] if code else [])]
    slow = _silence_of_the_hub(model_id, revision)
    try:
        with _silent():
            options = {"allow_patterns": patterns, "local_files_only": slow is not None, **_bars(model_id)}
            return Path(snapshot_download(model_id, revision=revision, **options))
    except (HubTransportError, HFValidationError, OSError) as error:
        raise ModelLoadError(_sentence(slow or error, model_id, revision) + similar(Path(model_id))) from error


def fetch_settings(model_id: str, revision: str | None) -> Path:
    """config.json of a hub model, in the cache, and nothing else of it. Raises ModelLoadError as `fetch` does."""
    slow = _silence_of_the_hub(model_id, revision)
    try:
        with _silent():
            local = slow is not None
            return Path(hf_hub_download(model_id, "config.json", revision=revision, local_files_only=local))
    except LocalEntryNotFoundError as error:
        raise ModelLoadError(_sentence(slow or error, model_id, revision) + similar(Path(model_id))) from error
    except EntryNotFoundError as error:
        raise ModelLoadError(
            f"{model_id!r} has no config.json on the hub; give the model in transformers' form."
        ) from error
    except (HubTransportError, HFValidationError, OSError) as error:
        raise ModelLoadError(_sentence(slow or error, model_id, revision) + similar(Path(model_id))) from error


def headers(model_id: str, revision: str | None) -> dict[str, tuple[str, str, tuple[int, ...]]] | None:
    """{tensor: (file, dtype, shape)} of a hub model, by the headers of its files, of which no more is read.

    None where it has no safetensors, or where the hub cannot be asked: what is in the cache is enough to go on.
    """
    if constants.HF_HUB_OFFLINE:
        return None
    try:
        with _silent(), _no_bars():
            files = get_safetensors_metadata(model_id, revision=revision).files_metadata
    except (NotASafetensorsRepoError, SafetensorsParsingError, HubTransportError, OSError):
        return None
    return {
        name: (file, tensor.dtype, tuple(tensor.shape))
        for file, metadata in files.items()
        for name, tensor in metadata.tensors.items()
    }


@contextmanager
def _no_bars() -> Iterator[None]:
    """The client draws a bar over the files whose headers it reads."""
    were = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were:
            enable_progress_bars()


def _silence_of_the_hub(model_id: str, revision: str | None) -> Exception | None:
    """The timeout, where the hub does not answer: the first question of a download would wait for ever."""
    if constants.HF_HUB_OFFLINE or _COMMIT.fullmatch(revision or ""):
        return None
    try:
        model_info(model_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (HubTransportError, HFValidationError, OSError) as error:
        return error if _timed_out(error) else None  # all else the download meets again
    return None


@contextmanager
def _silent() -> Iterator[None]:
    """The hub's client writes a line for each request that fails and is tried again; what matters is raised."""
    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(before)


def _bars(model_id: str) -> dict[str, Any]:
    """Where a command listens, progress is its business; elsewhere the hub's client draws its own bars."""
    step = LISTENER.get()
    return {} if step is None else {"tqdm_class": _listener(step, f"downloading {model_id}, MB")}


def _listener(step: Step, what: str) -> type[Any]:
    """A tqdm that draws nothing and tells ``step`` of bytes."""

    class Listener(tqdm):
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            self.counts_bytes = settings.get("unit") == "B"
            super().__init__(*arguments, **settings | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0  # which a disabled bar leaves alone
            if self.counts_bytes:
                step(what, int(self.n) // 10**6, int(self.total or 0) // 10**6)

    return Listener


def _sentence(error: Exception, model_id: str, revision: str | None) -> str:
    """What to do about a download that failed."""
    for kind, sentence in _SENTENCES:
        if isinstance(error, kind):
            return sentence.format(id=repr(model_id), revision=repr(revision))
    cause = error.__cause__
    for one in (error, cause):
        if isinstance(one, HfHubHTTPError):
            return _refusal(one.response.status_code, model_id)
    if _timed_out(error) or _timed_out(cause):
        return (
            f"The hub did not answer in time for {model_id!r}; run again to continue, with a longer "
            "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds) on a slow network."
        )
    if isinstance(error, LocalEntryNotFoundError):
        if isinstance(cause, OfflineModeIsEnabled):
            return (
                f"{model_id!r} is not in the cache and HF_HUB_OFFLINE is set; unset it to download, or give a folder."
            )
        return f"{model_id!r} is not in the cache and the hub cannot be reached; check the network, or give a folder."
    reason = " ".join(str(error).split()).rstrip(".")
    return f"Downloading {model_id!r} failed ({reason}); run again to continue from here."


_GATED = "{id} is gated: accept its conditions on its model page, then log in with `hf auth login` or set HF_TOKEN."
_SENTENCES: tuple[tuple[type[Exception] | tuple[()], str], ...] = (
    (HFValidationError, "{id} is neither a folder nor a hub id of the form owner/name."),
    (GatedRepoError, _GATED),
    (
        RepositoryNotFoundError,
        "There is no folder and no public hub model {id}; check the spelling, or log in with `hf auth login` if it is "
        "private.",
    ),
    (RevisionNotFoundError, "{id} has no revision {revision} on the hub; leave it out or name one."),
    (
        _IncompleteSnapshotError,
        "Only part of {id} is in the cache and the hub cannot be reached; run once with a network and without "
        "HF_HUB_OFFLINE to fetch the rest.",
    ),
)
"""What to say of each error that has a name; the first that fits."""


def _refusal(status: int, model_id: str) -> str:
    if status in (401, 403):
        return (
            f"The hub refuses {model_id!r} ({status}): log in with `hf auth login` or set HF_TOKEN to a token that may "
            "read it."
        )
    return f"The hub answered {status} for {model_id!r}; try again later, or give a folder."


def _timed_out(error: BaseException | None) -> bool:
    # httpx or httpx2 raise it, by the version of the hub's client, which has no name of its own for it.
    return any(kind.__name__ == "TimeoutException" for kind in type(error).__mro__)


def commit_of(folder: Path) -> str | None:
    """The commit hash of a folder inside the hub cache, which keeps each under ``snapshots/<commit>``."""
    return folder.name if folder.parent.name == "snapshots" else None
