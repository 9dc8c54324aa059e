"""The bytes of a layer that is needed next, read from the disk while another one computes."""

from __future__ import annotations

import os
import re
import threading
from collections import defaultdict
from pathlib import Path

from ..checkpoints.weights import Weights
from ..files import read_header

PIECE = 2**23
"""Bytes that are read at once."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.")


class Prefetch:
    """Reads the files of ``weights`` ahead, layer by layer, into the page cache of the system and nowhere else: MLX
    reads them again from there when it needs them.

    A layer's tensors are told by the number in their names. Those of a name without one are not read ahead, which costs
    time and nothing else.
    """

    def __init__(self, weights: Weights) -> None:
        self._ranges: dict[int, list[tuple[Path, int, int]]] = defaultdict(list)
        for file in weights.files:
            header = read_header(file)
            for name, entry in header.tensors.items():
                if (match := _LAYER.search(name)) is not None:
                    begin, end = entry["data_offsets"]
                    self._ranges[int(match[1])].append((file, header.start + begin, end - begin))
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def bytes_of(self, layer: int) -> int:
        """Bytes in the files of one layer."""
        return sum(length for _, _, length in self._ranges.get(layer, ()))

    def start(self, layer: int) -> None:
        """Begin to read a layer; the one that is being read is left as it is."""
        self.close()
        if ranges := self._ranges.get(layer):
            self._stop = threading.Event()
            arguments = (_joined(ranges), self._stop)
            self._thread = threading.Thread(target=_read, args=arguments, name="moebench-prefetch", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _joined(ranges: list[tuple[Path, int, int]]) -> list[tuple[Path, int, int]]:
    """Ranges that lie one behind the other, as one."""
    joined: list[tuple[Path, int, int]] = []
    for file, start, length in sorted(ranges):
        if joined and joined[-1][0] == file and sum(joined[-1][1:]) == start:
            file, start, length = file, joined[-1][1], joined[-1][2] + length
            joined.pop()
        joined.append((file, start, length))
    return joined


def _read(ranges: list[tuple[Path, int, int]], stop: threading.Event) -> None:
    """Have the system read ranges, or read them into one buffer, again and again, where it cannot be asked to: copies
    cost the processor what waiting for the disk does. A disk that fails says so to whoever needs what is on it."""
    buffer = None if hasattr(os, "posix_fadvise") else memoryview(bytearray(PIECE))
    for path, start, length in ranges:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            for place in range(start, start + length, PIECE):
                if stop.is_set():
                    return
                size = min(PIECE, start + length - place)
                if buffer is None:
                    os.posix_fadvise(file, place, size, os.POSIX_FADV_WILLNEED)
                else:
                    os.preadv(file, [buffer[:size]], place)
        except OSError:
            return
        finally:
            os.close(file)
