"""Give MLX a fast BLAS on Linux.

The CPU wheel of MLX for Linux links the netlib reference BLAS. A BLAS that is in the process's global symbol
scope before MLX is first imported takes its place, with matrix products ten to thirty times faster. macOS uses
Accelerate and needs nothing.

``MLX_MOEBENCH_BLAS`` chooses: ``off``, or the path or file name of a library; unset means the first of
``CANDIDATES`` that the dynamic loader finds.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

ENVIRONMENT_VARIABLE = "MLX_MOEBENCH_BLAS"
CANDIDATES = ("libopenblas.so.0", "libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so")

_loaded: str | None = None


def load_fast_blas() -> str | None:
    """Load a fast BLAS into the global symbol scope, once, and return its name or path.

    None where there is nothing to load or it is too late: not Linux, switched off, no such library, or MLX
    was imported before. Never raises: without a fast BLAS everything works, slowly. ``blas_in_use`` says why.
    """
    global _loaded
    choice = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if _loaded is not None or platform.system() != "Linux" or choice.lower() == "off" or "mlx.core" in sys.modules:
        return _loaded
    for library in (choice,) if choice else CANDIDATES:
        try:
            handle = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if hasattr(handle, "cblas_sgemm"):
            _loaded = library
            break
    return _loaded


class _BeforeMlx:
    """A finder that finds nothing: it is asked for ``mlx.core`` before that is imported, and then loads a BLAS."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "mlx.core":
            load_fast_blas()


def load_fast_blas_before_mlx() -> None:
    """As `load_fast_blas`, but when MLX is first imported, if it ever is.

    In a process that uses torch alone nothing is loaded: torch would take the symbols of that BLAS for its own, whose
    threads then wait for one another with torch's, and a forward on two cores takes two to three times as long.
    """
    if not any(finder is _BeforeMlx for finder in sys.meta_path):
        sys.meta_path.insert(0, _BeforeMlx)


def blas_in_use() -> str:
    """One phrase on the BLAS behind MLX's CPU matrix products, as far as can be told from outside."""
    if platform.system() == "Darwin":
        return "Accelerate"
    if platform.system() != "Linux":
        return "unknown"
    if library := _global_cblas():
        return library
    choice = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if choice.lower() == "off":
        reason = f"{ENVIRONMENT_VARIABLE}=off"
    elif choice:
        reason = f"{choice!r}, named by {ENVIRONMENT_VARIABLE}, could not be loaded before MLX"
    elif "mlx.core" in sys.modules:
        reason = "none of " + ", ".join(CANDIDATES) + " was loaded before MLX"
    else:
        reason = "MLX is not imported yet"
    return f"reference BLAS bundled with mlx (slow): {reason}"


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of <dlfcn.h>."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _global_cblas() -> str | None:
    """The file name of the library that the global symbol scope takes ``cblas_sgemm`` from.

    MLX's bundled BLAS is in a local scope, so it never answers here; and the global scope is searched first.
    """
    process = ctypes.CDLL(None)
    try:
        function = ctypes.cast(process.cblas_sgemm, ctypes.c_void_p)
    except AttributeError:
        return None
    info = _SymbolInfo()
    if not process.dladdr(function, ctypes.byref(info)) or not info.file:
        return None
    return Path(os.fsdecode(info.file)).resolve().name


@dataclass(frozen=True)
class NumpyThreads:
    """The threads of a matrix product in NumPy, which brings a BLAS of its own."""

    get: Callable[[], int]
    limit: Callable[[int], object]

    @property
    def count(self) -> int:
        return self.get()


_NUMPY_BLAS = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)
"""How many threads it uses, and how to change that, in each library that NumPy is built with."""


@cache
def numpy_threads() -> NumpyThreads | None:
    """How many threads NumPy's products use, and how to limit them; None where its BLAS cannot be asked."""
    try:
        # Of a library the loader looks through those that it needs, too.
        library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError):
        return None
    for get, limit in _NUMPY_BLAS:
        if hasattr(library, get) and hasattr(library, limit):
            return NumpyThreads(getattr(library, get), getattr(library, limit))
    return None
