"""Write a trace while a measurement runs, in step with the stats pair that is kept of it.

Full shards are written when they are full; what is in none yet goes into a shard of its own at every save of the pair.
A shard's name ends in a part of its hash, so that no file is ever changed, and trace.json, which names the shards that
count, is renamed after them and before the pair. Killed at any point, a run therefore leaves the whole of a trace that
holds what the pair holds, or more: `resume` cuts it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from ..data import Batch
from ..data.trace import (
    FORMAT,
    MANIFEST,
    TEXTS,
    VERSION,
    Shard,
    Trace,
    of_sequence,
    read_manifest,
    sequence_layout,
    token_layout,
    trace_bytes,
)
from ..errors import RoutingError, TraceError
from ..files import check_ours, is_ours, probe_folder, read_text, write_aside
from ..options import Saving
from ..pair.seal import sealed_text
from ..pair.stats import RoutingStats
from ..routing.merging import read_as
from ..routing.record import Phase
from ..routing.recorder import Recorder
from ..routing.tally import SCALARS
from ..routing.tokens import TokenBlock, ranked
from ..types import HostArray, Json

SHARD_BYTES = 64_000_000
"""Most bytes of the arrays of a shard, unless one batch alone has more."""

_OURS = re.compile(r"(prefill|decode)-\d{5}-[0-9a-f]{8}\.safetensors")


@dataclass
class _Phase:
    """One phase of a trace: the shards that are written, and the sequences that are in none yet."""

    shards: list[Json] = field(default_factory=list)
    waiting: list[Shard] = field(default_factory=list)
    blocks: list[TokenBlock] = field(default_factory=list)  # of the batch that runs

    @property
    def size(self) -> int:
        return sum(array.nbytes for shard in self.waiting for array in shard.arrays.values())


class TraceWriter:
    """The trace of one run. `record` takes what the routers say, `count` closes a batch, `contents` is what to save.

    The facts in trace.json are those of the ``stats`` given to `contents`.
    """

    def __init__(self, saving: Saving, phases: Sequence[Phase]) -> None:
        if saving.trace is None:
            raise TraceError("No folder for the trace is named.")
        self._folder, self.logits = Path(saving.trace), saving.trace_predictions
        self._phases = {phase: _Phase() for phase in phases}
        self._texts: dict[int, str] = {}
        self._tokenizer: Any = None

    def begin(self, tokenizer: Any) -> None:
        """The tokenizer gives the text of each token id."""
        self._tokenizer = tokenizer

    def record(self, block: TokenBlock) -> None:
        """What one router said of one forward pass of the batch that runs."""
        self._phases[block.phase].blocks.append(block)

    def count(self, batch: Batch, ids: HostArray, stats: Recorder, logits: Any) -> None:
        """The batch is over; see `Watch`. Writes shards that are full."""
        predicted = stats.host(array_namespace(logits).argmax(logits, axis=-1)) if self.logits else None
        for name, phase in self._phases.items():
            blocks, phase.blocks = phase.blocks, []
            shard = _join(batch, ids, predicted, blocks, stats)
            if phase.waiting and phase.size + sum(a.nbytes for a in shard.arrays.values()) > SHARD_BYTES:
                path, blob, entry = self._shard(name)
                write_aside({path: blob})
                phase.shards.append(entry)
                phase.waiting = []
            phase.waiting.append(shard)
            seen = [shard.arrays[key] for key in ("token.id", "token.predicted") if key in shard.arrays]
            for token in np.unique(np.concatenate(seen)).tolist():
                if token not in self._texts:
                    self._texts[token] = str(self._tokenizer.decode([token]))

    def contents(self, stats: RoutingStats) -> dict[Path, bytes]:
        """The files to write for what is counted so far, trace.json last; `tidy` when they are written."""
        ((sha, data),) = stats.sources.items()
        complete = all(part["batches_done"] == part["batches"] for part in data["parts"])
        files: dict[Path, bytes] = {}
        phases: Json = {}
        for name, phase in self._phases.items():
            entries = list(phase.shards)
            if phase.waiting:
                path, blob, entry = self._shard(name)
                files[path] = blob
                entries.append(entry)
            counted = {key: sum(e[key] for e in entries) for key in ("n_sequences", "n_tokens")}
            phases[name] = {**counted, "shards": entries}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "complete": complete,
            "model": stats.model,
            "data": {"sha256": sha, **data},
            "environment": stats.environment,
            "tau": stats.tau,
            "collapse_on": stats.collapse_on,
            "predictions": self.logits,
            "scalars": list(SCALARS),
            "routers": [asdict(spec) for spec in stats.specs],
            "phases": phases,
        }
        texts = {str(token): self._texts[token] for token in sorted(self._texts)}
        files[self._folder / TEXTS] = json.dumps(texts, ensure_ascii=False, indent=0).encode()
        files[self._folder / MANIFEST] = sealed_text(manifest).encode()
        return files

    def tidy(self) -> None:
        """Remove the shards that trace.json, just written, does not name, and what a kill left half written."""
        manifest = read_manifest(self._folder)
        named = {entry["file"] for phase in manifest["phases"].values() for entry in phase["shards"]}
        for path in self._folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in named:
                with contextlib.suppress(OSError):
                    path.unlink()

    def resume(self, sequences: int, stats: RoutingStats) -> None:
        """Take over the trace in the folder up to its first ``sequences`` sequences, those of the kept pair.

        Raises `TraceError` when it holds fewer, is damaged, or is the trace of another measurement.
        """
        if not (self._folder / MANIFEST).exists():
            raise TraceError(
                f"Cannot resume with a trace: {sequences} sequences were measured without one in {self._folder}; "
                "leave out --trace, or delete the stats pair to start again."
            )
        trace = Trace(self._folder)
        self._check_same(trace, stats)
        for name, phase in self._phases.items():
            have = 0
            for entry in trace.entries(name):
                shard = trace.read(entry)
                if have + shard.n_sequences >= sequences:
                    phase.waiting = [shard.first(sequences - have)]
                    have = sequences
                    break
                have += shard.n_sequences
                phase.shards.append(entry)
            if have < sequences:
                raise TraceError(
                    f"Cannot resume the trace in {self._folder}: it holds {have} sequences where the stats pair holds "
                    f"{sequences}; delete both to start again."
                )
        self._texts = trace.texts()

    def check_replaceable(self, stats: RoutingStats) -> None:
        """Raise `TraceError` when an unfinished trace in the folder is not one of this very measurement."""
        if (self._folder / MANIFEST).exists() and not (trace := Trace(self._folder)).complete:
            self._check_same(trace, stats)

    def _check_same(self, trace: Trace, stats: RoutingStats) -> None:
        ((sha, data),) = stats.sources.items()
        theirs = trace.manifest["data"]
        compared = (
            ("model", trace.manifest["model"], stats.model),
            ("data set", theirs["sha256"], sha),
            *((key, read_as(theirs, key), read_as(data, key)) for key in ("max_length", "unit", "long")),
            ("list of routers", trace.specs, stats.specs),
            ("phases", list(trace.phases), list(self._phases)),
            ("--trace-predictions", trace.predictions, self.logits),
            ("version", trace.scalars, list(SCALARS)),
        )
        for what, x, y in compared:
            if x != y:
                raise TraceError(
                    f"Cannot resume the trace in {self._folder}: its {what} differs from this run's; name the folder "
                    "that the run started with, or delete it and the stats pair to start again."
                )

    def _shard(self, name: Phase) -> tuple[Path, bytes, Json]:
        """Path, bytes and entry of the shard of all that waits."""
        from safetensors.numpy import save

        phase = self._phases[name]
        arrays = {key: np.concatenate([s.arrays[key] for s in phase.waiting]) for key in phase.waiting[0].arrays}
        shard = Shard(arrays)
        phase.waiting = [shard]
        blob = save(arrays, metadata={FORMAT: json.dumps({"version": VERSION, "phase": name})})
        sha256 = hashlib.sha256(blob).hexdigest()
        file = f"{name}-{len(phase.shards):05d}-{sha256[:8]}.safetensors"
        entry = {
            "file": file,
            "sha256": sha256,
            "n_sequences": shard.n_sequences,
            "n_tokens": int(shard.lengths.sum()),
            "array_bytes": sum(array.nbytes for array in arrays.values()),
        }
        return self._folder / file, blob, entry


def manifest_path(folder: Path) -> Path:
    """Where trace.json lies; raises `TraceError` where there can be none."""
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"Cannot write a trace to {folder}: it is a file; name a folder.")
    return folder / MANIFEST


def check_trace_folder(folder: Path, resume: bool) -> None:
    """Raise `TraceError` unless a trace can be written there: a new folder, an empty one, or one with a finished trace.

    resume: an unfinished trace is what is gone on with, and no error.
    """
    probe_folder(manifest_path(folder))
    if not folder.exists():
        return
    others = [p.name for p in folder.iterdir() if not (p.name.startswith(".") or _OURS.fullmatch(p.name))]
    if strange := sorted({*others} - {MANIFEST, TEXTS}):
        raise TraceError(f"{folder} holds other files ({strange[0]}): name a new folder for the trace.")
    check_ours(folder / TEXTS, "list of a trace's tokens", lambda: _is_texts(folder / TEXTS))
    check_ours(folder / MANIFEST, "trace", lambda: is_ours(folder / MANIFEST, ("format", "phases", "routers")))
    if MANIFEST in others and not resume and not read_manifest(folder).get("complete"):
        raise TraceError(
            f"{folder} holds the trace of a run that did not finish: continue with --resume, or delete it to start "
            "again."
        )


def _is_texts(path: Path) -> bool:
    """Whether a file is the {id: text} of a trace; a run that was killed may have left it alone."""
    try:
        texts = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(texts, dict) and all(key.isdecimal() and isinstance(text, str) for key, text in texts.items())


def budget(stats: RoutingStats, saving: Saving, tokens: int, sequences: int, generate: int) -> str:
    """One line that says what the trace will take; raises `TraceError` when that is more than the limit.

    tokens, sequences: to be measured. generate: tokens made after each sequence, at most; 0 without.
    """
    size = trace_bytes(stats.specs, tokens, sequences, saving.trace_predictions)
    if generate:
        size += trace_bytes(stats.specs, generate * sequences, sequences)
    ks = sorted({spec.top_k for spec in stats.specs})
    more = f" + at most {generate * sequences:,} generated" if generate else ""
    what = f"{tokens:,} tokens{more} x {len(stats.specs)} routers x {' or '.join(map(str, ks))}: "
    what += f"{'at most ' if generate else ''}{format_bytes(size)}"
    if size > saving.trace_limit:
        raise TraceError(
            f"The trace would take more than the limit of {format_bytes(saving.trace_limit)} ({what}): raise "
            "--trace-limit, or take fewer or shorter documents."
        )
    return f"trace: {what}"


def format_bytes(size: int) -> str:
    """``0.4 MB``: decimal units, as disks are sold."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= power / 10:
            return f"{size / power:.1f} {unit}"
    return f"{size} B"


