"""The machine and software of a measurement on torch, for its report."""

from __future__ import annotations

from typing import Any

import torch

from mlx_moebench.environment import host_environment, package_version


def environment(device: torch.device | None = None) -> dict[str, Any]:
    """Versions, platform, device and threads. device: where the model runs; the CPU by default."""
    device = device or torch.device("cpu")
    blas = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS or other"
    return host_environment() | {
        "torch": package_version("torch"),
        "transformers": package_version("transformers"),
        "device": "cpu" if device.type == "cpu" else "gpu",
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "blas": f"{blas}, of torch" if device.type == "cpu" else None,
        "threads": torch.get_num_threads(),
        # torch rounds float32 products to TF32 on NVIDIA GPUs only where it is told to.
        "tf32": str(int(torch.backends.cuda.matmul.allow_tf32)) if device.type == "cuda" else None,
    }
