"""Signals and closed pipes: one sentence at most, 128 + the number, and the handlers of before."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlx_moebench import signals
from mlx_moebench.cli import main
from mlx_moebench.errors import StatsError
from mlx_moebench.signals import Stopped, deferring, stopped_with, stopping

pytestmark = pytest.mark.usefixtures("hears_ctrl_c")

SENT = [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]


@pytest.mark.parametrize(("number", "name"), SENT)
def test_a_signal_is_raised_once_and_says_its_name(number: signal.Signals, name: str) -> None:
    before = [signal.getsignal(one) for one in signals.HANDLED]
    with pytest.raises(Stopped) as stopped, stopping():
        os.kill(os.getpid(), number)
    assert stopped.value.number == number
    assert signals.name_of(stopped.value) == name
    again = stopped_with(stopped.value, " after 3 of 4.")
    assert (str(again), again.number) == (f"Stopped by {name} after 3 of 4.", number)
    assert [signal.getsignal(one) for one in signals.HANDLED] == before


def test_signals_of_one_event_are_one() -> None:
    with stopping() as asked:
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)  # the terminal's own, after the shell's
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked.number == signal.SIGHUP


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as asked, deferring():
            os.kill(os.getpid(), signal.SIGHUP)
            assert asked.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_training_hears_them_when_it_suits() -> None:
    with stopping():
        with deferring() as asked:
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.number == signal.SIGTERM
        with pytest.raises(Stopped):
            signals.check()
    signals.check()


def test_outside_of_a_command_only_ctrl_c_is_deferred() -> None:
    with deferring() as asked:
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGINT)
        assert asked.number == signal.SIGINT
        asked.at -= 1
        with pytest.raises(KeyboardInterrupt):  # a notebook's process goes on
            os.kill(os.getpid(), signal.SIGINT)


def test_a_later_signal_ends_the_process_at_once() -> None:
    code = """
import signal, time
from mlx_moebench.signals import stopping
signal.signal(signal.SIGINT, signal.default_int_handler)
with stopping():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("saving", flush=True)
        time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving\n"
    time.sleep(signals.ONE_EVENT + 0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT


@pytest.mark.skipif(not Path("/proc/self/wchan").exists(), reason="only Linux says what a process waits for")
def test_a_later_signal_ends_a_library_that_hears_of_none() -> None:
    code = """
import ctypes
from mlx_moebench.signals import stopping
library, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
library.pthread_mutex_lock(lock)
with stopping():
    print("ready", flush=True)
    library.pthread_mutex_lock(lock)  # for ever, and through every signal
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    where = Path(f"/proc/{process.pid}/wchan")
    while "futex" not in where.read_text():
        time.sleep(0.01)
    time.sleep(0.2)  # it may have waited for Python's own lock
    process.send_signal(signal.SIGTERM)
    time.sleep(signals.ONE_EVENT + 0.1)
    assert process.poll() is None
    for _ in range(60):  # a busy machine may hear of the first only now
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(signals.ONE_EVENT + 0.2)
            break
    process.stdout.close()
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(("number", "name"), SENT)
def test_the_command_line_ends_with_it(
    number: signal.Signals, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlx_moebench.show.tables import doctor

    monkeypatch.setattr(doctor, "examine", lambda: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 128 + number
    assert capsys.readouterr().err == f"Error: Stopped by {name}.\n"


def test_a_library_that_makes_another_error_of_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlx_moebench.show.tables import doctor

    def examine(error: Exception) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    for error, code, words in (
        (ImportError("interrupted"), 143, "Stopped by SIGTERM."),
        (StatsError("Not saved."), 1, "Not saved."),
    ):
        monkeypatch.setattr(doctor, "examine", lambda error=error: examine(error))
        with pytest.raises(SystemExit) as stop:
            main(["doctor"])
        assert stop.value.code == code
        assert capsys.readouterr().err == f"Error: {words}\n"


@pytest.mark.parametrize("command", [["metrics"], ["metrics", "--json"]])
def test_nobody_reads(command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "mlx_moebench", *command]
    process = subprocess.run(arguments, check=False, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert process.returncode == 141
    assert process.stderr == ""


def test_nobody_reads_a_complaint() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [sys.executable, "-m", "mlx_moebench", "nonsense"]
    process = subprocess.run(arguments, check=False, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.returncode == 141


def test_stdout_is_a_full_disk() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "mlx_moebench", "metrics", "--json"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert process.returncode == 74
    assert process.stderr == "Error: No space left on device.\n"
