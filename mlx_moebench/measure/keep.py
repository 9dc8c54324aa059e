"""Runs that cannot be lost: the stats pair of a running measurement, kept on disk, and going on from one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from ..data import Batch
from ..errors import MoebenchError, RoutingError, StatsError
from ..files import write_aside
from ..options import Plan, Saving
from ..pair.stats import RoutingStats
from ..pair.storage import check_writable, decode_output, pair_contents, pair_paths
from ..routing.merging import read_as
from ..signals import check, stopped_with
from ..types import Json
from .trace import TraceWriter, check_trace_folder, manifest_path

MIN_SECONDS = 2.0
"""Least time between two saves."""

SHARE = 20
"""The time between two saves is this many times what the last one took: saving takes at most a 21st of a run."""

RESAMPLES = 200
"""Bootstrap resamples for the report of an unfinished run, at most."""


@dataclass(frozen=True)
class Done:
    """What is measured so far. Replaced as a whole, so that no interruption leaves a half of it."""

    batches: int = 0
    sequences: int = 0
    truncated: int = 0
    tokens: int = 0

    def after(self, batch: Batch) -> Done:
        """With one more batch."""
        return Done(
            self.batches + 1,
            self.sequences + len(batch.rows),
            self.truncated + batch.truncated,
            self.tokens + int(batch.mask.sum()),
        )


PROGRESS = "progress.json"
"""In the folder of a streamed run: how far it is."""


def work_folder(output: str | Path) -> Path:
    """Where a streamed run keeps what it has done until its pair ``output`` is written: OUT.stream for OUT.json."""
    report_path, _ = pair_paths(Path(output))
    return report_path.with_suffix(".stream")


def is_streamed(output: str | Path) -> bool:
    """Whether a streamed run for this output ended before its pair was written."""
    return (work_folder(output) / PROGRESS).exists()


def unfinished(output: Path) -> tuple[int, int] | None:
    """(sequences measured, of how many) of the pair of a run that did not finish; None where there is none."""
    if not pair_paths(output)[1].exists():
        return None
    parts = [part for facts in RoutingStats.load(output).sources.values() for part in facts.get("parts", ())]
    left = [part for part in parts if part["sequences_done"] < part["sequences"]]
    return (left[0]["sequences_done"], left[0]["sequences"]) if left else None


def check_replaceable(output: Path) -> None:
    """Raise `StatsError` if ``output`` is that of a run that did not finish: it is there to be resumed."""
    if is_streamed(output):
        folder = work_folder(output)
        raise StatsError(
            f"{folder} holds the layers of a run that did not finish: continue with --resume, or delete it to start "
            "again."
        )
    if (reached := unfinished(output)) is not None:
        raise StatsError(
            f"{pair_paths(output)[0]} holds {reached[0]} of {reached[1]} sequences of a run "
            "that did not finish: continue with --resume, or delete it to start again."
        )


def outputs_of(whole: str | Path | None, saving: Saving, writes: bool) -> list[Path]:
    """What a process writes while it measures: the whole, its own part of it, the trace."""
    pairs = [one for one in (whole, saving.output if writes else None) if one is not None]
    traces = [] if saving.trace is None else [manifest_path(Path(saving.trace))]
    return [*traces, *(path for pair in pairs for path in pair_paths(Path(pair)))]


def check_saving(saving: Saving, generates: bool, writes: bool) -> None:
    """Raise where what is there may not be replaced; asked when no other process can change it any more."""
    if saving.trace is not None:
        check_trace_folder(Path(saving.trace), saving.resume)
    if saving.output is not None and writes:
        output = Path(saving.output)
        for pair in [output, decode_output(output)] if generates else [output]:
            check_writable(pair)


class Keeper:
    """Saves the pair of ``stats`` at ``output`` while its batches are measured, and whatever ends the measurement.

    stats: of one source with one part. output: None keeps nothing. plan: of the finished report; an unfinished one
    has `RESAMPLES` at most. decode: the tokens generated after the prompts of ``stats``, if any; their pair lies at
    `decode_output`. trace: saved before the pair, so that it never holds less; needs an output. A context manager: on
    an error it saves what is measured, if all routers agree on it (the pair saved last stands otherwise), and adds to
    the error where that is. writes: whether this process is the one that does; the others only go on from the output.
    """

    def __init__(
        self,
        stats: RoutingStats,
        output: Path | None,
        plan: Plan | None = None,
        decode: RoutingStats | None = None,
        trace: TraceWriter | None = None,
        *,
        writes: bool = True,
    ) -> None:
        self._writes = writes
        self._stats, self._output, self._plan, self._decode = stats, output, plan or Plan(), decode
        self._trace = trace
        ((_, self._facts),) = stats.sources.items()
        (self._part,) = self._facts["parts"]
        self._done = Done()
        self._saved: Done | None = None
        self._due = 0.0
        self.reports: list[Json] = []
        """Those that were saved last, one for each phase."""

    @property
    def sequences(self) -> int:
        """Sequences measured so far."""
        return self._done.sequences

    def resume(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Take over the pair at the output, if there is one; returns the batches that are not in it.

        Raises `StatsError` that names the first difference when the pair is of another measurement.
        """
        if self._output is None or not any(path.exists() for path in pair_paths(self._output)):
            if self._trace is not None:
                self._trace.check_replaceable(self._stats)
            return batches
        before = RoutingStats.load(self._output)
        path = pair_paths(self._output)[0]
        check_same(self._stats, before, path)
        ((_, facts),) = before.sources.items()
        (part,) = facts["parts"]
        passed = Done()
        for batch in islice(batches, part["batches_done"]):
            passed = passed.after(batch)
        done = Done(part["batches_done"], part["sequences_done"], facts["truncated_sequences"], before.n_tokens)
        if passed != done:
            raise StatsError(
                f"Cannot resume {path}: its first {done.batches} batches had {done.tokens} tokens, this run's have "
                f"{passed.tokens}; the tokenizer changed, so leave out --resume to start again."
            )
        if self._decode is not None:
            generated = RoutingStats.load(decode_output(self._output))
            check_same(self._decode, generated, decode_output(self._output))
            if next(iter(generated.sources.values()))["parts"][0]["batches_done"] != part["batches_done"]:
                raise StatsError(
                    f"Cannot resume {path}: the run was killed between saving it and {decode_output(path).name}; leave "
                    "out --resume to start again."
                )
            self._decode.include(generated)
        if self._trace is not None:
            self._trace.resume(done.sequences, self._stats)
        self._stats.include(before)
        self._done = self._saved = done
        if done.batches == part["batches"]:  # nothing is left to measure here
            self._stats.environment = before.environment
        return batches

    def count(self, batch: Batch) -> None:
        """One more batch is measured; save if it is time."""
        self._done = self._done.after(batch)
        check()
        if self._output is not None and time.monotonic() >= self._due:
            self._save(replace(self._plan, resamples=min(RESAMPLES, self._plan.resamples)))

    def count_all(self, batches: Iterator[Batch]) -> None:
        """All batches are measured, layer by layer."""
        for batch in batches:
            self._done = self._done.after(batch)

    def finish(self) -> None:
        """Save the finished measurement; without an output its facts still say that it is."""
        self._save(self._plan)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or self._output is None:
            return
        if self._done != self._saved:
            with contextlib.suppress(MoebenchError):  # the error at hand is the one to report
                self._save(replace(self._plan, resamples=min(RESAMPLES, self._plan.resamples)))
        if self._saved is None:
            return
        reached = f"{self._saved.sequences} of {self._part['sequences']} sequences"
        where = pair_paths(self._output)[0]
        if isinstance(error, KeyboardInterrupt):
            kept = f"they are in {where}, and --resume continues from there."
            raise stopped_with(error, f" after {reached}; {kept}") from error
        error.add_note(f"The {reached} measured before are in {where}.")

    def _save(self, plan: Plan) -> None:
        """Raises `RoutingError` when an interruption left a batch in part of the sums, and writes nothing then."""
        done = self._done
        if not done.batches:
            return
        began = time.monotonic()
        if self._stats.n_tokens != done.tokens:
            raise RoutingError(f"{self._stats.n_tokens} tokens were counted where {done.tokens} were measured.")
        self._part |= {"batches_done": done.batches, "sequences_done": done.sequences}
        for stats in (self._stats, self._decode):
            if stats is not None:
                next(iter(stats.sources.values()))["truncated_sequences"] = done.truncated
        if self._output is not None and self._writes:
            contents = {} if self._trace is None else self._trace.contents(self._stats)
            pairs = [(self._stats, self._output)]
            pairs += [] if self._decode is None else [(self._decode, decode_output(self._output))]
            self.reports = []
            for stats, path in pairs:
                files, report = pair_contents(stats, path, plan)
                contents |= files
                self.reports.append(report)
            write_aside(contents)  # together: a kill finds both phases before this batch, or both after it
            if self._trace is not None:
                self._trace.tidy()
        self._saved = done
        now = time.monotonic()
        self._due = now + max(MIN_SECONDS, SHARE * (now - began))


