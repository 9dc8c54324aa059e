"""What experts gave so far, on disk while a measurement goes on, so that one that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import StatsError
from ..files import HEADER_BROKEN, header_of, read_bytes, write_aside
from ..routing.contributions import ContributionSums
from ..signals import check, stopped_with
from ..types import HostArray, Json

ARRAYS = ("experts", "units", "sorted_weights", "pairs", "peak", "chosen")
EVERY = 30.0
"""Seconds between two savings."""


def partial_path(output: Path) -> Path:
    """Where the sums of a report lie while it is not finished."""
    return output.with_name(f"{output.stem}.partial.safetensors")


class KeptSums:
    """Sums of all routers, and the ``scores`` [N, 4] of questions, beside ``output``; None keeps nothing.

    facts: all that decides the numbers; sums of other facts are not gone on with. A context manager: a run that ends
    well leaves no file, and Ctrl-C says how to go on.
    """

    def __init__(self, output: Path | None, facts: Json, resume: bool) -> None:
        self._path = None if output is None else partial_path(output)
        self._key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        self._resume, self._due, self.saved = resume, time.monotonic() + EVERY, 0

    def begin(self, sums: Sequence[ContributionSums], scores: HostArray) -> int:
        """Fill both with what was kept, if anything was; how many batches that is."""
        from safetensors.numpy import load

        if self._path is None or not self._resume or not self._path.exists():
            return 0
        blob = read_bytes(self._path)
        try:
            metadata, tensors = header_of(blob).metadata, load(blob)
            same, done = metadata["key"] == self._key, int(metadata["batches"])
            for number, one in enumerate(sums):
                for name in ARRAYS if same else ():
                    getattr(one, name)[...] = tensors[f"{number}.{name}"]
            scores[...] = tensors["scores"] if same else scores
        except HEADER_BROKEN as error:
            raise StatsError(f"{self._path} is damaged ({error}): delete it to start again.") from error
        if not same:
            raise StatsError(f"Cannot resume {self._path}: it is of another run; repeat its options, or delete it.")
        self.saved = done
        return done

    def batch(self, done: int, sums: Sequence[ContributionSums], scores: HostArray) -> None:
        """So many batches are whole; save if it is time."""
        check()
        if self._path is not None and time.monotonic() >= self._due:
            self.save(done, sums, scores)

    def save(self, done: int, sums: Sequence[ContributionSums], scores: HostArray) -> None:
        """Write what ``done`` batches gave."""
        from safetensors.numpy import save

        if self._path is None:
            return
        tensors = {
            f"{n}.{name}": np.ascontiguousarray(getattr(one, name)) for n, one in enumerate(sums) for name in ARRAYS
        }
        blob = save(tensors | {"scores": scores}, {"key": self._key, "batches": str(done)})
        write_aside({self._path: blob})
        self.saved, self._due = done, time.monotonic() + EVERY

    def finish(self) -> None:
        """The report is written: nothing is left to go on with."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> KeptSums:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or not self.saved:
            return
        kept = f"what {self.saved} batches gave is in {self._path}"
        if isinstance(error, KeyboardInterrupt):
            raise stopped_with(error, f"; {kept}, and --resume continues from there.") from error
        error.add_note(f"{kept[0].upper()}{kept[1:]}.")
