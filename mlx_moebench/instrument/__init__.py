"""Let an MLX model's own routers report what they do, without changing what it computes."""

from ..blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

from .capture import Capture, capture, detach, is_traced, routers_of, routing_from  # noqa: E402
from .facts import model_facts  # noqa: E402
from .generation import batch_generate, stream_generate  # noqa: E402
from .live import LiveRoutingStats, attach  # noqa: E402
from .models import config_of  # noqa: E402
from .taps import Sink  # noqa: E402

__all__ = [
    "Capture",
    "LiveRoutingStats",
    "Sink",
    "attach",
    "batch_generate",
    "capture",
    "config_of",
    "detach",
    "is_traced",
    "model_facts",
    "routers_of",
    "routing_from",
    "stream_generate",
]
