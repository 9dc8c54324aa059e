"""Types of what the libraries underneath leave untyped, each once.

mlx, mlx-lm, torch and transformers say nothing of their types, and neither does JSON. What is left of `Any` elsewhere
are other objects of theirs: layers and caches with the arguments that they pass on, optimizers, axes of a figure,
request handlers; and the keywords of functions that hand them to such a library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

Array = Any
"""An array of any namespace that follows the Python array API: NumPy, ``mlx.core``, torch."""

if TYPE_CHECKING:
    HostArray = npt.NDArray[Any]
    """An array in the host's memory, of the dtype that it had on the device."""
else:
    HostArray = Any  # the command line, which imports this, shows its help without NumPy

Network = Any
"""A model object: an ``mlx.nn.Module`` or a ``torch.nn.Module``."""

Facts = Mapping[str, Any]
"""JSON that was read: what is known of a model, a data set, an environment. Each key has a type of its own."""

Json = dict[str, Any]
"""JSON that is being made, or changed."""


class Picture(Protocol):
    """A picture that a notebook shows."""

    @property
    def png(self) -> bytes: ...
    def save(self, path: str | Path) -> Path: ...


class Tokenizer(Protocol):
    """What is asked of a tokenizer: one of transformers, or mlx-lm's wrapper around it."""

    @property
    def bos_token(self) -> str | None: ...
    @property
    def bos_token_id(self) -> int | None: ...
    @property
    def eos_token_id(self) -> int | None: ...
    @property
    def pad_token_id(self) -> int | None: ...
    def encode(self, text: str, **options: bool) -> Sequence[int]: ...
    def decode(self, token_ids: Sequence[int]) -> str: ...
    def apply_chat_template(self, messages: Sequence[Mapping[str, str]], *, tokenize: bool) -> str: ...
