"""The devices that torch has, and the machine and software of a measurement, for its report."""

from __future__ import annotations

import torch

from mlx_moebench.environment import host_environment, package_version
from mlx_moebench.errors import MoebenchError, did_you_mean, needed
from mlx_moebench.types import Json

from . import ranks

DEVICES = ("auto", "gpu", "cpu", "mps", "cuda")


def environment(device: torch.device | None = None) -> Json:
    """Versions, platform, device and threads. device: where the model runs; the CPU by default."""
    device = device or torch.device("cpu")
    blas = "MKL" if torch.backends.mkl.is_available() else "OpenBLAS or other"
    return host_environment() | {
        "torch": str(torch.__version__),  # it names the build, such as +cu130, which the package's metadata may not
        "transformers": package_version("transformers"),
        "device": "cpu" if device.type == "cpu" else "gpu",
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "blas": f"{blas}, of torch" if device.type == "cpu" else None,
        "threads": torch.get_num_threads(),
        # torch rounds float32 products to TF32 on NVIDIA GPUs only where it is told to.
        "tf32": str(int(_tf32())) if device.type == "cuda" else None,
    }


def _tf32() -> bool:
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # since torch 2.9, where asking for allow_tf32 raises if this was set
        return bool(matmul.fp32_precision == "tf32")
    return bool(needed(matmul, "allow_tf32", "torch", "says how products are rounded"))


def chosen_device(name: str = "auto") -> torch.device:
    """The torch device for ``name``; ``auto`` is CUDA, else Apple's GPU, else the CPU; under torchrun one GPU a rank.

    ``cuda:1`` is the second GPU. Raises MoebenchError for an unknown name, or where the GPU asked for is not there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    _check_there(name, cuda, mps)
    if ":" in name:
        return torch.device(name)
    if name == "cpu" or not (cuda or mps):
        return torch.device("cpu")
    if cuda and name != "mps":
        return torch.device("cuda", ranks.local_rank() % torch.cuda.device_count())
    return torch.device("mps")


def _check_there(name: str, cuda: bool, mps: bool) -> None:
    library, colon, number = name.partition(":")
    if library not in DEVICES or (colon and not (library == "cuda" and number.isdecimal())):
        raise MoebenchError(f"There is no device {name!r}.{did_you_mean(name, list(DEVICES))}")
    missing = {"cuda": not cuda, "mps": not mps, "gpu": not (cuda or mps)}.get(library, False)
    if missing or (colon and int(number) >= torch.cuda.device_count()):
        kind = {"cuda": name if cuda else "CUDA device", "mps": "Apple GPU", "gpu": "GPU"}[library]
        raise MoebenchError(f"torch sees no {kind} here; use --device cpu, or --device auto to take what there is.")
