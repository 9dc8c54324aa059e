"""Streamed runs that cannot be lost: the sums of the layers that are done, kept on disk, and going on from them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from secrets import token_hex

import numpy as np

from ..errors import StatsError
from ..files import header_of, read_bytes, write_aside
from ..pair.seal import SEAL, check_json_seal, read_json, sealed_text, strict_json, sums_seal
from ..pair.stats import RoutingStats
from ..pair.storage import spec_of_json
from ..routing.sums import FIELDS, Sums
from ..signals import stopped_with
from ..types import Json
from .keep import PROGRESS, check_same, work_folder
from .states import DamagedError

VERSION = "1"
FORMAT = "mlx_moebench.layer"
"""The key in the metadata of a layer's sums under which everything but the arrays stands, as JSON."""


class LayerKeeper:
    """Keeps the sums of ``stats`` in the work folder of ``output``, layer by layer. output: None keeps nothing.

    count: the layers of the run. A context manager: what ends a run is told where it can be gone on from. done: the
    layers that are finished. folder: where hidden states are kept, too; run: what tells them from those of others.
    """

    def __init__(self, stats: RoutingStats, output: Path | None, count: int) -> None:
        self._stats, self._output, self._count = stats, output, count
        self.done = 0
        self.run = token_hex(8)
        self.kept = output is not None
        self._finished = False
        self.folder = Path(tempfile.mkdtemp(prefix="moebench-")) if output is None else work_folder(output)

    def resume(self) -> None:
        """Go on with the run whose folder is there. Raises `StatsError` that names the first difference where it is
        another measurement, and where a file of it was changed."""
        path = self.folder / PROGRESS
        if not path.exists():
            return
        content = read_json(path, instead=f"; delete {self.folder} to start again")
        check_json_seal(content, str(path), required=True)
        if content.get("version") != VERSION:
            raise StatsError(f"{path} is of another version of mlx-moebench; delete {self.folder} to start again.")
        before = RoutingStats([spec_of_json(spec) for spec in content["specs"]], **content["facts"])
        check_same(self._stats, before, self.folder)
        self.run, self.done = content["run"], content["done"]
        for layer in sorted({spec.layer for spec in self._stats.specs}):
            if layer < self.done:
                self._restore(layer)

    def keep(self, layer: int) -> None:
        """A layer is done: its sums, and that it is, are written together."""
        self.done = layer + 1
        if not self.kept:
            return
        contents = {}
        if numbers := self._routers_of(layer):
            contents[self._sums_path(layer)] = self._sums_blob(numbers)
        specs = [asdict(spec) for spec in self._stats.specs]
        progress = {"version": VERSION, "run": self.run, "done": self.done, "layers": self._count, "specs": specs}
        text = sealed_text(progress | {"facts": self._stats.facts()})
        write_aside(contents | {self.folder / PROGRESS: text.encode()})

    def finish(self) -> None:
        """The pair is written: remove what was kept."""
        self._finished = True
        if self.folder.exists():
            (self.folder / PROGRESS).unlink(missing_ok=True)  # first: without it nothing there is gone on with
            shutil.rmtree(self.folder)

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Say what ended the run, and where it can be gone on from; remove what nothing can be gone on from."""
        try:
            yield
        except BaseException as error:
            if not self.kept or not self.done:
                shutil.rmtree(self.folder, ignore_errors=True)
            else:
                reached = f"{self.done} of {self._count} layers"
                if isinstance(error, KeyboardInterrupt):
                    kept = f"they are in {self.folder}, and --resume continues from there."
                    raise stopped_with(error, f" after {reached}; {kept}") from error
                if not isinstance(error, DamagedError):
                    where = f"{self.folder}, and --resume continues from there"
                    error.add_note(f"The {reached} measured before are in {where}.")
            raise

    def _routers_of(self, layer: int) -> list[int]:
        return [number for number, spec in enumerate(self._stats.specs) if spec.layer == layer]

    def _sums_path(self, layer: int) -> Path:
        return self.folder / f"sums-{layer:04d}.safetensors"

    def _sums_blob(self, numbers: list[int]) -> bytes:
        from safetensors.numpy import save

        stats = self._stats
        tensors = {"rows": np.array([row for _, row in stats.clusters], dtype=np.int64)}
        for number in numbers:
            sums = stats.sums(number)
            tensors |= {f"{number}.{name}": np.ascontiguousarray(getattr(sums, name)) for name in FIELDS}
            tensors[f"{number}.pairs"] = stats.pairs(number)
            if number:
                tensors[f"{number}.moves"] = stats.transition_counts(number - 1)
        facts = {"run": self.run, "sources": sorted({sha for sha, _ in stats.clusters})}
        text = json.dumps(facts | {SEAL: sums_seal(facts, tensors)})
        blob: bytes = save(tensors, metadata={FORMAT: text})
        return blob

    def _restore(self, layer: int) -> None:
        """Add the sums of a layer that is done."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self._sums_path(layer)
        try:
            blob = read_bytes(path)
            facts: Json = strict_json(header_of(blob).metadata[FORMAT])
            tensors = load(blob)
            if facts.get(SEAL) != sums_seal(facts, tensors) or facts["run"] != self.run:
                raise ValueError("its seal does not fit")
            (sha,) = facts["sources"]
            clusters = [(sha, row) for row in tensors["rows"].tolist()]
            for number in self._routers_of(layer):
                spec = self._stats.specs[number]
                arrays = {name: tensors[f"{number}.{name}"] for name in FIELDS}
                sums = Sums(spec.n_experts, spec.top_k, spec.distribution, **arrays)
                self._stats.add_sums(number, clusters, sums, tensors[f"{number}.pairs"])
                if number:
                    self._stats.add_transition(number - 1, tensors[f"{number}.moves"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StatsError(f"Cannot go on from {path} ({error}); delete {self.folder} to start again.") from error
