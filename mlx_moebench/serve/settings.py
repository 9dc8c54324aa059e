"""What ``serve`` is told beside the flags of mlx-lm's server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ServeSettings:
    """window: seconds that "now" looks back. save_every: seconds between two saves. output: the stats pair.

    sequences: that are kept apart; later requests share them in turn. expert_series: how many series of single experts
    the metrics may have. allow_hosts: names under which browsers may reach the server, beside loopback and its own.
    last_tokens: of each request, whose choices the live page shows.
    """

    output: Path
    window: float = 60.0
    save_every: float = 60.0
    sequences: int = 1024
    expert_series: int = 0
    allow_hosts: tuple[str, ...] = ()
    last_tokens: int = 0
