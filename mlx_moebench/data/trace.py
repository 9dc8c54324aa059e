"""Traces: which experts every single token used, as safetensors shards in a folder, and statistics made from them.

docs/traces.md describes the format. Needs no MLX.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import StatsError, TraceError
from ..files import read_bytes, read_text
from ..options import Plan
from ..pair.format import checked
from ..pair.invariants import check_specs, check_sums, expect
from ..pair.seal import check_json_seal, strict_json
from ..pair.stats import RoutingStats
from ..pair.storage import check_writable, decode_output, pair_paths, save_pairs, spec_of_json
from ..routing.record import Phase, RouterSpec
from ..routing.repeats import text_hash
from ..routing.sums import FIELDS, Sums
from ..routing.tally import SCALARS
from ..routing.tokens import TOKEN_SCALARS
from ..types import HostArray, Json

FORMAT = "mlx_moebench.trace"
VERSION = 1
MANIFEST = "trace.json"
TEXTS = "tokens.json"

LARGEST = float(np.finfo(np.float16).max)
"""Of a token's entropy and margin; the view of tokens has them as float16."""

_NEVER_NEGATIVE = ("sequence.row", "sequence.window", "sequence.start")

Layout = dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]
"""Arrays by name: dtype, and shape behind the first axis."""


def token_layout(specs: Sequence[RouterSpec], predictions: bool = False) -> Layout:
    """What a shard holds of every token."""
    layout: Layout = {"token.id": (np.dtype(np.int32), ())}
    if predictions:
        layout["token.predicted"] = (np.dtype(np.int32), ())
    for spec in specs:
        small = np.uint8 if spec.n_experts <= 256 else np.uint16
        layout[f"{spec.name}.experts"] = (np.dtype(small), (spec.top_k,))
        layout[f"{spec.name}.weights"] = (np.dtype(np.float16), (spec.top_k,))
        layout |= {f"{spec.name}.{name}": (np.dtype(np.float32), ()) for name in TOKEN_SCALARS}
    return layout


def sequence_layout(specs: Sequence[RouterSpec], scalars: int = len(SCALARS)) -> Layout:
    """What a shard holds of every sequence: where its tokens stand, and the sums that tokens do not give back.

    scalars: how many sums of a token's numbers it has; those of an earlier version lack the later ones.
    """
    layout: Layout = {
        "sequence.row": (np.dtype(np.int64), ()),
        "sequence.window": (np.dtype(np.int32), ()),
        "sequence.start": (np.dtype(np.int32), ()),
        "sequence.n_tokens": (np.dtype(np.int32), ()),
    }
    for spec in specs:
        layout[f"{spec.name}.p_sum"] = (np.dtype(np.float64), (spec.n_experts,))
        layout[f"{spec.name}.scalars"] = (np.dtype(np.float64), (scalars,))
    return layout


def trace_bytes(specs: Sequence[RouterSpec], tokens: int, sequences: int, predictions: bool = False) -> int:
    """Bytes of all arrays of a trace; each shard adds a header of some kilobytes."""

    def row(layout: Layout) -> int:
        return sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in layout.values())

    return tokens * row(token_layout(specs, predictions)) + sequences * row(sequence_layout(specs))


