"""What a layer made of every batch, until the next layer needs it: in memory up to a limit, beyond it in files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import StatsError
from ..files import header_of, read_bytes
from ..pair.seal import SEAL, strict_json, sums_seal
from ..types import HostArray, Json

FORMAT = "mlx_moebench.state"
"""The key in the file's metadata under which everything but the arrays stands, as JSON."""


class DamagedError(StatsError):
    """A file of a run that cannot be gone on from it."""


class Packer(Protocol):
    """Makes arrays of the host of a state, and a state of them; see `streaming.Layers`."""

    def packed(self, state: Any) -> tuple[dict[str, HostArray], Json]: ...

    def unpacked(self, arrays: Mapping[str, HostArray], facts: Json) -> Any: ...


class States:
    """The states of all batches after one layer, and those that the next one makes of them: two generations at most.

    folder: where files are written. limit: bytes of states that stay in memory. kept: whether every state is written,
    so that a killed run can go on from them. run: what tells these files from those of another run.
    """

    def __init__(self, packer: Packer, folder: Path, limit: int, *, kept: bool, run: str) -> None:
        self._packer, self._folder, self._limit, self._kept, self._run = packer, folder, limit, kept, run
        self._held: dict[tuple[int, int], tuple[Any, int]] = {}
        self._bytes = 0
        self._expected: tuple[int, int] | None = None
        self.written = 0
        """Bytes in the files of the generation that is being made."""

    def put(self, layer: int, batch: int, state: Any, size: int) -> None:
        """Keep what ``layer`` made of a batch, ``size`` bytes. Raises `StatsError` where the disk refuses."""
        fits = self._bytes + size <= self._limit
        if fits:
            self._held[layer, batch] = state, size
            self._bytes += size
        if self._kept or not fits:
            self._write(layer, batch, state, size)

    def take(self, layer: int, batch: int) -> Any:
        """What ``layer`` made of a batch, which is not asked for again. Raises `DamagedError` where its file is not
        what was written."""
        if (held := self._held.pop((layer, batch), None)) is not None:
            self._bytes -= held[1]
            return held[0]
        path = self._path(layer, batch)
        state = self._read(path, layer, batch)
        if not self._kept:
            path.unlink()
        return state

    def forget(self, layer: int) -> None:
        """Remove the files of a layer that all batches have left behind."""
        for path in self._folder.glob(f"{_stem(layer)}-*.safetensors"):
            path.unlink(missing_ok=True)
        self.written = 0

    def expect(self, positions: int, limit: int) -> None:
        """Say that so many positions are to come, here and beside it, of whose states ``limit`` bytes stay in memory:
        `check_disk` then looks once whether the disk has room for them."""
        self._expected = positions, limit

    def check_disk(self, size: float) -> None:
        """Raise `StatsError` where the disk has no room for two generations of the states that are expected, of
        ``size`` bytes each."""
        if self._expected is None:
            return
        (positions, limit), self._expected = self._expected, None
        whole = size * positions
        needed = int(2 * whole if self._kept else max(0.0, whole - limit))
        if needed and (free := shutil.disk_usage(self._made()).free) < needed:
            raise StatsError(
                f"Hidden states between two layers take up to {needed / 1e9:,.1f} GB in {self._folder}, where "
                f"{free / 1e9:,.1f} are free: make room, take fewer or shorter texts, or name an output on another "
                "disk."
            )

    def _path(self, layer: int, batch: int) -> Path:
        return self._folder / f"{_stem(layer)}-{batch:06d}.safetensors"

    def _made(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def _write(self, layer: int, batch: int, state: Any, size: int) -> None:
        from safetensors.numpy import save

        arrays, facts = self._packer.packed(state)
        facts = json.loads(json.dumps(facts | {"run": self._run, "layer": layer, "batch": batch}))
        text = json.dumps(facts | {SEAL: sums_seal(facts, arrays)})
        path = self._path(layer, batch)
        try:
            part = self._made() / "state.part"
            part.write_bytes(save(arrays, metadata={FORMAT: text}))
            part.replace(path)  # a kill leaves no half of one
        except OSError as error:
            raise StatsError(
                f"Cannot write {path}: {error.strerror or error}. Hidden states between layers need room there; see "
                "docs/streaming.md."
            ) from error
        self.written += size

    def _read(self, path: Path, layer: int, batch: int) -> Any:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            blob = read_bytes(path)
            facts = strict_json(header_of(blob).metadata[FORMAT])
            arrays = load(blob)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            why = getattr(error, "strerror", None) or error
            raise DamagedError(f"Cannot read {path} ({why}); delete {path.parent} to start again.") from error
        mine = {"run": self._run, "layer": layer, "batch": batch}
        if facts.get(SEAL) != sums_seal(facts, arrays) or any(facts[key] != value for key, value in mine.items()):
            raise DamagedError(f"{path} was changed after it was written; delete {path.parent} to start again.")
        return self._packer.unpacked(arrays, facts)


def _stem(layer: int) -> str:
    """How the files of a layer begin; of the embeddings, layer -1, too."""
    return "state-input" if layer < 0 else f"state-{layer:04d}"
