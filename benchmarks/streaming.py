"""Streaming against a model in memory, and what reading the next layer ahead gives: seconds and peak memory.

python benchmarks/streaming.py [--rounds 5] [--model FOLDER] [--texts 8] [--length 128] [--quick] [--json PATH]

Every run is a process of its own, and arms take turns: the model in memory, streamed, and streamed without reading
ahead. What is timed is the whole of ``analyze``, loading included. "cold": before a run the system is told to forget
the pages of the model's files, so that every byte comes from the disk; "warm": they stay where the system has them.
FOLDER is a checkpoint that fits into memory, as scripts/make_big_checkpoint.py writes them; without it one of
`_models.SMALL`'s widths with 8 layers is written, 0.9 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from _bench import Results, arguments, in_turn, parsed, peak_mib, run_child
from _models import SMALL, TINY, write_checkpoint

import mlx_moebench

SHAPE = replace(SMALL, name="OLMoE-shaped, 8 layers", layers=8)
RESIDENT, STREAMED, UNREAD = "in memory", "streamed", "streamed, not read ahead"
STREAM = {RESIDENT: "off", STREAMED: "on", UNREAD: "on"}
STATES = {"cold": "cold files", "warm": "warm files"}


def measure_here(model: str, arm: str, texts: int, length: int) -> None:
    """One run in this process; says its seconds and its peak in MiB."""
    from mlx_moebench.models.prefetch import Prefetch  # brings MLX, whose import no arm's clock is to hold

    if arm == UNREAD:
        Prefetch.start = lambda self, layer: None  # type: ignore[method-assign]
    rows = [" ".join(str((row * 7919 + n * 31) % 9973) for n in range(length)) for row in range(texts)]
    start = time.perf_counter()
    mlx_moebench.analyze(model, {"numbers": rows}, max_length=length, stream=STREAM[arm])
    print("\n" + json.dumps([time.perf_counter() - start, peak_mib()]))


def forget_files(folder: Path) -> None:
    """Have the system drop the pages of all files in a folder."""
    for path in folder.iterdir():
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)  # only pages that are on the disk can be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def arm_of(model: Path, arm: str, state: str, options: list[str], peaks: list[float]) -> Callable[[], float]:
    """Seconds of one run in a process of its own; its peak is added to ``peaks``."""

    def once() -> float:
        if state == "cold":
            forget_files(model)
        said = run_child([__file__, "--measure", arm, "--model", str(model), *options])
        seconds, peak = json.loads(said.splitlines()[-1])
        peaks.append(peak)
        return float(seconds)

    return once


def of_state(results: Results, model: Path, state: str, rounds: int, options: list[str]) -> None:
    """Add the ratios of one state of the files."""
    peaks: dict[str, list[float]] = {arm: [] for arm in STREAM}
    arms = {arm: arm_of(model, arm, state, options, peaks[arm]) for arm in STREAM}
    times = in_turn(arms, rounds, STATES[state])
    for what, over in ((STREAMED, RESIDENT), (STREAMED, UNREAD)):
        results.ratio(f"{what}, {STATES[state]}", over, times[what], times[over])
    results.ratio(
        f"{STREAMED}, {STATES[state]}", RESIDENT, peaks[STREAMED][-rounds:], peaks[RESIDENT][-rounds:], "MiB, peak"
    )


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--model", type=Path, metavar="FOLDER")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--measure", choices=STREAM, help=argparse.SUPPRESS)
    args = parsed(parser)
    if args.measure:
        measure_here(str(args.model), args.measure, args.texts, args.length)
        return
    results = Results("streaming", args.quick)
    texts, length = (2, 16) if args.quick else (args.texts, args.length)
    with ExitStack() as stack:
        model, shape = args.model, TINY if args.quick else SHAPE
        if model is None:
            aside = stack.enter_context(tempfile.TemporaryDirectory())
            model = write_checkpoint(Path(aside) / "model", shape)
        states = [state for state in STATES if state == "warm" or hasattr(os, "posix_fadvise")]
        for state in states:
            of_state(results, model, state, args.rounds, ["--texts", str(texts), "--length", str(length)])
        size = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 1e9
        name = shape.name if args.model is None else args.model.name
    results.note(f"{name}, {size:.3g} GB of weights; {texts} texts of at most {length} tokens.")
    if "cold" not in states:
        results.note("This system cannot be told to forget files, so they were warm.")
    results.finish(args.json)


if __name__ == "__main__":
    main()
