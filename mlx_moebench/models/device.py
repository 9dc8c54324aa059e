"""Which device MLX computes on."""

from __future__ import annotations

import mlx.core as mx

from ..allocator import keep_freed_memory
from ..errors import MoebenchError, did_you_mean
from ..instrument.cpu_path import has_cpu_path
from ..memory import check_room
from ..types import Json

DEVICES = ("auto", "gpu", "cpu", "mps", "cuda")


def select_device(name: str = "auto") -> str:
    """Make ``name`` MLX's default device; returns ``gpu`` or ``cpu``.

    ``auto`` is the GPU where there is one; ``mps`` is another name for ``gpu``, and ``cuda`` for a CUDA one.
    Raises MoebenchError for an unknown name, or where the GPU asked for is not there.
    """
    check_room()
    if name not in DEVICES:
        raise MoebenchError(f"There is no device {name!r}.{did_you_mean(name, list(DEVICES))}")
    gpu = mx.is_available(mx.Device(mx.gpu))
    if name == "cuda" and not mx.cuda.is_available():
        raise MoebenchError(
            "MLX sees no CUDA device here; install mlx-moebench[cuda12] or [cuda13] on a machine with an NVIDIA GPU, "
            "or use --device auto."
        )
    if name in ("gpu", "mps") and not gpu:
        raise MoebenchError("MLX sees no GPU here; use --device cpu, or --device auto to take what there is.")
    device = mx.gpu if gpu and name != "cpu" else mx.cpu
    mx.set_default_device(mx.Device(device))
    return "gpu" if device == mx.gpu else "cpu"


def device_facts() -> Json:
    """``device`` that ``auto`` takes (gpu or cpu), and for a GPU its name and the memory it can work in, in GB.

    For a CPU how experts are run (`instrument.cpu_path`), and what becomes of freed memory (`allocator`).
    """
    if not mx.is_available(mx.Device(mx.gpu)):
        kept = "kept for reuse" if keep_freed_memory() else "given back to the system"
        return {"device": "cpu", "experts": "grouped" if has_cpu_path() else "stock", "freed_memory": kept}
    info = mx.device_info(mx.Device(mx.gpu))
    known = [info[key] for key in ("max_recommended_working_set_size", "memory_size") if key in info]
    memory = round(int(known[0]) / 2**30, 1) if known else None
    return {"device": "gpu", "gpu": info.get("device_name"), "gpu_memory_gb": memory}
