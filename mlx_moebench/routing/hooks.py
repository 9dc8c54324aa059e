"""What a backend says of its arrays to a `recorder.Recorder`: the least that a library must."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from ..types import HostArray
from .forwards import Cached, Rows
from .record import Array, Mask, Routing


class Arrays:
    """Defaults for a library whose arrays are NumPy's."""

    def routing_of(self, number: int, logits: Array, indices: Array, mask: Mask) -> Routing:
        """The record of router ``number``, on the device that holds the logits; mask [B, S]."""
        raise NotImplementedError

    def evaluate(self, arrays: Sequence[Array]) -> bool:
        """Have arrays computed, now or while others are; False where they are placeholders of a traced function."""
        return True

    def own(self, array: Array) -> Array:
        """An array with the same numbers that the model's own thread does not look at any more."""
        return array

    def host(self, array: Array) -> HostArray:
        """An array in the host's memory."""
        return np.asarray(array)

    def near(self, array: Array, other: Array) -> Array:
        """``array`` on the device of ``other``."""
        return array

    def device(self, array: HostArray, other: Array) -> Array:
        """An array of the host in the library and on the device of ``other``."""
        return array

    def cached(self) -> Cached | None:
        """The KV cache that the running forward was given; None without one."""
        return None

    def rows(self, shape: tuple[int, ...]) -> Rows | None:
        """What the rows of the running forward are, where a batched generation says so."""
        return None

    def drafting(self) -> bool:
        """Whether the running forward is one of speculative decoding, which says of each what it takes back."""
        return False

    def unrecorded(self) -> str | None:
        """Why the running forward, which nobody described, cannot be counted; None where it can."""
        return None

    def say(self, why: str) -> None:
        """Speak of the first forward that is not recorded for a reason."""
        warnings.warn(why, RuntimeWarning, stacklevel=4)

    def release(self) -> None:
        """Let go of the model."""

    def sinks(self) -> Sequence[object]:
        """What else is told by the model, methods of other recorders among them."""
        return ()