@dataclass(frozen=True)
class Shard:
    """A stretch of whole sequences of one phase. arrays: by the names of `token_layout` and `sequence_layout`."""

    arrays: dict[str, HostArray]

    @property
    def n_sequences(self) -> int:
        """Sequences in it."""
        return len(self.arrays["sequence.row"])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sequence."""
        return self.arrays["sequence.n_tokens"].astype(np.int64)

    @property
    def sequence(self) -> npt.NDArray[np.int64]:
        """[T] the sequence of each token, counted from 0 inside the shard."""
        return np.repeat(np.arange(self.n_sequences), self.lengths)

    @property
    def position(self) -> npt.NDArray[np.int64]:
        """[T] the position of each token in its sequence, prompt included."""
        before = np.cumsum(self.lengths) - self.lengths
        inside = np.arange(len(self.sequence)) - np.repeat(before, self.lengths)
        return inside + np.repeat(self.arrays["sequence.start"].astype(np.int64), self.lengths)

    def first(self, sequences: int) -> Shard:
        """Its first so many sequences."""
        tokens = int(self.lengths[:sequences].sum())
        return Shard({k: a[: sequences if of_sequence(k) else tokens] for k, a in self.arrays.items()})


def of_sequence(name: str) -> bool:
    """Whether the array of that name has one entry for each sequence, rather than for each token."""
    return name.startswith("sequence.") or name.endswith((".p_sum", ".scalars"))


class Trace:
    """A trace on disk. manifest: the facts in trace.json; specs: its routers, in running order."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.specs = tuple(spec_of_json(router) for router in self.manifest["routers"])
        self.phases: tuple[Phase, ...] = tuple(self.manifest["phases"])
        self.predictions: bool = self.manifest["predictions"]
        self.complete: bool = self.manifest["complete"]
        self.scalars: list[str] = self.manifest["scalars"]
        try:
            check_specs(self.specs)
            expect(set(self.scalars) <= set(SCALARS), "it has scalars that are not known")
            expect(len(set(self.scalars)) == len(self.scalars), "it has a scalar twice")
        except StatsError as error:
            raise _damaged(self.folder / MANIFEST, str(error)) from error

    def shards(self, phase: Phase = "prefill") -> Iterator[Shard]:
        """Its shards of one phase in order, each read when it is reached and checked against its sha256."""
        for entry in self.entries(phase):
            yield self.read(entry)

    def entries(self, phase: Phase) -> list[Json]:
        """What the manifest says of the shards of one phase; raises `TraceError` for one that was not traced."""
        if phase not in self.phases:
            raise TraceError(f"The trace in {self.folder} has no phase {phase!r}, only {', '.join(self.phases)}.")
        entries: list[Json] = self.manifest["phases"][phase]["shards"]
        return entries

    def read(self, entry: Json) -> Shard:
        """One shard; raises `TraceError` when it is missing, not the one that was written, or not of these routers."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.folder / str(entry["file"])
        try:
            blob = read_bytes(path)
        except OSError as error:
            raise TraceError(
                f"The trace in {self.folder} lacks its shard {path.name} ({error.strerror}): copy the whole folder, or "
                "make the trace again."
            ) from error
        if hashlib.sha256(blob).hexdigest() != entry["sha256"]:
            raise TraceError(
                f"{path} is not the shard that trace.json lists (its sha256 differs): make the trace again."
            )
        try:
            arrays = load(blob)
        except (SafetensorError, ValueError) as error:
            raise TraceError(f"{path} is not safetensors ({error}): make the trace again.") from error
        tokens, sequences = entry["n_tokens"], entry["n_sequences"]
        for layout, length in (
            (token_layout(self.specs, self.predictions), tokens),
            (sequence_layout(self.specs, len(self.scalars)), sequences),
        ):
            for name, (dtype, shape) in layout.items():
                array = arrays.get(name)
                if array is None or array.dtype != dtype or array.shape != (length, *shape):
                    raise TraceError(f"{path} does not hold {name} as trace.json describes it: make the trace again.")
        lengths = arrays["sequence.n_tokens"].astype(np.int64)
        if (lengths < 0).any() or lengths.sum() != tokens or any((arrays[name] < 0).any() for name in _NEVER_NEGATIVE):
            raise TraceError(f"{path} has sequences that its {tokens} tokens do not make: make the trace again.")
        for spec in self.specs:
            for name in TOKEN_SCALARS:
                if (np.abs(arrays[f"{spec.name}.{name}"]) > LARGEST).any():
                    raise TraceError(f"{path} has a {spec.name}.{name} that no router gives: make the trace again.")
        return Shard(arrays)

    def texts(self) -> dict[int, str]:
        """The text of each token id that occurs; raises `TraceError` when the file of them is missing or damaged."""
        path = self.folder / TEXTS
        try:
            return {int(key): str(text) for key, text in json.loads(read_text(path)).items()}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise TraceError(f"Cannot read {path}, the text of the tokens ({error}): make the trace again.") from error


def read_manifest(folder: Path) -> Json:
    """What trace.json says; raises `TraceError` when there is none, or none that this version reads."""
    path = folder / MANIFEST
    try:
        manifest = strict_json(read_text(path))
    except OSError as error:
        raise TraceError(
            f"No trace in {folder} ({MANIFEST}: {error.strerror}): name the folder that analyze --trace wrote."
        ) from error
    except ValueError as error:
        raise TraceError(f"{path} is not JSON ({error}): make the trace again.") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise TraceError(f"{path} is JSON, but not of a routing trace: name the folder that analyze --trace wrote.")
    if manifest.get("version") != VERSION:
        raise TraceError(f"{path} is a trace of version {manifest.get('version')}, this reads version {VERSION}.")
    try:
        check_json_seal(manifest, str(path))
    except StatsError as error:
        raise TraceError(f"{error} Make the trace again.") from None
    try:
        checked("trace", manifest)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    return manifest


def _damaged(path: Path, why: str) -> TraceError:
    return TraceError(f"{path} is damaged or from another version ({why}): make the trace again.")


def read_trace(path: str | Path, phase: Phase = "prefill") -> RoutingStats:
    """The statistics of the run that wrote a trace, of one phase.

    Counted again from the tokens: n_tokens, selections, first choices, adjacent overlap, co-activation and transitions.
    Taken from the sums that each sequence carries, since a token's chosen experts do not give them back: p summed over
    all experts, entropies, margins, router z. Both are exact: the result equals the run's sums bit by bit (to 1e-15
    relative where several windows of one document were generated from).

    Raises `TraceError` for a folder that is not a whole trace, and where tokens and sums contradict each other.
    """
    trace = Trace(path)
    facts = trace.manifest
    sha = facts["data"]["sha256"]
    sources = {sha: {key: value for key, value in facts["data"].items() if key != "sha256"}}
    stats = RoutingStats(
        trace.specs,
        phase=phase,
        tau=facts["tau"],
        collapse_on=facts["collapse_on"],
        model=facts["model"],
        sources=sources,
        environment=facts["environment"],
    )
    prompts = _Prompts()
    if phase != "prefill":
        for shard in trace.shards():
            prompts.add(shard)
    for shard in trace.shards(phase):
        if phase == "prefill":
            prompts.add(shard)
        _add_shard(stats, trace, shard, sha)
    stats.texts = {(sha, row): text for row, text in prompts.hashes().items()}
    stats.check()
    return stats


def _add_shard(stats: RoutingStats, trace: Trace, shard: Shard, sha: str) -> None:
    """Count the tokens of a shard, for every router, and the transitions between them."""
    clusters = [(sha, int(row)) for row in shard.arrays["sequence.row"]]
    before: HostArray | None = None
    for number, spec in enumerate(trace.specs):
        experts = shard.arrays[f"{spec.name}.experts"].astype(np.int64)
        if experts.max(initial=0) >= spec.n_experts:
            raise TraceError(
                f"The trace in {trace.folder} names expert {experts.max()} of {spec.n_experts}: it is damaged."
            )
        sums = _sums(spec, shard, experts, trace.scalars)
        if not _agree(spec, shard, sums, trace.scalars):
            raise TraceError(
                f"The tokens and the sums of {spec.name} in {trace.folder} contradict each other: make it again."
            )
        pairs = pair_counts(experts, experts, spec, spec)
        try:
            check_sums(spec, sums, pairs, len(clusters))
        except StatsError as error:
            raise TraceError(f"The trace in {trace.folder} is damaged ({error}): make it again.") from error
        stats.add_sums(number, clusters, sums, pairs)
        if before is not None:
            stats.add_transition(number - 1, pair_counts(before, experts, trace.specs[number - 1], spec))
        before = experts


class _Prompts:
    """The token ids of prompts, by row and window, from shards of the phase prefill."""

    def __init__(self) -> None:
        self._windows: dict[int, dict[int, HostArray]] = {}

    def add(self, shard: Shard) -> None:
        rows, windows = (shard.arrays[f"sequence.{name}"].tolist() for name in ("row", "window"))
        parts = np.split(shard.arrays["token.id"], np.cumsum(shard.lengths)[:-1])
        for row, window, ids in zip(rows, windows, parts, strict=True):
            self._windows.setdefault(row, {})[window] = ids

    def hashes(self) -> dict[int, int]:
        """`text_hash` of each row."""
        return {row: text_hash(parts[window] for window in sorted(parts)) for row, parts in self._windows.items()}


def import_trace(path: str | Path, output: str | Path, plan: Plan | None = None) -> list[Path]:
    """Write the stats pair of a trace at ``output``, and that of its generated tokens at `decode_output`.

    Returns the reports written. Raises `TraceError` for a bad trace, `StatsError` for an output that cannot be written.
    """
    trace = Trace(path)
    if not any(entry["n_tokens"] for phase in trace.phases for entry in trace.entries(phase)):
        raise TraceError(f"The trace in {path} holds no token: let the run that makes it measure some first.")
    outputs: dict[Phase, Path] = {
        phase: decode_output(output) if phase == "decode" else Path(output) for phase in trace.phases
    }
    for target in outputs.values():
        check_writable(target)
    save_pairs([(read_trace(path, phase), target) for phase, target in outputs.items()], plan)
    return [pair_paths(target)[0] for target in outputs.values()]


def _sums(spec: RouterSpec, shard: Shard, experts: npt.NDArray[np.int64], names: Sequence[str]) -> Sums:
    """Of each sequence of a shard, integers counted from its tokens and the rest as stored."""
    rows, sequence, r = shard.n_sequences, shard.sequence, spec.n_experts
    counts = np.bincount((sequence[:, None] * r + experts).ravel(), minlength=rows * r).reshape(rows, r)
    top1 = np.bincount(sequence * r + experts[:, 0], minlength=rows * r).reshape(rows, r)
    scalars = np.full((rows, len(SCALARS)), np.nan)
    scalars[:, [SCALARS.index(name) for name in names]] = shard.arrays[f"{spec.name}.scalars"]
    tied = shard.arrays[f"{spec.name}.selection_margin"] == 0
    scalars[:, SCALARS.index("tied")] = np.bincount(sequence, weights=tied, minlength=rows)
    adjacent = sequence[1:] == sequence[:-1]
    shared = (experts[1:, :, None] == experts[:-1, None, :]).sum(axis=(1, 2))
    for name, per_token in (("adjacent_shared", shared * adjacent), ("adjacent_pairs", adjacent)):
        scalars[:, SCALARS.index(name)] = np.bincount(sequence[1:], weights=per_token, minlength=rows)
    arrays = (shard.lengths, counts, top1, shard.arrays[f"{spec.name}.p_sum"], scalars)
    return Sums(r, spec.top_k, spec.distribution, **dict(zip(FIELDS, arrays, strict=True)))


def _agree(spec: RouterSpec, shard: Shard, sums: Sums, names: Sequence[str]) -> bool:
    """Whether the tokens' float32 numbers add up to the stored sums, and what is counted to what was counted then."""
    stored = shard.arrays[f"{spec.name}.scalars"]
    added = sums.scalars.copy()
    for name in TOKEN_SCALARS:
        tokens = shard.arrays[f"{spec.name}.{name}"].astype(np.float64)
        added[:, SCALARS.index(name)] = np.bincount(shard.sequence, weights=tokens, minlength=shard.n_sequences)
    added = added[:, [SCALARS.index(name) for name in names]]
    return np.allclose(added, stored, rtol=1e-4, atol=1e-4, equal_nan=True)


def pair_counts(
    first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], a: RouterSpec, b: RouterSpec
) -> npt.NDArray[np.int64]:
    """[R1, R2] tokens that chose i in ``first`` [T, K1] and j in ``second`` [T, K2]."""
    size = a.n_experts * b.n_experts
    total = np.zeros(size, dtype=np.int64)
    for i in range(a.top_k):
        for j in range(b.top_k):
            total += np.bincount(first[:, i] * b.n_experts + second[:, j], minlength=size)
    return total.reshape(a.n_experts, b.n_experts)
