"""What may look at single tokens while a data set is measured."""

from __future__ import annotations

from typing import Any, Protocol

from ..data import Batch
from ..routing.recorder import Recorder
from ..routing.tokens import TokenBlock
from ..types import HostArray


class Watch(Protocol):
    """Sees every token that counts, router by router, and then what the model said of the batch.

    logits: whether `count` reads them; a backend need not compute them otherwise.
    """

    logits: bool

    def begin(self, tokenizer: Any) -> None:
        """Before the first batch."""

    def record(self, block: TokenBlock) -> None:
        """What one router said of one forward pass of the batch that runs."""

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """The batch is over.

        ids: [B, S] what the model was given, generated tokens included. logits: [B, S, V], not evaluated, if they
        are read; None where the tokens were generated. ``stats.host`` brings what is made of them to the host.
        """