def _join(batch: Batch, ids: HostArray, predicted: Any, blocks: list[TokenBlock], stats: Recorder) -> Shard:
    """The tokens of one batch in one phase, whatever pieces they were run in, row by row."""
    by_router = _by_router(blocks, len(stats.specs))
    rows = len(batch.rows)
    mask = np.concatenate([b.mask for b in by_router[0]], axis=1)
    columns = [np.arange(b.start, b.start + b.mask.shape[1]) for b in by_router[0]]
    position = np.broadcast_to(np.concatenate(columns), mask.shape)
    lengths = mask.sum(axis=1)
    row = np.repeat(np.arange(rows), lengths)
    arrays: dict[str, HostArray] = {
        "token.id": ids[row, position[mask]],
        "sequence.row": np.array(batch.rows),
        "sequence.window": np.array(batch.windows),
        "sequence.start": _starts(position, mask),
        "sequence.n_tokens": lengths,
    }
    if predicted is not None:
        arrays["token.predicted"] = predicted[row, position[mask]]
    for spec, pieces in zip(stats.specs, by_router, strict=True):
        arrays |= {f"{spec.name}.{key}": array for key, array in _router(pieces).items()}
    layout = token_layout(stats.specs, predicted is not None) | sequence_layout(stats.specs)
    shard = Shard({name: np.ascontiguousarray(arrays[name], dtype) for name, (dtype, _) in layout.items()})
    if any(len(a) != (rows if of_sequence(name) else len(row)) for name, a in shard.arrays.items()):
        raise RoutingError("The routers of this model saw different tokens of one batch, which cannot be traced.")
    return shard


