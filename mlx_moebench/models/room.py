"""Whether the weights of a model fit into the memory that is free."""

from __future__ import annotations

import mlx.core as mx
from mlx.utils import tree_flatten

from ..checkpoints import Checkpoint
from ..errors import ModelLoadError
from ..memory import ROOM, free_memory
from ..options import Tell

MARGIN = 1.1
"""What weights must fit in times over: batches and statistics take memory, too."""


def streams(checkpoint: Checkpoint, choice: str, why_not: str | None, tell: Tell) -> bool:
    """Whether the layers of a checkpoint, of which nothing is read yet, are read one at a time.

    choice: ``on``, ``off`` or ``auto``, which is on where the weights as they will be held do not fit. why_not: why the
    model cannot be streamed. Raises ModelLoadError for ``on`` where it
    cannot be.
    """
    if choice == "off":
        return False
    if choice == "on":
        if why_not is not None:
            raise ModelLoadError(f"{checkpoint.name} cannot be streamed, because {why_not}: use --stream off.")
        return True
    needed, free = room_of(checkpoint), room_here()
    if needed <= free:
        return False
    sizes = (
        f"The weights of {checkpoint.name} take {needed / 1e9:.1f} GB as they are held, and {free / 1e9:.1f} are free"
    )
    if why_not is not None:
        tell(f"{sizes}; it cannot be streamed, because {why_not}.")
        return False
    tell(f"{sizes}: they are read layer by layer (--stream off reads all of them).")
    return True


def room_of(checkpoint: Checkpoint) -> int:
    """Bytes that it takes to hold every parameter, and to read the largest one, with some room for what is computed."""
    sizes: list[int] = [array.nbytes for _, array in tree_flatten(checkpoint.model.parameters())]
    return int(MARGIN * sum(sizes)) + max(sizes) + ROOM


def room_here() -> int:
    """Bytes that MLX may take on its device."""
    if mx.default_device() == mx.Device(mx.cpu):
        return free_memory()
    info = mx.device_info(mx.default_device())
    known = [int(info[key]) for key in ("max_recommended_working_set_size", "memory_size") if key in info]
    return min([free_memory(), *known[:1]])
