"""One process at a time writes an output: a lock of the kernel on a hidden file beside it.

It is `flock`, on a file that the holder removes. The kernel lets go of it however a process ends, so that nothing a
`kill -9` leaves behind stops the next run. POSIX locks (`lockf`) are lost as soon as any part of the process closes the
file; on NFS Linux makes one of the other, so that `flock` works between machines, too. Where a file system has no locks
a warning says so, and the work goes on: nobody is better served by a program that refuses to measure.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from socket import gethostname

from .errors import InUseError, MoebenchError, StatsError
from .types import Json

SUFFIX = ".moelock"

_HALVES = (".json", ".safetensors")
_PHASES = (".decode", ".unsplit")
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}
_LONGEST = 255 - len(SUFFIX) - 1
"""Bytes of a name that a lock can hold whole."""


@dataclass
class _Held:
    file: int
    thread: int
    made: list[Path]  # folders that were made for it
    times: int = 1


_held: dict[Path, _Held] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def holding(*outputs: Path, brief: bool = False) -> Iterator[None]:
    """Be the one process that writes ``outputs``, or raise `InUseError` at once with who is.

    outputs: files; X.json, X.safetensors and X.decode.json are one output, and so is every other spelling of their
    path. The thread that holds one may ask again. brief: a single write, which other threads of this process may make
    while it holds the output, as a server's do. Raises `StatsError` where the folder cannot be written.
    """
    taken: list[Path] = []
    try:
        for place, output in sorted({lock_file(output): output for output in reversed(outputs)}.items()):
            taken.append(place)  # first, for a signal may come at any moment
            try:
                _take(place, output, brief)
            except MoebenchError:
                taken.pop()
                raise
        yield
    finally:
        for place in reversed(taken):
            _let_go(place)


def lock_file(output: Path) -> Path:
    """The lock of an output: ``.STEM.moelock`` beside the file that its path leads to.

    The name is spelt as the file's is, so that the file system itself says whether two spellings are one file.
    """
    real = Path(os.path.realpath(output))
    stem = real.name
    for suffixes in (_HALVES, _PHASES):
        shorter = next((stem.removesuffix(suffix) for suffix in suffixes if stem.endswith(suffix)), stem)
        stem = shorter or stem
    name = os.fsencode(stem)[:_LONGEST]
    return real.with_name(f".{os.fsdecode(name)}{SUFFIX}")


def lock(file: int) -> bool:
    """Take the lock of an open file; False where another has it. Raises OSError where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def is_file(file: int, path: Path) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        there, here = path.lstat(), os.fstat(file)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def remove_dead(path: Path) -> None:
    """Remove a file that its maker locked, unless the lock is still held, or nobody here can tell."""
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if lock(file) and is_file(file, path) and _is_ours(path, file):
                path.unlink()
        finally:
            os.close(file)


def _is_ours(path: Path, file: int) -> bool:
    """Whether the maker of a lock ran on this machine; those of another may not reach it."""
    return path.suffix != SUFFIX or _facts(file).get("host", gethostname()) == gethostname()


def _take(place: Path, output: Path, brief: bool) -> None:
    with _guard:
        if (held := _held.get(place)) is not None:
            if not brief and held.thread != threading.get_ident():
                raise InUseError(f"{output} is being written by another thread of this process: name another output.")
            held.times += 1
            return
        made: list[Path] = []
        try:
            file = None
            while file is None:
                made += _make_folders(place.parent, output)
                with contextlib.suppress(FileNotFoundError):  # a process that ends has just removed the folder
                    if (file := _open_locked(place, output)) is None:
                        return
            _held[place] = _Held(file, threading.get_ident(), made)
        except BaseException:
            _remove(made)
            raise


def _let_go(place: Path) -> None:
    with _guard:
        held = _held.get(place)
        if held is None:  # the file system has no locks
            return
        held.times -= 1
        if held.times:
            return
        with contextlib.suppress(OSError):
            place.unlink()  # before the lock goes: whoever waits sees that the name is free, and makes a new one
        os.close(held.file)
        del _held[place]
        _remove(held.made)


def _open_locked(place: Path, output: Path) -> int | None:
    """The lock, taken; None where the file system has none."""
    while True:
        try:
            file = _open(place)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StatsError(f"Cannot write {output}: {error.strerror or error}.") from error
        try:
            if not lock(file):
                raise InUseError(f"{output} is being written by {_holder(file)}: wait for it, or name another output.")
            if is_file(file, place):
                _sign(file)
                return file
        except OSError as error:
            os.close(file)
            if error.errno not in _NO_LOCKS:
                raise StatsError(f"Cannot lock {output}: {error.strerror or error}.") from error
            place.unlink(missing_ok=True)
            warnings.warn(
                f"The file system of {output} has no locks ({error.strerror}): see to it that nothing else writes it.",
                UserWarning,
                stacklevel=2,
            )
            return None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder has just removed it


def _open(place: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError as refused:
        try:
            return os.open(place, os.O_RDONLY | flags)  # another user's, perhaps of a process that was killed
        except FileNotFoundError:
            raise refused from None


def _sign(file: int) -> None:
    """Say who holds the lock; for others to read, so that a full disk is no reason to stop."""
    program = Path(sys.argv[0])
    words = [program.parent.name if program.stem == "__main__" else program.name, *sys.argv[1:]]
    facts = {
        "pid": os.getpid(),
        "host": gethostname(),
        "since": datetime.now().isoformat(" ", "seconds"),
        "command": shlex.join(words)[:200],
    }
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(facts).encode(), 0)


def _facts(file: int) -> Json:
    try:
        facts = json.loads(os.pread(file, 10_000, 0))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _holder(file: int) -> str:
    for _ in range(10):
        if {"pid", "host", "since", "command"} <= (facts := _facts(file)).keys():
            who = f"process {facts['pid']} on {facts['host']} since {facts['since']} ({facts['command']})"
            return who.encode("ascii", "backslashreplace").decode() if not who.isprintable() else who
        time.sleep(0.02)  # it has the lock, and signs it next
    return "another process"


def _make_folders(folder: Path, output: Path) -> list[Path]:
    """The folders that were made, the innermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    try:
        for one in reversed(missing):
            one.mkdir(exist_ok=True)
    except OSError as error:
        _remove(missing)
        raise StatsError(f"Cannot write {output}: {error.strerror or error}.") from error
    return missing


def _remove(made: list[Path]) -> None:
    """Remove folders in which nothing came to lie."""
    with contextlib.suppress(OSError):
        for folder in made:
            folder.rmdir()


def _forget() -> None:
    """A forked child writes nothing of its parent's, and must not keep its locks alive."""
    global _guard
    _guard = threading.Lock()
    for held in _held.values():
        with contextlib.suppress(OSError):
            os.close(held.file)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