def _by_router(blocks: list[TokenBlock], routers: int) -> list[list[TokenBlock]]:
    by_router: list[list[TokenBlock]] = [[] for _ in range(routers)]
    for block in blocks:
        by_router[block.number].append(block)
    if not all(by_router):
        raise RoutingError("A forward pass did not reach every router, so its tokens cannot be traced.")
    return by_router


def _starts(position: HostArray, mask: HostArray) -> HostArray:
    """[B] position of the first token of each row, 0 for a row without any."""
    return np.array([p[m][0] if m.any() else 0 for p, m in zip(position, mask, strict=True)])


def _router(pieces: list[TokenBlock]) -> dict[str, HostArray]:
    """What is kept of one router's pieces of a batch: of each token in row order, and summed over each row."""
    mask = np.concatenate([b.mask for b in pieces], axis=1)
    experts, p, weights = (
        np.concatenate([getattr(b, name) for b in pieces], axis=1)[mask] for name in ("experts", "p", "weights")
    )
    experts, weights = ranked(experts, p, weights)
    scalars = {key: np.concatenate([b.scalars[key] for b in pieces], axis=1)[mask] for key in pieces[0].scalars}
    # In the order in which the statistics add them, so that the sums of a trace are the run's.
    sums = {key: sum(getattr(b.sums, key).astype(np.float64) for b in pieces) for key in ("p_sum", "scalars")}
    return {"experts": experts, "weights": weights, **scalars, **sums}
