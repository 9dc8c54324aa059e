"""Loading sparse checkpoints into MLX."""

from ..blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

from ..checkpoints import NANO, Adapter, Checkpoint, read_adapter  # noqa: E402
from .device import device_facts, select_device  # noqa: E402
from .loading import load, load_checkpoint, open_checkpoint  # noqa: E402

__all__ = [
    "NANO",
    "Adapter",
    "Checkpoint",
    "device_facts",
    "load",
    "load_checkpoint",
    "open_checkpoint",
    "read_adapter",
    "select_device",
]