def check_same(run: RoutingStats, before: RoutingStats, path: Path) -> None:
    """Raise `StatsError` with the first difference between a run that starts and the pair it wants to go on from."""
    if len(before.sources) != 1 or len(next(iter(before.sources.values())).get("parts", ())) != 1:
        raise StatsError(f"Cannot resume {path}: it is not the pair of one run of analyze, but merged or watched live.")
    for what, x, y in _compared(run, before):
        if x != y:
            raise StatsError(
                f"Cannot resume {path}: its {what.replace('_', ' ')} is {_brief(x)}, this run's is {_brief(y)}; "
                "repeat its options, or leave out --resume to start again."
            )


def _compared(run: RoutingStats, before: RoutingStats) -> Iterator[tuple[str, Any, Any]]:
    """(what, there, here) of all that decides which numbers a batch gives, what a user chose before what follows."""
    for key in dict.fromkeys((*before.model, *run.model)):
        yield f"model's {key}", before.model.get(key), run.model.get(key)
    for key in ("device", "blas", "experts", "mlx", "torch", "transformers"):  # another arithmetic rounds otherwise
        yield key, before.environment.get(key), run.environment.get(key)
    ((sha, facts),) = run.sources.items()
    ((sha_before, facts_before),) = before.sources.items()
    if sha != sha_before:
        yield "data set", f"{facts_before['name']} (sha256 {sha_before[:12]})", f"{facts['name']} (sha256 {sha[:12]})"
    (part,), (part_before,) = facts["parts"], facts_before["parts"]
    x, y = facts_before | part_before, facts | part
    chosen = ("generation", "max_length", "unit", "long", "max_samples", "batch_size", "shard", "field")
    progress = ("name", "format", "parts", "truncated_sequences", "sequences_done", "batches_done")
    for key in dict.fromkeys((*chosen, *x, *y)):
        if key not in progress:
            yield "text field" if key == "field" else key, read_as(x, key), read_as(y, key)
    yield "list of routers", before.specs, run.specs
    yield "phase", before.phase, run.phase


def _brief(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
