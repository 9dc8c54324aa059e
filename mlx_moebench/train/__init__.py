"""Training with a loss on the routing: the losses, and the glue to mlx-lm's trainer."""

from ..blas import load_fast_blas

load_fast_blas()  # before anything below imports mlx

from ..data.training_log import FILE as LOG  # noqa: E402
from ..data.training_log import read_log  # noqa: E402
from .config import TrainingConfig, parse_value, read_config, training_config  # noqa: E402
from .monitor import RoutingMonitor  # noqa: E402
from .objective import Objective  # noqa: E402
from .run import train_adapter  # noqa: E402
from .settings import RoutingLoss, parse_routing_loss  # noqa: E402

__all__ = [
    "LOG",
    "Objective",
    "RoutingLoss",
    "RoutingMonitor",
    "TrainingConfig",
    "parse_routing_loss",
    "parse_value",
    "read_config",
    "read_log",
    "train_adapter",
    "training_config",
]
