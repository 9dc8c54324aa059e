"""Checkpoints on disk and on the hub: all that can be said and checked before a weight is read. Needs no MLX."""

from .adapters import Adapter, read_adapter
from .hub import NANO_NAME, WEIGHTS, commit_of
from .loaded import Checkpoint, LoadedModel
from .located import NANO, Located, check_unquantised, find, refused_code
from .weights import check_complete, read_json, shortened

__all__ = [
    "NANO",
    "NANO_NAME",
    "WEIGHTS",
    "Adapter",
    "Checkpoint",
    "LoadedModel",
    "Located",
    "check_complete",
    "check_unquantised",
    "commit_of",
    "find",
    "read_adapter",
    "read_json",
    "refused_code",
    "shortened",
]
