"""What a bug report must say of a machine, and nothing of its user: no token, no home folder, no password in a URL."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .types import Json

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "data": ("datasets",),
    "demo": ("gradio",),
    "eval": ("lm_eval",),
    "torch": ("torch", "transformers", "accelerate", "bitsandbytes"),
    "vlm": ("mlx_vlm",),
}
"""Of each extra the modules that it brings."""

VARIABLES = (
    *("MLX_MOEBENCH_BLAS", "MLX_MOEBENCH_DEBUG", "MLX_ENABLE_TF32", "MLX_DISABLE_COMPILE"),
    *("MLX_RANK", "MLX_HOSTFILE", "RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"),
)
"""Environment variables that bear on what is measured; those that begin as ours do are told, too."""

_OURS = ("MLX_MOEBENCH_", "MOEBENCH_")
_SECRET = re.compile(r"token|secret|password|passwd|key|credential|auth", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_TOKEN = re.compile(r"\b(hf|sk|ghp|github_pat)_\w{8,}")


def machine_facts() -> Json:
    """Processor, cores, threads, free disk, extras, and the settings in the environment; each key names its unit."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "disk_free_gb": {
            "working_folder": free_gb(Path.cwd()),
            "temporary": free_gb(Path(tempfile.gettempdir())),
            "hub_cache": free_gb(_hub_cache()),
        },
        "extras": {name: all(_there(one) for one in modules) for name, modules in EXTRAS.items()},
        "environment": settings(os.environ),
    }


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Of these variables those that bear on what is measured, fit to be shown to strangers.

    >>> settings({"HF_TOKEN": "hf_abcdefghij", "HF_ENDPOINT": "https://me:word@hub.example", "EDITOR": "vi"})
    {'HF_ENDPOINT': 'https://...@hub.example', 'HF_TOKEN': 'set'}
    """
    shown = {name: public(value) for name, value in environment.items() if name in VARIABLES or name.startswith(_OURS)}
    secret = {name: "set" for name in shown if _SECRET.search(name)}
    token = {"HF_TOKEN": "set"} if environment.get("HF_TOKEN") else {}
    return dict(sorted((shown | secret | token).items()))


def public(text: str) -> str:
    """``text`` with ``~`` for the user's home, and without passwords of URLs and tokens."""
    for home in {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))} - {"/", "~"}:  # noqa: PTH111
        text = re.sub(rf"{re.escape(home)}(?=/|$|:)", "~", text)
    return _TOKEN.sub("...", _CREDENTIALS.sub("...@", text))


def free_gb(folder: Path) -> float | None:
    """Free space, in GB of 10^9 bytes, where ``folder`` is or would be made; None where it cannot be asked."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return round(shutil.disk_usage(folder).free / 1e9, 1)
    except OSError:
        return None


def _hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface"))
    try:
        return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir())


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _processor() -> str:
    """Its name: of the kernel on Linux, where Python knows none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.machine()
