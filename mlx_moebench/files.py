"""Files, once for everybody: written aside and renamed, probed before work starts, named safely, headers read."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from secrets import token_hex
from socket import gethostname
from typing import NamedTuple
from zlib import crc32

from .errors import StatsError
from .locks import SUFFIX, is_file, lock, remove_dead
from .types import Json

FORCE: ContextVar[bool] = ContextVar("FORCE", default=False)
"""Whether files that this package did not write may be replaced: the option --force."""


@contextlib.contextmanager
def forcing() -> Iterator[None]:
    """Let files that this package did not write be replaced while it lasts."""
    before = FORCE.set(True)
    try:
        yield
    finally:
        FORCE.reset(before)


MARKS = {
    ".png": b"tEXtSoftware\0made by mlx-moebench",
    ".svg": b"<dc:title>made by mlx-moebench</dc:title>",
    ".pdf": b"/Creator (made by mlx-moebench)",
    ".html": b'<meta name="generator" content="mlx-moebench',
    ".md": b"<!-- made by mlx-moebench report -->",
}
"""What stands in a file of each format that was written here, which alone is replaced. A .json is known by its keys, a
.csv by its columns, safetensors by their metadata."""

NAME_BYTES = 255
"""Bytes of the longest name of a file, on every file system in use."""

_ASIDE = f".moe-{crc32(gethostname().encode()):08x}-"
"""How the temporary files of this machine begin: short, so that whatever name a file may have, they may, too."""

_DEAD = re.compile(rf"{re.escape(_ASIDE)}\w+\.\w+|\..*{re.escape(SUFFIX)}", re.DOTALL)
_swept: set[Path] = set()

MAX_HEADER = 100_000_000
"""Bytes of the longest header that the safetensors format allows."""

HEADER_BROKEN = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What reading a header raises where it is broken."""


class Header(NamedTuple):
    """The header of a safetensors file: 8 bytes of length, that much JSON, then the data, which starts at ``start``."""

    tensors: dict[str, Json]
    metadata: dict[str, str]
    start: int


def read_header(path: Path) -> Header:
    """The header of a safetensors file; reads no tensor. Raises one of `HEADER_BROKEN` where there is none."""
    with opened(path) as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        return _parsed(stream.read(length), length)


def header_of(blob: bytes) -> Header:
    """As `read_header`, of the bytes of a file."""
    length = int.from_bytes(blob[:8], "little")
    return _parsed(blob[8 : 8 + length], length)


def _parsed(text: bytes, length: int) -> Header:
    if len(text) < length:
        raise ValueError("the header is cut off")
    entries = json.loads(text)
    metadata = entries.pop("__metadata__", None) or {}  # MLX writes null where there is none
    if not isinstance(metadata, dict):
        raise ValueError("its metadata are none")
    return Header(entries, metadata, 8 + length)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty where it has none or is no such file."""
    try:
        return read_header(path).metadata
    except HEADER_BROKEN:
        return {}


def plain_name(name: str) -> str:
    """``name`` for a file or folder: letters of any script, nothing that shells mind, never out of its folder."""
    return re.sub(r"[^\w.-]+", "-", name).lstrip(".") or "-"


def opened(path: Path) -> io.BufferedReader:
    """``path`` to be read as bytes. Raises OSError for what is no plain file, which might never come, or never end."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = os.fstat(file).st_mode
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, f"it is {_kind(kind)}, not a plain file", str(path))
        return os.fdopen(file, "rb")
    except BaseException:
        os.close(file)
        raise


def check_regular(path: Path) -> None:
    """Raise the OSError of `opened`, for a file that a library reads."""
    opened(path).close()


def read_bytes(path: Path) -> bytes:
    """All of a plain file; raises OSError."""
    with opened(path) as stream:
        return stream.read()


def read_text(path: Path) -> str:
    """All of a plain file in UTF-8; raises OSError, or UnicodeDecodeError, a ValueError."""
    return read_bytes(path).decode("utf-8")


