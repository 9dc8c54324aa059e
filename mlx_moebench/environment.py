"""The machine and software a measurement was made with, for its report."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from .blas import blas_in_use
from .types import Json


def package_version(package: str) -> str | None:
    """Installed version, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def host_environment() -> Json:
    """Versions and platform where no model runs: nothing of MLX, BLAS and threads bears on the numbers."""
    return {
        "mlx_moebench": package_version("mlx-moebench"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": package_version("numpy"),
        "mlx": None,
        "mlx_lm": None,
        "blas": None,
        "threads": None,
    }


def environment() -> Json:
    """Versions, platform, device, BLAS and threads; needs MLX."""
    import mlx.core as mx

    from .instrument.cpu_path import has_cpu_path

    return host_environment() | {
        "mlx": package_version("mlx"),
        "mlx_lm": package_version("mlx-lm"),
        "device": "gpu" if mx.default_device().type == mx.DeviceType.gpu else "cpu",
        "blas": blas_in_use(),
        "threads": threads(),
        "experts": "grouped" if has_cpu_path() else "stock",
        # MLX rounds float32 products to TF32 on NVIDIA GPUs and M5 Macs unless this is 0.
        "tf32": os.environ.get("MLX_ENABLE_TF32"),
    }


def threads() -> int | None:
    """Threads that a CPU matrix product may use: the cores, unless the BLAS was told fewer."""
    cores = os.cpu_count()
    for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(variable, "").isdigit():
            return min(int(os.environ[variable]), cores or 1)
    return cores
