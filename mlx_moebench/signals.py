"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is measured is saved, and a sentence says where."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

HANDLED = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

ONE_EVENT = 0.3
"""Seconds in which several signals are one: a terminal that closes, or a launcher that passes one on, sends two."""


class Stopped(KeyboardInterrupt):
    """A signal asked for the end; ``number`` says which."""

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(*([message] if message else []))
        self.number = number


class Asked:
    """The signal that came first, if one has, and when."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.at = 0.0

    def note(self, number: int) -> bool:
        """Whether this is the first signal, or belongs to it. A later one ends the process at once, unsaved."""
        if self.number is None:
            self.number, self.at = number, time.monotonic()
            return True
        if time.monotonic() - self.at >= ONE_EVENT:
            if self in _commands:
                os._exit(128 + number)
            raise Stopped(number=number)  # the process is somebody else's, such as a notebook's
        return False

    def check(self) -> None:
        """Raise what a signal asked for, where nothing has come of it yet."""
        if self.number is not None:
            raise Stopped(number=self.number)


_commands: list[Asked] = []


@contextlib.contextmanager
def stopping() -> Iterator[Asked]:
    """Raise `Stopped` in the main thread at the first signal; a second one, later, ends the process at once.

    A signal that was ignored before, as by nohup, stays ignored. The handlers before are there again afterwards.
    """
    asked = Asked()

    def stop(number: int, frame: FrameType | None) -> None:
        if asked.note(number):
            raise Stopped(number=number)

    with _handled(stop, (signal.SIG_IGN, None)), _watched():
        _commands.append(asked)
        try:
            yield asked
        finally:
            _commands.pop()


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """End the process at a second signal also while the main thread is inside of a library, which hears of none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    threading.Thread(target=_watch, args=(source,), name="moebench-signals", daemon=True).start()
    before = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(sink)


def _watch(source: int) -> None:
    first = None
    while number := os.read(source, 1):
        if number[0] in HANDLED and signal.getsignal(number[0]) != signal.SIG_IGN:
            now = time.monotonic()
            if first is not None and now - first >= ONE_EVENT:
                os._exit(128 + number[0])
            first = now if first is None else first
    os.close(source)


@contextlib.contextmanager
def deferring() -> Iterator[Asked]:
    """Note the first signal instead of raising, for who looks at ``number`` when it suits; a second ends at once.

    Only what would have raised is noted: Ctrl-C, and inside `stopping` the others, too.
    """
    asked = _commands[-1] if _commands else Asked()

    def note(number: int, frame: FrameType | None) -> None:
        asked.note(number)

    with _handled(note, (signal.SIG_IGN, signal.SIG_DFL, None)):
        yield asked


def check() -> None:
    """Raise `Stopped` where a signal came whose exception was lost, as those are that Python raises in a destructor."""
    if _commands and threading.current_thread() is threading.main_thread():
        _commands[-1].check()


def name_of(error: BaseException) -> str:
    """What stopped the process, for a sentence: Ctrl-C, SIGTERM or SIGHUP."""
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def stopped_with(error: BaseException, rest: str) -> Stopped:
    """The same end, with a sentence: ``Stopped by Ctrl-C`` and the rest of it."""
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    return Stopped(f"Stopped by {name_of(error)}{rest}", number)


@contextlib.contextmanager
def _handled(handler: object, unless: tuple[object, ...]) -> Iterator[None]:
    """Have ``handler`` for every signal whose handler is none of ``unless``; nothing outside of the main thread."""
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED:
                if (now := signal.getsignal(number)) not in unless:
                    before[number] = now
                    signal.signal(number, handler)  # type: ignore[arg-type]
        yield
    finally:
        for number, now in before.items():
            signal.signal(number, now)