def _kind(mode: int) -> str:
    """What kind of file it is, in words."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def check_output(path: Path, suffixes: str | Collection[str], kind: str, names: Collection[str] = ()) -> None:
    """Raise `StatsError` unless ``path`` ends in one of ``suffixes`` and can be written, before anything is computed.

    kind: what is to be written, in words. names: keys of such a .json, or columns of such a .csv. A file that is
    already there must have them all, or the mark of its format, so that none of others is replaced without `FORCE`.
    """
    known = (suffixes,) if isinstance(suffixes, str) else suffixes
    if path.suffix.lower() not in known:
        followed(path)
        raise StatsError(f"This output ends in {' or '.join(known)}, got {path.name!r}.")
    check_ours(path, kind, lambda: is_ours(path, names))


def check_ours(path: Path, kind: str, ours: Callable[[], bool]) -> None:
    """Raise `StatsError` where ``path`` cannot be written, or holds what this package did not write.

    ours: whether it did, of a file that is there and not empty.
    """
    probe_folder(path)
    if FORCE.get() or not path.exists() or path.stat().st_size == 0:  # an empty file is a name that was reserved
        return
    if not ours():
        raise StatsError(
            f"{path} exists and holds no {kind} of mlx-moebench: choose another name, or replace it with --force."
        )


def is_ours(path: Path, names: Collection[str] = (), suffix: str | None = None) -> bool:
    """Whether a file has the mark of its format; a .json all keys, and a .csv all columns, of ``names``.

    suffix: of its format, where it has another.
    """
    suffix = suffix or path.suffix.lower()
    try:
        if suffix in MARKS:
            return MARKS[suffix] in read_bytes(path)
        text = read_text(path)
        there = text.partition("\n")[0].split(",") if suffix == ".csv" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(there, dict | list) and set(names) <= {name for name in there if isinstance(name, str)}


def followed(path: Path) -> Path:
    """Where ``path`` is written: itself, or what the link is to. Raises `StatsError` where nothing can be."""
    text = f"Cannot write {path}: "
    try:
        if len(os.fsencode(path.name)) > NAME_BYTES:
            raise StatsError(f"{text}its name has {len(os.fsencode(path.name))} bytes, and {NAME_BYTES} is the most.")
        real = Path(os.path.realpath(path))
        if _of_kernel(path.absolute()) or _of_kernel(real):
            raise StatsError(f"{text}it is no file of a disk: name a file.")
        if path.is_symlink() and not real.exists():
            path.stat()  # says so of links in a circle
        if real.exists() and not real.is_file():
            what = _kind(real.stat().st_mode)
            link = f"a link to {what}" if path.is_symlink() else what
            raise StatsError(f"{text}it is {link}; name a file{' in it' if what == 'a folder' else ''}.")
        if real.exists() and not os.access(real, os.W_OK):
            raise StatsError(f"{text}it may not be changed (its permissions are {stat.filemode(real.stat().st_mode)}).")
    except FileNotFoundError as error:
        raise StatsError(f"{text}it is a link to {path.readlink()}, which does not exist.") from error
    except (OSError, ValueError) as error:
        raise StatsError(f"{text}{getattr(error, 'strerror', None) or error}.") from error
    return real


def _of_kernel(path: Path) -> bool:
    """Whether a path leads to a device or to what a process has open, where nothing can be renamed."""
    return path.parts[1:2] == ("proc",) or (path.parts[1:2] == ("dev",) and path.parts[2:3] != ("shm",))


def probe_folder(path: Path) -> None:
    """Raise `StatsError` unless a file can be made beside ``path``, or its folder made where a folder exists above."""
    real = followed(path)
    try:
        folder = next(parent for parent in real.parents if parent.exists())
        with _aside(folder):
            pass
    except OSError as error:
        raise StatsError(f"Cannot write {path}: {error.strerror or error}.") from error
    _swept.discard(folder)
    sweep(folder)


def write_aside(contents: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name, and only when all are written rename them in order.

    A link stays one, and what it leads to is written; a file keeps its permissions. Raises `StatsError` when the disk
    refuses; an error or Ctrl-C leaves no temporary file, and those of processes that were killed are removed.
    """
    asides: dict[Path, tuple[Path, Path]] = {}
    with contextlib.ExitStack() as stack:
        try:
            for path, content in contents.items():
                real = followed(path)
                real.parent.mkdir(parents=True, exist_ok=True)
                aside, file = stack.enter_context(_aside(real.parent))
                _write(file, content)
                asides[path] = aside, real
            for path in asides:
                _move(*asides[path])
        except OSError as error:
            raise StatsError(f"Cannot write {path}: {error.strerror or error}.") from error
    for folder in {real.parent for _, real in asides.values()}:
        sweep(folder)


@contextlib.contextmanager
def written_aside(path: Path, suffix: str) -> Iterator[Path]:
    """A temporary file beside ``path``, which ends in ``suffix``, for a library to write; at the end it is ``path``.

    Raises OSError where the disk refuses; after any error ``path`` is what it was.
    """
    real = followed(path)
    with _aside(real.parent, suffix) as (aside, file):
        yield aside
        _to_disk(file)
        _move(aside, real)
    sweep(real.parent)


def _move(aside: Path, real: Path) -> None:
    """Give what was written aside its name, and the permissions of the file that it replaces."""
    with contextlib.suppress(FileNotFoundError):
        aside.chmod(stat.S_IMODE(real.stat().st_mode))
    aside.replace(real)


@contextlib.contextmanager
def _aside(folder: Path, suffix: str = ".tmp") -> Iterator[tuple[Path, int]]:
    """A temporary file in ``folder``, open and locked as long as it is needed, so that `sweep` knows it is."""
    while True:
        aside = folder / f"{_ASIDE}{token_hex(4)}{suffix}"
        file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with contextlib.suppress(OSError):  # where there are no locks, nobody sweeps either
                if not lock(file) or not is_file(file, aside):
                    continue  # swept before it was locked
            yield aside, file
            return
        finally:
            aside.unlink(missing_ok=True)
            os.close(file)


def _write(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]
    _to_disk(file)


def _to_disk(file: int) -> None:
    try:
        os.fsync(file)  # a disk that is full or broken may say so only now
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # a file system that has no such thing
            raise


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left in ``folder``; looked for once in the life of a process."""
    if folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if _DEAD.fullmatch(entry.name):
                remove_dead(Path(entry.path))
