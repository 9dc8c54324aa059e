"""What libraries raise while they build and load a model: one sentence each, with the file and what they said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from ..errors import ModelLoadError, renamed
from .weights import shortened

FOREIGN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What code raises that meets settings or weights it was not written for; none of it is raised on purpose here."""


@contextmanager
def said(of: str, then: str = "fetch the checkpoint again") -> Iterator[None]:
    """Around code of others: what it raises becomes a ModelLoadError, ``of`` and what it said and what to do."""
    try:
        yield
    except ImportError as error:
        raise renamed(error) or ModelLoadError(f"{of} ({shortened(error)}); {then}.") from error
    except FOREIGN as error:
        raise ModelLoadError(f"{of} ({shortened(error)}); {then}.") from error


def check_accepted(error: BaseException, folder: Path) -> None:
    """Raises ModelLoadError where ``error`` is transformers' on a setting, which it reads before a tokenizer, too."""
    if isinstance(error, StrictDataclassError):
        raise ModelLoadError(
            f"{folder / 'config.json'} is refused by transformers ({shortened(error)}); mend it or fetch it again."
        ) from error
