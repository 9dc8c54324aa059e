"""How many inputs are tried, and what none of them may do: hang, take a gigabyte, or end in an unforeseen error.

By default some 25 inputs a class of readers, always the same; `-m nightly` tries 10,000, or
MOEBENCH_FUZZ_INPUTS of them.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import HypothesisWarning
from hypothesis.strategies import SearchStrategy

QUICK, FULL = 25, int(os.environ.get("MOEBENCH_FUZZ_INPUTS", "10000"))
"""Inputs of a class of readers, which its tests share."""

SECONDS = 10
"""No input may take longer, of the processor."""

WAITING = 12
"""Nor so many times that by the clock."""

GIGABYTE = 2**30

settings.register_profile(
    "fuzz",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=False,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

Check = Callable[[Any], str]
"""Reads one input; returns ``accepted`` or ``refused``, and raises for anything else."""


class HangError(BaseException):
    """An input took too long. No `Exception`, so that no reader takes it for what a library raises."""


@pytest.fixture(
    params=[QUICK, pytest.param(FULL, marks=(pytest.mark.slow, pytest.mark.nightly))], ids=["quick", "full"]
)
def tried(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``tried(strategy, check, share=1)``: check so many inputs; ``share`` of those of the class is this test's.

    The counts of outcomes, seconds of CPU and growth of memory go into the report of pytest's --junitxml.
    """

    def run(inputs: SearchStrategy[Any], check: Check, share: float = 1) -> None:
        outcomes: Counter[str] = Counter()
        profile = settings(settings.get_profile("fuzz"), max_examples=max(1, round(request.param * share)))

        @profile
        @given(inputs)
        def each(one: Any) -> None:
            with alarm(SECONDS):
                outcomes[check(one)] += 1

        before, started = peak(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HypothesisWarning)  # of an input that is long to print
            each()
        seconds, grown = time.process_time() - started, peak() - before
        figures = {**outcomes, "cpu_seconds": round(seconds, 1), "grown_mb": grown // 2**20}
        request.node.user_properties += [(name, str(value)) for name, value in figures.items()]
        assert len(outcomes) == 2 or request.param < FULL, f"all were {', '.join(outcomes)}: too much, or too little"
        assert grown < GIGABYTE, f"grew by {grown / GIGABYTE:.1f} GB"

    return run


@contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raise `HangError` in what runs longer."""

    def rings(number: int, frame: Any) -> None:
        raise HangError(f"more than {seconds} s of the processor, or {WAITING * seconds} s")

    # Of the processor, since a loaded machine is no hang; by the clock for what waits.
    clocks = ((signal.ITIMER_PROF, signal.SIGPROF, seconds), (signal.ITIMER_REAL, signal.SIGALRM, WAITING * seconds))
    before = [signal.signal(number, rings) for _, number, _ in clocks]
    for clock, _, limit in clocks:
        signal.setitimer(clock, limit)
    try:
        yield
    finally:
        for (clock, number, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
